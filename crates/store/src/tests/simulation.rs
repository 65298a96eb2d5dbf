//! The engine on a disk that loses power and fails, against a model: what was acknowledged is there after every crash,
//! and of what was not, nothing half exists.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mail::{Act, Clock, Destination, MessageId, Randomness, SystemClock, Timestamp};

use crate::engine::{Engine, Entry};
use crate::log::Need;
use crate::message::{Counters, Delivery, Notice, RecipientStatus, Schedule, StoredMessage, Update};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::overlay::Kept;
use crate::read::{Part, read_body};
use crate::record::{ContentPlace, Payload, Record};
use crate::testing::{Disk, Fault, envelope};

/// What the store should hold: messages and their content.
type Model = BTreeMap<MessageId, (StoredMessage, Vec<u8>)>;

/// A record and the content that belongs to it.
#[derive(Clone)]
struct Step {
    record: Record,
    content: Vec<u8>,
}

struct World {
    seed: u64,
    random: Randomness,
    disk: Disk,
    engine: Engine,
    model: Model,
    /// Batches that failed since the last one that did not: after a crash a first part of one of them may be there.
    doubtful: Vec<Vec<Step>>,
    next_id: u128,
    /// Of 16 changes, how many finish a delivery: so that some seeds pile mail up and others empty the queue.
    finishing: usize,
}

fn open(disk: &Disk, random: &Randomness) -> Engine {
    let options =
        Options { checkpoint_messages: 8, checkpoint_bytes: 256 << 10, segment_size: 64 << 10, ..Options::small() };
    let options = Options { inline_limit: 16 << 10, ..options };
    Engine::open(options, Arc::new(disk.clone()), Arc::new(SystemClock), random.clone(), Metrics::default())
        .expect("the store opens whatever happened")
}

impl World {
    fn new(seed: u64) -> Self {
        let random = Randomness::seeded(seed);
        let disk = Disk::new(64 << 20, random.clone());
        let engine = open(&disk, &random);
        Self {
            seed,
            disk,
            engine,
            model: Model::new(),
            doubtful: Vec::new(),
            next_id: 1,
            finishing: random.below(17),
            random,
        }
    }

    fn delivery(&self) -> Delivery {
        let destination = Destination::new(format!("mx:{}.example", self.random.below(3)));
        let mut delivery = Delivery::new(destination, [0], Timestamp::from_millis(self.random.below(1000) as u64));
        delivery.attempts = self.random.below(1 << 30) as u32;
        if self.random.below(16) < self.finishing {
            delivery.schedule = Schedule::Finished;
        }
        match self.random.below(8) {
            0..4 => {}
            4 => {
                delivery.schedule = Schedule::Held(Act {
                    author: "me".into(),
                    reason: "test".into(),
                    at: Timestamp::from_millis(self.random.below(1000) as u64),
                })
            }
            5 => {
                let outcome = mail::Outcome::Expired(None);
                delivery.recipients[0].status = RecipientStatus::Final { outcome, notice: Notice::Owed };
                delivery.schedule = Schedule::Finished;
            }
            _ => {}
        }
        delivery
    }

    fn update(&self) -> Option<Update> {
        let at = self.random.below(self.model.len().max(1));
        let (id, (message, _)) = self.model.iter().nth(at)?;
        let number = self.random.below(message.deliveries.len()) as u32;
        Some(match self.random.below(6) {
            0 => Update::Split { id: *id, number, into: (0..=self.random.below(3)).map(|_| self.delivery()).collect() },
            _ => Update::Delivery { id: *id, number, state: self.delivery() },
        })
    }

    fn updates(&self) -> Vec<Update> {
        (0..1 + self.random.below(3)).filter_map(|_| self.update()).collect()
    }

    /// A commit; its larger content goes ahead in chunks. `None` if those could not be written.
    fn commit(&mut self) -> Option<(Step, Vec<Bytes>)> {
        let id = MessageId::from_u128(self.next_id);
        self.next_id += 1;
        let most = if self.random.below(5) == 0 { 40_000 } else { 6_000 };
        let content: Vec<u8> = (0..self.random.below(most)).map(|n| (n * 31 + self.next_id as usize) as u8).collect();
        let mut schedule = Schedule::At(Timestamp::from_millis(self.random.below(1000) as u64));
        if self.random.below(20) == 0 {
            schedule = Schedule::Finished;
        }
        let deliveries = (0..=self.random.below(2)).map(|_| Delivery { schedule: schedule.clone(), ..self.delivery() });
        let message = StoredMessage {
            id,
            envelope: envelope(id, 1).into(),
            size: content.len() as u64,
            deliveries: deliveries.collect(),
        };
        let (place, body) = if content.len() > 16 << 10 {
            (ContentPlace::Chunks(self.chunks(&content)?), Vec::new())
        } else {
            (ContentPlace::Here, vec![Bytes::from(content.clone())])
        };
        let settles = if self.random.below(3) == 0 { self.updates() } else { Vec::new() };
        let record = Record::Message { message: message.into(), content: place, moved: false, settles };
        Some((Step { record, content }, body))
    }

    fn chunks(&mut self, content: &[u8]) -> Option<Vec<crate::frame::FrameAt>> {
        let mut chunks = Vec::new();
        for piece in content.chunks(4096) {
            let payload = Payload::new(&Record::Chunk, vec![Bytes::copy_from_slice(piece)]).unwrap();
            let written = self.engine.append(&[Entry { record: Record::Chunk, payload }], Need::May);
            if written.error.is_some() {
                return None;
            }
            // Something durable: nothing before it is in doubt any more.
            self.doubtful.clear();
            chunks.extend(written.placed);
        }
        Some(chunks)
    }

    /// Appends a batch of a few records and does the same to the model if it is acknowledged.
    fn append(&mut self) {
        let (mut steps, mut entries, mut pinned) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..1 + self.random.below(4) {
            let (step, body) = if self.model.is_empty() || self.random.below(2) == 0 {
                let Some(commit) = self.commit() else { return };
                commit
            } else {
                (Step { record: Record::Updates(self.updates()), content: Vec::new() }, Vec::new())
            };
            if let Record::Message { content: ContentPlace::Chunks(chunks), .. } = &step.record {
                pinned.extend(chunks.iter().copied());
            }
            let payload = Payload::new(&step.record, body).unwrap();
            entries.push(Entry { record: step.record.clone(), payload });
            steps.push(step);
        }
        let written = self.engine.append(&entries, Need::May);
        self.engine.unpin(&pinned);
        let failed = steps.split_off(written.placed.len());
        if !steps.is_empty() {
            self.doubtful.clear();
        }
        for step in &steps {
            apply(&mut self.model, step);
        }
        if !failed.is_empty() {
            self.doubtful.push(failed);
        }
    }

    fn act(&mut self) {
        match self.random.below(20) {
            0 => drop(self.engine.checkpoint()),
            1..4 => self.engine.maintain(&|| true),
            4 => {
                let faults = [Fault::Sync, Fault::Write, Fault::Names, Fault::Read];
                let names = ["", "segment", "spare", "index"][self.random.below(4)];
                self.disk.fail_at(names, faults[self.random.below(4)], 1 + self.random.below(2) as u32);
            }
            5 => {
                let at = self.random.below(self.model.len().max(1));
                if let Some(id) = self.model.keys().nth(at) {
                    self.engine.memory.forget(*id);
                }
            }
            _ => self.append(),
        }
    }

    fn crash(&mut self) {
        self.disk = self.disk.crash();
        if self.random.below(4) == 0 {
            use crate::files::Files;
            let _ = self.disk.remove("index.redb");
        }
        self.engine = open(&self.disk, &self.random);
        let actual = contents(&self.engine);
        let mut allowed = vec![self.model.clone()];
        for batch in self.doubtful.drain(..) {
            let mut model = self.model.clone();
            for step in &batch {
                apply(&mut model, step);
                allowed.push(model.clone());
            }
        }
        let found = allowed.into_iter().find(|model| *model == actual);
        self.model = found.unwrap_or_else(|| {
            let (actual, expected) = (actual.keys().collect::<Vec<_>>(), self.model.keys().collect::<Vec<_>>());
            panic!("seed {}: after the crash there is {actual:?}, acknowledged is {expected:?}", self.seed)
        });
        self.check();
    }

    /// Whether all that the store says fits the model.
    fn check(&self) {
        let seed = self.seed;
        assert_eq!(contents(&self.engine), self.model, "seed {seed}");
        let mut counters: BTreeMap<Destination, Counters> = BTreeMap::new();
        let mut rows: BTreeMap<Destination, Vec<(bool, Timestamp, MessageId, u32)>> = BTreeMap::new();
        for (id, (message, _)) in &self.model {
            for (number, delivery) in message.deliveries.iter().enumerate() {
                let (held, due) = match delivery.when() {
                    Schedule::At(due) => (false, due),
                    Schedule::Held(act) => (true, act.at),
                    Schedule::Finished => continue,
                };
                rows.entry(delivery.destination.clone()).or_default().push((held, due, *id, number as u32));
                let counted = counters.entry(delivery.destination.clone()).or_default();
                if held {
                    counted.held += 1;
                } else {
                    counted.queued += 1;
                    counted.earliest_due = Some(counted.earliest_due.map_or(due, |earliest| earliest.min(due)));
                }
            }
        }
        let mut found = Vec::new();
        while let page =
            self.engine.destinations(found.last().map(|(name, _): &(Destination, _)| name.clone()), 2).unwrap()
            && !page.is_empty()
        {
            found.extend(page);
        }
        assert!(found.iter().is_sorted_by_key(|(name, _)| name.clone()), "seed {seed}");
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), counters, "seed {seed}");
        for (destination, mut rows) in rows {
            rows.sort();
            let mut found = Vec::new();
            while let page = self.engine.of_destination(&destination, found.last().map(crate::Due::cursor), 3).unwrap()
                && !page.is_empty()
            {
                found.extend(page);
            }
            let found: Vec<_> = found.iter().map(|due| (due.held, due.due, due.id, due.number)).collect();
            assert_eq!(found, rows, "seed {seed}");
            let until = Timestamp::from_millis(500);
            let due = self.engine.due(&destination, None, until, 1000).unwrap();
            assert_eq!(due.len(), rows.iter().filter(|row| !row.0 && row.1 <= until).count(), "seed {seed}");
        }
        let live: u64 = self.model.keys().map(|id| size(&self.engine.find(*id).unwrap().unwrap())).sum();
        let state = self.engine.state();
        assert_eq!(state.segments.live_bytes(), live, "seed {seed}");
        assert_eq!(state.totals.messages, self.model.len() as u64, "seed {seed}");
    }
}

fn size(kept: &Kept) -> u64 {
    kept.frames().map(|at| at.size()).sum()
}

fn apply(model: &mut Model, step: &Step) {
    let updates = match &step.record {
        Record::Message { message, settles, .. } => {
            model.insert(message.id, (StoredMessage::clone(message), step.content.clone()));
            settles
        }
        Record::Updates(updates) => updates,
        Record::Chunk | Record::Probe | Record::Clock(_) => return,
    };
    for update in updates {
        let (id, number, change) = update.clone().into_change();
        if let Some((message, _)) = model.get_mut(&id) {
            // A message is gone with the change that finishes it; later ones of the same record find nothing.
            if !message.is_finished() {
                message.change(number, change);
            }
        }
    }
    model.retain(|_, (message, _)| !message.is_finished());
}

/// All messages and their content, read back.
fn contents(engine: &Engine) -> Model {
    let mut found = Model::new();
    while let page = engine.page(found.keys().next_back().copied(), 5).unwrap()
        && !page.is_empty()
    {
        for message in page {
            let (parts, _) = engine.content(message.id).unwrap().expect("a message has content");
            let content = octets(parts);
            assert_eq!(message.size, content.len() as u64);
            assert_eq!(engine.find(message.id).unwrap().unwrap().message, message);
            found.insert(message.id, (StoredMessage::clone(&message), content));
        }
    }
    found
}

pub(super) fn octets(parts: VecDeque<Part>) -> Vec<u8> {
    let pieces = parts.into_iter().map(|part| match part {
        Part::Octets(octets) => octets,
        Part::Frame(file, at) => read_body(file.as_ref(), at).expect("content is whole"),
    });
    pieces.collect::<Vec<_>>().concat()
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..4 {
        if world.random.below(2) == 0 {
            world.disk.cut_after(1 + world.random.below(300) as u64);
        }
        for _ in 0..world.random.below(60) {
            if world.disk.is_off() {
                break;
            }
            world.act();
        }
        world.disk.heal();
        if !world.disk.is_off() {
            // Whatever failed before is mended by now, as it would be in half a minute.
            world.engine.checkpoint();
            world.engine.maintain(&|| true);
        }
        if !world.disk.is_off() {
            assert!(world.engine.trouble().is_none(), "seed {seed}");
            world.check();
        }
        world.crash();
    }
}

/// `STORE_SEEDS` seeds from `STORE_FIRST_SEED` on; one that fails names itself.
#[test]
fn what_is_acknowledged_survives_every_crash() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("STORE_FIRST_SEED").unwrap_or(0);
    let seeds = number("STORE_SEEDS").unwrap_or(60);
    for seed in first..first + seeds {
        run(seed);
    }
}

#[test]
fn a_crash_while_opening_harms_nothing() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.act();
        }
        world.disk = world.disk.crash();
        for operations in (1..400).step_by(7) {
            world.disk.cut_after(operations);
            let _ = Engine::open(
                Options { segment_size: 64 << 10, inline_limit: 16 << 10, ..Options::small() },
                Arc::new(world.disk.clone()),
                Arc::new(SystemClock),
                world.random.clone(),
                Metrics::default(),
            );
            world.disk = world.disk.crash();
        }
        world.crash();
    }
}

#[test]
fn the_log_shrinks_when_messages_go_and_is_compacted_when_few_stay() {
    let mut world = World::new(1);
    let commit = |world: &mut World| {
        let id = MessageId::from_u128(world.next_id);
        world.next_id += 1;
        let delivery = Delivery::new(Destination::new("mx:example.org"), [0], SystemClock.now());
        let message = StoredMessage { id, envelope: envelope(id, 1).into(), size: 8000, deliveries: vec![delivery] };
        let content = vec![7; 8000];
        let record =
            Record::Message { message: message.into(), content: ContentPlace::Here, moved: false, settles: Vec::new() };
        let payload = Payload::new(&record, vec![content.clone().into()]).unwrap();
        let step = Step { record: record.clone(), content };
        assert!(world.engine.append(&[Entry { record, payload }], Need::May).error.is_none());
        apply(&mut world.model, &step);
    };
    let finish = |world: &mut World, id: MessageId| {
        let mut state = Delivery::new(Destination::new("mx:example.org"), [0], SystemClock.now());
        state.schedule = Schedule::Finished;
        let record = Record::Updates(vec![Update::Delivery { id, number: 0, state }]);
        let payload = Payload::new(&record, Vec::new()).unwrap();
        apply(&mut world.model, &Step { record: record.clone(), content: Vec::new() });
        assert!(world.engine.append(&[Entry { record, payload }], Need::Must).error.is_none());
    };
    for round in 0..200 {
        commit(&mut world);
        // One in twenty stays, so that every segment has something that lives.
        if round % 20 != 0 {
            let newest = *world.model.keys().next_back().unwrap();
            finish(&mut world, newest);
        }
        if round % 10 == 0 {
            world.engine.checkpoint();
            world.engine.maintain(&|| true);
        }
    }
    world.engine.checkpoint();
    world.engine.maintain(&|| true);
    assert_eq!(world.model.len(), 10);
    let used = world.engine.state().segments.used_bytes();
    assert!(used < 700_000, "the log of ten messages has {used} octets");
    assert!(world.engine.metrics.moved.get() > 0);
    world.check();
    // What was copied is where it should be also when the index is made anew from the log.
    world.disk = world.disk.crash();
    crate::files::Files::remove(&world.disk, "index.redb").unwrap();
    world.engine = open(&world.disk, &world.random);
    world.check();
}
