//! What the store counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The store's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Messages committed.
    pub(crate) commits: Counter,
    /// Changes of deliveries made durable.
    pub(crate) updates: Counter,
    /// Octets written to the log.
    pub(crate) written: Counter,
    /// Seconds that a batch took to become durable.
    pub(crate) batch_seconds: Histogram,
    /// Frames that shared a batch.
    pub(crate) batch_frames: Histogram,
    /// Batches that failed.
    pub(crate) failures: Counter,
    /// Seconds that a checkpoint took.
    pub(crate) checkpoint_seconds: Histogram,
    /// Messages copied forward by compaction.
    pub(crate) moved: Counter,
    /// Times that the index was built anew.
    pub(crate) rebuilds: Counter,
    pub(crate) messages: Gauge,
    pub(crate) deliveries: Gauge,
    pub(crate) log_bytes: Gauge,
    pub(crate) live_bytes: Gauge,
    pub(crate) content_memory: Gauge,
    pub(crate) lag: Gauge,
    pub(crate) quarantined: Gauge,
}

impl Default for Metrics {
    /// Metrics that nobody reads.
    fn default() -> Self {
        Self {
            commits: Counter::default(),
            updates: Counter::default(),
            written: Counter::default(),
            batch_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            batch_frames: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            failures: Counter::default(),
            checkpoint_seconds: Histogram::new(exponential_buckets(0.004, 2.0, 14)),
            moved: Counter::default(),
            rebuilds: Counter::default(),
            messages: Gauge::default(),
            deliveries: Gauge::default(),
            log_bytes: Gauge::default(),
            live_bytes: Gauge::default(),
            content_memory: Gauge::default(),
            lag: Gauge::default(),
            quarantined: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let room = registry.sub_registry_with_prefix("postrider_store");
        room.register("commits", "Messages made durable", metrics.commits.clone());
        room.register("updates", "Changes of deliveries made durable", metrics.updates.clone());
        room.register("log_written_bytes", "Octets written to the log", metrics.written.clone());
        room.register("batch_seconds", "Time to make a batch durable", metrics.batch_seconds.clone());
        room.register("batch_frames", "Frames that shared a batch", metrics.batch_frames.clone());
        room.register("batch_failures", "Batches that the disk failed", metrics.failures.clone());
        room.register("checkpoint_seconds", "Time to write a checkpoint", metrics.checkpoint_seconds.clone());
        room.register("compacted_messages", "Messages copied forward in the log", metrics.moved.clone());
        room.register("index_rebuilds", "Times that the index was built anew from the log", metrics.rebuilds.clone());
        room.register("messages", "Messages in the queue", metrics.messages.clone());
        room.register("deliveries", "Deliveries in the queue", metrics.deliveries.clone());
        room.register("log_bytes", "Octets of the log in use", metrics.log_bytes.clone());
        room.register("live_bytes", "Octets of the log that queued messages need", metrics.live_bytes.clone());
        room.register("content_memory_bytes", "Octets of content in memory", metrics.content_memory.clone());
        room.register("lag_messages", "Changed messages not yet in the index", metrics.lag.clone());
        room.register("quarantined", "Damaged records found since the start", metrics.quarantined.clone());
        metrics
    }
}
