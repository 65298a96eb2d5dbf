//! Sessions and reports, counted for the operator.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::failure::FailureType;

/// The counters of TLS reports; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// TLS sessions with mail hosts, by what went wrong (`none`: nothing).
    pub sessions: Family<[(&'static str, &'static str); 1], Counter>,
    /// Records of counts that were lost for want of room.
    pub lost: Counter,
    /// Reports to domains, by how it ended.
    pub sent: Family<Sent, Counter>,
    /// Reports from others, by what they were.
    pub received: Family<Received, Counter>,
}

/// How the sending of a report ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Sent {
    /// By `mail` or `https`.
    pub by: &'static str,
    /// The end.
    pub outcome: SendEnd,
}

/// The ends of a sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum SendEnd {
    /// It is on its way or there.
    Sent,
    /// It did not work and will be tried again.
    Deferred,
    /// It was given up.
    Failed,
}

/// What a received message was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Received {
    /// Its kind.
    pub kind: ReceivedKind,
}

/// What came to the address for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ReceivedKind {
    /// A report.
    Report,
    /// Something else.
    Other,
}

impl Metrics {
    /// Counters under `postrider_tls_reports_…` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("postrider_tls_reports");
        registry.register("sessions", "TLS sessions with mail hosts, by failure", metrics.sessions.clone());
        registry.register("lost", "Records of counts lost for want of room", metrics.lost.clone());
        registry.register("sent", "Reports to domains, by way and outcome", metrics.sent.clone());
        registry.register("received", "Messages to the address for reports", metrics.received.clone());
        metrics
    }

    pub(crate) fn session(&self, failure: Option<FailureType>) {
        let failure = failure.map_or("none", FailureType::as_str);
        self.sessions.get_or_create(&[("failure", failure)]).inc();
    }
}
