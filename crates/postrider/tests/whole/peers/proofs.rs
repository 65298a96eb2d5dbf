//! Clients that prove who they are by a token or a certificate instead of a password.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::authority::{Authority, Signed};
use super::house::{ANNA, House};
use super::{folder_in, run, tool, workspace};
use crate::harness::{Postrider, Setup, Sink, open_to_everybody, skipped};

/// Who signs tokens.
pub struct Issuer(EncodingKey);

impl Issuer {
    pub fn new() -> Self {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Self(EncodingKey::from_ec_der(pair.expect("a key").as_ref()))
    }

    /// Writes the key set; gives the table that believes it.
    pub fn table(&self, folder: &Path) -> String {
        let mut key = Jwk::from_encoding_key(&self.0, Algorithm::ES256).expect("a public key");
        key.common.key_id = Some("one".to_owned());
        let file = folder.join("keys.json");
        std::fs::write(&file, serde_json::to_string(&JwkSet { keys: vec![key] }).expect("JSON")).expect("our own file");
        open_to_everybody(&file, 0o644);
        format!(
            "[accounts.oauth]\nissuer = \"https://id.test\"\naudience = \"mail\"\nkeys = \"{}\"\nclaim = \"email\"\n",
            file.display()
        )
    }

    /// A token for ten minutes.
    pub fn token(&self, account: &str) -> String {
        let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock") + Duration::from_secs(600);
        let claims = json!({ "iss": "https://id.test", "aud": "mail", "exp": end.as_secs(), "email": account,
            "email_verified": true });
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.0).expect("a token")
    }
}

/// A house that believes the issuer.
fn believing(issuer: &Issuer) -> House {
    House::furnished(|setup| issuer.table(&folder_in(setup, "issuer")))
}

/// curl, with the mail of the house.
fn curl(house: &House, scheme: &str, more: &[&str]) -> Output {
    let address = if scheme == "smtps" { house.implicit } else { house.starttls };
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--max-time", "20", "--url"]);
    command.arg(format!("{scheme}://{address}/curl.test")).args(more);
    command.args(["--mail-from", ANNA, "--mail-rcpt", "b@example.net", "--upload-file"]).arg(house.mail());
    command.output().expect("curl runs")
}

#[test]
fn curl_logs_in_by_token() {
    let Some(_) = tool("curl") else { return };
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let token = issuer.token(ANNA);
    // Of two that it could use it takes OAUTHBEARER, whichever it is told to.
    for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
        let house = House::furnished(|setup| {
            let table = issuer.table(&folder_in(setup, "issuer"));
            format!("[accounts]\nmechanisms = [\"{mechanism}\", \"PLAIN\"]\n{table}")
        });
        for scheme in ["smtp", "smtps"] {
            let sent = curl(&house, scheme, &["--user", ANNA, "--oauth2-bearer", &token]);
            assert!(sent.status.success(), "{mechanism}: {sent:?}");
            house.arrived(mechanism);
        }
        for token in [stranger.token(ANNA), issuer.token("boss@example.org")] {
            let refused = curl(&house, "smtps", &["--user", ANNA, "--oauth2-bearer", &token]);
            // 67: the login was refused.
            assert_eq!(refused.status.code(), Some(67), "{mechanism}: {refused:?}");
            house.server.wait("the refusal", |line| line["event"] == "login failed" && line["mechanism"] == mechanism);
        }
        assert!(house.sink.is_empty());
    }
}

#[test]
fn msmtp_logs_in_by_token() {
    let Some(msmtp) = tool("msmtp") else { return };
    let issuer = Issuer::new();
    let house = believing(&issuer);
    let (mail, token) = (house.mail(), issuer.token(ANNA));
    for (address, starttls) in [(house.starttls, "on"), (house.implicit, "off")] {
        for mechanism in ["oauthbearer", "xoauth2"] {
            let output = Command::new(&msmtp)
                .args(["--file=/dev/null", "--timeout=20", "--tls=on", "--tls-certcheck=off"])
                .args([&format!("--tls-starttls={starttls}"), &format!("--host={}", address.ip())])
                .args([&format!("--port={}", address.port()), &format!("--auth={mechanism}")])
                .args([&format!("--user={ANNA}"), &format!("--passwordeval=printf '{token}'")])
                .args([&format!("--from={ANNA}"), "b@example.net"])
                .stdin(std::fs::File::open(&mail).expect("our file"))
                .output()
                .expect("msmtp runs");
            assert!(output.status.success(), "{mechanism}: {output:?}");
            house.arrived(&mechanism.to_uppercase());
        }
    }
}

const NODEMAILER: &str = r#"
const nodemailer = require(process.argv[1]);
const [host, starttls, implicit, user, accessToken] = process.argv.slice(2);
(async () => {
  for (const [port, secure] of [[starttls, false], [implicit, true]]) {
    const transport = nodemailer.createTransport({
      host, port: Number(port), secure, requireTLS: !secure, auth: { type: "OAuth2", user, accessToken },
      tls: { rejectUnauthorized: false }, connectionTimeout: 20000,
    });
    await transport.sendMail({ from: `Anna <${user}>`, to: "b@example.net", subject: "hi", text: "hello" });
    transport.close();
  }
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[test]
fn nodemailer_logs_in_by_token() {
    let Some(node) = tool("node") else { return };
    let Ok(library) = workspace().join("target/peers/nodemailer/node_modules/nodemailer").canonicalize() else {
        return skipped("Nodemailer is not in target/peers (./dev test puts it there)");
    };
    let issuer = Issuer::new();
    let house = believing(&issuer);
    let (host, token) = (house.starttls.ip().to_string(), issuer.token(ANNA));
    let (starttls, implicit) = (house.starttls.port().to_string(), house.implicit.port().to_string());
    run(Command::new(node)
        .args(["-e", NODEMAILER, "--"])
        .arg(library)
        .args([&host, &starttls, &implicit, ANNA, &token]));
    house.arrived("XOAUTH2");
    house.arrived("XOAUTH2");
}

/// Certificates of an authority, of which some stand for Anna.
struct Certificates {
    by_digest: Signed,
    by_name: Signed,
    unknown: Signed,
}

impl Certificates {
    fn new(setup: &Setup) -> (Self, String) {
        let authority = Authority::new(&folder_in(setup, "authority"));
        let other = Authority::new(&folder_in(setup, "other"));
        let made = Self {
            by_digest: authority.sign("laptop.example.org"),
            by_name: authority.sign(ANNA),
            // Anybody can put any name into a certificate.
            unknown: other.sign(ANNA),
        };
        let tables = format!(
            "[[client_certificate]]\nfingerprint = \"{}\"\naccount = \"{ANNA}\"\n\
             [[client_certificate]]\nname = \"{ANNA}\"\nauthority = \"{}\"\naccount = \"{ANNA}\"\n",
            made.by_digest.fingerprint,
            authority.file.display(),
        );
        (made, tables)
    }
}

fn with(certificate: &Signed) -> [String; 4] {
    let path = |file: &Path| file.display().to_string();
    ["--cert".into(), path(&certificate.chain), "--key".into(), path(&certificate.key)]
}

#[test]
fn curl_logs_in_by_certificate() {
    let Some(_) = tool("curl") else { return };
    let mut certificates = None;
    let house = House::furnished(|setup| {
        let (made, tables) = Certificates::new(setup);
        certificates = Some(made);
        tables
    });
    let Certificates { by_digest, by_name, unknown } = certificates.expect("they were made");
    for (scheme, certificate) in [("smtp", &by_digest), ("smtps", &by_digest), ("smtps", &by_name)] {
        let certificate = with(certificate);
        let mut arguments: Vec<&str> = certificate.iter().map(String::as_str).collect();
        // To have shown it is enough; EXTERNAL says the same with words.
        let sent = curl(&house, scheme, &arguments);
        assert!(sent.status.success(), "{sent:?}");
        house.arrived("certificate");
        let user = format!("{ANNA}:");
        arguments.extend(["--user", &user, "--login-options", "AUTH=EXTERNAL"]);
        let sent = curl(&house, scheme, &arguments);
        assert!(sent.status.success(), "{sent:?}");
        house.arrived("EXTERNAL");
        arguments.truncate(4);
        arguments.extend(["--user", "boss@example.org:", "--login-options", "AUTH=EXTERNAL"]);
        let refused = curl(&house, scheme, &arguments);
        assert_eq!(refused.status.code(), Some(67), "a certificate stands for nobody else: {refused:?}");
    }
    let certificate = with(&unknown);
    let arguments: Vec<&str> = certificate.iter().map(String::as_str).collect();
    let refused = curl(&house, "smtps", &arguments);
    // 55: the sender was refused.
    assert_eq!(refused.status.code(), Some(55), "{refused:?}");
    assert!(house.sink.is_empty());
}

#[test]
fn msmtp_logs_in_by_certificate() {
    let Some(msmtp) = tool("msmtp") else { return };
    let mut certificates = None;
    let house = House::furnished(|setup| {
        let (made, tables) = Certificates::new(setup);
        certificates = Some(made);
        tables
    });
    let Certificates { by_digest, .. } = certificates.expect("they were made");
    let address = house.starttls;
    let output = Command::new(&msmtp)
        .args(["--file=/dev/null", "--timeout=20", "--tls=on", "--tls-certcheck=off", "--tls-starttls=on"])
        .args([&format!("--host={}", address.ip()), &format!("--port={}", address.port()), "--auth=external"])
        .arg(format!("--tls-cert-file={}", by_digest.chain.display()))
        .arg(format!("--tls-key-file={}", by_digest.key.display()))
        .args([&format!("--user={ANNA}"), &format!("--from={ANNA}"), "b@example.net"])
        .stdin(std::fs::File::open(house.mail()).expect("our file"))
        .output()
        .expect("msmtp runs");
    assert!(output.status.success(), "{output:?}");
    house.arrived("EXTERNAL");
}

#[test]
fn a_gateway_relays_by_the_fingerprint_of_its_certificate() {
    let Some(curl) = tool("curl") else { return };
    let sink = Sink::start();
    let setup = Setup::to(&sink).networks("192.0.2.0/24");
    let authority = Authority::new(&folder_in(&setup, "authority"));
    let (known, other) = (authority.sign("gateway.test"), authority.sign("other.test"));
    let table = format!("[[client_certificate]]\nfingerprint = \"{}\"\nrelay = true\n", known.fingerprint);
    let server = Postrider::start(&setup.table(&table));
    let mail = folder_in(server.setup(), "client").join("mail");
    std::fs::write(&mail, "Subject: hi\r\n\r\nhello\r\n").expect("our own file");
    // 55: the recipient was refused.
    for (certificate, code) in [(&known, 0), (&other, 55)] {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--max-time", "20", "--url"]);
        command.arg(format!("smtp://{}/gateway.test", server.setup().address)).args(with(certificate));
        command.args(["--mail-from", "a@example.org", "--mail-rcpt", "b@example.net", "--upload-file"]).arg(&mail);
        let output = command.output().expect("curl runs");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    assert_eq!(sink.next().to, ["b@example.net"]);
    assert!(sink.is_empty());
}
