//! What each value allows but all together contradict: found here, each with its cure.

use std::collections::HashMap;
use std::path::Path;

use super::delivery::Dnssec;
use super::nexthop::NextHop;
use super::outgoing_tls::OutgoingTls;
use super::places::Places;
use super::problem::Problem;
use super::types::{Configuration, Retry, Route};
use super::units::{Pattern, Period};

/// The longest path of a Unix socket: `sun_path` with its NUL has 108 octets.
const LONGEST_SOCKET: usize = 107;

/// All contradictions and doubts.
pub fn judge(configuration: &Configuration, places: &Places) -> Vec<Problem> {
    let mut problems = Vec::new();
    relay(configuration, places, &mut problems);
    super::listener::judge(configuration, places, &mut problems);
    super::sockets::judge(configuration, places, &mut problems);
    super::accounts::judge(configuration, places, &mut problems);
    super::tls::judge(configuration, places, &mut problems);
    super::submission::judge(configuration, places, &mut problems);
    sources(configuration, places, &mut problems);
    routes(configuration, places, &mut problems);
    own_domains(configuration, places, &mut problems);
    times(configuration, places, &mut problems);
    sizes(configuration, places, &mut problems);
    name_servers(configuration, places, &mut problems);
    super::mta_sts::judge(configuration, places, &mut problems);
    super::tls_reports::judge(configuration, places, &mut problems);
    privileges(configuration, places, &mut problems);
    super::idle::judge(configuration, places, &mut problems);
    problems
}

fn relay(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    for (at, pattern) in configuration.domains.iter().enumerate() {
        if *pattern == Pattern::Any {
            let problem = places.problem(&format!("domains[{at}]"), "this would be an open relay", "every domain");
            problems.push(
                problem.help(
                    "list the domains you are responsible for; clients that may send to all belong in `networks`",
                ),
            );
        }
    }
    for (at, network) in configuration.networks.iter().enumerate() {
        if network.is_the_world() {
            let problem = places.problem(&format!("networks[{at}]"), "this would be an open relay", "everybody");
            problems.push(problem.help("list only the networks of your own clients"));
        }
    }
}

fn sources(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let mut names = HashMap::new();
    for (at, source) in configuration.source.iter().enumerate() {
        let path = format!("source[{at}]");
        twice(&mut names, &source.name, format!("{path}.name"), "source", places, problems);
        if let Err(cure) = proper_name(&source.name) {
            problems.push(places.problem(&format!("{path}.name"), "this cannot be a source's name", cure));
        }
        if source.ipv4.is_some_and(|address| !address.0.is_ipv4()) {
            problems.push(places.problem(&format!("{path}.ipv4"), "`ipv4` takes an IPv4 address", "this is IPv6"));
        }
        if source.ipv6.is_some_and(|address| !address.0.is_ipv6()) {
            problems.push(places.problem(&format!("{path}.ipv6"), "`ipv6` takes an IPv6 address", "this is IPv4"));
        }
    }
}

fn routes(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let mut names = HashMap::new();
    for (at, route) in configuration.route.iter().enumerate() {
        let path = format!("route[{at}]");
        let named = if route.name.is_some() { format!("{path}.name") } else { format!("{path}.domains") };
        twice(&mut names, &route.called(), named.clone(), "route", places, problems);
        if let Err(cure) = proper_name(&route.called()) {
            problems.push(places.problem(&named, "this cannot be a route's name", cure));
        }
        next_hops(route, &path, configuration, places, problems);
        route_tls(route, &path, configuration, places, problems);
        super::smart_host_auth::judge(route, &path, places, problems);
        if let Some(source) = &route.source
            && !configuration.source_names().any(|name| name == source)
        {
            let problem = places.problem(&format!("{path}.source"), format!("there is no source `{source}`"), "");
            let names: Vec<&str> = configuration.source_names().collect();
            problems.push(problem.help(format!("sources are: {}", names.join(", "))));
        }
        let earlier = configuration.route[..at].iter().enumerate();
        let hides = |(_, other): &(usize, &Route)| {
            route.domains.0.iter().all(|mine| other.domains.0.iter().any(|theirs| theirs.covers(mine)))
        };
        if let Some((first, _)) = earlier.clone().find(hides) {
            let place = places.describe(&format!("route[{first}]")).unwrap_or_default();
            let problem = places.problem(&format!("{path}.domains"), "this route is never used", "");
            problems.push(problem.help(format!("the route at {place} takes all its domains; put it behind")));
        }
    }
}

fn next_hops(route: &Route, path: &str, configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let to = format!("{path}.to");
    let smart = |hop: &NextHop| matches!(hop, NextHop::Host(..) | NextHop::SecureHost(..) | NextHop::ExchangesOf(..));
    if route.to.0.len() > 1 && !route.to.0.iter().all(smart) {
        problems.push(
            places
                .problem(&to, "only SMTP hosts can stand in a list", "")
                .help("\"mx\", LMTP and listeners stand alone; make another route for them"),
        );
    }
    for (item, hop) in route.to.0.iter().enumerate() {
        if let NextHop::LmtpSocket(socket) = hop
            && let Some(longer) = too_long(socket)
        {
            problems.push(places.problem(&listed_path(&to, item, places), "there is no such socket", longer));
        }
        let NextHop::Listener(name) = hop else { continue };
        if !configuration.listeners().iter().any(|listener| listener.name == *name) {
            let place = listed_path(&to, item, places);
            problems.push(places.problem(&place, format!("there is no listener `{name}`"), ""));
        }
    }
}

fn route_tls(route: &Route, path: &str, configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let secure = |hop: &NextHop| matches!(hop, NextHop::SecureHost(..));
    let (some, all) = (route.to.0.iter().any(secure), route.to.0.iter().all(secure));
    if some && !all {
        let problem = places.problem(&format!("{path}.to"), "smtps:// and other hosts cannot stand in one list", "");
        problems.push(problem.help("make another route for them"));
    }
    let Some(tls) = &route.tls else { return };
    let path = format!("{path}.tls");
    tls.judge(&path, places, problems);
    let is_none = tls.to_level() == mail::TlsLevel::None;
    dane_only(tls, &path, configuration, places, problems);
    let literal = |hop: &NextHop| matches!(hop, NextHop::Host(host, _) | NextHop::SecureHost(host, _) | NextHop::Lmtp(host, _) if host.domain().is_none());
    if tls.to_level() == mail::TlsLevel::DaneOnly && route.to.0.iter().any(literal) {
        let problem = places.problem(&path, "mail would wait for ever", "an address has no TLSA records");
        problems.push(problem.help("name the host, or demand a `fingerprint`"));
    }
    if some && is_none {
        problems.push(places.problem(&path, "smtps:// is TLS", "").help("write smtp://, or leave `tls` out"));
    }
    if !is_none && route.to.0.iter().any(|hop| matches!(hop, NextHop::LmtpSocket(_))) {
        problems.push(places.problem(&path, "there is no TLS on a Unix socket", "").help("leave `tls` out"));
    }
}

/// Without DNSSEC there is no DANE, and what demands it waits.
fn dane_only(
    tls: &OutgoingTls,
    path: &str,
    configuration: &Configuration,
    places: &Places,
    problems: &mut Vec<Problem>,
) {
    if tls.to_level() == mail::TlsLevel::DaneOnly && configuration.dns.dnssec == Dnssec::Off {
        let problem = places.problem(path, "mail would wait for ever", "`dns.dnssec` is \"off\", so there is no DANE");
        problems.push(problem.help("leave `dns.dnssec` out, or demand `verify` or `fingerprint`"));
    }
}

/// Our own domains need a way that does not lead back to us.
fn own_domains(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    for (at, domain) in configuration.domains.iter().enumerate() {
        let covered = configuration.route.iter().any(|route| route.domains.0.iter().any(|rule| rule.covers(domain)));
        if covered || *domain == Pattern::Any {
            continue;
        }
        let message = format!("no route leads mail for {domain} anywhere");
        let problem = places.problem(&format!("domains[{at}]"), message, "accepted, then sent to its MX").warning();
        problems.push(problem.help(format!(
            "if its MX records name this server, its mail bounces; say where it goes:\n[[route]]\ndomains = \"{domain}\"\nto = \"lmtp:/run/dovecot/lmtp\""
        )));
    }
}

fn times(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    retry(&configuration.retry, "retry", places, problems);
    for (at, route) in configuration.route.iter().enumerate() {
        let path = format!("route[{at}].retry");
        if places.is_set(&path) {
            retry(&route.retry.over(&configuration.retry), &path, places, problems);
        }
    }
    let delivery = &configuration.delivery;
    delivery.tls.judge("delivery.tls", places, problems);
    dane_only(&delivery.tls, "delivery.tls", configuration, places, problems);
    if delivery.rest_first > delivery.rest_most {
        let label = "longer than `rest_most`";
        problems.push(places.problem("delivery.rest_first", "the first rest is longer than the longest", label));
    }
    let zero = Period(std::time::Duration::ZERO);
    let mut waits = vec![
        ("limits.command_time", configuration.limits.command_time),
        ("limits.content_idle", configuration.limits.content_idle),
        ("limits.content_time", configuration.limits.content_time),
        ("limits.session_time", configuration.limits.session_time),
        ("delivery.rest_first", delivery.rest_first),
        ("delivery.connect_time", delivery.connect_time),
        ("delivery.tls_time", delivery.tls_time),
        ("delivery.greeting_time", delivery.greeting_time),
        ("delivery.ehlo_time", delivery.ehlo_time),
        ("delivery.mail_time", delivery.mail_time),
        ("delivery.rcpt_time", delivery.rcpt_time),
        ("delivery.data_time", delivery.data_time),
        ("delivery.content_time", delivery.content_time),
        ("delivery.end_time", delivery.end_time),
        ("delivery.quit_time", delivery.quit_time),
        ("connections.proxy_time", configuration.connections.proxy_time),
        ("dns.timeout", configuration.dns.timeout),
        ("dns.total", configuration.dns.total),
        ("store.checkpoint", configuration.store.checkpoint),
        ("tls.handshake_time", configuration.tls.handshake_time),
        ("mta_sts.max_age", configuration.mta_sts.max_age),
        ("tls_reports.keep", configuration.tls_reports.keep),
    ];
    waits.extend(configuration.accounts.iter().flat_map(super::accounts::Accounts::waits));
    for (path, _) in waits.iter().filter(|(_, period)| *period == zero) {
        let problem = places.problem(path, format!("`{path}` must be longer than nothing"), "no time at all");
        problems.push(problem.help("leave it out for what is usual"));
    }
    if configuration.limits.error_delay > configuration.limits.error_delay_most {
        let message = "the first delay is longer than the longest";
        let path = if places.is_set("limits.error_delay") { "limits.error_delay" } else { "limits.error_delay_most" };
        problems.push(places.problem(path, message, format!("`error_delay` is {}", configuration.limits.error_delay)));
    }
}

fn retry(retry: &Retry, path: &str, places: &Places, problems: &mut Vec<Problem>) {
    let second = Period(std::time::Duration::from_secs(1));
    if let Some(intervals) = &retry.intervals {
        for key in ["first", "most"] {
            if places.is_set(&format!("{path}.{key}")) && places.is_set(&format!("{path}.intervals")) {
                let message = format!("`{key}` means nothing beside `intervals`");
                problems.push(places.problem(&format!("{path}.{key}"), message, "").help("leave one of the two out"));
            }
        }
        if intervals.is_empty() || intervals.iter().any(|wait| *wait < second) {
            let message = "`intervals` takes at least one wait, each a second or more";
            problems.push(places.problem(&format!("{path}.intervals"), message, ""));
        }
        if let Some(first) = intervals.first() {
            expiry(retry, *first, path, places, problems);
        }
        return;
    }
    if retry.first < second {
        problems.push(places.problem(&format!("{path}.first"), "the first wait must be a second or more", ""));
    }
    if retry.first > retry.most {
        let label = format!("longer than `most` ({})", retry.most);
        problems.push(places.problem(&format!("{path}.first"), "the first wait is longer than the longest", label));
    }
    expiry(retry, retry.first, path, places, problems);
}

fn expiry(retry: &Retry, first: Period, path: &str, places: &Places, problems: &mut Vec<Problem>) {
    for (key, expire) in [("expire", retry.expire), ("expire_bounces", retry.expire_bounces)] {
        if first > expire {
            let message = "mail would be given up before it is tried again";
            let label = format!("the first wait is {first}");
            problems.push(places.problem(&format!("{path}.{key}"), message, label));
        }
    }
}

fn sizes(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let (limits, store) = (&configuration.limits, &configuration.store);
    for (path, size) in [("limits.message_size", limits.message_size), ("limits.header_size", limits.header_size)] {
        if size.0 == 0 {
            problems.push(places.problem(path, "no message could come in", "nothing fits into that"));
        }
    }
    if (1..64 << 10).contains(&limits.message_size.0) {
        // RFC 5321 §4.5.3.1.7
        let problem = places.problem("limits.message_size", "ordinary mail would be refused", "less than 64KiB");
        problems.push(problem.warning().help("every mail server takes 64 KiB, by RFC 5321"));
    }
    if limits.header_size > limits.message_size {
        let message = "a header cannot be larger than its message";
        let label = format!("`message_size` is {}", limits.message_size);
        problems.push(places.problem("limits.header_size", message, label));
    }
    if store.path.as_os_str().is_empty() {
        problems.push(places.problem("store.path", "the queue needs a folder", "").help("/var/lib/postrider is usual"));
    } else if let Some(longer) = too_long(&store.path.join(crate::server::CONTROL_SOCKET)) {
        let problem = places.problem("store.path", "the control socket cannot be made in there", longer);
        problems.push(problem.help("choose a folder with a shorter path"));
    }
    let segment = store.segment.0;
    if !(64 << 10..=4 << 30).contains(&segment) || !segment.is_multiple_of(4096) {
        problems.push(places.problem("store.segment", "a segment has 64 KiB to 4 GiB, a multiple of 4 KiB", ""));
    }
    if store.content_memory.0 < 4 << 20 {
        problems.push(places.problem("store.content_memory", "content needs at least 4 MiB of memory", ""));
    }
    let in_flight = configuration.connections.in_flight;
    if in_flight > store.content_memory {
        let path = if places.is_set("store.content_memory") { "store.content_memory" } else { "connections.in_flight" };
        let label = format!("in flight {in_flight}, in all {}", store.content_memory);
        problems.push(places.problem(path, "content in flight gets more memory than there is for content", label));
    }
    if in_flight.0 < 2 << 20 {
        problems.push(places.problem("connections.in_flight", "content in flight needs at least 2 MiB of memory", ""));
    }
}

/// By how much the path of a Unix socket is too long.
pub(super) fn too_long(path: &Path) -> Option<String> {
    let over = path.as_os_str().len().saturating_sub(LONGEST_SOCKET);
    (over > 0).then(|| format!("{over} octets too long: the path of a socket has {LONGEST_SOCKET} at most"))
}

fn name_servers(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let dns = &configuration.dns;
    let listed = dns.servers.iter().flat_map(|listed| &listed.0);
    for (at, _) in listed.clone().enumerate().filter(|(_, server)| server.0.port() == 0) {
        let place = listed_path("dns.servers", at, places);
        problems.push(places.problem(&place, "a name server needs a port", "port 53 is usual"));
    }
    let remote = listed.enumerate().find(|(_, server)| !server.0.ip().to_canonical().is_loopback());
    if let (Dnssec::Trust, Some((at, server))) = (dns.dnssec, remote) {
        let place = listed_path("dns.servers", at, places);
        let message = format!("what {server} says about DNSSEC cannot be trusted");
        let problem = places.problem(&place, message, "not on this machine");
        problems.push(problem.help(
            "anybody on the way could claim that an answer is secure; run a validating resolver (unbound, \
             knot-resolver) here and list it, or have the answers validated by this server: `dnssec = \"validate\"`",
        ));
    }
    let keys = [("dns.trust_anchors", dns.trust_anchors.is_some()), ("dns.unsigned", dns.unsigned.is_some())];
    for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set && dns.dnssec != Dnssec::Validate) {
        let problem = places.problem(key, "this means nothing unless this server validates answers", "");
        problems.push(problem.help("set `dnssec = \"validate\"` in [dns], or leave this out"));
    }
}

fn privileges(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    if configuration.group.is_some() && configuration.user.is_none() {
        let problem = places.problem("group", "`group` means nothing without `user`", "");
        problems.push(problem.help("set `user` too"));
    }
    if configuration.user.as_deref() == Some("root") {
        problems.push(places.problem("user", "the server does not run as root", "").help("make a user for it"));
    }
}

pub(super) fn proper_name(name: &str) -> Result<(), &'static str> {
    let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=100).contains(&name.len()) && name.chars().all(proper);
    if fits { Ok(()) } else { Err("a name has 1 to 100 letters, digits, `-`, `_` or `.`") }
}

pub(super) fn twice(
    names: &mut HashMap<String, String>,
    name: &str,
    path: String,
    kind: &str,
    places: &Places,
    problems: &mut Vec<Problem>,
) {
    if let Some(first) = names.get(name) {
        let first = places.describe(first).unwrap_or_default();
        let problem = places.problem(&path, format!("two {kind}s are called `{name}`"), "");
        problems.push(problem.help(format!("the other one is at {first}; give one of them another name")));
        return;
    }
    names.insert(name.to_owned(), path);
}

/// The path of an item of a list that may also be written as a single value.
pub(super) fn listed_path(path: &str, item: usize, places: &Places) -> String {
    let inner = format!("{path}[{item}]");
    if places.is_set(&inner) { inner } else { path.to_owned() }
}
