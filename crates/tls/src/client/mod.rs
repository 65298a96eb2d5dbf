//! The sending side: what a line to a host must prove, and the handshake that proves it.
//!
//! ```text
//! Ask (host, level of the route, message) ─► Client::policy ─► Policy ─► Client::handshake ─► Secured
//!                                            │ DNS: MX, A, TLSA                │ rustls with our verifier
//!                                            │ MTA-STS                         └─ Policy::judge of the certificates
//!                                            └─ Refusal: this host must not be used
//! ```
//!
//! The order of the rules: what the route says, REQUIRETLS of the message (RFC 8689), DANE (RFC 7672), MTA-STS (RFC 8461),
//! opportunistic TLS (RFC 7435). What must always hold: a look-up that fails, or whose answer is forged, defers; it never
//! weakens a policy. And whatever handshake there was, a resumed one too, [`Policy::judge`] decides over the certificates
//! that it brought, so that one open line can be judged again for another message or domain.

mod dane;
mod failure;
mod handshake;
mod judge;
mod odd;
mod policy;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use dns::Resolve;
use moka::sync::Cache;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;

use crate::mtasts::StsPolicies;

pub use dane::DaneProof;
pub use failure::{Refusal, TlsFailure};
pub use handshake::{Secured, TlsStream};
pub use policy::{Ask, Basis, Demand, Policy, Proof};

/// How long a host is remembered that chokes on a ClientHello with a post-quantum key.
const CLASSIC_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a host is remembered whose TLS did not work although none is demanded.
const BROKEN_FOR: Duration = Duration::from_secs(10 * 60);
/// The most hosts that are remembered for either, and the most of which sessions are kept.
const MOST_HOSTS: u64 = 10_000;
/// How long the sessions of a host are kept after the last use.
const SESSIONS_FOR: Duration = Duration::from_secs(60 * 60);

/// What secures lines to other hosts. Cheap to clone; clones share what they learned of hosts.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) policies: Arc<dyn StsPolicies>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) post_quantum: Arc<CryptoProvider>,
    pub(crate) classic: Arc<CryptoProvider>,
    /// Of each host and proof, with the sessions that can be resumed.
    pub(crate) configs: Cache<handshake::Key, Arc<rustls::ClientConfig>>,
    /// Hosts that get no post-quantum key for now.
    pub(crate) classic_hosts: Cache<Arc<str>, ()>,
    /// Hosts that get no TLS for now, unless it is demanded.
    pub(crate) broken_hosts: Cache<Arc<str>, ()>,
}

impl Client {
    /// A client that believes these authorities.
    pub fn new(resolver: Arc<dyn Resolve>, policies: Arc<dyn StsPolicies>, roots: Arc<RootCertStore>) -> Self {
        let hosts = |time| Cache::builder().max_capacity(MOST_HOSTS).time_to_live(time).build();
        let (post_quantum, classic) = handshake::providers();
        Self(Arc::new(Inner {
            resolver,
            policies,
            roots,
            post_quantum: Arc::new(post_quantum),
            classic: Arc::new(classic),
            configs: Cache::builder().max_capacity(MOST_HOSTS).time_to_idle(SESSIONS_FOR).build(),
            classic_hosts: hosts(CLASSIC_FOR),
            broken_hosts: hosts(BROKEN_FOR),
        }))
    }

    /// TLS with this host did not work, and no policy demands it: for a while it is tried in clear.
    pub fn goes_without(&self, host: &str) {
        self.0.broken_hosts.insert(host.into(), ());
    }

    /// Whether TLS with this host did not work a short while ago. Counts only where TLS is not demanded.
    pub fn went_without(&self, host: &str) -> bool {
        self.0.broken_hosts.contains_key(host)
    }
}
