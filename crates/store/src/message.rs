//! What the store keeps: messages with their deliveries, and the changes that may be made to them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::{Act, ByMode, DeliverBy, Destination, Envelope, Fault, MessageId, Outcome, Timestamp};
use serde::{Deserialize, Serialize};

use crate::incoming::Incoming;

/// A message to commit.
#[derive(Debug)]
pub struct NewMessage {
    /// Its id; never used before.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// What goes in front of the content: our trace fields. May be empty.
    pub trace: Bytes,
    /// The content.
    pub content: Incoming,
    /// One per destination; at least one that is not finished, or the message is gone as soon as it is stored.
    pub deliveries: Vec<Delivery>,
}

/// A message as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// Its id.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Octets that [`Store::content`](crate::Store::content) gives: trace and content.
    pub size: u64,
    /// Its deliveries; a delivery's number is its place here and never changes.
    pub deliveries: Vec<Delivery>,
}

impl StoredMessage {
    /// Whether nothing is left to do: the store forgets such a message.
    pub fn is_finished(&self) -> bool {
        self.deliveries.iter().all(|delivery| delivery.when() == Schedule::Finished)
    }

    /// Makes the change. `false` if it names a delivery that does not exist; the message is then as it was.
    pub(crate) fn change(&mut self, number: u32, change: Change) -> bool {
        let Some(place) = self.deliveries.get_mut(number as usize) else { return false };
        match change {
            Change::State(state) => *place = state,
            Change::Split(into) => {
                let mut into = into.into_iter();
                match into.next() {
                    Some(first) => *place = first,
                    None => return false,
                }
                self.deliveries.extend(into);
            }
        }
        true
    }
}

/// What an update does to one delivery.
pub(crate) enum Change {
    State(Delivery),
    Split(Vec<Delivery>),
}

/// One message × one destination × the recipients that share it: the unit of scheduling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Where it goes.
    pub destination: Destination,
    /// Its recipients.
    pub recipients: Vec<DeliveryRecipient>,
    /// When it is looked at next.
    pub schedule: Schedule,
    /// How many attempts were made.
    pub attempts: u32,
    /// The last fault.
    pub last: Option<Fault>,
    /// Whether the sender was told of the delay.
    pub delay_told: bool,
}

impl Delivery {
    /// A delivery that was not tried yet, of the recipients with these places in the envelope.
    pub fn new(destination: Destination, recipients: impl IntoIterator<Item = u32>, due: Timestamp) -> Self {
        let recipients = recipients.into_iter();
        Self {
            destination,
            recipients: recipients.map(|index| DeliveryRecipient { index, status: RecipientStatus::Pending }).collect(),
            schedule: Schedule::At(due),
            attempts: 0,
            last: None,
            delay_told: false,
        }
    }

    /// When the sender's limit of time asks for something: that the message goes back, or that its delay is told, unless
    /// that has happened.
    pub fn deadline(&self, envelope: &Envelope) -> Option<Timestamp> {
        let asks = |by: &DeliverBy| by.mode == ByMode::Return || !self.delay_told;
        envelope.deliver_by.filter(asks).map(|by| by.by)
    }

    /// Whether a recipient's sender is still to be told.
    pub fn owes_notice(&self) -> bool {
        let owed = |r: &DeliveryRecipient| matches!(r.status, RecipientStatus::Final { notice: Notice::Owed, .. });
        self.recipients.iter().any(owed)
    }

    /// The schedule that counts: a delivery that is called finished but owes a notice is due at once instead, so that
    /// no report is lost by a slip in a room above.
    pub fn when(&self) -> Schedule {
        match &self.schedule {
            Schedule::Finished if self.owes_notice() => Schedule::At(Timestamp::default()),
            schedule => schedule.clone(),
        }
    }
}

/// A recipient of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecipient {
    /// Its place in the envelope.
    pub index: u32,
    /// What became of it.
    pub status: RecipientStatus,
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipientStatus {
    /// Still to be delivered.
    Pending,
    /// Nothing more will be tried.
    Final {
        /// What became of it.
        outcome: Outcome,
        /// Whether the sender is told.
        notice: Notice,
    },
}

/// A report that the sender gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// None.
    NotOwed,
    /// One, which is not committed yet.
    Owed,
    /// One, which is committed.
    Told,
}

/// When a delivery is looked at next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// From this time on.
    At(Timestamp),
    /// When an operator releases it.
    Held(Act),
    /// Never: all its recipients are final and all notices told.
    Finished,
}

/// The clock that due times are by: it goes with the wall clock, but never back.
///
/// What is due is written down by the clock of its day, so whoever reads it after a start must know how far the wall clock
/// was behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleClock {
    /// What it showed.
    pub time: Timestamp,
    /// By how much it was ahead of the wall clock.
    pub lead: Duration,
}

/// A change to a stored message. Changes to messages that are gone, or to deliveries that never were, do nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// Replaces a delivery. The message is gone when all its deliveries are finished.
    Delivery {
        /// The message.
        id: MessageId,
        /// The delivery.
        number: u32,
        /// What it is from now on.
        state: Delivery,
    },
    /// Replaces a delivery by several: the first takes its number, the others get new ones behind the last.
    Split {
        /// The message.
        id: MessageId,
        /// The delivery.
        number: u32,
        /// What it becomes; at least one.
        into: Vec<Delivery>,
    },
}

impl Update {
    /// The message it changes.
    pub fn id(&self) -> MessageId {
        match self {
            Update::Delivery { id, .. } | Update::Split { id, .. } => *id,
        }
    }

    /// The delivery it changes.
    pub fn number(&self) -> u32 {
        match self {
            Update::Delivery { number, .. } | Update::Split { number, .. } => *number,
        }
    }

    pub(crate) fn into_change(self) -> (MessageId, u32, Change) {
        match self {
            Update::Delivery { id, number, state } => (id, number, Change::State(state)),
            Update::Split { id, number, into } => (id, number, Change::Split(into)),
        }
    }
}

/// An entry of a destination's schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The message.
    pub id: MessageId,
    /// The delivery's number in it.
    pub number: u32,
    /// When it is due; for a held one, since when it is held.
    pub due: Timestamp,
    /// Whether an operator holds it.
    pub held: bool,
    /// From when on the message may be delivered: when it was accepted, or is released.
    pub begins_at: Timestamp,
    /// The message's priority.
    pub priority: i8,
    /// When something must happen though it could not be delivered: see [`Delivery::deadline`].
    pub deadline: Option<Timestamp>,
    /// The message's tenant.
    pub tenant: Option<String>,
    /// The message's campaign.
    pub campaign: Option<String>,
    /// The message's size in octets.
    pub size: u64,
}

impl Due {
    /// The place behind this entry, to go on from.
    pub fn cursor(&self) -> Cursor {
        Cursor { held: self.held, due: self.due, id: self.id, number: self.number }
    }
}

/// A place in a destination's schedule: what is scheduled by due time, then what is held by the time of the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cursor {
    pub(crate) held: bool,
    pub(crate) due: Timestamp,
    pub(crate) id: MessageId,
    pub(crate) number: u32,
}

impl Cursor {
    /// Behind everything that is scheduled up to that time.
    pub fn behind(due: Timestamp) -> Self {
        Self { held: false, due, id: MessageId::MAX, number: u32::MAX }
    }
}

/// How much waits for a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Scheduled deliveries.
    pub queued: u64,
    /// Held deliveries.
    pub held: u64,
    /// When the first scheduled one is due.
    pub earliest_due: Option<Timestamp>,
}
