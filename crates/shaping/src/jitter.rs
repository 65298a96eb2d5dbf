//! Jitter: what was put off together does not come back together.

use std::time::Duration;

use mail::Randomness;
use serde::{Deserialize, Serialize};

/// How far a time may be moved in either direction, as a part of it. From 0 to 0.5; 0.1 is ±10 %.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Jitter(f64);

impl Jitter {
    /// No jitter at all.
    pub const NONE: Jitter = Jitter(0.0);

    /// ± `part`; what lies outside of 0 to 0.5 is moved to the nearer end.
    pub fn new(part: f64) -> Self {
        if part.is_nan() { Self::default() } else { Self(part.clamp(0.0, 0.5)) }
    }

    /// The part.
    pub fn part(self) -> f64 {
        self.0
    }

    /// `duration` moved by a random amount within the jitter.
    pub fn apply(self, duration: Duration, randomness: &Randomness) -> Duration {
        if self.0 == 0.0 {
            return duration;
        }
        let factor = 1.0 + self.0 * (2.0 * randomness.unit() - 1.0);
        Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(duration)
    }
}

impl Default for Jitter {
    fn default() -> Self {
        Self(0.1)
    }
}

impl From<f64> for Jitter {
    fn from(part: f64) -> Self {
        Self::new(part)
    }
}

impl From<Jitter> for f64 {
    fn from(jitter: Jitter) -> Self {
        jitter.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_spreads_over_its_whole_width() {
        let (jitter, randomness) = (Jitter::default(), Randomness::seeded(1));
        let spread: Vec<f64> =
            (0..1000).map(|_| jitter.apply(Duration::from_secs(1000), &randomness).as_secs_f64()).collect();
        assert!(spread.iter().any(|s| *s < 910.0) && spread.iter().any(|s| *s > 1090.0));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(part in any::<f64>(), millis in 0..u64::from(u32::MAX), seed in any::<u64>()) {
            let (jitter, whole) = (Jitter::new(part), Duration::from_millis(millis));
            prop_assert!((0.0..=0.5).contains(&jitter.part()));
            let moved = jitter.apply(whole, &Randomness::seeded(seed)).as_secs_f64();
            let most = whole.as_secs_f64() * jitter.part() + 1e-6;
            prop_assert!((moved - whole.as_secs_f64()).abs() <= most);
        }
    }
}
