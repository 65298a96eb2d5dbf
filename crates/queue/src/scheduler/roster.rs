//! The book of lanes and connections: what there is and how it is counted. What is done with it stands in `lanes`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Fault, Lane, Randomness, Site, Target, TargetHost};
use shaping::{Backoff, BackoffSettings, Concurrency, Limits};

use super::fair::Fair;
use super::lanes::Work;
use super::windows::DestinationId;
use super::{Key, Now};

/// A lane without anything to do is forgotten after this time, and with it what it learned.
const LANE_AGE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LaneId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GrantId(u64);

/// The bounds of a lane, from its route or from the general settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) backoff: BackoffSettings,
}

/// In which order the hosts of a site are tried: the rank of each, by name. Domains may rank the hosts of one site
/// differently, and a connection serves those alone that rank them alike.
type Ranks = Box<[u8]>;

#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) by_id: HashMap<LaneId, Record>,
    by_name: HashMap<(Lane, Ranks), LaneId>,
    pub(super) grants: HashMap<GrantId, Grant>,
    pub(super) next: u64,
    pub(super) randomness: Randomness,
    /// Lanes that may have use for another connection, in turn.
    pub(super) wanting: VecDeque<LaneId>,
    /// Lanes that have, but their site's or source's limit is reached.
    pub(super) blocked: Vec<LaneId>,
    /// Lanes with idle connections.
    pub(super) idle: BTreeSet<LaneId>,
    pub(super) per_site: HashMap<Site, u32>,
    pub(super) per_source: HashMap<Arc<str>, u32>,
    /// The limit of all connections was reached; a connection must end first.
    pub(super) full: bool,
}

#[derive(Debug)]
pub(super) struct Record {
    /// For new connections.
    pub(super) target: Arc<Target>,
    /// Grows when the hosts change: connections to the old ones end.
    pub(super) epoch: u64,
    pub(super) settings: Settings,
    pub(super) work: Fair<(Key, u64)>,
    /// Of the work, what was not withdrawn.
    pub(super) ready: usize,
    pub(super) connections: u32,
    pub(super) starting: u32,
    pub(super) idle: u32,
    /// Connections that were told to end.
    pub(super) closing: u32,
    /// Idle connections that are to end.
    pub(super) shed: u32,
    pub(super) concurrency: Concurrency,
    pub(super) backoff: Backoff,
    pub(super) fault: Option<Arc<Fault>>,
    pub(super) parked: VecDeque<DestinationId>,
    pub(super) destinations: usize,
    pub(super) listed: bool,
    pub(super) used_at: Instant,
}

#[derive(Debug)]
pub(super) struct Grant {
    pub(super) lane: LaneId,
    pub(super) target: Arc<Target>,
    pub(super) epoch: u64,
    pub(super) mode: Mode,
    pub(super) probe: bool,
    /// Whether the peer has answered on it.
    pub(super) worked: bool,
    pub(super) flights: Vec<Key>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Starting,
    Working,
    Idle,
    Closing,
}

impl Lanes {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            by_id: HashMap::new(),
            by_name: HashMap::new(),
            grants: HashMap::new(),
            next: 0,
            randomness: Randomness::seeded(seed),
            wanting: VecDeque::new(),
            blocked: Vec::new(),
            idle: BTreeSet::new(),
            per_site: HashMap::new(),
            per_source: HashMap::new(),
            full: false,
        }
    }

    /// The lane of a target, which is the target of new connections from now on.
    pub(super) fn place(&mut self, target: Arc<Target>, settings: Settings, now: Now) -> LaneId {
        let name = (target.lane.clone(), ranks(&target));
        if let Some(id) = self.by_name.get(&name).copied()
            && let Some(lane) = self.by_id.get_mut(&id)
        {
            lane.epoch += u64::from(!same_hosts(&lane.target, &target));
            lane.target = target;
            lane.settings = settings;
            return id;
        }
        self.next += 1;
        let id = LaneId(self.next);
        self.by_name.insert(name, id);
        self.by_id.insert(id, Record::new(target, settings, now.instant));
        id
    }

    pub(super) fn placed(&mut self, id: LaneId) {
        if let Some(lane) = self.by_id.get_mut(&id) {
            lane.destinations += 1;
        }
    }

    pub(super) fn unplaced(&mut self, id: LaneId) {
        if let Some(lane) = self.by_id.get_mut(&id) {
            lane.destinations = lane.destinations.saturating_sub(1);
        }
    }

    pub(super) fn unplace_all(&mut self) {
        for lane in self.by_id.values_mut() {
            lane.destinations = 0;
        }
    }

    /// Something that was ready is taken away.
    pub(super) fn withdrawn(&mut self, id: LaneId) {
        if let Some(lane) = self.by_id.get_mut(&id) {
            lane.ready = lane.ready.saturating_sub(1);
        }
    }

    pub(super) fn drain_all(&mut self) -> Vec<(Key, u64)> {
        let mut drained: Vec<_> = self.by_id.iter_mut().map(|(id, lane)| (*id, lane.drain())).collect();
        drained.sort_unstable_by_key(|(id, _)| *id);
        drained.into_iter().flat_map(|(_, work)| work).collect()
    }

    /// Nobody waits for room in a lane any more.
    pub(super) fn unpark_all(&mut self) -> Vec<DestinationId> {
        let mut all: Vec<_> = self.by_id.values_mut().flat_map(|lane| std::mem::take(&mut lane.parked)).collect();
        all.sort_unstable();
        all
    }

    pub(super) fn rests(&self, id: LaneId, now: Now) -> bool {
        let until = self.by_id.get(&id).and_then(|lane| lane.backoff.resting_until());
        until.is_some_and(|until| now.instant < until)
    }

    pub(super) fn ready(&self, id: LaneId) -> usize {
        self.by_id.get(&id).map_or(0, |lane| lane.ready)
    }

    pub(super) fn park(&mut self, id: LaneId, destination: DestinationId) {
        if let Some(lane) = self.by_id.get_mut(&id) {
            lane.parked.push_back(destination);
        }
    }

    pub(super) fn parked(&mut self, id: LaneId) -> Option<&mut VecDeque<DestinationId>> {
        self.by_id.get_mut(&id).map(|lane| &mut lane.parked)
    }

    /// Lanes with connections that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = LaneId> {
        self.idle.iter().copied()
    }

    pub(super) fn sweep(&mut self, now: Now) {
        let by_name = &mut self.by_name;
        self.by_id.retain(|_, lane| {
            let old = now.instant.saturating_duration_since(lane.used_at) > LANE_AGE;
            let resting = lane.backoff.resting_until().is_some_and(|until| now.instant < until);
            let used = lane.destinations + lane.ready + lane.parked.len() > 0 || lane.connections > 0;
            if used || resting || !old {
                if lane.ready == 0 && lane.connections == 0 {
                    // A lane without work costs no more than what it has learned.
                    lane.drain();
                }
                return true;
            }
            by_name.remove(&(lane.target.lane.clone(), ranks(&lane.target)));
            false
        });
    }

    pub(super) fn consider(&mut self, id: LaneId) {
        if let Some(lane) = self.by_id.get_mut(&id)
            && !lane.listed
            && lane.has_use()
        {
            lane.listed = true;
            self.wanting.push_back(id);
        }
    }

    pub(super) fn reconsider_blocked(&mut self) {
        for id in std::mem::take(&mut self.blocked) {
            if let Some(lane) = self.by_id.get_mut(&id) {
                lane.listed = false;
            }
            self.consider(id);
        }
    }

    pub(super) fn open(&mut self, id: LaneId, probe: bool) -> Option<Work> {
        let lane = self.by_id.get_mut(&id)?;
        lane.connections += 1;
        lane.starting += 1;
        let target = lane.target.clone();
        *self.per_site.entry(target.lane.site.clone()).or_default() += 1;
        *self.per_source.entry(target.lane.source.clone()).or_default() += 1;
        self.next += 1;
        let grant = GrantId(self.next);
        let state = Grant {
            lane: id,
            target: target.clone(),
            epoch: lane.epoch,
            mode: Mode::Starting,
            probe,
            worked: false,
            flights: Vec::new(),
        };
        self.grants.insert(grant, state);
        Some(Work { grant, lane: id, target })
    }

    pub(super) fn set_mode(&mut self, grant: GrantId, mode: Mode) {
        let Some(state) = self.grants.get_mut(&grant) else { return };
        let Some(lane) = self.by_id.get_mut(&state.lane) else { return };
        match std::mem::replace(&mut state.mode, mode) {
            Mode::Starting => lane.starting -= 1,
            Mode::Idle => lane.idle -= 1,
            Mode::Closing => lane.closing -= 1,
            Mode::Working => {}
        }
        match mode {
            Mode::Starting => lane.starting += 1,
            Mode::Idle => lane.idle += 1,
            Mode::Closing => lane.closing += 1,
            Mode::Working => {}
        }
        if lane.idle > 0 {
            self.idle.insert(state.lane);
        } else {
            self.idle.remove(&state.lane);
        }
    }
}

impl Record {
    fn new(target: Arc<Target>, settings: Settings, now: Instant) -> Self {
        Self {
            concurrency: Concurrency::new(&settings.limits),
            target,
            epoch: 0,
            settings,
            work: Fair::new(),
            ready: 0,
            connections: 0,
            starting: 0,
            idle: 0,
            closing: 0,
            shed: 0,
            backoff: Backoff::default(),
            fault: None,
            parked: VecDeque::new(),
            destinations: 0,
            listed: false,
            used_at: now,
        }
    }

    /// Takes out all of its work, and the memory that it needed.
    pub(super) fn drain(&mut self) -> Vec<(Key, u64)> {
        self.ready = 0;
        std::mem::replace(&mut self.work, Fair::new()).drain()
    }

    /// Whether more is ready than the connections that are idle or starting will take.
    pub(super) fn has_use(&self) -> bool {
        self.ready > (self.idle + self.starting) as usize
    }
}

fn ranks(target: &Target) -> Ranks {
    if target.hosts.len() < 2 {
        return Ranks::default();
    }
    let mut hosts: Vec<(String, u16)> = target.hosts.iter().map(named).collect();
    hosts.sort_unstable();
    let mut preferences: Vec<u16> = hosts.iter().map(|(_, preference)| *preference).collect();
    preferences.sort_unstable();
    preferences.dedup();
    let rank = |(_, preference): &(String, u16)| preferences.binary_search(preference).unwrap_or(0).min(255) as u8;
    hosts.iter().map(rank).collect()
}

fn named(host: &TargetHost) -> (String, u16) {
    match host {
        TargetHost::Name { name, port, preference } => (format!("{name}:{port}"), *preference),
        TargetHost::Address { address, preference } => (address.to_string(), *preference),
        TargetHost::Unix { path } => (path.display().to_string(), 0),
    }
}

/// Whether two targets of one lane are the same hosts, reached the same way.
fn same_hosts(a: &Target, b: &Target) -> bool {
    let within = |a: &Target, b: &Target| a.hosts.iter().all(|host| b.hosts.iter().any(|other| is_same(host, other)));
    let same_tls = a.tls.level == b.tls.level && a.tls.implicit == b.tls.implicit;
    a.protocol == b.protocol && a.source == b.source && same_tls && within(a, b) && within(b, a)
}

fn is_same(a: &TargetHost, b: &TargetHost) -> bool {
    match (a, b) {
        (TargetHost::Name { name: a, port: p, .. }, TargetHost::Name { name: b, port: q, .. }) => a == b && p == q,
        (TargetHost::Address { address: a, .. }, TargetHost::Address { address: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

pub(super) fn drop_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
impl Lanes {
    pub(super) fn parked_in_all(&self) -> usize {
        self.by_id.values().map(|lane| lane.parked.len()).sum()
    }

    pub(super) fn site_of(&self, grant: GrantId) -> Option<String> {
        self.grants.get(&grant).map(|grant| grant.target.lane.site.to_string())
    }
}
