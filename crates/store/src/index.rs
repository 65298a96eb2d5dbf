//! The index on disk: what survived a checkpoint, in ordered tables, with the position in the log that it covers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mail::{Destination, MessageId, Timestamp};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Fence};
use crate::error::IndexError;
use crate::files::Files;
use crate::message::{Cursor, Due, ScheduleClock};
use crate::overlay::{Delta, Entry, Kept, Overlay};
use crate::segments::{Position, Segments, Totals};
use crate::state::State;

/// The index's file.
pub(crate) const NAME: &str = "index.redb";
/// Grows when the tables change their form; an index of another version is built anew.
const VERSION: u32 = 5;

const MESSAGES: TableDefinition<u128, &[u8]> = TableDefinition::new("messages");
const SCHEDULE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("schedule");
const DESTINATIONS: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("destinations");
const CHUNKED: TableDefinition<(u64, u128), ()> = TableDefinition::new("chunked");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const CHECKPOINT: &str = "checkpoint";

/// What a checkpoint writes beside the messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    version: u32,
    /// All before it is in the index, nothing behind it.
    pub position: Position,
    /// The totals at that position.
    pub totals: Totals,
    /// The books at that position.
    pub segments: Segments,
    /// What the schedule's clock showed last, and in which segment that is written.
    pub clock: Option<(ScheduleClock, u64)>,
}

impl Checkpoint {
    /// Of a state whose layers are about to be written.
    pub fn of(state: &State) -> Self {
        Self {
            version: VERSION,
            position: state.position,
            totals: state.totals,
            segments: state.segments.clone(),
            clock: state.clock,
        }
    }

    /// Of an empty store.
    pub fn empty() -> Self {
        Self::of(&State::default())
    }
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index {
    database: Database,
    fence: Fence,
}

impl Index {
    /// Opens the index, or makes an empty one where there is none.
    pub fn open(files: &dyn Files, cache: u64) -> Result<Self, IndexError> {
        let exists = files.list().map_err(io_error)?.iter().any(|name| name == NAME);
        if !exists {
            return Self::create(files, cache);
        }
        let file = files.open(NAME).map_err(io_error)?;
        // Segments are freed by what the index says, so what it says must not be lost again.
        file.sync().map_err(io_error)?;
        let (backend, fence) = Backend::new(file);
        guarded(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(usize::try_from(cache).unwrap_or(usize::MAX));
            builder.set_repair_callback(|session| {
                tracing::info!(progress = session.progress(), "repairing the index");
            });
            Ok(Self { database: builder.create_with_backend(backend)?, fence })
        })
    }

    /// Makes an empty index in the place of what is there.
    pub fn create(files: &dyn Files, cache: u64) -> Result<Self, IndexError> {
        files.create(NAME, 0).map_err(io_error)?;
        files.sync_names().map_err(io_error)?;
        Self::open(files, cache)
    }

    /// The last checkpoint; `None` for an empty index.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        guarded(|| {
            let read = self.database.begin_read()?;
            let table = match read.open_table(META) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            let Some(value) = table.get(CHECKPOINT)? else { return Ok(None) };
            let checkpoint: Checkpoint = decode(value.value())?;
            if checkpoint.version != VERSION {
                return Err(redb::Error::Corrupted("an index of another version".into()));
            }
            Ok(Some(checkpoint))
        })
    }

    /// How the index is now, for as long as the snapshot is kept.
    pub fn snapshot(&self) -> Result<Snapshot, IndexError> {
        guarded(|| {
            let read = self.database.begin_read()?;
            Ok(Snapshot {
                messages: read.open_table(MESSAGES)?,
                schedule: read.open_table(SCHEDULE)?,
                destinations: read.open_table(DESTINATIONS)?,
                chunked: read.open_table(CHUNKED)?,
            })
        })
    }

    /// Writes a layer and what belongs to it, all or nothing, durably.
    pub fn write(&self, overlay: &Overlay, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        guarded(|| {
            let mut write = self.database.begin_write()?;
            // Opening after a crash then needs no walk through the tables.
            write.set_quick_repair(true);
            write.set_durability(Durability::Immediate).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
            Tables::open(&write)?.write(overlay, checkpoint)?;
            write.commit()?;
            Ok(())
        })
    }
}

impl Drop for Index {
    /// Nothing more is written through it, whoever still reads a snapshot of it: it must not meet the one that is opened
    /// next. The last words that the library would write are not needed, as opening is as quick without them.
    fn drop(&mut self) {
        self.fence.close();
    }
}

/// What becomes of rows of the schedule: how each is from now on, or `None` if it goes.
type Changes = BTreeMap<Destination, Vec<(Cursor, Option<Vec<u8>>)>>;

struct Tables<'t> {
    messages: Table<'t, u128, &'static [u8]>,
    schedule: Table<'t, &'static [u8], &'static [u8]>,
    destinations: Table<'t, &'static str, (u64, u64, u64)>,
    chunked: Table<'t, (u64, u128), ()>,
    meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            messages: write.open_table(MESSAGES)?,
            schedule: write.open_table(SCHEDULE)?,
            destinations: write.open_table(DESTINATIONS)?,
            chunked: write.open_table(CHUNKED)?,
            meta: write.open_table(META)?,
        })
    }

    fn write(&mut self, overlay: &Overlay, checkpoint: &Checkpoint) -> Result<(), redb::Error> {
        let touched = overlay.deltas().map(|(destination, _)| (destination.clone(), Vec::new()));
        let mut schedule: Changes = touched.collect();
        for (id, entry) in overlay.entries() {
            self.message(*id, entry, &mut schedule)?;
        }
        // In the order of the keys, so that each page is met once however many destinations there are.
        let mut schedule: Vec<_> = schedule.into_iter().collect();
        schedule.sort_unstable_by_key(|(destination, _)| edge(destination, 0));
        for (destination, rows) in schedule.into_iter().filter(|(_, rows)| !rows.is_empty()) {
            self.destination(&destination, overlay.delta(&destination), rows)?;
        }
        self.meta.insert(CHECKPOINT, encode(checkpoint)?.as_slice())?;
        Ok(())
    }

    /// Writes a message, and adds what that means to the changes of the schedule.
    fn message(&mut self, id: MessageId, entry: &Entry, schedule: &mut Changes) -> Result<(), redb::Error> {
        let old = match entry.fresh {
            true => None,
            false => self.messages.get(id.as_u128())?.map(|row| decode::<Kept>(row.value())).transpose()?,
        };
        if let Some(old) = &old {
            for (destination, cursor) in old.rows() {
                schedule.entry(destination.clone()).or_default().push((cursor, None));
            }
            for segment in old.chunk_segments() {
                self.chunked.remove((segment, id.as_u128()))?;
            }
        }
        let Some(kept) = &entry.kept else {
            self.messages.remove(id.as_u128())?;
            return Ok(());
        };
        self.messages.insert(id.as_u128(), encode(kept.as_ref())?.as_slice())?;
        for (destination, cursor) in kept.rows() {
            let due = kept.due(cursor);
            let row = encode(&Row {
                begins_at: due.begins_at,
                priority: due.priority,
                deadline: due.deadline,
                tenant: due.tenant.as_deref(),
                campaign: due.campaign.as_deref(),
                size: due.size,
            })?;
            schedule.entry(destination.clone()).or_default().push((cursor, Some(row)));
        }
        for segment in kept.chunk_segments() {
            self.chunked.insert((segment, id.as_u128()), ())?;
        }
        Ok(())
    }

    /// Writes what changed in a destination's schedule, and its counters.
    fn destination(
        &mut self,
        destination: &Destination,
        delta: Delta,
        mut rows: Vec<(Cursor, Option<Vec<u8>>)>,
    ) -> Result<(), redb::Error> {
        // Of several changes of a row the last counts.
        rows.sort_by_key(|(cursor, _)| *cursor);
        for changes in rows.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((cursor, row)) = changes.last() else { continue };
            let key = row_key(destination, cursor);
            match row {
                Some(row) => drop(self.schedule.insert(key.as_slice(), row.as_slice())?),
                None => drop(self.schedule.remove(key.as_slice())?),
            }
        }
        let name = destination.as_str();
        let old = self.destinations.get(name)?.map(|row| Waiting::from_row(row.value())).unwrap_or_default();
        let new = Waiting {
            queued: old.queued.saturating_add_signed(delta.queued),
            held: old.held.saturating_add_signed(delta.held),
            earliest: self.earliest(destination)?,
        };
        match (new.queued, new.held) {
            (0, 0) => drop(self.destinations.remove(name)?),
            _ => drop(self.destinations.insert(name, new.to_row())?),
        }
        Ok(())
    }

    /// When the first scheduled delivery of a destination is due.
    fn earliest(&self, destination: &Destination) -> Result<Timestamp, redb::Error> {
        let (first, last) = (edge(destination, 0), edge(destination, 1));
        let Some(row) = self.schedule.range(first.as_slice()..last.as_slice())?.next() else {
            return Ok(Timestamp::MAX);
        };
        let (key, row) = row?;
        Ok(read_row(key.value(), row.value())?.due)
    }
}

/// What waits for a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub queued: u64,
    pub held: u64,
    /// When the first scheduled delivery is due; without meaning if there is none.
    pub earliest: Timestamp,
}

impl Waiting {
    fn from_row((queued, held, earliest): (u64, u64, u64)) -> Self {
        Self { queued, held, earliest: Timestamp::from_millis(earliest) }
    }

    fn to_row(self) -> (u64, u64, u64) {
        (self.queued, self.held, self.earliest.as_millis())
    }
}

/// What a row of the schedule holds beside its key.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    begins_at: Timestamp,
    priority: i8,
    deadline: Option<Timestamp>,
    #[serde(borrow)]
    tenant: Option<&'a str>,
    #[serde(borrow)]
    campaign: Option<&'a str>,
    size: u64,
}

/// How the index was at a checkpoint. Reads may block on the disk.
pub(crate) struct Snapshot {
    messages: ReadOnlyTable<u128, &'static [u8]>,
    schedule: ReadOnlyTable<&'static [u8], &'static [u8]>,
    destinations: ReadOnlyTable<&'static str, (u64, u64, u64)>,
    chunked: ReadOnlyTable<(u64, u128), ()>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Snapshot {
    pub fn message(&self, id: MessageId) -> Result<Option<Arc<Kept>>, IndexError> {
        guarded(|| {
            let row = self.messages.get(id.as_u128())?;
            row.map(|row| Ok(Arc::new(decode(row.value())?))).transpose()
        })
    }

    /// Messages behind an id, in the order of ids.
    pub fn messages_after(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<Arc<Kept>>, IndexError> {
        guarded(|| {
            let after = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_u128()));
            let rows = self.messages.range::<u128>((after, Bound::Unbounded))?;
            rows.take(limit).map(|row| Ok(Arc::new(decode(row?.1.value())?))).collect()
        })
    }

    /// A destination's schedule.
    pub fn scheduled(
        &self,
        destination: &Destination,
        range: (Bound<Cursor>, Bound<Cursor>),
        limit: usize,
    ) -> Result<Vec<Due>, IndexError> {
        guarded(|| {
            let key = |cursor: Cursor| row_key(destination, &cursor);
            let (first, last) = (edge(destination, 0), edge(destination, 2));
            let from = match range.0 {
                Bound::Unbounded => Bound::Included(first),
                bound => bound.map(key),
            };
            let to = match range.1 {
                Bound::Unbounded => Bound::Excluded(last),
                bound => bound.map(key),
            };
            let rows = self.schedule.range::<&[u8]>((as_slice(&from), as_slice(&to)))?;
            rows.take(limit)
                .map(|row| {
                    let (key, row) = row?;
                    read_row(key.value(), row.value())
                })
                .collect()
        })
    }

    /// The counters of destinations behind one, in the order of their names.
    pub fn destinations_after(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<BTreeMap<Destination, Waiting>, IndexError> {
        guarded(|| {
            let after = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
            let rows = self.destinations.range::<&str>((after, Bound::Unbounded))?;
            rows.take(limit)
                .map(|row| {
                    let (name, counters) = row?;
                    Ok((Destination::new(name.value()), Waiting::from_row(counters.value())))
                })
                .collect()
        })
    }

    /// The counters of one.
    pub fn destination(&self, name: &Destination) -> Result<Waiting, IndexError> {
        guarded(|| {
            Ok(self
                .destinations
                .get(name.as_str())?
                .map_or_else(Waiting::default, |row| Waiting::from_row(row.value())))
        })
    }

    /// The messages with chunks in a segment.
    pub fn chunked_in(&self, segment: u64) -> Result<Vec<MessageId>, IndexError> {
        guarded(|| {
            let rows = self.chunked.range((segment, 0)..=(segment, u128::MAX))?;
            rows.map(|row| Ok(MessageId::from_u128(row?.0.value().1))).collect()
        })
    }
}

/// The key of a row in the schedule: length and text of the destination, then the cursor in an order that octets keep.
fn row_key(destination: &Destination, cursor: &Cursor) -> Vec<u8> {
    let mut key = edge(destination, u8::from(cursor.held));
    key.extend_from_slice(&cursor.due.as_millis().to_be_bytes());
    key.extend_from_slice(&cursor.id.as_u128().to_be_bytes());
    key.extend_from_slice(&cursor.number.to_be_bytes());
    key
}

/// Octets of a key behind the destination.
const CURSOR: usize = 1 + 8 + 16 + 4;

/// What the keys of a destination's rows of one kind begin with.
fn edge(destination: &Destination, kind: u8) -> Vec<u8> {
    let name = destination.as_str().as_bytes();
    let mut key = Vec::with_capacity(4 + name.len() + CURSOR);
    key.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    key.extend_from_slice(name);
    key.push(kind);
    key
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn read_row(key: &[u8], row: &[u8]) -> Result<Due, redb::Error> {
    let broken = || redb::Error::Corrupted("a row of the schedule has no proper key".into());
    let cursor: &[u8; CURSOR] = key.last_chunk().ok_or_else(broken)?;
    let number = |from: usize, to: usize| cursor[from..to].iter().fold(0u128, |n, octet| n << 8 | u128::from(*octet));
    let row: Row<'_> = decode(row)?;
    Ok(Due {
        held: cursor[0] != 0,
        due: Timestamp::from_millis(number(1, 9) as u64),
        id: MessageId::from_u128(number(9, 25)),
        number: number(25, 29) as u32,
        begins_at: row.begins_at,
        priority: row.priority,
        deadline: row.deadline,
        tenant: row.tenant.map(Into::into),
        campaign: row.campaign.map(Into::into),
        size: row.size,
    })
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    postcard::to_stdvec(value).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

fn decode<'a, T: Deserialize<'a>>(octets: &'a [u8]) -> Result<T, redb::Error> {
    postcard::from_bytes(octets).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

pub(crate) fn io_error(error: std::io::Error) -> IndexError {
    IndexError::Io(error.to_string())
}

/// Runs a call of the database. Broken pages may make it panic; that is a broken index, not the end of the server.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| match error {
            redb::Error::Io(error) if !is_broken(&error) => IndexError::Io(error.to_string()),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => IndexError::Io(error.to_string()),
            error => IndexError::Broken(error.to_string()),
        }),
        Err(_) => Err(IndexError::Broken("reading it ended in a panic".into())),
    }
}

fn is_broken(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}
