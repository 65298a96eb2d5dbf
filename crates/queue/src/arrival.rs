//! How a message comes into the queue: made durable with its deliveries, and on the fast path to its lanes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mail::{Act, Destination, Envelope, Event, MessageId};
use store::{CommitError, Delivery, Incoming, NewMessage, Schedule, Store, StoredMessage, Update};

use crate::queue::Inner;
use crate::scheduler::fair::Class;
use crate::scheduler::{Item, Rider};
use crate::settings::Rules;

/// Octets for which a message counts as one more in the fair sharing of a lane.
const COST_UNIT: u64 = 256 << 10;

impl Inner {
    /// Makes a message durable, together with the changes that it settles, and schedules its deliveries or holds them.
    pub(crate) async fn commit(
        &self,
        envelope: Arc<Envelope>,
        trace: Bytes,
        content: Incoming,
        settles: Vec<Update>,
        hold: Option<Act>,
    ) -> Result<Arc<StoredMessage>, CommitError> {
        let mut coming = Coming { inner: self, id: envelope.id, is_over: false };
        let lead = self.core(|core, now| {
            core.scheduler.comes(coming.id);
            now.lead
        });
        let schedule = match (&hold, envelope.release_at) {
            (Some(act), _) => Schedule::Held(act.clone()),
            // When that comes by the wall clock.
            (None, Some(_)) => Schedule::At(envelope.begins_at() + lead),
            (None, None) => Schedule::At(envelope.received_at),
        };
        let deliveries = plan(&envelope, &schedule, &self.rules());
        let message = NewMessage { id: envelope.id, envelope, trace, content, deliveries };
        let stored = self.store.commit(message, settles).await?;
        let accepted = Event::Accepted { message: stored.id, envelope: stored.envelope.clone(), size: stored.size };
        self.observer.observe(&accepted);
        self.metrics.accepted.inc();
        if let Some(act) = hold {
            self.observer.observe(&Event::Held { message: stored.id, act });
        }
        coming.is_over = true;
        self.admit(&stored);
        Ok(stored)
    }

    /// The fast path: a new message goes to its lanes without being read from the store.
    fn admit(&self, stored: &Arc<StoredMessage>) {
        let content = Arc::new(Fresh { store: self.store.clone(), id: stored.id });
        let tenant = stored.envelope.tenant.as_deref().map(Arc::from);
        let campaign = stored.envelope.campaign.as_deref().map(Arc::from);
        self.core(|core, now| {
            let is_known = core.scheduler.came(stored.id);
            for (number, delivery) in (0u32..).zip(&stored.deliveries) {
                let due = match &delivery.schedule {
                    Schedule::At(due) if *due <= now.due => *due,
                    Schedule::At(due) => {
                        core.scheduler.scheduled(&delivery.destination, *due, now);
                        continue;
                    }
                    Schedule::Held(_) | Schedule::Finished => continue,
                };
                let rider = Rider { message: stored.clone(), content: content.clone() };
                let item = Item {
                    key: (stored.id, number),
                    due,
                    class: Class::First,
                    tenant: Clone::clone(&tenant),
                    campaign: Clone::clone(&campaign),
                    cost: cost(stored.size),
                    priority: stored.envelope.priority,
                    deadline: delivery.deadline(&stored.envelope),
                    rider: Some(rider).filter(|_| !is_known),
                };
                core.scheduler.admit(&delivery.destination, item, now);
            }
        });
    }
}

/// The deliveries of a message: one per destination, in the order in which the recipients first need them.
pub(crate) fn plan(envelope: &Envelope, schedule: &Schedule, rules: &Rules) -> Vec<Delivery> {
    let everybody = (0u32..).zip(&envelope.recipients).map(|(index, _)| index);
    group(envelope, everybody, rules)
        .into_iter()
        .map(|(destination, recipients)| {
            let delivery = Delivery::new(destination, recipients, envelope.received_at);
            Delivery { schedule: schedule.clone(), ..delivery }
        })
        .collect()
}

/// Recipients by destination, in the order in which they first need them.
pub(crate) fn group(
    envelope: &Envelope,
    recipients: impl IntoIterator<Item = u32>,
    rules: &Rules,
) -> Vec<(Destination, Vec<u32>)> {
    let mut groups: Vec<(Destination, Vec<u32>)> = Vec::new();
    let mut places: HashMap<Destination, usize> = HashMap::new();
    for index in recipients {
        let Some(recipient) = envelope.recipients.get(index as usize) else { continue };
        let destination = rules.destination(&recipient.path);
        let place = *places.entry(destination.clone()).or_insert_with(|| {
            groups.push((destination, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(index);
    }
    groups
}

/// What a message costs in the fair sharing of a lane.
pub(crate) fn cost(size: u64) -> u32 {
    u32::try_from(1 + size / COST_UNIT).unwrap_or(u32::MAX)
}

/// The word to the scheduler that a message comes, taken back if it does not.
///
/// From when a message is durable until it is admitted here, others may find it in the store: a look at the schedule, an
/// operator. Then what rides along is older than what became of it.
struct Coming<'a> {
    inner: &'a Inner,
    id: MessageId,
    is_over: bool,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.inner.core(|core, _| core.scheduler.came(self.id));
        }
    }
}

/// Held by everybody who may soon need the content; with the last one it may leave memory.
struct Fresh {
    store: Store,
    id: MessageId,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.store.forget_content(self.id);
    }
}
