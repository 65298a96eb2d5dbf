//! A count of failures that falls with time.

use std::time::Duration;

use mail::Timestamp;
use serde::{Deserialize, Serialize};

/// One failure.
const ONE: u64 = 1000;

/// How many failures there have been lately, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Level {
    thousandths: u64,
    at: Timestamp,
}

impl Level {
    /// One failure more, after it has fallen at the rate of `most` in `window`. A clock that was set back lets nothing fall.
    pub(super) fn raised(self, most: u32, window: Duration, now: Timestamp) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let fallen = millis(now.since(self.at)).saturating_mul(u64::from(most) * ONE) / millis(window).max(1);
        Self { thousandths: self.thousandths.saturating_sub(fallen).saturating_add(ONE), at: now }
    }

    /// Failures, rounded.
    pub(super) fn count(self) -> u32 {
        u32::try_from((self.thousandths + ONE / 2) / ONE).unwrap_or(u32::MAX)
    }
}
