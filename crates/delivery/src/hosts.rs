//! The hosts of a target in the order in which they are tried, with the addresses of each.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use dns::Resolve;
use mail::{EnhancedCode, Fault, FaultSource, Host, Randomness, Source, Target, TargetHost};

use crate::dial::Endpoint;

/// The most addresses that are tried for one message or one new connection. With the time limit of each it bounds how
/// long a host with very many dead addresses can keep us busy (RFC 5321 §5.1 asks for at least two).
const MOST_ADDRESSES: usize = 20;

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The host's name, or its address in words.
    pub host: String,
    /// The same as TLS policies know it; a Unix socket has none.
    pub peer: Option<Host>,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The local address to connect from.
    pub from: Option<IpAddr>,
}

/// What is left to try. Names are looked up only when their turn comes.
#[derive(Debug)]
pub(crate) struct Hosts {
    hosts: VecDeque<TargetHost>,
    ready: VecDeque<Candidate>,
    source: Source,
    randomness: Randomness,
    /// How many addresses may still be tried.
    left: usize,
}

impl Hosts {
    /// By preference; equal ones in random order (RFC 5321 §5.1).
    pub fn new(target: &Target, randomness: &Randomness) -> Self {
        let mut hosts = target.hosts.clone();
        randomness.shuffle(&mut hosts);
        hosts.sort_by_key(preference);
        Self {
            hosts: hosts.into(),
            ready: VecDeque::new(),
            source: target.source.clone(),
            randomness: randomness.clone(),
            left: MOST_ADDRESSES,
        }
    }

    /// The next address to try. `fault` gets what kept a host from being tried, unless it says something better already.
    pub async fn next(&mut self, resolver: &dyn Resolve, fault: &mut Option<Fault>) -> Option<Candidate> {
        self.left = self.left.checked_sub(1)?;
        loop {
            if let Some(candidate) = self.ready.pop_front() {
                return Some(candidate);
            }
            match self.hosts.pop_front()? {
                TargetHost::Address { address, .. } => {
                    let host = Host::Literal(address.ip().to_canonical());
                    self.offer(&host, vec![address.ip()], address.port(), fault);
                }
                TargetHost::Unix { path } => {
                    let host = path.display().to_string();
                    self.ready.push_back(Candidate { host, peer: None, endpoint: Endpoint::Unix(path), from: None });
                }
                TargetHost::Name { name, port, .. } => match resolver.addresses(&name).await {
                    Ok(addresses) => self.offer(&Host::Domain(name), addresses.ips, port, fault),
                    Err(error) => note(fault, error.fault(&name)),
                },
            }
        }
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.ready.is_empty()
    }

    /// Skips what is left of a host's addresses.
    pub fn leave(&mut self, host: &str) {
        self.ready.retain(|candidate| candidate.host != host);
    }

    /// Queues the addresses that the source can reach: in random order, the two families in turns, so that one that does
    /// not work here does not use up all tries.
    fn offer(&mut self, host: &Host, mut ips: Vec<IpAddr>, port: u16, fault: &mut Option<Fault>) {
        self.randomness.shuffle(&mut ips);
        let (mut six, mut four) = (Vec::new(), Vec::new());
        for ip in ips.into_iter().map(|ip| ip.to_canonical()) {
            match self.source_for(ip) {
                Ok(from) => {
                    let family = if ip.is_ipv6() { &mut six } else { &mut four };
                    let endpoint = Endpoint::Tcp(SocketAddr::new(ip, port));
                    family.push(Candidate { host: host.to_string(), peer: Some(host.clone()), endpoint, from });
                }
                Err(why) => {
                    let text = format!("{host} [{ip}] cannot be reached: {why}");
                    note(fault, Fault::local(451, EnhancedCode::new(4, 4, 4), text));
                }
            }
        }
        self.ready.extend(in_turns(six, four));
    }

    /// The local address for a remote one.
    fn source_for(&self, ip: IpAddr) -> Result<Option<IpAddr>, String> {
        // The system takes the unspecified address for this very host: mail would loop.
        if ip.is_unspecified() || ip.is_multicast() {
            return Err("this is no host's address".into());
        }
        let from = if ip.is_ipv4() { self.source.ipv4 } else { self.source.ipv6 };
        let chosen = self.source.ipv4.is_some() || self.source.ipv6.is_some();
        // Loopback can be reached from loopback only.
        if ip.is_loopback() && !from.is_some_and(|from| from.is_loopback()) {
            return Ok(None);
        }
        // A source with an address of one family only must not leave from some other address.
        if chosen && from.is_none() {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!("source {} has no {family} address", self.source.name));
        }
        Ok(from)
    }
}

/// Keeps the fault that says most: that a host does not exist counts only as long as nothing else is known of any.
fn note(fault: &mut Option<Fault>, new: Fault) {
    if fault.as_ref().is_none_or(|old| old.is_permanent() && old.by == FaultSource::Local) {
        *fault = Some(new);
    }
}

/// One of each, as long as there are both.
fn in_turns<T>(one: Vec<T>, other: Vec<T>) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut first = false;
    std::iter::from_fn(move || {
        first = !first;
        if first { one.next().or_else(|| other.next()) } else { other.next().or_else(|| one.next()) }
    })
}

fn preference(host: &TargetHost) -> u16 {
    match host {
        TargetHost::Name { preference, .. } | TargetHost::Address { preference, .. } => *preference,
        TargetHost::Unix { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dns::testing::Fixed;
    use mail::{Domain, Lane, Protocol, Site};

    use super::*;

    fn target(hosts: Vec<TargetHost>) -> Target {
        Target {
            lane: Lane { source: "default".into(), site: Site::new("x") },
            protocol: Protocol::Smtp,
            source: Source {
                name: Arc::from("default"),
                ipv4: None,
                ipv6: None,
                ehlo: Domain::parse("us.example").unwrap(),
            },
            hosts,
            tls: mail::TargetTls::default(),
        }
    }

    fn name(name: &str, preference: u16) -> TargetHost {
        TargetHost::Name { name: Domain::parse(name).unwrap(), port: 25, preference }
    }

    async fn all(target: &Target, dns: &Fixed, seed: u64) -> (Vec<(String, Endpoint)>, Option<Fault>) {
        let mut hosts = Hosts::new(target, &Randomness::seeded(seed));
        let (mut fault, mut found) = (None, Vec::new());
        while let Some(candidate) = hosts.next(dns, &mut fault).await {
            found.push((candidate.host, candidate.endpoint));
        }
        (found, fault)
    }

    #[tokio::test]
    async fn by_preference_and_equal_ones_in_random_order() {
        let dns = Fixed::default();
        for (at, host) in ["a", "b", "c", "d"].iter().enumerate() {
            dns.host(&format!("{host}.example"), &format!("192.0.2.{}", at + 1));
        }
        let target =
            target(vec![name("d.example", 20), name("a.example", 10), name("b.example", 10), name("c.example", 10)]);
        let mut orders = std::collections::HashSet::new();
        for seed in 0..50 {
            let (found, _) = all(&target, &dns, seed).await;
            assert_eq!(found[3].0, "d.example");
            orders.insert(found.iter().map(|(host, _)| host.clone()).collect::<Vec<_>>());
        }
        assert_eq!(orders.len(), 6, "every order of the three");
    }

    #[tokio::test]
    async fn families_in_turns_and_no_address_that_is_none() {
        let dns = Fixed::default();
        for address in
            ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "0.0.0.0", "::", "224.0.0.1", "::ffff:0.0.0.0"]
        {
            dns.host("a.example", address);
        }
        let (found, fault) = all(&target(vec![name("a.example", 10)]), &dns, 1).await;
        let six: Vec<bool> = found.iter().map(|(_, endpoint)| endpoint.ip().unwrap().is_ipv6()).collect();
        assert_eq!(six.len(), 4, "{found:?}");
        assert_eq!(six[1..].iter().position(|six| !six), Some(0), "the other family comes second");
        assert!(fault.unwrap().is_transient());
    }

    #[tokio::test]
    async fn a_source_does_not_leave_from_another_address() {
        let dns = Fixed::default();
        dns.host("a.example", "2001:db8::1").host("a.example", "192.0.2.1").host("b.example", "2001:db8::2");
        let mut target = target(vec![name("a.example", 10), name("b.example", 20)]);
        target.source.ipv4 = Some("198.51.100.7".parse().unwrap());
        let mut hosts = Hosts::new(&target, &Randomness::seeded(1));
        let mut fault = None;
        let only = hosts.next(&dns, &mut fault).await.unwrap();
        assert_eq!(only.endpoint, Endpoint::Tcp("192.0.2.1:25".parse().unwrap()));
        assert_eq!(only.from, target.source.ipv4);
        assert_eq!(hosts.next(&dns, &mut fault).await, None);
        assert!(fault.unwrap().reply.text().contains("no IPv6 address"));
    }

    #[tokio::test]
    async fn a_host_that_may_come_back_matters_more_than_one_that_does_not_exist() {
        let dns = Fixed::default();
        dns.temporary("slow.example");
        for hosts in [["slow.example", "gone.example"], ["gone.example", "slow.example"]] {
            let target = target(vec![name(hosts[0], 10), name(hosts[1], 20)]);
            let (found, fault) = all(&target, &dns, 1).await;
            assert!(found.is_empty());
            assert!(fault.unwrap().is_transient(), "{hosts:?}");
        }
        let (_, fault) = all(&target(vec![name("gone.example", 10)]), &dns, 1).await;
        assert!(fault.unwrap().is_permanent());
    }

    #[tokio::test]
    async fn not_more_addresses_than_are_good_for_one_try() {
        let dns = Fixed::default();
        for last in 1..=60 {
            dns.host("many.example", &format!("192.0.2.{last}"));
        }
        let (found, _) = all(&target(vec![name("many.example", 10)]), &dns, 1).await;
        assert_eq!(found.len(), MOST_ADDRESSES);
    }
}
