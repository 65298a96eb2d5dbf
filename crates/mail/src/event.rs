//! Facts about messages, told once, for logs, metrics and whoever else listens.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::envelope::Envelope;
use crate::id::MessageId;
use crate::outcome::{Act, Outcome};
use crate::path::ForwardPath;
use crate::route::{Lane, Site};
use crate::time::Timestamp;

/// One fact in the story of a message. All facts of one message carry its id.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Responsibility was taken: the message is durable.
    Accepted {
        /// The message.
        message: MessageId,
        /// Its envelope.
        envelope: Arc<Envelope>,
        /// Octets.
        size: u64,
    },
    /// An attempt ended for a recipient; durable when told if the outcome is final.
    Attempted {
        /// The message.
        message: MessageId,
        /// The recipient.
        recipient: ForwardPath,
        /// Where it was tried, if it came that far.
        lane: Option<Lane>,
        /// What became of it.
        outcome: Outcome,
        /// How many attempts there have been.
        attempts: u32,
        /// When the next attempt is due, if there is one.
        next: Option<Timestamp>,
        /// Since the message was accepted.
        age: Duration,
    },
    /// A report to the sender was made.
    Reported {
        /// The message reported about.
        message: MessageId,
        /// The report, a message of its own.
        report: MessageId,
        /// `failed`, `delayed`, `delivered` or `relayed`.
        action: &'static str,
        /// How many recipients it is about.
        recipients: usize,
    },
    /// Put on hold by an operator.
    Held {
        /// The message.
        message: MessageId,
        /// Who, why, when.
        act: Act,
    },
    /// Released from hold by an operator.
    Released {
        /// The message.
        message: MessageId,
        /// Who, why, when.
        act: Act,
    },
    /// Told to retry at once by an operator.
    Retried {
        /// The message.
        message: MessageId,
        /// Who, why, when.
        act: Act,
    },
    /// Every recipient has its final outcome: the message left the queue.
    Finished {
        /// The message.
        message: MessageId,
        /// Since it was accepted.
        age: Duration,
    },
    /// A network is refused at connect from now on.
    Banned {
        /// It, or one address.
        network: String,
        /// Until when; without end if not set.
        until: Option<Timestamp>,
        /// The operator, if it was one.
        author: Option<String>,
        /// Why.
        reason: String,
    },
    /// A ban was lifted by an operator.
    BanLifted {
        /// What was banned.
        network: String,
        /// Who, why, when.
        act: Act,
    },
    /// An account sends much more than it used to: its mail is accepted and held from now on.
    AccountHeld {
        /// The account.
        account: String,
        /// Recipients in 24 hours.
        recipients: u32,
        /// How many would have been like it.
        usual: u32,
    },
    /// An operator found what an account sends right.
    AccountReleased {
        /// The account.
        account: String,
        /// Who, why, when.
        act: Act,
    },
    /// A lane's hosts could not be reached; it pauses.
    LaneBackedOff {
        /// The site.
        site: Site,
        /// From which source.
        source: Arc<str>,
        /// Until when.
        until: Timestamp,
        /// Why, for people.
        reason: String,
    },
}

/// Somebody who listens to facts. Called on the path of messages: it must not block.
pub trait Observer: Send + Sync {
    /// Takes note.
    fn observe(&self, event: &Event);
}

/// Takes no note.
impl Observer for () {
    fn observe(&self, _event: &Event) {}
}
