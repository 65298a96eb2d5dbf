//! Faults put in on purpose, to show that the simulation finds them. Never part of the server: a feature of its own.

use std::sync::OnceLock;

use crate::queue::Queue;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The note that a report was made becomes durable before the report, not together with it.
    OutcomeBeforeReport,
    /// Now and then a delivery that is scheduled again in the store is not looked for.
    LostScheduleEntry,
}

/// Where a queue keeps its fault.
pub(crate) type Slot = OnceLock<Planted>;

impl Queue {
    /// Puts a fault in, for good.
    pub fn plant(&self, fault: Planted) {
        // The first one stays.
        let _ = self.0.planted.set(fault);
    }
}
