//! From a decision to its consequences: recorded first, then told, then scheduled.
//!
//! The order matters. A delivery stays busy in the scheduler until its new state is durable, so that nobody works from
//! an older one; events go out only then; and only then is it looked for again.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use futures_util::StreamExt;
use mail::{Destination, EnhancedCode, Envelope, Event, Fault, Lane, MessageId, Timestamp};
use store::{Delivery, Schedule, StoredMessage, Update};

use crate::arrival::group;
use crate::queue::Inner;
use crate::scheduler::{Item, Key, Setback, Why};
use crate::verdict::{self, Circumstances, Happening, Tiding, Verdict, decide};

/// Reports that are written at a time per batch.
const NOTICES: usize = 16;

/// A decision with all that is needed to carry it out.
pub(crate) struct Conclusion {
    taken: Taken,
    stored: Arc<StoredMessage>,
    lane: Option<Lane>,
    verdict: Verdict,
    telling: Telling,
}

/// A delivery that somebody has taken from the scheduler. Dropped without [`Taken::settled`], because it could not be
/// worked on or whoever did has failed, the delivery is set aside for a while.
pub(crate) struct Taken {
    inner: Arc<Inner>,
    pub(crate) key: Key,
    settled: bool,
}

/// While it lives there is something left to tell of a message, and its end is not told. To be had before the change
/// that may be the last one is recorded.
pub(crate) struct Telling {
    inner: Arc<Inner>,
    id: MessageId,
}

/// What the store says of a delivery that somebody has taken.
pub(crate) enum Current {
    /// It is as it was when it was loaded.
    Same(Arc<StoredMessage>),
    /// It is gone, held, or due at another time; where and when it is looked at next.
    Moved(Vec<(Destination, Timestamp)>),
    /// It could not be read.
    Unreadable,
}

impl Inner {
    /// Deals with deliveries that can't be attempted.
    pub(crate) async fn attend(self: &Arc<Self>, batch: Vec<(Taken, Item, Why)>) {
        let mut conclusions = Vec::new();
        let mut notices = Vec::new();
        for (taken, item, why) in batch {
            let stored = match self.current(&item).await {
                Current::Same(stored) => stored,
                Current::Moved(scheduled) => {
                    taken.settled(&scheduled);
                    continue;
                }
                Current::Unreadable => continue,
            };
            match why {
                Why::NoticeOwed => notices.push((taken, item, stored)),
                why => conclusions.extend(self.judge(taken, stored, &why)),
            }
        }
        if !conclusions.is_empty() {
            self.store.record(conclusions.iter().map(Conclusion::update).collect()).await;
            for conclusion in conclusions {
                self.conclude(conclusion).await;
            }
        }
        let tell = |(taken, item, stored): (Taken, Item, Arc<StoredMessage>)| async move {
            self.tell_owed(taken, &item, &stored).await;
        };
        futures_util::stream::iter(notices).for_each_concurrent(NOTICES, tell).await;
    }

    /// Reads a delivery that the caller has taken, unless it rides along.
    pub(crate) async fn current(&self, item: &Item) -> Current {
        if let Some(rider) = &item.rider {
            return Current::Same(rider.message.clone());
        }
        let (id, number) = item.key;
        let stored = match self.store.message(id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Current::Moved(Vec::new()),
            Err(error) => {
                tracing::warn!(message = %id, %error, "a message of the queue could not be read");
                return Current::Unreadable;
            }
        };
        let Some(delivery) = stored.deliveries.get(number as usize) else { return Current::Moved(Vec::new()) };
        match delivery.when() {
            Schedule::At(due) if due == item.due => Current::Same(stored),
            _ => Current::Moved(verdict::scheduled(std::slice::from_ref(delivery))),
        }
    }

    /// Carries out a decision that is durable.
    pub(crate) async fn conclude(self: &Arc<Self>, conclusion: Conclusion) {
        let Conclusion { taken, stored, lane, verdict, telling } = conclusion;
        for tiding in &verdict.tidings {
            self.tell(&stored, lane.as_ref(), tiding);
        }
        if verdict.tell_delay
            && let Some(delivery) = verdict.into.first()
            && !self.tell_delay(taken.key, &stored, delivery).await
            && stored.deliveries.get(taken.key.1 as usize).is_some_and(|before| before.when() == delivery.when())
        {
            // It is due as before: it is set aside, or it would come back at once, and each time to the log.
            return;
        }
        taken.settled(&verdict::scheduled(&verdict.into));
        self.tell_end(&stored, &verdict.into, telling).await;
    }

    /// Tells of the end of a message, if this was it and everything else about it is told.
    pub(crate) async fn tell_end(&self, stored: &StoredMessage, into: &[Delivery], telling: Telling) {
        drop(telling);
        let finished = into.iter().all(|delivery| delivery.when() == Schedule::Finished);
        if !finished || self.is_telling(stored.id) {
            return;
        }
        let alone = stored.deliveries.len() == 1 && into.len() == 1;
        let gone = alone || matches!(self.store.message(stored.id).await, Ok(None));
        if gone && self.tells_end(stored.id) {
            let age = self.clock.now().since(stored.envelope.received_at);
            self.observer.observe(&Event::Finished { message: stored.id, age });
        }
    }

    /// Whether a message is to go back, for its sender's limit of time is over.
    pub(crate) fn is_over(&self, envelope: &Envelope) -> bool {
        envelope.deliver_by.is_some()
            && self.core(|core, now| core.scheduler.may_expire(now) && verdict::is_over(envelope, now.wall()))
    }

    /// Tells that a lane rests.
    pub(crate) fn tell_setback(&self, setback: Setback, fault: &Fault) {
        self.metrics.backoffs.inc();
        let Setback { lane, until } = setback;
        tracing::debug!(site = %lane.site, source = %lane.source, %until, "the lane rests");
        self.observer.observe(&Event::LaneBackedOff {
            site: lane.site,
            source: lane.source,
            until,
            reason: fault.to_string(),
        });
    }

    /// Decides about a delivery for which there is no attempt.
    fn judge(self: &Arc<Self>, taken: Taken, stored: Arc<StoredMessage>, why: &Why) -> Option<Conclusion> {
        let delivery = stored.deliveries.get(taken.key.1 as usize)?;
        let interrupted;
        let (fault, not_before) = match why {
            Why::LaneRests(fault, until) => (&**fault, *until),
            Why::NoHosts(fault) => (&**fault, Timestamp::default()),
            Why::Dropped => {
                interrupted = Fault::local(451, EnhancedCode::new(4, 3, 0), "the attempt was interrupted");
                (&interrupted, Timestamp::default())
            }
            Why::TimeOver => {
                let order = self.core(|core, _| core.scheduler.take_order(taken.key));
                let rules = self.rules();
                let at = self.circumstances(&rules, &delivery.destination, Timestamp::default());
                let verdict = verdict::overdue(&stored.envelope, delivery, order.as_ref(), &at);
                return Some(Conclusion::new(taken, stored, None, verdict));
            }
            Why::Vanished | Why::NoticeOwed => {
                let verdict = self.reroute(&stored.envelope, delivery);
                return Some(Conclusion::new(taken, stored, None, verdict));
            }
        };
        let order = self.core(|core, _| core.scheduler.take_order(taken.key));
        let rules = self.rules();
        let at = self.circumstances(&rules, &delivery.destination, not_before);
        let happening = Happening::Fault(fault);
        let verdict = decide(&stored.envelope, delivery, happening, order.as_ref(), &at, &self.randomness);
        Some(Conclusion::new(taken, stored, None, verdict))
    }

    /// What decisions about a destination's deliveries rest on.
    pub(crate) fn circumstances<'a>(
        &self,
        rules: &'a crate::settings::Rules,
        destination: &Destination,
        not_before: Timestamp,
    ) -> Circumstances<'a> {
        let (now, may_expire) = self.core(|core, now| (now, core.scheduler.may_expire(now)));
        Circumstances {
            retry: rules.retry(destination),
            protocol: rules.protocol(destination),
            now: now.wall(),
            lead: now.lead,
            may_expire,
            not_before: now.told(not_before),
        }
    }

    /// Routes the pending recipients of a delivery anew; it keeps its age, attempts and due time.
    fn reroute(&self, envelope: &Envelope, delivery: &Delivery) -> Verdict {
        let (pending, mut done): (Vec<_>, Vec<_>) = delivery.recipients.iter().cloned().partition(verdict::is_pending);
        let groups = group(envelope, pending.iter().map(|recipient| recipient.index), &self.rules());
        let mut into = Vec::with_capacity(groups.len());
        for (destination, indexes) in groups {
            let mut recipients: Vec<_> =
                pending.iter().filter(|recipient| indexes.contains(&recipient.index)).cloned().collect();
            recipients.append(&mut done);
            into.push(Delivery { destination, recipients, ..delivery.clone() });
        }
        if into.is_empty() {
            into.push(Delivery { schedule: Schedule::Finished, ..delivery.clone() });
        }
        tracing::info!(message = %envelope.id, destination = %delivery.destination, "routed anew");
        Verdict { into, tidings: Vec::new(), tell_delay: false }
    }

    fn tell(&self, stored: &StoredMessage, lane: Option<&Lane>, tiding: &Tiding) {
        self.metrics.outcome(tiding.outcome.word());
        self.observer.observe(&Event::Attempted {
            message: stored.id,
            recipient: tiding.recipient.clone(),
            lane: lane.cloned(),
            outcome: tiding.outcome.clone(),
            attempts: tiding.attempts,
            next: tiding.next,
            age: self.clock.now().since(stored.envelope.received_at),
        });
    }
}

impl Conclusion {
    pub(crate) fn new(taken: Taken, stored: Arc<StoredMessage>, lane: Option<Lane>, verdict: Verdict) -> Self {
        Self { telling: Telling::new(&taken.inner, stored.id), taken, stored, lane, verdict }
    }

    pub(crate) fn update(&self) -> Update {
        verdict::update(self.taken.key, self.verdict.into.clone())
    }
}

impl Taken {
    pub(crate) fn new(inner: &Arc<Inner>, key: Key) -> Self {
        Self { inner: inner.clone(), key, settled: false }
    }

    /// Its state is durable; what of it is scheduled, where and when.
    pub(crate) fn settled(mut self, scheduled: &[(Destination, Timestamp)]) {
        self.settled = true;
        #[cfg(feature = "planted")]
        let scheduled = match self.inner.planted.get() {
            Some(crate::planted::Planted::LostScheduleEntry) if self.inner.randomness.below(4) == 0 => &[],
            _ => scheduled,
        };
        self.inner.core(|core, now| core.scheduler.settled(self.key, scheduled, now));
        self.inner.settled.notify_waiters();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.settled {
            self.inner.core(|core, now| core.scheduler.restore(self.key, now));
            self.inner.settled.notify_waiters();
        }
    }
}

impl Telling {
    pub(crate) fn new(inner: &Arc<Inner>, id: MessageId) -> Self {
        *inner.telling().entry(id).or_default() += 1;
        Self { inner: inner.clone(), id }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let mut telling = self.inner.telling();
        if let Entry::Occupied(mut count) = telling.entry(self.id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
