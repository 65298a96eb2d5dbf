//! What the configuration decides about receiving.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use ::tls::{Acceptor, ClientCertificates};
use smtp::server::Config;

use crate::bans::BanSettings;
use crate::network::Networks;
use crate::relay::Relay;
use crate::submission::Submission;

/// Everything that can change while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where mail comes in.
    pub listeners: Vec<Listener>,
    /// How many connections there may be, over all listeners.
    pub connections: ConnectionLimits,
    /// Octets of content that all transactions together may hold while they arrive. Beyond it a transaction waits, which
    /// slows its client down, for up to `patience`; then it gets 452 4.3.1. The clients of one network have a quarter of it
    /// at most, those that may relay excepted. 16 MiB: what the store keeps in memory by default.
    pub in_flight: u64,
    /// How long a transaction waits for memory. 10 s.
    pub patience: Duration,
    /// What holds for accounts.
    pub submission: Submission,
    /// What failed logins lead to.
    pub bans: BanSettings,
}

impl Settings {
    /// These listeners with the default limits.
    pub fn new(listeners: Vec<Listener>) -> Self {
        Self {
            listeners,
            connections: ConnectionLimits::default(),
            in_flight: 16 << 20,
            patience: Duration::from_secs(10),
            submission: Submission::default(),
            bans: BanSettings::default(),
        }
    }
}

/// One place where mail comes in.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name in logs and in the envelope of each message.
    pub name: String,
    /// Where it listens.
    pub socket: Socket,
    /// Whom it is for.
    pub role: Role,
    /// Protocol, host name, line endings and the limits of a session.
    pub session: Config,
    /// Proxies (HAProxy, load balancers): from here a PROXY header, version 1 or 2, must come first. From anywhere else it
    /// is refused.
    pub proxy_from: Networks,
    /// How long a proxy may take for its header. 5 s.
    pub proxy_time: Duration,
    /// Clients that may speak for others by XCLIENT.
    pub xclient_from: Networks,
    /// For whom mail is taken.
    pub relay: Relay,
    /// TLS, if it is spoken here.
    pub tls: Option<ListenerTls>,
}

/// TLS at a listener.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// Makes the handshakes. Listeners share one only if they are one service: sessions are resumed across them.
    pub acceptor: Acceptor,
    /// The handshake comes first of all (RFC 8314); otherwise the client asks for it by STARTTLS.
    pub implicit: bool,
    /// How long a handshake may take. 30 s.
    pub handshake_time: Duration,
    /// What the certificates of clients are good for.
    pub clients: ClientCertificates,
}

impl ListenerTls {
    /// By STARTTLS; clients have no certificates.
    pub fn new(acceptor: Acceptor) -> Self {
        Self {
            acceptor,
            implicit: false,
            handshake_time: Duration::from_secs(30),
            clients: ClientCertificates::default(),
        }
    }
}

impl Listener {
    /// Listens at `address` for everybody; no proxies, no XCLIENT.
    pub fn new(name: impl Into<String>, address: SocketAddr, session: Config, relay: Relay) -> Self {
        Self {
            name: name.into(),
            socket: Socket::Bind(address),
            role: Role::Relay,
            session,
            proxy_from: Networks::default(),
            proxy_time: Duration::from_secs(5),
            xclient_from: Networks::default(),
            relay,
            tls: None,
        }
    }
}

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Other servers, and the clients of [`Relay::networks`], which may send to anywhere.
    #[default]
    Relay,
    /// Those who have an account (RFC 6409). An address alone lets nobody send to anywhere.
    Submission,
    /// The clients of [`Relay::networks`]; all others get 554 5.7.1 and are gone.
    Internal,
}

/// Where a listener gets its socket from.
#[derive(Clone, Debug)]
pub enum Socket {
    /// We bind it. An IPv6 address never takes IPv4 connections along (`IPV6_V6ONLY`), `[::]` neither: who wants both
    /// writes two listeners.
    Bind(SocketAddr),
    /// Bound and handed in by somebody else, for instance systemd.
    Inherited(Arc<TcpListener>),
    /// Somebody else accepts the connections that come here and hands them to [`Reception::take`](crate::Reception::take).
    Elsewhere(SocketAddr),
}

impl Socket {
    /// Where it listens; nothing if the operating system does not tell.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Socket::Bind(address) | Socket::Elsewhere(address) => Some(*address),
            Socket::Inherited(listener) => listener.local_addr().ok(),
        }
    }

    /// Whether a listener on one can go on as a listener on the other.
    pub(crate) fn is_same(&self, other: &Socket) -> bool {
        match (self, other) {
            (Socket::Bind(one), Socket::Bind(two)) | (Socket::Elsewhere(one), Socket::Elsewhere(two)) => one == two,
            (Socket::Inherited(_), Socket::Inherited(_)) => {
                self.address().is_some_and(|it| other.address() == Some(it))
            }
            _ => false,
        }
    }
}

/// How many connections there may be at a time. Refused ones get 421 4.3.2 (in total) or 421 4.7.0.
///
/// Clients that may relay to anywhere are the operator's own: only the total counts for them. Behind a proxy the client
/// counts, not the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In total. 10,000.
    pub total: usize,
    /// From one address. 50.
    pub per_address: usize,
    /// From one IPv4 network of 24 bits. 150.
    pub per_ipv4_network: usize,
    /// From one IPv6 network of 64 bits, which is what one customer has. 50.
    pub per_ipv6_network: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: 10_000, per_address: 50, per_ipv4_network: 150, per_ipv6_network: 50 }
    }
}
