//! What the look-ups cost and how they end.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The counters of a [`Resolver`](crate::Resolver); clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Look-ups that name servers were asked for, by how they ended.
    pub lookups: Family<Outcome, Counter>,
    /// Look-ups answered from memory.
    pub cached: Counter,
    /// Look-ups under way.
    pub running: Gauge,
}

/// How a look-up ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The end.
    pub outcome: End,
}

/// The ends of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum End {
    /// There are records.
    Found,
    /// There are none, or there is no such name.
    Nothing,
    /// It could not be found out.
    Failed,
}

impl Metrics {
    /// Counters under `postrider_dns_…` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "postrider_dns_lookups",
            "Look-ups that name servers were asked for, by how they ended",
            metrics.lookups.clone(),
        );
        registry.register("postrider_dns_cached", "Look-ups answered from memory", metrics.cached.clone());
        registry.register("postrider_dns_running", "Look-ups under way", metrics.running.clone());
        metrics
    }

    pub(crate) fn ended(&self, end: End) {
        self.lookups.get_or_create(&Outcome { outcome: end }).inc();
    }
}
