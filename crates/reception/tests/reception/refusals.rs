//! AUTH that is refused: by which reply, and how the session goes on.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use directory::file::AccountsFile;
use directory::oauth::{Algorithm, KeySource, OauthSettings};
use directory::{BackendSettings, Directory, Secret};
use mail::{Clock, SystemClock};

use crate::secure::Secure;
use crate::submission::{accounts_in, asking, greeted, plain, saying, settings};
use crate::testing::Server;

/// Whatever was refused, the session does what it did before.
async fn goes_on(client: &mut Secure) {
    client.ask("NOOP\r\n", "250 ").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "530 5.7.0 ").await;
}

#[tokio::test]
async fn who_has_app_passwords_is_told_to_use_one() {
    let folder = tempfile::tempdir().unwrap();
    let directory = accounts_in(folder.path());
    let mut file = AccountsFile::open(&folder.path().join("accounts.toml")).unwrap();
    let app = file.add_app_password("anna@example.org", "laptop", SystemClock.now()).unwrap();
    file.change("anna@example.org").unwrap().app_passwords_only = true;
    file.save(None).unwrap();
    let mut settings = settings();
    settings.bans.failures = 1;
    let server = Server::start_with(settings, directory);
    let mut client = greeted(&server).await;
    client.ask(&plain("anna@example.org", "pencil"), "534 5.7.9 ").await;
    goes_on(&mut client).await;
    // It was right, and so no guess: there is no ban.
    client.ask(&plain("anna@example.org", app.reveal()), "235 2.7.0 ").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;
    // Only who knows the account's own password is told so.
    greeted(&server).await.ask(&plain("anna@example.org", "wrong"), "421 4.7.0 too many failed logins").await;
}

#[tokio::test]
async fn nobody_is_let_in_while_the_accounts_cannot_be_asked_and_nobody_is_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut settings = settings();
    settings.bans.failures = 1;
    let server = Server::start_with(settings, asking(&socket));
    let mut client = greeted(&server).await;
    for _ in 0..6 {
        client.ask(&plain("anna@example.org", "pencil"), "454 4.7.0 ").await;
    }
    goes_on(&mut client).await;
    saying("OK\t1\tuser=anna@example.org", &socket, Arc::default());
    client.ask(&plain("anna@example.org", "pencil"), "235 2.7.0 ").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;
}

/// RFC 7628 §3.2.3: first the reason, and the failure after the client's answer to it, which is %x01.
#[tokio::test]
async fn a_refused_token_is_told_why_and_the_client_answers() {
    let mut settings = settings();
    // Each of the two counts once, however much is said of it.
    settings.bans.failures = 3;
    let server = Server::start_with(settings, believing());
    let mut client = greeted(&server).await;
    for (mechanism, message, status, answer) in [
        ("OAUTHBEARER", "n,a=anna@example.org,\u{1}auth=Bearer forged\u{1}\u{1}", "invalid_token", "AQ=="),
        ("XOAUTH2", "user=anna@example.org\u{1}auth=Bearer forged\u{1}\u{1}", "401", ""),
    ] {
        let message = BASE64_STANDARD.encode(message);
        let told = client.ask(&format!("AUTH {mechanism} {message}\r\n"), "334 ").await;
        let told = BASE64_STANDARD.decode(told["334 ".len()..].trim_end()).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert!(told.starts_with('{') && told.contains(&format!(r#""status":"{status}""#)), "{told}");
        client.ask(&format!("{answer}\r\n"), "535 5.7.8 ").await;
        goes_on(&mut client).await;
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_no_external() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(settings(), accounts_in(folder.path()));
    let mut client = greeted(&server).await;
    let offered = client.ask("EHLO laptop.home.example\r\n", "250-").await;
    assert!(offered.contains("AUTH ") && !offered.contains("EXTERNAL"), "{offered}");
    for command in ["AUTH EXTERNAL =", "AUTH EXTERNAL", "AUTH EXTERNAL YW5uYUBleGFtcGxlLm9yZw=="] {
        client.ask(&format!("{command}\r\n"), "504 5.5.4 ").await;
    }
    goes_on(&mut client).await;
    client.ask(&plain("anna@example.org", "pencil"), "235 2.7.0 ").await;
}

#[tokio::test]
async fn a_refused_token_counts_however_its_client_goes_on() {
    let mut settings = settings();
    settings.bans.failures = 3;
    let server = Server::start_with(settings, believing());
    for (number, goes_on) in ["*\r\n", "!\r\n", ""].into_iter().enumerate() {
        let mut client = greeted(&server).await;
        let token = BASE64_STANDARD.encode("n,,\u{1}auth=Bearer forged\u{1}\u{1}");
        let expected = if number < 2 { "334 " } else { "421 4.7.0 too many failed logins" };
        client.ask(&format!("AUTH OAUTHBEARER {token}\r\n"), expected).await;
        match goes_on {
            "" => drop(client),
            words => drop(client.ask(words, "501 ").await),
        }
    }
    assert_eq!(server.reception.bans().len(), 1);
}

/// A directory that knows an issuer of tokens, of which it will believe none.
fn believing() -> Directory {
    let folder = tempfile::tempdir().unwrap();
    let backend = BackendSettings::File(folder.path().join("accounts.toml"));
    let mut settings = directory::Settings::new(backend, Secret::random());
    settings.oauth = Some(OauthSettings {
        issuers: vec!["https://id.example.org".into()],
        audiences: vec!["mail".into()],
        keys: KeySource::File(folder.path().join("keys.json")),
        claim: "email".into(),
        verified_email: true,
        algorithms: vec![Algorithm::ES256],
        leeway: Duration::ZERO,
        scope: None,
        any_account: true,
    });
    let directory = Directory::new(directory::Metrics::default());
    directory.configure(Some(settings)).unwrap();
    directory
}
