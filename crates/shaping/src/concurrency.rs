//! How many connections a lane may hold.
//!
//! The way TCP finds the width of a path: start small, double while all goes well (each success makes room for one
//! more), halve when the host pushes back, and from then on grow by one per full round of successes. A healthy smart
//! host gets tens of connections within a few round trips; one that allows ten settles a little around ten.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The bounds of concurrency, from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections that a new lane may hold. 2.
    pub start: u32,
    /// The most connections to a site, over all sources. 20.
    pub per_site: u32,
    /// The most connections from a source, over all sites. 500.
    pub per_source: u32,
    /// Failures within this time after one that counted are its echo: connections that stood in line break together.
    /// 5 s.
    pub echo: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { start: 2, per_site: 20, per_source: 500, echo: Duration::from_secs(5) }
    }
}

/// Connections that are open or being opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// In the lane.
    pub lane: u32,
    /// To the lane's site, over all sources.
    pub site: u32,
    /// From the lane's source, over all sites.
    pub source: u32,
}

/// What a lane has learned about how many connections are welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concurrency {
    window: u32,
    growth: Growth,
    last_cut: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Growth {
    /// No failure yet: each success makes room for one more.
    Doubling,
    /// So many successes since the window last grew.
    Additive(u32),
}

impl Limits {
    fn ceiling(&self) -> u32 {
        self.per_site.min(self.per_source).max(1)
    }
}

impl Concurrency {
    /// For a lane of which nothing is known.
    pub fn new(limits: &Limits) -> Self {
        Self { window: limits.start.clamp(1, limits.ceiling()), growth: Growth::Doubling, last_cut: None }
    }

    /// How many connections the lane may hold: at least 1, at most the limits of site and source.
    pub fn allowed(&self, limits: &Limits) -> u32 {
        self.window.clamp(1, limits.ceiling())
    }

    /// How many more connections may be opened now.
    pub fn room(&self, limits: &Limits, open: Open) -> u32 {
        let lane = self.allowed(limits).saturating_sub(open.lane);
        let site = limits.per_site.saturating_sub(open.site);
        let source = limits.per_source.saturating_sub(open.source);
        lane.min(site).min(source)
    }

    /// A transaction went well while the lane held `open_in_lane` connections, its own included.
    ///
    /// The window grows only while it is used up: what was never tried is not known to be welcome.
    pub fn succeeded(&mut self, limits: &Limits, open_in_lane: u32) {
        let window = self.allowed(limits);
        if open_in_lane < window || window == limits.ceiling() {
            return;
        }
        match &mut self.growth {
            Growth::Doubling => self.window = window + 1,
            Growth::Additive(successes) => {
                *successes += 1;
                if *successes >= window {
                    *successes = 0;
                    self.window = window + 1;
                }
            }
        }
    }

    /// A connection could not be made, broke, or the host said 421: the window is halved, once per echo time.
    pub fn failed(&mut self, limits: &Limits, now: Instant) {
        let is_echo = self.last_cut.is_some_and(|cut| now.saturating_duration_since(cut) < limits.echo);
        if is_echo {
            return;
        }
        self.window = (self.allowed(limits) / 2).max(1);
        self.growth = Growth::Additive(0);
        self.last_cut = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(per_site: u32) -> Limits {
        Limits { per_site, ..Limits::default() }
    }

    /// All allowed connections do one transaction each, and room for more is used at once.
    fn round(concurrency: &mut Concurrency, limits: &Limits) {
        for _ in 0..concurrency.allowed(limits) {
            concurrency.succeeded(limits, concurrency.allowed(limits));
        }
    }

    #[test]
    fn a_healthy_host_gets_tens_of_connections_in_a_few_rounds() {
        let limits = limits(100);
        let mut concurrency = Concurrency::new(&limits);
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(concurrency.allowed(&limits));
            round(&mut concurrency, &limits);
        }
        assert_eq!(seen, [2, 4, 8, 16, 32, 64, 100]);
    }

    #[test]
    fn after_a_failure_it_is_halved_and_grows_by_one_per_round() {
        let (limits, now) = (limits(100), Instant::now());
        let mut concurrency = Concurrency::new(&limits);
        for _ in 0..3 {
            round(&mut concurrency, &limits);
        }
        concurrency.failed(&limits, now);
        assert_eq!(concurrency.allowed(&limits), 8);
        round(&mut concurrency, &limits);
        assert_eq!(concurrency.allowed(&limits), 9);
        round(&mut concurrency, &limits);
        assert_eq!(concurrency.allowed(&limits), 10);
    }

    #[test]
    fn failures_that_come_together_count_once() {
        let (limits, now) = (limits(100), Instant::now());
        let mut concurrency = Concurrency::new(&limits);
        for _ in 0..4 {
            round(&mut concurrency, &limits);
        }
        for n in 0..30 {
            concurrency.failed(&limits, now + Duration::from_millis(n * 100));
        }
        assert_eq!(concurrency.allowed(&limits), 16);
        concurrency.failed(&limits, now + limits.echo);
        assert_eq!(concurrency.allowed(&limits), 8);
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let limits = limits(100);
        let mut concurrency = Concurrency::new(&limits);
        for _ in 0..100 {
            concurrency.succeeded(&limits, 1);
        }
        assert_eq!(concurrency.allowed(&limits), 2);
    }

    #[test]
    fn room_is_what_lane_site_and_source_all_have() {
        let limits = Limits { start: 10, per_site: 10, per_source: 30, ..Limits::default() };
        let concurrency = Concurrency::new(&limits);
        assert_eq!(concurrency.room(&limits, Open { lane: 3, site: 3, source: 3 }), 7);
        assert_eq!(concurrency.room(&limits, Open { lane: 3, site: 8, source: 3 }), 2);
        assert_eq!(concurrency.room(&limits, Open { lane: 3, site: 3, source: 29 }), 1);
        assert_eq!(concurrency.room(&limits, Open { lane: 11, site: 3, source: 3 }), 0);
    }

    #[test]
    fn a_lowered_limit_counts_at_once() {
        let (high, low) = (limits(50), limits(5));
        let mut concurrency = Concurrency::new(&high);
        for _ in 0..5 {
            round(&mut concurrency, &high);
        }
        assert_eq!((concurrency.allowed(&high), concurrency.allowed(&low)), (50, 5));
        concurrency.failed(&low, Instant::now());
        assert_eq!(concurrency.allowed(&low), 2);
    }

    proptest! {
        #[test]
        fn no_bound_is_ever_exceeded(
            start in any::<u32>(), per_site in 0..60u32, per_source in 0..60u32,
            events in prop::collection::vec((any::<bool>(), 0..70u32, 0..4000u64), 0..300),
        ) {
            let limits = Limits { start, per_site, per_source, ..Limits::default() };
            let mut concurrency = Concurrency::new(&limits);
            let mut now = Instant::now();
            for (success, open, millis) in events {
                now += Duration::from_millis(millis);
                let before = concurrency.allowed(&limits);
                if success {
                    concurrency.succeeded(&limits, open);
                    prop_assert!((before..=before + 1).contains(&concurrency.allowed(&limits)));
                } else {
                    concurrency.failed(&limits, now);
                    prop_assert!((before / 2..=before).contains(&concurrency.allowed(&limits)));
                }
                prop_assert!((1..=limits.ceiling()).contains(&concurrency.allowed(&limits)));
                let room = concurrency.room(&limits, Open { lane: open, site: open, source: open });
                prop_assert!(room == 0 || room + open <= per_site.min(per_source));
            }
        }
    }
}
