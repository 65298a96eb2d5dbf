//! Questions about many messages: layers and index merged, window by window.
//!
//! The index is read outside of the lock, a window of rows at a time; then, under the lock and only if the index is
//! still the same, what the layers say of that window is added and what they make void is left out. Each window is true
//! at one moment; a message that changes while somebody pages through may be met twice or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mail::{Destination, MessageId, Timestamp};

use crate::engine::Engine;
use crate::error::{IndexError, ReadError};
use crate::index::{Snapshot, Waiting};
use crate::message::{Counters, Cursor, Due, StoredMessage};
use crate::overlay::{Delta, Overlay};
use crate::state::State;

/// How often a window is read anew because a checkpoint came in between.
const ATTEMPTS: usize = 16;

impl Engine {
    /// What is scheduled at a destination up to `until`.
    pub fn due(
        &self,
        destination: &Destination,
        after: Option<Cursor>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Due>, ReadError> {
        let last = Cursor { held: false, due: until, id: MessageId::MAX, number: u32::MAX };
        self.schedule(destination, after, Bound::Included(last), limit)
    }

    /// Everything of a destination.
    pub fn of_destination(
        &self,
        destination: &Destination,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<Due>, ReadError> {
        self.schedule(destination, after, Bound::Unbounded, limit)
    }

    fn schedule(
        &self,
        destination: &Destination,
        after: Option<Cursor>,
        last: Bound<Cursor>,
        limit: usize,
    ) -> Result<Vec<Due>, ReadError> {
        let mut from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        while found.len() < limit && !is_empty((from, last)) {
            let (mut window, next) = self.with_snapshot(
                |snapshot| snapshot.scheduled(destination, (from, last), limit),
                |state, rows| {
                    let next = if rows.len() < limit { None } else { rows.last().map(Due::cursor) };
                    (merge_schedule(state, destination, (from, next.map_or(last, Bound::Included)), rows, limit), next)
                },
            )?;
            window.truncate(limit - found.len());
            found.append(&mut window);
            match next {
                Some(next) => from = Bound::Excluded(next),
                None => break,
            }
        }
        Ok(found)
    }

    /// Messages behind an id, in the order of ids.
    pub fn page(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<Arc<StoredMessage>>, ReadError> {
        let mut after = after;
        let mut found = Vec::new();
        while found.len() < limit {
            let (window, next) = self.with_snapshot(
                |snapshot| snapshot.messages_after(after, limit),
                |state, rows| {
                    let next = if rows.len() < limit { None } else { rows.last().map(|kept| kept.message.id) };
                    let rows = rows.into_iter().map(|kept| kept.message.clone()).collect();
                    (merge_messages(state, (after, next), rows, limit), next)
                },
            )?;
            found.extend(window.into_values().take(limit - found.len()));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(found)
    }

    /// Destinations behind one, in the order of their names, with something scheduled or held.
    pub fn destinations(
        &self,
        after: Option<Destination>,
        limit: usize,
    ) -> Result<Vec<(Destination, Counters)>, ReadError> {
        let (mut after, mut found) = (after, Vec::new());
        while found.len() < limit {
            let (window, next) = self.with_snapshot(
                |snapshot| snapshot.destinations_after(after.as_ref(), limit),
                |state, rows| {
                    let last = if rows.len() < limit { None } else { rows.last_key_value() };
                    let next = last.map(|(name, _)| name.clone());
                    let in_window = |name: &Destination| {
                        after.as_ref().is_none_or(|after| name > after) && next.as_ref().is_none_or(|next| name <= next)
                    };
                    ((rows, layered(state, in_window)), next)
                },
            )?;
            let ((window, changed), left) = (merge_counters(window), limit - found.len());
            let waiting = window.into_iter().filter(|(_, waiting)| waiting.queued > 0 || waiting.held > 0);
            for (destination, waiting) in waiting.take(left) {
                let counters = self.told(&destination, waiting, changed.contains(&destination))?;
                found.push((destination, counters));
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(found)
    }

    /// How much waits for a destination.
    pub fn counters(&self, destination: &Destination) -> Result<Counters, ReadError> {
        let (row, deltas) = self.with_snapshot(
            |snapshot| snapshot.destination(destination),
            |state, row| (row, layered(state, |name| name == destination)),
        )?;
        let (merged, changed) = merge_counters((BTreeMap::from([(destination.clone(), row)]), deltas));
        let waiting = merged.get(destination).copied().unwrap_or_default();
        self.told(destination, waiting, !changed.is_empty())
    }

    /// Counters for others. What the index says of the first due time does not hold for a destination that has changed.
    fn told(&self, destination: &Destination, waiting: Waiting, changed: bool) -> Result<Counters, ReadError> {
        let Waiting { queued, held, earliest } = waiting;
        let earliest_due = match queued {
            0 => None,
            _ if changed => self.due(destination, None, Timestamp::MAX, 1)?.first().map(|due| due.due),
            _ => Some(earliest),
        };
        Ok(Counters { queued, held, earliest_due })
    }

    /// Messages by their ids; those that are not there are missing.
    pub fn messages(&self, ids: &[MessageId]) -> Result<Vec<Arc<StoredMessage>>, ReadError> {
        let found = ids.iter().filter_map(|id| self.find(*id).transpose());
        Ok(found.map(|kept| kept.map(|kept| kept.message.clone())).collect::<Result<_, _>>()?)
    }

    /// Reads from the index, then merges under the lock, both from the same moment.
    pub fn with_snapshot<R, T>(
        &self,
        read: impl Fn(&Snapshot) -> Result<R, IndexError>,
        merge: impl FnOnce(&State, R) -> T,
    ) -> Result<T, ReadError> {
        for _ in 0..ATTEMPTS {
            let Some(snapshot) = self.state().snapshot.clone() else {
                return Err(ReadError::Disk("the index is being opened anew".into()));
            };
            let rows = read(&snapshot);
            let state = self.state();
            let same = state.snapshot.as_ref().is_some_and(|now| Arc::ptr_eq(now, &snapshot));
            if same {
                let rows = rows.inspect_err(|error| self.note_trouble(error.clone()))?;
                return Ok(merge(&state, rows));
            }
        }
        // Rows of one moment and layers of another do not make a truth.
        Err(ReadError::Disk("the index changes faster than it can be read".into()))
    }
}

/// Whether nothing can lie between the bounds; the collections panic if asked for such a range.
fn is_empty(range: (Bound<Cursor>, Bound<Cursor>)) -> bool {
    match range {
        (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

fn merge_schedule(
    state: &State,
    destination: &Destination,
    range: (Bound<Cursor>, Bound<Cursor>),
    rows: Vec<Due>,
    limit: usize,
) -> Vec<Due> {
    let mut merged: Vec<Due> = rows.into_iter().filter(|due| !state.is_layered(due.id)).collect();
    merged.extend(state.active.scheduled(destination, range).take(limit));
    if let Some(frozen) = &state.frozen {
        let valid = frozen.scheduled(destination, range).filter(|due| !state.is_active(due.id));
        merged.extend(valid.take(limit));
    }
    merged.sort_by_key(Due::cursor);
    merged.truncate(limit);
    merged
}

fn merge_messages(
    state: &State,
    (after, last): (Option<MessageId>, Option<MessageId>),
    rows: Vec<Arc<StoredMessage>>,
    limit: usize,
) -> BTreeMap<MessageId, Arc<StoredMessage>> {
    let mut merged: BTreeMap<_, _> =
        rows.into_iter().filter(|message| !state.is_layered(message.id)).map(|message| (message.id, message)).collect();
    for layer in [Some(&state.active), state.frozen.as_deref()].into_iter().flatten() {
        let in_window = layer.entries_after(after).take_while(|(id, _)| last.is_none_or(|last| **id <= last));
        let alive = in_window.filter_map(|(id, entry)| Some((*id, entry.kept.as_ref()?.message.clone())));
        let is_active = std::ptr::eq(layer, &raw const state.active);
        merged.extend(alive.filter(|(id, _)| is_active || !state.is_active(*id)).take(limit));
    }
    merged
}

/// How the layers change the counters of the destinations of a window: little is done under the lock.
fn layered(state: &State, in_window: impl Fn(&Destination) -> bool) -> Vec<(Destination, Delta)> {
    let layers = [Some(&state.active), state.frozen.as_deref()].into_iter().flatten();
    let deltas = layers.flat_map(Overlay::deltas).filter(|(destination, _)| in_window(destination));
    deltas.map(|(destination, delta)| (destination.clone(), *delta)).collect()
}

/// The counters as the layers change them, and which destinations that concerns.
fn merge_counters(
    (mut waiting, deltas): (BTreeMap<Destination, Waiting>, Vec<(Destination, Delta)>),
) -> (BTreeMap<Destination, Waiting>, BTreeSet<Destination>) {
    let mut changed = BTreeMap::<_, Delta>::new();
    for (destination, delta) in deltas {
        let sum = changed.entry(destination).or_default();
        sum.queued += delta.queued;
        sum.held += delta.held;
    }
    for (destination, delta) in &changed {
        let counted = waiting.entry(destination.clone()).or_default();
        counted.queued = counted.queued.saturating_add_signed(delta.queued);
        counted.held = counted.held.saturating_add_signed(delta.held);
    }
    (waiting, changed.into_keys().collect())
}
