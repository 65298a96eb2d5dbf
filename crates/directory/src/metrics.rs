//! What authentication counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The counters of a [`Directory`](crate::Directory); clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Exchanges that ended, by mechanism and how: `ok`, `credentials`, `disabled`, `must_upgrade`, `malformed`,
    /// `unavailable`.
    pub attempts: Family<Attempt, Counter>,
}

/// A mechanism and how an exchange by it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Attempt {
    /// The name of the mechanism.
    pub mechanism: &'static str,
    /// How it ended.
    pub result: &'static str,
}

impl Metrics {
    /// Counters under `postrider_directory_…` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let room = registry.sub_registry_with_prefix("postrider_directory");
        room.register("attempts", "AUTH exchanges that ended, by mechanism and how", metrics.attempts.clone());
        metrics
    }

    pub(crate) fn ended(&self, mechanism: &'static str, result: &'static str) {
        self.attempts.get_or_create(&Attempt { mechanism, result }).inc();
    }
}
