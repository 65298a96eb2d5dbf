//! The scheduler against a model of the store: whatever happens, nothing is lost, doubled or over the limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mail::{Domain, EnhancedCode, Lane, Protocol, Site, Source, Target, TargetHost};
use proptest::prelude::*;
use shaping::{BackoffSettings, Jitter, Limits};
use store::Due;

use super::*;

const START: u64 = 1_800_000_000_000;

/// A store and a world around a scheduler. Destination `d` is at site `d % sites`.
struct World {
    scheduler: Scheduler,
    now: Now,
    /// The schedule on disk: what is due when, by destination.
    schedule: BTreeMap<u64, BTreeSet<(Timestamp, Key)>>,
    at: HashMap<Key, (u64, Timestamp)>,
    grants: Vec<(GrantId, Vec<Key>)>,
    flying: BTreeSet<Key>,
    sites: u64,
    next: u128,
    attempts: HashMap<Key, u32>,
    most: usize,
    /// The latest time that the wall clock ever showed.
    latest: Timestamp,
}

fn windows() -> Windows {
    Windows { total: 24, destination: 4, lane: 8, riders: 4, places: 2, connections: 3 }
}

impl World {
    fn new(windows: Windows, sites: u64) -> Self {
        let most = windows.total;
        Self {
            scheduler: Scheduler::new(windows, Weights::default(), 7),
            now: Now { instant: Instant::now(), due: Timestamp::from_millis(START), lead: Duration::ZERO },
            schedule: BTreeMap::new(),
            at: HashMap::new(),
            grants: Vec::new(),
            flying: BTreeSet::new(),
            sites,
            next: 0,
            attempts: HashMap::new(),
            most,
            latest: Timestamp::from_millis(START),
        }
    }

    fn name(destination: u64) -> Destination {
        Destination::new(format!("mx:d{destination}.example"))
    }

    fn number(name: &Destination) -> u64 {
        name.as_str()["mx:d".len()..].trim_end_matches(".example").parse().unwrap()
    }

    fn advance(&mut self, by: Duration) {
        self.now = Now { instant: self.now.instant + by, due: self.now.due + by, ..self.now };
        self.latest = self.latest.max(self.now.due);
    }

    /// The wall clock jumps, and the clocks are read again.
    fn jump(&mut self, seconds: i64) {
        let wall = self.now.wall().as_millis().saturating_add_signed(1000 * seconds);
        self.now = self.scheduler.now(self.now.instant, Timestamp::from_millis(wall));
    }

    fn write(&mut self, key: Key, scheduled: Option<(u64, Timestamp)>) {
        if let Some((destination, due)) = self.at.remove(&key) {
            self.schedule.entry(destination).or_default().remove(&(due, key));
        }
        if let Some((destination, due)) = scheduled {
            self.schedule.entry(destination).or_default().insert((due, key));
            self.at.insert(key, (destination, due));
        }
    }

    fn stored(&mut self, destination: u64, due: Timestamp) -> Key {
        self.next += 1;
        let key = (MessageId::from_u128(self.next), 0);
        self.write(key, Some((destination, due)));
        key
    }

    fn arrive(&mut self, destination: u64) -> Key {
        let key = self.stored(destination, self.now.due);
        let item = item(key, self.now.due, Class::First);
        self.scheduler.admit(&Self::name(destination), item, self.now);
        key
    }

    fn settle(&mut self, key: Key, scheduled: Option<(u64, Timestamp)>) {
        self.write(key, scheduled);
        let scheduled: Vec<_> = scheduled.map(|(d, due)| (Self::name(d), due)).into_iter().collect();
        self.scheduler.settled(key, &scheduled, self.now);
    }

    /// What the engine does, until there is nothing to do.
    fn engine(&mut self) {
        self.scheduler.take_up(self.now);
        for _ in 0..10_000 {
            if let Some((id, name)) = self.scheduler.next_unplaced() {
                let target = target(Self::number(&name) % self.sites);
                self.scheduler.placed(id, target, placement(), self.now);
            } else if let Some(load) = self.scheduler.next_load(self.now) {
                let page = self.page(&load);
                self.scheduler.loaded(&load, page, self.now);
            } else {
                let batch = self.scheduler.next_attention(16);
                if batch.is_empty() {
                    self.check();
                    if self.scheduler.wants_place() {
                        continue;
                    }
                    return;
                }
                for (item, name, _) in batch {
                    assert!(!self.flying.contains(&item.key), "attended while flying");
                    let due = self.now.due + Duration::from_secs(300);
                    self.settle(item.key, Some((Self::number(&name), due)));
                }
            }
            self.check();
        }
        panic!("the engine does not come to rest");
    }

    fn page(&self, load: &Load) -> Page {
        let empty = BTreeSet::new();
        let all = self.schedule.get(&Self::number(&load.destination)).unwrap_or(&empty);
        let due = |(due, (id, number)): &(Timestamp, Key)| Due {
            id: *id,
            number: *number,
            due: *due,
            held: false,
            received_at: *due,
            tenant: None,
            campaign: None,
            size: 0,
        };
        let behind: Vec<Due> =
            all.iter().map(due).filter(|due| load.after.is_none_or(|at| due.cursor() > at)).collect();
        let found: Vec<&Due> = behind.iter().filter(|due| due.due <= load.until).take(load.limit).collect();
        let next_due = behind.get(found.len()).map(|due| due.due).filter(|_| found.len() < load.limit);
        Page {
            cursor: found.last().map(|due| due.cursor()),
            items: found.iter().map(|due| item((due.id, due.number), due.due, Class::Retry)).collect(),
            next_due,
        }
    }

    fn grant(&mut self) -> Option<GrantId> {
        let work = self.scheduler.grant(self.now)?;
        self.grants.push((work.grant, Vec::new()));
        self.check();
        Some(work.grant)
    }

    fn pull(&mut self, at: usize) -> Option<Key> {
        let (grant, flights) = self.grants.get_mut(at)?;
        match self.scheduler.pull(*grant, self.now) {
            Pull::Item(item) => {
                assert!(self.flying.insert(item.key), "handed out twice");
                let (_, due) = self.at.get(&item.key).expect("handed out after its end");
                assert!(*due <= self.latest, "handed out before it is due");
                flights.push(item.key);
                *self.attempts.entry(item.key).or_default() += 1;
                Some(item.key)
            }
            Pull::Wait => None,
            Pull::Close => {
                self.end(at);
                None
            }
        }
    }

    fn land(&mut self, at: usize) -> Option<(Key, u64)> {
        let (grant, flights) = self.grants.get_mut(at)?;
        let key = flights.pop()?;
        assert!(self.flying.remove(&key));
        self.scheduler.landed(*grant, key).expect("a flight is known");
        Some((key, self.at[&key].0))
    }

    fn end(&mut self, at: usize) {
        if at < self.grants.len() {
            let (grant, flights) = self.grants.swap_remove(at);
            flights.iter().for_each(|key| assert!(self.flying.remove(key)));
            self.scheduler.ended(grant, self.now);
        }
    }

    fn check(&self) {
        assert!(self.scheduler.cached() <= self.most, "{} in memory", self.scheduler.len());
        assert!(self.grants.len() <= self.scheduler.windows.connections);
    }

    /// Everything works from now on: all must be delivered.
    fn drain(&mut self) {
        for _ in 0..5_000 {
            if self.at.is_empty() {
                return;
            }
            self.engine();
            while self.grant().is_some() {}
            for at in (0..self.grants.len()).rev() {
                while self.land(at).is_some_and(|(key, _)| {
                    self.settle(key, None);
                    true
                }) {}
                match self.pull(at) {
                    Some(_) => {
                        let (key, _) = self.land(at).unwrap();
                        let grant = self.grants[at].0;
                        self.scheduler.progressed(grant, None, self.now);
                        self.settle(key, None);
                    }
                    // An idle connection ends at its time.
                    None => self.end(at),
                }
            }
            self.advance(Duration::from_secs(20));
        }
        panic!("{} deliveries are forgotten", self.at.len());
    }
}

fn item(key: Key, due: Timestamp, class: Class) -> Item {
    Item { key, due, class, tenant: None, campaign: None, cost: 1, rider: None }
}

fn target(site: u64) -> Arc<Target> {
    let name = Domain::parse("mx.example").unwrap();
    let source = Source { name: "default".into(), ipv4: None, ipv6: None, ehlo: name.clone() };
    let lane = Lane { source: source.name.clone(), site: Site::new(format!("s{site}")) };
    let hosts = vec![TargetHost::Name { name, port: 25, preference: 0 }];
    Arc::new(Target { lane, protocol: Protocol::Smtp, source, hosts })
}

fn placement() -> Placement {
    let backoff = BackoffSettings { jitter: Jitter::NONE, ..BackoffSettings::default() };
    Placement { limits: Limits::default(), backoff }
}

fn fault() -> Fault {
    Fault::local(451, EnhancedCode::new(4, 4, 1), "nobody answers")
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(u64),
    Appear(u64, u64),
    Advance(u64),
    Engine,
    Grant,
    Pull(usize),
    Deliver(usize),
    Defer(usize, u64),
    Restore(usize),
    Unreachable(usize),
    End(usize),
    Take(u128),
    JumpBack(u64),
    Reconfigure,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..5).prop_map(Step::Arrive),
        2 => (0u64..5, 0u64..900).prop_map(|(d, s)| Step::Appear(d, s)),
        3 => (0u64..400).prop_map(Step::Advance),
        5 => Just(Step::Engine),
        4 => Just(Step::Grant),
        8 => (0usize..3).prop_map(Step::Pull),
        3 => (0usize..3).prop_map(Step::Deliver),
        3 => (0usize..3, 0u64..500).prop_map(|(g, s)| Step::Defer(g, s)),
        2 => (0usize..3).prop_map(Step::Restore),
        1 => (0usize..3).prop_map(Step::Unreachable),
        2 => (0usize..3).prop_map(Step::End),
        2 => (1u128..40).prop_map(Step::Take),
        1 => (700u64..4000).prop_map(Step::JumpBack),
        1 => Just(Step::Reconfigure),
    ]
}

fn run(world: &mut World, step: &Step) {
    match *step {
        Step::Arrive(destination) => drop(world.arrive(destination)),
        Step::Appear(destination, seconds) => {
            let due = world.now.due + Duration::from_secs(seconds);
            world.stored(destination, due);
            world.scheduler.scheduled(&World::name(destination), due, world.now);
        }
        Step::Advance(seconds) => world.advance(Duration::from_secs(seconds)),
        Step::Engine => world.engine(),
        Step::Grant => drop(world.grant()),
        Step::Pull(at) => drop(world.pull(at)),
        Step::Deliver(at) => {
            if let Some((key, _)) = world.land(at) {
                world.scheduler.progressed(world.grants[at].0, None, world.now);
                world.settle(key, None);
            }
        }
        Step::Defer(at, seconds) => {
            if let Some((key, destination)) = world.land(at) {
                world.scheduler.progressed(world.grants[at].0, Some(fault()), world.now);
                let due = world.now.due + Duration::from_secs(seconds);
                world.settle(key, Some((destination, due)));
            }
        }
        Step::Restore(at) => {
            if let Some((key, _)) = world.land(at) {
                world.scheduler.restore(key, world.now);
            }
        }
        Step::Unreachable(at) => {
            if let Some((grant, _)) = world.grants.get(at) {
                world.scheduler.unreachable(*grant, fault(), world.now);
                world.end(at);
            }
        }
        Step::End(at) => world.end(at),
        Step::Take(id) => {
            let key = (MessageId::from_u128(id), 0);
            if let Some((destination, _)) = world.at.get(&key).copied() {
                let claim = world.scheduler.claim(key, &World::name(destination), world.now);
                assert_eq!(claim == Claim::Flying, world.flying.contains(&key));
                if claim == Claim::Taken {
                    world.settle(key, (id % 2 == 0).then_some((destination, world.now.due)));
                }
            }
        }
        Step::JumpBack(seconds) => {
            world.scheduler.watch_clocks(world.now);
            world.jump(-i64::try_from(seconds).unwrap());
            assert!(matches!(world.scheduler.watch_clocks(world.now), Some(Jump::Back(_))));
            world.jump(0);
        }
        Step::Reconfigure => world.scheduler.reconfigure(windows(), Weights::default(), world.now),
    }
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_doubled_or_over_the_limits(
        steps in proptest::collection::vec(step(), 0..200),
        sites in 1u64..4,
    ) {
        let mut world = World::new(windows(), sites);
        for step in &steps {
            run(&mut world, step);
        }
        world.drain();
    }
}

#[test]
fn a_destination_with_very_much_due_leaves_room_for_others() {
    let limits = Windows { total: 1000, destination: 200, lane: 2000, ..Windows::default() };
    let mut world = World::new(limits, 1000);
    for destination in 0..50 {
        for _ in 0..500 {
            world.stored(destination, world.now.due);
        }
        world.scheduler.scheduled(&World::name(destination), world.now.due, world.now);
    }
    world.engine();
    assert!(world.scheduler.len() <= 1000);
    world.stored(777, world.now.due);
    world.scheduler.scheduled(&World::name(777), world.now.due, world.now);
    let last = world.arrive(778);
    world.engine();
    assert_eq!(world.scheduler.claim(last, &World::name(778), world.now), Claim::Taken, "new mail is in memory");
    let states = world.scheduler.busiest_lanes(100, world.now);
    assert!(states.iter().any(|state| state.lane.site.as_str() == "s777" && state.ready == 1), "so is a retry");
}

#[test]
fn loading_goes_on_from_where_it_was() {
    let limits = Windows { total: 100, destination: 10, ..Windows::default() };
    let mut world = World::new(limits, 1);
    for _ in 0..1000 {
        world.stored(0, world.now.due);
    }
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    let (mut read, mut loads) = (0, 0);
    while !world.at.is_empty() {
        while let Some((id, _)) = world.scheduler.next_unplaced() {
            world.scheduler.placed(id, target(0), placement(), world.now);
        }
        while let Some(load) = world.scheduler.next_load(world.now) {
            let page = world.page(&load);
            read += page.items.len();
            loads += 1;
            world.scheduler.loaded(&load, page, world.now);
        }
        while world.grant().is_some() {}
        while let Some(_key) = world.pull(0) {
            let (key, _) = world.land(0).unwrap();
            world.settle(key, None);
        }
        world.advance(Duration::from_millis(100));
    }
    assert!(read <= 1100, "{read} entries read for 1000 deliveries");
    assert!(loads <= 250, "{loads} pages for 1000 deliveries");
}

#[test]
fn connections_follow_the_work_and_the_limits() {
    let mut world = World::new(Windows { connections: 100, ..Windows::default() }, 1);
    world.arrive(0);
    world.engine();
    assert!(world.grant().is_some());
    assert!(world.grant().is_none(), "one delivery needs one connection");
    for _ in 0..50 {
        world.arrive(0);
    }
    assert!(world.grant().is_some());
    assert!(world.grant().is_none(), "a new lane starts with two connections");
    for _ in 0..2 {
        for at in 0..2 {
            world.pull(at).unwrap();
            world.scheduler.progressed(world.grants[at].0, None, world.now);
        }
    }
    assert!(world.grant().is_some(), "success makes room for more");
}

#[test]
fn a_lane_that_cannot_be_reached_rests_as_one_and_is_probed_once() {
    let mut world = World::new(Windows::default(), 2);
    for _ in 0..20 {
        world.arrive(0);
        world.arrive(1);
    }
    world.engine();
    let grants: Vec<_> = std::iter::from_fn(|| world.grant()).collect();
    assert_eq!(grants.len(), 4);
    let dead =
        grants.iter().copied().find(|grant| world.scheduler.lanes.site_of(*grant).as_deref() == Some("s0")).unwrap();
    let setback = world.scheduler.unreachable(dead, fault(), world.now).expect("the lane rests");
    assert_eq!(setback.until, world.now.due + Duration::from_secs(60));
    assert!(world.scheduler.unreachable(dead, fault(), world.now).is_none(), "an echo changes nothing");
    let put_off = world.scheduler.next_attention(1000);
    assert_eq!(put_off.len(), 20, "all of the lane and nothing else is put off");
    for (item, _, why) in put_off {
        assert!(matches!(why, Why::LaneRests(_, until) if until == setback.until));
        world.settle(item.key, Some((0, setback.until)));
    }
    while !world.grants.is_empty() {
        world.end(0);
    }
    world.advance(Duration::from_secs(60));
    world.engine();
    let granted: Vec<_> = std::iter::from_fn(|| world.grant()).collect();
    let probes = granted.iter().filter(|grant| world.scheduler.lanes.site_of(**grant).as_deref() == Some("s0"));
    assert_eq!(probes.count(), 1, "one probe goes out");
}

/// Destination 1 waits for room in its lane, which destination 0 fills; then all of that is taken away.
fn full_lane() -> (World, Vec<Key>) {
    let mut world = World::new(Windows { total: 1000, lane: 16, ..Windows::default() }, 1);
    let filling: Vec<Key> = (0..40).map(|_| world.arrive(0)).collect();
    world.engine();
    world.stored(1, world.now.due);
    world.scheduler.scheduled(&World::name(1), world.now.due, world.now);
    world.arrive(1);
    world.engine();
    world.stored(1, world.now.due);
    world.scheduler.scheduled(&World::name(1), world.now.due, world.now);
    world.engine();
    assert_eq!(world.scheduler.lanes.parked_in_all(), 1);
    (world, filling)
}

#[test]
fn who_waits_for_room_in_a_lane_gets_it_when_all_of_it_is_taken_away() {
    let (mut world, filling) = full_lane();
    for key in filling {
        assert_eq!(world.scheduler.claim(key, &World::name(0), world.now), Claim::Taken);
        world.settle(key, None);
    }
    assert_eq!(world.scheduler.lanes.parked_in_all(), 0);
    let (mut world, _) = full_lane();
    let grant = world.grant().unwrap();
    world.scheduler.unreachable(grant, fault(), world.now).unwrap();
    assert_eq!(world.scheduler.lanes.parked_in_all(), 0);
}

#[test]
fn what_a_connection_drops_goes_back_once_and_is_then_put_off() {
    let mut world = World::new(Windows::default(), 1);
    let key = world.arrive(0);
    world.engine();
    for _ in 0..2 {
        world.grant().unwrap();
        assert_eq!(world.pull(0), Some(key));
        world.end(0);
    }
    assert!(world.grant().is_none());
    let put_off = world.scheduler.next_attention(10);
    assert!(matches!(put_off.as_slice(), [(item, _, Why::Dropped)] if item.key == key));
}

#[test]
fn an_idle_connection_gives_its_place_to_a_lane_that_needs_it() {
    let mut world = World::new(Windows { connections: 1, ..Windows::default() }, 2);
    world.arrive(0);
    world.engine();
    world.grant().unwrap();
    world.pull(0).unwrap();
    let (key, _) = world.land(0).unwrap();
    world.settle(key, None);
    assert!(world.pull(0).is_none() && world.grants.len() == 1, "the connection waits for more");
    world.arrive(1);
    world.engine();
    assert!(world.grant().is_none(), "all connections are in use");
    assert_eq!(world.scheduler.rung.len(), 1, "the idle one is asked");
    assert!(world.pull(0).is_none() && world.grants.is_empty(), "and ends");
    assert!(world.grant().is_some());
}

#[test]
fn nothing_expires_while_the_clock_is_under_suspicion() {
    let mut world = World::new(Windows::default(), 1);
    world.scheduler.watch_clocks(world.now);
    world.jump(30 * 86_400);
    assert!(matches!(world.scheduler.watch_clocks(world.now), Some(Jump::Ahead(_))));
    assert!(!world.scheduler.may_expire(world.now));
    world.advance(Duration::from_secs(3600));
    assert_eq!(world.scheduler.watch_clocks(world.now), None);
    assert!(world.scheduler.may_expire(world.now));
}

#[test]
fn the_schedule_never_goes_back_and_returns_when_the_clock_does() {
    let mut world = World::new(Windows::default(), 1);
    let hour = Duration::from_secs(3600);
    world.scheduler.watch_clocks(world.now);
    let (before, wall) = (world.now.due, world.now.wall());
    world.jump(-3600);
    assert_eq!(world.scheduler.watch_clocks(world.now), Some(Jump::Back(hour)));
    world.jump(0);
    assert_eq!((world.now.due, world.now.wall()), (before, wall - hour));
    world.advance(hour);
    assert_eq!(world.scheduler.watch_clocks(world.now), None);
    world.jump(3600);
    assert_eq!(world.scheduler.watch_clocks(world.now), None, "it is where it would be");
    world.jump(0);
    assert_eq!((world.now.due, world.now.lead), (before + hour, Duration::ZERO));
    assert!(world.scheduler.may_expire(world.now));
}

#[test]
fn what_cannot_be_worked_on_waits_alone_and_longer_each_time() {
    let mut world = World::new(Windows::default(), 1);
    let keys: Vec<Key> = (0..3).map(|_| world.stored(0, world.now.due)).collect();
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    world.engine();
    world.grant().unwrap();
    let bad = world.pull(0).unwrap();
    assert_eq!(bad, keys[0]);
    for seconds in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
        world.land(0).unwrap();
        world.scheduler.restore(bad, world.now);
        assert_eq!(world.scheduler.aside(), 1);
        world.engine();
        while let Some(other) = world.pull(0) {
            assert_ne!(other, bad, "it is left alone for {seconds} s");
            let (key, _) = world.land(0).unwrap();
            world.settle(key, None);
        }
        world.advance(Duration::from_secs(seconds));
        world.scheduler.take_up(world.now);
        world.engine();
        assert_eq!(world.pull(0), Some(bad), "then it is tried again");
    }
    let (key, _) = world.land(0).unwrap();
    world.settle(key, None);
    assert!(world.at.is_empty(), "the others went on");
    assert_eq!((world.scheduler.aside(), world.scheduler.len()), (0, 0));
}

#[test]
fn when_much_is_set_aside_memory_is_not_taken_by_it() {
    let mut world = World::new(Windows { total: 80, ..Windows::default() }, 1);
    for _ in 0..40 {
        world.stored(0, world.now.due);
    }
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    world.engine();
    world.grant().unwrap();
    while world.pull(0).is_some() {
        let (key, _) = world.land(0).unwrap();
        world.scheduler.restore(key, world.now);
        assert!(world.scheduler.aside() <= 10);
    }
    world.drain();
}

#[test]
fn new_mail_beyond_the_window_comes_in_as_soon_as_there_is_room() {
    let mut world = World::new(Windows { total: 1000, destination: 20, ..Windows::default() }, 1);
    for _ in 0..200 {
        world.arrive(0);
        world.engine();
    }
    world.grant().unwrap();
    let mut delivered = 0;
    while world.pull(0).is_some() {
        let (key, _) = world.land(0).unwrap();
        world.settle(key, None);
        delivered += 1;
        world.engine();
    }
    assert_eq!(delivered, 200, "without a moment of waiting");
}

#[test]
fn domains_that_rank_the_hosts_of_a_site_differently_have_lanes_of_their_own() {
    let ranked = |first: &str, second: &str| {
        let host =
            |name: &str, preference| TargetHost::Name { name: Domain::parse(name).unwrap(), port: 25, preference };
        let target = Arc::unwrap_or_clone(target(0));
        Arc::new(Target { hosts: vec![host(first, 10), host(second, 20)], ..target })
    };
    let mut world = World::new(Windows::default(), 1);
    for (domain, target) in [(0, ranked("a.example", "b.example")), (1, ranked("b.example", "a.example"))] {
        world.arrive(domain);
        let (id, _) = world.scheduler.next_unplaced().unwrap();
        world.scheduler.placed(id, target, placement(), world.now);
    }
    world.arrive(2);
    let (id, _) = world.scheduler.next_unplaced().unwrap();
    world.scheduler.placed(id, ranked("a.example", "b.example"), placement(), world.now);
    let states = world.scheduler.busiest_lanes(100, world.now);
    let mut ready: Vec<usize> = states.iter().map(|state| state.ready).collect();
    ready.sort_unstable();
    assert_eq!(ready, [1, 2], "the third shares the lane of the first");
}

#[test]
fn pages_are_whole_also_when_memory_is_full() {
    let mut world = World::new(Windows { total: 200, lane: 2000, ..Windows::default() }, 1000);
    for destination in 0..400 {
        for _ in 0..8 {
            world.stored(destination, world.now.due);
        }
        world.scheduler.scheduled(&World::name(destination), world.now.due, world.now);
    }
    let mut loads = 0;
    while !world.at.is_empty() {
        while let Some((id, name)) = world.scheduler.next_unplaced() {
            world.scheduler.placed(id, target(World::number(&name)), placement(), world.now);
        }
        while let Some(load) = world.scheduler.next_load(world.now) {
            let page = world.page(&load);
            loads += 1;
            world.scheduler.loaded(&load, page, world.now);
            world.check();
        }
        while world.grant().is_some() {}
        for at in (0..world.grants.len()).rev() {
            while world.pull(at).is_some() {
                let (key, _) = world.land(at).unwrap();
                world.settle(key, None);
            }
            world.end(at);
        }
        world.advance(Duration::from_millis(10));
    }
    assert!(loads <= 1000, "{loads} pages for 400 destinations with 8 each");
}
