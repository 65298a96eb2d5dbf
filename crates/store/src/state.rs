//! The store's state in memory: layers over the index's last snapshot, and the books.
//!
//! Only the writer of the log changes what is known of messages, after the change is durable; whoever reads takes a short
//! look under the lock and reads the index outside of it. The checkpointer freezes the active layer, writes it to the index
//! and then lets go of it in the same moment in which the new snapshot takes its place, so that a look always finds layers
//! and snapshot that fit together.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use mail::MessageId;

use crate::error::IndexError;
use crate::frame::FrameAt;
use crate::index::{Checkpoint, Snapshot};
use crate::message::{ScheduleClock, StoredMessage, Update};
use crate::overlay::{Kept, Overlay};
use crate::record::Record;
use crate::segments::{Position, Segments, Totals};

/// Messages of the index that were looked up lately, by their weight in octets.
const WARM_BYTES: usize = 6 << 20;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub active: Overlay,
    /// What is being written to the index.
    pub frozen: Option<Arc<Overlay>>,
    /// The index below the layers; `None` while it is being opened anew.
    pub snapshot: Option<Arc<Snapshot>>,
    pub segments: Segments,
    pub totals: Totals,
    /// Behind the last change that is in the layers.
    pub position: Position,
    /// What the index covers.
    pub checkpoint: Position,
    /// The books at the checkpoint. What they need is kept: so the index can be built anew as it was, under the layers.
    pub settled: Segments,
    /// What the schedule's clock showed last, and in which segment that is written.
    pub clock: Option<(ScheduleClock, u64)>,
    warm: Warm,
    deferred: Deferred,
}

/// What is known of a message without reading the index.
pub(crate) enum Known {
    /// This, for sure.
    Is(Option<Arc<Kept>>),
    /// The index knows.
    Ask(Arc<Snapshot>),
    /// The index would know, but cannot be asked right now.
    Unavailable,
}

impl Known {
    /// Reads the index if need be.
    pub fn resolve(self, id: MessageId) -> Result<Option<Arc<Kept>>, IndexError> {
        match self {
            Known::Is(kept) => Ok(kept),
            Known::Ask(snapshot) => snapshot.message(id),
            Known::Unavailable => Err(IndexError::Io("the index is being opened anew".into())),
        }
    }
}

/// What the index said of messages that are about to change; those it could not be asked for are missing.
pub(crate) type Loaded = HashMap<MessageId, Option<Arc<Kept>>>;

impl State {
    /// The state at a checkpoint, of which `snapshot` is a view.
    pub fn new(snapshot: Snapshot, checkpoint: &Checkpoint) -> Self {
        Self {
            snapshot: Some(Arc::new(snapshot)),
            segments: checkpoint.segments.clone(),
            totals: checkpoint.totals,
            position: checkpoint.position,
            checkpoint: checkpoint.position,
            settled: checkpoint.segments.clone(),
            clock: checkpoint.clock,
            ..Self::default()
        }
    }

    /// What is known of a message.
    pub fn known(&self, id: MessageId) -> Known {
        if let Some(kept) = self.in_layers(id) {
            return Known::Is(kept);
        }
        // What the index has is older than a change that was answered as durable.
        if self.deferred.concerns(id) {
            return Known::Unavailable;
        }
        match (self.warm.get(id), &self.snapshot) {
            (Some(kept), _) => Known::Is(Some(kept)),
            (None, Some(snapshot)) => Known::Ask(snapshot.clone()),
            (None, None) => Known::Unavailable,
        }
    }

    /// What the layers say of a message, if anything.
    pub fn in_layers(&self, id: MessageId) -> Option<Option<Arc<Kept>>> {
        let entry = self.active.get(id).or_else(|| self.frozen.as_ref()?.get(id))?;
        Some(entry.kept.clone())
    }

    /// Whether the active layer makes void what the frozen layer or the index says of a message.
    pub fn is_active(&self, id: MessageId) -> bool {
        self.active.get(id).is_some()
    }

    /// Whether a layer makes void what the index says of a message.
    pub fn is_layered(&self, id: MessageId) -> bool {
        self.is_active(id) || self.frozen.as_ref().is_some_and(|frozen| frozen.get(id).is_some())
    }

    /// Remembers a message that was read from `snapshot`, unless the index went on since.
    pub fn warm_up(&mut self, snapshot: &Arc<Snapshot>, kept: &Arc<Kept>) {
        if self.snapshot.as_ref().is_some_and(|now| Arc::ptr_eq(now, snapshot)) {
            self.warm.insert(kept.clone());
        }
    }

    /// Makes a durable change. `loaded` has the messages of all updates in it.
    pub fn apply(&mut self, record: &Record, at: FrameAt, loaded: &mut Loaded) {
        match record {
            Record::Message { message, content, moved, settles } => {
                let old = if *moved { self.current(message.id, loaded) } else { None };
                let new = Kept { message: message.clone(), record: at, content: content.clone() };
                self.put(message.id, old, Some(new), loaded);
                self.update(settles, loaded);
            }
            Record::Updates(updates) => self.update(updates, loaded),
            Record::Clock(clock) => self.clock = Some((*clock, at.segment)),
            Record::Chunk | Record::Probe => {}
        }
    }

    /// Makes changes to messages.
    fn update(&mut self, updates: &[Update], loaded: &mut Loaded) {
        for update in updates {
            let id = update.id();
            let known = loaded.contains_key(&id) || self.in_layers(id).is_some();
            if self.deferred.concerns(id) || !known {
                self.deferred.push(update.clone());
                continue;
            }
            let Some(old) = self.current(id, loaded) else { continue };
            let mut message = StoredMessage::clone(&old.message);
            let (_, number, change) = update.clone().into_change();
            if message.change(number, change) {
                let new = Kept { message: Arc::new(message), record: old.record, content: old.content.clone() };
                self.put(id, Some(old), Some(new), loaded);
            }
        }
    }

    fn current(&self, id: MessageId, loaded: &Loaded) -> Option<Arc<Kept>> {
        match self.in_layers(id) {
            Some(kept) => kept,
            None => loaded.get(&id).cloned().flatten(),
        }
    }

    fn put(&mut self, id: MessageId, old: Option<Arc<Kept>>, new: Option<Kept>, loaded: &mut Loaded) {
        let new = new.filter(|new| !new.message.is_finished()).map(Arc::new);
        let deliveries = |kept: &Arc<Kept>| kept.rows().count() as u64;
        if let Some(old) = &old {
            self.segments.release(old.frames());
            self.totals.messages = self.totals.messages.saturating_sub(1);
            self.totals.deliveries = self.totals.deliveries.saturating_sub(deliveries(old));
        }
        if let Some(new) = &new {
            self.segments.need(new.frames());
            self.totals.messages += 1;
            self.totals.deliveries += deliveries(new);
        }
        self.active.put(id, old.as_deref(), new.clone());
        // Should the layer be frozen and written before the next change of this message, `loaded` must not be older.
        loaded.insert(id, new);
    }

    /// How many messages wait for a checkpoint.
    pub fn lag(&self) -> usize {
        self.active.weight() + self.frozen.as_ref().map_or(0, |frozen| frozen.weight())
    }

    /// Turns the active layer into the frozen one, with what a checkpoint of it must say. `None` while changes wait for the
    /// index: they lie before the position, but not in the layer.
    pub fn freeze(&mut self) -> Option<Arc<Overlay>> {
        if !self.deferred.is_empty() {
            return None;
        }
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(frozen.clone());
        Some(frozen)
    }

    /// The frozen layer is in the index, of which `snapshot` is a new view.
    pub fn thaw(&mut self, snapshot: Arc<Snapshot>, checkpoint: &Checkpoint) {
        self.snapshot = Some(snapshot);
        self.checkpoint = checkpoint.position;
        self.settled = checkpoint.segments.clone();
        let Some(frozen) = self.frozen.take() else { return };
        for (id, entry) in frozen.entries() {
            match &entry.kept {
                Some(kept) => self.warm.insert(kept.clone()),
                None => self.warm.remove(*id),
            }
        }
    }

    /// The messages with updates that wait for the index.
    pub fn deferred(&self) -> Vec<MessageId> {
        self.deferred.ids.iter().copied().collect()
    }

    /// Makes the updates that had waited; `loaded` has their messages.
    pub fn apply_deferred(&mut self, loaded: &mut Loaded) {
        let updates = self.deferred.take();
        self.update(&updates, loaded);
    }
}

/// Changes that are durable in the log, but whose messages the index could not be asked for.
#[derive(Debug, Default)]
struct Deferred {
    updates: Vec<Update>,
    ids: BTreeSet<MessageId>,
}

impl Deferred {
    fn concerns(&self, id: MessageId) -> bool {
        self.ids.contains(&id)
    }

    fn push(&mut self, update: Update) {
        self.ids.insert(update.id());
        self.updates.push(update);
    }

    fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    fn take(&mut self) -> Vec<Update> {
        self.ids.clear();
        std::mem::take(&mut self.updates)
    }
}

/// A small cache of messages that are in the index.
#[derive(Debug, Default)]
struct Warm {
    messages: HashMap<MessageId, Arc<Kept>>,
    order: VecDeque<MessageId>,
    bytes: usize,
}

impl Warm {
    fn get(&self, id: MessageId) -> Option<Arc<Kept>> {
        self.messages.get(&id).cloned()
    }

    fn insert(&mut self, kept: Arc<Kept>) {
        let id = kept.message.id;
        self.bytes += warm_weight(&kept);
        match self.messages.insert(id, kept) {
            Some(old) => self.bytes -= warm_weight(&old),
            None => self.order.push_back(id),
        }
        while self.bytes > WARM_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(oldest);
        }
        // Names of messages that were removed pile up: forget them from time to time.
        if self.order.len() > 64 + 2 * self.messages.len() {
            self.order.retain(|id| self.messages.contains_key(id));
        }
    }

    fn remove(&mut self, id: MessageId) {
        if let Some(old) = self.messages.remove(&id) {
            self.bytes -= warm_weight(&old);
        }
    }
}

/// About what a message takes, with what the allocator adds to each of its parts.
fn warm_weight(kept: &Kept) -> usize {
    1100 + 400 * kept.message.envelope.recipients.len() + 64 * kept.chunks().len()
}

/// The messages that a record changes, for [`Loaded`].
pub(crate) fn concerned(record: &Record) -> impl Iterator<Item = MessageId> {
    let (moved, updates) = match record {
        Record::Message { message, moved, settles, .. } => (moved.then_some(message.id), settles.as_slice()),
        Record::Updates(updates) => (None, updates.as_slice()),
        Record::Chunk | Record::Probe | Record::Clock(_) => (None, &[][..]),
    };
    moved.into_iter().chain(updates.iter().map(Update::id))
}
