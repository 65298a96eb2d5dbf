//! Where damaged records go: copied into `quarantine/` for people to look at, told, counted.

use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::files::Files;
use crate::frame::{FrameAt, HEADER};
use crate::record::{self, Record};
use crate::segments::segment_name;

/// Counts what was put away since the start.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(AtomicU64);

impl Quarantine {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Keeps a copy of damaged octets of the log. Failing to do so must not stop the rest.
    pub fn octets(&self, files: &dyn Files, at: FrameAt, octets: &[u8]) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let name = format!("quarantine/{}-{:012}", segment_name(at.segment), at.offset);
        let kept = files.create(&name, octets.len() as u64).and_then(|file| {
            file.write(&[IoSlice::new(octets)], 0)?;
            file.sync()
        });
        let error = kept.err().map(tracing::field::display);
        // The head may have survived, and says whose mail it was.
        let message = survivor(octets).map(tracing::field::display);
        let (segment, offset, octets) = (at.segment, at.offset, octets.len());
        tracing::error!(segment, offset, octets, message, file = name, error, "a record of the log is damaged");
    }

    /// Puts a whole segment away.
    pub fn segment(&self, files: &dyn Files, number: u64, why: &'static str) {
        self.0.fetch_add(1, Ordering::Relaxed);
        let name = segment_name(number);
        let error = files.rename(&name, &format!("quarantine/{name}")).err().map(tracing::field::display);
        tracing::error!(segment = number, why, error, "a segment of the log was put into quarantine");
    }
}

fn survivor(octets: &[u8]) -> Option<mail::MessageId> {
    let payload = bytes::Bytes::copy_from_slice(octets.get(HEADER..)?);
    match record::decode(&payload)?.0 {
        Record::Message { message, .. } => Some(message.id),
        _ => None,
    }
}
