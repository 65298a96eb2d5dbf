//! A real Dovecot.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use directory::{AuthFailure, BackendSettings, Directory, DovecotSettings};

use crate::client::{self, external, facts, is, login, plain, scram, tried};
use crate::peers::{Peer, is_root, listens_at, skipped, tree};
use crate::unpacked::{configuration, libraries};

const USERS: &str = "\
joe@example.org:{PLAIN}pencil::::::
ann@example.org:{PLAIN}pencil::::::send_as=ann@example.org,*@lists.example.org userdb_send_as=ann@example.org
off@example.org:{PLAIN}pencil::::::nologin
sales@example.org:{PLAIN}pencil::::::user=Joe@example.org messages_per_day=7
";

struct Dovecot {
    folder: tempfile::TempDir,
    tree: PathBuf,
    peer: Option<Peer>,
}

impl Dovecot {
    fn start() -> Option<Self> {
        let tree = tree("usr/sbin/dovecot")?;
        if !is_root() {
            skipped("Dovecot's master needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("a folder");
        fs::write(folder.path().join("users"), USERS).expect("a file");
        let mut dovecot = Self { folder, tree, peer: None };
        dovecot.run();
        Some(dovecot)
    }

    fn run(&mut self) {
        let folder = self.folder.path();
        fs::create_dir_all(folder.join("run")).expect("a folder");
        fs::write(folder.join("dovecot.conf"), configuration(folder, &self.tree)).expect("a file");
        // Unpacked, it does not find its `doveconf` by itself.
        let mut command = Command::new(self.tree.join("usr/bin/doveconf"));
        let config = folder.join("dovecot.conf");
        command.args(["-f", "service=master", "-c"]).arg(&config).args(["-m", "master", "-x", "-e"]);
        command.arg(self.tree.join("usr/sbin/dovecot")).args(["-F", "-c"]).arg(&config);
        command.env("LD_LIBRARY_PATH", libraries(&self.tree));
        let log = folder.join("out");
        let mut peer = Peer::start(command, &log);
        peer.wait(|| listens_at(&self.socket("auth-client")) && listens_at(&self.socket("auth-userdb")), &log);
        self.peer = Some(peer);
    }

    fn stop(&mut self) {
        self.peer = None;
        for socket in ["auth-client", "auth-userdb"] {
            let _ = fs::remove_file(self.socket(socket));
        }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    fn directory(&self) -> Directory {
        client::open(BackendSettings::Dovecot(DovecotSettings {
            socket: self.socket("auth-client"),
            users: Some(self.socket("auth-userdb")),
            timeout: Duration::from_secs(20),
        }))
    }
}

#[tokio::test]
async fn dovecot_says_whose_password_it_is() {
    let Some(dovecot) = Dovecot::start() else { return };
    let directory = dovecot.directory();
    assert_eq!(plain(&directory, "JOE@example.org", "pencil").await, is("joe@example.org"));
    assert_eq!(login(&directory, "joe@example.org", "pencil").await, is("joe@example.org"));
    assert_eq!(plain(&directory, "joe@example.org", "pencils").await, Err(AuthFailure::Credentials));
    assert_eq!(plain(&directory, "nobody@example.org", "pencil").await, Err(AuthFailure::Credentials));
    assert_eq!(plain(&directory, "off@example.org", "pencil").await, Err(AuthFailure::Disabled));
    let ann = plain(&directory, "ann@example.org", "pencil").await.expect("she is let in");
    assert_eq!(ann.1, "ann@example.org, *@lists.example.org");
    // It has said by now what it offers.
    assert_eq!(directory.mechanisms(&facts()), ["SCRAM-SHA-256", "PLAIN", "LOGIN"]);
    assert_eq!(scram(&directory, "joe@example.org", "pencil").await, is("joe@example.org"));
    assert_eq!(scram(&directory, "joe@example.org", "pencils").await, Err(AuthFailure::Credentials));
}

#[tokio::test]
async fn an_alias_is_the_account_that_dovecot_calls_it() {
    let Some(dovecot) = Dovecot::start() else { return };
    let directory = dovecot.directory();
    let sales = tried(&directory, "Sales@example.org", "pencil").await;
    let account = sales.admission().expect("it is let in").account.clone();
    assert_eq!(account.name, "joe@example.org");
    assert_eq!(account.limits.and_then(|limits| limits.messages_per_day), Some(7));
    // A wrong password is held against whom Dovecot names.
    let wrong = tried(&directory, "joe%example.org", "pencils").await;
    assert_eq!(wrong.tried(), Some("joe%example.org"));
    assert_eq!(wrong.counts_for(), Some("joe@example.org"));
}

#[tokio::test]
async fn dovecot_is_asked_for_accounts_that_prove_themselves_otherwise() {
    let Some(dovecot) = Dovecot::start() else { return };
    let directory = dovecot.directory();
    assert_eq!(external(&directory, "joe@example.org").await, is("joe@example.org"));
    assert_eq!(external(&directory, "gone@example.org").await, Err(AuthFailure::Credentials));
    let ann = directory.by_certificate("ann@example.org").await.expect("an answer").expect("she has an account");
    assert_eq!(ann.account.send_as.describe(), "ann@example.org");
}

#[tokio::test]
async fn a_dovecot_that_is_down_is_nobodys_fault_and_one_that_comes_back_is_used() {
    let Some(mut dovecot) = Dovecot::start() else { return };
    let directory = dovecot.directory();
    dovecot.stop();
    assert!(matches!(plain(&directory, "joe@example.org", "pencil").await, Err(AuthFailure::Unavailable(_))));
    assert!(matches!(external(&directory, "joe@example.org").await, Err(AuthFailure::Unavailable(_))));
    dovecot.run();
    assert_eq!(plain(&directory, "joe@example.org", "pencil").await, is("joe@example.org"));
}

#[tokio::test]
async fn a_dovecot_that_says_nothing_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("silent");
    let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
    let timeout = Duration::from_millis(50);
    let settings = DovecotSettings { socket, users: None, timeout };
    let directory = client::open(BackendSettings::Dovecot(settings));
    assert!(matches!(plain(&directory, "joe", "pencil").await, Err(AuthFailure::Unavailable(_))));
    drop(listener);
}
