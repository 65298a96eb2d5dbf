//! What is in memory of each destination's schedule, and when more of it is loaded.
//!
//! A destination's deliveries are read from the store in pages, when its earliest one is due and there is room. How
//! much room a destination or a lane has shrinks with what is free in total (dynamic thresholds, as in a switch's
//! shared buffer): a million deliveries of one destination, or a thousand destinations that do not move, leave room for
//! the next one. The hosts of a destination are found before its mail is loaded, so that what is loaded fits its lane.
//! A page begins where the last one ended; it begins at the start again only when something before that place may have
//! been left out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use mail::{Destination, Timestamp};
use store::Cursor;

use super::fair::Class;
use super::places::Place;
use super::roster::LaneId;
use super::{Item, Key, Now, Scheduler, Seek};
use crate::place::is_at_hand;

/// The most deliveries of one page.
const PAGE: usize = 512;
/// What a destination of which nothing is in memory may load, unless only the reserve is left.
const LEAST: usize = 8;
/// One part in so many of memory is kept for such destinations.
const RESERVE: usize = 16;
/// The most destinations that are looked at for the next page.
const SCAN: usize = 256;
/// What may be in memory of a destination whose lane rests.
const RESTING: usize = 64;
/// A destination that had nothing more that was due is read again no sooner than this.
const LOAD_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before looking again for destinations and lanes to forget.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);
/// How many parked destinations are let go at once when room is made.
const UNPARK: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestinationId(u64);

/// All destinations with something to do, or whose hosts are remembered.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    /// In boxes, because there may be very many, and a table is copied when it grows.
    pub(super) by_id: HashMap<DestinationId, Box<Record>>,
    pub(super) by_name: HashMap<Destination, DestinationId>,
    next: u64,
    /// When each one that is neither loading nor parked is to be loaded, if its hosts need not be asked for.
    heads: BTreeSet<(Timestamp, DestinationId)>,
    /// The same of those whose hosts must be asked for first.
    unknown: BTreeSet<(Timestamp, DestinationId)>,
    /// Those whose hosts are wanted.
    pub(super) unplaced: VecDeque<DestinationId>,
    /// Those whose hosts are wanted and known without asking the DNS for them.
    pub(super) unplaced_at_hand: VecDeque<DestinationId>,
    /// Those that wait for room in all of memory.
    parked: VecDeque<DestinationId>,
    /// Entries that loads under way may bring.
    expected: usize,
    /// Nothing is read before, because something could not be.
    unreadable_until: Option<Instant>,
    /// Those that fell idle, the longest first; a line may be stale.
    idle: VecDeque<(DestinationId, u64)>,
    swept_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: Destination,
    pub(super) place: Place,
    /// Its hosts are known without asking the DNS for them.
    pub(super) at_hand: bool,
    first: usize,
    retry: usize,
    /// Entries that are set aside.
    aside: usize,
    /// Entries that wait for the place.
    pub(super) waiting: Vec<Key>,
    /// The earliest due time of what the store may have beside what is in memory.
    next_due: Option<Timestamp>,
    head: Option<Timestamp>,
    /// All that is due up to here is in memory or settled.
    cursor: Option<(Cursor, Timestamp)>,
    loading: bool,
    /// It is loaded once its place is known.
    pub(super) sought: bool,
    rewind: bool,
    /// New mail did not come into memory since it was last loaded.
    overflowed: bool,
    parked: Option<Parked>,
    not_before: Option<Instant>,
    idle_since: u64,
}

/// What a destination waits for before more of it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    /// Its own deliveries to become fewer.
    Own,
    /// Its lane to become emptier.
    Lane,
    /// Room in all of memory.
    Memory,
}

/// A page to read from the store.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) id: DestinationId,
    pub(crate) destination: Destination,
    pub(crate) after: Option<Cursor>,
    pub(crate) until: Timestamp,
    pub(crate) limit: usize,
    /// How many of them may be new to memory.
    room: usize,
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

impl Destinations {
    pub(super) fn name(&self, id: DestinationId) -> Destination {
        self.by_id.get(&id).map_or_else(|| Destination::new(""), |record| record.name.clone())
    }
}

impl Scheduler {
    /// The next page to read, if a destination's time has come, its hosts are known and there is room. Its result goes
    /// to [`Self::loaded`] or [`Self::load_failed`].
    ///
    /// Looks at so many destinations and no more: if there may be others, the next call goes on.
    pub(crate) fn next_load(&mut self, now: Now) -> Option<Load> {
        if self.stopped || self.destinations.unreadable_until.is_some_and(|until| now.instant < until) {
            return None;
        }
        for _ in 0..SCAN {
            let (head, id) = self.next_head().filter(|(head, _)| *head <= now.due)?;
            let seeking = self.is_seeking_enough(Seek::Dns);
            let record = self.destinations.by_id.get_mut(&id)?;
            record.head = None;
            self.destinations.heads.remove(&(head, id));
            self.destinations.unknown.remove(&(head, id));
            if seeking && !record.at_hand && !record.place.is_known(now) {
                // What was known of its hosts is no longer believed: it waits with the others.
                self.set_head(id, now);
                continue;
            }
            let room = self.room(id, now);
            let record = self.destinations.by_id.get_mut(&id)?;
            let Some(room) = room else { continue };
            if !record.place.is_known(now) {
                record.sought = true;
                self.seek(id);
                continue;
            }
            record.loading = true;
            record.next_due = None;
            record.overflowed = false;
            // From the start, what is in memory comes first again.
            let known = if record.cursor.is_none() { record.known() } else { 0 };
            self.destinations.expected += room;
            return Some(Load {
                id,
                destination: record.name.clone(),
                after: record.cursor.map(|(cursor, _)| cursor),
                until: now.due,
                limit: room + known,
                room,
            });
        }
        None
    }

    /// A page arrived.
    pub(crate) fn loaded(&mut self, load: &Load, page: Page, now: Now) {
        self.destinations.expected -= load.room;
        self.destinations.unreadable_until = None;
        let full = page.items.len() >= load.limit;
        let last = page.items.last().map(|item| item.due);
        // It was paused while the page was under way: what brought that about may be in the page.
        let not_before = self.destinations.by_id.get(&load.id).and_then(|record| record.not_before);
        let mut left_out = not_before.is_some_and(|until| now.instant < until);
        let items = if left_out { Vec::new() } else { page.items };
        for item in items {
            if self.stopped || self.entries.contains_key(&item.key) {
                continue;
            }
            if self.cached() >= self.windows.total {
                left_out = true;
                break;
            }
            self.find(item.key);
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
        record.not_before = record.not_before.max((!full).then(|| now.instant + LOAD_PAUSE));
        let rest = if full || left_out { last.or(Some(load.until)) } else { page.next_due };
        record.next_due = earlier(record.next_due, rest);
        self.set_head(load.id, now);
        self.settle_idle(load.id);
        self.memory_freed(now);
    }

    /// A page could not be read. All of the schedule is in one place: nothing is read for a moment. Says whether that
    /// is news.
    pub(crate) fn load_failed(&mut self, load: &Load, now: Now) -> bool {
        self.destinations.expected -= load.room;
        let news = self.destinations.unreadable_until.replace(now.instant + LOAD_PAUSE).is_none();
        let Some(record) = self.destinations.by_id.get_mut(&load.id) else { return news };
        record.loading = false;
        if std::mem::take(&mut record.rewind) {
            record.cursor = None;
        }
        record.next_due = earlier(record.next_due, Some(load.until));
        self.set_head(load.id, now);
        news
    }

    /// When there will be something to load; not while that waits for hosts that are being looked for.
    pub(super) fn load_at(&self, now: Now) -> Option<Instant> {
        let (head, _) = self.next_head()?;
        let due = now.instant.checked_add(head.since(now.due))?;
        Some(self.destinations.unreadable_until.map_or(due, |until| due.max(until)))
    }

    /// The destination to be loaded first; none whose hosts must be asked for while so many others wait for theirs.
    fn next_head(&self) -> Option<(Timestamp, DestinationId)> {
        let unknown = self.destinations.unknown.first().filter(|_| !self.is_seeking_enough(Seek::Dns));
        let others = self.destinations.heads.first().filter(|_| !self.is_seeking_enough(Seek::AtHand));
        others.into_iter().chain(unknown).min().copied()
    }

    /// Forgets destinations that have had nothing to do for a while, and lanes without any. Looks only now and then.
    pub(crate) fn sweep(&mut self, now: Now) {
        let since = |at: Instant| now.instant.saturating_duration_since(at);
        let early = self.destinations.swept_at.is_some_and(|at| since(at) < SWEEP_PAUSE);
        if !early || self.destinations.idle.len() > self.windows.places {
            self.forget_idle(now);
        }
        // Of these there may be very many, and most stay.
        if !early {
            self.destinations.swept_at = Some(now.instant);
            self.lanes.sweep(now);
        }
    }

    fn forget_idle(&mut self, now: Now) {
        let (by_id, places) = (&self.destinations.by_id, self.windows.places);
        let is_idle = |record: &Record, stamp: u64| record.idle_since == stamp && record.is_idle();
        self.destinations.idle.retain(|(id, stamp)| by_id.get(id).is_some_and(|record| is_idle(record, *stamp)));
        // Some more than are too many, or the next one to fall idle would bring us here again.
        let most = if self.destinations.idle.len() > places { places - places / 8 } else { places };
        while let Some((id, _)) = self.destinations.idle.front().copied() {
            let known = self.destinations.by_id.get(&id).is_some_and(|record| record.place.is_known(now));
            if known && self.destinations.idle.len() <= most {
                return;
            }
            self.drop_destination(id);
            self.destinations.idle.pop_front();
        }
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
        all.by_id.insert(id, Box::new(Record::new(name.clone())));
        id
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

    /// New mail found no room: it is loaded as soon as there is.
    pub(super) fn overflowed(&mut self, id: DestinationId) {
        if let Some(record) = self.destinations.by_id.get_mut(&id) {
            record.overflowed = true;
        }
    }

    pub(super) fn pause_loads(&mut self, id: DestinationId, pause: Duration, now: Now) {
        if let Some(record) = self.destinations.by_id.get_mut(&id) {
            record.not_before = record.not_before.max(Some(now.instant + pause));
        }
    }

    pub(super) fn has_room_for_new(&self, id: DestinationId, priority: i8) -> bool {
        let cap = self.threshold(self.windows.destination, 8).max(1);
        // What is urgent must not wait in the store behind what is not: it may use as much again.
        let cap = if priority > 0 { 2 * cap } else { cap };
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
            let held = record.first + record.retry;
            if record.overflowed && held <= cap / 4 {
                record.overflowed = false;
                record.not_before = None;
                self.set_head(id, now);
            }
            if held <= cap / 2 {
                self.unpark(id, Parked::Own, now);
            }
        }
        self.memory_freed(now);
        self.settle_idle(id);
    }

    /// Counts the entries that are set aside: they take no room of the window.
    pub(super) fn count_aside(&mut self, id: DestinationId, change: isize) {
        if let Some(record) = self.destinations.by_id.get_mut(&id) {
            record.aside = record.aside.saturating_add_signed(change);
        }
    }

    /// Once there is a good piece of memory free, more than the reserve, who waits for it may load: not with each entry
    /// that leaves, or every page would hold one.
    fn memory_freed(&mut self, now: Now) {
        if self.free() >= (2 * self.windows.total / RESERVE).max(1) {
            for id in take_some(&mut self.destinations.parked, UNPARK) {
                self.unpark(id, Parked::Memory, now);
            }
        }
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

    pub(super) fn unpark(&mut self, id: DestinationId, from: Parked, now: Now) {
        if let Some(record) = self.destinations.by_id.get_mut(&id).filter(|record| record.parked == Some(from)) {
            record.parked = None;
            self.set_head(id, now);
        }
    }

    pub(super) fn set_head(&mut self, id: DestinationId, now: Now) {
        let Some(record) = self.destinations.by_id.get_mut(&id) else { return };
        if let Some(head) = record.head.take() {
            self.destinations.heads.remove(&(head, id));
            self.destinations.unknown.remove(&(head, id));
        }
        if record.loading || record.sought || record.parked.is_some() {
            return;
        }
        if let Some(due) = record.next_due {
            let earliest = record.not_before.map_or(now.due, |instant| now.due_at(instant));
            let head = due.max(earliest);
            record.head = Some(head);
            let ready = record.at_hand || record.place.is_known(now);
            let heads = if ready { &mut self.destinations.heads } else { &mut self.destinations.unknown };
            heads.insert((head, id));
        }
    }

    /// How much may be loaded of a destination; `None` if it is to wait, and then it is parked.
    fn room(&mut self, id: DestinationId, now: Now) -> Option<usize> {
        let free = self.free();
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
        // The lane where its mail went last is most likely that of what comes next.
        if let Place::At(lane, _) = record.place {
            if self.lanes.rests(lane, now) {
                (room, worth) = (RESTING.saturating_sub(held), 1);
            }
            let lane_room = lane_cap.saturating_sub(self.lanes.ready(lane));
            // A lane may be narrower than a quarter of the destination's own window.
            worth = worth.min(lane_cap / 4);
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

    /// Entries that may still come in, beside those that are on their way.
    pub(super) fn free(&self) -> usize {
        self.windows.total.saturating_sub(self.cached() + self.destinations.expected)
    }

    /// A share of what is free beyond the reserve, within bounds.
    fn threshold(&self, most: usize, share: usize) -> usize {
        (self.free().saturating_sub(self.windows.total / RESERVE) / share).min(most)
    }

    pub(super) fn settle_idle(&mut self, id: DestinationId) {
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
            at_hand: is_at_hand(&name),
            name,
            place: Place::Unknown,
            first: 0,
            retry: 0,
            aside: 0,
            waiting: Vec::new(),
            next_due: None,
            head: None,
            cursor: None,
            loading: false,
            sought: false,
            rewind: false,
            overflowed: false,
            parked: None,
            not_before: None,
            idle_since: 0,
        }
    }

    fn is_idle(&self) -> bool {
        let working = self.loading || self.sought || matches!(self.place, Place::Asked);
        self.known() == 0 && self.next_due.is_none() && !working
    }

    /// Its entries.
    fn known(&self) -> usize {
        self.first + self.retry + self.aside
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

#[cfg(test)]
impl Destinations {
    /// How many wait for their own deliveries to become fewer, and have none.
    pub(super) fn stranded(&self) -> usize {
        let stranded = |r: &Record| r.parked == Some(Parked::Own) && r.first + r.retry == 0;
        self.by_id.values().filter(|record| stranded(record)).count()
    }
}
