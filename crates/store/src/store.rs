//! The asynchronous face.

use std::sync::Arc;

use bytes::Bytes;
use mail::{Clock, Destination, MessageId, Randomness, Timestamp};
use serde::Serialize;

use crate::error::*;
use crate::files::Files;
use crate::incoming::Incoming;
use crate::message::*;
use crate::options::Options;

/// A store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {}

#[allow(unused_variables, clippy::todo)]
impl Store {
    /// Opens the store, or makes it. Blocks; quick whatever is queued, unless the index must be built anew.
    pub fn open(options: Options, files: Arc<dyn Files>, clock: Arc<dyn Clock>, randomness: Randomness) -> Result<Store, OpenError> {
        todo!()
    }
    /// Takes content: floors are checked, and space and memory for the `expected` octets reserved.
    pub fn intake(&self, expected: Option<u64>) -> Result<Incoming, IntakeError> {
        todo!()
    }
    /// Commits a message. Durable when it returns; the message and `settles` are one atomic change.
    pub async fn commit(&self, message: NewMessage, settles: Vec<Update>) -> Result<Arc<StoredMessage>, CommitError> {
        todo!()
    }
    /// Makes changes, all or none. Queued at once, in the order of the calls; the future ends when they are durable.
    /// They are never lost while the process lives.
    pub fn record(&self, updates: Vec<Update>) -> impl Future<Output = ()> + Send + 'static {
        async { todo!() }
    }
    /// A message, with every change that is durable.
    pub async fn message(&self, id: MessageId) -> Result<Option<Arc<StoredMessage>>, ReadError> {
        todo!()
    }
    /// A message's content, trace in front.
    pub async fn content(&self, id: MessageId) -> Result<Option<Content>, ReadError> {
        todo!()
    }
    /// The first attempt is over: memory that holds the content may go.
    pub fn forget_content(&self, id: MessageId) {
        todo!()
    }
    /// All destinations with something scheduled or held.
    pub async fn destinations(&self) -> Result<Vec<(Destination, Counters)>, ReadError> {
        todo!()
    }
    /// What is due at a destination up to `until`, by due time.
    pub async fn due(&self, destination: &Destination, after: Option<Cursor>, until: Timestamp, limit: usize) -> Result<Vec<Due>, ReadError> {
        todo!()
    }
    /// Everything of a destination: scheduled by due time, then held.
    pub async fn of_destination(&self, destination: &Destination, after: Option<Cursor>, limit: usize) -> Result<Vec<Due>, ReadError> {
        todo!()
    }
    /// Messages by id, which is by time of acceptance.
    pub async fn page(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<Arc<StoredMessage>>, ReadError> {
        todo!()
    }
    /// How it is.
    pub fn status(&self) -> Status {
        todo!()
    }
    /// Writes what waits, makes a last checkpoint and ends.
    pub async fn close(self) {
        todo!()
    }
}

/// How a store is.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Messages in the queue.
    pub messages: u64,
    /// Deliveries in the queue.
    pub deliveries: u64,
    /// Octets of the log.
    pub log_bytes: u64,
    /// Octets of it that belong to messages in the queue.
    pub live_bytes: u64,
    /// Free octets on the disk.
    pub free_bytes: u64,
    /// Octets of content in memory.
    pub content_memory: u64,
    /// Changed messages that wait for a checkpoint.
    pub lag_messages: u64,
    /// Records in quarantine, found damaged since the start.
    pub quarantined: u64,
    /// Why no new mail is taken; nothing while it is.
    pub closed: Option<&'static str>,
}

/// A message's content on its way out, trace in front.
#[derive(Debug)]
pub struct Content {}

#[allow(clippy::todo)]
impl Content {
    /// Octets in total.
    pub fn len(&self) -> u64 {
        todo!()
    }
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The next piece, verified; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        todo!()
    }
    /// All that is left, in one piece; for content that is known to be small.
    pub async fn collect(self) -> Result<Bytes, ReadError> {
        todo!()
    }
}
