//! Lanes: who may connect, and what a connection gets.
//!
//! A lane (source × site) has work that is ready, connections, and what it has learned about the site: how many
//! connections are welcome and whether the hosts can be reached at all. A connection is granted when more is ready than
//! the idle and the starting connections will take. A lane whose hosts can't be reached rests as a whole: what was
//! ready, and what becomes ready meanwhile, is put off without an attempt, and one probe goes out after the rest.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use mail::{Destination, Fault, Lane, Target, Timestamp};
use shaping::{Admission, Backoff, Open};
use store::StoredMessage;

use super::fair::Place;
use super::roster::{GrantId, LaneId, Mode, Record, drop_one};
use super::{Entry, Item, Key, Now, Order, Phase, Scheduler, Why};

/// Permission to open a connection.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) grant: GrantId,
    pub(crate) lane: LaneId,
    pub(crate) target: Arc<Target>,
}

/// What a connection does next.
#[derive(Debug)]
pub(crate) enum Pull {
    /// This.
    Item(Box<Item>),
    /// Nothing is ready, but something may be soon.
    Wait,
    /// End.
    Close,
}

/// A lane begins to rest.
#[derive(Debug)]
pub(crate) struct Setback {
    pub(crate) lane: Lane,
    pub(crate) until: Timestamp,
}

/// How a lane is, for summaries.
#[derive(Clone, Debug)]
pub(crate) struct LaneState {
    pub(crate) lane: Lane,
    pub(crate) ready: usize,
    pub(crate) connections: u32,
    pub(crate) allowed: u32,
    pub(crate) flying: usize,
    pub(crate) resting_until: Option<Timestamp>,
    pub(crate) fault: Option<Arc<Fault>>,
}

impl Scheduler {
    /// The next permission to connect.
    pub(crate) fn grant(&mut self, now: Now) -> Option<Work> {
        if self.stopped {
            return None;
        }
        while let Some(id) = self.lanes.wanting.pop_front() {
            if self.lanes.grants.len() >= self.windows.connections {
                self.lanes.wanting.push_front(id);
                self.lanes.full = true;
                self.shed(|_| true);
                return None;
            }
            if let Some(work) = self.grant_in(id, now) {
                self.lanes.consider(id);
                return Some(work);
            }
        }
        None
    }

    /// Whether [`Self::grant`] may have something.
    pub(crate) fn wants_grant(&self) -> bool {
        !self.stopped && !self.lanes.full && !self.lanes.wanting.is_empty()
    }

    /// What a connection does next. After [`Pull::Wait`] it asks again when its lane is rung, or ends.
    pub(crate) fn pull(&mut self, grant: GrantId, now: Now) -> Pull {
        let Some(state) = self.lanes.grants.get(&grant) else { return Pull::Close };
        let id = state.lane;
        let Some(lane) = self.lanes.by_id.get_mut(&id) else { return Pull::Close };
        let surplus = lane.connections > lane.closing + lane.concurrency.allowed(&lane.settings.limits);
        let moved = lane.epoch != state.epoch;
        if self.stopped || surplus || moved {
            self.lanes.set_mode(grant, Mode::Closing);
            return Pull::Close;
        }
        while let Some((key, ticket)) = lane.work.pop() {
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.phase == Phase::Queued(id, ticket))
            else {
                continue;
            };
            entry.phase = Phase::Flying(grant);
            let item = Box::new(entry.item.clone());
            lane.ready -= 1;
            self.lanes.set_mode(grant, Mode::Working);
            if let Some(state) = self.lanes.grants.get_mut(&grant) {
                state.flights.push(key);
            }
            self.ring(id);
            self.make_room(id, now);
            return Pull::Item(item);
        }
        if lane.shed > 0 {
            lane.shed -= 1;
            self.lanes.set_mode(grant, Mode::Closing);
            return Pull::Close;
        }
        self.lanes.set_mode(grant, Mode::Idle);
        Pull::Wait
    }

    /// The connection no longer waits, and not because it got work.
    pub(crate) fn stop_waiting(&mut self, grant: GrantId) {
        self.lanes.set_mode(grant, Mode::Working);
    }

    /// An attempt is over: the delivery is busy now. Gives what an operator wants of it.
    ///
    /// `None` if the grant does not hold the delivery.
    pub(crate) fn landed(&mut self, grant: GrantId, key: Key) -> Option<Option<Order>> {
        let state = self.lanes.grants.get_mut(&grant)?;
        let place = state.flights.iter().position(|flight| *flight == key)?;
        state.flights.swap_remove(place);
        let entry = self.entries.get_mut(&key)?;
        entry.phase = Phase::Busy;
        Some(entry.order.take())
    }

    /// What an attempt says about the lane: the peer answered, or it went away (`trouble`).
    pub(crate) fn progressed(&mut self, grant: GrantId, trouble: Option<Fault>, now: Now) -> Option<Setback> {
        let state = self.lanes.grants.get_mut(&grant)?;
        let id = state.lane;
        let probe = std::mem::take(&mut state.probe);
        let lane = self.lanes.by_id.get_mut(&id)?;
        lane.used_at = now.instant;
        match trouble {
            None => {
                state.worked = true;
                lane.backoff.succeeded();
                lane.fault = None;
                lane.concurrency.succeeded(&lane.settings.limits, lane.connections);
                self.lanes.consider(id);
                None
            }
            Some(fault) => {
                lane.concurrency.failed(&lane.settings.limits, now.instant);
                if probe { self.rest(id, fault, now) } else { None }
            }
        }
    }

    /// No host of the lane could be reached. If no other connection of it works, the lane rests.
    pub(crate) fn unreachable(&mut self, grant: GrantId, fault: Fault, now: Now) -> Option<Setback> {
        // A probe stays one: if the lane does not rest for it, its end says that it found nothing out.
        let id = self.lanes.grants.get(&grant)?.lane;
        let lane = self.lanes.by_id.get_mut(&id)?;
        lane.concurrency.failed(&lane.settings.limits, now.instant);
        let resting = lane.backoff.resting_until().is_some_and(|until| now.instant < until);
        let others = self.lanes.grants.iter().any(|(other, state)| *other != grant && state.lane == id && state.worked);
        if resting || others {
            return None;
        }
        self.rest(id, fault, now)
    }

    /// A connection ended. Deliveries it took and did not report go back to the lane.
    ///
    /// Gives the lane if this was its last connection.
    pub(crate) fn ended(&mut self, grant: GrantId, now: Now) -> Option<LaneId> {
        self.lanes.set_mode(grant, Mode::Working);
        let state = self.lanes.grants.remove(&grant)?;
        self.lanes.full = false;
        let id = state.lane;
        if let Some(lane) = self.lanes.by_id.get_mut(&id) {
            lane.connections -= 1;
            lane.used_at = now.instant;
            if state.probe {
                lane.backoff.abandoned(now.instant);
            }
            lane.shed = lane.shed.min(lane.idle);
        }
        drop_one(&mut self.lanes.per_site, &state.target.lane.site);
        drop_one(&mut self.lanes.per_source, &state.target.lane.source);
        for key in state.flights {
            self.take_back(key, id, now);
        }
        self.lanes.reconsider_blocked();
        self.lanes.consider(id);
        self.lanes.by_id.get(&id).is_none_or(|lane| lane.connections == 0).then_some(id)
    }

    /// An operator wants a try now: the destination's lane stops resting, and its hosts are looked up anew.
    pub(crate) fn rouse(&mut self, name: &Destination) {
        if let Some(lane) = self.lane_id(name)
            && let Some(lane) = self.lanes.by_id.get_mut(&lane)
            && !lane.backoff.is_open()
        {
            lane.backoff = Backoff::default();
        }
        self.look_at_once(name);
    }

    /// A delivery was handed out as the message says.
    pub(crate) fn boarded(&mut self, key: Key, stored: Arc<StoredMessage>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.boarded = Some(stored);
        }
    }

    /// How many attempts are under way, by destination.
    pub(crate) fn flying(&self) -> HashMap<Destination, usize> {
        let mut flying = HashMap::new();
        for key in self.lanes.grants.values().flat_map(|grant| &grant.flights) {
            if let Some(entry) = self.entries.get(key) {
                *flying.entry(self.destinations.name(entry.destination)).or_default() += 1;
            }
        }
        flying
    }

    /// The lane of a destination whose hosts are known.
    pub(crate) fn lane_of(&self, name: &Destination) -> Option<Lane> {
        let lane = self.lane_id(name)?;
        Some(self.lanes.by_id.get(&lane)?.target.lane.clone())
    }

    /// How the lanes are that have the most ready.
    pub(crate) fn busiest_lanes(&self, most: usize, now: Now) -> Vec<LaneState> {
        let order = |(id, lane): (&LaneId, &Record)| (Reverse(lane.ready), Reverse(lane.connections), *id);
        let mut busiest: Vec<_> = self.lanes.by_id.iter().map(order).collect();
        busiest.sort_unstable();
        busiest.into_iter().take(most).filter_map(|(_, _, id)| self.lane_state(id, now)).collect()
    }

    /// How the lane of a destination is, if its hosts are known.
    pub(crate) fn lane_state_of(&self, name: &Destination, now: Now) -> Option<LaneState> {
        self.lane_state(self.lane_id(name)?, now)
    }

    /// How many lanes there are, and how many of them rest.
    pub(crate) fn count_lanes(&self, now: Now) -> (usize, usize) {
        let lanes = self.lanes.by_id.len();
        (lanes, self.lanes.by_id.keys().filter(|id| self.lanes.rests(**id, now)).count())
    }

    fn lane_state(&self, id: LaneId, now: Now) -> Option<LaneState> {
        let lane = self.lanes.by_id.get(&id)?;
        let until = lane.backoff.resting_until().filter(|until| *until > now.instant);
        let grants = self.lanes.grants.values().filter(|grant| grant.lane == id);
        Some(LaneState {
            lane: lane.target.lane.clone(),
            ready: lane.ready,
            connections: lane.connections,
            allowed: lane.concurrency.allowed(&lane.settings.limits),
            flying: grants.map(|grant| grant.flights.len()).sum(),
            resting_until: until.map(|until| now.told(now.due_at(until))),
            fault: lane.fault.clone(),
        })
    }

    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        self.lanes.grants.len()
    }

    pub(super) fn enqueue(&mut self, key: Key, id: LaneId, now: Now) {
        let Some(lane) = self.lanes.by_id.get_mut(&id) else { return self.attend(key, Why::Vanished) };
        if let Some(until) = lane.backoff.resting_until().filter(|until| now.instant < *until)
            && let Some(fault) = &lane.fault
        {
            let why = Why::LaneRests(fault.clone(), now.due_at(until));
            return self.attend(key, why);
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.tickets += 1;
        entry.phase = Phase::Queued(id, self.tickets);
        let item = &entry.item;
        let (tenant, campaign) = (item.tenant.clone(), item.campaign.clone());
        let place = Place { priority: item.priority, class: item.class, tenant, campaign, cost: item.cost };
        lane.work.push((key, self.tickets), place, &self.weights);
        lane.ready += 1;
        lane.used_at = now.instant;
        // What was withdrawn leaves its place in line behind; that must not pile up.
        if lane.work.len() > 2 * lane.ready + 64 {
            let entries = &self.entries;
            let live = |key: &Key, ticket: u64| entries.get(key).is_some_and(|e| e.phase == Phase::Queued(id, ticket));
            lane.work.retain(|(key, ticket)| live(key, *ticket));
        }
        self.ring(id);
        self.lanes.consider(id);
    }

    fn ring(&mut self, id: LaneId) {
        if self.lanes.by_id.get(&id).is_some_and(|lane| lane.ready > 0 && lane.idle > 0) {
            self.rung.insert(id);
        }
    }

    fn grant_in(&mut self, id: LaneId, now: Now) -> Option<Work> {
        let lane = self.lanes.by_id.get_mut(&id)?;
        lane.listed = false;
        if !lane.has_use() {
            return None;
        }
        let (site, source) = (&lane.target.lane.site, &lane.target.lane.source);
        let limits = &lane.settings.limits;
        let open = Open {
            lane: lane.connections,
            site: self.lanes.per_site.get(site).copied().unwrap_or(0),
            source: self.lanes.per_source.get(source).copied().unwrap_or(0),
        };
        if lane.concurrency.room(limits, open) == 0 {
            if lane.concurrency.allowed(limits) > open.lane {
                let (site, source) = (site.clone(), source.clone());
                let (by_site, by_source) = (open.site >= limits.per_site, open.source >= limits.per_source);
                self.lanes.blocked.push(id);
                lane.listed = true;
                self.shed(|lane| (by_site && lane.site == site) || (by_source && lane.source == source));
            }
            return None;
        }
        let probe = match lane.backoff.admit(now.instant) {
            Admission::Open => false,
            Admission::Probe => true,
            Admission::Resting { .. } | Admission::Probing => return None,
        };
        self.lanes.open(id, probe)
    }

    /// Asks one idle connection among the lanes to end, for others need its place.
    fn shed(&mut self, fits: impl Fn(&Lane) -> bool) {
        for id in &self.lanes.idle {
            let Some(lane) = self.lanes.by_id.get_mut(id) else { continue };
            if lane.idle > lane.shed && fits(&lane.target.lane) {
                lane.shed += 1;
                self.rung.insert(*id);
                return;
            }
        }
    }

    /// The lane rests: what is ready in it is put off.
    fn rest(&mut self, id: LaneId, fault: Fault, now: Now) -> Option<Setback> {
        let lane = self.lanes.by_id.get_mut(&id)?;
        let until = lane.backoff.failed(&lane.settings.backoff, now.instant, &self.lanes.randomness);
        let fault = Arc::new(fault);
        lane.fault = Some(fault.clone());
        let until = now.due_at(until);
        let setback = Setback { lane: lane.target.lane.clone(), until: now.told(until) };
        for (key, ticket) in lane.drain() {
            if self.entries.get(&key).is_some_and(|entry| entry.phase == Phase::Queued(id, ticket)) {
                self.attend(key, Why::LaneRests(fault.clone(), until));
            }
        }
        self.make_room(id, now);
        Some(setback)
    }

    /// A delivery comes back without a word. The second time it is put off, lest it turn in circles.
    fn take_back(&mut self, key: Key, lane: LaneId, now: Now) {
        let stopped = self.stopped;
        let Some(Entry { phase, dropped, order, boarded, .. }) = self.entries.get_mut(&key) else { return };
        *phase = Phase::Waiting;
        *boarded = None;
        *dropped = dropped.saturating_add(1);
        if stopped {
            self.forget(key, now);
        } else if *dropped > 1 || order.is_some() {
            self.attend(key, Why::Dropped);
        } else {
            self.enqueue(key, lane, now);
        }
    }

    /// A delivery that a connection took can't be attempted after all.
    pub(crate) fn divert(&mut self, grant: GrantId, key: Key, why: Why) {
        if let Some(order) = self.landed(grant, key) {
            self.attend(key, why);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.order = order;
            }
        }
    }

    /// The word that an operator left for a delivery that came back without one.
    pub(crate) fn take_order(&mut self, key: Key) -> Option<Order> {
        self.entries.get_mut(&key)?.order.take()
    }
}
