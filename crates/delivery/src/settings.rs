//! What bounds a connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use smtp::client::Timeouts;

use crate::auth::Credentials;

/// How deliveries are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long to wait for a connection to one address.
    pub connect: Duration,
    /// How long a handshake of TLS may take.
    pub handshake: Duration,
    /// How long the peer may take for each of its replies (RFC 5321 §4.5.3.2).
    pub timeouts: Timeouts,
    /// The most recipients of one transaction; a peer's LIMITS (RFC 9422) may lower it.
    pub recipients: u32,
    /// The most messages over one connection: many receivers close after some number, and a new connection spreads load
    /// over their hosts. A peer's LIMITS may lower it.
    pub messages: u32,
    /// The largest message that is converted for a peer that takes no 8-bit content, in octets: a conversion holds the
    /// message and its converted form, which can be three times as large, in memory.
    pub convert: u64,
    /// Who we are to the hosts of routes, by the name of the route.
    pub credentials: HashMap<Arc<str>, Arc<Credentials>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(30),
            timeouts: Timeouts::default(),
            recipients: 100,
            messages: 100,
            convert: 16 << 20,
            credentials: HashMap::new(),
        }
    }
}
