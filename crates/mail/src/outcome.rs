//! What became of a recipient.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::reply::{EnhancedCode, Reply};
use crate::time::Timestamp;
use crate::tls::TlsFacts;

/// The result of an attempt, or the end, for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The next hop took responsibility.
    Delivered(Delivered),
    /// Not now: another attempt follows.
    Deferred(Fault),
    /// Never: the sender is told.
    Failed(Fault),
    /// Time ran out, with the last fault if an attempt was made; the sender is told.
    Expired(Option<Fault>),
    /// An operator took it out of the queue; nobody is told.
    Removed(Act),
}

impl Outcome {
    /// Whether nothing more will happen to the recipient.
    pub fn is_final(&self) -> bool {
        !matches!(self, Outcome::Deferred(_))
    }

    /// `delivered`, `deferred`, `failed`, `expired` or `removed`: the word in logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Delivered(_) => "delivered",
            Outcome::Deferred(_) => "deferred",
            Outcome::Failed(_) => "failed",
            Outcome::Expired(_) => "expired",
            Outcome::Removed(_) => "removed",
        }
    }
}

/// A recipient that the next hop took over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The host's name.
    pub host: String,
    /// Its address, where it was reached over IP.
    pub address: Option<IpAddr>,
    /// Its reply to the content.
    pub reply: Reply,
    /// Whether it also took over the duty to report (RFC 3461 §5.2.2: it offered DSN); if not, success is `relayed`.
    pub dsn: bool,
    /// Whether it also took over the limit of time that the sender set (RFC 2852 §4.1.4).
    pub deliver_by: bool,
    /// What is known of the TLS session it went over.
    pub tls: Option<TlsFacts>,
}

/// Why something did not work: a reply, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The peer's reply, or the one that says the same of a local cause.
    pub reply: Reply,
    /// Who said so.
    pub by: FaultSource,
}

/// Who found the fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultSource {
    /// The next hop, in words of its own.
    Peer {
        /// Its name.
        host: String,
        /// Its address, where it was reached over IP.
        address: Option<IpAddr>,
    },
    /// We did: DNS, connections, time-outs, checks.
    Local,
}

impl Fault {
    /// A fault that we found ourselves.
    pub fn local(code: u16, enhanced: EnhancedCode, text: impl AsRef<str>) -> Self {
        Self { reply: Reply::new(code, enhanced, text), by: FaultSource::Local }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.reply.is_transient()
    }

    /// Whether trying again is of no use.
    pub fn is_permanent(&self) -> bool {
        self.reply.is_permanent()
    }

    /// The outcome that the fault means: deferred if transient, otherwise failed.
    pub fn into_outcome(self) -> Outcome {
        if self.is_permanent() { Outcome::Failed(self) } else { Outcome::Deferred(self) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            FaultSource::Peer { host, address: Some(address) } => write!(f, "{host} [{address}] said: {}", self.reply),
            FaultSource::Peer { host, address: None } => write!(f, "{host} said: {}", self.reply),
            FaultSource::Local => self.reply.fmt(f),
        }
    }
}

/// Something an operator did: who, why and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Who did it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}
