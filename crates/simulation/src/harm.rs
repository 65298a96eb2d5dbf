//! What goes wrong in the world beside what everybody does anyway.

use std::str::FromStr;
use std::time::Duration;

use mail::Randomness;
use queue::Action;
use store::testing::Fault;

use crate::life::Death;
use crate::ways::{self, Way};

/// A kind of harm, as it is named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process is killed.
    Kill,
    /// The power fails.
    Power,
    /// Syncs, writes and reads fail; the disk is full.
    Disk,
    /// Name servers are down, slow, lie, or have other records.
    Dns,
    /// The wall clock jumps.
    Clock,
    /// Hosts refuse, stall, cut, answer late, wrong or oddly.
    Hosts,
    /// Senders go away at any point.
    Senders,
    /// Somebody holds, releases, retries and removes.
    Operators,
    /// Routes by SMTP and LMTP; others when the configuration is read anew.
    Routes,
    /// The process is told to end, and started again.
    Stops,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Kill,
        Kind::Power,
        Kind::Disk,
        Kind::Dns,
        Kind::Clock,
        Kind::Hosts,
        Kind::Senders,
        Kind::Operators,
        Kind::Routes,
        Kind::Stops,
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Power => "power",
            Kind::Disk => "disk",
            Kind::Dns => "dns",
            Kind::Clock => "clock",
            Kind::Hosts => "hosts",
            Kind::Senders => "senders",
            Kind::Operators => "operators",
            Kind::Routes => "routes",
            Kind::Stops => "stops",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = || Kind::ALL.map(Kind::word).join(", ");
        Kind::ALL.into_iter().find(|kind| kind.word() == word).ok_or_else(|| format!("known are {}", known()))
    }
}

/// One piece of harm.
#[derive(Clone, Debug)]
pub enum Harm {
    /// The process dies after so many steps, counted from now or from the next outcome that it tells, and is started again
    /// after a while.
    Death { how: Death, at_outcome: bool, steps: u64, pause: Duration },
    /// Operations of the disk fail so many times.
    Disk { fault: Fault, times: u32 },
    /// The disk has no octets, or no inodes, to give for a while.
    Full { lasts: Duration, inodes: bool },
    /// The DNS behaves so for a while.
    Dns { mood: DnsMood, lasts: Duration },
    /// The wall clock jumps by so many milliseconds.
    Clock { millis: i64 },
    /// A site misbehaves for a while, in one of a hundred sessions and steps so often.
    Hosts { site: usize, often: usize, lasts: Duration },
    /// Senders leave in one of a hundred places so often, for a while.
    Senders { often: usize, lasts: Duration },
    /// An operator does something: to one message, or to all.
    Operator { action: Action, everything: bool },
    /// The configuration is read anew, with these ways to the sites.
    Reload { ways: Vec<Way> },
    /// The process is told to end, has so long for it, and is started again after a while.
    Stop { limit: Duration, pause: Duration },
}

/// How the DNS is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsMood {
    /// As it should be.
    #[default]
    Well,
    /// Every look-up fails after a while.
    Down,
    /// Answers take seconds.
    Slow,
    /// Some names have other hosts than before.
    Changed,
    /// Some names do not exist, or take no mail.
    Lies,
}

impl Harm {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Harm::Death { how: Death::Killed, .. } => Kind::Kill,
            Harm::Death { how: Death::PowerCut, .. } => Kind::Power,
            Harm::Disk { .. } | Harm::Full { .. } => Kind::Disk,
            Harm::Dns { .. } => Kind::Dns,
            Harm::Clock { .. } => Kind::Clock,
            Harm::Hosts { .. } => Kind::Hosts,
            Harm::Senders { .. } => Kind::Senders,
            Harm::Operator { .. } => Kind::Operators,
            Harm::Reload { .. } => Kind::Routes,
            Harm::Stop { .. } => Kind::Stops,
        }
    }
}

/// So many pieces of harm within a time, in order.
pub fn draw(random: &Randomness, count: usize, span: Duration, sites: usize) -> Vec<(Duration, Harm)> {
    let span = span.as_millis() as usize;
    let mut harms: Vec<(Duration, Harm)> = (0..count)
        .map(|_| {
            let within = if random.below(2) == 0 { span } else { 1 + span / 20 };
            (Duration::from_millis(random.below(within) as u64), one(random, span, sites))
        })
        .collect();
    harms.sort_by_key(|(at, _)| *at);
    harms
}

/// So many reloads and orderly restarts within a time, in order.
pub fn draw_changes(random: &Randomness, count: usize, span: Duration, sites: usize) -> Vec<(Duration, Harm)> {
    let change = |_| {
        let at = Duration::from_millis(random.below(span.as_millis() as usize) as u64);
        let harm = match random.below(2) {
            0 => Harm::Reload { ways: ways::draw(random, sites) },
            _ => Harm::Stop {
                limit: Duration::from_secs([1, 30, 600][random.below(3)]),
                pause: Duration::from_millis(random.below(120_000) as u64),
            },
        };
        (at, harm)
    };
    let mut changes: Vec<(Duration, Harm)> = (0..count).map(change).collect();
    changes.sort_by_key(|(at, _)| *at);
    changes
}

fn one(random: &Randomness, span: usize, sites: usize) -> Harm {
    let lasts = Duration::from_millis(random.below(span / 2) as u64);
    match random.below(16) {
        0..=4 => {
            // What follows upon an outcome is where most can go wrong.
            let at_outcome = random.below(2) == 0;
            let most = if at_outcome { 16 } else { [10, 100, 1000][random.below(3)] };
            Harm::Death {
                how: if random.below(2) == 0 { Death::Killed } else { Death::PowerCut },
                at_outcome,
                steps: 1 + random.below(most) as u64,
                pause: Duration::from_millis(random.below(120_000) as u64),
            }
        }
        5 => {
            let fault = [Fault::Sync, Fault::Write, Fault::Read, Fault::Names][random.below(4)];
            // What can't be read three times in a row counts as damaged, and its content is gone.
            let most = if fault == Fault::Read { 2 } else { 6 };
            Harm::Disk { fault, times: 1 + random.below(most) as u32 }
        }
        6 => Harm::Full { lasts, inodes: lasts.as_millis().is_multiple_of(3) },
        7 | 8 => {
            let moods = [DnsMood::Down, DnsMood::Slow, DnsMood::Changed, DnsMood::Lies];
            Harm::Dns { mood: moods[random.below(moods.len())], lasts }
        }
        9 => Harm::Clock { millis: clock_jump(random) },
        10..=12 => Harm::Hosts { site: random.below(sites), often: [5, 20, 60][random.below(3)], lasts },
        13 => Harm::Senders { often: [5, 20][random.below(2)], lasts },
        _ => {
            let actions = [Action::Hold, Action::Release, Action::Retry, Action::Remove];
            Harm::Operator { action: actions[random.below(actions.len())], everything: random.below(8) == 0 }
        }
    }
}

/// Seconds, an hour or a month, in either direction.
fn clock_jump(random: &Randomness) -> i64 {
    let most = [20_000, 3_600_000, 30 * 86_400_000][random.below(3)];
    let by = 1 + random.below(most) as i64;
    // A clock that is a month behind holds the queue up for a month.
    if random.below(2) == 0 { by } else { -by.min(7_200_000) }
}
