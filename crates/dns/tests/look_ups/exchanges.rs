//! Mail hosts by RFC 5321 §5.1 and RFC 7505.

use std::sync::Arc;

use dns::testing::Fixed;
use dns::{Addresses, BoxFuture, Exchange, LookUp, LookupError, MAX_EXCHANGES, MxAnswer};
use dns::{NoExchange, Ourselves, Resolve, TlsaRecord};
use dns::{exchanges, shuffle_equal, site};
use mail::{Domain, EnhancedCode, Host, Randomness};

use crate::domain;

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn ours(names: &[&str], addresses: &[&str]) -> Ourselves {
    Ourselves {
        names: names.iter().copied().map(domain).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

async fn ask(dns: &Fixed, name: &str, ours: &Ourselves) -> Result<Vec<(u16, String)>, NoExchange> {
    let found = exchanges(dns, &host(name), ours).await?;
    Ok(found.into_iter().map(|exchange| (exchange.preference, exchange.host.to_string())).collect())
}

async fn others(dns: &Fixed, name: &str) -> Result<Vec<(u16, String)>, NoExchange> {
    ask(dns, name, &Ourselves::default()).await
}

fn list(hosts: &[(u16, &str)]) -> Result<Vec<(u16, String)>, NoExchange> {
    Ok(hosts.iter().map(|(preference, name)| (*preference, (*name).to_owned())).collect())
}

/// A domain with three hosts and their addresses.
fn three() -> Fixed {
    let dns = Fixed::default();
    for (preference, name, address) in
        [(10, "a.test", "192.0.2.1"), (20, "b.test", "192.0.2.2"), (20, "c.test", "192.0.2.3")]
    {
        dns.mx("example.org", preference, name).host(name, address);
    }
    dns
}

#[tokio::test]
async fn mx_hosts_by_preference_and_each_once() {
    let dns = three();
    dns.mx("example.org", 30, "a.test");
    assert_eq!(others(&dns, "example.org").await, list(&[(10, "a.test"), (20, "b.test"), (20, "c.test")]));
}

#[tokio::test]
async fn the_domain_itself_only_without_any_mx() {
    let dns = Fixed::default();
    dns.host("plain.test", "192.0.2.1").host("both.test", "192.0.2.1").mx("both.test", 5, "gone.test");
    assert_eq!(others(&dns, "plain.test").await, list(&[(0, "plain.test")]));
    assert_eq!(others(&dns, "both.test").await, list(&[(5, "gone.test")]));
}

#[tokio::test]
async fn no_host_and_why() {
    let dns = Fixed::default();
    dns.null_mx("null.test").exists("empty.test").temporary("broken.test");
    dns.mx("dead.test", 10, "gone.test").mx("dead.test", 20, "empty.test");
    let elsewhere = ours(&[], &["198.51.100.1"]);
    for (name, code, enhanced, temporary) in [
        ("null.test", 556, EnhancedCode::new(5, 1, 10), false),
        ("gone.test", 550, EnhancedCode::new(5, 1, 2), false),
        ("empty.test", 550, EnhancedCode::new(5, 1, 2), false),
        ("dead.test", 550, EnhancedCode::new(5, 4, 4), false),
        ("broken.test", 451, EnhancedCode::new(4, 4, 3), true),
    ] {
        let error = ask(&dns, name, &elsewhere).await.unwrap_err();
        let fault = error.fault();
        assert_eq!((fault.reply.code(), fault.reply.enhanced()), (code, Some(enhanced)), "{name}");
        assert_eq!((error.is_temporary(), fault.is_transient()), (temporary, temporary), "{name}");
        assert!(fault.reply.text().contains(name), "{fault}");
    }
}

#[tokio::test]
async fn an_mx_that_can_not_be_looked_up_is_no_reason_to_use_the_address() {
    let dns = Fixed::default();
    dns.host("broken.test", "192.0.2.1").temporary("broken.test");
    assert!(others(&dns, "broken.test").await.unwrap_err().is_temporary());
}

#[tokio::test]
async fn a_null_mx_beside_others_does_not_count() {
    let dns = Fixed::default();
    dns.null_mx("odd.test").mx("odd.test", 10, "a.test");
    assert_eq!(others(&dns, "odd.test").await, list(&[(10, "a.test")]));
}

#[tokio::test]
async fn our_own_name_cuts_the_list() {
    let dns = three();
    let ask = async |name| ask(&dns, "example.org", &ours(&[name], &[])).await;
    assert_eq!(ask("c.test").await, list(&[(10, "a.test")]));
    assert_eq!(ask("elsewhere.test").await.unwrap().len(), 3);
    let fault = ask("a.test").await.unwrap_err().fault();
    assert_eq!((fault.reply.code(), fault.reply.enhanced()), (554, Some(EnhancedCode::new(5, 4, 6))));
    assert!(fault.reply.text().contains("loops back to myself"), "{fault}");
}

#[tokio::test]
async fn our_own_address_cuts_the_list_under_any_name() {
    let dns = three();
    let ask = async |address| ask(&dns, "example.org", &ours(&[], &[address])).await;
    assert_eq!(ask("192.0.2.2").await, list(&[(10, "a.test")]));
    assert_eq!(ask("198.51.100.1").await.unwrap().len(), 3);
    assert!(matches!(ask("192.0.2.1").await, Err(NoExchange::Loop(_))));
}

#[tokio::test]
async fn a_host_whose_address_is_not_known_stays() {
    let dns = three();
    dns.temporary("a.test").forget("c.test");
    let found = ask(&dns, "example.org", &ours(&[], &["198.51.100.1"])).await;
    assert_eq!(found.unwrap().len(), 3);
}

/// Knows the names, but never gets the addresses of `slow.test`.
struct Stuck(Fixed);

impl Resolve for Stuck {
    fn mx<'a>(&'a self, name: &'a Domain) -> LookUp<'a, MxAnswer> {
        Resolve::mx(&self.0, name)
    }

    fn addresses<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Result<Addresses, LookupError>> {
        if name.as_str() == "slow.test" { Box::pin(std::future::pending()) } else { self.0.addresses(name) }
    }

    fn tlsa<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[TlsaRecord]>> {
        Resolve::tlsa(&self.0, name)
    }

    fn txt<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Vec<u8>]>> {
        Resolve::txt(&self.0, name)
    }

    fn ptr<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Domain]>> {
        Resolve::ptr(&self.0, name)
    }
}

#[tokio::test(start_paused = true)]
async fn the_search_for_our_own_address_is_bounded_in_time() {
    let dns = three();
    dns.mx("example.org", 5, "slow.test").mx("example.org", 30, "gone.test");
    let found = exchanges(&Stuck(dns), &host("example.org"), &ours(&[], &["192.0.2.2"])).await.unwrap();
    let names: Vec<String> = found.iter().map(|exchange| exchange.host.to_string()).collect();
    assert_eq!(names, ["slow.test", "a.test"]);
}

#[tokio::test]
async fn addresses_are_not_looked_up_without_need() {
    let dns = three();
    others(&dns, "example.org").await.unwrap();
    assert_eq!((dns.asked("example.org"), dns.asked("a.test")), (1, 0));
}

#[tokio::test]
async fn the_domain_itself_may_be_ourselves() {
    let dns = Fixed::default();
    dns.host("example.org", "192.0.2.1");
    for ours in [ours(&["example.org"], &[]), ours(&[], &["192.0.2.1"])] {
        assert!(matches!(ask(&dns, "example.org", &ours).await, Err(NoExchange::Loop(_))));
    }
}

#[tokio::test]
async fn address_literals_are_their_own_host() {
    let dns = Fixed::default();
    assert_eq!(others(&dns, "[192.0.2.1]").await, list(&[(0, "[192.0.2.1]")]));
    let ours = ours(&[], &["192.0.2.1"]);
    for literal in ["[192.0.2.1]", "[IPv6:::ffff:192.0.2.1]"] {
        assert!(matches!(ask(&dns, literal, &ours).await, Err(NoExchange::Loop(_))), "{literal}");
    }
}

#[tokio::test]
async fn the_number_of_hosts_is_bounded() {
    let dns = Fixed::default();
    for n in 0..150 {
        dns.mx("huge.test", n, &format!("mx{n}.test"));
    }
    let found = others(&dns, "huge.test").await.unwrap();
    assert_eq!((found.len(), usize::from(found.last().unwrap().0)), (MAX_EXCHANGES, MAX_EXCHANGES - 1));
}

#[test]
fn only_equal_preferences_are_mixed() {
    let hosts = [(10, "a.test"), (20, "b.test"), (20, "c.test"), (20, "d.test"), (30, "e.test")];
    let before = hosts.map(|(preference, name)| Exchange { host: host(name), preference });
    let mut orders = std::collections::HashSet::new();
    let randomness = Randomness::seeded(5);
    for _ in 0..100 {
        let mut mixed = before.clone();
        shuffle_equal(&mut mixed, &randomness);
        assert!(mixed.is_sorted_by_key(|exchange| exchange.preference));
        assert_eq!(site(&mixed), site(&before));
        orders.insert(mixed);
    }
    assert_eq!(orders.len(), 6);
}
