//! The engine: everything the store does, synchronously and without threads of its own.
//!
//! Three callers share it: the committer appends, the housekeeper makes checkpoints, frees and compacts, and anybody reads.
//! Locks are taken in this order: housekeeping, writer, open files, state. The last is held for moments only, never while
//! the index or the log is read.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use mail::{Clock, MessageId, Randomness};

use crate::error::{IndexError, IntakeError, OpenError};
use crate::files::{File, Files, Space};
use crate::frame::{FIRST_BATCH, FrameAt, align};
use crate::housekeeping::Housekeeping;
use crate::log::{Need, Spares, Writer, Written};
use crate::memory::Memory;
use crate::message::ScheduleClock;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::overlay::Kept;
use crate::quarantine::Quarantine;
use crate::record::{ContentPlace, Payload, Record};
use crate::recover::{Recovered, Recovery};
use crate::segments::segment_name;
use crate::state::{Loaded, State, concerned};

/// How long a look at the free space of the disk is believed.
const SPACE_AGE: Duration = Duration::from_millis(250);
/// How far the schedule's clock goes before the next batch says so.
const CLOCK_STEP: Duration = Duration::from_secs(10);
/// How far it goes before it is written down though nothing else is, as long as mail is queued.
const CLOCK_AGE: Duration = Duration::from_secs(300);
/// Open segment files that are kept though nobody reads them.
const OPEN_FILES: usize = 64;

/// One atomic change, ready to be written.
#[derive(Debug)]
pub(crate) struct Entry {
    pub record: Record,
    pub payload: Payload,
}

/// A store without threads.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Memory,
    pub(crate) quarantine: Quarantine,
    pub(crate) spares: Arc<Spares>,
    pub(crate) housekeeping: Mutex<Housekeeping>,
    clock: Arc<dyn Clock>,
    writer: Mutex<Writer>,
    open_files: Mutex<BTreeMap<u64, Arc<dyn File>>>,
    state: RwLock<State>,
    /// Whether the last write failed.
    failing: AtomicBool,
    closing: AtomicBool,
    /// A checkpoint failed, and the next one is to wait for its time.
    pub(crate) checkpoints_wait: AtomicBool,
    trouble: Mutex<Option<IndexError>>,
    space: Mutex<Option<(Instant, Space)>>,
    /// Octets that content in flight was promised on the disk.
    promised: AtomicU64,
    /// What the schedule's clock shows, as far as the store was told.
    schedule_clock: Mutex<Option<ScheduleClock>>,
}

impl Engine {
    /// Opens or makes a store.
    pub fn open(
        options: Options,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        randomness: Randomness,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        options.check()?;
        let names = files.list().map_err(OpenError::files("list the store's files"))?;
        let quarantine = Quarantine::default();
        let recovery = Recovery { files: files.as_ref(), options: &options, quarantine: &quarantine };
        let Recovered { index, state, next_number, dead, rebuilt } = recovery.open(&names)?;
        metrics.rebuilds.inc_by(u64::from(rebuilt));
        for number in dead {
            files.remove(&segment_name(number)).map_err(OpenError::files("remove an old segment"))?;
        }
        let spares = Spares::open(files.clone(), &names, &options);
        let spares = Arc::new(spares.map_err(OpenError::files("open the spare segments"))?);
        let writer =
            Writer::new(files.clone(), spares.clone(), randomness, options.segment_size, state.position, next_number);
        Ok(Self {
            memory: Memory::new(options.content_memory),
            housekeeping: Mutex::new(Housekeeping::new(index, clock.instant())),
            quarantine,
            files,
            options,
            metrics,
            spares,
            clock,
            writer: Mutex::new(writer),
            open_files: Mutex::default(),
            schedule_clock: Mutex::new(state.clock.map(|(clock, _)| clock)),
            state: RwLock::new(state),
            failing: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            checkpoints_wait: AtomicBool::new(false),
            trouble: Mutex::new(None),
            space: Mutex::new(None),
            promised: AtomicU64::new(0),
        })
    }

    /// Makes changes durable, then visible. Stops at the first failure: what comes before it is done, the rest is not.
    pub fn append(&self, entries: &[Entry], need: Need) -> Written {
        self.append_as(&mut self.writer(), entries, need)
    }

    /// As [`Engine::append`], for a caller that holds the writer and so knows that nothing changes meanwhile.
    pub fn append_as(&self, writer: &mut Writer, entries: &[Entry], need: Need) -> Written {
        let payloads: Vec<&Payload> = entries.iter().map(|entry| &entry.payload).collect();
        let begun = self.clock.instant();
        let written = writer.append(&payloads, need);
        self.metrics.batch_seconds.observe(self.clock.instant().duration_since(begun).as_secs_f64());
        self.metrics.batch_frames.observe(entries.len() as f64);
        self.note_result(written.error.as_ref(), need);
        if let Some((number, file)) = writer.current_file() {
            self.open_files().insert(number, file);
        }
        let done = &entries[..written.placed.len()];
        if !done.is_empty() {
            self.apply(writer, done, &written.placed);
        }
        written
    }

    fn apply(&self, writer: &Writer, entries: &[Entry], placed: &[FrameAt]) {
        for entry in entries {
            self.count(entry);
            if let Record::Message { message, content: ContentPlace::Here, moved: false, .. } = &entry.record {
                self.memory.keep(message.id, entry.payload.body().to_vec());
            }
        }
        let mut loaded = self.load(entries.iter().flat_map(|entry| concerned(&entry.record)));
        let mut state = self.state_mut();
        for (entry, at) in entries.iter().zip(placed) {
            state.apply(&entry.record, *at, &mut loaded);
            let segment = state.segments.entry(at.segment);
            segment.used = align(at.end()).max(FIRST_BATCH);
            segment.pins += u64::from(matches!(entry.record, Record::Chunk));
        }
        state.position = writer.tail();
        drop(state);
        for (id, _) in loaded.iter().filter(|(_, kept)| kept.is_none()) {
            self.memory.forget(*id);
        }
    }

    fn count(&self, entry: &Entry) {
        let (commits, updates) = match &entry.record {
            Record::Message { moved, settles, .. } => (u64::from(!moved), settles.len()),
            Record::Updates(updates) => (0, updates.len()),
            Record::Chunk | Record::Probe | Record::Clock(_) => (0, 0),
        };
        self.metrics.commits.inc_by(commits);
        self.metrics.updates.inc_by(updates as u64);
        self.metrics.written.inc_by(u64::from(entry.payload.length()));
    }

    /// Looks messages up that are about to change. Those that the index cannot be asked for are missing.
    pub fn load(&self, ids: impl Iterator<Item = MessageId>) -> Loaded {
        let state = self.state();
        let known: Vec<_> = ids.map(|id| (id, state.known(id))).collect();
        drop(state);
        let resolved = known.into_iter().filter_map(|(id, known)| match known.resolve(id) {
            Ok(kept) => Some((id, kept)),
            Err(error) => {
                self.note_trouble(error);
                None
            }
        });
        resolved.collect()
    }

    /// A message, as the last durable change left it. May read the index.
    pub fn find(&self, id: MessageId) -> Result<Option<Arc<Kept>>, IndexError> {
        let known = self.state().known(id);
        let snapshot = match &known {
            crate::state::Known::Ask(snapshot) => Some(snapshot.clone()),
            _ => None,
        };
        let kept = known.resolve(id).inspect_err(|error| self.note_trouble(error.clone()))?;
        if let (Some(snapshot), Some(kept)) = (snapshot, &kept) {
            self.state_mut().warm_up(&snapshot, kept);
        }
        Ok(kept)
    }

    /// Lets go of chunks that await a message's record no more.
    pub fn unpin(&self, chunks: &[FrameAt]) {
        if chunks.is_empty() {
            return;
        }
        let mut state = self.state_mut();
        for at in chunks {
            let segment = state.segments.entry(at.segment);
            segment.pins = segment.pins.saturating_sub(1);
        }
    }

    /// Whether new mail can be taken, and promises it `octets` of disk if so; to be given back by [`Engine::release`].
    pub fn admit(&self, octets: u64) -> Result<(), IntakeError> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(IntakeError::Closing);
        }
        if self.failing.load(Ordering::Relaxed) {
            return Err(IntakeError::Failing);
        }
        let state = self.state();
        let (index, lag) = (state.snapshot.is_some(), state.lag());
        drop(state);
        if !index {
            return Err(IntakeError::Index);
        }
        if lag >= self.options.lag_messages {
            return Err(IntakeError::Lag);
        }
        // A disk that cannot be asked is left to show itself at the next write.
        if let Some(space) = self.space() {
            let promised = self.promised.load(Ordering::Relaxed);
            if space.bytes < self.options.floor_bytes.saturating_add(promised).saturating_add(octets) {
                return Err(IntakeError::Space);
            }
            if space.inodes < self.options.floor_inodes {
                return Err(IntakeError::Inodes);
            }
        }
        self.promised.fetch_add(octets, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a promise of disk back.
    pub fn release(&self, octets: u64) {
        self.promised.fetch_sub(octets, Ordering::Relaxed);
    }

    /// What is free on the disk, as of a moment ago.
    pub fn space(&self) -> Option<Space> {
        let now = self.clock.instant();
        let mut cached = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, space)) = *cached
            && now.saturating_duration_since(seen) < SPACE_AGE
        {
            return Some(space);
        }
        let space = self.files.space().ok()?;
        *cached = Some((now, space));
        Some(space)
    }

    /// The open file of a segment.
    pub fn file(&self, number: u64) -> io::Result<Arc<dyn File>> {
        let mut open = self.open_files();
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        if open.len() >= OPEN_FILES {
            // Never one that somebody reads: all readers of a segment must share one file, see `Spares::recycle`.
            open.retain(|_, file| Arc::strong_count(file) > 1);
        }
        let file = self.files.open(&segment_name(number))?;
        open.insert(number, file.clone());
        Ok(file)
    }

    pub fn open_files(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<dyn File>>> {
        self.open_files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// No new mail from here on.
    pub fn stop_intake(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Opens and closes intake as the disk takes what is written. That changes find room in the reserve does not mean that
    /// mail would.
    fn note_result(&self, error: Option<&io::Error>, need: Need) {
        if error.is_none() && need == Need::Must {
            return;
        }
        let was = self.failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) => {
                self.metrics.failures.inc();
                if !was {
                    tracing::error!(%error, "the store's disk fails: no new mail until it works again");
                }
            }
            None if was => tracing::info!("the store's disk works again"),
            None => {}
        }
    }

    /// What the schedule's clock shows from now on. True if that should be durable soon, whether or not anything else is
    /// written.
    pub fn show_schedule(&self, clock: ScheduleClock) -> bool {
        *self.schedule_clock() = Some(clock);
        let state = self.state();
        let Some((durable, _)) = state.clock else { return true };
        let old = clock.time.since(durable.time) >= CLOCK_AGE && state.totals.deliveries > 0;
        old || clock.lead != durable.lead
    }

    /// What the schedule's clock shows, if the log does not say it, or not lately, or only where it may be freed.
    pub fn owed_clock(&self) -> Option<ScheduleClock> {
        let clock = (*self.schedule_clock())?;
        let state = self.state();
        let said = state.clock.is_some_and(|(durable, segment)| {
            let fresh = clock.time.since(durable.time) < CLOCK_STEP;
            fresh && clock.lead == durable.lead && segment == state.position.segment
        });
        (!said).then_some(clock)
    }

    /// What the schedule's clock showed last.
    pub fn schedule_clock(&self) -> MutexGuard<'_, Option<ScheduleClock>> {
        self.schedule_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that the index failed; the housekeeper sees to it.
    pub fn note_trouble(&self, error: IndexError) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let worse = match (&*trouble, &error) {
            (None, _) | (Some(IndexError::Io(_)), IndexError::Broken(_)) => true,
            (Some(_), _) => false,
        };
        if worse {
            tracing::error!(%error, "the store's index fails");
            *trouble = Some(error);
        }
    }

    /// What is wrong with the index, if anything.
    pub fn trouble(&self) -> Option<IndexError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn clear_trouble(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
