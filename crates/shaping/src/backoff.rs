//! How long a lane rests whose host can't be reached.
//!
//! The lane backs off as one: thousands of waiting messages cost one connection attempt per rest, not one each. When
//! the rest is over, a single probe connection goes out; what becomes of it decides for all.

use std::time::{Duration, Instant};

use mail::Randomness;
use serde::{Deserialize, Serialize};

use crate::Jitter;

/// The lengths of the rests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackoffSettings {
    /// The first rest. 1 min.
    pub first: Duration,
    /// The longest rest, before jitter. 30 min.
    pub most: Duration,
    /// How far each rest is moved at random. ±10 %.
    pub jitter: Jitter,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self { first: Duration::from_secs(60), most: Duration::from_secs(30 * 60), jitter: Jitter::default() }
    }
}

/// The state of a lane: open, resting, or being probed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    state: State,
    /// Rests in a row.
    rests: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Resting {
        until: Instant,
    },
    Probing,
}

/// Whether a connection may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As many as concurrency allows.
    Open,
    /// This one, as the probe. Its end must be told: [`Backoff::succeeded`], [`Backoff::failed`] or
    /// [`Backoff::abandoned`].
    Probe,
    /// Not before that instant.
    Resting {
        /// When the rest ends.
        until: Instant,
    },
    /// Not while the probe is out.
    Probing,
}

impl Backoff {
    /// Asks to open a connection. After a rest the first to ask is the probe.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Open => Admission::Open,
            State::Probing => Admission::Probing,
            State::Resting { until } if now < until => Admission::Resting { until },
            State::Resting { .. } => {
                self.state = State::Probing;
                Admission::Probe
            }
        }
    }

    /// The host can't be reached. Gives the end of the rest.
    ///
    /// While the lane rests already, this is the echo of the same trouble and changes nothing.
    pub fn failed(&mut self, settings: &BackoffSettings, now: Instant, randomness: &Randomness) -> Instant {
        if let State::Resting { until } = self.state
            && now < until
        {
            return until;
        }
        let doubled = settings.first.saturating_mul(2u32.checked_pow(self.rests).unwrap_or(u32::MAX));
        self.rests = self.rests.saturating_add(1);
        let until = now + settings.jitter.apply(doubled.min(settings.most), randomness);
        self.state = State::Resting { until };
        until
    }

    /// The host was reached: the lane is open, and the next rest is a short one again.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The probe ended without an answer (there was nothing left to send, or we are stopping): the next to ask is the
    /// probe.
    pub fn abandoned(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Resting { until: now };
        }
    }

    /// Whether it neither rests nor is probed.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// When the rest ends, if the lane rests.
    pub fn resting_until(&self) -> Option<Instant> {
        match self.state {
            State::Resting { until } => Some(until),
            State::Open | State::Probing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact() -> BackoffSettings {
        BackoffSettings { jitter: Jitter::NONE, ..BackoffSettings::default() }
    }

    #[test]
    fn rests_double_to_half_an_hour_and_start_anew_after_success() {
        let (mut backoff, mut now, randomness) = (Backoff::default(), Instant::now(), Randomness::seeded(1));
        let mut rests = Vec::new();
        for _ in 0..8 {
            let until = backoff.failed(&exact(), now, &randomness);
            rests.push((until - now).as_secs() / 60);
            now = until;
            assert_eq!(backoff.admit(now), Admission::Probe);
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30, 30]);
        backoff.succeeded();
        assert_eq!(backoff.admit(now), Admission::Open);
        assert_eq!(backoff.failed(&exact(), now, &randomness), now + Duration::from_secs(60));
    }

    #[test]
    fn one_probe_goes_out_when_the_rest_is_over() {
        let (mut backoff, now, randomness) = (Backoff::default(), Instant::now(), Randomness::seeded(1));
        let until = backoff.failed(&exact(), now, &randomness);
        assert_eq!(backoff.admit(until - Duration::from_millis(1)), Admission::Resting { until });
        assert_eq!(backoff.admit(until), Admission::Probe);
        assert_eq!(backoff.admit(until), Admission::Probing);
        backoff.abandoned(until);
        assert_eq!(backoff.admit(until), Admission::Probe);
    }

    #[test]
    fn connections_that_fail_together_cost_one_rest() {
        let (mut backoff, now, randomness) = (Backoff::default(), Instant::now(), Randomness::seeded(1));
        let until = backoff.failed(&exact(), now, &randomness);
        for millis in 0..20 {
            assert_eq!(backoff.failed(&exact(), now + Duration::from_millis(millis), &randomness), until);
        }
        assert_eq!(backoff.resting_until(), Some(until));
    }

    proptest! {
        #[test]
        fn rests_are_bounded_and_never_is_more_than_one_probe_out(
            seed in any::<u64>(), events in prop::collection::vec((0..4u8, 0..4_000_000u64), 0..200),
        ) {
            let (settings, randomness) = (BackoffSettings::default(), Randomness::seeded(seed));
            let (mut backoff, mut now) = (Backoff::default(), Instant::now());
            let mut probe_out = false;
            for (event, millis) in events {
                now += Duration::from_millis(millis);
                match event {
                    0 => match backoff.admit(now) {
                        Admission::Probe => {
                            prop_assert!(!probe_out);
                            probe_out = true;
                        }
                        Admission::Resting { until } => prop_assert!(until > now && !probe_out),
                        Admission::Probing => prop_assert!(probe_out),
                        Admission::Open => prop_assert!(!probe_out),
                    },
                    1 => {
                        let rest = backoff.failed(&settings, now, &randomness) - now;
                        prop_assert!(rest <= settings.most.mul_f64(1.1) + Duration::from_micros(1));
                        probe_out = false;
                    }
                    2 => {
                        backoff.succeeded();
                        probe_out = false;
                    }
                    _ => {
                        backoff.abandoned(now);
                        probe_out = false;
                    }
                }
            }
        }
    }
}
