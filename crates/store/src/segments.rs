//! The books about the log's segments: how much of each is in use and how much of that is still needed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::frame::FrameAt;

/// A place between two batches of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The segment; 0 in an empty log.
    pub segment: u64,
    /// In the segment, behind the last frame.
    pub offset: u64,
    /// The number of the next frame.
    pub sequence: u64,
    /// The segment's salt, by which a log that was exchanged is noticed.
    pub salt: u64,
}

/// What is in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub messages: u64,
    pub deliveries: u64,
}

/// What is known of a segment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// Octets up to the end of its last valid frame.
    pub used: u64,
    /// Octets of frames that messages in the queue need.
    pub live: u64,
    /// Chunks that await their message's record; after a crash nobody sends one.
    #[serde(skip)]
    pub pins: u64,
    /// Whether something in it is damaged: its file is kept for people, not used again.
    pub damaged: bool,
}

/// All segments of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Segments(BTreeMap<u64, Segment>);

impl Segments {
    /// The books of a segment, opened if need be.
    pub fn entry(&mut self, number: u64) -> &mut Segment {
        self.0.entry(number).or_default()
    }

    /// The books of a segment; empty ones if there are none.
    pub fn get(&self, number: u64) -> Segment {
        self.0.get(&number).copied().unwrap_or_default()
    }

    pub fn contains(&self, number: u64) -> bool {
        self.0.contains_key(&number)
    }

    pub fn remove(&mut self, number: u64) {
        self.0.remove(&number);
    }

    pub fn oldest(&self) -> Option<(u64, Segment)> {
        self.0.first_key_value().map(|(number, segment)| (*number, *segment))
    }

    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A live message needs these frames from now on.
    pub fn need(&mut self, frames: impl Iterator<Item = FrameAt>) {
        for at in frames {
            self.entry(at.segment).live += at.size();
        }
    }

    /// Nobody needs these frames any more. Frames of segments that are gone do not count.
    pub fn release(&mut self, frames: impl Iterator<Item = FrameAt>) {
        for at in frames {
            if let Some(segment) = self.0.get_mut(&at.segment) {
                segment.live = segment.live.saturating_sub(at.size());
            }
        }
    }

    pub fn used_bytes(&self) -> u64 {
        self.0.values().map(|segment| segment.used).sum()
    }

    pub fn live_bytes(&self) -> u64 {
        self.0.values().map(|segment| segment.live).sum()
    }
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u64) -> String {
    format!("segment-{number:020}")
}

/// The name of a preallocated file in reserve.
pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:020}")
}

/// The number in a name with this prefix.
pub(crate) fn number_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}
