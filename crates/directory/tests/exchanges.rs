//! Exchanges against accounts in a file, as a listener would drive them.

use std::path::Path;

use directory::file::AccountsFile;
use directory::{
    AuthFailure, BackendSettings, CertificateAccount, ChannelFacts, Directory, Exchange, Metrics, Password, Secret,
    SendAs, Settings, Step,
};
use mail::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_795_253_400_000);

fn facts() -> ChannelFacts {
    ChannelFacts { peer: "192.0.2.1:4711".parse().unwrap(), tls: true, tls_exporter: Some([7; 32]), certificate: None }
}

/// `joe@example.org` with the password `pencil`; returns the app password of his phone.
fn make(path: &Path) -> Password {
    let mut file = AccountsFile::open(path).unwrap();
    file.add("joe@example.org", None, Some(&Password::new("pencil").unwrap()), NOW).unwrap();
    let phone = file.add_app_password("joe@example.org", "phone", NOW).unwrap();
    let rules = SendAs::parse(["*@lists.example.org"]).unwrap();
    file.add("robot", Some(rules), Some(&Password::new("oil").unwrap()), NOW).unwrap();
    file.save(None).unwrap();
    phone
}

fn open(path: &Path) -> Directory {
    let directory = Directory::new(Metrics::default());
    let settings = Settings::new(BackendSettings::File(path.to_owned()), Secret::random());
    directory.configure(Some(settings)).unwrap();
    directory
}

struct House {
    directory: Directory,
    phone: Password,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.toml");
    let phone = make(&path);
    House { directory: open(&path), phone, path, _folder: folder }
}

async fn plain(directory: &Directory, message: &str) -> Step {
    directory.begin("plain", facts()).unwrap().step(Some(message.as_bytes())).await
}

fn name(step: Step) -> Result<String, AuthFailure> {
    match step {
        Step::Done { account, .. } => Ok(account.name.clone()),
        Step::Failed(failure) => Err(failure),
        Step::Challenge(text) => panic!("still asked: {}", String::from_utf8_lossy(&text)),
    }
}

async fn login(directory: &Directory, user: &str, password: &str) -> Step {
    let mut exchange = directory.begin("LOGIN", facts()).unwrap();
    assert_eq!(exchange.step(None).await, Step::Challenge(b"Username:".to_vec()));
    assert_eq!(exchange.step(Some(user.as_bytes())).await, Step::Challenge(b"Password:".to_vec()));
    assert!(exchange.tried().is_some());
    exchange.step(Some(password.as_bytes())).await
}

#[tokio::test]
async fn plain_lets_in_who_knows_the_password() {
    let house = house();
    let (joe, failed) = (Ok("joe@example.org".to_owned()), Err(AuthFailure::Credentials));
    for (message, result) in [
        ("\0joe@example.org\0pencil", joe.clone()),
        ("\0JOE@Example.org\0pencil", joe.clone()),
        ("joe@example.org\0joe@example.org\0pencil", joe.clone()),
        (&format!("\0joe@example.org\0{}", house.phone.reveal()), joe),
        ("robot\0joe@example.org\0pencil", failed.clone()),
        ("\0joe@example.org\0pencils", failed.clone()),
        ("\0nobody@example.org\0pencil", failed),
        ("joe@example.org\0pencil", Err(AuthFailure::Malformed)),
    ] {
        assert_eq!(name(plain(&house.directory, message).await), result, "{message:?}");
    }
}

#[tokio::test]
async fn a_mechanism_without_an_initial_response_asks_first() {
    let house = house();
    let mut exchange = house.directory.begin("PLAIN", facts()).unwrap();
    assert_eq!(exchange.step(None).await, Step::Challenge(Vec::new()));
    assert_eq!(name(exchange.step(Some(b"\0robot\0oil")).await), Ok("robot".into()));
    assert_eq!(exchange.tried(), Some("robot"));
    assert_eq!(exchange.step(Some(b"\0robot\0oil")).await, Step::Failed(AuthFailure::Malformed), "it is over");
    assert_eq!(name(login(&house.directory, "robot", "oil").await), Ok("robot".into()));
    assert_eq!(name(login(&house.directory, "robot", "").await), Err(AuthFailure::Credentials));
}

#[tokio::test]
async fn what_an_account_may_not_do_is_told_only_to_who_knows_its_password() {
    let house = house();
    let change = |change: &dyn Fn(&mut directory::file::Entry)| {
        let mut file = AccountsFile::open(&house.path).unwrap();
        change(file.change("joe@example.org").unwrap());
        file.save(None).unwrap();
    };
    change(&|joe| joe.app_passwords_only = true);
    assert_eq!(name(plain(&house.directory, "\0joe@example.org\0pencil").await), Err(AuthFailure::MustUpgrade));
    let by_phone = format!("\0joe@example.org\0{}", house.phone.reveal());
    assert!(name(plain(&house.directory, &by_phone).await).is_ok());
    change(&|joe| joe.disabled = true);
    assert_eq!(name(plain(&house.directory, &by_phone).await), Err(AuthFailure::Disabled));
    assert_eq!(name(plain(&house.directory, "\0joe@example.org\0x").await), Err(AuthFailure::Credentials));
    assert_eq!(house.directory.account("joe@example.org").await, Ok(None));
    assert_eq!(house.directory.account("ROBOT").await.unwrap().unwrap().send_as.describe(), "*@lists.example.org");
}

#[tokio::test]
async fn mechanisms_are_offered_where_they_can_be_used() {
    let house = house();
    let offered = |facts: &ChannelFacts| house.directory.mechanisms(facts).join(" ");
    assert_eq!(offered(&facts()), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    assert_eq!(offered(&ChannelFacts { tls: false, ..facts() }), "");
    let certificate = Some(CertificateAccount { account: "Robot".into() });
    let with_certificate = ChannelFacts { tls_exporter: None, certificate, ..facts() };
    assert_eq!(offered(&with_certificate), "SCRAM-SHA-256 EXTERNAL PLAIN LOGIN");
    assert!(house.directory.begin("PLAIN", ChannelFacts { tls: false, ..facts() }).is_err());
    assert!(house.directory.begin("EXTERNAL", facts()).is_err());
    assert!(house.directory.begin("CRAM-MD5", facts()).is_err());
    let external = |text: &'static str| {
        let mut exchange: Exchange = house.directory.begin("EXTERNAL", with_certificate.clone()).unwrap();
        async move { name(exchange.step(Some(text.as_bytes())).await) }
    };
    assert_eq!(external("").await, Ok("robot".into()));
    assert_eq!(external("robot").await, Ok("robot".into()));
    assert_eq!(external("joe@example.org").await, Err(AuthFailure::Credentials));
    assert!(Directory::new(Metrics::default()).mechanisms(&facts()).is_empty());
}
