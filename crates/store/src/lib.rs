//! The durable store: messages, their content and their schedule, safe on disk before anybody relies on them.
//!
//! The **log** is the truth: append-only segment files to which one committer writes what all callers wait for, in one
//! write and one `fdatasync` per batch. A frame of the log is one atomic change. The **index** is a cache: in memory what
//! changed since the last checkpoint, in a table on disk what survived it; it can be thrown away and built anew from the
//! log. `docs/internals/store.md` describes the formats, the states of a message and the rules of failure.
//!
//! [`Tables`] are small records of other rooms beside it: policies, bans, counts.
//!
//! [`Store`] is the asynchronous face over two threads; below it the engine is synchronous and thread-free, over the seam
//! [`Files`], so that a simulation can run it against a disk that loses power.

#![forbid(unsafe_code)]

mod backend;
mod bell;
mod committer;
mod compact;
mod content;
mod engine;
mod error;
mod files;
mod former;
mod frame;
mod housekeeping;
mod incoming;
mod index;
mod life;
mod log;
mod memory;
mod message;
mod metrics;
mod options;
mod overlay;
mod quarantine;
mod query;
mod read;
mod record;
mod recover;
mod scan;
mod segments;
mod state;
mod store;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use content::Content;
pub use error::{CommitError, IndexError, IntakeError, OpenError, ReadError};
pub use files::{File, Files, RealFiles, Space, make_folder};
pub use incoming::Incoming;
pub use message::{
    Counters, Cursor, Delivery, DeliveryRecipient, Due, NewMessage, Notice, RecipientStatus, Schedule, ScheduleClock,
    StoredMessage, Update,
};
pub use metrics::Metrics;
pub use options::Options;
pub use store::{Status, Store};
pub use tables::{Table, Tables, TablesError};
