//! Our own validation: what is secure, what is not, and what somebody between us and the name servers makes of it.

mod world;

use std::sync::Arc;
use std::time::Duration;

use dns::testing::DnsServer;
use dns::{Dnssec, LookupError, Metrics, Probe, Resolve, Resolver, Servers, Settings, SetupError};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, NULL, TLSA, TXT};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::BinEncodable;
use mail::SystemClock;

use crate::domain;
use world::{Said, World, Zone, dnssec, name, record, soa};

fn settings(world: &World) -> Settings {
    Settings {
        servers: Servers::Listed(vec![world.address]),
        dnssec: Dnssec::Validate,
        trust_anchors: Some(world.anchors()),
        timeout: Duration::from_millis(500),
        cache_memory: 0,
        ..Settings::default()
    }
}

fn resolver(settings: Settings) -> Resolver {
    Resolver::new(settings, Arc::new(SystemClock), Metrics::default()).unwrap()
}

fn a(owner: &str) -> Record {
    record(owner, RData::A(A::new(192, 0, 2, 1)))
}

fn tlsa(owner: &str) -> Record {
    let data = TLSA::new(CertUsage::from(3), Selector::from(1), Matching::from(1), vec![7; 32]);
    record(owner, RData::TLSA(data))
}

fn mx(owner: &str, host: &str) -> Record {
    record(owner, RData::MX(MX::new(10, name(host))))
}

const TLSA_NAME: &str = "_25._tcp.mx.signed.test.";

/// A domain with everything in `signed.test`, and one in `plain.test`.
fn world() -> World {
    let world = World::new();
    let signed = &world.signed;
    for records in [mx("signed.test.", "mx.signed.test."), a("mx.signed.test."), tlsa(TLSA_NAME)] {
        world.tell(signed, vec![records]);
    }
    world.tell(signed, vec![record("_mta-sts.signed.test.", RData::TXT(TXT::new(vec!["v=STSv1".to_owned()])))]);
    for records in [mx("plain.test.", "mx.plain.test."), a("mx.plain.test."), tlsa("_25._tcp.mx.plain.test.")] {
        world.tell_unsigned(vec![records]);
    }
    world
}

async fn secure(resolver: &Resolver, zone: &str) -> [bool; 3] {
    let host = format!("mx.{zone}");
    [
        resolver.mx(&domain(zone)).await.unwrap().secure,
        resolver.addresses(&domain(&host)).await.unwrap().secure,
        resolver.tlsa(&domain(&format!("_25._tcp.{host}"))).await.unwrap().secure,
    ]
}

/// What a look-up of the TLSA records gives that somebody on the way does not want to be found.
async fn tlsa_of(world: &World) -> Result<bool, LookupError> {
    let resolver = resolver(settings(world));
    resolver.tlsa(&domain(TLSA_NAME.trim_end_matches('.'))).await.map(|found| found.secure)
}

#[tokio::test]
async fn signed_zones_are_secure_and_unsigned_ones_are_not() {
    let world = world();
    let resolver = resolver(settings(&world));
    assert_eq!(resolver.probe().await, Probe::ValidatesHere);
    assert_eq!(secure(&resolver, "signed.test").await, [true; 3]);
    assert!(resolver.txt(&domain("_mta-sts.signed.test")).await.unwrap().secure);
    assert_eq!(secure(&resolver, "plain.test").await, [false; 3]);
    assert_eq!(resolver.tlsa(&domain("_26._tcp.mx.signed.test")).await, Err(LookupError::NoRecords));
    assert_eq!(resolver.mx(&domain("nothing.plain.test")).await, Err(LookupError::NoRecords));
}

#[tokio::test]
async fn aliases_are_as_secure_as_their_weakest_link() {
    let world = world();
    let alias = |owner: &str, target: &str| record(owner, RData::CNAME(CNAME(name(target))));
    world.tell(&world.signed, vec![alias("good.signed.test.", "mx.signed.test.")]);
    // What the server says of the alias's target beside it is not looked at.
    let mut said = world.told("good.signed.test.", RecordType::CNAME);
    said.answers.push(a("mx.signed.test."));
    world.forge("good.signed.test.", RecordType::A, said.clone());
    world.forge("good.signed.test.", RecordType::AAAA, said);
    world.tell(&world.signed, vec![alias("weak.signed.test.", "mx.plain.test.")]);
    for kind in [RecordType::A, RecordType::AAAA] {
        world.forge("weak.signed.test.", kind, world.told("weak.signed.test.", RecordType::CNAME));
    }
    let resolver = resolver(settings(&world));
    let good = resolver.addresses(&domain("good.signed.test")).await.unwrap();
    assert!(good.secure && good.alias.as_ref().is_some_and(|alias| alias.to == domain("mx.signed.test")), "{good:?}");
    let weak = resolver.addresses(&domain("weak.signed.test")).await.unwrap();
    assert!(!weak.secure && weak.alias.as_ref().is_some_and(|alias| alias.secure), "{weak:?}");
}

#[tokio::test]
async fn what_a_dname_record_makes_is_as_secure_as_the_record() {
    let world = world();
    let target = name("signed.test.").to_bytes().unwrap();
    let dname = RData::Unknown { code: RecordType::DNAME, rdata: NULL::with(target) };
    let mut answers = world.test.sign(vec![record("old.test.", dname)]);
    answers.push(record("mx.old.test.", RData::CNAME(CNAME(name("mx.signed.test.")))));
    let said = Said { answers, ..Said::default() };
    world.forge("mx.old.test.", RecordType::A, said.clone());
    world.forge("mx.old.test.", RecordType::AAAA, said.clone());
    let resolver = resolver(settings(&world));
    assert!(resolver.addresses(&domain("mx.old.test")).await.unwrap().secure);

    let mut other = said;
    other.answers.pop();
    other.answers.push(record("mx.old.test.", RData::CNAME(CNAME(name("mx.plain.test.")))));
    world.forge("mx.old.test.", RecordType::A, other.clone());
    world.forge("mx.old.test.", RecordType::AAAA, other);
    assert!(resolver.addresses(&domain("mx.old.test")).await.unwrap_err().is_bogus());
}

#[tokio::test]
async fn forged_records_are_bogus() {
    let world = world();
    let forgeries = [
        vec![tlsa(TLSA_NAME)],
        Zone::new("signed.test.").sign(vec![tlsa(TLSA_NAME)]),
        world.evil.sign(vec![tlsa(TLSA_NAME)]),
        world.signed.sign_until(vec![tlsa(TLSA_NAME)], 1_700_000_000),
    ];
    for answers in forgeries {
        world.forge(TLSA_NAME, RecordType::TLSA, Said { answers, ..Said::default() });
        let found = tlsa_of(&world).await;
        assert!(found.as_ref().is_err_and(LookupError::is_bogus), "{found:?}");
    }
}

#[tokio::test]
async fn records_cannot_be_denied_by_others() {
    let world = world();
    let everything = world.evil.nsec("evil.test.", "zzz.test.", &[RecordType::SOA]);
    let mut beside_plain = everything.clone();
    beside_plain.push(soa("plain.test."));
    let mut beside_evil = everything.clone();
    beside_evil.extend(world.evil.sign(vec![soa("evil.test.")]));
    let cut = world.test.nsec("signed.test.", "zzz.test.", &[RecordType::NS, RecordType::DS]);
    let lies =
        [vec![], vec![soa("plain.test.")], vec![soa("signed.test.")], everything, beside_plain, beside_evil, cut];
    for authorities in lies {
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            let said = Said { code, authorities: authorities.clone(), ..Said::default() };
            world.forge(TLSA_NAME, RecordType::TLSA, said);
            let found = tlsa_of(&world).await;
            assert!(found.as_ref().is_err_and(LookupError::is_temporary), "{code}: {authorities:?}: {found:?}");
        }
    }
}

#[tokio::test]
async fn keys_cannot_be_replaced() {
    let world = world();
    let forger = Zone::new("signed.test.");
    world.forge(TLSA_NAME, RecordType::TLSA, Said { answers: forger.sign(vec![tlsa(TLSA_NAME)]), ..Said::default() });
    let beside = vec![soa("plain.test.")];
    let keys = |owner: &str| forger.sign(vec![dnssec(owner, DNSSECRData::DNSKEY(forger.dnskey()))]);
    let good_ds = world.told("signed.test.", RecordType::DS);
    // The digest of a key that is not evil's own, which the zone above evil signs like any other.
    let their_ds = world.test.sign(vec![dnssec("evil.test.", DNSSECRData::DS(forger.ds("signed.test.")))]);
    let denied = world.test.nsec("signed.test.", "zzz.test.", &[RecordType::DS]);
    let lies = [
        (keys("signed.test."), good_ds.clone()),
        (keys("plain.test."), good_ds.clone()),
        (keys("signed.test."), Said { answers: their_ds, authorities: beside.clone(), ..Said::default() }),
        (keys("signed.test."), Said { authorities: beside.clone(), ..Said::default() }),
        (vec![], Said { authorities: denied, ..Said::default() }),
        (
            vec![],
            Said { authorities: world.test.nsec("plain.test.", "zzz.test.", &[RecordType::NS]), ..Said::default() },
        ),
        (keys("signed.test."), Said { code: ResponseCode::NXDomain, authorities: beside.clone(), ..Said::default() }),
    ];
    for (at, (answers, ds)) in lies.into_iter().enumerate() {
        let said = Said { answers, authorities: beside.clone(), ..Said::default() };
        world.forge("signed.test.", RecordType::DNSKEY, said);
        world.forge("signed.test.", RecordType::DS, ds);
        let found = tlsa_of(&world).await;
        assert!(found.as_ref().is_err_and(LookupError::is_temporary), "{at}: {found:?}");
    }
}

#[tokio::test]
async fn a_wildcard_needs_the_proof_that_there_is_nothing_closer() {
    let world = world();
    let mut wild = world.signed.sign(vec![tlsa("*.signed.test.")]);
    for record in &mut wild {
        record.name = name(TLSA_NAME);
    }
    let covering = |owner: &str, next: &str| world.signed.nsec(owner, next, &[RecordType::A]);
    let others = world.evil.nsec("evil.test.", "zzz.test.", &[]);
    let closer = covering("mx.signed.test.", "ns.signed.test.");
    let elsewhere = covering("ns.signed.test.", "zz.signed.test.");
    let unsigned = vec![covering("*.signed.test.", "ns.signed.test.").remove(0)];
    for authorities in [vec![], vec![soa("plain.test.")], others, closer, elsewhere, unsigned] {
        let said = Said { answers: wild.clone(), authorities: authorities.clone(), ..Said::default() };
        world.forge(TLSA_NAME, RecordType::TLSA, said);
        let found = tlsa_of(&world).await;
        assert!(found.as_ref().is_err_and(LookupError::is_temporary), "{authorities:?}: {found:?}");
    }
    // The name right below the wildcard, and one far below.
    for owner in ["x.signed.test.", TLSA_NAME] {
        for record in &mut wild {
            record.name = name(owner);
        }
        let around = covering("*.signed.test.", if owner == TLSA_NAME { "ns.signed.test." } else { "zz.signed.test." });
        world.forge(owner, RecordType::TLSA, Said { answers: wild.clone(), authorities: around, ..Said::default() });
        let found = resolver(settings(&world)).tlsa(&domain(owner.trim_end_matches('.'))).await;
        assert!(found.is_ok_and(|found| found.secure), "{owner}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_not_forged_and_not_remembered() {
    let world = world();
    let resolver = resolver(settings(&world));
    let good = world.told("signed.test.", RecordType::DNSKEY);
    let question = domain("mx.signed.test");
    world.forge("signed.test.", RecordType::DNSKEY, Said { code: ResponseCode::ServFail, ..Said::default() });
    let failing = resolver.addresses(&question).await.unwrap_err();
    assert!(failing.is_temporary() && !failing.is_bogus(), "{failing:?}");
    let forger = Zone::new("signed.test.");
    world.tell(&forger, vec![dnssec("signed.test.", DNSSECRData::DNSKEY(forger.dnskey()))]);
    assert!(resolver.addresses(&question).await.unwrap_err().is_bogus());
    world.forge("signed.test.", RecordType::DNSKEY, good);
    assert!(resolver.addresses(&question).await.unwrap().secure);
}

#[tokio::test]
async fn zones_that_are_said_to_be_unsigned_are_left_out() {
    let world = world();
    world.tell_unsigned(vec![mx("signed.test.", "mx.signed.test.")]);
    let open = Settings { unsigned: vec![domain("signed.test")], ..settings(&world) };
    assert!(!resolver(open).mx(&domain("signed.test")).await.unwrap().secure);
    assert!(resolver(settings(&world)).mx(&domain("signed.test")).await.unwrap_err().is_bogus());
}

#[tokio::test]
async fn a_name_server_without_signatures_is_told() {
    let server = DnsServer::start();
    server.host("mx.signed.test", "192.0.2.1").signed(".");
    let servers = Servers::Listed(vec![server.address()]);
    let resolver = resolver(Settings { servers, dnssec: Dnssec::Validate, ..Settings::default() });
    let probe = resolver.probe().await;
    assert!(matches!(probe, Probe::Fails(_) | Probe::Unknown(_)), "{probe:?}");
    assert!(resolver.addresses(&domain("mx.signed.test")).await.unwrap_err().is_temporary());
}

#[test]
fn anchors_are_keys_of_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("anchors");
    let key = "257 3 13 kXKkvWU3vGYfTJGl3qBd4qhiWp5aRs7YtkCJxD2d+t7KXqwahww5IgJtxJT2yFItlggazyfXqJEVOmMJ3qT0tQ==";
    for wrong in ["", "; nothing", &format!("example.org. IN DNSKEY {key}"), "nonsense", ". IN A 192.0.2.1"] {
        std::fs::write(&file, wrong).unwrap();
        let servers = Servers::Listed(vec!["127.0.0.1:53".parse().unwrap()]);
        let settings =
            Settings { servers, dnssec: Dnssec::Validate, trust_anchors: Some(file.clone()), ..Settings::default() };
        let made = Resolver::new(settings, Arc::new(SystemClock), Metrics::default());
        let error = made.err().unwrap_or_else(|| panic!("{wrong}"));
        assert!(matches!(&error, SetupError::Anchors { .. }) && error.to_string().contains("anchors"), "{error}");
    }
}
