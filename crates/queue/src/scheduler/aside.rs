//! Deliveries that are set aside: their message could not be read, or whoever worked on them failed.
//!
//! Each one waits alone, longer with each setback, and the others of its destination go on. It stays in memory
//! meanwhile, so that no page brings it again; if too many have to be set aside, the trouble is a larger one, and whole
//! destinations wait.

use std::time::Duration;

use mail::Timestamp;

use super::{Key, Now, Phase, Scheduler};

/// How long the first time.
const FIRST: Duration = Duration::from_secs(5);
/// How long at most.
const MOST: Duration = Duration::from_secs(600);
/// One part in so many of memory may be taken by what is set aside.
const PART: usize = 8;
/// How many are taken up again at once.
const BATCH: usize = 128;

impl Scheduler {
    /// A busy delivery stays as it was in the store, and is looked at again after a while.
    pub(crate) fn restore(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.phase == Phase::Busy) else { return };
        let destination = entry.destination;
        if self.stopped || entry.claimed || self.aside.len() >= self.windows.total / PART {
            // Of what was claimed it is not known when it is due.
            let due = if entry.claimed { Timestamp::default() } else { entry.item.due };
            if !entry.claimed {
                self.pause_loads(destination, FIRST, now);
            }
            self.look_for(destination, due, now);
            return self.forget(key, now);
        }
        let wait = FIRST.saturating_mul(1 << entry.setbacks.min(16)).min(MOST);
        let until = now.instant + wait;
        entry.setbacks = entry.setbacks.saturating_add(1);
        entry.phase = Phase::Aside(until);
        entry.boarded = None;
        entry.order = None;
        // What rode along may not be true any more.
        self.riders -= usize::from(entry.item.rider.take().is_some());
        let class = entry.item.class;
        self.aside.insert((until, key));
        self.count_aside(destination, 1);
        self.count_out(destination, class, now);
    }

    /// Takes up again what has been set aside for long enough.
    pub(crate) fn take_up(&mut self, now: Now) {
        for _ in 0..BATCH {
            let Some((until, key)) = self.aside.first().copied().filter(|(until, _)| *until <= now.instant) else {
                return;
            };
            self.no_longer_aside(until, key);
            self.set_phase(key, Phase::Waiting);
            self.route(key, now);
        }
    }

    /// Deliveries that are set aside.
    pub(crate) fn aside(&self) -> usize {
        self.aside.len()
    }

    pub(super) fn no_longer_aside(&mut self, until: std::time::Instant, key: Key) {
        self.aside.remove(&(until, key));
        if let Some(entry) = self.entries.get(&key) {
            let (destination, class) = (entry.destination, entry.item.class);
            self.count_aside(destination, -1);
            self.count_in(destination, class);
        }
    }
}
