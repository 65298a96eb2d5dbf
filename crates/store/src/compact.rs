//! Compaction: live messages of the oldest segment are copied to the end of the log, so that the segment can be freed.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use mail::MessageId;

use crate::engine::{Engine, Entry};
use crate::frame::{FIRST_BATCH, FrameAt};
use crate::log::Need;
use crate::overlay::Kept;
use crate::read::FrameError;
use crate::record::{self, ContentPlace, Payload, Record};
use crate::scan::{Found, Scan, segment_header};

/// Octets that are copied in one batch.
const BATCH: u64 = 1 << 20;
/// A batch has at most one part in so many of the messages of a checkpoint.
const CHECKPOINT_SHARE: usize = 8;
/// Segments that the log may have beyond twice what is live before compaction begins.
const SLACK: u64 = 4;
/// Messages of the index that are looked through at once.
const PAGE: usize = 1000;

/// A message on its way to the end of the log.
struct Move {
    id: MessageId,
    /// How it was when its octets were read.
    from: (FrameAt, ContentPlace),
    content: ContentPlace,
    body: Bytes,
}

impl Engine {
    /// Whether the log is more than twice as large as what it is for.
    pub fn wants_compaction(&self) -> bool {
        let state = self.state();
        let segments = &state.segments;
        let oldest = segments.oldest();
        let may = oldest.is_some_and(|(number, segment)| number < state.checkpoint.segment && segment.pins == 0);
        let slack = SLACK * self.options.segment_size;
        may && segments.len() as u64 > SLACK && segments.used_bytes() > 2 * segments.live_bytes() + slack
    }

    /// Copies what lives in the oldest segment. `moved` is told after every batch. False if it could not be done to the
    /// end.
    pub fn compact(&self, going_on: &dyn Fn() -> bool, moved: &mut dyn FnMut()) -> bool {
        let Some((number, _)) = self.state().segments.oldest() else { return false };
        match self.compact_segment(number, going_on, moved) {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(segment = number, %error, "compaction stopped");
                false
            }
        }
    }

    fn compact_segment(&self, number: u64, going_on: &dyn Fn() -> bool, moved: &mut dyn FnMut()) -> io::Result<bool> {
        let found = self.messages_in(number)?;
        if !self.move_all(number, found, going_on, moved)? {
            return Ok(false);
        }
        if self.state().segments.get(number).live == 0 {
            return Ok(true);
        }
        // Something lives there that the walk did not meet: its record is damaged. The index knows whose it is.
        let mut after = None;
        loop {
            let page = self.page(after, PAGE).map_err(io::Error::other)?;
            let Some(last) = page.last() else { return Ok(true) };
            after = Some(last.id);
            let ids = page.iter().map(|message| message.id).collect();
            if !self.move_all(number, ids, going_on, moved)? {
                return Ok(false);
            }
        }
    }

    /// The messages that have a record or a chunk in a segment, alive or not.
    fn messages_in(&self, number: u64) -> io::Result<BTreeSet<MessageId>> {
        let file = self.file(number)?;
        let (end, snapshot, mut found) = {
            let state = self.state();
            let frozen = state.frozen.iter().flat_map(|frozen| frozen.chunked_in(number));
            let found: BTreeSet<_> = state.active.chunked_in(number).chain(frozen).collect();
            (state.segments.get(number).used, state.snapshot.clone(), found)
        };
        let snapshot = snapshot.ok_or_else(|| io::Error::other("the index is being opened anew"))?;
        found.extend(snapshot.chunked_in(number).map_err(io::Error::other)?);
        // Without a header no frame can be believed; the index is asked about all messages then.
        let Some(header) = segment_header(file.as_ref(), number)? else { return Ok(found) };
        for item in Scan::new(file.as_ref(), number, header.salt, FIRST_BATCH, Some(end))? {
            if let Found::Frame(_, payload) = item
                && let Some((Record::Message { message, .. }, _)) = record::decode(&payload)
            {
                found.insert(message.id);
            }
        }
        Ok(found)
    }

    /// Moves those of the messages that still need the segment.
    fn move_all(
        &self,
        number: u64,
        ids: BTreeSet<MessageId>,
        going_on: &dyn Fn() -> bool,
        moved: &mut dyn FnMut(),
    ) -> io::Result<bool> {
        let most = (self.options.checkpoint_messages / CHECKPOINT_SHARE).max(1);
        let (mut moves, mut octets) = (Vec::new(), 0);
        for id in ids {
            if !going_on() {
                return Ok(false);
            }
            let Some(kept) = self.find(id).map_err(io::Error::other)? else { continue };
            if kept.frames().all(|at| at.segment != number) {
                continue;
            }
            let next = self.prepare(&kept, number)?;
            octets += next.body.len() as u64;
            moves.push(next);
            if octets >= BATCH || moves.len() >= most {
                self.relocate(std::mem::take(&mut moves))?;
                octets = 0;
                moved();
            }
        }
        self.relocate(moves)?;
        Ok(true)
    }

    /// Reads what must move; chunks are copied at once, one by one.
    fn prepare(&self, kept: &Kept, number: u64) -> io::Result<Move> {
        let id = kept.message.id;
        let from = (kept.record, kept.content.clone());
        let lost = |from| Move { id, from, content: ContentPlace::Lost, body: Bytes::new() };
        if kept.content == ContentPlace::Lost {
            return Ok(lost(from));
        }
        let Some(body) = self.body_or_damage(kept.record)? else { return Ok(lost(from)) };
        let ContentPlace::Chunks(chunks) = &kept.content else {
            return Ok(Move { id, from, content: ContentPlace::Here, body });
        };
        let mut copied = Vec::with_capacity(chunks.len());
        for at in chunks {
            if at.segment != number {
                copied.push(*at);
                continue;
            }
            let Some(chunk) = self.body_or_damage(*at)? else { return Ok(lost(from)) };
            copied.push(self.append_chunk(chunk)?);
        }
        Ok(Move { id, from, content: ContentPlace::Chunks(copied), body })
    }

    /// A frame's body; `None` if it is damaged, which is then put on record.
    fn body_or_damage(&self, at: FrameAt) -> io::Result<Option<Bytes>> {
        match self.read_body(at) {
            Ok(body) => Ok(Some(body)),
            Err(FrameError::Damaged(octets)) => {
                self.quarantine.octets(self.files.as_ref(), at, &octets);
                self.state_mut().segments.entry(at.segment).damaged = true;
                Ok(None)
            }
            Err(FrameError::Gone) => Err(io::Error::other("a segment is gone")),
            Err(FrameError::Disk(error)) => Err(error),
        }
    }

    fn append_chunk(&self, chunk: Bytes) -> io::Result<FrameAt> {
        let payload = Payload::new(&Record::Chunk, vec![chunk]).ok_or_else(|| io::Error::other("too large"))?;
        let written = self.append(&[Entry { record: Record::Chunk, payload }], Need::May);
        // The segment that is compacted is older and not free yet, so nothing frees the copy before it is needed.
        self.unpin(&written.placed);
        match (written.placed.first(), written.error) {
            (Some(at), _) => Ok(*at),
            (None, error) => Err(error.unwrap_or_else(|| io::Error::other("not written"))),
        }
    }

    /// Appends the messages as they are now, with the octets that were read, and forgets where they were.
    fn relocate(&self, moves: Vec<Move>) -> io::Result<()> {
        if moves.is_empty() {
            return Ok(());
        }
        // With the writer held nobody changes a message between this look at it and its new record.
        let mut writer = self.writer();
        let mut entries = Vec::with_capacity(moves.len());
        for Move { id, from, content, body } in moves {
            let Some(kept) = self.find(id).map_err(io::Error::other)? else { continue };
            if (kept.record, &kept.content) != (from.0, &from.1) {
                continue;
            }
            let record = Record::Message { message: kept.message.clone(), content, moved: true, settles: Vec::new() };
            let payload = Payload::new(&record, vec![body]).ok_or_else(|| io::Error::other("too large"))?;
            entries.push(Entry { record, payload });
        }
        let written = self.append_as(&mut writer, &entries, Need::May);
        self.metrics.moved.inc_by(written.placed.len() as u64);
        written.error.map_or(Ok(()), Err)
    }

    /// A message's content was found damaged: what is left is put away, and the message goes on without content.
    pub fn bury(&self, id: MessageId) -> io::Result<()> {
        let Some(kept) = self.find(id).map_err(io::Error::other)? else { return Ok(()) };
        let mut damaged = false;
        for at in kept.frames() {
            damaged |= self.body_or_damage(at)?.is_none();
        }
        if !damaged || kept.content == ContentPlace::Lost {
            return Ok(());
        }
        let from = (kept.record, kept.content.clone());
        self.relocate(vec![Move { id, from, content: ContentPlace::Lost, body: Bytes::new() }])
    }
}
