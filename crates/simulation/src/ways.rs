//! Which way the mail of each site goes: to its mail exchanges, or by a route of the configuration. An operator changes
//! that and has the configuration read anew.

use mail::{Domain, Host, Randomness, Site as LaneSite};
use queue::{LmtpServer, Match, Route, SmartHost, To};

use crate::plan::{Plan, Site};

/// The way to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The mail exchanges that the DNS tells.
    Exchanges,
    /// A route to its hosts, by name.
    Hosts,
    /// A route to its first host, by LMTP.
    Lmtp,
}

/// A way for each of so many sites.
pub fn draw(random: &Randomness, sites: usize) -> Vec<Way> {
    (0..sites).map(|_| [Way::Exchanges, Way::Exchanges, Way::Hosts, Way::Lmtp][random.below(4)]).collect()
}

/// To which site, by its place in the plan, and by which way a lane leads.
pub fn of_lane(site: &LaneSite) -> Option<(usize, Way)> {
    let way = match site.as_str().split_once(':') {
        Some(("lmtp", _)) => Way::Lmtp,
        Some(("hosts", _)) => Way::Hosts,
        _ => Way::Exchanges,
    };
    let mut words = site.as_str().split(|it: char| !it.is_ascii_alphanumeric());
    let number = words.find_map(|word| word.strip_prefix('s')?.parse().ok())?;
    Some((number, way))
}

/// The routing table for these ways.
pub fn routes(plan: &Plan, ways: &[Way]) -> Vec<Route> {
    let sites = plan.sites.iter().zip(ways).enumerate();
    sites.filter_map(|(number, (site, way))| route(number, site, *way)).collect()
}

fn route(number: usize, site: &Site, way: Way) -> Option<Route> {
    let name = |host: usize| Domain::parse(&format!("h{host}.s{number}.example")).ok().map(Host::Domain);
    let to = match way {
        Way::Exchanges => return None,
        Way::Hosts => {
            let hosts = (0..site.hosts.len()).filter_map(name);
            To::SmartHosts(hosts.map(|host| SmartHost { host, port: 25, mx: false }).collect())
        }
        Way::Lmtp => To::Lmtp(LmtpServer::Tcp { host: name(0)?, port: 24 }),
    };
    let matches = site.domains.iter().filter_map(|domain| Domain::parse(domain).ok()).map(Match::Domain).collect();
    Some(Route::new(format!("s{number}"), matches, to))
}
