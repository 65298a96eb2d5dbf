//! What frames say: a small head that tells what happened, and a body of content octets that is never copied.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::former;
use crate::frame::FrameAt;
use crate::message::{ScheduleClock, StoredMessage, Update};

/// The head of a frame: one atomic change. On disk its version goes before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// A message with all its deliveries. The body is its trace and, unless it lies in chunks, its content.
    Message {
        message: Arc<StoredMessage>,
        content: ContentPlace,
        /// Whether the message exists already: this record takes the place of its former one.
        moved: bool,
        /// Changes of other messages that happen together with it.
        settles: Vec<Update>,
    },
    /// Changes.
    Updates(Vec<Update>),
    /// A piece of content, the body, that belongs to a message only if a message's record says so.
    Chunk,
    /// Nothing: written to see whether the disk works.
    Probe,
    /// What the clock of the schedule showed.
    Clock(ScheduleClock),
}

/// Where the content of a message is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContentPlace {
    /// In the body.
    Here,
    /// In these chunks, in this order, behind the body.
    Chunks(Vec<FrameAt>),
    /// Nowhere: it was found damaged.
    Lost,
}

/// A frame's payload, ready to be written.
#[derive(Debug)]
pub(crate) struct Payload {
    head: Vec<u8>,
    body: Vec<Bytes>,
    length: u32,
    crc: u32,
}

/// What a head begins with: the version of what follows. Version 1 had no such octet: its heads begin with the kind of the
/// record, 0 to 3.
const VERSION: u8 = 0x82;

/// Octets of the number in front of a head that tells its length.
const PREFIX: usize = 4;

/// A payload has fewer octets than this.
pub(crate) const MOST: u32 = 1 << 31;

impl Payload {
    /// Encodes and sums; done by the caller of the committer, so that the work spreads over the processors. `None` if it
    /// would be larger than a frame can be.
    pub fn new(record: &Record, body: Vec<Bytes>) -> Option<Self> {
        let mut head = vec![0; PREFIX];
        head.push(VERSION);
        let mut head = postcard::to_extend(record, head).ok()?;
        let length = u32::try_from(head.len() - PREFIX).ok()?;
        head[..PREFIX].copy_from_slice(&length.to_le_bytes());
        let crc = body.iter().fold(crc32c::crc32c(&head), |crc, piece| crc32c::crc32c_append(crc, piece));
        let length = head.len() + body.iter().map(Bytes::len).sum::<usize>();
        let length = u32::try_from(length).ok().filter(|length| *length < MOST)?;
        Some(Self { head, body, length, crc })
    }

    /// Octets.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The checksum.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The octets, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.head.as_slice()).chain(self.body.iter().map(AsRef::as_ref))
    }

    /// The body's pieces.
    pub fn body(&self) -> &[Bytes] {
        &self.body
    }
}

/// Takes a payload apart; `None` if it is none. The checksum was verified before.
pub(crate) fn decode(payload: &Bytes) -> Option<(Record, Bytes)> {
    let body = body(payload)?;
    let head = &payload[PREFIX..payload.len() - body.len()];
    let record = match head.split_first()? {
        (&VERSION, head) => postcard::from_bytes(head).ok()?,
        _ => former::decode(head)?,
    };
    Some((record, body))
}

/// The body of a payload alone.
pub(crate) fn body(payload: &Bytes) -> Option<Bytes> {
    let prefix = payload.get(..PREFIX)?.try_into().ok()?;
    let start = PREFIX.checked_add(u32::from_le_bytes(prefix) as usize)?;
    (start <= payload.len()).then(|| payload.slice(start..))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::message;

    #[test]
    fn a_message_round_trips_with_its_body() {
        let settles = vec![Update::Split { id: message(2).id, number: 1, into: message(2).deliveries.clone() }];
        let chunks = ContentPlace::Chunks(vec![FrameAt { segment: 3, offset: 8192, length: 70 }]);
        let record = Record::Message { message: Arc::new(message(1)), content: chunks, moved: true, settles };
        let payload = Payload::new(&record, vec![Bytes::from_static(b"Received: "), Bytes::from_static(b"x")]).unwrap();
        let octets = Bytes::from(payload.slices().collect::<Vec<_>>().concat());
        assert_eq!(octets.len(), payload.length() as usize);
        assert_eq!(crc32c::crc32c(&octets), payload.crc());
        assert_eq!(decode(&octets), Some((record, Bytes::from_static(b"Received: x"))));
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&Bytes::from(octets));
        }
    }
}
