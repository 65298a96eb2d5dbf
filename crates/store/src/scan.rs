//! Reading a segment from end to end, and telling a torn tail from damage.
//!
//! A batch is written when everything before it is durable, and says where it starts. So if something is wrong at some
//! place, and a later batch starts behind that place, or the segment's successor says that the segment reaches further,
//! then what is wrong *was* durable: it is damage, and the frames behind it still count. If nothing says so, it is the
//! tail that a crash tore, which nobody was told to rely on: the segment ends there.

use std::io;

use bytes::Bytes;
use memchr::memmem;

use crate::files::File;
use crate::frame::{BLOCK, FIRST_BATCH, HEADER, Header, MAGIC, SegmentHeader};

/// What is read at once.
const WINDOW: u64 = 1 << 20;
/// How often a failing read is tried before its blocks count as damaged.
const READ_ATTEMPTS: usize = 3;

/// Something in a segment.
#[derive(Debug)]
pub(crate) enum Found {
    /// A frame that is whole.
    Frame(Header, Bytes),
    /// Octets that were durable once and are damaged now.
    Damage { from: u64, to: u64 },
}

/// A walk through a segment.
pub(crate) struct Scan<'f> {
    window: Window<'f>,
    segment: u64,
    salt: u64,
    /// Where the valid part ends, if that is known.
    end: Option<u64>,
    offset: u64,
    /// The least number that the next frame may have.
    sequence: u64,
}

impl<'f> Scan<'f> {
    /// Walks from `offset`, the start of a batch, to the end, which only the last segment does not know.
    pub fn new(file: &'f dyn File, segment: u64, salt: u64, offset: u64, end: Option<u64>) -> io::Result<Self> {
        let size = file.size()?;
        let end = end.map(|end| end.min(size));
        let window = Window { file, size, start: 0, buffer: Vec::new(), unreadable: false };
        Ok(Self { window, segment, salt, end, offset, sequence: 0 })
    }

    /// Where it is: behind the last frame, or at the end.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The octets of a stretch, as far as they can be read.
    pub fn octets(&mut self, from: u64, to: u64) -> Vec<u8> {
        let to = to.min(self.window.size);
        if from >= to { Vec::new() } else { self.window.exact(from, to - from).map_or(Vec::new(), <[u8]>::to_vec) }
    }

    fn limit(&self) -> u64 {
        self.end.unwrap_or(self.window.size)
    }

    /// The header of a frame that may stand at `offset`.
    fn header(&mut self, offset: u64) -> Option<Header> {
        let header = Header::decode(self.window.exact(offset, HEADER as u64)?)?;
        let proper = header.salt == self.salt
            && header.segment == self.segment
            && header.offset == offset
            && header.base >= FIRST_BATCH
            && header.base <= offset
            && header.sequence >= self.sequence
            && header.at().end() <= self.limit();
        proper.then_some(header)
    }

    fn payload(&mut self, header: &Header) -> Option<Bytes> {
        let octets = self.window.exact(header.offset + HEADER as u64, u64::from(header.length))?;
        (crc32c::crc32c(octets) == header.crc).then(|| Bytes::copy_from_slice(octets))
    }

    /// The next whole frame's header at or behind `from`.
    fn search(&mut self, mut from: u64) -> Option<Header> {
        loop {
            let octets = self.window.some(from)?;
            match memmem::find(octets, &MAGIC) {
                Some(place) => {
                    from += place as u64;
                    match self.header(from) {
                        Some(header) => return Some(header),
                        None => from += 1,
                    }
                }
                // The magic number may straddle the edge.
                None => from += (octets.len() - MAGIC.len() + 1) as u64,
            }
        }
    }

    /// Something is wrong where it stands: where to go on if that is damage, nothing if it is a torn tail.
    fn resume(&mut self) -> Option<u64> {
        let behind = match self.header(self.offset) {
            Some(header) => header.at().end(),
            None => self.offset + 1,
        };
        let next = self.search(behind);
        if let Some(end) = self.end {
            return Some(next.map_or(end, |header| header.offset));
        }
        let mut later = next;
        while let Some(header) = later {
            if header.base > self.offset {
                return next.map(|header| header.offset);
            }
            later = self.search(header.at().end());
        }
        // A crash tears writes, but leaves nothing that the disk refuses to read.
        self.window.unreadable.then(|| next.map_or(self.window.size, |header| header.offset))
    }
}

impl Iterator for Scan<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.offset + HEADER as u64 > self.limit() {
            return None;
        }
        let offset = self.offset;
        if let Some(header) = self.header(offset)
            && let Some(payload) = self.payload(&header)
        {
            self.offset = header.next_offset().min(self.limit());
            self.sequence = header.sequence + 1;
            return Some(Found::Frame(header, payload));
        }
        self.offset = self.resume()?;
        Some(Found::Damage { from: offset, to: self.offset })
    }
}

/// The header of a segment, from whichever copy is whole. An error if there may be one that the disk does not give: what
/// can't be read is not to be taken for a segment that never was.
pub(crate) fn segment_header(file: &dyn File, number: u64) -> io::Result<Option<SegmentHeader>> {
    let mut unread = None;
    for offset in [0, BLOCK] {
        let mut block = [0; 64];
        match read_stubbornly(file, &mut block, offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => {
                unread = Some(error);
                continue;
            }
        }
        let header = SegmentHeader::decode(&block).filter(|header| header.number == number);
        if header.is_some() {
            return Ok(header);
        }
    }
    unread.map_or(Ok(None), Err)
}

/// Whether a segment without a header has frames of a second batch: then its header was durable once. Such frames are
/// not believed, as without a salt anybody could have made them up.
pub(crate) fn has_later_batches(file: &dyn File, number: u64) -> bool {
    let Ok(size) = file.size() else { return false };
    let mut window = Window { file, size, start: 0, buffer: Vec::new(), unreadable: false };
    let mut from = FIRST_BATCH;
    while let Some(octets) = window.some(from) {
        let Some(place) = memmem::find(octets, &MAGIC) else {
            from += (octets.len() - MAGIC.len() + 1) as u64;
            continue;
        };
        from += place as u64;
        let header = window.exact(from, HEADER as u64).and_then(Header::decode);
        if header.is_some_and(|h| h.segment == number && h.offset == from && h.base > FIRST_BATCH && h.base <= from) {
            return true;
        }
        from += 1;
    }
    // What the disk refuses to read may be one.
    window.unreadable
}

/// A part of a file in memory.
struct Window<'f> {
    file: &'f dyn File,
    size: u64,
    start: u64,
    buffer: Vec<u8>,
    /// Whether the disk refused to read a block; it then counts as zeros.
    unreadable: bool,
}

impl Window<'_> {
    /// Exactly these octets; `None` beyond the end of the file.
    fn exact(&mut self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size)?;
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            self.fill(offset, len.max(WINDOW));
        }
        let from = (offset - self.start) as usize;
        self.buffer.get(from..from + len as usize)
    }

    /// Some octets from `offset` on, enough for a header; `None` at the end of the file.
    fn some(&mut self, offset: u64) -> Option<&[u8]> {
        self.exact(offset, HEADER as u64)?;
        self.buffer.get((offset - self.start) as usize..)
    }

    fn fill(&mut self, offset: u64, len: u64) {
        let len = len.min(self.size - offset);
        self.start = offset;
        self.buffer.clear();
        self.buffer.resize(len as usize, 0);
        if read_stubbornly(self.file, &mut self.buffer, offset).is_ok() {
            return;
        }
        let mut at = 0;
        while at < self.buffer.len() {
            let end = (at + BLOCK as usize).min(self.buffer.len());
            if read_stubbornly(self.file, &mut self.buffer[at..end], offset + at as u64).is_err() {
                self.buffer[at..end].fill(0);
                self.unreadable = true;
            }
            at = end;
        }
    }
}

/// Reads; a failure may pass.
pub(crate) fn read_stubbornly(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut result = file.read(buffer, offset);
    for _ in 1..READ_ATTEMPTS {
        if result.is_ok() {
            break;
        }
        result = file.read(buffer, offset);
    }
    result
}
