//! Names for sets of hosts.
//!
//! All domains that are served by the same hosts share one site and with it one set of limits, whatever preferences
//! their MX records give to the hosts. The name is read by people in logs, metrics and commands, so it says what the
//! hosts have in common once: `(alt1|alt2).aspmx.l.google.com`.

use std::collections::BTreeSet;

use mail::{Domain, Site};

use crate::Exchange;

/// The longest name of a site, in octets. One host's name, however long, stands as it is.
pub const MAX_SITE: usize = 160;

/// The name of the set of hosts: the same for the same hosts in any order and with any preferences, different for
/// different ones, at most [`MAX_SITE`] octets (253 if there is just one host).
pub fn site(exchanges: &[Exchange]) -> Site {
    let hosts: BTreeSet<String> = exchanges.iter().map(|exchange| exchange.host.to_string()).collect();
    if let [host] = Vec::from_iter(&hosts).as_slice() {
        return Site::new(host);
    }
    let common = common_labels(exchanges);
    let spelled = spell(&hosts, &common);
    if spelled.len() <= MAX_SITE { Site::new(spelled) } else { Site::new(shorten(&hosts, &common)) }
}

/// The whole labels that all names end with, as `.example.org`; empty if there are none or a host is an address.
fn common_labels(exchanges: &[Exchange]) -> String {
    let domains: Option<Vec<&Domain>> = exchanges.iter().map(|exchange| exchange.host.domain()).collect();
    let mut names = domains.unwrap_or_default().into_iter().map(|name| Vec::from_iter(name.labels().rev()));
    let Some(mut common) = names.next() else { return String::new() };
    for name in names {
        let same = common.iter().zip(&name).take_while(|(a, b)| a == b).count();
        common.truncate(same);
    }
    common.iter().rev().flat_map(|label| [".", label]).collect()
}

/// `(a|b).common`; a host that is `common` itself is an empty choice, and then the dots stand inside: `(a.|)common`.
fn spell(hosts: &BTreeSet<String>, common: &str) -> String {
    let Some(bare) = common.strip_prefix('.') else {
        return format!("({})", Vec::from_iter(hosts.iter().map(String::as_str)).join("|"));
    };
    let (tail, outside) = if hosts.contains(bare) { (bare, bare) } else { (common, common) };
    let heads: Vec<&str> = hosts.iter().filter_map(|host| host.strip_suffix(tail)).collect();
    format!("({}){outside}", heads.join("|"))
}

/// `(12 hosts, 0123456789abcdef0123456789abcdef).common`, with as much of what is common as there is room for.
fn shorten(hosts: &BTreeSet<String>, common: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for host in hosts {
        hasher.update(host.as_bytes());
        hasher.update(b"|");
    }
    let hash = hasher.finalize().to_hex();
    let head = format!("({} hosts, {})", hosts.len(), &hash[..32]);
    let mut tail = common;
    while head.len() + tail.len() > MAX_SITE {
        tail = tail.get(1..).and_then(|rest| rest.find('.').map(|dot| &rest[dot..])).unwrap_or_default();
    }
    head + tail
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use mail::Host;
    use proptest::prelude::*;

    use super::*;

    fn exchange((preference, name): (u16, &str)) -> Exchange {
        Exchange { host: Host::parse(name).unwrap(), preference }
    }

    fn named(hosts: &[&str]) -> String {
        site(&Vec::from_iter(hosts.iter().map(|host| exchange((10, host))))).to_string()
    }

    #[test]
    fn what_is_common_is_said_once() {
        assert_eq!(named(&["mx.example.org"]), "mx.example.org");
        assert_eq!(named(&["mx2.example.org", "mx1.example.org"]), "(mx1|mx2).example.org");
        assert_eq!(
            named(&["aspmx.l.google.com", "alt1.aspmx.l.google.com", "alt2.aspmx.l.google.com"]),
            "(alt1.|alt2.|)aspmx.l.google.com"
        );
        assert_eq!(named(&["mx.example.org", "mx.example.net"]), "(mx.example.net|mx.example.org)");
        assert_eq!(named(&["mxa.org", "mxb.org"]), "(mxa|mxb).org");
        assert_eq!(named(&["[192.0.2.1]"]), "[192.0.2.1]");
    }

    #[test]
    fn order_preference_and_repetition_do_not_count() {
        let one = [(10, "a.example.org"), (20, "b.example.org")].map(exchange);
        let other = [(5, "b.example.org"), (5, "a.example.org"), (7, "a.example.org")].map(exchange);
        assert_eq!(site(&one), site(&other));
    }

    #[test]
    fn many_hosts_get_a_short_name() {
        let hosts: Vec<String> = (0..50).map(|n| format!("host-number-{n}.mail.example.org")).collect();
        let name = named(&Vec::from_iter(hosts.iter().map(String::as_str)));
        assert!(name.starts_with("(50 hosts, ") && name.ends_with(").mail.example.org"), "{name}");
        let fewer = named(&Vec::from_iter(hosts[1..].iter().map(String::as_str)));
        assert_ne!(name, fewer);
    }

    fn any_host() -> impl Strategy<Value = Host> {
        let name = "([ab]{1,2}\\.){0,4}[ab]|([a-b]{30,60}\\.){2,4}ab".prop_map(|name| Host::parse(&name).unwrap());
        let literal = any::<IpAddr>().prop_map(Host::Literal);
        prop_oneof![9 => name, 1 => literal]
    }

    proptest! {
        #[test]
        fn a_name_stands_for_one_set_and_is_bounded(
            one in prop::collection::btree_set(any_host(), 1..6),
            other in prop::collection::btree_set(any_host(), 1..6),
        ) {
            let list = |hosts: &BTreeSet<Host>| -> Vec<Exchange> {
                hosts.iter().map(|host| Exchange { host: host.clone(), preference: 0 }).collect()
            };
            let (name, other_name) = (site(&list(&one)), site(&list(&other)));
            prop_assert_eq!(one == other, name == other_name);
            let most = if one.len() == 1 { 253 } else { MAX_SITE };
            prop_assert!(name.as_str().len() <= most);
        }
    }
}
