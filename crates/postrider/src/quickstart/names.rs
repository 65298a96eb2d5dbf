//! What the DNS says about the new server, beside what it should say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dns::{Addresses, LookupError, MxAnswer, Resolve};
use mail::Domain;
use serde::Serialize;

use crate::config::Configuration;
use crate::dns_records::{self, Record as Wording};

/// For so many domains the records are looked at.
pub const MANY: usize = 10;

/// One record that should be published, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When it is needed.
    pub stage: Stage,
    /// Its owner.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// Its value, as a zone file has it.
    pub value: String,
    /// How it is in the DNS now.
    pub state: Published,
    /// What it is for.
    pub why: String,
}

/// When a record is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// First of all: without it no mail comes, and few believe what is sent.
    First,
    /// Before mail leaves.
    BeforeSending,
    /// Once the certificate is settled.
    Settled,
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
    /// Nobody has looked.
    NotLooked,
}

/// Whose records are told.
pub struct Wanted<'a> {
    /// The server's configuration.
    pub configuration: &'a Configuration,
    /// Its domains, of which [`MANY`] are looked at.
    pub domains: &'a [Domain],
    /// Its addresses, as far as they are known.
    pub public: BTreeSet<IpAddr>,
}

/// The records to publish, in the order in which they are needed; without a resolver nobody looks how they are.
pub async fn records(wanted: &Wanted<'_>, resolver: Option<&dyn Resolve>) -> Vec<Record> {
    let Wanted { configuration, domains, public } = wanted;
    let domains = &domains[..domains.len().min(MANY)];
    let (mut records, addresses) = host(&configuration.hostname.0, public, resolver).await;
    for domain in domains {
        records.push(exchange(&configuration.hostname.0, domain, resolver).await);
    }
    for domain in domains {
        records.push(sender_policy(configuration, domain, &addresses, resolver).await);
    }
    let (of_host, _) = dns_records::of_host(configuration);
    let of_domains = domains.iter().flat_map(|domain| dns_records::transport(configuration, domain));
    records.extend(of_host.into_iter().chain(of_domains).map(|wording| settled(&wording)));
    records
}

/// The way to the server and back from its addresses, which come along.
async fn host(
    host: &Domain,
    public: &BTreeSet<IpAddr>,
    resolver: Option<&dyn Resolve>,
) -> (Vec<Record>, BTreeSet<IpAddr>) {
    let mut records = Vec::new();
    let published = match resolver {
        Some(resolver) => Some(resolver.addresses(host).await),
        None => None,
    };
    let wanted: BTreeSet<IpAddr> = match &published {
        // Behind a translation of addresses nobody here knows the public one.
        Some(Ok(addresses)) if public.is_empty() => addresses.ips.iter().copied().collect(),
        _ => public.clone(),
    };
    for address in &wanted {
        records.push(Record {
            stage: Stage::First,
            name: absolute(host),
            kind: if address.is_ipv4() { "A" } else { "AAAA" },
            value: address.to_string(),
            state: published.as_ref().map_or(Published::NotLooked, |published| address_state(published, *address)),
            why: "where the server is".to_owned(),
        });
    }
    for address in &wanted {
        let reverse = dns::reverse(*address);
        let state = match resolver {
            None => Published::NotLooked,
            Some(resolver) => match resolver.ptr(&reverse).await {
                Ok(names) if names.found.contains(host) => Published::Right,
                Ok(names) => Published::Other(names.found.iter().map(absolute).collect::<Vec<_>>().join(", ")),
                Err(error) => absent(&error),
            },
        };
        records.push(Record {
            stage: Stage::First,
            name: absolute(&reverse),
            kind: "PTR",
            value: absolute(host),
            state,
            why: "who it is; set where you rent the address. Without it many refuse your mail".to_owned(),
        });
    }
    (records, wanted)
}

async fn exchange(host: &Domain, domain: &Domain, resolver: Option<&dyn Resolve>) -> Record {
    let state = match resolver {
        None => Published::NotLooked,
        Some(resolver) => match resolver.mx(domain).await.map(|answer| answer.found) {
            Ok(MxAnswer::Hosts(hosts)) if hosts.iter().any(|mx| mx.host == *host) => Published::Right,
            Ok(MxAnswer::Hosts(hosts)) => {
                let hosts: Vec<_> =
                    hosts.iter().map(|mx| format!("{} {}", mx.preference, absolute(&mx.host))).collect();
                Published::Other(hosts.join(", "))
            }
            Ok(MxAnswer::Null) => Published::Other("0 . (takes no mail)".into()),
            Err(error) => absent(&error),
        },
    };
    Record {
        stage: Stage::First,
        name: absolute(domain),
        kind: "MX",
        value: format!("10 {}", absolute(host)),
        state,
        why: "who takes mail for the domain".to_owned(),
    }
}

/// Who may send in the domain's name.
async fn sender_policy(
    configuration: &Configuration,
    domain: &Domain,
    ours: &BTreeSet<IpAddr>,
    resolver: Option<&dyn Resolve>,
) -> Record {
    let state = match resolver {
        None => Published::NotLooked,
        Some(resolver) => match resolver.txt(domain).await {
            Ok(texts) => {
                let texts = texts.found.iter().map(|text| String::from_utf8_lossy(text).into_owned());
                match texts.filter(|text| is_sender_policy(text)).collect::<Vec<_>>().as_slice() {
                    [] => Published::Missing,
                    [one] if lets_send(one, ours) => Published::Right,
                    // More than one are as good as none (RFC 7208 §4.5).
                    others => Published::Other(others.join(", ")),
                }
            }
            Err(error) => absent(&error),
        },
    };
    let Wording { name, kind, value, .. } = dns_records::sender_policy(configuration, domain);
    let why =
        "who may send in the domain's name (SPF); add what else does. Without it large receivers refuse your mail";
    Record { stage: Stage::BeforeSending, name: format!("{name}."), kind, value, state, why: why.to_owned() }
}

fn is_sender_policy(text: &str) -> bool {
    text.split(' ').next().is_some_and(|version| version.eq_ignore_ascii_case("v=spf1"))
}

/// Whether the policy names the domain's mail hosts, of which we are one, or each of our addresses.
fn lets_send(policy: &str, ours: &BTreeSet<IpAddr>) -> bool {
    let has = |term: &str| policy.split(' ').any(|word| word.trim_start_matches('+').eq_ignore_ascii_case(term));
    let named = |ip: &IpAddr| has(&if ip.is_ipv4() { format!("ip4:{ip}") } else { format!("ip6:{ip}") });
    has("mx") || (!ours.is_empty() && ours.iter().all(named))
}

fn settled(wording: &Wording) -> Record {
    Record {
        stage: Stage::Settled,
        name: format!("{}.", wording.name),
        kind: wording.kind,
        value: wording.value.clone(),
        state: Published::NotLooked,
        why: wording.purpose.clone(),
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
    use dns::testing::Fixed;

    use super::*;

    const CONFIGURATION: &str = "hostname = \"mail.example.org\"\ndomains = [\"example.org\"]\n\
                                 [[route]]\ndomains = \"*\"\nto = \"lmtp:/x\"\n[store]\npath = \"/nowhere\"\n";

    async fn states(dns: Option<&Fixed>, public: &[&str]) -> Vec<(&'static str, Published)> {
        let configuration = crate::config::load_text("test.toml", CONFIGURATION).unwrap().configuration;
        let public = public.iter().map(|ip| ip.parse().unwrap()).collect();
        let domains = [Domain::parse("example.org").unwrap()];
        let wanted = Wanted { configuration: &configuration, domains: &domains, public };
        let records = records(&wanted, dns.map(|dns| dns as &dyn Resolve)).await;
        records.into_iter().map(|record| (record.kind, record.state)).collect()
    }

    #[tokio::test]
    async fn records_are_right_missing_or_other() {
        let dns = Fixed::default();
        let missing = states(Some(&dns), &["198.51.100.7"]).await;
        assert_eq!(missing, ["A", "PTR", "MX", "TXT"].map(|kind| (kind, Published::Missing)));

        dns.host("mail.example.org", "198.51.100.7").ptr("198.51.100.7", "mail.example.org");
        dns.mx("example.org", 10, "mail.example.org").text("example.org", "v=spf1 mx -all");
        let right = states(Some(&dns), &["198.51.100.7"]).await;
        assert!(right.len() == 4 && right.iter().all(|(_, state)| *state == Published::Right), "{right:?}");
        // Without a public address of our own that of the name counts.
        assert_eq!(states(Some(&dns), &[]).await, right);

        let other = states(Some(&dns), &["198.51.100.8"]).await;
        assert_eq!(other[0], ("A", Published::Other("198.51.100.7".into())));
        assert_eq!(other[1], ("PTR", Published::Missing));

        let dns = Fixed::default();
        dns.temporary("example.org").host("mail.example.org", "198.51.100.7");
        let unknown = states(Some(&dns), &[]).await;
        assert!(matches!(unknown[2..], [("MX", Published::Unknown(_)), ("TXT", Published::Unknown(_))]), "{unknown:?}");
    }

    #[tokio::test]
    async fn records_are_told_though_nobody_looks() {
        let told = states(None, &["198.51.100.7"]).await;
        assert_eq!(told, ["A", "PTR", "MX", "TXT"].map(|kind| (kind, Published::NotLooked)));
    }

    #[test]
    fn a_sender_policy_is_right_if_it_lets_us_send() {
        let ours = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into();
        for right in
            ["v=spf1 mx -all", "V=SPF1 include:x.example +MX ~all", "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all"]
        {
            assert!(is_sender_policy(right) && lets_send(right, &ours), "{right}");
        }
        for wrong in ["v=spf1 -all", "v=spf1 -mx", "v=spf1 ip4:192.0.2.1 -all", "v=spf1 mx:other.example -all"] {
            assert!(is_sender_policy(wrong) && !lets_send(wrong, &ours), "{wrong}");
        }
        assert!(!is_sender_policy("v=spf10 mx") && !is_sender_policy("mx"));
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
