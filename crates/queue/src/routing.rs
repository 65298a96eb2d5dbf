//! Where mail goes: the routing table, and the names of destinations.
//!
//! Routes are asked in the order of the configuration; the first that matches the recipient's domain wins, and where
//! none does, mail goes to the domain's mail exchanges. The table is indexed by name, so that thousands of routes cost
//! a look-up per label of the domain.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use mail::{Destination, Domain, ForwardPath, Host, Mailbox, TlsLevel};
use serde::Serialize;
use shaping::{Limits, RetrySchedule};

/// One rule of the routing table.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name: the destination of its mail is `route:NAME`, and logs and `explain` say it.
    pub name: String,
    /// The recipient domains it is for; any one that matches is enough.
    pub matches: Vec<Match>,
    /// Where it sends them.
    pub to: To,
    /// The source to connect from, by name; the first of the configuration if not given.
    pub source: Option<String>,
    /// Its own retry schedule instead of the general one.
    pub retry: Option<RetrySchedule>,
    /// Its own limits instead of the general ones.
    pub limits: Option<Limits>,
    /// What it demands of TLS with its hosts instead of the general level.
    pub tls: Option<TlsLevel>,
    /// Whether TLS begins with the connection and not by STARTTLS (RFC 8314 §3.3).
    pub implicit_tls: bool,
    /// Whether its hosts are told who we are: delivery has the credentials under the route's name.
    pub authenticates: bool,
}

impl Route {
    /// A route that goes by the general settings in all else.
    pub fn new(name: impl Into<String>, matches: Vec<Match>, to: To) -> Self {
        let (source, retry, limits, tls) = (None, None, None, None);
        Self { name: name.into(), matches, to, source, retry, limits, tls, implicit_tls: false, authenticates: false }
    }
}

/// Which recipient domains a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// This domain alone.
    Domain(Domain),
    /// The domains properly below this one: `*.example.org`.
    Below(Domain),
    /// Every domain, and address literals.
    Any,
}

/// Where a route sends mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// To the mail exchanges of the recipient's domain (RFC 5321 §5.1).
    Mx,
    /// To the first of these hosts that can be reached.
    SmartHosts(Vec<SmartHost>),
    /// To a local store by LMTP (RFC 2033).
    Lmtp(LmtpServer),
    /// To another listener of this server, by SMTP.
    Listener {
        /// Its name in the configuration.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

/// One host that takes mail for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartHost {
    /// Its name or address.
    pub host: Host,
    /// Its TCP port.
    pub port: u16,
    /// Whether the name is looked up as a mail domain (MX) instead of as a host.
    pub mx: bool,
}

/// Where an LMTP server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LmtpServer {
    /// On TCP.
    Tcp {
        /// Its name or address.
        host: Host,
        /// Its port.
        port: u16,
    },
    /// On a Unix socket.
    Unix(PathBuf),
}

/// What is wrong with a routing table or the settings around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Two routes have one name.
    #[error("two routes are called `{0}`; names must differ")]
    DuplicateRoute(String),
    /// A route's name can't be part of a destination.
    #[error("the route name `{0}` must have 1 to 100 letters, digits, `-`, `_` or `.`")]
    RouteName(String),
    /// A route matches nothing.
    #[error("route `{0}` matches no domain; give it at least one")]
    MatchesNothing(String),
    /// A route leads nowhere.
    #[error("route `{0}` has no host to send to; give it at least one")]
    NoHosts(String),
    /// An address literal has no mail exchanges.
    #[error("route `{0}` asks for the mail exchanges of an address; leave `mx` out")]
    ExchangeOfAddress(String),
    /// A route names a source that does not exist.
    #[error("route `{route}` connects from source `{source_name}`, which is not configured")]
    UnknownSource {
        /// The route.
        route: String,
        /// The missing source.
        source_name: String,
    },
    /// Two sources have one name.
    #[error("two sources are called `{0}`; names must differ")]
    DuplicateSource(String),
    /// There is no source at all.
    #[error("there is no source to connect from; give at least one")]
    NoSource,
}

/// The routing table, ready for look-ups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    routes: Vec<Route>,
    by_name: HashMap<String, usize>,
    exact: HashMap<String, usize>,
    below: HashMap<String, usize>,
    any: Option<usize>,
    /// The destinations of addresses that this server serves itself.
    inside: HashSet<Destination>,
}

/// Which route a domain takes and why, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The domain or address literal asked about.
    pub domain: String,
    /// The route that matches first; none if the default applies.
    pub route: Option<String>,
    /// The part of the route that matches: `example.org`, `*.example.org` or `*`; none if the default applies.
    pub rule: Option<String>,
    /// Where mail goes, in words.
    pub to: String,
    /// The destination under which deliveries are scheduled.
    pub destination: Destination,
    /// The source that connections come from.
    pub source: String,
    /// What is demanded of TLS.
    pub tls: String,
}

/// What a destination's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `mx:DOMAIN` or `mx:[ADDRESS]`.
    Exchanges(Host),
    /// `route:NAME`.
    Route(String),
    /// `inside:ADDRESS`: this server itself.
    Inside(Destination),
}

impl Routing {
    /// Checks and indexes the routes.
    pub(crate) fn new(routes: Vec<Route>) -> Result<Self, SettingsError> {
        let mut table = Self::default();
        for (order, route) in routes.iter().enumerate() {
            check(route)?;
            if table.by_name.insert(route.name.clone(), order).is_some() {
                return Err(SettingsError::DuplicateRoute(route.name.clone()));
            }
            for rule in &route.matches {
                match rule {
                    Match::Domain(domain) => drop(table.exact.entry(domain.as_str().into()).or_insert(order)),
                    Match::Below(domain) => drop(table.below.entry(domain.as_str().into()).or_insert(order)),
                    Match::Any => drop(table.any.get_or_insert(order)),
                }
            }
        }
        table.routes = routes;
        Ok(table)
    }

    /// Mail to these addresses stays in this server, wherever that of their domains goes.
    pub(crate) fn with_inside(self, addresses: &[Mailbox]) -> Self {
        Self { inside: addresses.iter().map(inside).collect(), ..self }
    }

    /// Where mail for a recipient is scheduled that this server serves itself.
    pub(crate) fn inside(&self, path: &ForwardPath) -> Option<Destination> {
        // Asked for every recipient: mostly there is none.
        if self.inside.is_empty() {
            return None;
        }
        path.mailbox().map(inside).filter(|destination| self.inside.contains(destination))
    }

    /// The routes in their order.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The route of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Route> {
        self.by_name.get(name).map(|order| &self.routes[*order])
    }

    /// The first route that matches; `None` means the default: mail exchanges.
    pub(crate) fn find(&self, host: &Host) -> Option<&Route> {
        let named = host.domain().and_then(|domain| self.find_domain(domain.as_str()));
        let order = named.into_iter().chain(self.any).min()?;
        Some(&self.routes[order])
    }

    /// Where mail for the host is scheduled.
    pub(crate) fn destination(&self, host: &Host) -> Destination {
        match self.find(host) {
            Some(Route { name, to: To::SmartHosts(_) | To::Lmtp(_) | To::Listener { .. }, .. }) => {
                Destination::new(format!("route:{name}"))
            }
            Some(Route { to: To::Mx, .. }) | None => Destination::new(format!("mx:{host}")),
        }
    }

    /// Whether that is where mail for the host is scheduled; asked for every attempt, so it makes no text.
    pub(crate) fn leads(&self, host: &Host, destination: &Destination) -> bool {
        let text = destination.as_str();
        match (self.find(host), host) {
            (Some(route), _) if route.to != To::Mx => text.strip_prefix("route:") == Some(&*route.name),
            (_, Host::Domain(domain)) => text.strip_prefix("mx:") == Some(domain.as_str()),
            (_, Host::Literal(_)) => text == format!("mx:{host}"),
        }
    }

    /// The route whose settings hold for a destination; `Err` if the destination's route does not exist any more.
    pub(crate) fn of_destination(&self, way: &Way) -> Result<Option<&Route>, Vanished> {
        match way {
            Way::Exchanges(host) => match self.find(host) {
                Some(route) if route.to != To::Mx => Err(Vanished),
                route => Ok(route),
            },
            Way::Route(name) => match self.named(name) {
                Some(route) if route.to != To::Mx => Ok(Some(route)),
                _ => Err(Vanished),
            },
            Way::Inside(destination) => match self.inside.contains(destination) {
                true => Ok(None),
                false => Err(Vanished),
            },
        }
    }

    fn find_domain(&self, domain: &str) -> Option<usize> {
        let parents = domain.match_indices('.').map(|(dot, _)| &domain[dot + 1..]);
        let below = parents.filter_map(|parent| self.below.get(parent)).min();
        self.exact.get(domain).into_iter().chain(below).min().copied()
    }
}

/// A destination that routing would not yield any more: its deliveries are routed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vanished;

/// Addresses of our own services know no case.
fn inside(address: &Mailbox) -> Destination {
    Destination::new(format!("inside:{address}").to_lowercase())
}

/// Whose mail exchanges or routes a recipient takes; the bare postmaster is ours (RFC 5321 §4.5.1).
pub(crate) fn host_of(path: &ForwardPath, ourselves: &Domain) -> Host {
    match path.mailbox() {
        Some(mailbox) => mailbox.host.clone(),
        None => Host::Domain(ourselves.clone()),
    }
}

impl Way {
    /// Reads a destination's name; `None` for a name that no version of the table yields.
    pub(crate) fn parse(destination: &Destination) -> Option<Self> {
        let text = destination.as_str();
        match text.split_once(':')? {
            ("mx", host) => Host::parse(host).ok().map(Way::Exchanges),
            ("route", name) => Some(Way::Route(name.into())),
            ("inside", _) => Some(Way::Inside(destination.clone())),
            _ => None,
        }
    }
}

impl Match {
    /// Whether the rule is for the host.
    pub fn covers(&self, host: &Host) -> bool {
        match (self, host) {
            (Match::Any, _) => true,
            (Match::Domain(domain), Host::Domain(asked)) => domain == asked,
            (Match::Below(parent), Host::Domain(asked)) => asked.is_below(parent),
            (_, Host::Literal(_)) => false,
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Domain(domain) => write!(f, "{domain}"),
            Match::Below(domain) => write!(f, "*.{domain}"),
            Match::Any => f.write_str("*"),
        }
    }
}

impl fmt::Display for SmartHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        if self.mx { f.write_str(" (mail exchanges)") } else { Ok(()) }
    }
}

impl fmt::Display for LmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LmtpServer::Tcp { host, port } => write!(f, "{host}:{port}"),
            LmtpServer::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Mx => f.write_str("the domain's mail exchanges"),
            To::SmartHosts(hosts) => {
                let hosts: Vec<String> = hosts.iter().map(SmartHost::to_string).collect();
                write!(f, "{}", hosts.join(", "))
            }
            To::Lmtp(server) => write!(f, "LMTP at {server}"),
            To::Listener { name, address } => write!(f, "listener {name} at {address}"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.route, &self.rule) {
            (Some(route), Some(rule)) => write!(f, "{}: route {route} ({rule}) sends it to ", self.domain)?,
            _ => write!(f, "{}: no route matches; it goes to ", self.domain)?,
        }
        write!(f, "{}, from source {}, as destination {}", self.to, self.source, self.destination)
    }
}

fn check(route: &Route) -> Result<(), SettingsError> {
    let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = || route.name.clone();
    if route.name.is_empty() || route.name.len() > 100 || !route.name.chars().all(proper) {
        return Err(SettingsError::RouteName(name()));
    }
    if route.matches.is_empty() {
        return Err(SettingsError::MatchesNothing(name()));
    }
    if let To::SmartHosts(hosts) = &route.to {
        if hosts.is_empty() {
            return Err(SettingsError::NoHosts(name()));
        }
        if hosts.iter().any(|host| host.mx && host.host.domain().is_none()) {
            return Err(SettingsError::ExchangeOfAddress(name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn route(name: &str, matches: Vec<Match>) -> Route {
        let to = To::Lmtp(LmtpServer::Unix("/run/lmtp".into()));
        Route::new(name, matches, to)
    }

    fn name_for<'a>(table: &'a Routing, text: &str) -> Option<&'a str> {
        table.find(&host(text)).map(|route| route.name.as_str())
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let table = Routing::new(vec![
            route("sub", vec![Match::Below(domain("example.org"))]),
            route("exact", vec![Match::Domain(domain("a.example.org")), Match::Domain(domain("example.org"))]),
            route("deeper", vec![Match::Below(domain("a.example.org"))]),
        ])
        .unwrap();
        assert_eq!(name_for(&table, "example.org"), Some("exact"));
        assert_eq!(name_for(&table, "a.example.org"), Some("sub"));
        assert_eq!(name_for(&table, "b.a.example.org"), Some("sub"));
        assert_eq!(name_for(&table, "notexample.org"), None);
        assert_eq!(name_for(&table, "[192.0.2.1]"), None);
    }

    #[test]
    fn any_is_for_literals_too_but_hides_only_what_follows_it() {
        let table = Routing::new(vec![
            route("first", vec![Match::Domain(domain("example.org"))]),
            route("all", vec![Match::Any]),
            route("never", vec![Match::Domain(domain("example.net"))]),
        ])
        .unwrap();
        assert_eq!(name_for(&table, "example.org"), Some("first"));
        assert_eq!(name_for(&table, "example.net"), Some("all"));
        assert_eq!(name_for(&table, "[IPv6:2001:db8::1]"), Some("all"));
    }

    #[test]
    fn destinations_tell_their_way_back() {
        let mut plain = route("mx", vec![Match::Domain(domain("example.org"))]);
        plain.to = To::Mx;
        let table = Routing::new(vec![plain, route("local", vec![Match::Below(domain("example.org"))])]).unwrap();
        for (asked, name, settings) in [
            ("example.org", "mx:example.org", Some("mx")),
            ("x.example.org", "route:local", Some("local")),
            ("example.net", "mx:example.net", None),
            ("[192.0.2.1]", "mx:[192.0.2.1]", None),
        ] {
            let destination = table.destination(&host(asked));
            assert_eq!(destination.as_str(), name);
            assert!(table.leads(&host(asked), &destination) && !table.leads(&host("other.example"), &destination));
            let way = Way::parse(&destination).unwrap();
            assert_eq!(table.of_destination(&way).unwrap().map(|route| route.name.as_str()), settings);
        }
    }

    #[test]
    fn a_destination_that_routing_would_not_yield_has_vanished() {
        let table = Routing::new(vec![route("local", vec![Match::Domain(domain("example.org"))])]).unwrap();
        for gone in ["mx:example.org", "route:other"] {
            let way = Way::parse(&Destination::new(gone)).unwrap();
            assert_eq!(table.of_destination(&way).err(), Some(Vanished), "{gone}");
        }
        assert_eq!(Way::parse(&Destination::new("nonsense")), None);
    }

    #[test]
    fn addresses_of_our_own_stay_inside_whatever_the_route_of_their_domain() {
        let routes = || vec![route("local", vec![Match::Domain(domain("example.org"))])];
        let table = Routing::new(routes()).unwrap().with_inside(&["reports@example.org".parse().unwrap()]);
        let path = |text: &str| ForwardPath::Mailbox(text.parse().unwrap());
        let destination = table.inside(&path("Reports@EXAMPLE.org")).unwrap();
        assert_eq!(destination.as_str(), "inside:reports@example.org");
        assert_eq!(table.inside(&path("other@example.org")), None);
        let way = Way::parse(&destination).unwrap();
        assert!(table.of_destination(&way).unwrap().is_none());
        assert_eq!(Routing::new(routes()).unwrap().of_destination(&way).err(), Some(Vanished), "no longer served");
    }

    #[test]
    fn contradictions_are_errors() {
        let any = || vec![Match::Any];
        let twice = vec![route("a", any()), route("a", any())];
        assert_eq!(Routing::new(twice).err(), Some(SettingsError::DuplicateRoute("a".into())));
        assert_eq!(Routing::new(vec![route("a b", any())]).err(), Some(SettingsError::RouteName("a b".into())));
        assert_eq!(Routing::new(vec![route("a", vec![])]).err(), Some(SettingsError::MatchesNothing("a".into())));
        let mut empty = route("a", any());
        empty.to = To::SmartHosts(vec![]);
        assert_eq!(Routing::new(vec![empty.clone()]).err(), Some(SettingsError::NoHosts("a".into())));
        empty.to = To::SmartHosts(vec![SmartHost { host: host("[192.0.2.1]"), port: 25, mx: true }]);
        assert_eq!(Routing::new(vec![empty]).err(), Some(SettingsError::ExchangeOfAddress("a".into())));
    }

    proptest! {
        /// The index finds what a walk down the list finds.
        #[test]
        fn the_index_agrees_with_the_list(
            rules in proptest::collection::vec((0u8..3, "[ab](\\.[ab]){0,3}"), 0..12),
            asked in "[ab](\\.[ab]){0,4}",
        ) {
            let routes: Vec<Route> = rules.iter().enumerate().map(|(order, (kind, name))| {
                let rule = match kind {
                    0 => Match::Domain(domain(name)),
                    1 => Match::Below(domain(name)),
                    _ if order > 8 => Match::Any,
                    _ => Match::Domain(domain(name)),
                };
                route(&format!("r{order}"), vec![rule])
            }).collect();
            let asked = host(&asked);
            let walked = routes.iter().find(|route| route.matches.iter().any(|rule| rule.covers(&asked)));
            let walked = walked.map(|route| route.name.clone());
            let table = Routing::new(routes.clone()).unwrap();
            prop_assert_eq!(table.find(&asked).map(|route| route.name.clone()), walked);
        }
    }
}
