//! Listeners, and the driver that turns an SMTP session into stored messages.
//!
//! A connection passes the gates in this order: the limit of all connections, the PROXY header where the listener expects
//! one, the limits per address and network. Then one Tokio task owns it until it ends: it reads into a buffer, feeds the
//! pure [`smtp::server::Session`], answers its questions (relay control, room for content, commit) and writes what it
//! says, once per batch. An idle connection holds no buffer.
//!
//! What must always hold:
//!
//! - A message is acknowledged only after [`Draft::submit`] returned its id: it is durable then. A client that goes
//!   away in between does not undo that: the message is ours, and the client, which never saw the reply, may send it again.
//! - A client can make nothing grow without bound: connections by [`ConnectionLimits`], content in flight by
//!   [`Settings::in_flight`], everything else by the session's own [`Limits`](smtp::server::Limits).
//! - A panic in a session ends that session alone, and is counted.

#![forbid(unsafe_code)]

mod bans;
mod books;
mod bound;
mod budget;
mod connections;
mod driver;
mod input;
mod intake;
mod metrics;
mod network;
mod operators;
mod proxy;
mod reception;
mod relay;
mod settings;
mod stream;
mod submission;
mod tls;
mod transfer;

pub use bans::{Ban, BanSettings};
pub use bound::ReceptionError;
pub use intake::{Draft, Intake, QueueIntake, Refused};
pub use metrics::{Handshake, Metrics, Reason};
pub use network::{InvalidNetwork, Network, Networks};
pub use operators::{BanSummary, OperatorError};
pub use reception::{Drained, Parts, Reception};
pub use relay::{Client, DomainPattern, OddLocalParts, Relay, Verdict};
pub use settings::{ConnectionLimits, Listener, ListenerTls, Role, Settings, Socket};
pub use stream::Stream;
pub use submission::{AccountLimits, Spike, SpikeRule, Submission, UseSummary};
