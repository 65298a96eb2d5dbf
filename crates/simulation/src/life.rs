//! One life of the process: from a start to its crash. Everything it asks of the world counts as a step, so that a crash
//! can be placed at any of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mail::Randomness;
use tokio::sync::Notify;

use crate::network::Cut;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process is killed; the operating system keeps what was written.
    Killed,
    /// The power fails; what was not synced is lost, torn or reordered.
    PowerCut,
}

/// See the module's description.
pub struct Life {
    /// Steps until death; a large number if it is not to die.
    left: AtomicU64,
    /// Steps from the next outcome to death, if that is planned.
    after_outcome: AtomicU64,
    power: AtomicBool,
    over: AtomicBool,
    died: Notify,
    wires: Mutex<Vec<Cut>>,
    random: Randomness,
}

/// No death is planned.
const NEVER: u64 = u64::MAX;

impl Life {
    /// A life that goes on.
    pub fn new(random: Randomness) -> Self {
        Self {
            left: AtomicU64::new(NEVER),
            after_outcome: AtomicU64::new(NEVER),
            power: AtomicBool::new(false),
            over: AtomicBool::new(false),
            died: Notify::new(),
            wires: Mutex::default(),
            random,
        }
    }

    /// Plans its death, so many steps ahead. What is planned already stays.
    pub fn dies_after(&self, steps: u64, how: Death) {
        if self.left.load(Ordering::Relaxed) == NEVER && self.after_outcome.load(Ordering::Relaxed) == NEVER {
            self.power.store(how == Death::PowerCut, Ordering::Relaxed);
            self.left.store(steps, Ordering::Relaxed);
        }
    }

    /// Plans its death, so many steps after the next outcome that it tells. What is planned already stays.
    pub fn dies_after_outcome(&self, steps: u64, how: Death) {
        if self.left.load(Ordering::Relaxed) == NEVER && self.after_outcome.load(Ordering::Relaxed) == NEVER {
            self.power.store(how == Death::PowerCut, Ordering::Relaxed);
            self.after_outcome.store(steps, Ordering::Relaxed);
        }
    }

    /// It told an outcome.
    pub fn told_outcome(&self) {
        let steps = self.after_outcome.swap(NEVER, Ordering::Relaxed);
        if steps != NEVER {
            self.left.store(steps, Ordering::Relaxed);
        }
    }

    /// Dies now, if a death was planned.
    pub fn dies_at_last(&self) {
        self.told_outcome();
        if self.left.load(Ordering::Relaxed) != NEVER {
            self.die();
        }
    }

    /// Ends in an orderly way: the process goes, and loses nothing.
    pub fn stops(&self) {
        if !self.is_over() {
            self.power.store(false, Ordering::Relaxed);
            self.die();
        }
    }

    /// Counts a step. False if the life is over, with this step or before.
    pub fn step(&self) -> bool {
        if self.is_over() {
            return false;
        }
        let left = self.left.load(Ordering::Relaxed);
        if left == NEVER {
            return true;
        }
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 1 {
            return true;
        }
        self.die();
        false
    }

    /// Whether the next step is the last, and by a power cut.
    pub fn loses_power_next(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= 1 && self.power.load(Ordering::Relaxed)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// How it ended, or will.
    pub fn death(&self) -> Death {
        if self.power.load(Ordering::Relaxed) { Death::PowerCut } else { Death::Killed }
    }

    /// Returns once it is over.
    pub async fn ended(&self) {
        let died = self.died.notified();
        tokio::pin!(died);
        died.as_mut().enable();
        if !self.is_over() {
            died.await;
        }
    }

    /// A connection to be cut at the end.
    pub fn knows(&self, cut: Cut) {
        let mut wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        if wires.len() > 64 {
            wires.retain(|wire| !wire.is_gone());
        }
        wires.push(cut);
    }

    fn die(&self) {
        if self.over.swap(true, Ordering::Relaxed) {
            return;
        }
        let wires = std::mem::take(&mut *self.wires.lock().unwrap_or_else(PoisonError::into_inner));
        for wire in wires {
            wire.cut(self.random.below(2) == 0);
        }
        self.died.notify_waiters();
    }
}
