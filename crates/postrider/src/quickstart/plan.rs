//! What will be written, decided before anything is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mail::Domain;
use nix::unistd::{User, geteuid};

use super::files::Owner;
use super::options::{Options, PORTS, STORE, absolute};
use crate::config::{Configuration, Pattern};
use crate::server::web_addresses;

/// The mail store's socket where Dovecot puts it.
const DOVECOT_LMTP: &str = "/run/dovecot/lmtp";

/// A new server, as it was asked for; or one that is there, as its configuration says.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's name.
    pub hostname: Domain,
    /// Whose mail a new server takes.
    pub domain: Domain,
    /// The domains whose records are told.
    pub domains: Vec<Domain>,
    /// The folder of the configuration.
    pub folder: PathBuf,
    /// The folder of the queue, and of the keys.
    pub store: PathBuf,
    /// The file of the accounts, unless a configuration that is there keeps them elsewhere, or has none.
    pub accounts: Option<PathBuf>,
    /// Where mail for the domain goes, if that is known.
    pub mailboxes: Option<String>,
    /// Whom a certificate authority may write to; then certificates come from Let's Encrypt.
    pub acme: Option<String>,
    /// Local addresses to listen on.
    pub listen: Vec<IpAddr>,
    /// The ports of `relay`, `submissions` and `submission`.
    pub ports: [u16; 3],
    /// Whom to become.
    pub user: Option<Unprivileged>,
}

/// What an earlier run, or somebody else, has left.
#[derive(Debug)]
pub struct There {
    /// The configuration.
    pub configuration: Configuration,
    /// The domains that it names in the comment for those who have no mail store yet.
    pub commented: Vec<Domain>,
}

/// The user of the server, and whether there is such a user.
#[derive(Clone, Debug)]
pub struct Unprivileged {
    /// Its name.
    pub name: String,
    /// What is made belongs to it.
    pub owner: Option<Owner>,
}

impl Plan {
    /// From the command line, completed by what is usual; a configuration that is there knows better.
    pub fn new(options: &Options, there: Option<&There>) -> Self {
        let domain = options.domain.clone().unwrap_or_else(|| parent(&options.hostname));
        let listen = match options.listen.is_empty() {
            true => usual_addresses(),
            false => options.listen.clone(),
        };
        let folder = absolute(&options.folder);
        let dovecot = Path::new(DOVECOT_LMTP).exists().then(|| format!("lmtp:{DOVECOT_LMTP}"));
        let mut plan = Self {
            hostname: options.hostname.clone(),
            domains: vec![domain.clone()],
            domain,
            store: absolute(&options.store),
            accounts: Some(folder.join("accounts.toml")),
            folder,
            mailboxes: options.mailboxes.as_ref().map(ToString::to_string).or(dovecot),
            acme: options.acme.clone(),
            listen,
            ports: options.ports(),
            user: geteuid().is_root().then(|| Unprivileged::find(&options.user)),
        };
        if let Some(There { configuration: there, commented }) = there {
            plan.domains = own_domains(there);
            if plan.domains.is_empty() {
                plan.domains = options.domain.clone().map_or_else(|| commented.clone(), |domain| vec![domain]);
            }
            plan.store.clone_from(&there.store.path);
            plan.accounts = there.accounts.as_ref().and_then(|accounts| accounts.file.clone());
            plan.user = there.user.as_deref().filter(|_| geteuid().is_root()).map(Unprivileged::find);
        }
        plan
    }

    /// The configuration's file.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("postrider.toml")
    }

    /// Who owns what is made.
    pub fn owner(&self) -> Option<Owner> {
        self.user.as_ref().and_then(|user| user.owner)
    }

    /// Who owns what root obeys: root alone, so that the server's user can read it and not change it.
    pub fn obeyed_owner(&self) -> Option<Owner> {
        self.owner().map(|owner| Owner { uid: 0, ..owner })
    }

    /// The text of the configuration: what a person would write, so that a person can go on with it.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Written by `postrider quickstart`; yours from here on. `postrider check` tells every mistake, and\n\
             # docs/configuration.md has all keys.\n\n\
             # The name of this server in the DNS, forward and back.\n\
             hostname = {}\n\n",
            quoted(self.hostname.as_str())
        );
        text.push_str(&self.domain_text());
        if let Some(user) = &self.user {
            text.push_str(&format!("# Who the server is once its ports are open.\nuser = {}\n\n", quoted(&user.name)));
        }
        for (name, comment) in [
            ("relay", "Mail from other servers."),
            ("submissions", "Mail from people and programs with an account, over TLS from the first octet."),
            ("submission", "The same for those that begin in clear and change to TLS by STARTTLS."),
        ] {
            let port = self.port(name);
            let addresses: Vec<String> =
                self.listen.iter().map(|ip| quoted(&SocketAddr::new(*ip, port).to_string())).collect();
            text.push_str(&format!(
                "# {comment}\n[[listener]]\nname = \"{name}\"\nrole = \"{name}\"\naddress = [{}]\n\n",
                addresses.join(", ")
            ));
        }
        text.push_str(
            "# Who may send to everybody: `postrider account add NAME`.\n[accounts]\nfile = \"accounts.toml\"\n\n",
        );
        text.push_str(&self.certificate_text());
        if let Some(mailboxes) = &self.mailboxes {
            text.push_str(&format!(
                "# Mail for the domain goes to the mail store, all other mail to the MX of its domain.\n\
                 [[route]]\ndomains = {}\nto = {}\n\n",
                quoted(self.domain.as_str()),
                quoted(mailboxes)
            ));
        }
        text.push_str(&format!("# The queue.\n[store]\npath = {}\n\n", quoted(&self.store.to_string_lossy())));
        text.push_str(&self.later_text());
        text
    }

    /// What waits until the certificate is settled, and mail for the domain comes.
    fn later_text(&self) -> String {
        let (domain, reports) = (quoted(self.domain.as_str()), quoted(&format!("tls-reports@{}", self.domain)));
        format!(
            "# Tell others to insist on our certificate (MTA-STS), once they trust it; it must be for mta-sts.{}, too.\n\
             # `postrider dns-records` prints what to publish.\n\
             # [mta_sts]\n# domains = [{domain}]\n# mode = \"testing\"\n\n\
             # Tell others how TLS with their servers went, and hear it of ours; `postrider tlsrpt` shows it.\n\
             # [tls_reports]\n# send = true\n# address = {reports}\n",
            self.domain
        )
    }

    fn domain_text(&self) -> String {
        let domain = quoted(self.domain.as_str());
        if self.mailboxes.is_some() {
            return format!("# Domains whose mail is accepted from everybody.\ndomains = [{domain}]\n\n");
        }
        format!(
            "# Domains whose mail is accepted from everybody. None yet: without a mail store it would have nowhere to go.\n\
             # Once there is one, say so here and in a route:\n\
             # domains = [{domain}]\n\
             # [[route]]\n# domains = {domain}\n# to = \"lmtp:{DOVECOT_LMTP}\"\n\n"
        )
    }

    fn certificate_text(&self) -> String {
        match &self.acme {
            Some(contact) => format!(
                "# Certificates from Let's Encrypt, renewed in time. Its terms of service apply.\n\
                 [acme]\ndirectory = \"letsencrypt\"\ncontact = [{}]\nnames = [{}]\n\n",
                quoted(contact),
                quoted(self.hostname.as_str())
            ),
            None => "# The certificate is one that was made here. Other servers take it; programs of people will warn of it. To\n\
                     # have one that they trust, name its files:\n\
                     # [[certificate]]\n# chain = \"/etc/postrider/fullchain.pem\"\n# key = \"/etc/postrider/privkey.pem\"\n\n"
                .to_owned(),
        }
    }

    fn port(&self, role: &str) -> u16 {
        let [relay, submissions, submission] = self.ports;
        match role {
            "relay" => relay,
            "submissions" => submissions,
            _ => submission,
        }
    }
}

impl Unprivileged {
    fn find(name: &str) -> Self {
        let found = User::from_name(name).ok().flatten();
        let owner = found.map(|user| Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        Self { name: name.to_owned(), owner }
    }
}

/// `mail.example.org` serves `example.org`; a name of two labels serves itself.
fn parent(hostname: &Domain) -> Domain {
    let above = hostname.as_str().split_once('.').map(|(_, above)| above).filter(|above| above.contains('.'));
    above.and_then(|above| Domain::parse(above).ok()).unwrap_or_else(|| hostname.clone())
}

/// All addresses of both families, or of the one that this machine speaks.
fn usual_addresses() -> Vec<IpAddr> {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let speaks = |ip: &IpAddr| std::net::UdpSocket::bind(SocketAddr::new(*ip, 0)).is_ok();
    all.into_iter().filter(speaks).collect()
}

/// All sockets that the server will listen on.
pub fn sockets(configuration: &Configuration) -> Vec<SocketAddr> {
    let mail = configuration.listeners().into_iter().flat_map(|listener| listener.address.0);
    let web = web_addresses(configuration).into_iter().map(|(address, _)| address);
    mail.map(|address| address.0).chain(web).collect()
}

/// What the command line says and the configuration that is there does not.
pub fn unheeded(options: &Options, there: &Configuration) -> Vec<&'static str> {
    let own = own_domains(there);
    let sockets = sockets(there);
    let listens = |ip: &IpAddr| sockets.iter().any(|socket| socket.ip() == *ip);
    let has = |port: &u16| sockets.iter().any(|socket| socket.port() == *port);
    let is_route = |mailboxes| there.route.iter().any(|route| route.to.0.contains(mailboxes));
    let said = [
        ("--domain", !own.is_empty() && options.domain.as_ref().is_some_and(|domain| !own.contains(domain))),
        ("--mailboxes", options.mailboxes.as_ref().is_some_and(|mailboxes| !is_route(mailboxes))),
        ("--acme", options.acme.is_some() && there.acme.names.is_empty()),
        ("--store", options.store != Path::new(STORE) && absolute(&options.store) != there.store.path),
        ("--listen", !options.listen.iter().all(listens)),
        ("the ports", options.ports() != PORTS && !options.ports().iter().all(has)),
    ];
    said.into_iter().filter(|(_, is)| *is).map(|(option, _)| option).collect()
}

/// The domains that the text of a configuration names in a comment, as [`Plan::text`] does.
pub fn commented_domains(text: &str) -> Vec<Domain> {
    let line = text.lines().find_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with("domains = ")));
    let table: toml::Table = line.and_then(|line| toml::from_str(line).ok()).unwrap_or_default();
    let names = table.get("domains").and_then(|domains| domains.as_array()).into_iter().flatten();
    names.filter_map(|name| Domain::parse(name.as_str()?).ok()).collect()
}

/// The domains that the configuration names one by one.
fn own_domains(configuration: &Configuration) -> Vec<Domain> {
    let named = configuration.domains.iter().filter_map(|pattern| match pattern {
        Pattern::Exact(domain) => Some(domain.clone()),
        Pattern::Below(_) | Pattern::Any => None,
    });
    named.collect()
}

/// A TOML string; JSON's escapes are TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(line: &str) -> Plan {
        let cli = Cli::parse_from(format!("postrider quickstart {line}").split(' '));
        let Command::Quickstart(options) = cli.command else { panic!("not quickstart") };
        Plan { user: Some(Unprivileged { name: "postrider".into(), owner: None }), ..Plan::new(&options, None) }
    }

    #[test]
    fn the_domain_is_that_above_the_host() {
        assert_eq!(plan("mail.example.org").domain.as_str(), "example.org");
        assert_eq!(plan("example.org").domain.as_str(), "example.org");
        assert_eq!(plan("mail.example.org --domain other.example").domain.as_str(), "other.example");
    }

    #[test]
    fn what_is_written_is_a_configuration_without_a_warning() {
        for line in [
            "mail.example.org --mailboxes lmtp:/run/dovecot/lmtp",
            "mail.example.org --mailboxes lmtp:/run/dovecot/lmtp --acme postmaster@example.org",
            "mail.example.org --listen 127.0.0.1 --relay-port 2525 --submissions-port 2465 --submission-port 2587",
        ] {
            let text = plan(line).text();
            let loaded = crate::config::load_text("quickstart", &text);
            let loaded = loaded.unwrap_or_else(|problems| panic!("{line}: {text}\n{}", problems.render(false)));
            assert_eq!(loaded.warnings.len(), 0, "{text}\n{}", loaded.warnings.render(false));
        }
    }

    #[test]
    fn what_waits_in_comments_is_right_once_it_is_taken_out_of_them() {
        let text = plan("mail.example.org --mailboxes lmtp:/run/dovecot/lmtp").text();
        let (now, later) = text.split_at(text.find("# [mta_sts]").unwrap());
        let open = |line: &str| {
            line.strip_prefix("# ").filter(|line| line.starts_with('[') || line.contains(" = ")).map(str::to_owned)
        };
        let later: Vec<String> = later.lines().map(|line| open(line).unwrap_or_else(|| line.to_owned())).collect();
        let loaded = crate::config::load_text("quickstart", &format!("{now}{}", later.join("\n")));
        let loaded = loaded.unwrap_or_else(|problems| panic!("{later:?}\n{}", problems.render(false)));
        assert_eq!(loaded.warnings.len(), 0, "{}", loaded.warnings.render(false));
        let configuration = loaded.configuration;
        assert_eq!(configuration.mta_sts.domains.len(), 1);
        assert!(configuration.tls_reports.send && configuration.tls_reports.address.is_some());
    }

    #[test]
    fn the_domain_of_a_server_without_a_mail_store_is_known_again() {
        let plan = Plan { mailboxes: None, ..plan("mail.example.org --domain other.example") };
        assert_eq!(commented_domains(&plan.text()), plan.domains);
        assert!(commented_domains("hostname = \"x\"\n# domains = some\n").is_empty());
    }

    #[test]
    fn a_configuration_that_is_there_knows_better_than_the_command_line() {
        let there = "hostname = \"mail.example.org\"\ndomains = [\"other.example\", \"third.example\"]\n\
                     [store]\npath = \"/elsewhere\"\n[accounts]\nfile = \"/people.toml\"\n\
                     [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:2525\"\n[[route]]\ndomains = \"*\"\nto = \"lmtp:/x\"\n";
        let there = crate::config::load_text("there", there).unwrap().configuration;
        let parsed = |line: &str| {
            let cli = Cli::parse_from(format!("postrider quickstart mail.example.org {line}").split_whitespace());
            let Command::Quickstart(options) = cli.command else { panic!("not quickstart") };
            options
        };
        let there = There { configuration: there, commented: Vec::new() };
        let plan = Plan::new(&parsed(""), Some(&there));
        let there = there.configuration;
        assert_eq!(plan.domains, own_domains(&there));
        assert_eq!((plan.store, plan.accounts), ("/elsewhere".into(), Some("/people.toml".into())));
        assert!(plan.user.is_none());
        assert_eq!(sockets(&there), ["127.0.0.1:2525".parse().unwrap()]);
        assert!(unheeded(&parsed(""), &there).is_empty());
        let line =
            "--domain new.example --mailboxes lmtp:/y --acme a@b.example --store /var/new --listen ::1 --relay-port 26";
        let told = unheeded(&parsed(line), &there);
        assert_eq!(told, ["--domain", "--mailboxes", "--acme", "--store", "--listen", "the ports"]);
        let same = "--domain third.example --mailboxes lmtp:/x --store /elsewhere";
        assert!(unheeded(&parsed(same), &there).is_empty());
    }
}
