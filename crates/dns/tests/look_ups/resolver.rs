//! What the resolver makes of a name server's answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dns::testing::{Behaviour, DnsServer, Kind, Transport};
use dns::{LookupError, MAX_RECORDS, Metrics, MxAnswer, MxRecord, Resolve, Resolver, Servers, Settings, SetupError};
use mail::{Clock, Timestamp};
use prometheus_client::registry::Registry;

use crate::domain;

/// A clock that is set by the test.
#[derive(Debug)]
struct TestClock {
    start: Instant,
    seconds: AtomicU64,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), seconds: AtomicU64::new(0) })
    }

    fn advance(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.seconds.load(Ordering::Relaxed) * 1000)
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }
}

fn settings(servers: &[SocketAddr]) -> Settings {
    Settings { servers: Servers::Listed(servers.to_vec()), ..Settings::default() }
}

/// For questions that nobody will answer.
fn impatient(servers: &[SocketAddr]) -> Settings {
    Settings { timeout: Duration::from_millis(200), attempts: 1, ..settings(servers) }
}

fn build(settings: Settings) -> (Resolver, Arc<TestClock>) {
    let clock = TestClock::new();
    (Resolver::new(settings, clock.clone(), Metrics::default()).unwrap(), clock)
}

fn resolver(server: &DnsServer) -> (Resolver, Arc<TestClock>) {
    build(settings(&[server.address()]))
}

async fn mx(resolver: &Resolver, name: &str) -> Result<MxAnswer, LookupError> {
    resolver.mx(&domain(name)).await.map(|answer| answer.found)
}

async fn addresses(resolver: &Resolver, name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let mut addresses = resolver.addresses(&domain(name)).await?.ips;
    addresses.sort_unstable();
    Ok(addresses)
}

fn hosts(records: &[(u16, &str)]) -> Result<MxAnswer, LookupError> {
    let record = |(preference, host): &(u16, &str)| MxRecord { preference: *preference, host: domain(host) };
    Ok(MxAnswer::Hosts(records.iter().map(record).collect()))
}

fn ips(addresses: &[&str]) -> Result<Vec<IpAddr>, LookupError> {
    Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn is_temporary<T>(result: &Result<T, LookupError>) -> bool {
    result.as_ref().is_err_and(LookupError::is_temporary)
}

#[tokio::test]
async fn mail_hosts_come_by_preference() {
    let server = DnsServer::start();
    server.mx("example.org", 20, "b.example.org").mx("example.org", 10, "A.Example.Org").null_mx("no.example.org");
    let (resolver, _) = resolver(&server);
    assert_eq!(mx(&resolver, "example.org").await, hosts(&[(10, "a.example.org"), (20, "b.example.org")]));
    assert_eq!(mx(&resolver, "no.example.org").await, Ok(MxAnswer::Null));
}

#[tokio::test]
async fn addresses_of_both_families_are_one_answer() {
    let server = DnsServer::start();
    server
        .host("mx.example.org", "192.0.2.1")
        .host("mx.example.org", "2001:db8::1")
        .host("v4.example.org", "192.0.2.2");
    let (resolver, _) = resolver(&server);
    assert_eq!(addresses(&resolver, "mx.example.org").await, ips(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(addresses(&resolver, "v4.example.org").await, ips(&["192.0.2.2"]));
    assert_eq!(addresses(&resolver, "_dmarc.example.org").await, Err(LookupError::NoSuchDomain));
}

#[tokio::test]
async fn no_name_no_records_and_no_answer_are_told_apart() {
    let (server, silent) = (DnsServer::start(), DnsServer::start());
    server.exists("empty.example.org").behave("broken.example.org", Behaviour::ServFail);
    server.behave("refused.example.org", Behaviour::Refused).behave("referred.example.org", Behaviour::Refer);
    silent.behave("silent.example.org", Behaviour::Silent);
    let (resolver, _) = resolver(&server);
    assert_eq!(mx(&resolver, "nothing.example.org").await, Err(LookupError::NoSuchDomain));
    assert_eq!(mx(&resolver, "empty.example.org").await, Err(LookupError::NoRecords));
    // Only names below it are in the zone, but it exists.
    assert_eq!(mx(&resolver, "example.org").await, Err(LookupError::NoRecords));
    for name in ["broken.example.org", "refused.example.org", "referred.example.org"] {
        assert!(is_temporary(&mx(&resolver, name).await), "{name}");
        assert!(is_temporary(&addresses(&resolver, name).await), "{name}");
    }
    let (resolver, _) = build(impatient(&[silent.address()]));
    assert!(is_temporary(&mx(&resolver, "silent.example.org").await));
}

#[tokio::test]
async fn one_family_that_fails_does_not_hide_the_other() {
    let server = DnsServer::start();
    server.host("half.example.org", "192.0.2.1").behave_for("half.example.org", Kind::Aaaa, Behaviour::ServFail);
    server.behave_for("none.example.org", Kind::Aaaa, Behaviour::ServFail);
    let (resolver, _) = resolver(&server);
    assert_eq!(addresses(&resolver, "half.example.org").await, ips(&["192.0.2.1"]));
    // No address of one kind is not yet a no.
    assert!(is_temporary(&addresses(&resolver, "none.example.org").await));
    // Old load balancers deny a name when they are asked for what they do not know.
    server.behave_for("odd.example.org", Kind::Aaaa, Behaviour::NoSuchName);
    assert_eq!(addresses(&resolver, "odd.example.org").await, Err(LookupError::NoRecords));
}

#[tokio::test]
async fn aliases_are_followed_whoever_does_it() {
    let server = DnsServer::start();
    server.alias("a.example.org", "b.example.org").alias("b.example.org", "c.example.org");
    server.mx("c.example.org", 10, "mx.example.org").host("c.example.org", "192.0.2.1");
    server.alias("dangling.example.org", "gone.example.org");
    for follow in [true, false] {
        server.follow_aliases(follow);
        let (resolver, _) = resolver(&server);
        assert_eq!(mx(&resolver, "a.example.org").await, hosts(&[(10, "mx.example.org")]), "{follow}");
        assert_eq!(addresses(&resolver, "a.example.org").await, ips(&["192.0.2.1"]), "{follow}");
        assert_eq!(mx(&resolver, "dangling.example.org").await, Err(LookupError::NoSuchDomain), "{follow}");
    }
}

#[tokio::test]
async fn endless_aliases_are_a_temporary_failure_and_cost_little() {
    let server = DnsServer::start();
    server.follow_aliases(false).alias("a.example.org", "b.example.org").alias("b.example.org", "a.example.org");
    for n in 0..100 {
        server.alias(&format!("n{n}.example.org"), &format!("n{}.example.org", n + 1));
    }
    server.mx("n100.example.org", 10, "mx.example.org");
    let (resolver, _) = resolver(&server);
    assert!(is_temporary(&mx(&resolver, "a.example.org").await));
    assert!(is_temporary(&mx(&resolver, "n0.example.org").await));
    assert_eq!(server.asked("n50.example.org", Kind::Mx), 0);
    assert!(mx(&resolver, "n90.example.org").await.is_ok());
}

#[tokio::test]
async fn a_cut_answer_is_fetched_over_tcp() {
    let server = DnsServer::start();
    server.mx("cut.example.org", 10, "mx.example.org").behave("cut.example.org", Behaviour::Truncate);
    for n in 0..500 {
        server.mx("huge.example.org", n, &format!("mx{n}.example.org"));
    }
    let (resolver, _) = resolver(&server);
    assert_eq!(mx(&resolver, "cut.example.org").await, hosts(&[(10, "mx.example.org")]));
    assert_eq!(server.asked_over("cut.example.org", Kind::Mx, Transport::Tcp), 1);

    let Ok(MxAnswer::Hosts(hosts)) = mx(&resolver, "huge.example.org").await else { panic!("hosts") };
    assert_eq!((hosts.len(), hosts[MAX_RECORDS - 1].preference), (MAX_RECORDS, MAX_RECORDS as u16 - 1));
}

#[tokio::test]
async fn an_old_server_is_asked_without_edns() {
    let server = DnsServer::start();
    server.mx("example.org", 10, "mx.example.org").behave("example.org", Behaviour::NoEdns);
    let (resolver, _) = resolver(&server);
    assert_eq!(mx(&resolver, "example.org").await, hosts(&[(10, "mx.example.org")]));
}

#[tokio::test]
async fn answers_are_kept_for_their_ttl() {
    let server = DnsServer::start();
    server.mx("example.org", 10, "old.example.org").ttl("example.org", 100);
    let (resolver, clock) = resolver(&server);
    let old = hosts(&[(10, "old.example.org")]);
    assert_eq!(mx(&resolver, "example.org").await, old);
    server.forget("example.org").mx("example.org", 10, "new.example.org");
    clock.advance(99);
    assert_eq!(mx(&resolver, "example.org").await, old);
    assert_eq!(server.asked("example.org", Kind::Mx), 1);
    clock.advance(1);
    assert_eq!(mx(&resolver, "example.org").await, hosts(&[(10, "new.example.org")]));
}

#[tokio::test]
async fn the_shortest_ttl_of_a_chain_counts() {
    let server = DnsServer::start();
    server.alias("a.example.org", "b.example.org").ttl("a.example.org", 10);
    server.mx("b.example.org", 10, "mx.example.org").ttl("b.example.org", 1000);
    for follow in [true, false] {
        server.follow_aliases(follow);
        let (resolver, clock) = resolver(&server);
        let before = server.asked("a.example.org", Kind::Mx);
        mx(&resolver, "a.example.org").await.unwrap();
        clock.advance(11);
        mx(&resolver, "a.example.org").await.unwrap();
        assert_eq!(server.asked("a.example.org", Kind::Mx) - before, 2, "{follow}");
    }
}

#[tokio::test]
async fn a_ttl_of_zero_is_not_kept() {
    let server = DnsServer::start();
    server.mx("example.org", 10, "mx.example.org").ttl("example.org", 0);
    server.negative_ttl(Some(0)).exists("empty.example.org");
    let (resolver, _) = resolver(&server);
    for _ in 0..3 {
        assert!(mx(&resolver, "example.org").await.is_ok());
        assert_eq!(mx(&resolver, "empty.example.org").await, Err(LookupError::NoRecords));
        assert_eq!(mx(&resolver, "gone.example.org").await, Err(LookupError::NoSuchDomain));
    }
    for name in ["example.org", "empty.example.org", "gone.example.org"] {
        assert_eq!(server.asked(name, Kind::Mx), 3, "{name}");
    }
}

#[tokio::test]
async fn a_no_is_kept_as_long_as_its_zone_says() {
    let server = DnsServer::start();
    server.negative_ttl(Some(60)).exists("empty.example.org");
    let (resolver, clock) = resolver(&server);
    for (name, error) in
        [("empty.example.org", LookupError::NoRecords), ("gone.example.org", LookupError::NoSuchDomain)]
    {
        let before = clock.seconds.load(Ordering::Relaxed);
        assert_eq!(mx(&resolver, name).await, Err(error.clone()));
        clock.advance(59);
        assert_eq!(mx(&resolver, name).await, Err(error.clone()));
        assert_eq!(server.asked(name, Kind::Mx), 1, "{name} after {before}");
        clock.advance(1);
        assert_eq!(mx(&resolver, name).await, Err(error));
        assert_eq!(server.asked(name, Kind::Mx), 2, "{name}");
    }
    // RFC 2308 §5: without an SOA record a no is not kept.
    server.negative_ttl(None);
    for _ in 0..2 {
        assert_eq!(mx(&resolver, "never.example.org").await, Err(LookupError::NoSuchDomain));
    }
    assert_eq!(server.asked("never.example.org", Kind::Mx), 2);
}

#[tokio::test]
async fn failures_are_not_kept() {
    let server = DnsServer::start();
    server.behave("example.org", Behaviour::ServFail);
    let (resolver, _) = resolver(&server);
    assert!(is_temporary(&mx(&resolver, "example.org").await));
    server.forget("example.org").mx("example.org", 10, "mx.example.org");
    assert!(mx(&resolver, "example.org").await.is_ok());
}

#[tokio::test]
async fn long_ttls_are_shortened() {
    let server = DnsServer::start();
    server.mx("example.org", 10, "mx.example.org").ttl("example.org", 1_000_000).negative_ttl(Some(1_000_000));
    let (resolver, clock) = build(Settings {
        positive_max_ttl: Duration::from_secs(50),
        negative_max_ttl: Duration::from_secs(20),
        ..settings(&[server.address()])
    });
    for (name, most) in [("example.org", 50), ("gone.example.org", 20)] {
        for seconds in [0, most - 1, 1] {
            clock.advance(seconds);
            let _ = mx(&resolver, name).await;
        }
        assert_eq!(server.asked(name, Kind::Mx), 2, "{name}");
    }
}

#[tokio::test]
async fn memory_is_bounded() {
    let server = DnsServer::start();
    for n in 0..200 {
        server.mx(&format!("d{n}.example.org"), 10, "mx.example.org");
    }
    let (resolver, _) = build(Settings { cache_memory: 10_000, ..settings(&[server.address()]) });
    for n in 0..200 {
        mx(&resolver, &format!("d{n}.example.org")).await.unwrap();
    }
    for n in 0..200 {
        mx(&resolver, &format!("d{n}.example.org")).await.unwrap();
    }
    let asked: usize = (0..200).map(|n| server.asked(&format!("d{n}.example.org"), Kind::Mx)).sum();
    assert!((350..=400).contains(&asked), "{asked}");
}

#[tokio::test]
async fn all_who_ask_at_once_cost_one_question() {
    let server = DnsServer::start();
    server.mx("example.org", 10, "mx.example.org").ttl("example.org", 0);
    let (resolver, _) = resolver(&server);
    let name = domain("example.org");
    let answers = futures_util::future::join_all((0..2000).map(|_| resolver.mx(&name))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.asked("example.org", Kind::Mx), 1);
}

#[tokio::test]
async fn many_names_at_once_wait_for_a_place() {
    let server = DnsServer::start();
    let names: Vec<_> = (0..300).map(|n| domain(&format!("d{n}.example.org"))).collect();
    for name in &names {
        server.mx(name.as_str(), 10, "mx.example.org");
    }
    let (resolver, _) = build(Settings { parallel: 4, ..settings(&[server.address()]) });
    let answers = futures_util::future::join_all(names.iter().map(|name| resolver.mx(name))).await;
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    let (dead, broken, good) = (DnsServer::start(), DnsServer::start(), DnsServer::start());
    for name in ["a.example.org", "b.example.org"] {
        dead.behave(name, Behaviour::Silent);
        broken.behave(name, Behaviour::ServFail);
        good.mx(name, 10, "mx.example.org");
    }
    let servers = [dead.address(), broken.address(), good.address()];
    let (resolver, _) = build(impatient(&servers));
    assert_eq!(mx(&resolver, "a.example.org").await, hosts(&[(10, "mx.example.org")]));
    assert!(dead.asked("a.example.org", Kind::Mx) >= 1 && broken.asked("a.example.org", Kind::Mx) == 1);
    // The one that answered is asked first from now on.
    assert_eq!(mx(&resolver, "b.example.org").await, hosts(&[(10, "mx.example.org")]));
    assert_eq!(dead.asked("b.example.org", Kind::Mx), 0);
}

#[tokio::test]
async fn the_whole_look_up_is_bounded_in_time() {
    let server = DnsServer::start();
    server.behave("example.org", Behaviour::Silent);
    let patient = Settings {
        timeout: Duration::from_secs(3600),
        total: Duration::from_millis(100),
        ..settings(&[server.address()])
    };
    let (resolver, _) = build(patient);
    assert!(is_temporary(&mx(&resolver, "example.org").await));
}

#[tokio::test]
async fn special_names_never_leave_the_house() {
    let server = DnsServer::start();
    let (resolver, _) = resolver(&server);
    assert_eq!(addresses(&resolver, "localhost").await, ips(&["127.0.0.1", "::1"]));
    assert_eq!(addresses(&resolver, "name.invalid").await, Err(LookupError::NoSuchDomain));
    assert_eq!(mx(&resolver, "secret.onion").await, Err(LookupError::NoSuchDomain));
    for (name, kind) in [("localhost", Kind::A), ("name.invalid", Kind::Aaaa), ("secret.onion", Kind::Mx)] {
        assert_eq!(server.asked(name, kind), 0, "{name}");
    }
}

#[tokio::test]
async fn what_happens_is_counted() {
    let server = DnsServer::start();
    server.mx("example.org", 10, "mx.example.org").behave("broken.example.org", Behaviour::ServFail);
    let registry = Mutex::new(Registry::default());
    let metrics = Metrics::register(&mut registry.lock().unwrap());
    let resolver = Resolver::new(settings(&[server.address()]), TestClock::new(), metrics).unwrap();
    for name in ["example.org", "example.org", "gone.example.org", "broken.example.org"] {
        let _ = mx(&resolver, name).await;
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry.lock().unwrap()).unwrap();
    for line in [
        r#"postrider_dns_lookups_total{outcome="Found"} 1"#,
        r#"postrider_dns_lookups_total{outcome="Nothing"} 1"#,
        r#"postrider_dns_lookups_total{outcome="Failed"} 1"#,
        "postrider_dns_cached_total 1",
        "postrider_dns_running 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn a_resolver_without_servers_is_refused() {
    let built = Resolver::new(settings(&[]), TestClock::new(), Metrics::default());
    assert!(matches!(built, Err(SetupError::NoServers)));
}
