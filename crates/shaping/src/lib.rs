//! How fast: when to try again, how many connections to hold, how long to leave an unreachable host alone, and whose
//! turn it is. Pure arithmetic: the time and the randomness are handed in, nothing waits, nothing is asked.
//!
//! - [`RetrySchedule`]: when a delivery is tried again, when its sender hears of the delay, when it expires.
//! - [`Concurrency`]: how many connections a lane may hold; learns from success and failure, within [`Limits`].
//! - [`Backoff`]: how long a lane rests whose host can't be reached, and the single probe after that.
//! - [`Drr`]: fair turns between keys (tenants, campaigns, old and new mail), in proportion to their weights.
//!
//! What must always hold: no bound of the settings is ever exceeded, whatever the sequence of events.

#![forbid(unsafe_code)]

mod backoff;
mod concurrency;
mod drr;
mod jitter;
mod retry;

pub use backoff::{Admission, Backoff, BackoffSettings};
pub use concurrency::{Concurrency, Limits, Open};
pub use drr::{Drr, Turn};
pub use jitter::Jitter;
pub use retry::{Intervals, IntervalsError, NextAttempt, Purpose, RetrySchedule};
