//! Writing the log: batches of frames into preallocated segments, each durable before the next begins.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::Randomness;

use crate::files::{File, Files, unless_gone};
use crate::frame::{BLOCK, FIRST_BATCH, FrameAt, HEADER, Header, SegmentHeader, align};
use crate::options::Options;
use crate::record::Payload;
use crate::segments::{Position, number_in, segment_name, spare_name};

/// Who may take the last reserve of preallocated segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// New mail: not while the disk is full.
    May,
    /// What became of old mail: always.
    Must,
}

/// How often the first batch of a segment is tried in the same file.
const ATTEMPTS: u32 = 3;

/// The end of the log, where it grows.
#[derive(Debug)]
pub(crate) struct Writer {
    files: Arc<dyn Files>,
    spares: Arc<Spares>,
    randomness: Randomness,
    segment_size: u64,
    current: Option<Current>,
    /// Behind the last durable frame.
    tail: Position,
    next_number: u64,
    abandoned: Vec<u64>,
    /// Whether a write failed since the last one that did not.
    is_doubtful: bool,
}

/// The segment that is being filled.
#[derive(Debug)]
struct Current {
    file: Arc<dyn File>,
    header: SegmentHeader,
    size: u64,
    /// Where the next batch starts.
    offset: u64,
    /// How many times its first batch failed.
    failures: u32,
}

/// What became of a batch: its first frames may be durable though the rest failed.
#[derive(Debug)]
pub(crate) struct Written {
    /// Where the durable frames are, in order.
    pub placed: Vec<FrameAt>,
    /// Why the others are not.
    pub error: Option<io::Error>,
    /// Whether a crash now might leave some of the others on the disk all the same: nothing says yet that they are void.
    pub is_doubtful: bool,
}

impl Writer {
    /// Goes on behind `tail`, in a new segment: what a crash may have torn is never written to again.
    pub fn new(
        files: Arc<dyn Files>,
        spares: Arc<Spares>,
        randomness: Randomness,
        segment_size: u64,
        tail: Position,
        next_number: u64,
    ) -> Self {
        let abandoned = Vec::new();
        Self {
            files,
            spares,
            randomness,
            segment_size,
            current: None,
            tail,
            next_number,
            abandoned,
            is_doubtful: false,
        }
    }

    /// Behind the last durable frame.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Whether more than half of the current segment is used, or there is none: the next will be wanted soon.
    pub fn wants_spare(&self) -> bool {
        self.current.as_ref().is_none_or(|current| current.offset > current.size / 2)
    }

    /// The open file of the segment that is being filled.
    pub fn current_file(&self) -> Option<(u64, Arc<dyn File>)> {
        self.current.as_ref().map(|current| (current.header.number, current.file.clone()))
    }

    /// Segments that never held a durable frame.
    pub fn take_abandoned(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.abandoned)
    }

    /// Writes frames, in order, durably. After a failure the rest of the current segment is never believed: its
    /// successor's header will say where its valid part ends.
    pub fn append(&mut self, payloads: &[&Payload], need: Need) -> Written {
        let mut placed = Vec::with_capacity(payloads.len());
        while placed.len() < payloads.len() {
            let rest = &payloads[placed.len()..];
            match self.append_run(rest, need) {
                Ok(run) => placed.extend(run),
                Err(error) => return Written { placed, error: Some(error), is_doubtful: self.is_doubtful },
            }
        }
        Written { placed, error: None, is_doubtful: false }
    }

    /// Writes as many frames as the current segment has room for, or one at least into the next.
    fn append_run(&mut self, payloads: &[&Payload], need: Need) -> io::Result<Vec<FrameAt>> {
        let size = |payload: &Payload| HEADER as u64 + u64::from(payload.length());
        let first = payloads.first().map_or(0, |payload| size(payload));
        if self.current.as_ref().is_none_or(|current| current.offset + first > current.size) {
            self.current = Some(self.next_segment(first, need)?);
        }
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment")) };
        let mut room = current.size - current.offset;
        let fits = |payload: &&&Payload| {
            let fits = size(payload) <= room;
            room = room.saturating_sub(size(payload));
            fits
        };
        let run: Vec<&Payload> = payloads.iter().take_while(fits).copied().collect();
        match current.write(&run, self.tail.sequence) {
            Ok((placed, tail)) => {
                self.tail = tail;
                self.is_doubtful = false;
                Ok(placed)
            }
            Err(error) => {
                self.give_up_current();
                self.is_doubtful = true;
                Err(error)
            }
        }
    }

    /// A write to the current segment failed. If it has durable frames, its successor will say where they end. If not, it is
    /// begun again with a new salt, under which nothing counts that may have been written; but not for ever, as it may be
    /// the file that is bad.
    fn give_up_current(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        current.failures += 1;
        if self.tail.segment == current.header.number {
            return;
        }
        if current.failures < ATTEMPTS {
            current.header.salt = self.salt(current.header.number);
            self.current = Some(current);
        } else {
            self.abandoned.push(current.header.number);
        }
    }

    /// Starts a segment with room for a frame of `first` octets.
    fn next_segment(&mut self, first: u64, need: Need) -> io::Result<Current> {
        let size = align(FIRST_BATCH + first).max(self.segment_size);
        let number = self.next_number;
        // A number is used up whether or not this works out.
        self.next_number += 1;
        let file = match self.segment_file(number, size, need) {
            Ok(file) => file,
            Err(error) => {
                self.abandoned.push(number);
                return Err(error);
            }
        };
        let header = SegmentHeader {
            number,
            salt: self.salt(number),
            previous: self.tail.segment,
            previous_end: self.tail.offset,
            previous_salt: self.tail.salt,
        };
        Ok(Current { file, header, size, offset: FIRST_BATCH, failures: 0 })
    }

    /// Makes a segment's file; its size and name are durable.
    fn segment_file(&self, number: u64, size: u64, need: Need) -> io::Result<Arc<dyn File>> {
        let name = segment_name(number);
        let spare = if size == self.segment_size { self.spares.take(need) } else { None };
        let file = match spare {
            Some((spare, file)) => {
                self.files.rename(&spare, &name)?;
                file
            }
            None => {
                let file = self.files.create(&name, size)?;
                file.sync()?;
                file
            }
        };
        self.files.sync_names()?;
        Ok(file)
    }

    /// A new secret. Mixed with the number and the secret before it, so that even a generator that repeats itself after a
    /// restart does not repeat a salt.
    fn salt(&self, number: u64) -> u64 {
        let mixed =
            self.randomness.next_u64() ^ self.tail.salt.rotate_left(23) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1
    }
}

impl Current {
    /// Writes one batch, in one write and one sync.
    fn write(&mut self, payloads: &[&Payload], sequence: u64) -> io::Result<(Vec<FrameAt>, Position)> {
        static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        let base = self.offset;
        let mut offset = base;
        let mut headers = Vec::with_capacity(payloads.len());
        for (place, payload) in (0u64..).zip(payloads) {
            let header = Header {
                length: payload.length(),
                salt: self.header.salt,
                segment: self.header.number,
                sequence: sequence + place,
                offset,
                base,
                left: (payloads.len() as u64 - 1 - place) as u32,
                crc: payload.crc(),
            };
            offset = header.at().end();
            headers.push(header);
        }
        let end = align(offset);
        let encoded: Vec<_> = headers.iter().map(Header::encode).collect();
        let first = base == FIRST_BATCH;
        let segment_header = if first { self.header.encode() } else { Vec::new() };
        let mut slices = vec![IoSlice::new(&segment_header)];
        for (header, payload) in encoded.iter().zip(payloads) {
            slices.push(IoSlice::new(header));
            slices.extend(payload.slices().filter(|slice| !slice.is_empty()).map(IoSlice::new));
        }
        slices.push(IoSlice::new(&ZEROS[..(end - offset) as usize]));
        self.file.write(&slices, if first { 0 } else { base })?;
        self.file.sync()?;
        self.offset = end;
        let tail = Position {
            segment: self.header.number,
            offset: end,
            sequence: sequence + payloads.len() as u64,
            salt: self.header.salt,
        };
        Ok((headers.iter().map(Header::at).collect(), tail))
    }
}

/// Preallocated files that wait to become segments: made ahead, or recycled.
#[derive(Debug)]
pub(crate) struct Spares {
    files: Arc<dyn Files>,
    size: u64,
    reserve: usize,
    /// As many are kept of those that come back.
    most: usize,
    ready: Mutex<Ready>,
}

#[derive(Debug, Default)]
struct Ready {
    files: Vec<(String, Arc<dyn File>)>,
    next: u64,
}

impl Spares {
    /// Takes over the spares that are there; others of the name are removed.
    pub fn open(files: Arc<dyn Files>, names: &[String], options: &Options) -> io::Result<Self> {
        let (size, reserve) = (options.segment_size, options.reserve);
        // What is written from one checkpoint to the next comes back all at once.
        let most = reserve + 1 + (2 * options.checkpoint_bytes / size) as usize;
        let mut ready = Ready::default();
        for name in names {
            let Some(number) = number_in(name, "spare-") else { continue };
            ready.next = ready.next.max(number + 1);
            let file = files.open(name)?;
            if file.size()? == size && ready.files.len() < most {
                ready.files.push((name.clone(), file));
            } else {
                files.remove(name)?;
            }
        }
        Ok(Self { files, size, reserve, most, ready: Mutex::new(ready) })
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, need: Need) -> Option<(String, Arc<dyn File>)> {
        let mut ready = self.ready();
        if need == Need::May && ready.files.len() <= self.reserve { None } else { ready.files.pop() }
    }

    /// Whether there are as many as there should be: the reserve, and one for the next change of segments.
    pub fn is_full(&self) -> bool {
        self.ready().files.len() > self.reserve
    }

    /// Makes one more, so that the writer finds it ready.
    pub fn add(&self) -> io::Result<()> {
        let name = self.next_name();
        let made = self.files.create(&name, self.size).and_then(|file| file.sync().map(|()| file));
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // A half-made file only holds space that is short.
                let _ = self.files.remove(&name);
                return Err(error);
            }
        };
        self.files.sync_names()?;
        self.ready().files.push((name, file));
        Ok(())
    }

    /// Takes over a segment file that nobody needs any more, or removes it; to be followed by a sync of the names.
    pub fn recycle(&self, segment: &str, file: Option<Arc<dyn File>>) -> io::Result<()> {
        // Whoever still reads from it must not see it change.
        let welcome = self.ready().files.len() < self.most;
        let unread =
            file.filter(|file| Arc::strong_count(file) == 1 && file.size().is_ok_and(|size| size == self.size));
        match unread {
            Some(file) if welcome => {
                let name = self.next_name();
                self.files.rename(segment, &name)?;
                // Also if that sync fails: whoever makes a segment of it syncs the names again.
                self.ready().files.push((name, file));
            }
            _ => unless_gone(self.files.remove(segment))?,
        }
        Ok(())
    }

    /// Gives the space of those beyond the reserve back, as the disk is getting full.
    pub fn trim(&self) -> io::Result<()> {
        loop {
            let extra = {
                let mut ready = self.ready();
                if ready.files.len() > self.reserve + 1 { ready.files.pop() } else { None }
            };
            let Some((name, _)) = extra else { return Ok(()) };
            self.files.remove(&name)?;
        }
    }

    fn next_name(&self) -> String {
        let mut ready = self.ready();
        ready.next += 1;
        spare_name(ready.next)
    }
}
