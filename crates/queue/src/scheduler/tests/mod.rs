//! The scheduler against a model of the store: whatever happens, nothing is lost, doubled or over the limits.

mod lanes;
mod loading;
mod time;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mail::{Domain, EnhancedCode, Lane, Protocol, Site, Source, Target, TargetHost, TargetTls};
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
            if let Some((id, name)) = self.next_unplaced() {
                let target = target(Self::number(&name) % self.sites);
                self.scheduler.placed(id, target, placement(), self.now);
            } else if let Some(load) = self.scheduler.next_load(self.now) {
                let page = self.page(&load);
                self.scheduler.loaded(&load, page, self.now);
            } else {
                let batch = self.scheduler.next_attention(16);
                if batch.is_empty() {
                    self.check();
                    if [Seek::AtHand, Seek::Dns].iter().any(|from| self.scheduler.wants_place(*from)) {
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

    fn next_unplaced(&mut self) -> Option<(DestinationId, Destination)> {
        [Seek::AtHand, Seek::Dns].into_iter().find_map(|from| self.scheduler.next_unplaced(from))
    }

    /// A delivery comes and goes.
    fn visit(&mut self, destination: u64) {
        let key = self.arrive(destination);
        self.engine();
        self.grant().unwrap();
        assert_eq!(self.pull(0), Some(key));
        self.land(0).unwrap();
        self.settle(key, None);
        self.end(0);
    }

    fn page(&self, load: &Load) -> Page {
        let empty = BTreeSet::new();
        let all = self.schedule.get(&Self::number(&load.destination)).unwrap_or(&empty);
        let due = |(due, (id, number)): &(Timestamp, Key)| Due {
            id: *id,
            number: *number,
            due: *due,
            held: false,
            begins_at: *due,
            priority: 0,
            deadline: None,
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
        assert_eq!(self.scheduler.destinations.stranded(), 0, "who has nothing in memory does not wait for it to go");
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
    let (tenant, campaign, priority, deadline) = (None, None, 0, None);
    Item { key, due, class, tenant, campaign, cost: 1, priority, deadline, rider: None }
}

fn target(site: u64) -> Arc<Target> {
    let name = Domain::parse("mx.example").unwrap();
    let source = Source { name: "default".into(), ipv4: None, ipv6: None, ehlo: name.clone() };
    let lane = Lane { source: source.name.clone(), site: Site::new(format!("s{site}")) };
    let hosts = vec![TargetHost::Name { name, port: 25, preference: 0 }];
    Arc::new(Target { lane, protocol: Protocol::Smtp, source, hosts, tls: TargetTls::default() })
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
        Step::Reconfigure => {
            let windows = world.scheduler.windows.clone();
            world.scheduler.reconfigure(windows, Weights::default(), world.now);
        }
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

    #[test]
    fn whatever_the_windows_everything_comes_in(
        (total, destination, lane) in (16usize..4000, 1usize..4000, 1usize..400),
        stored in proptest::collection::vec(0u64..40, 1..4),
        steps in proptest::collection::vec(step(), 0..60),
        sites in 1u64..3,
    ) {
        let mut world = World::new(Windows { total, destination, lane, ..windows() }, sites);
        for (name, count) in (0u64..).zip(stored) {
            for _ in 0..count {
                world.stored(name, world.now.due);
            }
            world.scheduler.scheduled(&World::name(name), world.now.due, world.now);
        }
        for step in &steps {
            run(&mut world, step);
        }
        world.drain();
    }
}
