//! The log's bytes: the header of a segment and the frames in it.
//!
//! A segment is two header blocks, each a full copy, and then batches of frames. A batch starts on a block boundary, so
//! that a block that is durable is never written again. A frame says where it stands, in which batch, and how many frames
//! of the batch follow it; stale bytes of the file's former life are told apart by the segment's salt, a secret number
//! that nobody who sends mail can put into content.

use serde::{Deserialize, Serialize};

/// What the disk writes at once; batches start at multiples of it.
pub(crate) const BLOCK: u64 = 4096;
/// Where the first batch of a segment starts.
pub(crate) const FIRST_BATCH: u64 = 2 * BLOCK;
/// Octets of a frame's header.
pub(crate) const HEADER: usize = 60;
/// What every frame starts with; the digit is the version of the format.
pub(crate) const MAGIC: [u8; 4] = *b"PRf1";
const SEGMENT_MAGIC: [u8; 8] = *b"PRlog\r\n1";

/// The next block boundary at or behind `offset`.
pub(crate) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK)
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FrameAt {
    /// The segment's number.
    pub segment: u64,
    /// Of its header in the segment.
    pub offset: u64,
    /// Octets of its payload.
    pub length: u32,
}

impl FrameAt {
    /// Octets that it takes in the log.
    pub fn size(&self) -> u64 {
        HEADER as u64 + u64::from(self.length)
    }

    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset + self.size()
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Octets of the payload.
    pub length: u32,
    /// The segment's.
    pub salt: u64,
    /// The segment's number.
    pub segment: u64,
    /// Grows by one from frame to frame, through all segments.
    pub sequence: u64,
    /// Where the header is in the segment.
    pub offset: u64,
    /// Where the batch starts: all before it was durable when this frame was written.
    pub base: u64,
    /// How many frames of the batch follow.
    pub left: u32,
    /// Of the payload.
    pub crc: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.base.to_le_bytes());
        out[48..52].copy_from_slice(&self.left.to_le_bytes());
        out[52..56].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..56]);
        out[56..60].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `None` if these octets are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        if bytes[..4] != MAGIC || crc32c::crc32c(&bytes[..56]) != u32_at(bytes, 56)? {
            return None;
        }
        Some(Self {
            length: u32_at(bytes, 4)?,
            salt: u64_at(bytes, 8)?,
            segment: u64_at(bytes, 16)?,
            sequence: u64_at(bytes, 24)?,
            offset: u64_at(bytes, 32)?,
            base: u64_at(bytes, 40)?,
            left: u32_at(bytes, 48)?,
            crc: u32_at(bytes, 52)?,
        })
    }

    /// Where the frame is.
    pub fn at(&self) -> FrameAt {
        FrameAt { segment: self.segment, offset: self.offset, length: self.length }
    }

    /// Where the next frame starts if nothing is damaged: right behind this one, or at the next batch.
    pub fn next_offset(&self) -> u64 {
        let end = self.at().end();
        if self.left == 0 { align(end) } else { end }
    }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The segment's number; never used twice for durable frames.
    pub number: u64,
    /// Tells its frames from stale ones.
    pub salt: u64,
    /// The number of the segment before it in the log; 0 for none.
    pub previous: u64,
    /// Where the valid part of the previous one ends.
    pub previous_end: u64,
    /// The salt of the previous one, in case its own header is damaged.
    pub previous_salt: u64,
}

impl SegmentHeader {
    /// Both copies, `FIRST_BATCH` octets.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        for (place, number) in
            [self.number, self.salt, self.previous, self.previous_end, self.previous_salt].into_iter().enumerate()
        {
            block[8 + 8 * place..16 + 8 * place].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&block[..48]);
        block[48..52].copy_from_slice(&crc.to_le_bytes());
        block.repeat(2)
    }

    /// Reads one copy.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let block = block.get(..52)?;
        if block[..8] != SEGMENT_MAGIC || crc32c::crc32c(&block[..48]) != u32_at(block, 48)? {
            return None;
        }
        Some(Self {
            number: u64_at(block, 8)?,
            salt: u64_at(block, 16)?,
            previous: u64_at(block, 24)?,
            previous_end: u64_at(block, 32)?,
            previous_salt: u64_at(block, 40)?,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        (any::<[u64; 5]>(), any::<[u32; 3]>()).prop_map(
            |([salt, segment, sequence, offset, base], [length, left, crc])| Header {
                length,
                salt,
                segment,
                sequence,
                offset,
                base,
                left,
                crc,
            },
        )
    }

    proptest! {
        #[test]
        fn headers_round_trip(header in header()) {
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }

        #[test]
        fn a_header_with_any_bit_changed_is_none(header in header(), bit in 0..HEADER * 8) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes), None);
        }

        #[test]
        fn arbitrary_octets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Header::decode(&bytes);
            let _ = SegmentHeader::decode(&bytes);
        }

        #[test]
        fn segment_headers_round_trip(n in any::<[u64; 5]>()) {
            let header = SegmentHeader {
                number: n[0], salt: n[1], previous: n[2], previous_end: n[3], previous_salt: n[4],
            };
            let bytes = header.encode();
            prop_assert_eq!(bytes.len() as u64, FIRST_BATCH);
            prop_assert_eq!(SegmentHeader::decode(&bytes), Some(header));
            prop_assert_eq!(SegmentHeader::decode(&bytes[BLOCK as usize..]), Some(header));
        }
    }
}
