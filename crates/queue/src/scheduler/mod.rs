//! The scheduler: what is in memory of the schedule, and who may work on it. Pure: no tasks, no I/O, `now` comes in.
//!
//! The store holds the schedule; what stands here is a cache of it, made of small entries for the deliveries that are
//! due. An entry is in one phase at a time, and that is what keeps a delivery from being worked on twice:
//!
//! ```text
//!          loaded, admitted                    pull                 report
//!  store ───────────────► waiting ─► queued ─────────► flying ───────────────┐
//!                            │         │                                     ▼
//!                            └─────────┴─► attended (no attempt possible) ─► busy ─► settled: back to the store
//!                                                                             │ ▲
//!                                                                    aside ◄──┘ └── (waiting, after a while)
//! ```
//!
//! `windows` decides what is loaded, destination by destination; `places` knows where a destination's mail goes;
//! `lanes` decides who may connect and what a connection gets; `aside` keeps what could not be worked on. What must
//! always hold: entries never outnumber the limit; an entry that leaves memory while the store still has it scheduled
//! makes its destination look for it again; a busy or flying entry is never loaded a second time.

mod aside;
pub(crate) mod fair;
mod lanes;
mod places;
mod roster;
mod windows;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Act, Destination, Fault, MessageId, Timestamp};
use store::{ScheduleClock, StoredMessage};

use fair::{Class, Name, Weights};
pub(crate) use lanes::{LaneState, Pull, Setback, Work};
pub(crate) use places::{Resting, Seek};
pub(crate) use roster::{GrantId, LaneId, Settings as Placement};
pub(crate) use windows::{DestinationId, Load, Page};

/// A delivery: the message, and which of its deliveries.
pub(crate) type Key = (MessageId, u32);

/// Entries that claims may make, beside what memory may hold otherwise.
const CLAIMS: usize = 4096;
/// A clock jump larger than this is taken for one.
const JUMP: Duration = Duration::from_secs(600);
/// For how long nothing expires after the wall clock jumped ahead: time to notice and to set it right.
const GRACE: Duration = Duration::from_secs(3600);
/// A step of the wall clock smaller than this is none: clocks are read one after the other, and slewed.
const STEP: Duration = Duration::from_secs(10);

/// Both clocks at one moment.
///
/// The schedule has a time of its own that never goes back. What is due was written down by the clock of its day: were
/// the clock set back by an hour, it would be an hour late. So the schedule keeps its lead over the wall clock, and
/// what people and other programs are told is [`told`](Self::told) by the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// The schedule's time: that of the wall clock and its lead over it.
    pub(crate) due: Timestamp,
    /// By how much the schedule is ahead of the wall clock.
    pub(crate) lead: Duration,
}

impl Now {
    /// The schedule's time at another moment, if no clock jumps until then.
    pub(crate) fn due_at(&self, instant: Instant) -> Timestamp {
        self.due + instant.saturating_duration_since(self.instant)
    }

    /// The wall clock's time.
    pub(crate) fn wall(&self) -> Timestamp {
        self.told(self.due)
    }

    /// A time of the schedule, as the wall clock will tell it.
    pub(crate) fn told(&self, due: Timestamp) -> Timestamp {
        due - self.lead
    }
}

/// How much may be in memory and how many connections there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Deliveries in memory over all destinations. 100,000.
    pub total: usize,
    /// Deliveries in memory of one destination: as many new ones, and as many others. 1,000.
    pub destination: usize,
    /// Deliveries ready in one lane beyond which none are loaded for it. 10,000.
    pub lane: usize,
    /// Deliveries whose envelope stays in memory from acceptance to the first attempt. 3,000.
    pub riders: usize,
    /// Destinations whose hosts are remembered while there is nothing to do for them. 10,000.
    pub places: usize,
    /// Connections over all lanes. 2,000.
    pub connections: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self { total: 100_000, destination: 1_000, lane: 10_000, riders: 3_000, places: 10_000, connections: 2_000 }
    }
}

/// A delivery that is due, as much of it as the scheduler needs.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) due: Timestamp,
    pub(crate) class: Class,
    pub(crate) tenant: Name,
    pub(crate) campaign: Name,
    pub(crate) cost: u32,
    pub(crate) priority: i8,
    /// When it must be looked at even if it could not be attempted, by the wall clock.
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) rider: Option<Rider>,
}

/// What rides along from acceptance to the first attempt, so that nothing is read from the store for it.
#[derive(Clone)]
pub(crate) struct Rider {
    pub(crate) message: Arc<StoredMessage>,
    /// Dropped with the last rider of the message: the content may leave memory.
    pub(crate) content: Arc<dyn Send + Sync>,
}

impl std::fmt::Debug for Rider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rider({}, {} share it)", self.message.id, Arc::strong_count(&self.content))
    }
}

/// A delivery in memory.
#[derive(Debug)]
struct Entry {
    item: Item,
    destination: DestinationId,
    phase: Phase,
    /// Not loaded, but made by a claim: only its key is true.
    claimed: bool,
    /// How often a connection took it and ended without a word about it.
    dropped: u8,
    /// How often it was set aside.
    setbacks: u8,
    /// What an operator wants once the attempt is over.
    order: Option<Order>,
    /// The message as it was handed out, while it is flying.
    boarded: Option<Arc<StoredMessage>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For its destination's hosts.
    Waiting,
    /// In a lane, under this ticket.
    Queued(LaneId, u64),
    /// With a connection.
    Flying(GrantId),
    /// In line to be dealt with without an attempt, under this ticket.
    Attended(u64),
    /// Being changed: by the driver, by an operator, or recorded and not yet durable.
    Busy,
    /// Set aside until then.
    Aside(Instant),
}

/// What an operator wants of a delivery that is being attempted, once its outcome is known.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) kind: OrderKind,
    pub(crate) act: Act,
    /// Which recipients, by their place in the envelope.
    pub(crate) recipients: Vec<u32>,
}

/// See [`Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrderKind {
    Hold,
    Remove,
}

/// Why a delivery is dealt with without an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// Its lane rests: not before this time, and because of this fault.
    LaneRests(Arc<Fault>, Timestamp),
    /// Its destination has no hosts, now or ever, as the fault says.
    NoHosts(Arc<Fault>),
    /// Routing would send it elsewhere now.
    Vanished,
    /// All its recipients are final; the sender is to be told.
    NoticeOwed,
    /// Connections that took it ended without a word about it.
    Dropped,
    /// The sender's limit of time is over.
    TimeOver,
}

/// What [`Scheduler::claim`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the caller's now, until [`Scheduler::settled`] or [`Scheduler::restore`].
    Taken,
    /// It is being attempted.
    Flying,
    /// Somebody else is changing it.
    Busy,
    /// There is no room for another entry.
    Full,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Scheduler {
    windows: Windows,
    weights: Weights,
    entries: HashMap<Key, Entry>,
    /// Messages that are being made durable: whether somebody has found one in the store already.
    coming: HashMap<MessageId, bool>,
    riders: usize,
    /// Entries made by claims.
    claimed: usize,
    aside: BTreeSet<(Instant, Key)>,
    /// When those in memory must be looked at, by the wall clock.
    deadlines: BTreeSet<(Timestamp, Key)>,
    tickets: u64,
    attention: VecDeque<(Key, u64, Why)>,
    destinations: windows::Destinations,
    lanes: roster::Lanes,
    stopped: bool,
    base: Option<Now>,
    lead: Duration,
    grace_until: Option<Instant>,
    /// Lanes with a connection that waits for what has just come.
    pub(crate) rung: BTreeSet<LaneId>,
}

impl Scheduler {
    pub(crate) fn new(windows: Windows, weights: Weights, seed: u64) -> Self {
        Self {
            windows,
            weights,
            entries: HashMap::new(),
            coming: HashMap::new(),
            riders: 0,
            claimed: 0,
            aside: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            tickets: 0,
            attention: VecDeque::new(),
            destinations: windows::Destinations::default(),
            lanes: roster::Lanes::new(seed),
            stopped: false,
            base: None,
            lead: Duration::ZERO,
            grace_until: None,
            rung: BTreeSet::new(),
        }
    }

    /// A message is about to become durable: until [`Self::came`] it is noted who finds it.
    pub(crate) fn comes(&mut self, id: MessageId) {
        self.coming.insert(id, false);
    }

    /// It is admitted, or does not come. Tells whether somebody has found it meanwhile: then its deliveries may be other
    /// than they were made.
    pub(crate) fn came(&mut self, id: MessageId) -> bool {
        self.coming.remove(&id).unwrap_or_default()
    }

    fn find(&mut self, key: Key) {
        if let Some(found) = self.coming.get_mut(&key.0) {
            *found = true;
        }
    }

    /// A new message's delivery, durable in the store. `false`: there is no room for it now, and it is loaded later.
    pub(crate) fn admit(&mut self, destination: &Destination, mut item: Item, now: Now) -> bool {
        let id = self.destination(destination);
        let room = self.free() > 0 && self.has_room_for_new(id, item.priority);
        if !room || self.stopped || self.entries.contains_key(&item.key) {
            self.overflowed(id);
            self.look_for(id, item.due, now);
            return false;
        }
        if self.riders >= self.windows.riders {
            item.rider = None;
        }
        self.enter(id, item, now);
        true
    }

    /// A delivery is scheduled in the store for that time and not in memory.
    pub(crate) fn scheduled(&mut self, destination: &Destination, due: Timestamp, now: Now) {
        let id = self.destination(destination);
        self.look_for(id, due, now);
    }

    /// Takes a delivery to change it: nobody else will until [`Self::settled`] or [`Self::restore`].
    pub(crate) fn claim(&mut self, key: Key, destination: &Destination, now: Now) -> Claim {
        self.find(key);
        let phase = match self.entries.get(&key) {
            None if self.claimed >= CLAIMS => return Claim::Full,
            None => {
                let id = self.destination(destination);
                let (class, due) = (Class::Retry, Timestamp::default());
                let (tenant, campaign, cost, priority, deadline) = (None, None, 1, 0, None);
                let item = Item { key, due, class, tenant, campaign, cost, priority, deadline, rider: None };
                self.keep(id, item, Phase::Busy);
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.claimed = true;
                    self.claimed += 1;
                }
                return Claim::Taken;
            }
            Some(entry) => entry.phase,
        };
        match phase {
            Phase::Flying(_) => return Claim::Flying,
            Phase::Busy => return Claim::Busy,
            Phase::Queued(lane, _) => {
                self.lanes.withdrawn(lane);
                self.make_room(lane, now);
            }
            Phase::Aside(until) => self.no_longer_aside(until, key),
            Phase::Waiting | Phase::Attended(_) => {}
        }
        self.set_phase(key, Phase::Busy);
        Claim::Taken
    }

    /// Whether a delivery is being attempted.
    pub(crate) fn is_flying(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| matches!(entry.phase, Phase::Flying(_)))
    }

    /// The message of a delivery that is being attempted, as it was handed out, and the word left for it so far.
    pub(crate) fn in_flight(&self, key: Key) -> Option<(Arc<StoredMessage>, Option<&Order>)> {
        let entry = self.entries.get(&key).filter(|entry| matches!(entry.phase, Phase::Flying(_)))?;
        Some((entry.boarded.clone()?, entry.order.as_ref()))
    }

    /// Leaves word for the end of an attempt; `None` takes it back.
    pub(crate) fn order(&mut self, key: Key, order: Option<Order>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.order = order;
        }
    }

    /// A busy delivery's change is durable; what of it is scheduled, where and when.
    pub(crate) fn settled(&mut self, key: Key, scheduled: &[(Destination, Timestamp)], now: Now) {
        for (destination, due) in scheduled {
            self.scheduled(destination, *due, now);
        }
        self.forget(key, now);
    }

    /// Deliveries to deal with without an attempt; they are busy from now on.
    pub(crate) fn next_attention(&mut self, limit: usize) -> Vec<(Item, Destination, Why)> {
        let mut batch = Vec::new();
        while batch.len() < limit {
            let Some((key, ticket, why)) = self.attention.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.phase == Phase::Attended(ticket)) else {
                continue;
            };
            entry.phase = Phase::Busy;
            let item = entry.item.clone();
            batch.push((item, self.destinations.name(entry.destination), why));
        }
        batch
    }

    /// What waits for an attempt beyond its deadline is dealt with without one. An attempt under way is let be: what
    /// becomes of it takes the deadline into account.
    pub(crate) fn take_overdue(&mut self, now: Now) {
        if !self.may_expire(now) {
            return;
        }
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now.wall()
        {
            self.deadlines.remove(&(at, key));
            let Some(entry) = self.entries.get(&key) else { continue };
            match entry.phase {
                Phase::Flying(_) | Phase::Busy | Phase::Attended(_) => continue,
                Phase::Queued(lane, _) => {
                    self.lanes.withdrawn(lane);
                    self.make_room(lane, now);
                }
                Phase::Aside(until) => self.no_longer_aside(until, key),
                Phase::Waiting => {}
            }
            self.attend(key, Why::TimeOver);
        }
    }

    /// Whether something waits for [`Self::next_attention`].
    pub(crate) fn wants_attention(&self) -> bool {
        !self.attention.is_empty()
    }

    /// Whether age may end a delivery: not while the wall clock is under suspicion of having jumped.
    pub(crate) fn may_expire(&self, now: Now) -> bool {
        self.grace_until.is_none_or(|until| now.instant >= until)
    }

    /// What the clocks say, for the schedule.
    pub(crate) fn now(&self, instant: Instant, wall: Timestamp) -> Now {
        Now { instant, due: wall + self.lead, lead: self.lead }
    }

    /// Compares the clocks; to be called at least once a minute or so. [`now`](Self::now) is another one afterwards.
    pub(crate) fn watch_clocks(&mut self, now: Now) -> Option<Jump> {
        let expected = self.base.map_or(now.due, |base| base.due_at(now.instant));
        let back = expected.since(now.due);
        let ahead = now.due.since(expected);
        if back > STEP {
            self.lead += back;
            self.grace_until = None;
            self.base = Some(Now { due: now.due + back, ..now });
            return Some(Jump::Back(back));
        }
        // A clock that was set back may return; only what goes beyond that is news.
        let returned = if ahead > STEP { ahead.min(self.lead) } else { Duration::ZERO };
        self.lead -= returned;
        self.base = Some(Now { due: now.due - returned, ..now });
        if ahead > JUMP {
            // Also if it only returned: what was accepted meanwhile bears the time of a clock that was behind.
            self.grace_until = Some(now.instant + GRACE);
        }
        (ahead - returned > JUMP).then_some(Jump::Ahead(ahead - returned))
    }

    /// After a start: the schedule goes on with its own clock, which never goes back. Tells by how much the wall clock did
    /// since.
    pub(crate) fn resume(&mut self, clock: ScheduleClock, instant: Instant, wall: Timestamp) -> Duration {
        let back = clock.time.since(wall + clock.lead);
        let back = if back > STEP { back } else { Duration::ZERO };
        self.lead = clock.lead + back;
        self.base = Some(self.now(instant, wall));
        back
    }

    /// No more grants and no more work; what is in memory is forgotten, for the store has it.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.attention.clear();
        self.aside.clear();
        self.deadlines.clear();
        self.entries.retain(|_, entry| matches!(entry.phase, Phase::Flying(_) | Phase::Busy));
        self.rung.extend(self.lanes.waiting());
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Deliveries in memory.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Of these, those that count as the cache.
    fn cached(&self) -> usize {
        self.entries.len() - self.claimed
    }

    /// When something will have to be done; if nothing `may_load`, beside loading.
    pub(crate) fn deadline(&self, may_load: bool, now: Now) -> Option<Instant> {
        let aside = self.aside.first().map(|(until, _)| *until);
        let load = if may_load { self.load_at(now) } else { None };
        let overdue = self.deadlines.first().map(|(at, _)| now.instant + at.since(now.wall()));
        let overdue = match self.grace_until {
            Some(until) => overdue.map(|at| at.max(until)),
            None => overdue,
        };
        load.into_iter().chain(aside).chain(overdue).min()
    }

    fn enter(&mut self, destination: DestinationId, item: Item, now: Now) {
        let key = item.key;
        self.keep(destination, item, Phase::Waiting);
        self.route(key, now);
    }

    fn keep(&mut self, destination: DestinationId, item: Item, phase: Phase) {
        self.riders += usize::from(item.rider.is_some());
        self.deadlines.extend(item.deadline.map(|deadline| (deadline, item.key)));
        self.count_in(destination, item.class);
        let key = item.key;
        let (claimed, dropped, setbacks) = (false, 0, 0);
        let entry = Entry { item, destination, phase, claimed, dropped, setbacks, order: None, boarded: None };
        self.entries.insert(key, entry);
    }

    fn forget(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.riders -= usize::from(entry.item.rider.is_some());
        self.claimed -= usize::from(entry.claimed);
        if let Some(deadline) = entry.item.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        self.count_out(entry.destination, entry.item.class, now);
    }

    fn set_phase(&mut self, key: Key, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.phase = phase;
        }
    }

    fn attend(&mut self, key: Key, why: Why) {
        self.tickets += 1;
        self.set_phase(key, Phase::Attended(self.tickets));
        self.attention.push_back((key, self.tickets, why));
        // Claims leave stale lines behind; they must not pile up.
        if self.attention.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            let live = |key: &Key, ticket: u64| entries.get(key).is_some_and(|e| e.phase == Phase::Attended(ticket));
            self.attention.retain(|(key, ticket, _)| live(key, *ticket));
        }
    }
}

/// What the wall clock did that the monotonic one did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jump {
    /// It went ahead by so much.
    Ahead(Duration),
    /// It went back by so much.
    Back(Duration),
}

#[cfg(test)]
mod tests;
