//! From a destination to the lane where its mail waits, and for how long that is believed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Destination, Fault, Target};

use super::roster::{LaneId, Settings};
use super::windows::{DestinationId, Parked};
use super::{Entry, Key, Now, Phase, Scheduler, Why};

/// How long the hosts of a destination are believed.
const PLACE_AGE: Duration = Duration::from_secs(60);
/// How long it is believed that they can't be found.
const NO_PLACE_AGE: Duration = Duration::from_secs(20);
/// As long as so many destinations wait for their hosts, no more of their kind are looked at.
const SEEKING: usize = 128;

/// What is known of a destination's hosts.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Unknown,
    Asked,
    At(LaneId, Instant),
    Nowhere(Why, Instant),
}

/// Where the hosts of a destination are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seek {
    /// In the DNS, which may take its time.
    Dns,
    /// In the settings: those do not wait behind the others.
    AtHand,
}

/// Why a destination has no lane.
#[derive(Clone, Debug)]
pub(crate) enum Resting {
    /// Its hosts can't be found, or there are none.
    Fault(Fault),
    /// Routing does not yield it any more.
    Vanished,
    /// It is not a place for mail but for reports that are owed.
    Notices,
}

impl Place {
    /// Whether it is known where mail goes, or that it goes nowhere.
    pub(super) fn is_known(&self, now: Now) -> bool {
        matches!(self, Place::At(_, until) | Place::Nowhere(_, until) if *until > now.instant)
    }
}

impl Scheduler {
    /// The next destination whose hosts are to be found. The result goes to [`Self::placed`] or [`Self::unplaceable`].
    pub(crate) fn next_unplaced(&mut self, from: Seek) -> Option<(DestinationId, Destination)> {
        let id = self.unplaced(from).pop_front()?;
        let record = self.destinations.by_id.get(&id)?;
        Some((id, record.name.clone()))
    }

    /// Whether a destination's hosts are wanted.
    pub(crate) fn wants_place(&self, from: Seek) -> bool {
        match from {
            Seek::Dns => !self.destinations.unplaced.is_empty(),
            Seek::AtHand => !self.destinations.unplaced_at_hand.is_empty(),
        }
    }

    fn unplaced(&mut self, from: Seek) -> &mut VecDeque<DestinationId> {
        match from {
            Seek::Dns => &mut self.destinations.unplaced,
            Seek::AtHand => &mut self.destinations.unplaced_at_hand,
        }
    }

    /// A destination's hosts were found.
    pub(crate) fn placed(&mut self, id: DestinationId, target: Arc<Target>, settings: Settings, now: Now) {
        let lane = self.lanes.place(target, settings, now);
        self.set_place(id, Place::At(lane, now.instant + PLACE_AGE));
        self.found(id, now);
    }

    /// A destination has no hosts for now.
    pub(crate) fn unplaceable(&mut self, id: DestinationId, resting: Resting, now: Now) {
        let (why, age) = match resting {
            Resting::Fault(fault) => (Why::NoHosts(Arc::new(fault)), NO_PLACE_AGE),
            Resting::Vanished => (Why::Vanished, PLACE_AGE),
            Resting::Notices => (Why::NoticeOwed, PLACE_AGE),
        };
        self.set_place(id, Place::Nowhere(why, now.instant + age));
        self.found(id, now);
    }

    /// Settings changed: every destination's hosts are found anew, and what is queued waits for them.
    pub(crate) fn reconfigure(&mut self, windows: super::Windows, weights: super::Weights, now: Now) {
        (self.windows, self.weights) = (windows, weights);
        let queued = self.lanes.drain_all();
        for record in self.destinations.by_id.values_mut() {
            if !matches!(record.place, Place::Asked) {
                record.place = Place::Unknown;
            }
        }
        self.lanes.unplace_all();
        for id in self.lanes.unpark_all() {
            self.unpark(id, Parked::Lane, now);
        }
        for (key, ticket) in queued {
            let live = |entry: &&mut Entry| matches!(entry.phase, Phase::Queued(_, queued) if queued == ticket);
            if let Some(entry) = self.entries.get_mut(&key).filter(live) {
                entry.phase = Phase::Waiting;
                self.route(key, now);
            }
        }
    }

    pub(super) fn lane_id(&self, name: &Destination) -> Option<LaneId> {
        let record = self.destinations.by_id.get(self.destinations.by_name.get(name)?)?;
        if let Place::At(lane, _) = record.place { Some(lane) } else { None }
    }

    /// Brings an entry to where its destination's mail waits.
    pub(super) fn route(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get(&key) else { return };
        let Some(record) = self.destinations.by_id.get_mut(&entry.destination) else { return };
        match &record.place {
            Place::At(lane, until) if *until > now.instant => {
                let lane = *lane;
                self.enqueue(key, lane, now);
            }
            Place::Nowhere(why, until) if *until > now.instant => {
                let why = why.clone();
                self.attend(key, why);
            }
            _ => {
                record.waiting.push(key);
                let id = entry.destination;
                self.seek(id);
            }
        }
    }

    /// The destination's hosts are wanted.
    pub(super) fn seek(&mut self, id: DestinationId) {
        let Some(record) = self.destinations.by_id.get(&id) else { return };
        if !matches!(record.place, Place::Asked) {
            let from = if record.at_hand { Seek::AtHand } else { Seek::Dns };
            self.set_place(id, Place::Asked);
            self.unplaced(from).push_back(id);
        }
    }

    /// Whether so many destinations wait for their hosts that no others need be looked for.
    pub(super) fn is_seeking_enough(&self, from: Seek) -> bool {
        let waiting = match from {
            Seek::Dns => &self.destinations.unplaced,
            Seek::AtHand => &self.destinations.unplaced_at_hand,
        };
        waiting.len() >= SEEKING
    }

    pub(super) fn set_place(&mut self, id: DestinationId, place: Place) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        let new = if let Place::At(lane, _) = place { Some(lane) } else { None };
        if let Place::At(old, _) = std::mem::replace(&mut record.place, place) {
            self.lanes.unplaced(old);
        }
        if let Some(lane) = new {
            self.lanes.placed(lane);
        }
    }

    /// It is known where mail goes: what waited for that goes there, and what is due may be loaded.
    fn found(&mut self, id: DestinationId, now: Now) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        record.sought = false;
        for key in std::mem::take(&mut record.waiting) {
            if self.entries.get(&key).is_some_and(|entry| entry.phase == Phase::Waiting) {
                self.route(key, now);
            }
        }
        self.set_head(id, now);
        self.settle_idle(id);
    }
}
