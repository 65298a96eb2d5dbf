//! Lines that are as secure as route, message and domain demand, or no lines at all.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use dns::TlsaRecord;
use mail::{Domain, FoundBy, Outcome, TargetHost, TargetTls, TlsDemand, TlsLevel, Verified};
use rustls::RootCertStore;

use crate::house::{CONTENT, House, Story, target};
use crate::peer::{BYE, Certificate, HELLO, Peer, TAKES};

/// Offers STARTTLS, does the handshake, and hears EHLO again.
const STARTS: &str = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 220 go\ntls\n";
const HELLO_AGAIN: &str = "C EHLO us.example\nS 250-mx\nS 250 PIPELINING\n";
/// The same by a host that keeps up TLS (RFC 8689).
const HELLO_REQUIRETLS: &str = "C EHLO us.example\nS 250-mx\nS 250-PIPELINING\nS 250 REQUIRETLS\n";
const TAKES_REQUIRED: &str = "C MAIL FROM:<s@us.example> REQUIRETLS\nC RCPT TO:<0@x.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\ncontent\nS 250 taken\n";

fn script(parts: &[&str]) -> String {
    parts.concat()
}

/// Hosts of `x.example`, found by its MX records.
fn exchanges(names: &[(&str, &Peer)], level: TlsLevel) -> mail::Target {
    let host = |(preference, (name, peer)): (u16, &(&str, &Peer))| TargetHost::Name {
        name: Domain::parse(name).unwrap(),
        port: peer.address.port(),
        preference,
    };
    let found = FoundBy::Recipients(Domain::parse("x.example").unwrap());
    let hosts = (1..).zip(names).map(host).collect();
    mail::Target { tls: TargetTls { level, implicit: false, found, credentials: None }, ..target(hosts) }
}

/// One message, `x.example` signed, its exchanges on this machine.
async fn house(names: &[&str]) -> House {
    let house = House::plain(1).await;
    house.dns.signed("x.example");
    for name in names {
        house.dns.mx("x.example", 10, name).host(name, "127.0.0.1");
    }
    house
}

fn fits(certificate: &Certificate) -> TlsaRecord {
    let data = digest(&SHA256, &certificate.der).as_ref().into();
    TlsaRecord { usage: 3, selector: 0, matching: 1, data }
}

fn tlsa(house: &House, name: &str, peer: &Peer, record: TlsaRecord) {
    house.dns.tlsa(&format!("_{}._tcp.{name}", peer.address.port()), record);
}

fn verified(story: &Story) -> Option<Verified> {
    story.reports.iter().flat_map(|report| &report.outcomes).find_map(|(_, outcome)| match outcome {
        Outcome::Delivered(delivered) => delivered.tls.as_ref().map(|tls| tls.verified),
        _ => None,
    })
}

#[tokio::test]
async fn tls_is_used_where_it_is_offered() {
    let mut house = house(&["mx.x.example"]).await;
    let peer = Peer::start_tls(&Certificate::expired("y"), &[&script(&[STARTS, HELLO_AGAIN, TAKES, BYE])]).await;
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    assert_eq!(story.only(), "0 delivered 250 taken");
    assert_eq!(verified(&story), Some(Verified::No));
    assert_eq!(house.sessions.told(), ["x.example good"]);
    assert_eq!(peer.contents().await, ["Subject: hello\r\n\r\n..dot\r\n.\r\n"]);
}

#[tokio::test]
async fn the_host_is_asked_for_by_the_name_under_which_its_records_are() {
    let certificate = Certificate::new("mx.x.example");
    for (level, alias, name) in [
        (TlsLevel::Opportunistic, None, "mx.x.example"),
        (TlsLevel::Dane, None, "mx.x.example"),
        (TlsLevel::Dane, Some("real.x.example"), "real.x.example"),
    ] {
        let mut house = house(&["mx.x.example"]).await;
        let peer = Peer::start_tls(&certificate, &[&script(&[STARTS, HELLO_AGAIN, TAKES, BYE])]).await;
        if let Some(alias) = alias {
            house.dns.alias("mx.x.example", alias);
        }
        if level == TlsLevel::Dane {
            tlsa(&house, name, &peer, fits(&certificate));
        }
        let story = house.run_target(exchanges(&[("mx.x.example", &peer)], level.clone())).await;
        assert_eq!(story.only(), "0 delivered 250 taken");
        assert_eq!(verified(&story), Some(if level == TlsLevel::Dane { Verified::DaneEe } else { Verified::No }));
        assert_eq!(peer.names().await, [name]);
    }
}

#[tokio::test]
async fn tls_that_does_not_work_is_done_without_unless_it_is_demanded() {
    // Once more without a post-quantum key, then in clear.
    let broken = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 220 go\ncut\n";
    for (level, then) in [(TlsLevel::Dane, true), (TlsLevel::Opportunistic, true), (TlsLevel::Encrypt, false)] {
        let mut house = house(&["mx.x.example"]).await;
        let clear = script(&[HELLO, TAKES, BYE]);
        let scripts = if then { vec![broken, broken, &clear] } else { vec![broken, broken] };
        let peer = Peer::start(&scripts).await;
        let story = house.run_target(exchanges(&[("mx.x.example", &peer)], level.clone())).await;
        if then {
            assert_eq!((story.only(), verified(&story)), ("0 delivered 250 taken".into(), None));
        } else {
            let told = story.only();
            assert!(told.starts_with("0 deferred 451 4.7.5 mx.x.example: the TLS handshake failed"), "{told}");
            assert!(told.ends_with("; the route demands it"), "{told}");
            assert!(!story.is_connection_blamed());
        }
        peer.contents().await;
    }
}

#[tokio::test]
async fn mail_in_clear_is_told_as_long_as_tls_is_not_tried_again() {
    let broken = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 220 go\ncut\n";
    let cut_off = script(&[HELLO, TAKES, "C MAIL FROM:<s@us.example>\ncut\n"]);
    let mut house = house(&["mx.x.example"]).await;
    house.queue(1, CONTENT.as_bytes(), |_| ()).await;
    let peer = Peer::start(&[broken, broken, &cut_off, &script(&[HELLO, TAKES, BYE])]).await;
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    assert_eq!((story.told(), verified(&story)), (vec!["0 delivered 250 taken".to_owned(); 2], None));
    assert_eq!(house.sessions.told(), ["x.example validation-failure"; 2]);
    peer.contents().await;
}

#[tokio::test]
async fn a_host_that_offers_no_tls_gets_mail_only_if_none_is_demanded() {
    let plain = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 PIPELINING\n";
    let refusing = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 STARTTLS\nC STARTTLS\nS 454 not now\n";
    for (start, reason) in [(plain, "it does not offer STARTTLS"), (refusing, "it refuses STARTTLS: 454 not now")] {
        let mut house = house(&["mx.x.example"]).await;
        let peer = Peer::start(&[&script(&[start, BYE])]).await;
        let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Encrypt)).await;
        let expected = format!("0 deferred 451 4.7.4 mx.x.example: {reason}; the route demands it");
        assert_eq!((story.only(), story.unreachable.is_none()), (expected, true));
        peer.contents().await;
    }
    let mut house = house(&["mx.x.example"]).await;
    let refusing = script(&[
        refusing,
        &TAKES
            .replace("C RCPT", "S 250 ok\nC RCPT")
            .replace("S 250 ok\nS 250 ok\nS 354", "S 354")
            .replace("C DATA", "S 250 ok\nC DATA"),
        BYE,
    ]);
    let peer = Peer::start(&[&refusing]).await;
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    assert_eq!(story.only(), "0 delivered 250 taken");
    assert_eq!(house.sessions.told(), ["x.example starttls-not-supported"]);
    peer.contents().await;
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_does_not_prove_itself() {
    let mut house = house(&["bad.x.example", "good.x.example"]).await;
    let (one, other) = (Certificate::new("one"), Certificate::new("other"));
    let bad = Peer::start_tls(&one, &[STARTS]).await;
    let good = Peer::start_tls(&other, &[&script(&[STARTS, HELLO_AGAIN, TAKES, BYE])]).await;
    tlsa(&house, "bad.x.example", &bad, fits(&other));
    tlsa(&house, "good.x.example", &good, fits(&other));
    let story =
        house.run_target(exchanges(&[("bad.x.example", &bad), ("good.x.example", &good)], TlsLevel::Dane)).await;
    assert_eq!((story.only(), verified(&story)), ("0 delivered 250 taken".into(), Some(Verified::DaneEe)));
    assert_eq!(house.sessions.told(), ["x.example tlsa-invalid", "x.example good"]);
    bad.contents().await;
    good.contents().await;
}

#[tokio::test]
async fn without_any_host_that_proves_itself_each_message_waits() {
    let mut house = house(&["mx.x.example"]).await;
    house.queue(1, CONTENT.as_bytes(), |_| ()).await;
    let shown = Certificate::new("one");
    // The messages are pulled after it was tried, and need not try again.
    let peer = Peer::start_tls(&shown, &[STARTS]).await;
    tlsa(&house, "mx.x.example", &peer, fits(&Certificate::new("other")));
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    let text = "0 deferred 451 4.7.5 mx.x.example: its certificate fits none of its TLSA records; DANE demands it";
    assert_eq!(story.told(), [text, text]);
    assert!(story.unreachable.is_none() && !story.is_connection_blamed(), "the lane may serve other domains");
    peer.contents().await;
}

#[tokio::test]
async fn a_forged_answer_defers_and_the_host_is_not_even_spoken_to() {
    let mut house = house(&["mx.x.example"]).await;
    let peer = Peer::start(&["cut\n"]).await;
    house.dns.bogus(&format!("_{}._tcp.mx.x.example", peer.address.port()));
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    let told = story.only();
    assert!(told.starts_with("0 deferred 451 4.7.5 whether mx.x.example has DANE cannot be found out"), "{told}");
    assert_eq!(house.sessions.told(), ["x.example dnssec-invalid"]);
}

#[tokio::test]
async fn a_message_that_requires_tls_asks_for_it_and_for_a_host_that_keeps_it_up() {
    let certificate = Certificate::new("mx.x.example");
    for (hello, body, expected) in [
        (HELLO_REQUIRETLS, TAKES_REQUIRED, "0 delivered 250 taken"),
        (
            HELLO_AGAIN,
            "",
            "0 failed 550 5.7.30 the sender requires TLS on the whole way, and the next host does not offer REQUIRETLS",
        ),
    ] {
        let mut house = House::new();
        house.queue(1, CONTENT.as_bytes(), |envelope| envelope.tls = TlsDemand::Required).await;
        house.dns.signed("x.example").mx("x.example", 10, "mx.x.example").host("mx.x.example", "127.0.0.1");
        let whole = script(&[STARTS, hello, body, BYE]);
        let peer = Peer::start_tls(&certificate, &[&whole]).await;
        tlsa(&house, "mx.x.example", &peer, fits(&certificate));
        let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
        assert_eq!(story.only(), expected);
        peer.contents().await;
    }
}

#[tokio::test]
async fn a_report_about_a_message_that_required_tls_asks_for_it_and_goes_without() {
    let clear = TAKES.replace("<s@us.example>", "<>");
    let asked = TAKES_REQUIRED.replace("<s@us.example>", "<>");
    let certificate = Certificate::new("nobody knows it");
    let secured = Peer::start_tls(&certificate, &[&script(&[STARTS, HELLO_REQUIRETLS, &asked, BYE])]).await;
    for peer in [secured, Peer::start(&[&script(&[HELLO, &clear, BYE])]).await] {
        let mut house = House::new();
        let report = |envelope: &mut mail::Envelope| {
            (envelope.tls, envelope.reverse_path) = (TlsDemand::Required, mail::ReversePath::Null);
        };
        house.queue(1, CONTENT.as_bytes(), report).await;
        house.dns.mx("x.example", 10, "mx.x.example").host("mx.x.example", "127.0.0.1");
        let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
        assert_eq!(story.only(), "0 delivered 250 taken");
        peer.contents().await;
    }
}

#[tokio::test]
async fn a_message_that_requires_tls_does_not_use_a_line_that_proves_nothing() {
    let mut house = house(&["mx.x.example"]).await;
    house.queue(1, CONTENT.as_bytes(), |envelope| envelope.tls = TlsDemand::Required).await;
    let taken = script(&[STARTS, HELLO_REQUIRETLS, TAKES, BYE]);
    let peer = Peer::start_tls(&Certificate::new("mx.x.example"), &[&taken, STARTS]).await;
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    let told = story.told();
    assert_eq!(told[0], "0 delivered 250 taken");
    assert!(told[1].starts_with("0 failed 550 5.7.10 mx.x.example: "), "{}", told[1]);
    assert!(told[1].ends_with("REQUIRETLS demands it"), "{}", told[1]);
    peer.contents().await;
}

#[tokio::test]
async fn a_line_that_proves_enough_carries_both() {
    let certificate = Certificate::new("mx.x.example");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let mut house = house(&["mx.x.example"]).await;
    house.roots = Arc::new(roots);
    house.queue(1, CONTENT.as_bytes(), |envelope| envelope.tls = TlsDemand::Required).await;
    let whole = script(&[STARTS, HELLO_REQUIRETLS, TAKES, TAKES_REQUIRED, BYE]);
    let peer = Peer::start_tls(&certificate, &[&whole]).await;
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    assert_eq!(story.told(), ["0 delivered 250 taken", "0 delivered 250 taken"]);
    assert_eq!(verified(&story), Some(Verified::WebPki));
    peer.contents().await;
}

#[tokio::test]
async fn a_message_that_would_rather_arrive_goes_although_its_domain_demands_more() {
    let mut house = House::new();
    house.queue(1, CONTENT.as_bytes(), |envelope| envelope.tls = TlsDemand::NotRequired).await;
    house.dns.signed("x.example").mx("x.example", 10, "mx.x.example").host("mx.x.example", "127.0.0.1");
    let shown = Certificate::new("one");
    // The lane tries what the domain demands; the message then asks for less.
    let peer = Peer::start_tls(&shown, &[STARTS, &script(&[STARTS, HELLO_AGAIN, TAKES, BYE])]).await;
    tlsa(&house, "mx.x.example", &peer, fits(&Certificate::new("other")));
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::Dane)).await;
    assert_eq!((story.only(), verified(&story)), ("0 delivered 250 taken".into(), Some(Verified::No)));
    peer.contents().await;
}

#[tokio::test]
async fn tls_may_begin_with_the_connection() {
    let mut house = House::plain(1).await;
    let certificate = Certificate::new("relay.example");
    let digest = digest(&SHA256, &certificate.der).as_ref().try_into().unwrap();
    let peer = Peer::start_tls(&certificate, &[&script(&["tls\n", HELLO, TAKES, BYE])]).await;
    let tls = TargetTls {
        level: TlsLevel::Fingerprint(vec![digest]),
        implicit: true,
        found: FoundBy::Configuration,
        credentials: None,
    };
    let story = house.run_target(mail::Target { tls, ..target(vec![peer.host(1)]) }).await;
    assert_eq!((story.only(), verified(&story)), ("0 delivered 250 taken".into(), Some(Verified::Fingerprint)));
    assert!(house.sessions.told().is_empty(), "a host of the configuration is nobody's to be told of");
    peer.contents().await;
}

#[tokio::test]
async fn none_means_none() {
    let mut house = house(&["mx.x.example"]).await;
    let start = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250-STARTTLS\nS 250 PIPELINING\n";
    let peer = Peer::start(&[&script(&[start, TAKES, BYE])]).await;
    let story = house.run_target(exchanges(&[("mx.x.example", &peer)], TlsLevel::None)).await;
    assert_eq!((story.only(), verified(&story)), ("0 delivered 250 taken".into(), None));
    peer.contents().await;
}
