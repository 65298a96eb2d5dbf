//! What people and programs see of the queue.

use std::sync::Arc;

use mail::{Act, Destination, MessageId, Outcome, Site, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Delivery, Notice, RecipientStatus, Schedule, StoredMessage};

use crate::queue::{Inner, Queue};
use crate::verdict;

/// How much waits where, and how the lanes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// By destination, the one with the most in front.
    pub destinations: Vec<DestinationSummary>,
    /// By lane, the one with the most ready in front.
    pub lanes: Vec<LaneSummary>,
    /// Deliveries in memory.
    pub in_memory: usize,
    /// Connections granted and not ended.
    pub connections: usize,
}

/// What waits for one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationSummary {
    /// The destination.
    pub destination: Destination,
    /// The site behind it, if it was looked up lately.
    pub site: Option<Site>,
    /// The source that connects there, if it is known.
    pub source: Option<Arc<str>>,
    /// Scheduled deliveries, those being attempted included.
    pub queued: u64,
    /// Held deliveries.
    pub held: u64,
    /// Deliveries being attempted.
    pub active: usize,
    /// When the first scheduled one is due.
    pub earliest_due: Option<Timestamp>,
}

/// How a lane is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSummary {
    /// The site.
    pub site: Site,
    /// The source.
    pub source: Arc<str>,
    /// Deliveries ready for a connection.
    pub ready: usize,
    /// Deliveries being attempted.
    pub active: usize,
    /// Open connections.
    pub connections: u32,
    /// How many are allowed now.
    pub allowed: u32,
    /// Until when it rests, because its hosts can't be reached.
    pub resting_until: Option<Timestamp>,
    /// Why it rests, or did last.
    pub fault: Option<String>,
}

/// A message of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSummary {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// Its reverse-path, in angle brackets.
    pub sender: String,
    /// Octets.
    pub size: u64,
    /// Who is accountable for it.
    pub tenant: Option<String>,
    /// Its stream within the tenant.
    pub campaign: Option<String>,
    /// Its deliveries; in lists only those that were asked for.
    pub deliveries: Vec<DeliverySummary>,
}

/// One delivery of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverySummary {
    /// Its number in the message.
    pub number: u32,
    /// Where it goes.
    pub destination: Destination,
    /// How it is.
    pub state: State,
    /// When it is tried next, if it is scheduled.
    pub due: Option<Timestamp>,
    /// Who holds it, why and since when.
    pub held: Option<Act>,
    /// Attempts so far.
    pub attempts: u32,
    /// What went wrong last.
    pub last: Option<String>,
    /// Its recipients.
    pub recipients: Vec<RecipientSummary>,
}

/// How a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Being attempted.
    Active,
    /// Due: in line for an attempt.
    Due,
    /// Was tried; waits for the next attempt.
    Deferred,
    /// On hold.
    Held,
    /// Over, but the sender is still to be told.
    Reporting,
    /// Over.
    Finished,
}

/// One recipient of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientSummary {
    /// The address, in angle brackets.
    pub address: String,
    /// `pending`, or the word of its outcome: `delivered`, `failed`, `expired`, `removed`.
    pub status: String,
    /// The reply behind the outcome.
    pub reply: Option<String>,
    /// Whether a report about it is still to be made.
    pub report_owed: bool,
}

/// A piece of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// Messages with what of them was asked for.
    pub messages: Vec<MessageSummary>,
    /// Where the next piece starts; nothing if this was the last.
    pub next: Option<MessageId>,
}

impl Queue {
    /// How much waits where, and how the lanes are.
    pub async fn summary(&self) -> Result<Summary, store::ReadError> {
        let inner = &self.0;
        let stored = inner.store.destinations().await?;
        let mut lanes = inner.core(|core, now| core.scheduler.lane_states(now));
        let flying = inner.core(|core, _| core.scheduler.flying());
        let mut destinations = Vec::with_capacity(stored.len());
        // In pieces, so that the lock is never held for long.
        for batch in stored.chunks(256) {
            inner.core(|core, now| {
                for (destination, counters) in batch {
                    let lane = core.scheduler.lane_of(destination);
                    destinations.push(DestinationSummary {
                        site: lane.as_ref().map(|lane| lane.site.clone()),
                        source: lane.map(|lane| lane.source),
                        queued: counters.queued,
                        held: counters.held,
                        active: flying.get(destination).copied().unwrap_or(0),
                        earliest_due: counters.earliest_due.map(|due| now.told(due)),
                        destination: destination.clone(),
                    });
                }
            });
        }
        destinations.sort_by(|a, b| (b.queued + b.held, &a.destination).cmp(&(a.queued + a.held, &b.destination)));
        lanes.sort_by(|a, b| (b.ready, &a.lane).cmp(&(a.ready, &b.lane)));
        let (in_memory, connections) = inner.core(|core, _| (core.scheduler.len(), core.scheduler.connections()));
        Ok(Summary { destinations, lanes: lanes.into_iter().map(Into::into).collect(), in_memory, connections })
    }

    /// Everything about one message; `None` if it is not in the queue.
    pub async fn show(&self, id: MessageId) -> Result<Option<MessageSummary>, store::ReadError> {
        let Some(stored) = self.0.store.message(id).await? else { return Ok(None) };
        Ok(Some(self.0.summarise(&stored, |_| true)))
    }
}

impl Inner {
    /// A message for people, with those of its deliveries that are wanted.
    pub(crate) fn summarise(&self, stored: &StoredMessage, wanted: impl Fn(u32) -> bool) -> MessageSummary {
        let envelope = &stored.envelope;
        let wanted = (0u32..).zip(&stored.deliveries).filter(|(number, _)| wanted(*number));
        MessageSummary {
            id: stored.id,
            received_at: envelope.received_at,
            sender: envelope.reverse_path.to_string(),
            size: stored.size,
            tenant: envelope.tenant.clone(),
            campaign: envelope.campaign.clone(),
            deliveries: wanted.map(|(number, delivery)| self.summarise_delivery(stored, number, delivery)).collect(),
        }
    }

    fn summarise_delivery(&self, stored: &StoredMessage, number: u32, delivery: &Delivery) -> DeliverySummary {
        let (active, now) = self.core(|core, now| (core.scheduler.is_flying((stored.id, number)), now));
        let schedule = delivery.when();
        let pending = delivery.recipients.iter().any(verdict::is_pending);
        let state = match &schedule {
            _ if active => State::Active,
            Schedule::Held(_) => State::Held,
            Schedule::Finished => State::Finished,
            Schedule::At(_) if !pending => State::Reporting,
            Schedule::At(due) if *due <= now.due || delivery.attempts == 0 => State::Due,
            Schedule::At(_) => State::Deferred,
        };
        let (due, held) = match schedule {
            Schedule::At(due) => (Some(now.told(due)), None),
            Schedule::Held(act) => (None, Some(act)),
            Schedule::Finished => (None, None),
        };
        let recipients = delivery.recipients.iter().map(|recipient| {
            let path = stored.envelope.recipients.get(recipient.index as usize);
            let (status, reply, report_owed) = match &recipient.status {
                RecipientStatus::Pending => ("pending", None, false),
                RecipientStatus::Final { outcome, notice } => (outcome.word(), reply(outcome), *notice == Notice::Owed),
            };
            let address = path.map_or_else(String::new, |recipient| recipient.path.to_string());
            RecipientSummary { address, status: status.to_owned(), reply, report_owed }
        });
        DeliverySummary {
            number,
            destination: delivery.destination.clone(),
            state,
            due,
            held,
            attempts: delivery.attempts,
            last: delivery.last.as_ref().map(ToString::to_string),
            recipients: recipients.collect(),
        }
    }
}

impl From<crate::scheduler::LaneState> for LaneSummary {
    fn from(state: crate::scheduler::LaneState) -> Self {
        Self {
            site: state.lane.site,
            source: state.lane.source,
            ready: state.ready,
            active: state.flying,
            connections: state.connections,
            allowed: state.allowed,
            resting_until: state.resting_until,
            fault: state.fault.map(|fault| fault.to_string()),
        }
    }
}

fn reply(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Delivered(delivered) => Some(delivered.reply.to_string()),
        Outcome::Deferred(fault) | Outcome::Failed(fault) => Some(fault.to_string()),
        Outcome::Expired(fault) => fault.as_ref().map(ToString::to_string),
        Outcome::Removed(act) => Some(format!("{}: {}", act.author, act.reason)),
    }
}
