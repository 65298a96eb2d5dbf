//! A real OpenLDAP server.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use directory::{AccountLimits, AuthFailure, BackendSettings, Directory, LdapFind, LdapSettings, Limit, Password};

use crate::client::{self, external, facts, is, login, plain, tried};
use crate::peers::{self, Peer, certificates, free_port, listens, tree};
use crate::unpacked::libraries;

const ENTRIES: &str = "\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=mta,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: mta
userPassword: mtapw

dn: uid=joe,dc=example,dc=org
objectClass: inetOrgPerson
uid: joe
cn: Joe
sn: Doe
mail: joe@example.org
mail: doe@example.org
mail: *@example.org
employeeNumber: 7
carLicense: many
userPassword: pencil

dn: uid=ann,dc=example,dc=org
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Other
mail: ann@example.org
userPassword: other

dn: uid=twin,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin
cn: Twin
sn: Twin
mail: ann2@example.org
mail: twin@example.org
userPassword: other

dn: uid=twin2,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin2
cn: Twin
sn: Twin
mail: twin@example.org
userPassword: other
";

struct Slapd {
    folder: tempfile::TempDir,
    tree: PathBuf,
    port: u16,
    tls_port: u16,
    peer: Option<Peer>,
}

impl Slapd {
    fn start() -> Option<Self> {
        let tree = tree("usr/sbin/slapd")?;
        let folder = tempfile::tempdir().expect("a folder");
        certificates(folder.path());
        fs::create_dir_all(folder.path().join("db")).expect("a folder");
        fs::write(folder.path().join("entries.ldif"), ENTRIES).expect("a file");
        let mut slapd = Self { folder, tree, port: free_port(), tls_port: free_port(), peer: None };
        fs::write(slapd.path("slapd.conf"), slapd.configuration()).expect("a file");
        let mut add = slapd.command(&["-T", "add", "-q", "-l"]);
        let added =
            add.arg(slapd.path("entries.ldif")).arg("-f").arg(slapd.path("slapd.conf")).output().expect("it runs");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        slapd.run();
        Some(slapd)
    }

    fn run(&mut self) {
        let urls = format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.port, self.tls_port);
        let mut command = self.command(&["-h", &urls, "-d", "0", "-f"]);
        command.arg(self.path("slapd.conf"));
        let log = self.path("log");
        let mut peer = Peer::start(command, &log);
        let address = ([127, 0, 0, 1], self.tls_port).into();
        peer.wait(|| listens(address), &log);
        self.peer = Some(peer);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.tree.join("usr/sbin/slapd"));
        command.args(arguments).env("LD_LIBRARY_PATH", libraries(&self.tree));
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self) -> String {
        let (tree, folder) = (self.tree.display(), self.folder.path().display());
        let schema = |name: &str| format!("include {tree}/etc/ldap/schema/{name}.schema\n");
        format!(
            "{}{}{}pidfile {folder}/pid\nmodulepath {tree}/usr/lib/ldap\nmoduleload back_mdb\n\
             TLSCACertificateFile {folder}/ca.pem\nTLSCertificateFile {folder}/cert.pem\nTLSCertificateKeyFile {folder}/key.pem\n\
             database mdb\nsuffix \"dc=example,dc=org\"\nrootdn \"cn=admin,dc=example,dc=org\"\ndirectory {folder}/db\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"cn=mta,dc=example,dc=org\" read by self read by anonymous auth\n",
            schema("core"),
            schema("cosine"),
            schema("inetorgperson")
        )
    }

    /// Search, then bind, in the clear.
    fn settings(&self) -> LdapSettings {
        LdapSettings {
            url: format!("ldap://127.0.0.1:{}", self.port),
            starttls: false,
            authorities: Some(self.path("ca.pem")),
            bind: Some(("cn=mta,dc=example,dc=org".to_owned(), Password::new("mtapw").expect("a password"))),
            find: LdapFind::Search {
                base: "dc=example,dc=org".to_owned(),
                filter: "(&(objectClass=inetOrgPerson)(|(uid={name})(mail={name})))".to_owned(),
            },
            name: "uid".to_owned(),
            addresses: vec!["mail".to_owned()],
            patterns: false,
            limits: BTreeMap::new(),
            timeout: Duration::from_secs(20),
        }
    }
}

fn open(settings: LdapSettings) -> Directory {
    client::open(BackendSettings::Ldap(settings))
}

/// By whatever name he comes.
fn joe() -> client::Outcome {
    Ok(("joe".to_owned(), "joe@example.org, doe@example.org".to_owned()))
}

#[tokio::test]
async fn an_entry_that_is_found_proves_itself_by_a_bind() {
    let Some(slapd) = Slapd::start() else { return };
    let directory = open(slapd.settings());
    assert_eq!(directory.mechanisms(&facts()), ["PLAIN", "LOGIN"]);
    assert_eq!(plain(&directory, "Joe", "pencil").await, joe());
    assert_eq!(login(&directory, "joe@example.org", "pencil").await, joe());
    assert_eq!(plain(&directory, "ann", "other").await, Ok(("ann".into(), "ann@example.org".into())));
    for (name, password) in
        [("joe", "other"), ("nobody", "pencil"), ("*", "pencil"), ("joe)(uid=*", "pencil"), ("mta", "mtapw")]
    {
        assert_eq!(plain(&directory, name, password).await, Err(AuthFailure::Credentials), "{name}");
    }
    // Two entries: nobody can say whose password it would be.
    assert!(matches!(plain(&directory, "twin@example.org", "other").await, Err(AuthFailure::Unavailable(_))));
    assert_eq!(external(&directory, "doe@example.org").await, joe());
    assert_eq!(external(&directory, "gone").await, Err(AuthFailure::Credentials));
}

#[tokio::test]
async fn an_account_has_one_name_whatever_it_is_called() {
    let Some(slapd) = Slapd::start() else { return };
    let directory = open(slapd.settings());
    let exchange = tried(&directory, "joe@example.org", "pencil").await;
    let admission = exchange.admission().expect("he is let in");
    assert_eq!(directory.still(admission).await.expect("he still is").name, "joe");
    for name in ["joe", "Doe@example.org"] {
        assert_eq!(tried(&directory, name, "wrong").await.counts_for(), Some("joe"), "{name}");
    }
    let named = |name: &str| open(LdapSettings { name: name.to_owned(), ..slapd.settings() });
    let name = async |directory: Directory| plain(&directory, "joe", "pencil").await.map(|(name, _)| name);
    assert_eq!(name(named("title")).await, Ok("uid=joe,dc=example,dc=org".into()), "without the attribute");
    assert_eq!(name(named("mail")).await, Ok("*@example.org".into()), "always the same of several");
    // It sends as its name, if that is an address, only where no attribute says what it sends as.
    let unsaid = |name: &str| LdapSettings { name: name.to_owned(), addresses: Vec::new(), ..slapd.settings() };
    assert_eq!(plain(&open(unsaid("uid")), "ann@example.org", "other").await, Ok(("ann".into(), "no address".into())));
    assert_eq!(plain(&open(unsaid("mail")), "ann", "other").await, is("ann@example.org"));
    let nowhere = LdapSettings { addresses: vec!["title".to_owned()], name: "mail".to_owned(), ..slapd.settings() };
    assert_eq!(plain(&open(nowhere), "ann", "other").await, Ok(("ann@example.org".into(), "no address".into())));
}

#[tokio::test]
async fn patterns_count_only_where_the_operator_says_so_and_limits_are_numbers() {
    let Some(slapd) = Slapd::start() else { return };
    let limits = BTreeMap::from([
        (Limit::MessagesPerDay, "employeenumber".to_owned()),
        (Limit::MessagesPerHour, "carLicense".to_owned()),
        (Limit::RecipientsPerDay, "title".to_owned()),
    ]);
    let directory = open(LdapSettings { patterns: true, limits, ..slapd.settings() });
    let exchange = tried(&directory, "joe", "pencil").await;
    let account = &exchange.admission().expect("he is let in").account;
    assert_eq!(account.send_as.describe(), "joe@example.org, doe@example.org, *@example.org");
    assert_eq!(account.limits, Some(AccountLimits { messages_per_day: Some(7), ..Default::default() }));
}

#[tokio::test]
async fn an_entry_may_be_named_by_a_template() {
    let Some(slapd) = Slapd::start() else { return };
    let find = LdapFind::Template("uid={local},dc=example,dc=org".to_owned());
    let directory = open(LdapSettings { find, bind: None, ..slapd.settings() });
    for name in ["joe", "joe@example.org", "JOE@elsewhere.test"] {
        assert_eq!(plain(&directory, name, "pencil").await, joe(), "{name}");
        assert_eq!(tried(&directory, name, "wrong").await.counts_for(), Some("uid=joe,dc=example,dc=org"));
    }
    for (name, password) in [("joe", "other"), ("nobody", "pencil"), ("joe,dc=example", "pencil")] {
        assert_eq!(plain(&directory, name, password).await, Err(AuthFailure::Credentials), "{name}");
    }
}

#[tokio::test]
async fn tls_is_verified() {
    let Some(slapd) = Slapd::start() else { return };
    let ldaps = LdapSettings { url: format!("ldaps://localhost:{}", slapd.tls_port), ..slapd.settings() };
    assert_eq!(plain(&open(ldaps.clone()), "joe", "pencil").await, joe());
    let starttls = LdapSettings { url: format!("ldap://localhost:{}", slapd.port), starttls: true, ..slapd.settings() };
    assert_eq!(plain(&open(starttls.clone()), "joe", "pencil").await, joe());
    let elsewhere = tempfile::tempdir().expect("a folder");
    certificates(elsewhere.path());
    for settings in [ldaps, starttls] {
        let stranger = LdapSettings { authorities: Some(elsewhere.path().join("ca.pem")), ..settings };
        assert!(matches!(plain(&open(stranger), "joe", "pencil").await, Err(AuthFailure::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_nobodys_fault_and_one_that_comes_back_is_used() {
    let Some(mut slapd) = Slapd::start() else { return };
    let directory = open(slapd.settings());
    assert_eq!(plain(&directory, "joe", "pencil").await, joe());
    slapd.peer = None;
    let address = ([127, 0, 0, 1], slapd.port).into();
    assert!(!peers::listens(address));
    assert!(matches!(plain(&directory, "joe", "pencil").await, Err(AuthFailure::Unavailable(_))));
    slapd.run();
    assert_eq!(plain(&directory, "joe", "pencil").await, joe());
    let wrong = Password::new("wrong").expect("a password");
    let refused = LdapSettings { bind: Some(("cn=mta,dc=example,dc=org".into(), wrong)), ..slapd.settings() };
    assert!(matches!(plain(&open(refused), "joe", "pencil").await, Err(AuthFailure::Unavailable(_))));
}
