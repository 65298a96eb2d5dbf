//! The last step out: SMTP and LMTP clients with connection reuse.
//!
//! A [`Deliverer`] runs one connection at a time for whoever calls it: it opens a connection to the first host of a
//! [`Target`](mail::Target) that answers, pulls deliveries through [`Work`] until there are none, and reports one outcome
//! per recipient. The conversation itself is `smtp::client`, which knows no sockets; this room moves its bytes
//! ([`Stream`], made by a [`Dial`]), keeps its time, and decides what a broken connection means:
//!
//! - As long as the peer did not have the whole content, the next host is tried in the same attempt.
//! - After the whole content was sent, only the peer's reply tells. Without one the recipients are deferred: they may get
//!   the message twice, and never lose it.

#![forbid(unsafe_code)]

mod body;
mod dial;
mod hosts;
mod job;
mod line;
mod metrics;
mod run;
mod settings;
mod work;

pub use dial::{Dial, Endpoint, Stream, TcpDial};
pub use metrics::{Metrics, Reason};
pub use run::{Deliverer, Parts};
pub use settings::Settings;
pub use work::Work;
