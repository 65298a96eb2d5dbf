//! Content on its way out.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mail::MessageId;

use crate::engine::Engine;
use crate::error::ReadError;
use crate::files::File;
use crate::frame::FrameAt;
use crate::life::Calls;
use crate::read::{FrameError, Part, read_body};

/// The most octets of content that are handed out at once.
const PIECE: usize = 64 << 10;

/// A message's content on its way out, trace in front. What was begun can be read to the end even if the message is
/// finished meanwhile.
#[derive(Debug)]
pub struct Content {
    pub(crate) engine: Arc<Engine>,
    pub(crate) calls: Calls,
    pub(crate) id: MessageId,
    pub(crate) len: u64,
    pub(crate) parts: VecDeque<Part>,
}

impl Content {
    /// Octets in total.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next piece of at most 64 KiB, verified; `None` at the end. After an error there is no more.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        loop {
            match self.parts.pop_front()? {
                Part::Octets(octets) if octets.is_empty() => {}
                Part::Octets(mut octets) => {
                    if octets.len() > PIECE {
                        self.parts.push_front(Part::Octets(octets.split_off(PIECE)));
                    }
                    return Some(Ok(octets));
                }
                Part::Frame(file, at) => match self.read(file, at).await {
                    Ok(octets) => self.parts.push_front(Part::Octets(octets)),
                    Err(error) => {
                        self.parts.clear();
                        return Some(Err(error));
                    }
                },
            }
        }
    }

    async fn read(&self, file: Arc<dyn File>, at: FrameAt) -> Result<Bytes, ReadError> {
        let (engine, id) = (self.engine.clone(), self.id);
        let read = self.calls.make(move || match read_body(file.as_ref(), at) {
            Ok(octets) => Ok(octets),
            Err(FrameError::Disk(error)) => {
                tracing::error!(message = %id, %error, "the store cannot read");
                Err(ReadError::Disk(error.to_string()))
            }
            Err(FrameError::Gone | FrameError::Damaged(_)) => {
                if let Err(error) = engine.bury(id) {
                    tracing::warn!(message = %id, %error, "damaged content cannot be put away yet");
                }
                Err(ReadError::Damaged(id))
            }
        });
        read.await.unwrap_or_else(|error| Err(ReadError::Disk(error)))
    }

    /// All that is left, in one piece; for content that is known to be small.
    pub async fn collect(mut self) -> Result<Bytes, ReadError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all.freeze())
    }
}
