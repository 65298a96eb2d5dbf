//! Foreign octets for everything that reads the log, for a fuzzer to call.

use bytes::Bytes;

use crate::frame::{HEADER, Header, SegmentHeader};
use crate::record::{self, Payload};

/// Reads the octets as a header of a segment, as a frame, as a payload and as the head of a record. Nothing may panic,
/// and whatever is understood must be written and read again as the same.
pub fn decode_anything(octets: &[u8]) {
    if let Some(header) = SegmentHeader::decode(octets) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
    }
    if let Some(header) = Header::decode(octets) {
        assert_eq!(header.encode(), octets[..HEADER]);
    }
    round_trip(&Bytes::copy_from_slice(octets));
    // The same behind a proper prefix, so that a fuzzer need not find that out first.
    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX).to_le_bytes();
    round_trip(&Bytes::from([&length, octets].concat()));
}

fn round_trip(payload: &Bytes) {
    let Some((record, body)) = record::decode(payload) else { return };
    let again = Payload::new(&record, vec![body.clone()]).expect("it was not too large before");
    let written = Bytes::from(again.slices().collect::<Vec<_>>().concat());
    assert_eq!(crc32c::crc32c(&written), again.crc());
    assert_eq!(record::decode(&written), Some((record, body)));
}
