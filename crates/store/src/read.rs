//! Reading content back, verified.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mail::MessageId;

use crate::engine::Engine;
use crate::error::ReadError;
use crate::files::File;
use crate::frame::{FrameAt, HEADER, Header};
use crate::record::{self, ContentPlace};
use crate::scan::read_stubbornly;

/// How often a look-up is repeated because the message was moved meanwhile.
const ATTEMPTS: usize = 8;

/// Why a frame cannot be read.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// Its segment was freed: nobody needs the frame any more.
    Gone,
    /// It is not what was written; these are its octets.
    Damaged(Vec<u8>),
    /// The disk failed.
    Disk(io::Error),
}

/// A part of a message's content.
#[derive(Debug)]
pub(crate) enum Part {
    /// In memory.
    Octets(Bytes),
    /// The body of a frame. As long as the file is held, its segment is not used for anything else.
    Frame(Arc<dyn File>, FrameAt),
}

/// Content up to this size is read when it is asked for.
const SMALL: u64 = 64 << 10;

impl Engine {
    /// The parts of a message's content, in order, and its length. Small content is read already, which saves its reader
    /// another trip to the disk.
    pub fn content(&self, id: MessageId) -> Result<Option<(VecDeque<Part>, u64)>, ReadError> {
        let Some((mut parts, len)) = self.parts(id)? else { return Ok(None) };
        if len <= SMALL
            && let [Part::Frame(file, at)] = parts.make_contiguous()
            // What is wrong with it shows when it is read again.
            && let Ok(octets) = read_body(file.as_ref(), *at)
        {
            parts = [Part::Octets(octets)].into();
        }
        Ok(Some((parts, len)))
    }

    fn parts(&self, id: MessageId) -> Result<Option<(VecDeque<Part>, u64)>, ReadError> {
        for _ in 0..ATTEMPTS {
            let Some(kept) = self.find(id)? else { return Ok(None) };
            if let Some(pieces) = self.memory.get(id) {
                return Ok(Some((pieces.into_iter().map(Part::Octets).collect(), kept.message.size)));
            }
            if kept.content == ContentPlace::Lost {
                return Err(ReadError::Damaged(id));
            }
            let parts = kept.frames().map(|at| Ok(Part::Frame(self.file(at.segment)?, at)));
            match parts.collect::<io::Result<_>>() {
                Ok(parts) => return Ok(Some((parts, kept.message.size))),
                // It was moved, or is gone by now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ReadError::Disk(error.to_string())),
            }
        }
        Err(ReadError::Disk("a segment of the log is missing".into()))
    }

    /// The body of a frame.
    pub fn read_body(&self, at: FrameAt) -> Result<Bytes, FrameError> {
        match self.file(at.segment) {
            Ok(file) => read_body(file.as_ref(), at),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FrameError::Gone),
            Err(error) => Err(FrameError::Disk(error)),
        }
    }
}

/// Reads a frame, verifies it and gives its body.
pub(crate) fn read_body(file: &dyn File, at: FrameAt) -> Result<Bytes, FrameError> {
    let mut octets = vec![0; HEADER + at.length as usize];
    match read_stubbornly(file, &mut octets, at.offset) {
        Ok(()) => {}
        // The file was cut.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(FrameError::Damaged(Vec::new())),
        Err(error) => return Err(FrameError::Disk(error)),
    }
    let whole = Header::decode(&octets)
        .is_some_and(|header| header.at() == at && header.crc == crc32c::crc32c(&octets[HEADER..]));
    if !whole {
        return Err(FrameError::Damaged(octets));
    }
    let octets = Bytes::from(octets);
    record::body(&octets.slice(HEADER..)).ok_or_else(|| FrameError::Damaged(octets.to_vec()))
}
