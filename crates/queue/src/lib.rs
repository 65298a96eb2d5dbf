//! When: the life of a message between the store and its delivery.
//!
//! [`Queue::submit`] makes a plan (which recipient goes where), commits the message and schedules its deliveries. They
//! gather in lanes (source × site), where tenants and campaigns share fairly. [`Queue::grant`] hands out permissions to
//! open a connection; a [`Grant`] gives one delivery after the other and takes the outcome of each. Outcomes become
//! durable states, new attempts, reports to the sender, and events.
//!
//! Inside, a pure scheduler decides and a thin driver does: it loads what is due, finds hosts, records decisions. The
//! store is the truth; what the scheduler has in memory is a bounded cache of what is due, so that a crash costs
//! nothing but a repeated attempt. `docs/internals/queue.md` tells what happens in which order and why that is safe.
//!
//! What must always hold: a delivery is with at most one connection at a time; a final outcome is durable before
//! anybody hears of it; a report to a sender and the note that it was made are one atomic change.

#![forbid(unsafe_code)]

mod arrival;
mod control;
mod engine;
mod grant;
mod metrics;
mod notice;
mod place;
#[cfg(feature = "planted")]
mod planted;
mod queue;
mod routing;
mod scheduler;
mod selection;
mod settings;
mod settle;
mod summary;
mod verdict;
mod walk;

pub use control::{Acted, Action, ControlError};
pub use grant::Grant;
pub use metrics::Metrics;
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use queue::{Parts, Queue, SubmitError};
pub use routing::{Explanation, LmtpServer, Match, Route, SettingsError, SmartHost, To};
pub use scheduler::Windows;
pub use scheduler::fair::Weights;
pub use selection::{Pattern, PatternError, Selection};
pub use settings::Settings;
pub use summary::{
    DeliverySummary, DestinationSummary, Gauges, LaneSummary, ListPage, MessageSummary, RecipientSummary, State,
    Summary,
};
