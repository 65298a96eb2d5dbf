//! What is in memory of each destination's schedule, and when more of it is loaded.
//!
//! A destination's deliveries are read from the store in pages, when its earliest one is due and there is room. How much
//! room a destination or a lane has shrinks with what is free in total (dynamic thresholds, as in a switch's shared
//! buffer): a million deliveries of one destination, or a thousand destinations that do not move, leave room for the
//! next one. A page begins where the last one ended; it begins at the start again only when something before that place
//! may have been left out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Destination, Fault, Target, Timestamp};
use store::Cursor;

use super::fair::Class;
use super::roster::{LaneId, Settings};
use super::{Entry, Item, Key, Now, Phase, Scheduler, Why};

/// The most deliveries of one page.
const PAGE: usize = 512;
/// What a destination of which nothing is in memory may load, however full memory is.
const LEAST: usize = 8;
/// One part in so many of memory is kept for such destinations.
const RESERVE: usize = 16;
/// What may be in memory of a destination whose lane rests.
const RESTING: usize = 64;
/// A destination that had nothing more that was due is read again no sooner than this.
const LOAD_PAUSE: Duration = Duration::from_secs(1);
/// How long the hosts of a destination are believed.
const PLACE_AGE: Duration = Duration::from_secs(60);
/// How long it is believed that they can't be found.
const NO_PLACE_AGE: Duration = Duration::from_secs(20);
/// How long to wait before looking again for destinations and lanes to forget.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);
/// How many parked destinations are let go at once when room is made.
const UNPARK: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestinationId(u64);

/// All destinations with something to do, or whose hosts are remembered.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    by_id: HashMap<DestinationId, Record>,
    by_name: HashMap<Destination, DestinationId>,
    next: u64,
    /// When each one that is neither loading nor parked is to be loaded.
    heads: BTreeSet<(Timestamp, DestinationId)>,
    /// Those whose hosts are wanted.
    unplaced: VecDeque<DestinationId>,
    /// Those that wait for room in all of memory.
    parked: VecDeque<DestinationId>,
    /// Those that fell idle, the longest first; a line may be stale.
    idle: VecDeque<(DestinationId, u64)>,
    swept_at: Option<Instant>,
}

#[derive(Debug)]
struct Record {
    name: Destination,
    place: Place,
    first: usize,
    retry: usize,
    waiting: Vec<Key>,
    /// The earliest due time of what the store may have beside what is in memory.
    next_due: Option<Timestamp>,
    head: Option<Timestamp>,
    /// All that is due up to here is in memory or settled.
    cursor: Option<(Cursor, Timestamp)>,
    loading: bool,
    rewind: bool,
    parked: Option<Parked>,
    not_before: Option<Instant>,
    idle_since: u64,
}

/// What a destination waits for before more of it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    /// Its own deliveries to become fewer.
    Own,
    /// Its lane to become emptier.
    Lane,
    /// Room in all of memory.
    Memory,
}

#[derive(Clone, Debug)]
enum Place {
    Unknown,
    Asked,
    At(LaneId, Instant),
    Nowhere(Why, Instant),
}

/// A page to read from the store.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) id: DestinationId,
    pub(crate) destination: Destination,
    pub(crate) after: Option<Cursor>,
    pub(crate) until: Timestamp,
    pub(crate) limit: usize,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Page {
    /// What is due.
    pub(crate) items: Vec<Item>,
    /// The place behind the last one.
    pub(crate) cursor: Option<Cursor>,
    /// When the first one behind them is due.
    pub(crate) next_due: Option<Timestamp>,
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

impl Destinations {
    pub(super) fn name(&self, id: DestinationId) -> Destination {
        self.by_id.get(&id).map_or_else(|| Destination::new(""), |record| record.name.clone())
    }
}

impl Scheduler {
    /// The next page to read, if a destination's time has come and there is room. Its result goes to
    /// [`Self::loaded`] or [`Self::load_failed`].
    pub(crate) fn next_load(&mut self, now: Now) -> Option<Load> {
        while !self.stopped {
            let (head, id) = *self.destinations.heads.first()?;
            if head > now.due {
                return None;
            }
            self.destinations.heads.pop_first();
            let room = self.room(id, now);
            let record = self.destinations.by_id.get_mut(&id)?;
            record.head = None;
            let Some(room) = room else { continue };
            record.loading = true;
            record.next_due = None;
            // From the start, what is in memory comes first again.
            let known = if record.cursor.is_none() { record.first + record.retry } else { 0 };
            return Some(Load {
                id,
                destination: record.name.clone(),
                after: record.cursor.map(|(cursor, _)| cursor),
                until: now.due,
                limit: room + known,
            });
        }
        None
    }

    /// A page arrived.
    pub(crate) fn loaded(&mut self, load: &Load, page: Page, now: Now) {
        let full = page.items.len() >= load.limit;
        let last = page.items.last().map(|item| item.due);
        let mut left_out = false;
        for item in page.items {
            if self.stopped || self.entries.contains_key(&item.key) {
                continue;
            }
            if self.entries.len() >= self.windows.total {
                left_out = true;
                break;
            }
            self.enter(load.id, item, now);
        }
        let Some(record) = self.destinations.by_id.get_mut(&load.id) else { return };
        record.loading = false;
        if let (Some(cursor), Some(last)) = (page.cursor, last) {
            record.cursor = Some((cursor, last));
        }
        if std::mem::take(&mut record.rewind) || left_out {
            record.cursor = None;
        }
        record.not_before = (!full).then(|| now.instant + LOAD_PAUSE);
        let rest = if full || left_out { last.or(Some(load.until)) } else { page.next_due };
        record.next_due = earlier(record.next_due, rest);
        self.set_head(load.id, now);
        self.settle_idle(load.id);
    }

    /// A page could not be read: again after a pause.
    pub(crate) fn load_failed(&mut self, load: &Load, now: Now) {
        let Some(record) = self.destinations.by_id.get_mut(&load.id) else { return };
        record.loading = false;
        record.not_before = Some(now.instant + LOAD_PAUSE);
        record.next_due = earlier(record.next_due, Some(load.until));
        self.set_head(load.id, now);
    }

    /// The next destination whose hosts are to be found. The result goes to [`Self::placed`] or [`Self::unplaceable`].
    pub(crate) fn next_unplaced(&mut self) -> Option<(DestinationId, Destination)> {
        let id = self.destinations.unplaced.pop_front()?;
        let record = self.destinations.by_id.get(&id)?;
        Some((id, record.name.clone()))
    }

    /// Whether a destination's hosts are wanted.
    pub(crate) fn wants_place(&self) -> bool {
        !self.destinations.unplaced.is_empty()
    }

    /// A destination's hosts were found.
    pub(crate) fn placed(&mut self, id: DestinationId, target: Arc<Target>, settings: Settings, now: Now) {
        let lane = self.lanes.place(target, settings, now);
        self.set_place(id, Place::At(lane, now.instant + PLACE_AGE));
        self.route_waiting(id, now);
    }

    /// A destination has no hosts for now.
    pub(crate) fn unplaceable(&mut self, id: DestinationId, resting: Resting, now: Now) {
        let (why, age) = match resting {
            Resting::Fault(fault) => (Why::NoHosts(Arc::new(fault)), NO_PLACE_AGE),
            Resting::Vanished => (Why::Vanished, PLACE_AGE),
            Resting::Notices => (Why::NoticeOwed, PLACE_AGE),
        };
        self.set_place(id, Place::Nowhere(why, now.instant + age));
        self.route_waiting(id, now);
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
        for (key, ticket) in queued {
            let live = |entry: &&mut Entry| matches!(entry.phase, Phase::Queued(_, queued) if queued == ticket);
            if let Some(entry) = self.entries.get_mut(&key).filter(live) {
                entry.phase = Phase::Waiting;
                self.route(key, now);
            }
        }
    }

    /// When something will have to be done here.
    pub(crate) fn deadline(&self, now: Now) -> Option<Instant> {
        let (head, _) = self.destinations.heads.first()?;
        now.instant.checked_add(head.since(now.due))
    }

    /// Forgets destinations that have had nothing to do for a while, and lanes without any. Looks only now and then.
    pub(crate) fn sweep(&mut self, now: Now) {
        let early = |at: Instant| now.instant.saturating_duration_since(at) < SWEEP_PAUSE;
        if self.destinations.swept_at.is_some_and(early) && self.destinations.idle.len() <= self.windows.places {
            return;
        }
        self.destinations.swept_at = Some(now.instant);
        while let Some((id, stamp)) = self.destinations.idle.front().copied() {
            let current = self.destinations.by_id.get(&id).filter(|r| r.idle_since == stamp && r.is_idle());
            if let Some(record) = current {
                let fresh =
                    matches!(record.place, Place::At(_, until) | Place::Nowhere(_, until) if until > now.instant);
                if fresh && self.destinations.idle.len() <= self.windows.places {
                    break;
                }
                self.drop_destination(id);
            }
            self.destinations.idle.pop_front();
        }
        self.lanes.sweep(now);
    }

    pub(super) fn lane_id(&self, name: &Destination) -> Option<LaneId> {
        let record = self.destinations.by_id.get(self.destinations.by_name.get(name)?)?;
        if let Place::At(lane, _) = record.place { Some(lane) } else { None }
    }

    /// Destinations known here.
    pub(crate) fn destinations(&self) -> usize {
        self.destinations.by_id.len()
    }

    pub(super) fn destination(&mut self, name: &Destination) -> DestinationId {
        let all = &mut self.destinations;
        if let Some(id) = all.by_name.get(name) {
            return *id;
        }
        all.next += 1;
        let id = DestinationId(all.next);
        all.by_name.insert(name.clone(), id);
        all.by_id.insert(id, Record::new(name.clone()));
        id
    }

    /// Brings an entry to where its destination's mail waits.
    pub(super) fn route(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get(&key) else { return };
        let Some(record) = self.destinations.by_id.get_mut(&entry.destination) else { return };
        let place = match &record.place {
            Place::At(_, until) | Place::Nowhere(_, until) if *until <= now.instant => Place::Unknown,
            place => place.clone(),
        };
        match place {
            Place::At(lane, _) => self.enqueue(key, lane, now),
            Place::Nowhere(why, _) => self.attend(key, why),
            Place::Asked => record.waiting.push(key),
            Place::Unknown => {
                record.waiting.push(key);
                let id = entry.destination;
                self.set_place(id, Place::Asked);
                self.destinations.unplaced.push_back(id);
            }
        }
    }

    /// The store has something of the destination that is due then.
    pub(super) fn look_for(&mut self, id: DestinationId, due: Timestamp, now: Now) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        if record.loading {
            record.rewind = true;
        }
        if record.cursor.is_some_and(|(_, last)| due <= last) {
            record.cursor = None;
        }
        record.next_due = earlier(record.next_due, Some(due));
        self.set_head(id, now);
    }

    /// What comes next is loaded without a pause, and hosts that could not be found are looked for again.
    pub(super) fn look_at_once(&mut self, name: &Destination) {
        let id = self.destinations.by_name.get(name);
        if let Some(record) = id.and_then(|id| self.destinations.by_id.get_mut(id)) {
            record.not_before = None;
            if matches!(record.place, Place::Nowhere(..)) {
                record.place = Place::Unknown;
            }
        }
    }

    pub(super) fn pause_loads(&mut self, id: DestinationId, pause: Duration, now: Now) {
        if let Some(record) = self.destinations.by_id.get_mut(&id) {
            record.not_before = record.not_before.max(Some(now.instant + pause));
        }
    }

    pub(super) fn has_room_for_new(&self, id: DestinationId) -> bool {
        let cap = self.threshold(self.windows.destination, 8).max(1);
        self.destinations.by_id.get(&id).is_some_and(|record| record.first < cap)
    }

    pub(super) fn count_in(&mut self, id: DestinationId, class: Class) {
        if let Some(record) = self.destinations.by_id.get_mut(&id) {
            *record.count(class) += 1;
        }
    }

    /// An entry left memory: who waited for the room may load.
    pub(super) fn count_out(&mut self, id: DestinationId, class: Class, now: Now) {
        let cap = self.threshold(self.windows.destination, 8);
        if let Some(record) = self.destinations.by_id.get_mut(&id) {
            let count = record.count(class);
            *count = count.saturating_sub(1);
            if record.first + record.retry <= cap / 2 {
                self.unpark(id, Parked::Own, now);
            }
        }
        if self.entries.len() < self.windows.total {
            for id in take_some(&mut self.destinations.parked, UNPARK) {
                self.unpark(id, Parked::Memory, now);
            }
        }
        self.settle_idle(id);
    }

    /// Something left a lane: once it is half empty, who waits for room in it may load.
    pub(super) fn make_room(&mut self, lane: LaneId, now: Now) {
        let ready = self.lanes.ready(lane);
        if ready > self.threshold(self.windows.lane, 4) / 2 {
            return;
        }
        let count = if ready == 0 { usize::MAX } else { UNPARK };
        for id in self.lanes.parked(lane).map(|parked| take_some(parked, count)).unwrap_or_default() {
            self.unpark(id, Parked::Lane, now);
        }
    }

    fn unpark(&mut self, id: DestinationId, from: Parked, now: Now) {
        if let Some(record) = self.destinations.by_id.get_mut(&id).filter(|record| record.parked == Some(from)) {
            record.parked = None;
            self.set_head(id, now);
        }
    }

    fn set_head(&mut self, id: DestinationId, now: Now) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        if let Some(head) = record.head.take() {
            self.destinations.heads.remove(&(head, id));
        }
        if record.loading || record.parked.is_some() {
            return;
        }
        if let Some(due) = record.next_due {
            let earliest = record.not_before.map_or(now.due, |instant| now.due_at(instant));
            let head = due.max(earliest);
            record.head = Some(head);
            self.destinations.heads.insert((head, id));
        }
    }

    /// How much may be loaded of a destination; `None` if it is to wait, and then it is parked.
    fn room(&mut self, id: DestinationId, now: Now) -> Option<usize> {
        let free = self.windows.total.saturating_sub(self.entries.len());
        let cap = self.threshold(self.windows.destination, 8);
        let lane_cap = self.threshold(self.windows.lane, 4).max(LEAST);
        let record = self.destinations.by_id.get_mut(&id)?;
        let held = record.first + record.retry;
        let least = match held {
            0 if free > self.windows.total / RESERVE => LEAST,
            0 => 1,
            _ => 0,
        };
        let (mut room, mut worth) = ((2 * cap).saturating_sub(held).max(least), cap / 4);
        if let Place::At(lane, _) = record.place {
            if self.lanes.rests(lane, now) {
                (room, worth) = (RESTING.saturating_sub(held), 1);
            }
            let lane_room = lane_cap.saturating_sub(self.lanes.ready(lane));
            if lane_room < lane_cap / 4 {
                record.parked = Some(Parked::Lane);
                self.lanes.park(lane, id);
                return None;
            }
            room = room.min(lane_room);
        }
        if room < worth.max(1) {
            record.parked = Some(Parked::Own);
            return None;
        }
        if free == 0 {
            record.parked = Some(Parked::Memory);
            self.destinations.parked.push_back(id);
            return None;
        }
        Some(room.min(free).min(PAGE))
    }

    /// A share of what is free beyond the reserve, within bounds.
    fn threshold(&self, most: usize, share: usize) -> usize {
        let free = self.windows.total.saturating_sub(self.entries.len());
        (free.saturating_sub(self.windows.total / RESERVE) / share).min(most)
    }

    fn set_place(&mut self, id: DestinationId, place: Place) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        let new = if let Place::At(lane, _) = place { Some(lane) } else { None };
        if let Place::At(old, _) = std::mem::replace(&mut record.place, place) {
            self.lanes.unplaced(old);
        }
        if let Some(lane) = new {
            self.lanes.placed(lane);
        }
    }

    fn route_waiting(&mut self, id: DestinationId, now: Now) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        for key in std::mem::take(&mut record.waiting) {
            if self.entries.get(&key).is_some_and(|entry| entry.phase == Phase::Waiting) {
                self.route(key, now);
            }
        }
        self.settle_idle(id);
    }

    fn settle_idle(&mut self, id: DestinationId) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        if record.is_idle() {
            self.tickets += 1;
            record.idle_since = self.tickets;
            self.destinations.idle.push_back((id, self.tickets));
        }
        let idle = &mut self.destinations.idle;
        if idle.len() > 2 * self.destinations.by_id.len() + 64 {
            let by_id = &self.destinations.by_id;
            idle.retain(|(id, stamp)| by_id.get(id).is_some_and(|record| record.idle_since == *stamp));
        }
    }

    fn drop_destination(&mut self, id: DestinationId) {
        self.set_place(id, Place::Unknown);
        if let Some(record) = self.destinations.by_id.remove(&id) {
            self.destinations.by_name.remove(&record.name);
        }
    }
}

impl Record {
    fn new(name: Destination) -> Self {
        Self {
            name,
            place: Place::Unknown,
            first: 0,
            retry: 0,
            waiting: Vec::new(),
            next_due: None,
            head: None,
            cursor: None,
            loading: false,
            rewind: false,
            parked: None,
            not_before: None,
            idle_since: 0,
        }
    }

    fn is_idle(&self) -> bool {
        let working = self.loading || matches!(self.place, Place::Asked);
        self.first + self.retry == 0 && self.next_due.is_none() && !working
    }

    fn count(&mut self, class: Class) -> &mut usize {
        match class {
            Class::First => &mut self.first,
            Class::Retry => &mut self.retry,
        }
    }
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

fn take_some(parked: &mut VecDeque<DestinationId>, most: usize) -> Vec<DestinationId> {
    let count = parked.len().min(most);
    parked.drain(..count).collect()
}
