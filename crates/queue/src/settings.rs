//! What an operator sets, checked once and then shared.

use std::collections::HashSet;
use std::time::Duration;

use dns::Ourselves;
use mail::{Destination, Domain, ForwardPath, Host, Mailbox, Protocol, Source, TlsLevel};
use shaping::{BackoffSettings, Limits, RetrySchedule};

use crate::routing::{Explanation, Match, Route, Routing, SettingsError, To, Vanished, Way, host_of};
use crate::scheduler::fair::Weights;
use crate::scheduler::{Placement, Windows};
use crate::verdict;

/// Everything that the queue does by configuration. [`Settings::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our own name: in reports, and the domain of the bare postmaster.
    pub hostname: Domain,
    /// How to know ourselves among mail hosts.
    pub ourselves: Ourselves,
    /// The routes, in order.
    pub routes: Vec<Route>,
    /// Addresses whose mail this server serves itself, whatever the route of their domains: whoever takes the grants does
    /// it. Their target has no hosts, and a site named `inside:` and the address.
    pub inside: Vec<Mailbox>,
    /// Where to connect from; the first is for all routes that name none.
    pub sources: Vec<Source>,
    /// When to try again, unless a route says otherwise.
    pub retry: RetrySchedule,
    /// Bounds of connections, unless a route says otherwise.
    pub limits: Limits,
    /// What is demanded of TLS with hosts, unless a route says otherwise.
    pub tls: TlsLevel,
    /// How long a lane rests whose hosts can't be reached.
    pub backoff: BackoffSettings,
    /// The shares of tenants, campaigns, new mail and retries.
    pub weights: Weights,
    /// Bounds of memory and connections.
    pub windows: Windows,
    /// How long a connection waits for more work of its lane before it ends. 2 s.
    pub idle: Duration,
    /// The most octets of a message that a report gives back. 50 KiB.
    pub return_limit: usize,
    /// Messages in the queue beyond which none are taken from outside; about, for those that are just arriving count
    /// when they are there. No limit but the disk.
    pub most_messages: Option<u64>,
}

impl Settings {
    /// The defaults: no routes, one source that is called `default` and says `hostname`.
    pub fn new(hostname: Domain) -> Self {
        let source = Source { name: "default".into(), ipv4: None, ipv6: None, ehlo: hostname.clone() };
        Self {
            ourselves: Ourselves { names: HashSet::from([hostname.clone()]), addresses: HashSet::new() },
            hostname,
            routes: Vec::new(),
            inside: Vec::new(),
            sources: vec![source],
            retry: RetrySchedule::default(),
            limits: Limits::default(),
            tls: TlsLevel::default(),
            backoff: BackoffSettings::default(),
            weights: Weights::default(),
            windows: Windows::default(),
            idle: Duration::from_secs(2),
            return_limit: 50 << 10,
            most_messages: None,
        }
    }

    /// Which route a domain or address literal takes and why.
    pub fn explain(&self, host: &Host) -> Result<Explanation, SettingsError> {
        Ok(Rules::new(self.clone())?.explain(host))
    }
}

/// Settings that passed the checks, with the routing table built.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) settings: Settings,
    pub(crate) routing: Routing,
}

impl Rules {
    pub(crate) fn new(mut settings: Settings) -> Result<Self, SettingsError> {
        let routing = Routing::new(std::mem::take(&mut settings.routes))?.with_inside(&settings.inside);
        let mut names = HashSet::new();
        for source in &settings.sources {
            if !names.insert(source.name.clone()) {
                return Err(SettingsError::DuplicateSource(source.name.to_string()));
            }
        }
        if names.is_empty() {
            return Err(SettingsError::NoSource);
        }
        for route in routing.routes() {
            if let Some(source_name) = route.source.clone().filter(|name| !names.contains(name.as_str())) {
                return Err(SettingsError::UnknownSource { route: route.name.clone(), source_name });
            }
        }
        Ok(Self { settings, routing })
    }

    /// See [`Settings::explain`].
    pub(crate) fn explain(&self, host: &Host) -> Explanation {
        let route = self.routing.find(host);
        let rule = route.and_then(|route| route.matches.iter().find(|rule| rule.covers(host)));
        Explanation {
            domain: host.to_string(),
            route: route.map(|route| route.name.clone()),
            rule: rule.map(Match::to_string),
            to: route.map_or(&To::Mx, |route| &route.to).to_string(),
            destination: self.routing.destination(host),
            source: self.source(route).map_or_else(String::new, |source| source.name.to_string()),
            tls: self.tls(route).to_string(),
        }
    }

    /// Where mail for a recipient is scheduled.
    pub(crate) fn destination(&self, path: &ForwardPath) -> Destination {
        let inside = self.routing.inside(path);
        inside.unwrap_or_else(|| self.routing.destination(&host_of(path, &self.settings.hostname)))
    }

    /// Whether mail for a recipient would be scheduled there.
    pub(crate) fn leads(&self, path: &ForwardPath, destination: &Destination) -> bool {
        match self.routing.inside(path) {
            Some(inside) => inside == *destination,
            None => self.routing.leads(&host_of(path, &self.settings.hostname), destination),
        }
    }

    /// The route of a destination, also of one that only reports are owed about.
    pub(crate) fn route(&self, destination: &Destination) -> Result<Option<&Route>, Vanished> {
        let way = Way::parse(&verdict::origin(destination)).ok_or(Vanished)?;
        self.routing.of_destination(&way)
    }

    /// The retry schedule of a destination.
    pub(crate) fn retry(&self, destination: &Destination) -> &RetrySchedule {
        let own = self.route(destination).ok().flatten().and_then(|route| route.retry.as_ref());
        own.unwrap_or(&self.settings.retry)
    }

    /// The protocol that a destination's hosts speak.
    pub(crate) fn protocol(&self, destination: &Destination) -> Protocol {
        match self.route(destination).ok().flatten() {
            Some(Route { to: To::Lmtp(_), .. }) => Protocol::Lmtp,
            _ => Protocol::Smtp,
        }
    }

    /// The source that a route connects from.
    pub(crate) fn source(&self, route: Option<&Route>) -> Option<&Source> {
        let named = route.and_then(|route| route.source.as_deref());
        let fits = |source: &&Source| named.is_none_or(|name| &*source.name == name);
        self.settings.sources.iter().find(fits)
    }

    /// What a route demands of TLS. A store and a listener of our own lie behind no foreign line: there it is used only if
    /// the route says so.
    pub(crate) fn tls(&self, route: Option<&Route>) -> TlsLevel {
        let general = match route.map(|route| &route.to) {
            Some(To::Lmtp(_) | To::Listener { .. }) => TlsLevel::None,
            _ => self.settings.tls.clone(),
        };
        route.and_then(|route| route.tls.clone()).unwrap_or(general)
    }

    /// The bounds of a lane that a route leads to.
    pub(crate) fn placement(&self, route: Option<&Route>) -> Placement {
        let limits = route.and_then(|route| route.limits.clone()).unwrap_or_else(|| self.settings.limits.clone());
        Placement { limits, backoff: self.settings.backoff.clone() }
    }
}
