//! How policies were come by.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The counters of a [`PolicyCache`](crate::mtasts::PolicyCache); clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Policies fetched over HTTPS, by how it ended.
    pub fetches: Family<Fetched, Counter>,
}

/// How a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Fetched {
    /// The end.
    pub outcome: End,
}

/// The ends of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum End {
    /// There is a policy.
    Found,
    /// The host could not be reached, or answered with something else.
    Failed,
    /// The host did not prove its name.
    Untrusted,
    /// The policy makes no sense.
    Invalid,
}

impl Metrics {
    /// Counters under `postrider_mta_sts_…` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("postrider_mta_sts");
        registry.register("fetches", "MTA-STS policies fetched over HTTPS", metrics.fetches.clone());
        metrics
    }
}
