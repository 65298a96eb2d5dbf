//! From a destination to its hosts: the site, and whom to connect to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use dns::{Exchange, Resolve, exchanges, site};
use mail::{Destination, EnhancedCode, Fault, FoundBy, Host, Lane, Protocol, Site, Target, TargetHost, TargetTls};

use crate::routing::{LmtpServer, Route, SmartHost, To, Way};
use crate::scheduler::{Placement, Resting};
use crate::settings::Rules;
use crate::verdict;

/// The port of mail exchanges.
const SMTP_PORT: u16 = 25;
/// The most hosts of a target.
const MAX_HOSTS: usize = 100;

/// Finds the hosts of a destination.
pub(crate) async fn place(
    rules: &Rules,
    resolver: &dyn Resolve,
    destination: &Destination,
) -> Result<(Arc<Target>, Placement), Resting> {
    if verdict::is_notice(destination) {
        return Err(Resting::Notices);
    }
    let way = Way::parse(destination).ok_or(Resting::Vanished)?;
    let route = rules.routing.of_destination(&way).map_err(|_| Resting::Vanished)?;
    let no_source = || Fault::local(451, EnhancedCode::new(4, 3, 5), "no source to connect from is configured");
    let source = rules.source(route).cloned().ok_or_else(|| Resting::Fault(no_source()))?;
    let (mut site, protocol, hosts) = match (&way, route) {
        (Way::Exchanges(host), _) => by_exchanges(rules, resolver, host).await.map_err(Resting::Fault)?,
        (Way::Route(_), Some(Route { to: To::SmartHosts(hosts), .. })) => {
            by_smart_hosts(rules, resolver, hosts).await.map_err(Resting::Fault)?
        }
        (Way::Route(_), Some(Route { to: To::Lmtp(server), .. })) => by_lmtp(server),
        (Way::Route(_), Some(Route { to: To::Listener { name, address }, .. })) => {
            let hosts = vec![TargetHost::Address { address: *address, preference: 0 }];
            (Site::new(format!("listener:{name}")), Protocol::Smtp, hosts)
        }
        (Way::Inside(_), _) => (Site::new(destination.as_str()), Protocol::Smtp, Vec::new()),
        (Way::Route(_), Some(Route { to: To::Mx, .. }) | None) => return Err(Resting::Vanished),
    };
    let level = rules.tls(route);
    if route.is_some_and(|route| route.tls.is_some()) && level != rules.settings.tls {
        // A line that is good enough for one route may not be for another: they must not share a lane.
        site = Site::new(format!("{site} by tls {level}"));
    }
    let credentials = route.filter(|route| route.authenticates).map(|route| Arc::from(route.name.as_str()));
    if let Some(name) = &credentials {
        // Who we are to a host may differ from route to route.
        site = Site::new(format!("{site} as {name}"));
    }
    let implicit = route.is_some_and(|route| route.implicit_tls);
    let tls = TargetTls { level, implicit, found: found_by(&way, route), credentials };
    let lane = Lane { source: source.name.clone(), site };
    Ok((Arc::new(Target { lane, protocol, source, hosts, tls }), rules.placement(route)))
}

/// Where the names of the hosts come from.
fn found_by(way: &Way, route: Option<&Route>) -> FoundBy {
    match (way, route.map(|route| &route.to)) {
        (Way::Exchanges(Host::Domain(domain)), _) => FoundBy::Recipients(domain.clone()),
        (Way::Route(_), Some(To::SmartHosts(hosts))) => {
            let domain = hosts.iter().filter(|host| host.mx).find_map(|host| host.host.domain());
            domain.map_or(FoundBy::Configuration, |domain| FoundBy::Exchanges(domain.clone()))
        }
        _ => FoundBy::Configuration,
    }
}

/// Whether a destination's hosts are found without a question to the DNS for each. Routes that lead to the exchanges of
/// a domain ask too, but there are few of them.
pub(crate) fn is_at_hand(destination: &Destination) -> bool {
    !matches!(Way::parse(destination), Some(Way::Exchanges(Host::Domain(_))))
}

type Found = (Site, Protocol, Vec<TargetHost>);

async fn by_exchanges(rules: &Rules, resolver: &dyn Resolve, host: &Host) -> Result<Found, Fault> {
    let found = exchanges(resolver, host, &rules.settings.ourselves).await.map_err(|none| none.fault())?;
    let hosts = found.iter().map(|exchange| target_host(&exchange.host, SMTP_PORT, exchange.preference)).collect();
    Ok((site(&found), Protocol::Smtp, hosts))
}

/// Octets of a site's name that still lists its hosts in their order.
const LONGEST_NAME: usize = 160;

/// Hosts in the order of the configuration. The mail exchanges of one that is a mail domain stand in its place; one
/// whose exchanges can't be found is left out as long as there are others.
async fn by_smart_hosts(rules: &Rules, resolver: &dyn Resolve, list: &[SmartHost]) -> Result<Found, Fault> {
    let mut hosts = Vec::new();
    let mut by_port: BTreeMap<u16, Vec<Exchange>> = BTreeMap::new();
    let mut in_order = Vec::new();
    let mut trouble = None;
    for (order, entry) in list.iter().enumerate() {
        let found = if entry.mx {
            exchanges(resolver, &entry.host, &rules.settings.ourselves).await
        } else {
            Ok(vec![Exchange { host: entry.host.clone(), preference: 0 }])
        };
        match found {
            Ok(found) => {
                // Each entry of the list has a band of preferences of its own.
                let rank = |at: usize| u16::try_from(order * MAX_HOSTS + at).unwrap_or(u16::MAX);
                hosts.extend(ranked(&found).map(|(at, host)| target_host(host, entry.port, rank(at))));
                in_order.push(format!("{}:{}", site(&found), entry.port));
                by_port.entry(entry.port).or_default().extend(found);
            }
            // A smart host that does not exist is a mistake of ours, not of the sender: nothing bounces for it.
            Err(none) => trouble = Some(none),
        }
    }
    if hosts.is_empty() {
        let why = trouble.map_or_else(|| "there are none".to_owned(), |none| none.to_string());
        let text = format!("the route's hosts could not be found: {why}");
        return Err(Fault::local(451, EnhancedCode::new(4, 4, 4), text));
    }
    hosts.truncate(MAX_HOSTS);
    // Routes that list the same hosts in another order try them in another order: they must not share a lane.
    let mut name = in_order.join(",");
    if name.len() > LONGEST_NAME {
        let sets: Vec<String> = by_port.iter().map(|(port, hosts)| format!("{}:{port}", site(hosts))).collect();
        name = sets.join(",");
    }
    Ok((Site::new(format!("hosts:{name}")), Protocol::Smtp, hosts))
}

fn by_lmtp(server: &LmtpServer) -> Found {
    let host = match server {
        LmtpServer::Tcp { host, port } => target_host(host, *port, 0),
        LmtpServer::Unix(path) => TargetHost::Unix { path: path.clone() },
    };
    (Site::new(format!("lmtp:{server}")), Protocol::Lmtp, vec![host])
}

/// Hosts with their rank among their kind: equal preferences have equal ranks.
fn ranked(found: &[Exchange]) -> impl Iterator<Item = (usize, &Host)> {
    let rank = |exchange: &Exchange| found.iter().filter(|other| other.preference < exchange.preference).count();
    found.iter().map(move |exchange| (rank(exchange), &exchange.host))
}

fn target_host(host: &Host, port: u16, preference: u16) -> TargetHost {
    match host {
        Host::Domain(name) => TargetHost::Name { name: name.clone(), port, preference },
        Host::Literal(address) => TargetHost::Address { address: SocketAddr::new(*address, port), preference },
    }
}
