//! From the configuration's types to the settings of each room.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use delivery::auth::Credentials;
use mail::{Domain, Source};
use shaping::{BackoffSettings, Intervals, Jitter, Limits, RetrySchedule};

use super::files;
use super::security::Security;
use super::supervision::Handed;
use crate::config::{
    AuthUse, Configuration, Endings, Listener, Loaded, NextHop, OddLocalParts, OutgoingTls, Pattern, Period, Protocol,
    Retry, Role, Route, SmartHostAuth, TlsUse,
};

/// What cannot be expressed, although every value is right by itself.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Retry times.
    #[error("the retry times of {place}: {error}")]
    Intervals {
        /// Which.
        place: String,
        /// Why.
        error: shaping::IntervalsError,
    },
    /// Accounts.
    #[error("the accounts cannot be used: {0}")]
    Accounts(String),
    /// A listener's name.
    #[error("there is no listener `{0}`")]
    Listener(String),
    /// Who vouches for clients.
    #[error(transparent)]
    Authorities(#[from] tls::IdentityError),
    /// The terms of handshakes.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// For the store.
pub fn store(configuration: &Configuration) -> store::Options {
    let settings = &configuration.store;
    let defaults = store::Options::default();
    store::Options {
        segment_size: settings.segment.0,
        // A record must fit into a segment several times.
        inline_limit: defaults.inline_limit.min(settings.segment.0 / 4),
        content_memory: settings.content_memory.0,
        index_cache: settings.index_cache.0,
        floor_bytes: settings.free_space.0,
        floor_inodes: settings.free_inodes,
        checkpoint_every: settings.checkpoint.0,
        ..defaults
    }
}

/// For the directory; nothing if there are no accounts.
pub fn accounts(
    loaded: &Loaded,
    secret: &directory::Secret,
    tables: &store::Tables,
) -> Result<Option<directory::Settings>, SettingsError> {
    let Some(accounts) = &loaded.configuration.accounts else { return Ok(None) };
    let uses = directory::Uses::new(tables.clone(), std::sync::Arc::new(mail::SystemClock));
    let settings = accounts.to_settings(secret.clone(), uses);
    settings.map(Some).map_err(SettingsError::Accounts)
}

/// For reception. Sockets that systemd handed over are taken from `handed` by their address.
pub fn reception(
    configuration: &Configuration,
    handed: &Handed,
    security: &Security,
) -> Result<reception::Settings, SettingsError> {
    let mut listeners = Vec::new();
    let clients = security.clients(configuration)?;
    for listener in &configuration.listeners() {
        let tls = security.listener(configuration, listener, &clients)?;
        let several = listener.address.0.len() > 1;
        for address in &listener.address.0 {
            let name = if several { format!("{}@{address}", listener.name) } else { listener.name.clone() };
            let mut made = one_listener(configuration, listener, name, address.0, handed);
            made.tls.clone_from(&tls);
            listeners.push(made);
        }
    }
    Ok(reception::Settings {
        connections: reception::ConnectionLimits {
            total: files::room(configuration).clients,
            ..configuration.connections.to_limits()
        },
        in_flight: configuration.connections.in_flight.0,
        patience: configuration.connections.patience.0,
        submission: configuration.submission.to_settings(),
        bans: configuration.bans.to_settings(&configuration.networks),
        ..reception::Settings::new(listeners)
    })
}

fn one_listener(
    configuration: &Configuration,
    listener: &Listener,
    name: String,
    address: SocketAddr,
    handed: &Handed,
) -> reception::Listener {
    let session = smtp::server::Config {
        protocol: match listener.protocol {
            Protocol::Smtp => mail::Protocol::Smtp,
            Protocol::Lmtp => mail::Protocol::Lmtp,
        },
        endings: match listener.endings() {
            Endings::Strict => smtp::server::Endings::Strict,
            Endings::Repair => smtp::server::Endings::Repair,
        },
        limits: configuration.limits.to_session(),
        tls: match listener.tls() {
            TlsUse::Off => smtp::server::TlsOffer::None,
            TlsUse::Offered => smtp::server::TlsOffer::StartTls,
            TlsUse::Required => smtp::server::TlsOffer::Required,
            TlsUse::Implicit => smtp::server::TlsOffer::Implicit,
        },
        auth: auth(listener),
        future_release: some(configuration.submission.future_release),
        deliver_by: some(configuration.submission.deliver_by),
        mt_priority: configuration.submission.priority,
        ..smtp::server::Config::new(configuration.hostname.0.clone())
    };
    let mut made = reception::Listener::new(name, address, session, relay(configuration));
    if let Some(socket) = handed.find(address) {
        made.socket = reception::Socket::Inherited(socket);
    }
    made.role = match listener.role {
        Role::Relay => reception::Role::Relay,
        Role::Submission | Role::Submissions => reception::Role::Submission,
        Role::Internal => reception::Role::Internal,
    };
    made.proxy_from = networks(&listener.proxies);
    made.proxy_time = configuration.connections.proxy_time.0;
    made.xclient_from = networks(&listener.xclient);
    made
}

/// Which of the mechanisms can be had is decided on each line anew, by what the accounts have and the line can.
fn auth(listener: &Listener) -> smtp::server::AuthOffer {
    let all = || directory::Mechanism::ALL.iter().map(|mechanism| mechanism.as_str().to_owned()).collect();
    match listener.auth() {
        AuthUse::Off => smtp::server::AuthOffer::default(),
        AuthUse::Offered => smtp::server::AuthOffer { mechanisms: all(), required: false },
        AuthUse::Required => smtp::server::AuthOffer { mechanisms: all(), required: true },
    }
}

fn some(period: Period) -> Option<std::time::Duration> {
    Some(period.0).filter(|period| !period.is_zero())
}

fn relay(configuration: &Configuration) -> reception::Relay {
    let pattern = |pattern: &Pattern| match pattern {
        Pattern::Exact(domain) => Some(reception::DomainPattern::Exact(domain.clone())),
        Pattern::Below(domain) => Some(reception::DomainPattern::Below(domain.clone())),
        // An open relay: no configuration with it passes the checks.
        Pattern::Any => None,
    };
    reception::Relay {
        domains: configuration.domains.iter().filter_map(pattern).collect(),
        odd_local_parts: match configuration.odd_local_parts {
            OddLocalParts::Refuse => reception::OddLocalParts::Refuse,
            OddLocalParts::Accept => reception::OddLocalParts::Accept,
        },
        ..reception::Relay::from_networks(networks(&configuration.networks))
    }
}

fn networks(networks: &[crate::config::Network]) -> reception::Networks {
    networks.iter().map(|network| reception::Network::around(network.address, network.prefix)).collect()
}

/// For the queue.
pub fn queue(configuration: &Configuration) -> Result<queue::Settings, SettingsError> {
    let hostname = configuration.hostname.0.clone();
    let delivery = &configuration.delivery;
    let limits = Limits {
        start: delivery.connections_at_first,
        per_site: delivery.connections_per_site,
        per_source: delivery.connections_per_source,
        ..Limits::default()
    };
    let routes: Result<Vec<_>, _> =
        configuration.route.iter().map(|route| one_route(route, configuration, &limits)).collect();
    let defaults = queue::Settings::new(hostname.clone());
    Ok(queue::Settings {
        ourselves: ourselves(configuration),
        routes: routes?,
        inside: configuration.inside(),
        sources: sources(configuration),
        retry: schedule(&configuration.retry, configuration, "[retry]")?,
        limits,
        tls: configuration.delivery.tls.to_level(),
        backoff: BackoffSettings {
            first: delivery.rest_first.0,
            most: delivery.rest_most.0,
            ..BackoffSettings::default()
        },
        windows: queue::Windows {
            total: configuration.queue.deliveries as usize,
            destination: configuration.queue.deliveries_per_destination as usize,
            connections: files::room(configuration).deliveries,
            ..defaults.windows.clone()
        },
        idle: delivery.idle.0,
        most_messages: configuration.queue.messages,
        return_limit: configuration.reports.returned.as_usize(),
        ..defaults
    })
}

fn sources(configuration: &Configuration) -> Vec<Source> {
    let hostname = &configuration.hostname.0;
    if configuration.source.is_empty() {
        return vec![Source { name: "default".into(), ipv4: None, ipv6: None, ehlo: hostname.clone() }];
    }
    let source = |source: &crate::config::Source| Source {
        name: source.name.as_str().into(),
        ipv4: source.ipv4.map(|address| address.0),
        ipv6: source.ipv6.map(|address| address.0),
        ehlo: source.ehlo.as_ref().map_or_else(|| hostname.clone(), |name| name.0.clone()),
    };
    configuration.source.iter().map(source).collect()
}

fn schedule(retry: &Retry, configuration: &Configuration, place: &str) -> Result<RetrySchedule, SettingsError> {
    let intervals = match &retry.intervals {
        Some(listed) => Intervals::listed(listed.iter().map(|wait| wait.0).collect::<Vec<_>>()),
        None => Intervals::doubling(retry.first.0, retry.most.0),
    };
    let delay_after = configuration.reports.delay_after.0;
    Ok(RetrySchedule {
        intervals: intervals.map_err(|error| SettingsError::Intervals { place: place.to_owned(), error })?,
        jitter: Jitter::new(f64::from(retry.jitter) / 100.0),
        expire: retry.expire.0,
        expire_bounces: retry.expire_bounces.0,
        delay_notice: (!delay_after.is_zero()).then_some(delay_after),
    })
}

fn one_route(route: &Route, configuration: &Configuration, general: &Limits) -> Result<queue::Route, SettingsError> {
    let name = route.called();
    let retry = match route.retry.is_empty() {
        true => None,
        false => {
            let place = format!("route `{name}`");
            Some(schedule(&route.retry.over(&configuration.retry), configuration, &place)?)
        }
    };
    let rule = |pattern: &Pattern| match pattern {
        Pattern::Exact(domain) => queue::Match::Domain(domain.clone()),
        Pattern::Below(domain) => queue::Match::Below(domain.clone()),
        Pattern::Any => queue::Match::Any,
    };
    let tls = route.tls.as_ref().map(OutgoingTls::to_level);
    Ok(queue::Route {
        matches: route.domains.0.iter().map(rule).collect(),
        to: next_hop(route, configuration)?,
        source: route.source.clone(),
        retry,
        tls: tls.or_else(|| route.auth.as_ref().and_then(SmartHostAuth::default_tls)),
        authenticates: route.auth.is_some(),
        implicit_tls: route.to.0.iter().any(|hop| matches!(hop, NextHop::SecureHost(..))),
        limits: route.connections_per_site.map(|per_site| Limits { per_site, ..general.clone() }),
        name,
    })
}

fn next_hop(route: &Route, configuration: &Configuration) -> Result<queue::To, SettingsError> {
    let mut hosts = Vec::new();
    for hop in &route.to.0 {
        match hop {
            NextHop::Host(host, port) | NextHop::SecureHost(host, port) => {
                hosts.push(queue::SmartHost { host: host.clone(), port: *port, mx: false })
            }
            NextHop::ExchangesOf(host, port) => {
                hosts.push(queue::SmartHost { host: host.clone(), port: *port, mx: true });
            }
            NextHop::Mx => return Ok(queue::To::Mx),
            NextHop::Lmtp(host, port) => {
                return Ok(queue::To::Lmtp(queue::LmtpServer::Tcp { host: host.clone(), port: *port }));
            }
            NextHop::LmtpSocket(path) => return Ok(queue::To::Lmtp(queue::LmtpServer::Unix(path.clone()))),
            NextHop::Listener(name) => {
                let listeners = configuration.listeners();
                let listener = listeners.iter().find(|listener| listener.name == *name);
                let address = listener.and_then(|listener| listener.address.0.first());
                let address = address.ok_or_else(|| SettingsError::Listener(name.clone()))?;
                return Ok(queue::To::Listener { name: name.clone(), address: reachable(address.0) });
            }
        }
    }
    Ok(queue::To::SmartHosts(hosts))
}

/// Where to connect to reach a socket that listens at `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// By which names and addresses mail exchanges may mean us: what listens on port 25, where others send mail to.
fn ourselves(configuration: &Configuration) -> dns::Ourselves {
    let ehlo = configuration.source.iter().filter_map(|source| source.ehlo.as_ref().map(|name| name.0.clone()));
    let names: HashSet<Domain> = ehlo.chain([configuration.hostname.0.clone()]).collect();
    let mut addresses = HashSet::new();
    for address in configuration.listeners().iter().flat_map(|listener| listener.address.0.clone()) {
        match address.0 {
            address if address.port() != 25 => {}
            address if address.ip().is_unspecified() => addresses.extend(interfaces(address.is_ipv4())),
            address => drop(addresses.insert(address.ip())),
        }
    }
    dns::Ourselves { names, addresses }
}

/// The addresses of this machine's interfaces.
fn interfaces(ipv4: bool) -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        tracing::warn!("the addresses of this machine cannot be listed; it knows itself in MX records by name only");
        return Vec::new();
    };
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
            (Some(address), _) if ipv4 => Some(IpAddr::V4(address.ip())),
            (_, Some(address)) if !ipv4 => Some(IpAddr::V6(address.ip())),
            _ => None,
        }
    };
    interfaces.filter_map(ip).collect()
}

/// For delivery.
pub fn delivery(configuration: &Configuration) -> delivery::Settings {
    let credentials = configuration.route.iter().filter_map(|route| {
        let settings = route.auth.as_ref()?.to_settings()?;
        Some((Arc::from(route.called()), Arc::new(Credentials::new(settings))))
    });
    delivery::Settings { credentials: credentials.collect(), ..configuration.delivery.to_settings() }
}
