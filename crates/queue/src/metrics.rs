//! What the queue counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// Counters and gauges of the queue; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Messages made durable, reports included.
    pub accepted: Counter,
    /// Outcomes by recipient: delivered, deferred, failed, expired, removed.
    pub outcomes: Family<Labels, Counter>,
    /// Reports to senders: failed, delayed, relayed, delivered.
    pub reports: Family<Labels, Counter>,
    /// Rests of lanes whose hosts could not be reached.
    pub backoffs: Counter,
    /// Deliveries that connections took and ended without a word about them.
    pub dropped: Counter,
    /// Deliveries that are set aside, because their message could not be read or their report not be written.
    pub aside: Gauge,
    /// Messages refused because the queue holds as many as it may.
    pub refused: Counter,
    /// Deliveries in memory.
    pub in_memory: Gauge,
    /// Destinations known to the scheduler.
    pub destinations: Gauge,
    /// Connections granted and not ended.
    pub connections: Gauge,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let sub = registry.sub_registry_with_prefix("postrider_queue");
        sub.register("accepted", "Messages made durable", metrics.accepted.clone());
        sub.register("outcomes", "Outcomes of recipients", metrics.outcomes.clone());
        sub.register("reports", "Reports to senders", metrics.reports.clone());
        sub.register("backoffs", "Rests of lanes whose hosts could not be reached", metrics.backoffs.clone());
        sub.register("dropped", "Deliveries whose connection ended without a word", metrics.dropped.clone());
        sub.register("aside", "Deliveries that could not be worked on and wait to be tried", metrics.aside.clone());
        sub.register("refused", "Messages refused because the queue is full", metrics.refused.clone());
        sub.register("in_memory", "Deliveries in memory", metrics.in_memory.clone());
        sub.register("destinations", "Destinations known to the scheduler", metrics.destinations.clone());
        sub.register("connections", "Connections granted and not ended", metrics.connections.clone());
        metrics
    }

    pub(crate) fn outcome(&self, word: &'static str) {
        self.outcomes.get_or_create(&[("outcome", word)]).inc();
    }

    pub(crate) fn report(&self, word: &'static str) {
        self.reports.get_or_create(&[("action", word)]).inc();
    }
}
