//! Memory for content in flight, over all transactions.
//!
//! A transaction takes its share before the client may send, and more as its content grows, up to what the store keeps in
//! memory of one message. When memory is short it waits, first come first served, and nothing is read from its client
//! meanwhile: TCP tells the client to slow down. Only when that has lasted too long is the message refused. Whoever waits
//! holds what it has, so waiting must end: patience is what makes this free of deadlock.
//!
//! Nobody may keep others out. The clients of one network have a part of the memory at most, and while somebody waits, a
//! share is [wanted back](Share::wanted_back) from each transaction whose content comes too slowly, sooner than the
//! patience of those who wait ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::network::Network;

/// Shares are counted in units of this many octets.
const UNIT: u64 = 1024;

/// What the clients of one network may have: one part in so many.
const PART: u64 = 4;
/// Networks that are known before those are forgotten that have nothing.
const NETWORKS: usize = 64;

/// All the memory.
#[derive(Debug)]
pub(crate) struct Budget {
    all: Arc<Pool>,
    part: u32,
    networks: Mutex<Networks>,
    in_use: Gauge,
    waits: Counter,
}

/// Memory that some have together.
#[derive(Debug)]
struct Pool {
    units: Arc<Semaphore>,
    total: u32,
    /// How many wait for it.
    waiting: watch::Sender<usize>,
}

/// The pools of the networks whose clients have shares.
#[derive(Debug, Default)]
struct Networks {
    pools: HashMap<Network, Weak<Pool>>,
    sweep_at: usize,
}

/// What one transaction has of it; comes back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    network: Option<Arc<Pool>>,
    of_network: Option<OwnedSemaphorePermit>,
    of_all: Option<OwnedSemaphorePermit>,
    units: u32,
}

/// There was no memory for as long as one was willing to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Short;

impl Budget {
    pub(crate) fn new(octets: u64, in_use: Gauge, waits: Counter) -> Arc<Self> {
        let all = Pool::new(units(octets));
        let part = units(octets / PART).max(1);
        Arc::new(Self { all, part, networks: Mutex::default(), in_use, waits })
    }

    /// A share without memory yet, of a client of this network; `None` has no bound but that of all.
    pub(crate) fn share(self: &Arc<Self>, network: Option<Network>) -> Share {
        let network = network.map(|network| {
            let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
            networks.pool(network, self.part)
        });
        Share { budget: self.clone(), network, of_network: None, of_all: None, units: 0 }
    }
}

impl Networks {
    fn pool(&mut self, network: Network, total: u32) -> Arc<Pool> {
        if let Some(pool) = self.pools.get(&network).and_then(Weak::upgrade) {
            return pool;
        }
        if self.pools.len() >= self.sweep_at.max(NETWORKS) {
            self.pools.retain(|_, pool| pool.strong_count() > 0);
            self.sweep_at = 2 * self.pools.len();
        }
        let pool = Pool::new(total);
        self.pools.insert(network, Arc::downgrade(&pool));
        pool
    }
}

impl Pool {
    fn new(total: u32) -> Arc<Self> {
        Arc::new(Self { units: Arc::new(Semaphore::new(total as usize)), total, waiting: watch::Sender::new(0) })
    }

    /// So many units, waiting for them until then.
    async fn take(&self, units: u32, until: Instant, waits: &Counter) -> Result<OwnedSemaphorePermit, Short> {
        if let Ok(permit) = self.units.clone().try_acquire_many_owned(units) {
            return Ok(permit);
        }
        waits.inc();
        let _waiting = Waiting::enter(self);
        let wait = self.units.clone().acquire_many_owned(units);
        // The semaphore is never closed.
        timeout_at(until, wait).await.map_err(|_| Short)?.map_err(|_| Short)
    }

    /// Returns once somebody waits and `slow_from` has come.
    async fn pressed(&self, slow_from: Instant) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives in the pool, so waiting cannot fail.
        while waiting.wait_for(|waiting| *waiting > 0).await.is_ok() {
            if timeout_at(slow_from, waiting.wait_for(|waiting| *waiting == 0)).await.is_err() {
                return;
            }
        }
    }
}

impl Share {
    /// Makes the share hold `octets` in all, waiting up to `patience`. More than all that its network may have is never
    /// asked for: a message larger than that has to do with all of it.
    pub(crate) async fn grow_to(&mut self, octets: u64, patience: Duration) -> Result<(), Short> {
        let Budget { all, waits, in_use, .. } = &*self.budget;
        let most = self.network.as_ref().map_or(all.total, |network| network.total);
        let more = units(octets).min(most).saturating_sub(self.units);
        if more == 0 {
            return Ok(());
        }
        let until = Instant::now() + patience;
        // Its own network first: who waits there holds nothing that others could have.
        let own = match &self.network {
            Some(network) => Some(network.take(more, until, waits).await?),
            None => None,
        };
        let permit = all.take(more, until, waits).await?;
        if let Some(own) = own {
            join(&mut self.of_network, own);
        }
        join(&mut self.of_all, permit);
        self.units += more;
        in_use.inc_by(i64::from(more) * UNIT as i64);
        Ok(())
    }

    /// Returns once others wait for memory that this has, and `slow_from` has come; never for a share without memory. To be
    /// called anew whenever `slow_from` has moved.
    pub(crate) async fn wanted_back(&self, slow_from: Instant) {
        match &self.network {
            _ if self.units == 0 => std::future::pending().await,
            Some(network) => tokio::select! {
                () = self.budget.all.pressed(slow_from) => {}
                () = network.pressed(slow_from) => {}
            },
            None => self.budget.all.pressed(slow_from).await,
        }
    }
}

fn join(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        none => *none = Some(more),
    }
}

/// Somebody waits.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn enter(pool: &'a Pool) -> Self {
        pool.waiting.send_modify(|waiting| *waiting += 1);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.in_use.dec_by(i64::from(self.units) * UNIT as i64);
    }
}

/// Whole units, rounded up.
fn units(octets: u64) -> u32 {
    // As many as a semaphore can count; with units of 1 KiB that is more memory than there is.
    const MOST: u64 = (u32::MAX >> 3) as u64;
    octets.div_ceil(UNIT).min(MOST) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn budget(octets: u64) -> (Arc<Budget>, Gauge, Counter) {
        let (in_use, waits) = (Gauge::default(), Counter::default());
        (Budget::new(octets, in_use.clone(), waits.clone()), in_use, waits)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_memory_comes_back() {
        let (budget, in_use, waits) = budget(100 * 1024);
        let mut first = budget.share(None);
        first.grow_to(60_000, PATIENCE).await.unwrap();
        first.grow_to(90_000, PATIENCE).await.unwrap();
        assert_eq!(in_use.get(), 88 * 1024);
        let mut second = budget.share(None);
        let waiting = tokio::spawn(async move { second.grow_to(50_000, PATIENCE).await.map(|()| second) });
        while waits.get() == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert_eq!(in_use.get(), 49 * 1024);
        drop(second);
        assert_eq!(in_use.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let (budget, in_use, _) = budget(10 * 1024);
        let mut first = budget.share(None);
        first.grow_to(10 * 1024, PATIENCE).await.unwrap();
        let mut second = budget.share(None);
        assert_eq!(second.grow_to(1, PATIENCE).await, Err(Short));
        drop(second);
        assert_eq!(in_use.get(), 10 * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_wanted_back_from_who_is_slow_and_only_while_somebody_waits() {
        let (budget, ..) = budget(10 * 1024);
        let mut first = budget.share(None);
        first.grow_to(10 * 1024, PATIENCE).await.unwrap();
        let begun = Instant::now();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, first.wanted_back(begun)).await.is_err(), "nobody waits");
        let mut second = budget.share(None);
        let waiting = tokio::spawn(async move { second.grow_to(1, PATIENCE).await.map(|()| second) });
        let slow_from = Instant::now() + Duration::from_secs(2);
        first.wanted_back(slow_from).await;
        assert_eq!(Instant::now(), slow_from);
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert!(tokio::time::timeout(hour, second.wanted_back(begun)).await.is_err(), "nobody waits any more");
        assert!(tokio::time::timeout(hour, budget.share(None).wanted_back(begun)).await.is_err(), "it has nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_cannot_have_all() {
        let (budget, in_use, _) = budget(100 * 1024);
        let network = |last| Some(Network::around([192, 0, last, 1].into(), 24));
        let mut greedy = budget.share(network(1));
        greedy.grow_to(u64::MAX, PATIENCE).await.unwrap();
        assert_eq!(in_use.get(), 25 * 1024, "it has to do with all that there is for it");
        assert_eq!(budget.share(network(1)).grow_to(1, PATIENCE).await, Err(Short));
        budget.share(network(2)).grow_to(20 * 1024, PATIENCE).await.unwrap();
        budget.share(None).grow_to(75 * 1024, PATIENCE).await.unwrap();
        let mut neighbour = budget.share(network(1));
        let waiting = tokio::spawn(async move { neighbour.grow_to(1, PATIENCE).await });
        greedy.wanted_back(Instant::now() + Duration::from_secs(1)).await;
        drop(greedy);
        waiting.await.unwrap().unwrap();
    }

    #[test]
    fn networks_without_shares_are_forgotten() {
        let (budget, ..) = budget(1024);
        let kept = budget.share(Some(Network::around([10, 0, 0, 1].into(), 24)));
        for at in 0..10_000u32 {
            let [_, _, high, low] = at.to_be_bytes();
            drop(budget.share(Some(Network::around([192, high, low, 1].into(), 24))));
        }
        assert!(budget.networks.lock().unwrap().pools.len() <= NETWORKS);
        drop(kept);
    }

    #[tokio::test]
    async fn one_message_never_asks_for_more_than_there_is() {
        let (budget, _, waits) = budget(10 * 1024);
        let mut share = budget.share(None);
        share.grow_to(u64::MAX, PATIENCE).await.unwrap();
        share.grow_to(u64::MAX, PATIENCE).await.unwrap();
        assert_eq!(waits.get(), 0);
    }
}
