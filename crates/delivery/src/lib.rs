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

//!
//! How a line to a host must be secured is asked of `tls::client` for each host, recipients' domain and message (`secure.rs`).
//! An open line carries another domain's mail, or a message that demands more, only if what its host has proven is enough
//! for that, too.

#![forbid(unsafe_code)]

pub mod auth;
mod body;
mod dial;
mod hosts;
mod job;
mod line;
mod metrics;
mod run;
mod secure;
mod settings;
mod work;

pub use dial::{Dial, Endpoint, Stream, TcpDial};
pub use metrics::{Line as SecuredLine, Metrics, Reason};
pub use run::{Deliverer, Parts};
pub use settings::Settings;
pub use work::Work;
