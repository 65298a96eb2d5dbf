//! Which rule decides about a host, and what it demands.

use std::sync::Arc;
use std::time::Duration;

use dns::testing::Fixed;
use futures_util::future::BoxFuture;
use mail::{CertificateName, Domain, EnhancedCode, FoundBy, Host, TlsDemand, TlsLevel};
use rustls::RootCertStore;
use tls::client::{Ask, Basis, Client, Demand, Policy, Proof, Refusal};
use tls::mtasts::{Mode, MxPattern, StsPolicies, StsPolicy};
use tls::report::{FailureType, PolicyApplied};

use crate::host::{Age, domain, own, record};

/// Every domain that begins with `sts` has a policy that lists `*.hosts.test`.
struct Some(Mode);

impl StsPolicies for Some {
    fn policy<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Option<Arc<StsPolicy>>> {
        let pattern = MxPattern::parse("*.hosts.test").unwrap();
        let policy = StsPolicy::new(self.0, Duration::from_secs(86_400), vec![pattern]);
        Box::pin(std::future::ready(domain.as_str().starts_with("sts").then(|| Arc::new(policy))))
    }
}

/// Domains `signed.test`, `plain.test` and `sts.test` whose exchanges are `dane.hosts.test` (with a TLSA record),
/// `bare.hosts.test` (signed, without one), `plain.elsewhere.test`, `broken.hosts.test`, `forged.hosts.test`.
fn dns() -> Fixed {
    let dns = Fixed::default();
    dns.signed("signed.test").signed("hosts.test");
    for zone in ["signed.test", "plain.test", "sts.test"] {
        for host in
            ["dane.hosts.test", "bare.hosts.test", "plain.elsewhere.test", "broken.hosts.test", "forged.hosts.test"]
        {
            dns.mx(zone, 10, host).host(host, "192.0.2.1");
        }
    }
    dns.tlsa("_25._tcp.dane.hosts.test", record(3, 1, 1, &own("x.test", Age::Fresh).chain[0]));
    dns.temporary("_25._tcp.broken.hosts.test").bogus("_25._tcp.forged.hosts.test");
    // Not signed: it does not count, and must not even be asked for.
    dns.temporary("_25._tcp.plain.elsewhere.test");
    dns
}

struct Question {
    level: TlsLevel,
    demand: TlsDemand,
    implicit: bool,
    found: FoundBy,
    mode: Mode,
}

/// Of a recipient's domain by default.
fn of(zone: &str) -> Question {
    Question {
        level: TlsLevel::Dane,
        demand: TlsDemand::Default,
        implicit: false,
        found: FoundBy::Recipients(domain(zone)),
        mode: Mode::Enforce,
    }
}

impl Question {
    async fn ask(&self, host: &str) -> Result<Policy, Refusal> {
        let client = Client::new(Arc::new(dns()), Arc::new(Some(self.mode)), Arc::new(RootCertStore::empty()));
        let host = Host::parse(host).unwrap();
        let (level, demand, implicit) = (&self.level, self.demand, self.implicit);
        client.policy(&Ask { level, demand, implicit, found: &self.found, host: &host, port: 25 }).await
    }
}

fn named(name: &str) -> Demand {
    Demand::Must(Proof::Names(vec![CertificateName::Exact(domain(name))]))
}

fn is_dane(policy: &Policy) -> bool {
    matches!(policy.demand, Demand::Must(Proof::Dane(_)))
}

#[tokio::test]
async fn dane_before_mta_sts_before_nothing() {
    let dane = of("signed.test").ask("dane.hosts.test").await.unwrap();
    assert!(is_dane(&dane) && dane.basis == Basis::Dane);
    assert!(matches!(&dane.applied, Option::Some((zone, PolicyApplied::Tlsa { base, records }))
        if zone.as_str() == "signed.test" && base.as_str() == "dane.hosts.test" && records[0].starts_with("3 1 1 ")));
    let both = of("sts.test").ask("dane.hosts.test").await.unwrap();
    assert!(is_dane(&both) && both.basis == Basis::Dane);
    let sts = of("sts.test").ask("bare.hosts.test").await.unwrap();
    assert_eq!((&sts.demand, sts.basis), (&named("bare.hosts.test"), Basis::MtaSts));
    let neither = of("plain.test").ask("plain.elsewhere.test").await.unwrap();
    assert_eq!((&neither.demand, neither.basis), (&Demand::May, Basis::Opportunistic));
    assert!(matches!(neither.applied, Option::Some((_, PolicyApplied::NoPolicyFound))));
}

#[tokio::test]
async fn a_look_up_that_fails_or_is_forged_defers_and_never_weakens() {
    for (host, kind) in
        [("broken.hosts.test", FailureType::ValidationFailure), ("forged.hosts.test", FailureType::DnssecInvalid)]
    {
        for zone in ["signed.test", "plain.test", "sts.test"] {
            let refusal = of(zone).ask(host).await.unwrap_err();
            assert!(refusal.fault.is_transient(), "{host}: {}", refusal.fault);
            assert_eq!(refusal.fault.reply.enhanced(), Option::Some(EnhancedCode::new(4, 7, 5)));
            assert_eq!(refusal.report.unwrap().1.kind, kind, "{host}");
        }
    }
}

#[tokio::test]
async fn a_host_that_the_policy_does_not_list_is_not_used() {
    let refusal = of("sts.test").ask("plain.elsewhere.test").await.unwrap_err();
    assert!(refusal.fault.is_transient());
    assert_eq!(refusal.report.unwrap().1.kind, FailureType::CertificateHostMismatch);
    let testing = Question { mode: Mode::Testing, ..of("sts.test") };
    let tried = testing.ask("plain.elsewhere.test").await.unwrap();
    assert_eq!(tried.demand, Demand::May);
    assert_eq!(
        tried.trial(&[], rustls_pki_types::UnixTime::now()).unwrap_err().kind,
        FailureType::CertificateHostMismatch
    );
    let none = Question { mode: Mode::None, ..of("sts.test") };
    assert_eq!(none.ask("plain.elsewhere.test").await.unwrap().basis, Basis::Opportunistic);
}

#[tokio::test]
async fn the_records_of_a_host_count_although_its_domain_is_not_signed() {
    let policy = of("plain.test").ask("dane.hosts.test").await.unwrap();
    let Demand::Must(Proof::Dane(proof)) = &policy.demand else { panic!("{policy:?}") };
    assert!(!proof.names.contains(&domain("plain.test")), "unsigned MX records name no names");
    let signed = of("signed.test").ask("dane.hosts.test").await.unwrap();
    let Demand::Must(Proof::Dane(proof)) = &signed.demand else { panic!("{signed:?}") };
    assert!(proof.names.contains(&domain("signed.test")));
}

#[tokio::test]
async fn the_route_goes_before_everything() {
    let by_route = async |level: TlsLevel, host: &str| {
        let question = Question { level, ..of("sts.test") };
        question.ask(host).await.unwrap()
    };
    let host = "dane.hosts.test";
    assert_eq!(by_route(TlsLevel::None, host).await.demand, Demand::Clear);
    assert_eq!(by_route(TlsLevel::Opportunistic, host).await.demand, Demand::May);
    assert_eq!(by_route(TlsLevel::Encrypt, host).await.demand, Demand::Must(Proof::Nothing));
    assert_eq!(by_route(TlsLevel::Verify(Vec::new()), host).await.demand, named(host));
    let digests = vec![[7; 32]];
    let fingerprint = by_route(TlsLevel::Fingerprint(digests.clone()), host).await;
    assert_eq!((fingerprint.demand, fingerprint.basis), (Demand::Must(Proof::Fingerprints(digests)), Basis::Route));
    assert!(is_dane(&by_route(TlsLevel::DaneOnly, host).await));
    let address = by_route(TlsLevel::Verify(Vec::new()), "[192.0.2.1]").await;
    assert_eq!(address.demand, Demand::Must(Proof::Address("192.0.2.1".parse().unwrap())));
}

#[tokio::test]
async fn dane_only_takes_nothing_less() {
    for host in ["bare.hosts.test", "plain.elsewhere.test"] {
        for demand in [TlsDemand::Default, TlsDemand::NotRequired] {
            let question = Question { level: TlsLevel::DaneOnly, demand, ..of("sts.test") };
            let refusal = question.ask(host).await.unwrap_err();
            assert!(refusal.fault.is_transient(), "{}", refusal.fault);
            assert_eq!(refusal.report.unwrap().1.kind, FailureType::DaneRequired);
        }
    }
}

#[tokio::test]
async fn tls_from_the_start_is_never_in_clear() {
    for level in [TlsLevel::Opportunistic, TlsLevel::Dane] {
        let question = Question { level, implicit: true, found: FoundBy::Configuration, ..of("plain.test") };
        assert_eq!(question.ask("plain.elsewhere.test").await.unwrap().demand, Demand::Must(Proof::Nothing));
    }
}

#[tokio::test]
async fn a_message_that_requires_tls_goes_to_proven_hosts_only() {
    let required = |zone, level| Question { demand: TlsDemand::Required, level, ..of(zone) };
    let ask = async |zone, level, host| required(zone, level).ask(host).await;
    // Signed MX records or a policy vouch for the host's name, and DANE or an authority for its certificate.
    let dane = ask("signed.test", TlsLevel::Dane, "dane.hosts.test").await.unwrap();
    assert!(is_dane(&dane) && dane.basis == Basis::RequireTls);
    assert!(is_dane(&ask("sts.test", TlsLevel::Encrypt, "dane.hosts.test").await.unwrap()));
    assert_eq!(ask("signed.test", TlsLevel::Dane, "bare.hosts.test").await.unwrap().demand, named("bare.hosts.test"));
    assert_eq!(
        ask("sts.test", TlsLevel::Opportunistic, "bare.hosts.test").await.unwrap().demand,
        named("bare.hosts.test")
    );
    for (zone, host, level) in [
        ("plain.test", "bare.hosts.test", TlsLevel::Dane),
        ("plain.test", "dane.hosts.test", TlsLevel::Dane),
        ("sts.test", "plain.elsewhere.test", TlsLevel::Dane),
        ("signed.test", "dane.hosts.test", TlsLevel::None),
    ] {
        let fault = ask(zone, level, host).await.unwrap_err().fault;
        assert_eq!(
            (fault.reply.code(), fault.reply.enhanced()),
            (550, Option::Some(EnhancedCode::new(5, 7, 10))),
            "{host}"
        );
    }
    assert!(ask("signed.test", TlsLevel::Dane, "forged.hosts.test").await.unwrap_err().fault.is_transient());
    let named_host = Question { found: FoundBy::Configuration, ..required("plain.test", TlsLevel::Dane) };
    assert_eq!(named_host.ask("bare.hosts.test").await.unwrap().demand, named("bare.hosts.test"));
}

#[tokio::test]
async fn a_message_that_does_not_is_rather_sent_in_clear() {
    let lenient = |level| Question { demand: TlsDemand::NotRequired, level, ..of("sts.test") };
    for host in ["dane.hosts.test", "bare.hosts.test", "plain.elsewhere.test", "forged.hosts.test"] {
        assert_eq!(lenient(TlsLevel::Dane).ask(host).await.unwrap().demand, Demand::May, "{host}");
    }
    // What the operator demands is not the sender's to lift.
    let encrypt = lenient(TlsLevel::Encrypt).ask("bare.hosts.test").await.unwrap();
    assert_eq!(encrypt.demand, Demand::Must(Proof::Nothing));
}
