//! How patient the server is with those who guess.

use std::time::Duration;

use mail::Timestamp;

use super::Ban;
use crate::network::Networks;

/// How failed AUTH is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanSettings {
    /// Whether there are bans; delays there are always.
    pub enabled: bool,
    /// Failures of an address within `window` that bring a ban. 10.
    pub failures: u32,
    /// In which time so many failures are forgotten. 1 h.
    pub window: Duration,
    /// The first ban; each further one is twice as long. 10 min.
    pub first: Duration,
    /// The longest ban, and how long the last one is remembered after its end. 7 days.
    pub most: Duration,
    /// The delay of the reply to the first failure; it doubles with each further one. 1 s.
    pub delay: Duration,
    /// The longest delay. 20 s.
    pub delay_most: Duration,
    /// Addresses that are neither banned nor delayed.
    pub spared: Networks,
}

impl Default for BanSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 10,
            window: Duration::from_secs(3600),
            first: Duration::from_secs(600),
            most: Duration::from_secs(7 * 86_400),
            delay: Duration::from_secs(1),
            delay_most: Duration::from_secs(20),
            spared: Networks::default(),
        }
    }
}

impl BanSettings {
    /// How long the reply to the failure of this number waits.
    pub(super) fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => doubled(self.delay, doublings).min(self.delay_most),
        }
    }

    /// The ban that follows on the last one.
    pub(super) fn next(&self, last: Option<Ban>, now: Timestamp) -> Ban {
        // Who was banned by hand stays so.
        if let Some(by_hand) = last.as_ref().filter(|ban| ban.author.is_some() && ban.lasts(now)) {
            return by_hand.clone();
        }
        let times = last.map_or(0, |last| last.times);
        let lasts = doubled(self.first, times).min(self.most);
        let reason = format!("{} failed logins", self.failures);
        Ban { since: now, until: Some(now + lasts), times: times.saturating_add(1), author: None, reason }
    }
}

fn doubled(duration: Duration, times: u32) -> Duration {
    duration.saturating_mul(2u32.saturating_pow(times.min(31)))
}
