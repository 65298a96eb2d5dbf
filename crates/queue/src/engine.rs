//! The engine: loads what is due, finds hosts, and deals with deliveries that can't be attempted.
//!
//! One loop asks the scheduler what there is to do and starts it, so much at a time; whatever changes the scheduler
//! wakes the loop if that made work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Destination, EnhancedCode, Fault, Timestamp};
use store::{Due, ReadError};
use tokio::task::JoinSet;

use crate::arrival::cost;
use crate::place::place;
use crate::queue::{Core, Inner, LOOK};
use crate::scheduler::fair::Class;
use crate::scheduler::{DestinationId, Item, Load, Now, Page, Resting, Seek, Why};
use crate::settle::Taken;

/// Pages read at a time.
const LOADS: usize = 16;
/// Destinations whose hosts are looked up at a time, and as many whose hosts are at hand.
const PLACES: usize = 64;
/// Batches of deliveries without an attempt at a time.
const ATTENDS: usize = 4;
/// Deliveries of such a batch.
const BATCH: usize = 128;

/// How many of each are under way.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    loads: usize,
    places: usize,
    at_hand: usize,
    attends: usize,
}

impl Busy {
    fn places(&mut self, from: Seek) -> &mut usize {
        match from {
            Seek::Dns => &mut self.places,
            Seek::AtHand => &mut self.at_hand,
        }
    }
}

enum Job {
    Load(Load),
    Place(Seek, DestinationId, Destination),
    Attend(Vec<(Item, Destination, Why)>),
}

impl Core {
    /// Whether the engine would find something to do, now or before it wakes by itself.
    pub(crate) fn wants_engine(&self, now: Now) -> bool {
        let due = self.deadline(now).is_some_and(|deadline| self.planned.is_some_and(|at| deadline < at));
        let place = self.busy.places < PLACES && self.scheduler.wants_place(Seek::Dns);
        let at_hand = self.busy.at_hand < PLACES && self.scheduler.wants_place(Seek::AtHand);
        let attend = self.busy.attends < ATTENDS && self.scheduler.wants_attention();
        due || place || at_hand || attend
    }

    /// When the engine has something to do by the clock. While all loaders are at work their end wakes it.
    fn deadline(&self, now: Now) -> Option<Instant> {
        self.scheduler.deadline(self.busy.loads < LOADS, now)
    }

    fn next_job(&mut self, now: Now) -> Option<Job> {
        if self.scheduler.is_stopped() {
            return None;
        }
        if self.busy.attends < ATTENDS && self.scheduler.wants_attention() {
            let batch = self.scheduler.next_attention(BATCH);
            if !batch.is_empty() {
                self.busy.attends += 1;
                return Some(Job::Attend(batch));
            }
        }
        if self.busy.loads < LOADS
            && let Some(load) = self.scheduler.next_load(now)
        {
            self.busy.loads += 1;
            return Some(Job::Load(load));
        }
        // After the loads, which may have found that hosts are wanted.
        for from in [Seek::AtHand, Seek::Dns] {
            if *self.busy.places(from) < PLACES
                && let Some((id, destination)) = self.scheduler.next_unplaced(from)
            {
                *self.busy.places(from) += 1;
                return Some(Job::Place(from, id, destination));
            }
        }
        None
    }
}

/// Runs until the queue is stopped and nothing is under way.
pub(crate) async fn run(inner: &Arc<Inner>) {
    let mut tasks = JoinSet::new();
    tasks.spawn(recover(inner.clone()));
    loop {
        let (jobs, planned, stopped) = inner.core(|core, now| {
            inner.look(core, now);
            core.scheduler.take_up(now);
            core.scheduler.take_overdue(now);
            let jobs: Vec<Job> = std::iter::from_fn(|| core.next_job(now)).collect();
            let planned = core.deadline(now).unwrap_or(now.instant + LOOK).min(now.instant + LOOK);
            core.planned = Some(planned);
            (jobs, planned, core.scheduler.is_stopped())
        });
        if stopped && tasks.is_empty() {
            return;
        }
        for job in jobs {
            tasks.spawn(job.run(inner.clone()));
        }
        tokio::select! {
            // In order, so that a simulation repeats itself.
            biased;
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a task of the queue failed");
                }
            }
            () = inner.stirred.notified() => {}
            () = sleep_until(inner, planned) => {}
        }
    }
}

/// By the clock that was handed in: what is left of the time, at least a little, so that a rounding never spins.
async fn sleep_until(inner: &Inner, instant: Instant) {
    let left = instant.saturating_duration_since(inner.clock.instant());
    tokio::time::sleep(left.max(Duration::from_millis(1))).await;
}

/// After a start: where there is something to do, and when.
async fn recover(inner: Arc<Inner>) {
    loop {
        match inner.store.destinations().await {
            Ok(destinations) => {
                for batch in destinations.chunks(1024) {
                    inner.core(|core, now| {
                        for (destination, counters) in batch {
                            if let Some(due) = counters.earliest_due {
                                core.scheduler.scheduled(destination, due, now);
                            }
                        }
                    });
                    tokio::task::yield_now().await;
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the queue's destinations could not be read; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        if inner.core(|core, _| core.scheduler.is_stopped()) {
            return;
        }
    }
}

impl Job {
    async fn run(self, inner: Arc<Inner>) {
        let _slot = match &self {
            Job::Load(_) => Slot(inner.clone(), |busy| &mut busy.loads),
            Job::Place(Seek::Dns, ..) => Slot(inner.clone(), |busy| &mut busy.places),
            Job::Place(Seek::AtHand, ..) => Slot(inner.clone(), |busy| &mut busy.at_hand),
            Job::Attend(_) => Slot(inner.clone(), |busy| &mut busy.attends),
        };
        match self {
            Job::Load(load) => inner.load(load).await,
            Job::Place(_, id, destination) => inner.find(id, destination).await,
            Job::Attend(batch) => {
                let taken = |(item, _, why): (Item, Destination, Why)| (Taken::new(&inner, item.key), item, why);
                inner.attend(batch.into_iter().map(taken).collect()).await;
            }
        }
    }
}

/// A place among those under way, given back also by a task that panics.
struct Slot(Arc<Inner>, fn(&mut Busy) -> &mut usize);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.core(|core, _| *(self.1)(&mut core.busy) -= 1);
    }
}

impl Inner {
    /// A regular look: what is idle, gauges.
    fn look(&self, core: &mut Core, now: Now) {
        core.scheduler.sweep(now);
        self.metrics.aside.set(i64::try_from(core.scheduler.aside()).unwrap_or(i64::MAX));
        let in_memory = i64::try_from(core.scheduler.len()).unwrap_or(i64::MAX);
        self.metrics.in_memory.set(in_memory);
        self.metrics.destinations.set(i64::try_from(core.scheduler.destinations()).unwrap_or(i64::MAX));
        self.metrics.connections.set(i64::try_from(core.scheduler.connections()).unwrap_or(i64::MAX));
    }

    async fn load(self: &Arc<Self>, load: Load) {
        let loading = Loading { inner: self.clone(), load: Some(load) };
        let Some(load) = &loading.load else { return };
        match self.page(load).await {
            Ok(page) => loading.ended(page),
            Err(error) => loading.failed(&error.to_string()),
        }
    }

    async fn page(&self, load: &Load) -> Result<Page, ReadError> {
        let store = &self.store;
        let found = store.due(&load.destination, load.after, load.until, load.limit).await?;
        let cursor = found.last().map(Due::cursor);
        let next_due = if found.len() < load.limit {
            let behind = store.due(&load.destination, cursor.or(load.after), Timestamp::MAX, 1).await?;
            behind.first().filter(|due| !due.held).map(|due| due.due)
        } else {
            None
        };
        let items = found.into_iter().filter(|due| !due.held).map(item).collect();
        Ok(Page { items, cursor, next_due })
    }

    /// Finds the hosts of a destination by the settings that hold when it is done.
    async fn find(self: &Arc<Self>, id: DestinationId, destination: Destination) {
        let mut finding = Finding(self.clone(), Some(id));
        loop {
            let rules = self.rules();
            let found = place(&rules, &*self.resolver, &destination).await;
            let is_current = self.core(|core, now| {
                // A new configuration comes into force under the same lock.
                if !Arc::ptr_eq(&rules, &self.rules()) {
                    return false;
                }
                match found {
                    Ok((target, placement)) => core.scheduler.placed(id, target, placement, now),
                    Err(resting) => core.scheduler.unplaceable(id, resting, now),
                }
                true
            });
            if is_current {
                finding.1 = None;
                return;
            }
        }
    }
}

/// A page under way. If whoever reads it fails, it has failed.
struct Loading {
    inner: Arc<Inner>,
    load: Option<Load>,
}

impl Loading {
    fn ended(mut self, page: Page) {
        if let Some(load) = self.load.take() {
            self.inner.core(|core, now| core.scheduler.loaded(&load, page, now));
        }
    }

    fn failed(mut self, why: &str) {
        self.fail(why);
    }

    fn fail(&mut self, why: &str) {
        let Some(load) = self.load.take() else { return };
        if self.inner.core(|core, now| core.scheduler.load_failed(&load, now)) {
            tracing::warn!(destination = %load.destination, error = why, "the schedule cannot be read; it is tried again");
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.fail("the reader failed");
    }
}

/// A search for hosts. If whoever searches fails, they cannot be found for now.
struct Finding(Arc<Inner>, Option<DestinationId>);

impl Drop for Finding {
    fn drop(&mut self) {
        if let Some(id) = self.1.take() {
            let fault = Fault::local(451, EnhancedCode::new(4, 3, 0), "the search for its hosts failed");
            self.0.core(|core, now| core.scheduler.unplaceable(id, Resting::Fault(fault), now));
        }
    }
}

fn item(due: Due) -> Item {
    // Set by hand or by a fault, the due time lies behind the acceptance; that of new mail is it.
    let class = if due.due <= due.begins_at { Class::First } else { Class::Retry };
    Item {
        key: (due.id, due.number),
        due: due.due,
        class,
        tenant: due.tenant.map(Into::into),
        campaign: due.campaign.map(Into::into),
        cost: cost(due.size),
        priority: due.priority,
        deadline: due.deadline,
        rider: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mail::MessageId;

    use super::*;
    use crate::scheduler::fair::Weights;
    use crate::scheduler::{Claim, Scheduler, Windows};

    #[test]
    fn what_is_set_aside_has_its_time_also_while_all_loaders_are_at_work() {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let now = Now { instant: Instant::now(), due: start, lead: Duration::ZERO };
        let mut scheduler = Scheduler::new(Windows::default(), Weights::default(), 1);
        let (destination, key) = (Destination::new("mx:example.org"), (MessageId::from_u128(1), 0));
        let (class, due) = (Class::First, start);
        let (tenant, campaign, priority, deadline) = (None, None, 0, None);
        let item = Item { key, due, class, tenant, campaign, cost: 1, priority, deadline, rider: None };
        assert!(scheduler.admit(&destination, item, now));
        assert_eq!(scheduler.claim(key, &destination, now), Claim::Taken);
        scheduler.restore(key, now);
        let busy = Busy { loads: LOADS, places: PLACES, ..Busy::default() };
        let core = Core { scheduler, bells: BTreeMap::new(), busy, planned: Some(now.instant + LOOK), shown: None };
        assert!(core.deadline(now).is_some_and(|deadline| deadline < now.instant + LOOK));
        assert!(core.wants_engine(now), "it is woken for that");
    }
}
