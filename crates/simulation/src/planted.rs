//! Faults that are put in on purpose, to show that the simulation would find them.
//!
//! Four are put into a seam, and the rooms are as always; two need a switch in the queue, which exists only in builds
//! with its feature `planted`.

use std::str::FromStr;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// The disk says that content is durable when it is not: 250 comes before the sync.
    AckBeforeSync,
    /// The note that a sender was told becomes durable before the report does.
    OutcomeBeforeReport,
    /// The queue now and then forgets to look for a delivery again.
    LostScheduleEntry,
    /// A delivery is handed to two connections.
    DoublePop,
    /// Attempts come at other times than the policy allows.
    RetryWithoutBound,
    /// Mail from `<>` is taken for mail with a sender.
    ReportForNull,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 6] = [
        Planted::AckBeforeSync,
        Planted::OutcomeBeforeReport,
        Planted::LostScheduleEntry,
        Planted::DoublePop,
        Planted::RetryWithoutBound,
        Planted::ReportForNull,
    ];

    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Planted::AckBeforeSync => "ack-before-sync",
            Planted::OutcomeBeforeReport => "outcome-before-report",
            Planted::LostScheduleEntry => "lost-schedule-entry",
            Planted::DoublePop => "double-pop",
            Planted::RetryWithoutBound => "retry-without-bound",
            Planted::ReportForNull => "report-for-null",
        }
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = || Planted::ALL.map(Planted::word).join(", ");
        Planted::ALL.into_iter().find(|it| it.word() == word).ok_or_else(|| format!("known are {}", known()))
    }
}
