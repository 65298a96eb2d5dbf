//! Content on its way in.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::committer::{Committer, Pinned};
use crate::engine::Engine;
use crate::error::{CommitError, IntakeError};
use crate::record::{ContentPlace, Payload, Record};

/// Disk set aside for content whose size was not announced.
const UNANNOUNCED: u64 = 64 << 10;
/// The most memory that is set aside before anything has arrived.
const FIRST: u64 = 16 << 10;
/// Pieces smaller than this are put together, so that a sender of many tiny ones costs no more than its octets.
const SMALL: usize = 2 << 10;
/// As much as is put together.
const JOINED: usize = 8 << 10;

/// Content on its way in. Dropping it abandons it.
#[derive(Debug)]
pub struct Incoming {
    engine: Arc<Engine>,
    committer: Arc<Committer>,
    /// What is in memory, in order; `joining` comes behind it.
    pieces: VecDeque<Bytes>,
    joining: BytesMut,
    /// Octets of both.
    held: u64,
    /// What is on disk already, in front of `pieces`.
    chunks: Vec<Pinned>,
    len: u64,
    /// Octets of memory that were set aside at the start.
    reserved: u64,
    /// Octets of memory that are accounted for.
    charged: u64,
    /// Octets of disk that were promised.
    promised: u64,
}

impl Incoming {
    pub(crate) fn new(
        engine: Arc<Engine>,
        committer: Arc<Committer>,
        expected: Option<u64>,
    ) -> Result<Self, IntakeError> {
        let promised = expected.unwrap_or(UNANNOUNCED);
        // An announcement costs its sender nothing: it may not keep others from the memory. More is taken as it arrives.
        let reserved = promised.min(engine.options.inline_limit).min(FIRST);
        engine.admit(promised)?;
        if !engine.memory.reserve(reserved) {
            engine.release(promised);
            return Err(IntakeError::Memory);
        }
        Ok(Self {
            engine,
            committer,
            pieces: VecDeque::new(),
            joining: BytesMut::new(),
            held: 0,
            chunks: Vec::new(),
            len: 0,
            reserved,
            charged: reserved,
            promised,
        })
    }

    /// Takes the next piece. Large content is written to disk meanwhile: the caller waits while the disk does, and so does
    /// its peer. After an error the content is of no more use.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), CommitError> {
        self.len += piece.len() as u64;
        self.held += piece.len() as u64;
        if piece.len() < SMALL {
            self.joining.extend_from_slice(&piece);
        } else {
            self.join();
            self.pieces.push_back(piece);
        }
        if self.joining.len() >= JOINED {
            self.join();
        }
        self.charge();
        while self.must_spill() {
            self.spill().await?;
        }
        Ok(())
    }

    /// Octets taken.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn join(&mut self) {
        if !self.joining.is_empty() {
            self.pieces.push_back(self.joining.split().freeze());
        }
    }

    fn must_spill(&self) -> bool {
        let streamed =
            !self.chunks.is_empty() || self.held > self.engine.options.inline_limit || self.engine.memory.is_pressed();
        streamed && self.held >= self.engine.options.chunk_size() as u64
    }

    /// Writes one chunk.
    async fn spill(&mut self) -> Result<(), CommitError> {
        let chunk = self.take(self.engine.options.chunk_size());
        let octets: u64 = chunk.iter().map(|piece| piece.len() as u64).sum();
        let payload = Payload::new(&Record::Chunk, chunk).ok_or_else(|| CommitError::Disk("too large".into()))?;
        self.chunks.push(self.committer.chunk(payload).await?);
        self.held -= octets;
        self.charge();
        Ok(())
    }

    /// The first octets in memory, at most `most`.
    fn take(&mut self, most: usize) -> Vec<Bytes> {
        self.join();
        let (mut taken, mut room) = (Vec::new(), most);
        while room > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            if piece.len() > room {
                self.pieces.push_front(piece.split_off(room));
            }
            room -= piece.len();
            taken.push(piece);
        }
        taken
    }

    /// Accounts for the memory in use: what was set aside, or more if more is held; what is held once it streams.
    fn charge(&mut self) {
        let now = if self.chunks.is_empty() { self.held.max(self.reserved) } else { self.held };
        if now != self.charged {
            self.engine.memory.change(self.charged, now);
            self.charged = now;
        }
    }

    /// The content is complete: what a message's record says of it, and what goes into the record's body.
    pub(crate) async fn finish(&mut self) -> Result<(ContentPlace, Vec<Bytes>), CommitError> {
        if self.chunks.is_empty() {
            self.join();
            return Ok((ContentPlace::Here, self.pieces.iter().cloned().collect()));
        }
        while self.held > 0 {
            self.spill().await?;
        }
        Ok((ContentPlace::Chunks(self.chunks.iter().map(Pinned::at).collect()), Vec::new()))
    }

    pub(crate) fn belongs_to(&self, engine: &Arc<Engine>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.engine.memory.change(self.charged, 0);
        self.engine.release(self.promised);
    }
}
