//! Hosts that want to know who we are.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use delivery::auth::{CredentialSettings, Credentials, Mechanism, Proof, SecretPlace};
use mail::{FoundBy, TargetTls, TlsLevel};

use crate::house::{House, Story, target};
use crate::peer::{BYE, Certificate, Peer};

/// TLS from the first octet on, and an offer of AUTH.
const OFFERS: &str = "tls\nS 220 mx\nC EHLO us.example\nS 250-mx\nS 250-PIPELINING\nS 250 AUTH LOGIN PLAIN\n";
const TAKES: &str = "C MAIL FROM:<s@us.example> AUTH=<>\nC RCPT TO:<0@x.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\n\
                     content\nS 250 taken\n";

/// One message by a route with credentials, to a host that behaves so.
async fn run(script: &str, level: Option<TlsLevel>, mechanisms: &[Mechanism], unverified: bool) -> Story {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "secret\n").unwrap();
    let settings = CredentialSettings {
        user: "ann".into(),
        proof: Proof::Password(SecretPlace::File(folder.path().join("password"))),
        mechanisms: mechanisms.to_vec(),
        unverified,
    };
    let mut house = House::plain(1).await;
    house.settings.credentials.insert("relay".into(), Arc::new(Credentials::new(settings)));
    let certificate = Certificate::new("relay.example");
    let own = digest(&SHA256, &certificate.der).as_ref().try_into().unwrap();
    let peer = Peer::start_tls(&certificate, &[script]).await;
    let tls = TargetTls {
        level: level.unwrap_or(TlsLevel::Fingerprint(vec![own])),
        implicit: true,
        found: FoundBy::Configuration,
        credentials: Some("relay".into()),
    };
    let story = house.run_target(mail::Target { tls, ..target(vec![peer.host(1)]) }).await;
    peer.contents().await;
    story
}

#[tokio::test]
async fn a_host_that_has_proven_who_it_is_is_told_who_we_are() {
    let script = [OFFERS, "C AUTH PLAIN AGFubgBzZWNyZXQ=\nS 235 2.7.0 welcome\n", TAKES, BYE].concat();
    assert_eq!(run(&script, None, &[], false).await.only(), "0 delivered 250 taken");
    let login = "C AUTH LOGIN\nS 334 VXNlcm5hbWU6\nC YW5u\nS 334 UGFzc3dvcmQ6\nC c2VjcmV0\nS 235 welcome\n";
    let script = [OFFERS, login, TAKES, BYE].concat();
    assert_eq!(run(&script, None, &[Mechanism::Login], false).await.only(), "0 delivered 250 taken");
}

#[tokio::test]
async fn credentials_that_are_refused_bounce_nothing_and_the_lane_rests() {
    let script = [OFFERS, "C AUTH PLAIN AGFubgBzZWNyZXQ=\nS 535 5.7.8 no\n", BYE].concat();
    let story = run(&script, None, &[], false).await;
    let fault = story.unreachable.expect("the lane rests");
    assert!(fault.is_transient(), "{fault}");
    assert!(fault.to_string().contains("does not accept our credentials: 535 5.7.8 no"), "{fault}");
    assert!(!fault.to_string().contains("secret") && story.reports.is_empty());
}

#[tokio::test]
async fn a_host_that_quotes_what_we_said_does_not_get_it_into_logs_and_reports() {
    let refused = "C AUTH PLAIN AGFubgBzZWNyZXQ=\nS 500 5.5.2 unrecognized: AUTH PLAIN AGFubgBzZWNyZXQ=\n";
    let fault = run(&[OFFERS, refused, BYE].concat(), None, &[], false).await.unreachable.expect("the lane rests");
    let text = fault.to_string();
    assert!(text.contains("unrecognized: AUTH PLAIN (not shown)") && !text.contains("AGFubg"), "{text}");
}

#[tokio::test]
async fn a_host_that_has_proven_nothing_is_told_nothing_unless_the_route_says_so() {
    let script = [OFFERS, BYE].concat();
    let story = run(&script, Some(TlsLevel::Encrypt), &[], false).await;
    let fault = story.unreachable.expect("the lane rests");
    assert!(fault.is_transient() && fault.to_string().contains("has not proven who it is"), "{fault}");
    let script = [OFFERS, "C AUTH PLAIN AGFubgBzZWNyZXQ=\nS 235 2.7.0 welcome\n", TAKES, BYE].concat();
    let story = run(&script, Some(TlsLevel::Encrypt), &[], true).await;
    assert_eq!(story.only(), "0 delivered 250 taken");
}

#[tokio::test]
async fn a_host_without_a_mechanism_of_ours_is_told_nothing() {
    let story = run(&[OFFERS, BYE].concat(), None, &[Mechanism::ScramSha256], false).await;
    let fault = story.unreachable.expect("the lane rests");
    assert!(fault.is_transient() && fault.to_string().contains("we could use SCRAM-SHA-256"), "{fault}");
}
