//! What people and programs see of the queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mail::{Act, Delivered, Destination, MessageId, Outcome, Site, Timestamp, TlsDemand};
use serde::{Deserialize, Serialize};
use store::{Counters, Delivery, Notice, RecipientStatus, Schedule, StoredMessage};

use crate::queue::{Inner, Queue};
use crate::verdict;

/// How much waits where, and how the lanes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Those destinations for which most waits, in that order.
    pub destinations: Vec<DestinationSummary>,
    /// The lanes with the most ready, in that order.
    pub lanes: Vec<LaneSummary>,
    /// How many destinations there are, those included that are not listed.
    pub total_destinations: u64,
    /// Scheduled deliveries of all destinations.
    pub queued: u64,
    /// Held deliveries of all destinations.
    pub held: u64,
    /// What is cheap to know.
    #[serde(flatten)]
    pub gauges: Gauges,
}

/// What the scheduler knows without looking into the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Deliveries in memory.
    pub in_memory: usize,
    /// Of these, those that could not be worked on and wait to be tried.
    pub aside: usize,
    /// Connections granted and not ended.
    pub connections: usize,
    /// Lanes.
    pub total_lanes: usize,
    /// Lanes that rest, because their hosts can't be reached.
    pub resting_lanes: usize,
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
    /// The account that submitted it.
    pub account: Option<String>,
    /// Whether its sender requires TLS on the whole way.
    pub requires_tls: bool,
    /// By when its sender wants it delivered.
    pub deliver_by: Option<Timestamp>,
    /// Before this time it is not delivered.
    pub release_at: Option<Timestamp>,
    /// Its priority, from -9 to 9.
    pub priority: i8,
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
    /// Kept back until the time that its sender set.
    Scheduled,
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

/// Destinations that are read together.
const PAGE: usize = 1024;

impl Queue {
    /// How much waits where, and how the lanes are: the first `most` destinations and lanes. Memory does not grow with
    /// the number of others.
    pub async fn summary(&self, most: usize) -> Result<Summary, store::ReadError> {
        let inner = &self.0;
        let mut top: BTreeSet<(Reverse<u64>, Destination)> = BTreeSet::new();
        let mut counters_of = BTreeMap::new();
        let (mut total_destinations, mut queued, mut held) = (0, 0, 0);
        let mut after = None;
        loop {
            let page = inner.store.destinations_after(after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(destination, _)| destination.clone());
            for (destination, counters) in page {
                total_destinations += 1;
                queued += counters.queued;
                held += counters.held;
                top.insert((Reverse(counters.queued + counters.held), destination.clone()));
                counters_of.insert(destination, counters);
                if top.len() > most
                    && let Some((_, least)) = top.pop_last()
                {
                    counters_of.remove(&least);
                }
            }
            if is_last {
                break;
            }
        }
        let flying = inner.core(|core, _| core.scheduler.flying());
        let listed = top.into_iter().filter_map(|(_, destination)| {
            let counters = counters_of.remove(&destination)?;
            Some(inner.summarise_destination(destination, counters, &flying))
        });
        let destinations = listed.collect();
        let lanes =
            inner.core(|core, now| core.scheduler.busiest_lanes(most, now)).into_iter().map(Into::into).collect();
        Ok(Summary { destinations, lanes, total_destinations, queued, held, gauges: self.gauges() })
    }

    /// What waits for one destination, and how its lane is.
    pub async fn destination(
        &self,
        destination: &Destination,
    ) -> Result<(Option<DestinationSummary>, Option<LaneSummary>), store::ReadError> {
        let inner = &self.0;
        let counters = inner.store.counters(destination).await?;
        let flying = inner.core(|core, _| core.scheduler.flying());
        let waits = counters.queued + counters.held > 0;
        let counts = waits.then(|| inner.summarise_destination(destination.clone(), counters, &flying));
        let lane = inner.core(|core, now| core.scheduler.lane_state_of(destination, now));
        Ok((counts, lane.map(Into::into)))
    }

    /// What is cheap to know.
    pub fn gauges(&self) -> Gauges {
        self.0.core(|core, now| {
            let (total_lanes, resting_lanes) = core.scheduler.count_lanes(now);
            Gauges {
                in_memory: core.scheduler.len(),
                aside: core.scheduler.aside(),
                connections: core.scheduler.connections(),
                total_lanes,
                resting_lanes,
            }
        })
    }

    /// Everything about one message; `None` if it is not in the queue.
    pub async fn show(&self, id: MessageId) -> Result<Option<MessageSummary>, store::ReadError> {
        let Some(stored) = self.0.store.message(id).await? else { return Ok(None) };
        Ok(Some(self.0.summarise(&stored, |_| true)))
    }
}

impl Inner {
    fn summarise_destination(
        &self,
        destination: Destination,
        counters: Counters,
        flying: &HashMap<Destination, usize>,
    ) -> DestinationSummary {
        let (lane, now) = self.core(|core, now| (core.scheduler.lane_of(&destination), now));
        DestinationSummary {
            site: lane.as_ref().map(|lane| lane.site.clone()),
            source: lane.map(|lane| lane.source),
            queued: counters.queued,
            held: counters.held,
            active: flying.get(&destination).copied().unwrap_or(0),
            earliest_due: counters.earliest_due.map(|due| now.told(due)),
            destination,
        }
    }

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
            account: envelope.account.clone(),
            requires_tls: envelope.tls == TlsDemand::Required,
            deliver_by: envelope.deliver_by.map(|limit| limit.by),
            release_at: envelope.release_at,
            priority: envelope.priority,
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
            Schedule::At(due) if *due <= now.due => State::Due,
            Schedule::At(_) if delivery.attempts == 0 && stored.envelope.begins_at() > now.wall() => State::Scheduled,
            Schedule::At(_) if delivery.attempts == 0 => State::Due,
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
        Outcome::Delivered(Delivered { reply, tls: Some(tls), .. }) => {
            Some(format!("{reply} ({tls}, verified: {})", tls.verified.word()))
        }
        Outcome::Delivered(delivered) => Some(delivered.reply.to_string()),
        Outcome::Deferred(fault) | Outcome::Failed(fault) => Some(fault.to_string()),
        Outcome::Expired(fault) => fault.as_ref().map(ToString::to_string),
        Outcome::Removed(act) => Some(format!("{}: {}", act.author, act.reason)),
    }
}
