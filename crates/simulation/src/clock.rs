//! Time: the runtime's paused clock, which leaps to the next thing that happens, and a wall clock that may jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mail::{Clock, Timestamp};

/// When the world begins: 2026-11-21T09:30:00Z.
const BEGINNING: u64 = 1_795_253_400_000;

/// What the clocks show beside the runtime's time, over all lives.
#[derive(Clone, Debug, Default)]
pub struct Skew(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// By how many milliseconds the wall clock is ahead.
    ahead: AtomicI64,
    /// By how many milliseconds it went back, in all.
    back: AtomicU64,
    /// How often it jumped.
    jumps: AtomicU64,
}

/// The clocks of one life.
#[derive(Clone, Debug)]
pub struct SimClock {
    skew: Skew,
    /// How old the world was when the runtime's time began.
    before: Duration,
    began: tokio::time::Instant,
}

impl Skew {
    /// The wall clock jumps.
    pub fn jump(&self, millis: i64) {
        self.0.ahead.fetch_add(millis, Ordering::Relaxed);
        self.0.back.fetch_add(millis.min(0).unsigned_abs(), Ordering::Relaxed);
        self.0.jumps.fetch_add(1, Ordering::Relaxed);
    }

    /// By how much it went back, all jumps together.
    pub fn back(&self) -> Duration {
        Duration::from_millis(self.0.back.load(Ordering::Relaxed))
    }

    /// How often it jumped.
    pub fn jumps(&self) -> u64 {
        self.0.jumps.load(Ordering::Relaxed)
    }
}

impl SimClock {
    /// Goes on from that age of the world. To be called in the runtime.
    pub fn new(skew: &Skew, before: Duration) -> Self {
        Self { skew: skew.clone(), before, began: tokio::time::Instant::now() }
    }

    /// How old the world is.
    pub fn age(&self) -> Duration {
        self.before + self.began.elapsed()
    }

    /// How often the wall clock jumped.
    pub fn jumps(&self) -> u64 {
        self.skew.jumps()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let millis = BEGINNING as i64 + self.age().as_millis() as i64 + self.skew.0.ahead.load(Ordering::Relaxed);
        Timestamp::from_millis(millis.max(0) as u64)
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
