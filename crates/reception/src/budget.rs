//! Memory for content in flight, over all transactions.
//!
//! A transaction takes its share before the client may send, and more as its content grows, up to what the store keeps in
//! memory of one message. When memory is short it waits, first come first served, and nothing is read from its client
//! meanwhile: TCP tells the client to slow down. Only when that has lasted too long is the message refused. Whoever waits
//! holds what it has, so waiting must end: patience is what makes this free of deadlock.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shares are counted in units of this many octets.
const UNIT: u64 = 1024;

/// All the memory.
#[derive(Debug)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    total: u32,
    in_use: Gauge,
    waits: Counter,
}

/// What one transaction has of it; comes back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    permit: Option<OwnedSemaphorePermit>,
    units: u32,
}

/// There was no memory for as long as one was willing to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Short;

impl Budget {
    pub(crate) fn new(octets: u64, in_use: Gauge, waits: Counter) -> Arc<Self> {
        let total = units(octets);
        Arc::new(Self { units: Arc::new(Semaphore::new(total as usize)), total, in_use, waits })
    }

    /// A share without memory yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), permit: None, units: 0 }
    }
}

impl Share {
    /// Makes the share hold `octets` in all, waiting up to `patience`. More than the whole budget is never asked for: a
    /// message larger than that has to do with all of it.
    pub(crate) async fn grow_to(&mut self, octets: u64, patience: Duration) -> Result<(), Short> {
        let more = units(octets).min(self.budget.total).saturating_sub(self.units);
        if more == 0 {
            return Ok(());
        }
        let permit = match self.budget.units.clone().try_acquire_many_owned(more) {
            Ok(permit) => permit,
            Err(_) => {
                self.budget.waits.inc();
                let wait = self.budget.units.clone().acquire_many_owned(more);
                // The semaphore is never closed.
                tokio::time::timeout(patience, wait).await.map_err(|_| Short)?.map_err(|_| Short)?
            }
        };
        self.units += more;
        self.budget.in_use.inc_by(i64::from(more) * UNIT as i64);
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
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
        let mut first = budget.share();
        first.grow_to(60_000, PATIENCE).await.unwrap();
        first.grow_to(90_000, PATIENCE).await.unwrap();
        assert_eq!(in_use.get(), 88 * 1024);
        let mut second = budget.share();
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
        let mut first = budget.share();
        first.grow_to(10 * 1024, PATIENCE).await.unwrap();
        let mut second = budget.share();
        assert_eq!(second.grow_to(1, PATIENCE).await, Err(Short));
        drop(second);
        assert_eq!(in_use.get(), 10 * 1024);
    }

    #[tokio::test]
    async fn one_message_never_asks_for_more_than_there_is() {
        let (budget, _, waits) = budget(10 * 1024);
        let mut share = budget.share();
        share.grow_to(u64::MAX, PATIENCE).await.unwrap();
        share.grow_to(u64::MAX, PATIENCE).await.unwrap();
        assert_eq!(waits.get(), 0);
    }
}
