//! Whether an answer is secure, and what an attacker or a broken zone makes of it.

use std::sync::Arc;

use dns::testing::{Behaviour, DnsServer, Kind};
use dns::{Alias, Dnssec, LookupError, Metrics, Probe, Resolve, Resolver, Servers, Settings, SetupError, TlsaRecord};
use mail::SystemClock;

use crate::domain;

fn resolver(server: &DnsServer, dnssec: Dnssec) -> Resolver {
    let servers = Servers::Listed(vec![server.address()]);
    Resolver::new(Settings { servers, dnssec, ..Settings::default() }, Arc::new(SystemClock), Metrics::default())
        .unwrap()
}

fn record(usage: u8) -> TlsaRecord {
    TlsaRecord { usage, selector: 1, matching: 1, data: [usage; 32].into() }
}

/// `signed.test` is signed, `plain.test` is not; both have everything.
fn two_zones() -> DnsServer {
    let server = DnsServer::start();
    server.signed("signed.test");
    for zone in ["signed.test", "plain.test"] {
        let host = format!("mx.{zone}");
        server.mx(zone, 10, &host).host(&host, "192.0.2.1").host(&host, "2001:db8::1");
        server.tlsa(&format!("_25._tcp.{host}"), record(3)).text(&format!("_mta-sts.{zone}"), &"x".repeat(300));
    }
    server
}

async fn secure(resolver: &Resolver, zone: &str) -> [bool; 4] {
    let host = format!("mx.{zone}");
    [
        resolver.mx(&domain(zone)).await.unwrap().secure,
        resolver.addresses(&domain(&host)).await.unwrap().secure,
        resolver.tlsa(&domain(&format!("_25._tcp.{host}"))).await.unwrap().secure,
        resolver.txt(&domain(&format!("_mta-sts.{zone}"))).await.unwrap().secure,
    ]
}

#[tokio::test]
async fn what_a_local_validating_server_vouches_for_is_secure() {
    let server = two_zones();
    for dnssec in [Dnssec::Auto, Dnssec::Trust] {
        let resolver = resolver(&server, dnssec);
        assert_eq!(secure(&resolver, "signed.test").await, [true; 4]);
        assert_eq!(secure(&resolver, "signed.test").await, [true; 4], "from memory, too");
        assert_eq!(secure(&resolver, "plain.test").await, [false; 4]);
    }
    assert_eq!(secure(&resolver(&server, Dnssec::Off), "signed.test").await, [false; 4]);
}

#[tokio::test]
async fn records_come_whole() {
    let server = two_zones();
    let resolver = resolver(&server, Dnssec::Auto);
    let tlsa = resolver.tlsa(&domain("_25._tcp.mx.signed.test")).await.unwrap();
    assert_eq!(*tlsa.found, [record(3)]);
    assert_eq!(tlsa.found[0].to_string(), format!("3 1 1 {}", "03".repeat(32)));
    let text = resolver.txt(&domain("_mta-sts.signed.test")).await.unwrap();
    assert_eq!(text.found[0], "x".repeat(300).as_bytes(), "the strings of a record are one text");
    assert_eq!(resolver.tlsa(&domain("mx.signed.test")).await, Err(LookupError::NoRecords));
}

#[tokio::test]
async fn an_address_points_back_to_its_names() {
    let server = DnsServer::start();
    server.ptr("192.0.2.7", "mx.example.org").ptr("2001:db8::1", "six.example.org");
    let resolver = resolver(&server, Dnssec::Auto);
    for (address, host) in [("192.0.2.7", "mx.example.org"), ("2001:db8::1", "six.example.org")] {
        let names = resolver.ptr(&dns::reverse(address.parse().unwrap())).await.unwrap();
        assert_eq!(*names.found, [domain(host)]);
    }
    let nobody = resolver.ptr(&dns::reverse("192.0.2.8".parse().unwrap())).await;
    assert_eq!(nobody, Err(LookupError::NoSuchDomain));
}

#[tokio::test]
async fn a_chain_is_as_secure_as_its_weakest_link() {
    for chases in [true, false] {
        let server = two_zones();
        server.follow_aliases(chases);
        server.alias("a.signed.test", "mx.signed.test").alias("b.signed.test", "mx.plain.test");
        server.alias("c.plain.test", "mx.signed.test");
        let resolver = resolver(&server, Dnssec::Trust);
        let ask = async |name: &str| {
            let found = resolver.addresses(&domain(name)).await.unwrap();
            (found.secure, found.alias)
        };
        let alias = |to: &str, secure| Some(Alias { to: domain(to), secure });
        assert_eq!(ask("a.signed.test").await, (true, alias("mx.signed.test", true)));
        assert_eq!(ask("b.signed.test").await, (false, alias("mx.plain.test", true)), "the first link is signed");
        assert_eq!(ask("c.plain.test").await, (false, alias("mx.signed.test", false)));
        assert_eq!(ask("mx.signed.test").await, (true, None));
    }
}

#[tokio::test]
async fn a_forged_answer_is_no_answer() {
    let server = two_zones();
    server.behave("_25._tcp.mx.signed.test", Behaviour::Bogus).behave("down.signed.test", Behaviour::ServFail);
    server.behave_for("mx.signed.test", Kind::A, Behaviour::Bogus);
    server.behave_for("mx.signed.test", Kind::Aaaa, Behaviour::Bogus);
    let resolver = resolver(&server, Dnssec::Auto);
    let tlsa = resolver.tlsa(&domain("_25._tcp.mx.signed.test")).await.unwrap_err();
    assert!(tlsa.is_temporary() && tlsa.is_bogus(), "{tlsa:?}");
    assert!(resolver.addresses(&domain("mx.signed.test")).await.unwrap_err().is_bogus());
    let down = resolver.tlsa(&domain("down.signed.test")).await.unwrap_err();
    assert!(down.is_temporary() && !down.is_bogus(), "{down:?}");
    let off = self::resolver(&server, Dnssec::Off).tlsa(&domain("_25._tcp.mx.signed.test")).await.unwrap_err();
    assert!(off.is_temporary() && !off.is_bogus(), "{off:?}");
}

#[tokio::test]
async fn a_probe_tells_whether_the_server_validates() {
    let server = DnsServer::start();
    server.exists(".");
    assert_eq!(resolver(&server, Dnssec::Off).probe().await, Probe::Off);
    assert_eq!(resolver(&server, Dnssec::Auto).probe().await, Probe::DoesNotValidate);
    server.signed(".").soa(".");
    assert_eq!(resolver(&server, Dnssec::Auto).probe().await, Probe::Validates);
    server.behave(".", Behaviour::ServFail);
    assert!(matches!(resolver(&server, Dnssec::Auto).probe().await, Probe::Unknown(_)));
}

#[test]
fn a_server_elsewhere_is_not_trusted() {
    let servers = Servers::Listed(vec!["192.0.2.53:53".parse().unwrap()]);
    let build = |dnssec| {
        let settings = Settings { servers: servers.clone(), dnssec, ..Settings::default() };
        Resolver::new(settings, Arc::new(SystemClock), Metrics::default())
    };
    assert!(build(Dnssec::Auto).is_ok() && build(Dnssec::Off).is_ok());
    let Err(error) = build(Dnssec::Trust) else { panic!("trusted") };
    assert!(matches!(error, SetupError::Remote(_)));
    assert!(error.to_string().contains("192.0.2.53"), "{error}");
}
