//! Which certificates fit which TLSA records (RFC 6698, 7671, 7672), over real handshakes.

use std::sync::Arc;

use dns::TlsaRecord;
use dns::testing::Fixed;
use mail::{FoundBy, Host, TlsDemand, TlsLevel, Verified};
use rustls::RootCertStore;
use tls::client::{Ask, Basis, Demand, Policy, Proof, TlsFailure};
use tls::report::FailureType;

use crate::host::{Age, Authority, Identity, client, connect, domain, own, record, serve};

/// `mx.example.org` with these records, found by the signed MX records of `example.org`.
async fn meet(identity: Identity, records: &[TlsaRecord]) -> (Policy, Result<Verified, TlsFailure>) {
    let dns = Fixed::default();
    dns.signed("example.org").mx("example.org", 10, "mx.example.org").host("mx.example.org", "127.0.0.1");
    for record in records {
        dns.tlsa("_25._tcp.mx.example.org", record.clone());
    }
    let client = client(&dns, Arc::new(RootCertStore::empty()));
    let (found, host) = (FoundBy::Recipients(domain("example.org")), Host::Domain(domain("mx.example.org")));
    let ask = Ask {
        level: &TlsLevel::Dane,
        demand: TlsDemand::Default,
        implicit: false,
        found: &found,
        host: &host,
        port: 25,
    };
    let policy = client.policy(&ask).await.unwrap();
    assert_eq!(policy.basis, Basis::Dane);
    let result = client.handshake(connect(serve(identity).await).await, &policy).await;
    (policy, result.map(|(_, secured)| secured.facts.verified))
}

async fn verified(identity: Identity, records: &[TlsaRecord]) -> Result<Verified, FailureType> {
    meet(identity, records).await.1.map_err(|failure| failure.kind)
}

#[tokio::test]
async fn a_host_vouches_for_its_own_certificate() {
    for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let identity = own("whatever.example", Age::Expired);
        let records = [record(3, selector, matching, &identity.chain[0])];
        // RFC 7672 §3.1.1: neither name nor date counts.
        assert_eq!(verified(identity, &records).await, Ok(Verified::DaneEe), "3 {selector} {matching}");
    }
}

#[tokio::test]
async fn an_authority_of_the_domain_vouches_for_a_name_and_a_time() {
    let authority = Authority::new("house");
    for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let records = [record(2, selector, matching, &authority.certificate())];
        let fresh = |name| authority.issue(name, Age::Fresh);
        let what = format!("2 {selector} {matching}");
        assert_eq!(verified(fresh("mx.example.org"), &records).await, Ok(Verified::DaneTa), "{what}");
        // RFC 7672 §3.2.2: the recipients' domain will do, for the MX records are signed.
        assert_eq!(verified(fresh("example.org"), &records).await, Ok(Verified::DaneTa), "{what}");
        let other = verified(fresh("mx.example.net"), &records).await;
        assert_eq!(other, Err(FailureType::CertificateHostMismatch), "{what}");
        let expired = verified(authority.issue("mx.example.org", Age::Expired), &records).await;
        assert_eq!(expired, Err(FailureType::CertificateExpired), "{what}");
    }
}

#[tokio::test]
async fn an_authority_that_is_not_shown_is_known_only_if_the_record_holds_it() {
    let authority = Authority::new("house");
    let bare = || {
        let mut identity = authority.issue("mx.example.org", Age::Fresh);
        identity.chain.truncate(1);
        identity
    };
    for (selector, matching, expected) in [
        (0, 0, Ok(Verified::DaneTa)),
        (1, 0, Ok(Verified::DaneTa)),
        (0, 1, Err(FailureType::TlsaInvalid)),
        (1, 2, Err(FailureType::TlsaInvalid)),
    ] {
        let records = [record(2, selector, matching, &authority.certificate())];
        assert_eq!(verified(bare(), &records).await, expected, "2 {selector} {matching}");
    }
}

#[tokio::test]
async fn a_certificate_that_fits_no_record_is_refused() {
    let (shown, named) = (own("mx.example.org", Age::Fresh), own("mx.example.org", Age::Fresh));
    let records = [record(3, 1, 1, &named.chain[0])];
    let (policy, result) = meet(shown, &records).await;
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, FailureType::TlsaInvalid);
    let fault = failure.fault(policy.basis, "mx.example.org").reply.to_string();
    assert_eq!(fault, "451 4.7.5 mx.example.org: its certificate fits none of its TLSA records; DANE demands it");
}

#[tokio::test]
async fn another_authority_does_not_help_and_one_record_of_several_does() {
    let (house, other) = (Authority::new("house"), Authority::new("house"));
    let records = [record(2, 0, 0, &other.certificate())];
    let refused = verified(house.issue("mx.example.org", Age::Fresh), &records).await;
    assert!(matches!(refused, Err(FailureType::CertificateNotTrusted)), "{refused:?}");
    let rollover = [records[0].clone(), record(2, 1, 1, &house.certificate())];
    assert_eq!(verified(house.issue("mx.example.org", Age::Fresh), &rollover).await, Ok(Verified::DaneTa));
}

#[tokio::test]
async fn the_strongest_digest_counts() {
    let (shown, other) = (own("mx.example.org", Age::Fresh), own("mx.example.org", Age::Fresh));
    // RFC 7671 §9
    let records = [record(3, 1, 1, &shown.chain[0]), record(3, 1, 2, &other.chain[0])];
    assert_eq!(verified(shown, &records).await, Err(FailureType::TlsaInvalid));
}

#[tokio::test]
async fn records_that_cannot_be_used_demand_encryption_and_no_more() {
    let identity = own("mx.example.org", Age::Fresh);
    let short = TlsaRecord { data: [1, 2, 3].as_slice().into(), ..record(3, 1, 1, &identity.chain[0]) };
    let unknown = TlsaRecord { matching: 9, ..record(3, 1, 1, &identity.chain[0]) };
    // RFC 7672 §3.1.3: PKIX-TA and PKIX-EE are unusable.
    let records = [record(0, 1, 1, &identity.chain[0]), record(1, 0, 1, &identity.chain[0]), short, unknown];
    let (policy, result) = meet(identity, &records).await;
    assert_eq!(policy.demand, Demand::Must(Proof::Nothing));
    assert!(!policy.allows_clear());
    assert_eq!(result, Ok(Verified::No));
}
