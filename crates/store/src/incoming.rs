//! Content on its way in.

use bytes::Bytes;

use crate::error::CommitError;

/// Content on its way in. Dropping it abandons it.
#[derive(Debug)]
pub struct Incoming {}

impl Incoming {
    /// Takes the next piece. Large content is written to disk meanwhile: the caller waits while the disk does.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), CommitError> {
        todo!("{piece:?}")
    }

    /// Octets taken.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
