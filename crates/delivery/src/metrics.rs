//! What delivering counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The counters of a [`Deliverer`](crate::Deliverer); clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Connections that came to a greeting that welcomes us.
    pub connections: Counter,
    /// Connections that are open.
    pub open: Gauge,
    /// Connections that failed: `connect`, `refused`, `away`, `cut`, `time`, `protocol`, `content`; `idle`: between two
    /// messages, where it does no harm.
    pub failures: Family<Reason, Counter>,
    /// Connections by what secures them: how the certificate was verified, or `clear`.
    pub lines: Family<Line, Counter>,
    /// Lines that were not secured as demanded or hoped for, by the words of RFC 8460 §4.3.
    pub tls_failures: Family<Reason, Counter>,
    /// Messages handed to a peer, whatever it said.
    pub messages: Counter,
    /// Recipients by outcome: `delivered`, `deferred`, `failed`.
    pub recipients: Family<Reason, Counter>,
    /// Messages converted for a peer that takes seven bits only.
    pub conversions: Counter,
    /// Octets written to peers.
    pub sent_bytes: Counter,
}

/// What secures a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Line {
    /// `clear`, `no` (encrypted, not verified), `web_pki`, `dane_ee`, `dane_ta` or `fingerprint`.
    pub verified: &'static str,
}

/// Which of a small, fixed set of words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The word.
    pub reason: &'static str,
}

impl Metrics {
    /// Counters that the registry tells of.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("postrider_delivery");
        registry.register("connections", "Connections opened", metrics.connections.clone());
        registry.register("open_connections", "Connections open now", metrics.open.clone());
        registry.register("failures", "Connections failed, by reason", metrics.failures.clone());
        registry.register("lines", "Connections by how they are secured", metrics.lines.clone());
        registry.register("tls_failures", "Lines not secured as demanded, by reason", metrics.tls_failures.clone());
        registry.register("messages", "Messages handed to a peer", metrics.messages.clone());
        registry.register("recipients", "Recipients, by outcome", metrics.recipients.clone());
        registry.register("conversions", "Messages converted to seven bits", metrics.conversions.clone());
        registry.register("sent_bytes", "Octets written to peers", metrics.sent_bytes.clone());
        metrics
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn line(&self, verified: &'static str) {
        self.lines.get_or_create(&Line { verified }).inc();
    }

    pub(crate) fn tls_failed(&self, reason: &'static str) {
        self.tls_failures.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn recipient(&self, reason: &'static str) {
        self.recipients.get_or_create(&Reason { reason }).inc();
    }
}
