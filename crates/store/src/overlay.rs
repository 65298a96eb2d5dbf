//! What changed since a checkpoint, in memory: one layer over what lies below it.
//!
//! A layer holds the whole truth about every message that it names: all schedule entries of such a message in layers
//! below are void.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use mail::{Destination, MessageId};
use serde::{Deserialize, Serialize};

use crate::frame::FrameAt;
use crate::message::{Cursor, Due, Schedule, StoredMessage};
use crate::record::ContentPlace;

/// A message and where the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub message: Arc<StoredMessage>,
    pub record: FrameAt,
    pub content: ContentPlace,
}

impl Kept {
    /// The frames that must stay for the message's sake.
    pub fn frames(&self) -> impl Iterator<Item = FrameAt> {
        std::iter::once(self.record).chain(self.chunks().iter().copied())
    }

    pub fn chunks(&self) -> &[FrameAt] {
        match &self.content {
            ContentPlace::Chunks(chunks) => chunks,
            ContentPlace::Here | ContentPlace::Lost => &[],
        }
    }

    /// The segments that hold its chunks, each once.
    pub fn chunk_segments(&self) -> BTreeSet<u64> {
        self.chunks().iter().map(|at| at.segment).collect()
    }

    /// Its places in the schedule.
    pub fn rows(&self) -> impl Iterator<Item = (&Destination, Cursor)> {
        let id = self.message.id;
        (0u32..).zip(&self.message.deliveries).filter_map(move |(number, delivery)| {
            let (held, due) = match delivery.when() {
                Schedule::At(due) => (false, due),
                Schedule::Held(act) => (true, act.at),
                Schedule::Finished => return None,
            };
            Some((&delivery.destination, Cursor { held, due, id, number }))
        })
    }

    /// What the schedule tells of one of its places.
    pub fn due(&self, cursor: Cursor) -> Due {
        let envelope = &self.message.envelope;
        let delivery = self.message.deliveries.get(cursor.number as usize);
        Due {
            id: cursor.id,
            number: cursor.number,
            due: cursor.due,
            held: cursor.held,
            begins_at: envelope.begins_at(),
            priority: envelope.priority,
            deadline: delivery.and_then(|delivery| delivery.deadline(envelope)),
            tenant: envelope.tenant.clone(),
            campaign: envelope.campaign.clone(),
            size: self.message.size,
        }
    }

    /// How much heavier it is in memory than a message of a few recipients.
    fn extra_weight(&self) -> usize {
        self.message.envelope.recipients.len() / 4
    }
}

/// How the counters of a destination differ from those below.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delta {
    pub queued: i64,
    pub held: i64,
}

impl Delta {
    fn count(&mut self, held: bool, by: i64) {
        *(if held { &mut self.held } else { &mut self.queued }) += by;
    }
}

/// What a layer says of a message.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// How it is; `None` if it is gone.
    pub kept: Option<Arc<Kept>>,
    /// Whether the layers below do not know it.
    pub fresh: bool,
}

/// A layer.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    entries: BTreeMap<MessageId, Entry>,
    schedule: HashMap<Destination, BTreeSet<Cursor>>,
    deltas: HashMap<Destination, Delta>,
    chunked: BTreeSet<(u64, MessageId)>,
    extra_weight: usize,
}

impl Overlay {
    /// What it says of a message, if anything.
    pub fn get(&self, id: MessageId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All it says, by id.
    pub fn entries(&self) -> impl Iterator<Item = (&MessageId, &Entry)> {
        self.entries.iter()
    }

    /// What it says behind an id.
    pub fn entries_after(&self, after: Option<MessageId>) -> impl Iterator<Item = (&MessageId, &Entry)> {
        self.entries.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// How counters differ, in no order.
    pub fn deltas(&self) -> impl Iterator<Item = (&Destination, &Delta)> {
        self.deltas.iter()
    }

    pub fn delta(&self, destination: &Destination) -> Delta {
        self.deltas.get(destination).copied().unwrap_or_default()
    }

    /// How many messages it has to write down; one of many recipients counts as several.
    pub fn weight(&self) -> usize {
        self.entries.len() + self.extra_weight
    }

    /// A destination's entries in the schedule.
    pub fn scheduled(
        &self,
        destination: &Destination,
        range: (Bound<Cursor>, Bound<Cursor>),
    ) -> impl Iterator<Item = Due> {
        let rows = self.schedule.get(destination).into_iter().flat_map(move |rows| rows.range(range));
        rows.filter_map(|cursor| Some(self.get(cursor.id)?.kept.as_ref()?.due(*cursor)))
    }

    /// The messages with chunks in a segment.
    pub fn chunked_in(&self, segment: u64) -> impl Iterator<Item = MessageId> {
        let range = (segment, MessageId::MIN)..=(segment, MessageId::MAX);
        self.chunked.range(range).map(|(_, id)| *id)
    }

    /// Takes in how a message is from now on. `old` is how it was, wherever that was known.
    pub fn put(&mut self, id: MessageId, old: Option<&Kept>, new: Option<Arc<Kept>>) {
        if let Some(old) = old {
            for (destination, cursor) in old.rows() {
                self.deltas.entry(destination.clone()).or_default().count(cursor.held, -1);
            }
        }
        let fresh = match self.entries.remove(&id) {
            Some(entry) => {
                self.forget(entry.kept.as_deref());
                entry.fresh
            }
            None => old.is_none(),
        };
        if let Some(new) = &new {
            self.learn(new);
        }
        if new.is_some() || !fresh {
            self.entries.insert(id, Entry { kept: new, fresh });
        }
    }

    fn learn(&mut self, kept: &Kept) {
        for (destination, cursor) in kept.rows() {
            self.deltas.entry(destination.clone()).or_default().count(cursor.held, 1);
            self.schedule.entry(destination.clone()).or_default().insert(cursor);
        }
        self.chunked.extend(kept.chunk_segments().into_iter().map(|segment| (segment, kept.message.id)));
        self.extra_weight += kept.extra_weight();
    }

    fn forget(&mut self, kept: Option<&Kept>) {
        let Some(kept) = kept else { return };
        for (destination, cursor) in kept.rows() {
            if let Some(rows) = self.schedule.get_mut(destination) {
                rows.remove(&cursor);
                if rows.is_empty() {
                    self.schedule.remove(destination);
                }
            }
        }
        for segment in kept.chunk_segments() {
            self.chunked.remove(&(segment, kept.message.id));
        }
        self.extra_weight -= kept.extra_weight();
    }
}
