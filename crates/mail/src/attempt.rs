//! What the queue hands to a connection, and what it gets back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::Domain;
use crate::envelope::Envelope;
use crate::id::MessageId;
use crate::outcome::Outcome;
use crate::route::{Lane, Source};
use crate::tls_level::TargetTls;

/// The protocol spoken to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    Smtp,
    /// LMTP (RFC 2033).
    Lmtp,
}

/// Whom a connection is for: hosts in order of preference, and where to connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The lane that grants the connection.
    pub lane: Lane,
    /// The protocol to speak.
    pub protocol: Protocol,
    /// Where to connect from.
    pub source: Source,
    /// The hosts; lower preference first, equal ones are tried in random order.
    pub hosts: Vec<TargetHost>,
    /// How the lines to them must be secured.
    pub tls: TargetTls,
}

/// One host of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetHost {
    /// A name whose addresses are still to be looked up.
    Name {
        /// The host's name.
        name: Domain,
        /// The TCP port.
        port: u16,
        /// As in an MX record: lower is tried first.
        preference: u16,
    },
    /// An address.
    Address {
        /// Where to connect.
        address: SocketAddr,
        /// As in an MX record: lower is tried first.
        preference: u16,
    },
    /// A Unix socket (LMTP).
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

/// One delivery, handed out for one attempt.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The message.
    pub id: MessageId,
    /// Which of the message's deliveries.
    pub delivery: u32,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// The recipients to try now, as places in the envelope's list.
    pub recipients: Vec<u32>,
    /// Octets of the content with its trace.
    pub size: u64,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// What became of an assignment: one outcome for every recipient of it.
#[derive(Clone, Debug)]
pub struct AttemptReport {
    /// The message.
    pub id: MessageId,
    /// Which of the message's deliveries.
    pub delivery: u32,
    /// The outcome of each recipient, by its place in the envelope's list.
    pub outcomes: Vec<(u32, Outcome)>,
    /// Whether the connection broke or the host told us to go away (421): the lane slows down.
    pub connection_failed: bool,
}
