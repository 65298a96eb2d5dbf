//! What the DNS says about the new server, beside what it should say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dns::{Addresses, LookupError, MxAnswer, Resolve};
use mail::Domain;
use serde::Serialize;

use super::plan::Plan;

/// One record that should be published, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Its owner.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// Its value, as a zone file has it.
    pub value: String,
    /// How it is in the DNS now.
    pub state: Published,
    /// What it is for.
    pub why: &'static str,
}

/// How a record is in the DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "found")]
pub enum Published {
    /// As it should be.
    Right,
    /// Nothing is there.
    Missing,
    /// Something else is there.
    Other(String),
    /// It could not be looked up.
    Unknown(String),
}

/// The records without which no mail comes and none is believed: addresses, the way back from them, and the MX.
pub async fn first_records(plan: &Plan, public: &BTreeSet<IpAddr>, resolver: &dyn Resolve) -> Vec<Record> {
    let mut records = Vec::new();
    let published = resolver.addresses(&plan.hostname).await;
    let wanted: BTreeSet<IpAddr> = match (public.is_empty(), &published) {
        // Behind a translation of addresses nobody here knows the public one.
        (true, Ok(addresses)) => addresses.ips.iter().copied().collect(),
        _ => public.clone(),
    };
    for address in &wanted {
        records.push(Record {
            name: absolute(&plan.hostname),
            kind: if address.is_ipv4() { "A" } else { "AAAA" },
            value: address.to_string(),
            state: address_state(&published, *address),
            why: "where the server is",
        });
    }
    for address in &wanted {
        let reverse = dns::reverse(*address);
        let found = resolver.ptr(&reverse).await;
        records.push(Record {
            name: absolute(&reverse),
            kind: "PTR",
            value: absolute(&plan.hostname),
            state: match found {
                Ok(names) if names.found.contains(&plan.hostname) => Published::Right,
                Ok(names) => Published::Other(names.found.iter().map(absolute).collect::<Vec<_>>().join(", ")),
                Err(error) => absent(&error),
            },
            why: "who it is; set where you rent the address. Without it many refuse your mail",
        });
    }
    records.push(exchange(plan, resolver).await);
    records
}

async fn exchange(plan: &Plan, resolver: &dyn Resolve) -> Record {
    let state = match resolver.mx(&plan.domain).await {
        Ok(answer) => match answer.found {
            MxAnswer::Hosts(hosts) if hosts.iter().any(|mx| mx.host == plan.hostname) => Published::Right,
            MxAnswer::Hosts(hosts) => Published::Other(
                hosts
                    .iter()
                    .map(|mx| format!("{} {}", mx.preference, absolute(&mx.host)))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            MxAnswer::Null => Published::Other("0 . (takes no mail)".into()),
        },
        Err(error) => absent(&error),
    };
    Record {
        name: absolute(&plan.domain),
        kind: "MX",
        value: format!("10 {}", absolute(&plan.hostname)),
        state,
        why: "who takes mail for the domain",
    }
}

fn address_state(published: &Result<Addresses, LookupError>, wanted: IpAddr) -> Published {
    match published {
        Ok(addresses) if addresses.ips.contains(&wanted) => Published::Right,
        Ok(addresses) => {
            let same: Vec<String> =
                addresses.ips.iter().filter(|ip| ip.is_ipv4() == wanted.is_ipv4()).map(ToString::to_string).collect();
            if same.is_empty() { Published::Missing } else { Published::Other(same.join(", ")) }
        }
        Err(error) => absent(error),
    }
}

fn absent(error: &LookupError) -> Published {
    if error.is_temporary() { Published::Unknown(error.to_string()) } else { Published::Missing }
}

/// The addresses of this machine by which the world can reach it.
pub fn public_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
    });
    addresses.filter(is_public).collect()
}

/// Not of a private, local or documentation network (IANA's special-purpose registries).
fn is_public(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_documentation()
                || ip.is_multicast()
                || ip.is_broadcast()
                || shared)
        }
        // Global unicast, without the range for documentation.
        IpAddr::V6(ip) => {
            let first = ip.segments();
            first[0] & 0xe000 == 0x2000 && !(first[0] == 0x2001 && first[1] == 0x0db8)
        }
    }
}

fn absolute(name: &Domain) -> String {
    format!("{name}.")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use dns::testing::Fixed;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan() -> Plan {
        let cli = Cli::parse_from(["postrider", "quickstart", "mail.example.org"]);
        let Command::Quickstart(options) = cli.command else { panic!("not quickstart") };
        Plan::new(&options)
    }

    async fn states(dns: &Fixed, public: &[&str]) -> Vec<(&'static str, Published)> {
        let public = public.iter().map(|ip| ip.parse().unwrap()).collect();
        let records = first_records(&plan(), &public, dns).await;
        records.into_iter().map(|record| (record.kind, record.state)).collect()
    }

    #[tokio::test]
    async fn records_are_right_missing_or_other() {
        let dns = Fixed::default();
        let missing = states(&dns, &["198.51.100.7"]).await;
        assert_eq!(missing, [("A", Published::Missing), ("PTR", Published::Missing), ("MX", Published::Missing)]);

        dns.host("mail.example.org", "198.51.100.7").ptr("198.51.100.7", "mail.example.org");
        dns.mx("example.org", 10, "mail.example.org");
        let right = states(&dns, &["198.51.100.7"]).await;
        assert!(right.iter().all(|(_, state)| *state == Published::Right), "{right:?}");
        // Without a public address of our own that of the name counts.
        assert_eq!(states(&dns, &[]).await, right);

        let other = states(&dns, &["198.51.100.8"]).await;
        assert_eq!(other[0], ("A", Published::Other("198.51.100.7".into())));
        assert_eq!(other[1], ("PTR", Published::Missing));

        let dns = Fixed::default();
        dns.temporary("example.org").host("mail.example.org", "198.51.100.7");
        assert!(matches!(states(&dns, &[]).await.last(), Some(("MX", Published::Unknown(_)))));
    }

    #[test]
    fn only_addresses_that_the_world_can_reach_count() {
        for text in ["10.1.2.3", "192.168.1.1", "127.0.0.1", "100.64.0.1", "169.254.1.1", "fe80::1", "fd00::1", "::1"] {
            assert!(!is_public(&text.parse().unwrap()), "{text}");
        }
        for text in ["8.8.8.8", "2a01:4f8::1"] {
            assert!(is_public(&text.parse().unwrap()), "{text}");
        }
    }
}
