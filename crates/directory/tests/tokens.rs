//! OAUTHBEARER and XOAUTH2 with signed tokens, against a key set in a file and at a URL.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use directory::file::AccountsFile;
use directory::oauth::{Algorithm, KeySource, OauthSettings};
use directory::{AuthFailure, BackendSettings, ChannelFacts, Directory, Metrics, Secret, Settings, Step};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{EncodingKey, Header, encode};
use mail::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Who signs.
struct Issuer {
    key: EncodingKey,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        Self { key: EncodingKey::from_ec_der(pair.as_ref()), kid }
    }

    fn jwk(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        jwk
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({ "iss": "https://id.example.org", "aud": ["mail", "other"], "exp": now() + 600, "email": "Joe@example.org",
            "email_verified": true, "scope": "openid smtp" })
}

fn set(issuers: &[&Issuer]) -> String {
    serde_json::to_string(&JwkSet { keys: issuers.iter().map(|issuer| issuer.jwk()).collect() }).unwrap()
}

fn settings(keys: KeySource) -> OauthSettings {
    OauthSettings {
        issuers: vec!["https://id.example.org".into()],
        audiences: vec!["mail".into()],
        keys,
        claim: "email".into(),
        verified_email: true,
        algorithms: vec![Algorithm::ES256],
        leeway: Duration::from_secs(60),
        scope: Some("smtp".into()),
        any_account: false,
    }
}

struct House {
    directory: Directory,
    folder: tempfile::TempDir,
}

impl House {
    fn new(oauth: impl FnOnce(PathBuf) -> OauthSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        let mut file = AccountsFile::open(&path).unwrap();
        file.add("joe@example.org", None, None, Timestamp::from_millis(0)).unwrap();
        file.save(None).unwrap();
        let mut settings = Settings::new(BackendSettings::File(path), Secret::random());
        settings.oauth = Some(oauth(folder.path().join("keys.json")));
        let directory = Directory::new(Metrics::default());
        directory.configure(Some(settings)).unwrap();
        Self { directory, folder }
    }

    fn of_file(issuers: &[&Issuer], change: impl FnOnce(&mut OauthSettings)) -> Self {
        let house = Self::new(|path| {
            let mut settings = settings(KeySource::File(path));
            change(&mut settings);
            settings
        });
        std::fs::write(house.folder.path().join("keys.json"), set(issuers)).unwrap();
        house
    }

    async fn oauthbearer(&self, name: &str, token: &str) -> Result<String, AuthFailure> {
        let header = if name.is_empty() { "n,,".to_owned() } else { format!("n,a={name},") };
        self.drive("OAUTHBEARER", &format!("{header}\u{1}auth=Bearer {token}\u{1}\u{1}")).await
    }

    /// Drives an exchange to its end; a client whose token is refused acknowledges that.
    async fn drive(&self, mechanism: &str, message: &str) -> Result<String, AuthFailure> {
        let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let facts = ChannelFacts { peer, tls: true, tls_exporter: None, certificate: None };
        let mut exchange = self.directory.begin(mechanism, facts).unwrap();
        match exchange.step(Some(message.as_bytes())).await {
            Step::Done { account, last } => {
                assert_eq!((last, exchange.tried()), (None, Some(account.name.as_str())));
                Ok(account.name.clone())
            }
            Step::Failed(failure) => Err(failure),
            Step::Challenge(why) => {
                // That is known whether or not the client answers.
                assert!(exchange.is_refused());
                let why: Value = serde_json::from_slice(&why).unwrap();
                let wanted = if mechanism == "XOAUTH2" { "401" } else { "invalid_token" };
                assert_eq!(why["status"], wanted);
                match exchange.step(Some(b"\x01")).await {
                    Step::Failed(failure) => Err(failure),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_good_token_names_an_account() {
    let issuer = Issuer::new("one");
    let house = House::of_file(&[&issuer], |_| {});
    let token = issuer.sign(&claims());
    let joe = Ok("joe@example.org".to_owned());
    assert_eq!(house.oauthbearer("", &token).await, joe);
    assert_eq!(house.oauthbearer("JOE@example.org", &token).await, joe);
    assert_eq!(house.oauthbearer("ann@example.org", &token).await, Err(AuthFailure::Credentials));
    let message = format!("user=joe@example.org\u{1}auth=Bearer {token}\u{1}\u{1}");
    assert_eq!(house.drive("XOAUTH2", &message).await, joe);
    assert_eq!(
        house.drive("XOAUTH2", "user=joe@example.org\u{1}auth=Bearer x\u{1}\u{1}").await,
        Err(AuthFailure::Credentials)
    );
    assert_eq!(house.drive("XOAUTH2", "user=joe").await, Err(AuthFailure::Malformed));
}

#[tokio::test]
async fn every_claim_counts() {
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let house = House::of_file(&[&issuer], |_| {});
    for (key, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", Value::Null),
        ("exp", json!(now() - 120)),
        ("exp", Value::Null),
        ("nbf", json!(now() + 120)),
        ("email", Value::Null),
        ("email", json!(7)),
        ("email", json!("ann@example.org")),
        ("email_verified", json!(false)),
        ("email_verified", json!("false")),
        ("email_verified", json!(1)),
        ("email_verified", Value::Null),
        ("scope", json!("openid smtps")),
    ] {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(key)),
            value => claims[key] = value,
        }
        let result = house.oauthbearer("", &issuer.sign(&claims)).await;
        assert_eq!(result, Err(AuthFailure::Credentials), "{key} in {claims}");
    }
    let mut late = claims();
    late["exp"] = json!(now() - 30);
    assert!(house.oauthbearer("", &issuer.sign(&late)).await.is_ok(), "within the leeway");
    assert_eq!(house.oauthbearer("", &stranger.sign(&claims())).await, Err(AuthFailure::Credentials));
}

#[tokio::test]
async fn an_address_that_is_not_called_verified_counts_only_where_that_is_said() {
    let issuer = Issuer::new("one");
    let lax = House::of_file(&[&issuer], |settings| settings.verified_email = false);
    let mut silent = claims();
    silent.as_object_mut().unwrap().remove("email_verified");
    assert!(lax.oauthbearer("", &issuer.sign(&silent)).await.is_ok());
    let with = |verified| {
        let mut claims = claims();
        claims["email_verified"] = verified;
        issuer.sign(&claims)
    };
    assert_eq!(lax.oauthbearer("", &with(json!(false))).await, Err(AuthFailure::Credentials));
    let strict = House::of_file(&[&issuer], |_| {});
    assert!(strict.oauthbearer("", &with(json!("true"))).await.is_ok());
    // Other claims are not about addresses.
    let other = House::of_file(&[&issuer], |settings| settings.claim = "upn".into());
    silent["upn"] = json!("joe@example.org");
    assert!(other.oauthbearer("", &issuer.sign(&silent)).await.is_ok());
}

#[tokio::test]
async fn only_allowed_signatures_count() {
    let issuer = Issuer::new("one");
    let house = House::of_file(&[&issuer], |settings| settings.algorithms = vec![Algorithm::RS256, Algorithm::EdDSA]);
    assert_eq!(house.oauthbearer("", &issuer.sign(&claims())).await, Err(AuthFailure::Credentials));
    // No signature at all, and one by the public key taken for a shared secret.
    let house = House::of_file(&[&issuer], |_| {});
    let none = "eyJhbGciOiJub25lIn0.eyJlbWFpbCI6ImpvZUBleGFtcGxlLm9yZyJ9.";
    assert_eq!(house.oauthbearer("", none).await, Err(AuthFailure::Credentials));
    let confused =
        encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(set(&[&issuer]).as_bytes()));
    assert_eq!(house.oauthbearer("", &confused.unwrap()).await, Err(AuthFailure::Credentials));
    let mut critical = Header::new(Algorithm::ES256);
    critical.crit = Some(vec!["exp".into()]);
    let critical = encode(&critical, &claims(), &issuer.key).unwrap();
    assert_eq!(house.oauthbearer("", &critical).await, Err(AuthFailure::Credentials));
}

#[tokio::test]
async fn accounts_that_nobody_made_need_permission() {
    let issuer = Issuer::new("one");
    let mut ann = claims();
    ann["email"] = json!("ann@example.org");
    let house = House::of_file(&[&issuer], |settings| settings.any_account = true);
    assert_eq!(house.oauthbearer("", &issuer.sign(&ann)).await, Ok("ann@example.org".into()));
}

/// A web server that answers each request with what the cell holds, and counts them.
async fn serve(answer: Arc<Mutex<String>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            counter.fetch_add(1, Ordering::SeqCst);
            let text = answer.lock().unwrap().clone();
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    (address, count)
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn keys_are_fetched_once_and_kept() {
    let (first, second) = (Issuer::new("one"), Issuer::new("two"));
    let cell = Arc::new(Mutex::new(answer(&set(&[&first]))));
    let (address, count) = serve(Arc::clone(&cell)).await;
    let url = format!("http://{address}/keys").parse().unwrap();
    let house = House::new(|_| settings(KeySource::Url(url)));
    for _ in 0..3 {
        assert!(house.oauthbearer("", &first.sign(&claims())).await.is_ok());
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Tokens with made-up keys do not make us fetch again and again.
    for _ in 0..3 {
        assert_eq!(house.oauthbearer("", &second.sign(&claims())).await, Err(AuthFailure::Credentials));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1, "it was fetched a moment ago");
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_nobodys_fault() {
    let issuer = Issuer::new("one");
    for wrong in [
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
        answer("<html>"),
        answer(&format!("{{\"keys\":[]}}{}", " ".repeat(2 << 20))),
    ] {
        let (address, _) = serve(Arc::new(Mutex::new(wrong.clone()))).await;
        let house = House::new(|_| settings(KeySource::Url(format!("http://{address}/").parse().unwrap())));
        let result = house.oauthbearer("", &issuer.sign(&claims())).await;
        assert!(matches!(result, Err(AuthFailure::Unavailable(_))), "{result:?} for {}", &wrong[..40]);
    }
}

/// A good token of which one character, or what stands between two dots, is another.
fn nearly_tokens() -> impl Strategy<Value = (usize, String)> {
    (0usize..400, prop_oneof!["[A-Za-z0-9_.=+/-]{1}", "[A-Za-z0-9_-]{0,60}", Just(".".to_owned()), Just(String::new())])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in a token or a key set: nobody comes in by it, and nothing panics.
    #[test]
    fn no_forged_token_names_anybody((at, piece) in nearly_tokens(), name in "[a-z@=,\\x00-\\x7f]{0,12}", keys in ".{0,80}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let issuer = Issuer::new("one");
            let house = House::of_file(&[&issuer], |_| {});
            let good = issuer.sign(&claims());
            let at = at % good.len();
            let forged = format!("{}{piece}{}", &good[..at], &good[at + 1..]);
            if forged != good {
                assert!(house.oauthbearer("", &forged).await.is_err(), "{forged}");
                assert!(house.oauthbearer(&name, &forged).await.is_err(), "{forged}");
            }
            let other = House::of_file(&[&issuer], |_| {});
            std::fs::write(other.folder.path().join("keys.json"), &keys).unwrap();
            assert!(matches!(other.oauthbearer("", &good).await, Err(AuthFailure::Unavailable(_))), "{keys}");
        });
    }
}
