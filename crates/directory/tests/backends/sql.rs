//! SQLite, which is built in, and a real PostgreSQL.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use directory::{AccountLimits, AuthFailure, BackendSettings, Database, Directory, Password, SqlSettings};

use crate::client::{self, external, facts, is, login, plain, scram, tried};
use crate::peers::{Peer, certificates, free_port, is_root, listens, skipped};
use crate::unpacked::libraries;

/// `pencil`, as PostgreSQL would keep it.
const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
const QUERY: &str = "SELECT hash, scram, addresses, disabled FROM people WHERE name = $1";

/// `pencil`, by argon2.
fn hash() -> String {
    argon2::Argon2::default().hash_password(b"pencil").expect("a hash").to_string()
}

fn people() -> Vec<String> {
    let row = |name: &str, hash: &str, scram: &str, addresses: &str, disabled: u8| {
        let text = |text: &str| if text.is_empty() { "NULL".to_owned() } else { format!("'{text}'") };
        let (hash, scram, addresses) = (text(hash), text(scram), text(addresses));
        format!("INSERT INTO people VALUES ('{name}', {hash}, {scram}, {addresses}, {disabled}::bool)")
    };
    vec![
        row("joe@example.org", &hash(), SCRAM, "", 0),
        row("ann@example.org", "", SCRAM, "ann@example.org, *@lists.example.org", 0),
        row("off@example.org", &hash(), SCRAM, "", 1),
        row("odd@example.org", "$2y$10$bcrypt", "", "", 0),
    ]
}

/// What every data base must answer.
async fn judged(directory: &Directory) {
    assert_eq!(directory.mechanisms(&facts()), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"]);
    assert_eq!(plain(directory, "Joe@example.org", "pencil").await, is("joe@example.org"));
    assert_eq!(login(directory, "joe@example.org", "pencil").await, is("joe@example.org"));
    assert_eq!(scram(directory, "joe@example.org", "pencil").await, is("joe@example.org"));
    let ann = Ok(("ann@example.org".to_owned(), "ann@example.org, *@lists.example.org".to_owned()));
    assert_eq!(plain(directory, "ann@example.org", "pencil").await, ann, "by the verifier");
    assert_eq!(scram(directory, "ann@example.org", "pencil").await, ann);
    for (name, password) in
        [("joe@example.org", "pencils"), ("nobody", "pencil"), ("' OR '1'='1", "pencil"), ("off@example.org", "x")]
    {
        assert_eq!(plain(directory, name, password).await, Err(AuthFailure::Credentials), "{name}");
        assert_eq!(scram(directory, name, password).await, Err(AuthFailure::Credentials), "{name}");
    }
    assert_eq!(plain(directory, "off@example.org", "pencil").await, Err(AuthFailure::Disabled));
    assert_eq!(external(directory, "off@example.org").await, Err(AuthFailure::Disabled));
    assert_eq!(external(directory, "joe@example.org").await, is("joe@example.org"));
    assert!(matches!(plain(directory, "odd@example.org", "x").await, Err(AuthFailure::Unavailable(_))));
}

/// One name of several, and limits of its own.
const ALIASES: &str = "SELECT hash, scram, limits.name, messages_per_day, recipients_per_hour \
    FROM limits LEFT JOIN people ON people.name = limits.name WHERE limits.name = $1 OR alias = $1";

/// What every data base must answer that knows accounts by several names.
async fn aliases(directory: &Directory) {
    for name in ["joe", "JOE@example.org"] {
        let exchange = tried(directory, name, "pencil").await;
        let account = &exchange.admission().expect("it is let in").account;
        assert_eq!(
            (account.name.as_str(), account.send_as.describe().as_str()),
            ("joe@example.org", "joe@example.org")
        );
        assert_eq!(account.limits, Some(AccountLimits { messages_per_day: Some(7), ..Default::default() }));
        assert_eq!(tried(directory, name, "wrong").await.counts_for(), Some("joe@example.org"), "{name}");
        assert!(directory.still(exchange.admission().expect("it is in")).await.is_ok());
    }
    assert_eq!(scram(directory, "joe", "pencil").await, is("joe@example.org"));
    assert_eq!(external(directory, "joe").await, is("joe@example.org"));
    // What cannot be a limit or a name is the operator's to mend, and lets nobody in without it.
    for broken in ["ann", "odd"] {
        assert!(matches!(plain(directory, broken, "pencil").await, Err(AuthFailure::Unavailable(_))), "{broken}");
    }
}

fn sqlite(path: PathBuf, query: &str) -> Directory {
    let timeout = Duration::from_secs(20);
    client::open(BackendSettings::Sql(SqlSettings {
        database: Database::Sqlite(path),
        query: query.to_owned(),
        timeout,
    }))
}

#[tokio::test]
async fn accounts_in_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("people.db");
    let unavailable = |outcome: client::Outcome| matches!(outcome, Err(AuthFailure::Unavailable(_)));
    assert!(unavailable(plain(&sqlite(path.clone(), QUERY), "joe@example.org", "pencil").await), "there is no file");
    assert!(!path.exists(), "it is only read");
    let connection = rusqlite::Connection::open(&path).expect("a data base");
    connection
        .execute_batch("CREATE TABLE people (name TEXT, hash TEXT, scram TEXT, addresses TEXT, disabled)")
        .expect("a table");
    for person in people() {
        connection.execute(&person.replace("::bool", ""), []).expect("a row");
    }
    judged(&sqlite(path.clone(), QUERY)).await;
    for wrong in ["SELECT", "SELECT hash FROM people", "SELECT hash FROM people WHERE name LIKE '%' OR name = $1"] {
        assert!(unavailable(plain(&sqlite(path.clone(), wrong), "joe@example.org", "pencil").await), "{wrong}");
    }
    connection
        .execute_batch(
            "CREATE TABLE limits (name TEXT, alias TEXT, messages_per_day INT, recipients_per_hour INT);
             INSERT INTO limits VALUES ('joe@example.org', 'joe', 7, NULL), ('ann@example.org', 'ann', -1, NULL),
                 ('a' || char(10) || 'b', 'odd', NULL, NULL);",
        )
        .expect("a table");
    aliases(&sqlite(path.clone(), ALIASES)).await;
    let plain_only = sqlite(path, "SELECT hash, disabled FROM people WHERE name = $1");
    assert_eq!(plain_only.mechanisms(&facts()), ["PLAIN", "LOGIN"], "without verifiers there is no SCRAM");
}

struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    peer: Option<Peer>,
}

/// Whom PostgreSQL runs as: it refuses to be root.
const NOBODY: u32 = 65534;

impl Postgres {
    fn start() -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::tempdir().expect("a folder");
        certificates(folder.path());
        fs::write(folder.path().join("password"), "adminpw\n").expect("a file");
        let key = folder.path().join("key.pem");
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a key");
        if is_root() {
            for name in ["", "key.pem", "cert.pem", "ca.pem", "password"] {
                chown(folder.path().join(name), Some(NOBODY), Some(NOBODY)).expect("an owner");
            }
        }
        let mut postgres = Self { folder, programs, port: free_port(), peer: None };
        let mut init = postgres.command("initdb");
        init.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "-U", "admin", "--pwfile"]);
        let made = match init.arg(postgres.path("password")).arg("-D").arg(postgres.path("data")).output() {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                skipped("PostgreSQL must not run as root, and nobody else may run it where it is unpacked");
                return None;
            }
            made => made.expect("it runs"),
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres.run();
        Some(postgres)
    }

    fn run(&mut self) {
        let (port, folder) = (self.port, self.folder.path().display().to_string());
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.path("data")).args(["-p", &port.to_string(), "-k", &folder, "-F"]);
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={folder}/cert.pem"),
            format!("ssl_key_file={folder}/key.pem"),
        ] {
            command.args(["-c", &setting]);
        }
        let log = self.path("log");
        let mut peer = Peer::start(command, &log).stopped_by("-INT");
        peer.wait(|| listens(([127, 0, 0, 1], port).into()), &log);
        self.peer = Some(peer);
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .current_dir(self.folder.path())
            .env("LD_LIBRARY_PATH", libraries(&self.programs.join("../../../../..")));
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn directory(&self, options: &str, authorities: &Path) -> Directory {
        self.asked(options, authorities, QUERY)
    }

    fn directory_of(&self, query: &str) -> Directory {
        self.asked("", &self.path("ca.pem"), query)
    }

    fn asked(&self, options: &str, authorities: &Path, query: &str) -> Directory {
        let database = Database::Postgres {
            url: format!("postgresql://admin@localhost:{}/postgres{options}", self.port),
            password: Some(Password::new("adminpw").expect("a password")),
            authorities: Some(authorities.to_owned()),
        };
        let timeout = Duration::from_secs(20);
        client::open(BackendSettings::Sql(SqlSettings { database, query: query.to_owned(), timeout }))
    }

    /// It may take a moment more to be ready than to listen.
    async fn connect(&self) -> tokio_postgres::Client {
        let text = format!(
            "host={} port={} user=admin password=adminpw dbname=postgres",
            self.folder.path().display(),
            self.port
        );
        for _ in 0..200 {
            if let Ok((client, connection)) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("PostgreSQL does not become ready: {}", fs::read_to_string(self.path("log")).unwrap_or_default());
    }
}

/// The folder of the newest PostgreSQL there is.
fn programs() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/accounts/usr/lib/postgresql");
    let unpacked = std::env::var_os("POSTRIDER_TEST_ACCOUNTS")
        .map_or(unpacked, |tree| Path::new(&tree).join("usr/lib/postgresql"));
    let versions =
        [PathBuf::from("/usr/lib/postgresql"), unpacked].into_iter().filter_map(|folder| fs::read_dir(folder).ok());
    let mut found: Vec<PathBuf> = versions.flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.retain(|folder| folder.join("initdb").is_file());
    found.sort();
    let newest = found.pop();
    if newest.is_none() {
        skipped("PostgreSQL is not installed");
    }
    newest
}

#[tokio::test]
async fn accounts_in_postgresql() {
    let Some(mut postgres) = Postgres::start() else { return };
    let admin = postgres.connect().await;
    admin
        .batch_execute("CREATE TABLE people (name text, hash text, scram varchar, addresses text, disabled bool)")
        .await
        .expect("a table");
    for person in people() {
        admin.batch_execute(&person.replace("0::bool", "false").replace("1::bool", "true")).await.expect("a row");
    }
    let directory = postgres.directory("?sslmode=require", &postgres.path("ca.pem"));
    judged(&directory).await;
    admin
        .batch_execute("ALTER TABLE people ALTER addresses TYPE text[] USING regexp_split_to_array(addresses, ', *')")
        .await
        .expect("a list");
    let listed = postgres.directory("", &postgres.path("ca.pem"));
    assert_eq!(
        plain(&listed, "ann@example.org", "pencil").await.map(|ann| ann.1),
        Ok("ann@example.org, *@lists.example.org".into())
    );

    admin
        .batch_execute(
            "CREATE TABLE limits (name text, alias text, messages_per_day int2, recipients_per_hour int8);
             INSERT INTO limits VALUES ('joe@example.org', 'joe', 7, NULL), ('ann@example.org', 'ann', -1, NULL),
                 (E'a\nb', 'odd', NULL, NULL)",
        )
        .await
        .expect("a table");
    aliases(&postgres.directory_of(ALIASES)).await;

    let elsewhere = tempfile::tempdir().expect("a folder");
    certificates(elsewhere.path());
    let stranger = postgres.directory("?sslmode=require", &elsewhere.path().join("ca.pem"));
    assert!(matches!(plain(&stranger, "joe@example.org", "pencil").await, Err(AuthFailure::Unavailable(_))));

    drop(admin);
    postgres.peer = None;
    assert!(matches!(plain(&directory, "joe@example.org", "pencil").await, Err(AuthFailure::Unavailable(_))));
    postgres.run();
    drop(postgres.connect().await);
    assert_eq!(plain(&directory, "joe@example.org", "pencil").await, is("joe@example.org"));
}
