//! A permission to open a connection, and the work that the connection gets.

use std::collections::HashMap;
use std::sync::Arc;

use mail::{Assignment, AttemptReport, EnhancedCode, Fault, Outcome, Target, Timestamp};
use store::{Delivery, StoredMessage};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::Inner;
use crate::scheduler::{GrantId, Item, Key, Pull, Why, Work};
use crate::settings::Rules;
use crate::settle::{Conclusion, Current, Taken};
use crate::verdict::{self, Happening, decide};

/// Permission for one connection to a [`Target`]. Dropped, the connection counts as ended, and deliveries that it took
/// and did not report go back to their lane.
pub struct Grant {
    inner: Arc<Inner>,
    id: GrantId,
    target: Arc<Target>,
    bell: Arc<Notify>,
    flights: HashMap<Key, Arc<StoredMessage>>,
}

impl Grant {
    pub(crate) async fn wait(inner: &Arc<Inner>) -> Option<Grant> {
        loop {
            let granted = inner.granted.notified();
            tokio::pin!(granted);
            granted.as_mut().enable();
            let (work, stopped) = inner.core(|core, now| {
                let work = core.scheduler.grant(now).map(|work| {
                    let bell = core.bells.entry(work.lane).or_default().clone();
                    (work, bell)
                });
                (work, core.scheduler.is_stopped())
            });
            if let Some((Work { grant, target, .. }, bell)) = work {
                return Some(Grant { inner: inner.clone(), id: grant, target, bell, flights: HashMap::new() });
            }
            if stopped {
                return None;
            }
            granted.await;
        }
    }

    /// Whom to connect to, and from where.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The next delivery. Waits a little for one if none is ready; `None`: the connection is to end.
    pub async fn next(&mut self) -> Option<Assignment> {
        let mut until: Option<Instant> = None;
        loop {
            let bell = self.bell.clone();
            let rung = bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            match self.inner.core(|core, now| core.scheduler.pull(self.id, now)) {
                Pull::Item(item) => {
                    if let Some(assignment) = self.board(*item).await {
                        return Some(assignment);
                    }
                }
                Pull::Close => return None,
                Pull::Wait => {
                    let waiting = Waiting(&self.inner, self.id);
                    let idle = self.inner.rules().settings.idle;
                    let deadline = *until.get_or_insert_with(|| Instant::now() + idle);
                    if Instant::now() >= deadline {
                        return None;
                    }
                    // After the time is up the lane is asked once more, for work may have come in that moment.
                    let _ = tokio::time::timeout_at(deadline, rung).await;
                    drop(waiting);
                }
            }
        }
    }

    /// What became of a delivery that [`Self::next`] gave. Its outcome is on its way to the disk when this returns; the
    /// next delivery need not wait for it.
    pub async fn report(&mut self, report: AttemptReport) {
        let key = (report.id, report.delivery);
        let Some(stored) = self.flights.remove(&key) else {
            tracing::warn!(message = %report.id, delivery = report.delivery, "a report about a delivery that nobody took");
            return;
        };
        let trouble = report.connection_failed.then(|| trouble_of(&report));
        let (order, setback) = self.inner.core(|core, now| {
            let order = core.scheduler.landed(self.id, key);
            (order, core.scheduler.progressed(self.id, trouble.clone(), now))
        });
        if let (Some(setback), Some(fault)) = (setback, &trouble) {
            self.inner.tell_setback(setback, fault);
        }
        let Some(order) = order else { return };
        let taken = Taken::new(&self.inner, key);
        let Some(delivery) = stored.deliveries.get(key.1 as usize) else { return };
        let rules = self.inner.rules();
        let at = self.inner.circumstances(&rules, &delivery.destination, Timestamp::default());
        let happening = Happening::Attempt(&report.outcomes);
        let verdict = decide(&stored.envelope, delivery, happening, order.as_ref(), &at, &self.inner.randomness);
        let lane = Some(self.target.lane.clone());
        let conclusion = Conclusion::new(taken, stored, lane, verdict);
        let durable = self.inner.store.record(vec![conclusion.update()]);
        let inner = self.inner.clone();
        self.inner.keep_books(async move {
            durable.await;
            inner.conclude(conclusion).await;
        });
    }

    /// No host of the target could be reached. Deliveries already taken go back to the lane when the grant is dropped.
    pub fn unreachable(&mut self, fault: Fault) {
        let setback = self.inner.core(|core, now| core.scheduler.unreachable(self.id, fault.clone(), now));
        if let Some(setback) = setback {
            self.inner.tell_setback(setback, &fault);
        }
    }

    /// Makes an assignment of what the lane gave, if it still is what it was.
    async fn board(&mut self, item: Item) -> Option<Assignment> {
        let key = item.key;
        let stored = match self.inner.current(&item).await {
            Current::Same(stored) => stored,
            Current::Moved(scheduled) => {
                self.land(key).settled(&scheduled);
                return None;
            }
            Current::Unreadable => {
                drop(self.land(key));
                return None;
            }
        };
        let delivery = stored.deliveries.get(key.1 as usize)?;
        if !leads_there(&self.inner.rules(), &stored, delivery) {
            self.inner.core(|core, _| core.scheduler.divert(self.id, key, Why::Vanished));
            return None;
        }
        if self.inner.is_over(&stored.envelope) {
            self.inner.core(|core, _| core.scheduler.divert(self.id, key, Why::TimeOver));
            return None;
        }
        let pending = delivery.recipients.iter().filter(|recipient| verdict::is_pending(recipient));
        let assignment = Assignment {
            id: key.0,
            delivery: key.1,
            envelope: stored.envelope.clone(),
            recipients: pending.map(|recipient| recipient.index).collect(),
            size: stored.size,
            attempt: delivery.attempts.saturating_add(1),
        };
        self.inner.core(|core, _| core.scheduler.boarded(key, stored.clone()));
        self.flights.insert(key, stored);
        Some(assignment)
    }

    fn land(&self, key: Key) -> Taken {
        self.inner.core(|core, _| core.scheduler.landed(self.id, key));
        Taken::new(&self.inner, key)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.inner.metrics.dropped.inc_by(self.flights.len() as u64);
        self.inner.core(|core, now| {
            if let Some(idle_lane) = core.scheduler.ended(self.id, now) {
                core.bells.remove(&idle_lane);
            }
        });
        self.inner.ended.notify_waiters();
    }
}

/// While a connection waits for work; also if the waiting is given up.
struct Waiting<'a>(&'a Arc<Inner>, GrantId);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.core(|core, _| core.scheduler.stop_waiting(self.1));
    }
}

/// Whether routing still sends all pending recipients there.
fn leads_there(rules: &Rules, stored: &StoredMessage, delivery: &Delivery) -> bool {
    let pending = delivery.recipients.iter().filter(|recipient| verdict::is_pending(recipient));
    pending
        .filter_map(|recipient| stored.envelope.recipients.get(recipient.index as usize))
        .all(|recipient| rules.leads(&recipient.path, &delivery.destination))
}

/// The fault behind a connection that broke.
fn trouble_of(report: &AttemptReport) -> Fault {
    let fault = report.outcomes.iter().find_map(|(_, outcome)| match outcome {
        Outcome::Deferred(fault) | Outcome::Failed(fault) => Some(fault.clone()),
        _ => None,
    });
    fault.unwrap_or_else(|| Fault::local(421, EnhancedCode::new(4, 4, 2), "the connection broke"))
}
