//! What is counted over a run, and over many.

use std::time::Duration;

/// What is counted over a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Recipients of acknowledged messages.
    pub accepted: u64,
    /// Arrivals at hosts.
    pub arrived: u64,
    /// Of these, by LMTP.
    pub by_lmtp: u64,
    /// Of these, second and further ones, where a crash or a lost reply allows them.
    pub duplicates: u64,
    /// Reports that reached senders.
    pub reports: u64,
    /// Recipients taken out by operators.
    pub removed: u64,
    /// Deaths of the process.
    pub deaths: u64,
    /// Ends in order and in time.
    pub stops: u64,
    /// The configuration read anew.
    pub reloads: u64,
    /// Simulated time.
    pub age: Duration,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.accepted += other.accepted;
        self.arrived += other.arrived;
        self.by_lmtp += other.by_lmtp;
        self.duplicates += other.duplicates;
        self.reports += other.reports;
        self.removed += other.removed;
        self.deaths += other.deaths;
        self.stops += other.stops;
        self.reloads += other.reloads;
        self.age += other.age;
    }
}
