//! Opening: which segments make up the log, what the index covers of it, and what happened since.

use std::io;
use std::sync::Arc;

use crate::error::{IndexError, OpenError};
use crate::files::{File, Files};
use crate::frame::{FIRST_BATCH, FrameAt, Header};
use crate::index::{Checkpoint, Index};
use crate::options::Options;
use crate::quarantine::Quarantine;
use crate::record::{self, Record};
use crate::scan::{Found, Scan, has_later_batches, segment_header};
use crate::segments::{Position, number_in, segment_name};
use crate::state::{Loaded, State, concerned};

/// The segments of the log, from the oldest on.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub links: Vec<Link>,
    /// Segments that are no part of it: freed, or never durable.
    pub dead: Vec<u64>,
    /// Segments of which nothing can be believed, but which held something once.
    pub unreadable: Vec<u64>,
}

/// A segment in the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub number: u64,
    pub salt: u64,
    /// Where its valid part ends, as its successor says.
    pub end: Option<u64>,
}

impl Chain {
    /// Puts the segments in order by what their headers say of each other, newest first.
    pub fn new(files: &dyn Files, mut numbers: Vec<u64>) -> io::Result<Self> {
        numbers.sort_unstable();
        let mut chain = Self::default();
        // What the successor says: number, end and salt of the segment before it.
        let mut claim: Option<(u64, u64, u64)> = None;
        for number in numbers.into_iter().rev() {
            let file = files.open(&segment_name(number))?;
            let header = segment_header(file.as_ref(), number)?;
            let link = match (claim, &header) {
                (Some((claimed, ..)), _) if number != claimed => None,
                (Some((_, end, salt)), _) => Some(Link { number, salt, end: Some(end) }),
                (None, Some(header)) => Some(Link { number, salt: header.salt, end: None }),
                (None, None) if has_later_batches(file.as_ref(), number) => {
                    chain.unreadable.push(number);
                    continue;
                }
                (None, None) => None,
            };
            match link {
                Some(link) => {
                    chain.links.push(link);
                    claim = header.map(|header| (header.previous, header.previous_end, header.previous_salt));
                }
                None => chain.dead.push(number),
            }
        }
        chain.links.reverse();
        Ok(chain)
    }

    fn has(&self, position: Position) -> bool {
        self.links.iter().any(|link| link.number == position.segment && link.salt == position.salt)
    }
}

/// What opening yields.
pub(crate) struct Recovered {
    pub index: Index,
    pub state: State,
    pub next_number: u64,
    /// Names that are no use any more.
    pub dead: Vec<u64>,
    /// Whether the index had to be built anew.
    pub rebuilt: bool,
}

/// Reads and mends. What is believed is made durable first: a process that was killed may have left writes, and changes
/// of names, that only the system's memory has.
pub(crate) struct Recovery<'a> {
    pub files: &'a dyn Files,
    pub options: &'a Options,
    pub quarantine: &'a Quarantine,
}

impl Recovery<'_> {
    /// Opens the index and makes up for what happened behind its checkpoint; builds it anew if it does not fit the log.
    pub fn open(&self, names: &[String]) -> Result<Recovered, OpenError> {
        self.files.sync_names().map_err(OpenError::files("sync the store's folder"))?;
        let numbers: Vec<u64> = names.iter().filter_map(|name| number_in(name, "segment-")).collect();
        let is_new = numbers.is_empty() && !names.iter().any(|name| name == crate::index::NAME);
        let (caught_up, rebuilt) = match self.catch_up(&numbers) {
            Ok(caught_up) => (caught_up, false),
            Err(_) if is_new => (self.rebuild(&numbers, None)?, false),
            Err(why) => {
                tracing::warn!(why, segments = numbers.len(), "building the index anew from the log");
                (self.rebuild(&numbers, None)?, true)
            }
        };
        let (index, state, chain) = caught_up;
        for number in &chain.unreadable {
            let why = "no header can be read, so its records cannot be told from forged ones";
            self.quarantine.segment(self.files, *number, why);
        }
        let in_use = |number: u64| {
            state.segments.contains(number)
                || chain.links.iter().any(|link| link.number == number)
                || chain.unreadable.contains(&number)
        };
        let dead = numbers.iter().copied().filter(|number| !in_use(*number)).collect();
        let next_number = numbers.iter().max().map_or(1, |newest| newest + 1);
        Ok(Recovered { index, state, next_number, dead, rebuilt })
    }

    /// Opens the index and replays what the log has behind its checkpoint; or says why that is of no use.
    fn catch_up(&self, numbers: &[u64]) -> Result<(Index, State, Chain), String> {
        let (index, checkpoint, chain) = self.open_index(numbers)?;
        let mut state = self.state(&index, &checkpoint).map_err(|error| error.to_string())?;
        // What is too much for the layers is more than the server would have let wait; the rest is written down while mail is
        // taken again.
        let most = 2 * self.options.lag_messages;
        self.replay((&index, most), &mut state, &chain, None).map_err(|error| error.to_string())?;
        // Segments that were freed since the checkpoint are still in its books, but nobody needs them.
        let missing: Vec<u64> = state.segments.numbers().filter(|number| !numbers.contains(number)).collect();
        for number in missing {
            let newer_than_some = numbers.iter().any(|present| *present < number);
            if checkpoint.segments.get(number).live > 0 || newer_than_some {
                return Err("segments of the log are missing".into());
            }
            state.segments.remove(number);
        }
        Ok((index, state, chain))
    }

    /// The index, its checkpoint and the segments from there on; or why it is of no use.
    fn open_index(&self, numbers: &[u64]) -> Result<(Index, Checkpoint, Chain), String> {
        let text = |error: IndexError| error.to_string();
        let index = Index::open(self.files, self.options.index_cache).map_err(text)?;
        let checkpoint = index.checkpoint().map_err(text)?.ok_or("the index is empty")?;
        let position = checkpoint.position;
        let since = numbers.iter().copied().filter(|number| *number >= position.segment).collect();
        let chain = Chain::new(self.files, since).map_err(|error| error.to_string())?;
        if position.segment != 0 && !chain.has(position) {
            return Err("the index covers another log than the one that is there".into());
        }
        Ok((index, checkpoint, chain))
    }

    fn state(&self, index: &Index, checkpoint: &Checkpoint) -> Result<State, IndexError> {
        Ok(State::new(index.snapshot()?, checkpoint))
    }

    /// Makes the index anew from the oldest segment on, up to `until` or the end.
    pub fn rebuild(&self, numbers: &[u64], until: Option<Position>) -> Result<(Index, State, Chain), OpenError> {
        let chain = Chain::new(self.files, numbers.to_vec()).map_err(OpenError::files("read the log"))?;
        let index = Index::create(self.files, self.options.index_cache)?;
        let empty = Checkpoint::empty();
        index.write(&Default::default(), &empty)?;
        let mut state = self.state(&index, &empty)?;
        self.replay((&index, self.options.checkpoint_messages), &mut state, &chain, until)?;
        Ok((index, state, chain))
    }

    /// Reads the chain from the state's position on and makes the changes again. When so many messages changed they are
    /// written to the index.
    fn replay(
        &self,
        index: (&Index, usize),
        state: &mut State,
        chain: &Chain,
        until: Option<Position>,
    ) -> Result<(), OpenError> {
        let start = state.position;
        let links: Vec<&Link> = chain.links.iter().filter(|link| link.number >= start.segment).collect();
        for (place, link) in links.iter().enumerate() {
            let from = if link.number == start.segment { start.offset } else { FIRST_BATCH };
            let done = self.replay_segment(index, state, link, from, until)?;
            if place % 8 == 7 {
                let messages = state.totals.messages;
                tracing::info!(segments = place + 1, of = links.len(), messages, "reading the log");
            }
            if done {
                break;
            }
        }
        Ok(())
    }

    /// One segment; true if `until` was reached.
    fn replay_segment(
        &self,
        (index, most): (&Index, usize),
        state: &mut State,
        link: &Link,
        from: u64,
        until: Option<Position>,
    ) -> Result<bool, OpenError> {
        let name = segment_name(link.number);
        let failed = |error| OpenError::Files { action: format!("read {name}"), error };
        let file = self.files.open(&name).map_err(failed)?;
        // What a process wrote that was killed before its sync can be read, but is not durable yet.
        file.sync().map_err(failed)?;
        let mut scan = Scan::new(file.as_ref(), link.number, link.salt, from, link.end).map_err(failed)?;
        let past = |offset: u64| until.is_some_and(|until| (link.number, offset) >= (until.segment, until.offset));
        let mut last_batch = None;
        while !past(scan.offset())
            && let Some(found) = scan.next()
        {
            match found {
                Found::Frame(header, payload) => {
                    last_batch = Some((header.base, header.at().end()));
                    match record::decode(&payload) {
                        Some((record, _)) => Self::redo(state, &record, &header)?,
                        None => self.damage(state, &mut scan, link.number, header.offset, header.at().end()),
                    }
                }
                Found::Damage { from, to } => self.damage(state, &mut scan, link.number, from, to),
            }
            state.segments.entry(link.number).used = scan.offset();
            if state.lag() >= most {
                Self::write_down(index, state)?;
            }
        }
        // While the server runs, its writer knows what is durable.
        if let (Some(batch), None, None) = (last_batch, link.end, until) {
            Self::write_again(file.as_ref(), batch).map_err(failed)?;
        }
        let end = scan.offset();
        state.segments.entry(link.number).used = end;
        if (link.number, end) > (state.position.segment, state.position.offset) {
            state.position = Position { segment: link.number, offset: end, salt: link.salt, ..state.position };
        }
        Ok(past(end))
    }

    /// Writes the last batch of the log once more, as it is. If its sync had failed before the process died, the system
    /// takes it for written, shows it to whoever reads, and a sync alone would not write it: it would vanish with the
    /// power, after what was done because of it.
    fn write_again(file: &dyn File, (base, end): (u64, u64)) -> io::Result<()> {
        let from = if base == FIRST_BATCH { 0 } else { base };
        let mut octets = vec![0; (end - from) as usize];
        file.read(&mut octets, from)?;
        file.write(&[io::IoSlice::new(&octets)], from)?;
        file.sync()
    }

    /// Makes a change again.
    fn redo(state: &mut State, record: &Record, header: &Header) -> Result<(), IndexError> {
        if state.position.sequence != 0 && header.sequence > state.position.sequence {
            let lost = header.sequence - state.position.sequence;
            tracing::error!(segment = header.segment, offset = header.offset, lost, "records of the log are missing");
        }
        let mut loaded = Loaded::new();
        for id in concerned(record) {
            loaded.insert(id, state.known(id).resolve(id)?);
        }
        state.apply(record, header.at(), &mut loaded);
        state.position = Position {
            segment: header.segment,
            offset: header.next_offset(),
            sequence: header.sequence + 1,
            salt: header.salt,
        };
        Ok(())
    }

    /// Writes down what is left in the layers of a state that was replayed up to `position`.
    pub fn complete(&self, index: &Index, state: &mut State, position: Position) -> Result<(), IndexError> {
        state.position = position;
        Self::write_down(index, state)
    }

    fn write_down(index: &Index, state: &mut State) -> Result<(), IndexError> {
        let Some(frozen) = state.freeze() else { return Ok(()) };
        let checkpoint = Checkpoint::of(state);
        index.write(&frozen, &checkpoint)?;
        state.thaw(Arc::new(index.snapshot()?), &checkpoint);
        Ok(())
    }

    fn damage(&self, state: &mut State, scan: &mut Scan<'_>, segment: u64, from: u64, to: u64) {
        state.segments.entry(segment).damaged = true;
        let at = FrameAt { segment, offset: from, length: u32::try_from(to - from).unwrap_or(u32::MAX) };
        self.quarantine.octets(self.files, at, &scan.octets(from, to));
    }
}
