//! Exchanges against accounts in a file, as a listener would drive them.

use std::path::Path;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::prelude::{BASE64_STANDARD, Engine};
use directory::file::AccountsFile;
use directory::{
    Admission, AuthFailure, BackendSettings, CertificateAccount, ChannelFacts, Directory, Exchange, Metrics, Password,
    Secret, SendAs, Settings, Step, Uses,
};
use mail::{SystemClock, Timestamp};
use proptest::prelude::*;
use rsasl::prelude::{Mechname, SASLClient, SASLConfig, Session};
use store::Tables;

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

/// Logs in by PLAIN and stays.
async fn come_in(house: &House, password: &str) -> Admission {
    let mut exchange = house.directory.begin("PLAIN", facts()).unwrap();
    let message = format!("\0joe@example.org\0{password}");
    assert!(matches!(exchange.step(Some(message.as_bytes())).await, Step::Done { .. }));
    exchange.admission().cloned().unwrap()
}

#[tokio::test]
async fn who_is_in_stays_for_as_long_as_the_same_proof_would_let_him_in() {
    let house = house();
    let (main, phone) = (come_in(&house, "pencil").await, come_in(&house, house.phone.reveal()).await);
    let certificate = house.directory.by_certificate("joe@example.org").await.unwrap().unwrap();
    let change = |change: &dyn Fn(&mut AccountsFile)| {
        let mut file = AccountsFile::open(&house.path).unwrap();
        change(&mut file);
        file.save(None).unwrap();
    };
    let still = async || {
        let mut words = Vec::new();
        for admission in [&main, &phone, &certificate] {
            words.push(house.directory.still(admission).await.map_or_else(|failure| failure.word(), |_| "in"));
        }
        words.join(" ")
    };
    assert_eq!(still().await, "in in in");
    change(&|file| drop(file.add_app_password("joe@example.org", "laptop", NOW).unwrap()));
    assert_eq!(still().await, "in in in", "another password changes nothing for these");
    change(&|file| file.change("joe@example.org").unwrap().app_passwords_only = true);
    assert_eq!(still().await, "must_upgrade in in");
    change(&|file| file.change("joe@example.org").unwrap().app_passwords_only = false);
    change(&|file| file.set_password("joe@example.org", &Password::new("new pencil").unwrap()).unwrap());
    assert_eq!(still().await, "credentials in in");
    change(&|file| file.remove_app_password("joe@example.org", "phone").unwrap());
    assert_eq!(still().await, "credentials credentials in");
    change(&|file| file.set_disabled("joe@example.org", true).unwrap());
    assert_eq!(still().await, "disabled disabled disabled");
    change(&|file| file.remove("joe@example.org").unwrap());
    assert_eq!(still().await, "credentials credentials credentials");
    house.directory.configure(None).unwrap();
    assert_eq!(still().await, "credentials credentials credentials");
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
    assert!(house.directory.by_certificate("joe@example.org").await.unwrap().is_none());
    let robot = house.directory.by_certificate("ROBOT").await.unwrap().unwrap().account;
    assert_eq!(robot.send_as.describe(), "*@lists.example.org");
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

/// A client of SCRAM: its first message, then its proof. rsasl's for SCRAM-SHA-256; its -PLUS sends `n,,` (2.3.1), so that
/// one is ours.
trait Client {
    fn first(&mut self) -> Vec<u8>;
    fn proof(&mut self, challenge: &[u8]) -> Vec<u8>;
    fn accepts(&mut self, last: &[u8]) -> bool;
}

impl Client for Session {
    fn first(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        self.step(None, &mut message).unwrap();
        message
    }

    fn proof(&mut self, challenge: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        self.step(Some(challenge), &mut message).unwrap();
        message
    }

    fn accepts(&mut self, last: &[u8]) -> bool {
        self.step(Some(last), &mut Vec::new()).is_ok()
    }
}

/// RFC 5802 §3, from the client's side.
struct Binding {
    user: String,
    password: String,
    exporter: [u8; 32],
    signature: Vec<u8>,
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

impl Client for Binding {
    fn first(&mut self) -> Vec<u8> {
        format!("p=tls-exporter,,n={},r=ours", self.user).into_bytes()
    }

    fn proof(&mut self, challenge: &[u8]) -> Vec<u8> {
        let challenge = std::str::from_utf8(challenge).unwrap();
        let parts: Vec<&str> = challenge.split(',').map(|part| &part[2..]).collect();
        let (salt, rounds) = (BASE64_STANDARD.decode(parts[1]).unwrap(), parts[2].parse().unwrap());
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let binding = BASE64_STANDARD.encode([&b"p=tls-exporter,,"[..], &self.exporter].concat());
        let message = format!("c={binding},r={}", parts[0]);
        let signed = format!("n={},r=ours,{challenge},{message}", self.user);
        let key = mac(&salted, b"Client Key");
        let signature = mac(digest::digest(&digest::SHA256, &key).as_ref(), signed.as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(one, other)| one ^ other).collect();
        self.signature = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
        format!("{message},p={}", BASE64_STANDARD.encode(proof)).into_bytes()
    }

    fn accepts(&mut self, last: &[u8]) -> bool {
        last == format!("v={}", BASE64_STANDARD.encode(&self.signature)).as_bytes()
    }
}

/// A SCRAM exchange; -PLUS binds to `exporter`. Both sides must be content.
async fn scram(
    directory: &Directory,
    mechanism: &str,
    user: &str,
    password: &str,
    exporter: [u8; 32],
) -> Result<String, AuthFailure> {
    let (user, password) = (user.to_owned(), password.to_owned());
    let mut client: Box<dyn Client> = if mechanism.ends_with("-PLUS") {
        Box::new(Binding { user, password, exporter, signature: Vec::new() })
    } else {
        let config = SASLConfig::with_credentials(None, user, password).unwrap();
        let offered = Mechname::parse(mechanism.as_bytes()).unwrap();
        Box::new(SASLClient::new(config).start_suggested(&[offered]).unwrap())
    };
    let mut exchange = directory.begin(mechanism, facts()).unwrap();
    assert_eq!(exchange.step(None).await, Step::Challenge(Vec::new()));
    let challenge = match exchange.step(Some(&client.first())).await {
        Step::Challenge(challenge) => challenge,
        other => return name(other),
    };
    match exchange.step(Some(&client.proof(&challenge))).await {
        Step::Done { account, last } => {
            assert!(client.accepts(&last.unwrap()), "the server does not know the password");
            Ok(account.name.clone())
        }
        other => name(other),
    }
}

#[tokio::test]
async fn scram_proves_a_password_to_both_sides() {
    let house = house();
    let phone = house.phone.reveal().to_owned();
    let (joe, failed) = (Ok("joe@example.org".to_owned()), Err(AuthFailure::Credentials));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        let directory = &house.directory;
        assert_eq!(scram(directory, mechanism, "Joe@example.org", "pencil", [7; 32]).await, joe, "{mechanism}");
        assert_eq!(scram(directory, mechanism, "joe@example.org", &phone, [7; 32]).await, joe, "an app password");
        assert_eq!(scram(directory, mechanism, "joe@example.org", "pen", [7; 32]).await, failed, "{mechanism}");
        assert_eq!(scram(directory, mechanism, "nobody@example.org", "pencil", [7; 32]).await, failed);
    }
    let elsewhere = scram(&house.directory, "SCRAM-SHA-256-PLUS", "joe@example.org", "pencil", [8; 32]).await;
    assert_eq!(elsewhere, failed, "somebody stands between");
}

#[tokio::test]
async fn scram_keeps_to_the_rules_of_accounts_and_channels() {
    let house = house();
    let begin = |mechanism: &str, message: &'static str| {
        let mut exchange = house.directory.begin(mechanism, facts()).unwrap();
        async move { exchange.step(Some(message.as_bytes())).await }
    };
    let refused = Step::Failed(AuthFailure::Credentials);
    assert_eq!(begin("SCRAM-SHA-256", "y,,n=joe@example.org,r=abc").await, refused, "-PLUS was hidden from the client");
    assert_eq!(begin("SCRAM-SHA-256-PLUS", "n,,n=joe@example.org,r=abc").await, refused);
    assert_eq!(begin("SCRAM-SHA-256-PLUS", "p=tls-unique,,n=joe@example.org,r=abc").await, refused);
    assert_eq!(begin("SCRAM-SHA-256", "nonsense").await, Step::Failed(AuthFailure::Malformed));
    assert!(matches!(begin("SCRAM-SHA-256", "n,,n=joe@example.org,r=abc").await, Step::Challenge(_)));

    let mut file = AccountsFile::open(&house.path).unwrap();
    file.change("joe@example.org").unwrap().app_passwords_only = true;
    file.change("robot").unwrap().disabled = true;
    file.save(None).unwrap();
    let phone = house.phone.reveal().to_owned();
    let directory = &house.directory;
    let by = |user: &'static str, password: String| async move {
        scram(directory, "SCRAM-SHA-256", user, &password, [7; 32]).await
    };
    assert_eq!(by("joe@example.org", "pencil".into()).await, Err(AuthFailure::Credentials));
    assert_eq!(by("joe@example.org", phone).await, Ok("joe@example.org".into()));
    assert_eq!(by("robot", "oil".into()).await, Err(AuthFailure::Disabled));
}

#[tokio::test]
async fn accounts_that_do_not_exist_look_like_those_that_do() {
    let house = house();
    let asked = |directory: &Directory, user: &str| {
        let mut exchange = directory.begin("SCRAM-SHA-256", facts()).unwrap();
        let message = format!("n,,n={user},r=abc");
        async move {
            let Step::Challenge(text) = exchange.step(Some(message.as_bytes())).await else { panic!("no challenge") };
            let text = String::from_utf8(text).unwrap();
            let (nonce, rest) = text.split_once(",s=").unwrap();
            assert!(nonce.starts_with("r=abc"));
            let (salt, rounds) = rest.split_once(',').unwrap();
            (salt.to_owned(), rounds.to_owned())
        }
    };
    let joe = asked(&house.directory, "joe@example.org").await;
    let nobody = asked(&house.directory, "nobody@example.org").await;
    assert_eq!((joe.0.len(), &joe.1), (nobody.0.len(), &nobody.1));
    assert_eq!(asked(&house.directory, "NOBODY@example.org").await, nobody, "the same every time");
    assert_ne!(asked(&house.directory, "nobody2@example.org").await.0, nobody.0);
    let elsewhere = open(&house.path);
    assert_ne!(asked(&elsewhere, "nobody@example.org").await.0, nobody.0, "and only this server can tell");
}

#[tokio::test]
async fn the_last_use_of_a_password_is_kept() {
    let house = house();
    let mut settings = Settings::new(BackendSettings::File(house.path.clone()), Secret::random());
    settings.uses = Some(Uses::new(Tables::in_memory(), std::sync::Arc::new(SystemClock)));
    let directory = Directory::new(Metrics::default());
    directory.configure(Some(settings)).unwrap();
    plain(&directory, "\0joe@example.org\0wrong").await;
    assert_eq!(directory.last_uses("joe@example.org").await, Ok(Vec::new()));
    plain(&directory, &format!("\0joe@example.org\0{}", house.phone.reveal())).await;
    scram(&directory, "SCRAM-SHA-256", "robot", "oil", [7; 32]).await.unwrap();
    let uses = directory.last_uses("JOE@example.org").await.unwrap();
    assert_eq!((uses.len(), uses[0].app_password.as_deref(), uses[0].from), (1, Some("phone"), facts().peer.ip()));
    assert_eq!(directory.last_uses("robot").await.unwrap()[0].app_password, None);
}

/// Messages as mechanisms have them, and anything else.
fn messages() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
    let message = prop_oneof![
        any::<Vec<u8>>().prop_map(Some),
        "[nyp=,ar.a-c\\x00\\x01@]{0,40}".prop_map(|text| Some(text.into_bytes())),
        "(n|y|p=tls-exporter),,n=joe@example[.]org,r=[a-z]{1,9}".prop_map(|text| Some(text.into_bytes())),
        "c=[A-Za-z0-9+/=]{0,30},r=[a-z]{0,9},p=[A-Za-z0-9+/=]{0,44}".prop_map(|text| Some(text.into_bytes())),
        Just(Some(b"joe@example.org".to_vec())),
        Just(Some(Vec::new())),
        Just(None),
    ];
    proptest::collection::vec(message, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a client says, and in whatever order: it does not come in without a proof, and nothing panics.
    #[test]
    fn no_dialogue_without_a_proof_lets_anybody_in(which in 0usize..7, messages in messages()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = house();
            let name = directory::Mechanism::ALL[which].as_str();
            let Ok(mut exchange) = house.directory.begin(name, facts()) else { return };
            for message in &messages {
                match exchange.step(message.as_deref()).await {
                    Step::Challenge(_) => {}
                    Step::Failed(failure) => assert!(!matches!(failure, AuthFailure::Unavailable(_)), "{failure:?}"),
                    Step::Done { account, .. } => panic!("{} came in by {name}: {messages:?}", account.name),
                }
            }
            assert!(exchange.admission().is_none());
        });
    }
}
