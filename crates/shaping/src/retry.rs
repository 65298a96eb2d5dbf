//! When a delivery is tried again, when its sender is told that it is late, and when it is given up (RFC 5321 §4.5.4.1).

use std::time::Duration;

use mail::{Randomness, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Jitter;

/// The shortest time between two attempts: whatever is configured, a refused message never turns in circles.
const SHORTEST: Duration = Duration::from_secs(1);

/// The times of a delivery's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySchedule {
    /// How long to wait after each attempt. 5 min doubling to 4 h.
    pub intervals: Intervals,
    /// How far each wait is moved at random. ±10 %.
    pub jitter: Jitter,
    /// When mail is given up, counted from its arrival. 5 days.
    pub expire: Duration,
    /// When a bounce (a message from `<>`) is given up. 2 days.
    pub expire_bounces: Duration,
    /// When the sender is told, once, that the mail is late; `None`: never. 4 h.
    pub delay_notice: Option<Duration>,
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self {
            intervals: Intervals::default(),
            jitter: Jitter::default(),
            expire: days(5),
            expire_bounces: days(2),
            delay_notice: Some(hours(4)),
        }
    }
}

/// How long to wait after the first, second, … attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Waits", into = "Waits")]
pub struct Intervals(Waits);

/// The two ways to say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Waits {
    Doubling { first: Duration, most: Duration },
    Listed(Vec<Duration>),
}

/// Why there are no such intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalsError {
    /// The list is empty.
    Empty,
    /// A wait is shorter than a second.
    TooShort,
    /// The first wait is longer than the longest.
    Crossed,
}

impl Intervals {
    /// Starts with `first` (a second or more), doubles each time, and stays at `most`.
    pub fn doubling(first: Duration, most: Duration) -> Result<Self, IntervalsError> {
        Self::try_from(Waits::Doubling { first, most })
    }

    /// As listed, each a second or more; the last one is repeated.
    pub fn listed(waits: impl Into<Vec<Duration>>) -> Result<Self, IntervalsError> {
        Self::try_from(Waits::Listed(waits.into()))
    }

    /// The wait after attempt number `attempts`, counted from 1.
    pub fn after(&self, attempts: u32) -> Duration {
        let step = attempts.saturating_sub(1);
        match &self.0 {
            Waits::Doubling { first, most } => {
                first.saturating_mul(2u32.checked_pow(step).unwrap_or(u32::MAX)).min(*most)
            }
            Waits::Listed(waits) => {
                let wait = waits.get(step as usize).or(waits.last());
                wait.copied().unwrap_or(SHORTEST)
            }
        }
    }
}

impl Default for Intervals {
    fn default() -> Self {
        Self(Waits::Doubling { first: Duration::from_secs(5 * 60), most: hours(4) })
    }
}

/// What is on its way: bounces are given up sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A message with a sender who can be told.
    Mail,
    /// A message from `<>`.
    Bounce,
}

/// What follows a deferred attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAttempt {
    /// Try again then.
    At(Timestamp),
    /// It is too late: give up.
    Expired,
}

impl RetrySchedule {
    /// When to try again after attempt number `attempts` (counted from 1) was deferred at `now`.
    ///
    /// The last attempt falls on the moment of expiry, so that the whole time is used; one that is deferred then or
    /// later is the last.
    pub fn next(
        &self,
        attempts: u32,
        received: Timestamp,
        purpose: Purpose,
        now: Timestamp,
        randomness: &Randomness,
    ) -> NextAttempt {
        let expiry = self.expires(received, purpose);
        if now >= expiry {
            return NextAttempt::Expired;
        }
        let wait = self.jitter.apply(self.intervals.after(attempts), randomness).max(SHORTEST);
        NextAttempt::At((now + wait).min(expiry))
    }

    /// When a message that was received at `received` is given up.
    pub fn expires(&self, received: Timestamp, purpose: Purpose) -> Timestamp {
        received
            + match purpose {
                Purpose::Mail => self.expire,
                Purpose::Bounce => self.expire_bounces,
            }
    }

    /// When the sender is to be told of the delay; `None` if never, or if the message expires before.
    pub fn delay_notice_at(&self, received: Timestamp, purpose: Purpose) -> Option<Timestamp> {
        let at = received + self.delay_notice?;
        // A bounce has no sender to tell.
        if purpose == Purpose::Mail && at < self.expires(received, purpose) { Some(at) } else { None }
    }
}

impl TryFrom<Waits> for Intervals {
    type Error = IntervalsError;

    fn try_from(waits: Waits) -> Result<Self, IntervalsError> {
        match &waits {
            Waits::Listed(list) if list.is_empty() => Err(IntervalsError::Empty),
            Waits::Listed(list) if list.iter().any(|wait| *wait < SHORTEST) => Err(IntervalsError::TooShort),
            Waits::Doubling { first, .. } if *first < SHORTEST => Err(IntervalsError::TooShort),
            Waits::Doubling { first, most } if first > most => Err(IntervalsError::Crossed),
            _ => Ok(Self(waits)),
        }
    }
}

impl From<Intervals> for Waits {
    fn from(intervals: Intervals) -> Self {
        intervals.0
    }
}

impl std::fmt::Display for IntervalsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IntervalsError::Empty => "a list of retry intervals needs at least one entry",
            IntervalsError::TooShort => "a retry interval is at least one second",
            IntervalsError::Crossed => "the first retry interval is longer than the longest one",
        })
    }
}

impl std::error::Error for IntervalsError {}

const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 60 * 60)
}

const fn days(n: u64) -> Duration {
    hours(24 * n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn exact() -> RetrySchedule {
        RetrySchedule { jitter: Jitter::NONE, ..RetrySchedule::default() }
    }

    #[test]
    fn five_minutes_double_to_four_hours() {
        let minutes: Vec<u64> = (1..=8).map(|n| Intervals::default().after(n).as_secs() / 60).collect();
        assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 240, 240]);
        assert_eq!(Intervals::default().after(u32::MAX), hours(4));
    }

    #[test]
    fn the_last_of_a_list_is_repeated() {
        let list = Intervals::listed([1, 30, 7].map(Duration::from_secs)).unwrap();
        assert_eq!([1, 2, 3, 4, 99].map(|n| list.after(n).as_secs()), [1, 30, 7, 7, 7]);
    }

    #[test]
    fn intervals_that_make_no_sense_are_refused() {
        assert_eq!(Intervals::listed([]), Err(IntervalsError::Empty));
        assert_eq!(Intervals::listed([Duration::ZERO]), Err(IntervalsError::TooShort));
        assert_eq!(Intervals::doubling(hours(2), hours(1)), Err(IntervalsError::Crossed));
        assert_eq!(Intervals::doubling(Duration::ZERO, hours(1)), Err(IntervalsError::TooShort));
    }

    #[test]
    fn the_last_attempt_falls_on_the_expiry() {
        let (schedule, randomness) = (exact(), Randomness::seeded(1));
        let expiry = START + days(5);
        let next = |purpose, now| schedule.next(20, START, purpose, now, &randomness);
        assert_eq!(next(Purpose::Mail, expiry - hours(1)), NextAttempt::At(expiry));
        assert_eq!(next(Purpose::Mail, expiry), NextAttempt::Expired);
        assert_eq!(next(Purpose::Bounce, START + days(2)), NextAttempt::Expired);
    }

    #[test]
    fn the_delay_notice_is_for_senders_and_before_the_end() {
        assert_eq!(exact().delay_notice_at(START, Purpose::Mail), Some(START + hours(4)));
        assert_eq!(exact().delay_notice_at(START, Purpose::Bounce), None);
        let short = RetrySchedule { expire: hours(1), ..exact() };
        assert_eq!(short.delay_notice_at(START, Purpose::Mail), None);
        let never = RetrySchedule { delay_notice: None, ..exact() };
        assert_eq!(never.delay_notice_at(START, Purpose::Mail), None);
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_wrong_is_refused() {
        let read = |text: &str| serde_json::from_str::<RetrySchedule>(text);
        assert_eq!(read("{}").unwrap(), RetrySchedule::default());
        let written = serde_json::to_string(&exact()).unwrap();
        assert_eq!(read(&written).unwrap(), exact());
        let error = read(r#"{"intervals": {"listed": []}}"#).unwrap_err().to_string();
        assert!(error.contains("at least one entry"), "{error}");
        assert!(read(r#"{"intervalls": 1}"#).is_err());
    }

    proptest! {
        #[test]
        fn doubling_never_falls_and_never_exceeds_its_bounds(first in 1..100_000u64, more in 0..100_000u64) {
            let (first, most) = (Duration::from_secs(first), Duration::from_secs(first + more));
            let intervals = Intervals::doubling(first, most).unwrap();
            let waits: Vec<Duration> = (1..80).map(|n| intervals.after(n)).collect();
            prop_assert!(waits.is_sorted() && waits[0] == first && waits[78] == most);
        }

        #[test]
        fn the_next_attempt_lies_ahead_and_within_the_jitter_and_the_life(
            attempts in any::<u32>(), age in 0..days(6).as_secs(), seed in any::<u64>(), bounce in any::<bool>(),
        ) {
            let (schedule, now) = (RetrySchedule::default(), START + Duration::from_secs(age));
            let purpose = if bounce { Purpose::Bounce } else { Purpose::Mail };
            let expiry = schedule.expires(START, purpose);
            match schedule.next(attempts, START, purpose, now, &Randomness::seeded(seed)) {
                NextAttempt::Expired => prop_assert!(now >= expiry),
                NextAttempt::At(at) => {
                    prop_assert!(at > now && at <= expiry);
                    let (wait, whole) = (at.since(now).as_secs_f64(), schedule.intervals.after(attempts).as_secs_f64());
                    prop_assert!(wait <= whole * 1.1 + 0.001);
                    prop_assert!(at == expiry || wait >= whole * 0.9 - 0.001);
                }
            }
        }

        #[test]
        fn every_life_ends(seed in any::<u64>()) {
            let (schedule, randomness) = (RetrySchedule::default(), Randomness::seeded(seed));
            let (mut now, mut attempts) = (START, 1);
            while let NextAttempt::At(at) = schedule.next(attempts, START, Purpose::Mail, now, &randomness) {
                (now, attempts) = (at, attempts + 1);
                prop_assert!(attempts < 100);
            }
            prop_assert_eq!(now, START + days(5));
            prop_assert!(attempts > 25);
        }
    }
}
