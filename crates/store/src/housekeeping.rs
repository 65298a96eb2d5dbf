//! What goes on beside the commits: checkpoints, mending the index, making and recycling segments.
//!
//! All of it may be slow and none of it keeps the committer waiting. If it fails it is tried again; until then the log
//! holds more than it must, which is safe.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{IndexError, OpenError};
use crate::files::unless_gone;
use crate::index::{Checkpoint, Index, Snapshot};
use crate::overlay::Overlay;
use crate::recover::Recovery;
use crate::segments::segment_name;
use crate::state::Loaded;

/// An index that fails to be read again so soon after it was opened anew is broken for good.
const RELAPSE: Duration = Duration::from_secs(60);

/// How soon what failed is tried again at first and at last: a checkpoint writes a whole layer, and building the index anew
/// reads the whole log.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often opening the index may fail before it is built anew.
const REOPEN_ATTEMPTS: u32 = 3;

/// An index, a view of it, and whether the checkpoint that was pending is in it.
type Opened = (Index, Snapshot, bool);

/// What the housekeeper knows from one round to the next.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    index: Option<Index>,
    /// The frozen layer that the index does not have yet.
    pending: Option<(Arc<Overlay>, Checkpoint)>,
    checkpointed: Instant,
    /// Pending while it was a checkpoint that failed last, for which a full disk is reason enough.
    writing: Retry,
    mending: Retry,
    reopened: Option<Instant>,
    reopen_failures: u32,
    /// Why the index could not be mended when that was logged last: a round comes every quarter of a second.
    complaint: Option<String>,
}

impl Housekeeping {
    pub fn new(index: Index, now: Instant) -> Self {
        Self {
            index: Some(index),
            pending: None,
            checkpointed: now,
            writing: Retry::default(),
            mending: Retry::default(),
            reopened: None,
            reopen_failures: 0,
            complaint: None,
        }
    }
}

/// When something that failed is tried again: ever less often.
#[derive(Debug, Default)]
struct Retry {
    /// Not before then, and how long that was to wait.
    next: Option<(Instant, Duration)>,
}

impl Retry {
    fn failed(&mut self, now: Instant) {
        let pause = self.next.map_or(AGAIN.0, |(_, pause)| (2 * pause).min(AGAIN.1));
        self.next = Some((now + pause, pause));
    }

    fn succeeded(&mut self) {
        self.next = None;
    }

    /// The next try need not wait.
    fn hurry(&mut self, now: Instant) {
        self.next = self.next.map(|(_, pause)| (now, pause));
    }

    fn is_pending(&self) -> bool {
        self.next.is_some()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|(at, _)| at <= now)
    }
}

impl Engine {
    /// One round. `going_on` is asked between steps that take long.
    pub fn maintain(&self, going_on: &dyn Fn() -> bool) {
        let mut keeping = self.housekeeping();
        if let Some(trouble) = self.trouble()
            && keeping.mending.is_due(self.now())
        {
            self.mend(&mut keeping, &trouble);
        }
        self.make_spares();
        self.remove_abandoned();
        if keeping.writing.is_pending()
            || self.wants_checkpoint()
            || self.now().saturating_duration_since(keeping.checkpointed) >= self.options.checkpoint_every
        {
            self.checkpoint_with(&mut keeping);
        }
        self.free();
        // What moves makes nothing free before the next checkpoint.
        while going_on() && !keeping.writing.is_pending() && self.wants_compaction() {
            // A segment of small messages is many checkpoints' worth of changes, which all would wait in memory.
            let moved = self.compact(going_on, &mut || {
                if self.wants_checkpoint() {
                    self.checkpoint_with(&mut keeping);
                }
            });
            self.checkpoint_with(&mut keeping);
            if !self.free() || !moved {
                break;
            }
        }
        drop(keeping);
        self.show();
    }

    /// Writes everything that changed to the index, now. False if that failed. What failed before need not wait any longer.
    pub fn checkpoint(&self) -> bool {
        let mut keeping = self.housekeeping();
        keeping.writing.hurry(self.now());
        keeping.mending.hurry(self.now());
        self.checkpoint_with(&mut keeping)
    }

    /// Whether the housekeeper should not wait for its time.
    pub fn wants_maintenance(&self) -> bool {
        let checkpoint = || !self.checkpoints_wait.load(Ordering::Relaxed) && self.wants_checkpoint();
        !self.spares.is_full() && self.writer().wants_spare() || checkpoint()
    }

    /// How soon a checkpoint that failed is to be tried again.
    pub fn checkpoint_again_in(&self) -> Option<Duration> {
        let (at, _) = self.housekeeping().writing.next?;
        Some(at.saturating_duration_since(self.now()))
    }

    fn housekeeping(&self) -> MutexGuard<'_, Housekeeping> {
        self.housekeeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants_checkpoint(&self) -> bool {
        let state = self.state();
        let (now, then) = (state.position, state.checkpoint);
        let grown = (now.segment - then.segment.min(now.segment)) * self.options.segment_size + now.offset;
        state.active.weight() >= self.options.checkpoint_messages
            || grown.saturating_sub(then.offset) >= self.options.checkpoint_bytes
    }

    fn checkpoint_with(&self, keeping: &mut Housekeeping) -> bool {
        if !keeping.writing.is_due(self.now()) {
            return false;
        }
        // What an earlier try froze goes first.
        let belated = keeping.pending.is_some();
        self.checkpoint_once(keeping) && (!belated || self.checkpoint_once(keeping))
    }

    fn checkpoint_once(&self, keeping: &mut Housekeeping) -> bool {
        let begun = self.now();
        keeping.checkpointed = begun;
        if keeping.pending.is_none() {
            let mut state = self.state_mut();
            if state.position == state.checkpoint {
                return true;
            }
            let Some(frozen) = state.freeze() else { return false };
            let checkpoint = Checkpoint::of(&state);
            keeping.pending = Some((frozen, checkpoint));
        }
        let (Some(index), Some((frozen, checkpoint))) = (&keeping.index, &keeping.pending) else { return false };
        let written = index.write(frozen, checkpoint).and_then(|()| index.snapshot());
        match written {
            Ok(snapshot) => {
                self.state_mut().thaw(Arc::new(snapshot), checkpoint);
                keeping.pending = None;
                keeping.writing.succeeded();
                self.checkpoints_wait.store(false, Ordering::Relaxed);
                self.metrics.checkpoint_seconds.observe(self.now().duration_since(begun).as_secs_f64());
                true
            }
            Err(error) => {
                keeping.writing.failed(self.now());
                self.checkpoints_wait.store(true, Ordering::Relaxed);
                self.note_trouble(error);
                false
            }
        }
    }

    /// Opens the index anew after a failure, or builds it anew if that is of no use.
    fn mend(&self, keeping: &mut Housekeeping, trouble: &IndexError) {
        self.state_mut().snapshot = None;
        keeping.index = None;
        let now = self.now();
        let relapse = keeping.reopened.is_some_and(|then| now.saturating_duration_since(then) < RELAPSE);
        let hopeless = matches!(trouble, IndexError::Broken(_)) || (relapse && !keeping.writing.is_pending());
        let mended = match if hopeless { Ok(None) } else { self.reopen(keeping) } {
            Ok(Some(opened)) => Ok(opened),
            Ok(None) => {
                if keeping.complaint.is_none() {
                    tracing::warn!("building the index anew from the log");
                }
                self.rebuild()
            }
            Err(error) => Err(error.into()),
        };
        match mended {
            Ok((index, snapshot, landed)) => {
                keeping.index = Some(index);
                keeping.reopened = Some(now);
                keeping.reopen_failures = 0;
                // What breaks again and again is not built anew every second.
                if hopeless && relapse {
                    keeping.mending.failed(self.now())
                } else {
                    keeping.mending.succeeded()
                }
                keeping.complaint = None;
                self.clear_trouble();
                let landed = if landed { keeping.pending.take() } else { None };
                self.catch_up(Arc::new(snapshot), landed.map(|(_, checkpoint)| checkpoint));
            }
            Err(error) => {
                let complaint = error.to_string();
                if keeping.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(error = complaint, "the store's index cannot be mended yet");
                }
                keeping.complaint = Some(complaint);
                keeping.mending.failed(self.now());
            }
        }
    }

    /// Opens the index as it is, and says whether the checkpoint that had failed is in it after all. `None` if it is not
    /// what it should be. An error may pass, but not more often than a few times in a row.
    fn reopen(&self, keeping: &mut Housekeeping) -> Result<Option<Opened>, IndexError> {
        let opened = Index::open(self.files.as_ref(), self.options.index_cache).and_then(|index| {
            let Some(checkpoint) = index.checkpoint()? else { return Ok(None) };
            let position = checkpoint.position;
            let landed = keeping.pending.as_ref().is_some_and(|(_, pending)| pending.position == position);
            let fits = landed || position == self.state().checkpoint;
            let snapshot = index.snapshot()?;
            Ok(fits.then_some((index, snapshot, landed)))
        });
        match opened {
            Err(IndexError::Io(error)) if keeping.reopen_failures < REOPEN_ATTEMPTS => {
                keeping.reopen_failures += 1;
                Err(IndexError::Io(error))
            }
            Err(_) => Ok(None),
            Ok(opened) => Ok(opened),
        }
    }

    /// Builds the index from the log, up to where it should be.
    fn rebuild(&self) -> Result<Opened, OpenError> {
        self.metrics.rebuilds.inc();
        let (mut numbers, until) = {
            let state = self.state();
            (state.segments.numbers().collect::<Vec<_>>(), state.checkpoint)
        };
        numbers.retain(|number| *number <= until.segment);
        let recovery = Recovery { files: self.files.as_ref(), options: &self.options, quarantine: &self.quarantine };
        let (index, mut state, _) = recovery.rebuild(&numbers, Some(until))?;
        recovery.complete(&index, &mut state, until)?;
        let snapshot = index.snapshot()?;
        Ok((index, snapshot, false))
    }

    /// Puts a new snapshot below the layers, and makes the changes that had waited for one.
    fn catch_up(&self, snapshot: Arc<Snapshot>, landed: Option<Checkpoint>) {
        // While the writer is held nothing changes, so what is loaded stays true until it is applied.
        let _writer = self.writer();
        let mut loaded = Loaded::new();
        for id in self.state().deferred() {
            let known = self.state().in_layers(id);
            match known.map_or_else(|| snapshot.message(id), Ok) {
                Ok(kept) => loaded.insert(id, kept),
                Err(error) => return self.note_trouble(error),
            };
        }
        let mut state = self.state_mut();
        match landed {
            Some(checkpoint) => state.thaw(snapshot, &checkpoint),
            None => state.snapshot = Some(snapshot),
        }
        state.apply_deferred(&mut loaded);
        drop(state);
        for (id, _) in loaded.iter().filter(|(_, kept)| kept.is_none()) {
            self.memory.forget(*id);
        }
    }

    fn make_spares(&self) {
        if self.space().is_some_and(|space| space.bytes < 2 * self.options.floor_bytes)
            && let Err(error) = self.spares.trim()
        {
            tracing::debug!(%error, "a spare segment cannot be removed");
        }
        while !self.spares.is_full() {
            if let Err(error) = self.spares.add() {
                tracing::debug!(%error, "no spare segment can be made");
                break;
            }
        }
    }

    fn remove_abandoned(&self) {
        let abandoned = self.writer().take_abandoned();
        for number in abandoned {
            self.open_files().remove(&number);
            // If this fails the next start finds that nothing refers to it.
            let _ = self.files.remove(&segment_name(number));
        }
    }

    /// Lets go of the oldest segments that nobody needs. True if there was one.
    ///
    /// Only those that nobody needed at the last checkpoint either, so that the index as it was then can be built anew at
    /// any time.
    /// Strictly the oldest first, each durably before the next: the record that ends a message lies behind the message's
    /// own, so a message never comes back because what ended it went first.
    fn free(&self) -> bool {
        let mut freed = false;
        loop {
            let (number, damaged) = {
                let state = self.state();
                match state.segments.oldest() {
                    Some((number, segment))
                        if number < state.checkpoint.segment
                            && state.settled.get(number).live == 0
                            && segment.live == 0
                            && segment.pins == 0 =>
                    {
                        (number, segment.damaged)
                    }
                    _ => return freed,
                }
            };
            if let Err(error) = self.free_segment(number, damaged) {
                tracing::error!(segment = number, %error, "a segment of the log cannot be freed");
                return freed;
            }
            self.state_mut().segments.remove(number);
            freed = true;
        }
    }

    fn free_segment(&self, number: u64, damaged: bool) -> io::Result<()> {
        let name = segment_name(number);
        {
            // Held throughout, so that nobody opens the file between the last look at its readers and its new life.
            let mut open = self.open_files();
            let file = open.remove(&number);
            if damaged {
                unless_gone(self.files.rename(&name, &format!("quarantine/{name}")))?;
            } else {
                let file = file.or_else(|| self.files.open(&name).ok());
                self.spares.recycle(&name, file)?;
            }
        }
        self.files.sync_names()
    }

    /// Shows the books in the metrics.
    pub fn show(&self) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let state = self.state();
        self.metrics.messages.set(gauge(state.totals.messages));
        self.metrics.deliveries.set(gauge(state.totals.deliveries));
        self.metrics.log_bytes.set(gauge(state.segments.used_bytes()));
        self.metrics.live_bytes.set(gauge(state.segments.live_bytes()));
        self.metrics.lag.set(gauge(state.lag() as u64));
        drop(state);
        self.metrics.content_memory.set(gauge(self.memory.used()));
        self.metrics.quarantined.set(gauge(self.quarantine.count()));
    }
}
