//! The asynchronous face: the engine, and the two threads that drive it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mail::{Clock, Destination, MessageId, Randomness, Timestamp};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::committer::Committer;
use crate::engine::Engine;
use crate::error::{CommitError, IntakeError, OpenError, ReadError};
use crate::files::Files;
use crate::incoming::Incoming;
use crate::message::{Counters, Cursor, Due, NewMessage, StoredMessage, Update};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::read::{FrameError, Part, read_body};
use crate::record::{Payload, Record};
use crate::state::Known;

/// The most octets of content that are handed out at once.
const PIECE: usize = 64 << 10;
/// How soon the housekeeper looks again when something failed.
const TROUBLED: Duration = Duration::from_secs(1);

/// A store; clones share it. Reading must happen within a Tokio runtime.
///
/// [`Store::close`] ends it in an orderly way. If the last clone is dropped instead, what is in line is still written, but
/// the drop blocks meanwhile.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<Engine>,
    committer: Arc<Committer>,
    bell: Arc<Bell>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("status", &self.status()).finish()
    }
}

impl Store {
    /// Opens the store, or makes it. Blocks; quick whatever is queued, unless the index must be built anew.
    pub fn open(
        options: Options,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        randomness: Randomness,
        metrics: Metrics,
    ) -> Result<Store, OpenError> {
        let engine = Arc::new(Engine::open(options, files, clock, randomness, metrics)?);
        engine.show();
        let committer = Arc::new(Committer::new(engine.clone()));
        let bell = Arc::new(Bell::default());
        let committing = spawn("store-commit", {
            let (committer, engine, bell) = (committer.clone(), engine.clone(), bell.clone());
            move || {
                committer.run(|| {
                    if engine.wants_maintenance() {
                        bell.ring();
                    }
                });
            }
        })?;
        let keeping = spawn("store-keep", {
            let (engine, bell) = (engine.clone(), bell.clone());
            move || keep_house(&engine, &bell)
        });
        let threads = match keeping {
            Ok(keeping) => Mutex::new(vec![committing, keeping]),
            Err(error) => {
                committer.close();
                return Err(error);
            }
        };
        Ok(Store { shared: Arc::new(Shared { engine, committer, bell, threads }) })
    }

    /// Takes content: floors are checked, and space and memory for the `expected` octets reserved.
    pub fn intake(&self, expected: Option<u64>) -> Result<Incoming, IntakeError> {
        Incoming::new(self.shared.engine.clone(), self.shared.committer.clone(), expected)
    }

    /// Commits a message. Durable when it returns; the message and `settles` are one atomic change. If the caller goes
    /// away while it waits, the message may or may not come to exist.
    pub async fn commit(&self, message: NewMessage, settles: Vec<Update>) -> Result<Arc<StoredMessage>, CommitError> {
        let NewMessage { id, envelope, trace, mut content, deliveries } = message;
        debug_assert!(content.belongs_to(&self.shared.engine), "content of another store");
        if self.shared.engine.state().in_layers(id).is_some() {
            return Err(CommitError::Exists(id));
        }
        let size = trace.len() as u64 + content.len();
        let (place, pieces) = content.finish().await?;
        let body = [trace].into_iter().filter(|trace| !trace.is_empty()).chain(pieces).collect();
        let stored = Arc::new(StoredMessage { id, envelope, size, deliveries });
        let record = Record::Message { message: stored.clone(), content: place, moved: false, settles };
        let payload = Payload::new(&record, body).ok_or_else(|| CommitError::Disk("too large".into()))?;
        self.shared.committer.commit(record, payload, content).await?;
        Ok(stored)
    }

    /// Makes changes, all or none. In line when this returns, in the order of the calls; the future ends when they are
    /// durable, and need not be awaited. Changes are never lost while the process lives.
    pub fn record(&self, updates: Vec<Update>) -> impl Future<Output = ()> + Send + 'static {
        let answer = (!updates.is_empty()).then(|| {
            let record = Record::Updates(updates);
            Payload::new(&record, Vec::new()).map(|payload| self.shared.committer.record(record, payload))
        });
        async move {
            match answer {
                None => {}
                // An error means that the store was closed under its users: what they wait for never comes.
                Some(Some(answer)) => match answer.await {
                    Ok(()) => {}
                    Err(_) => std::future::pending().await,
                },
                Some(None) => tracing::error!("changes of more than 2 GiB in one call cannot be recorded"),
            }
        }
    }

    /// A message, with every change that is durable.
    pub async fn message(&self, id: MessageId) -> Result<Option<Arc<StoredMessage>>, ReadError> {
        let known = self.shared.engine.state().known(id);
        match known {
            Known::Is(kept) => Ok(kept.map(|kept| kept.message.clone())),
            Known::Ask(_) | Known::Unavailable => {
                let kept = self.blocking(move |engine| Ok(engine.find(id)?)).await?;
                Ok(kept.map(|kept| kept.message.clone()))
            }
        }
    }

    /// A message's content, trace in front.
    pub async fn content(&self, id: MessageId) -> Result<Option<Content>, ReadError> {
        let engine = self.shared.engine.clone();
        let here = match (engine.memory.get(id), engine.state().known(id)) {
            (Some(pieces), Known::Is(Some(kept))) => {
                Some((pieces.into_iter().map(Part::Octets).collect(), kept.message.size))
            }
            _ => None,
        };
        let found = match here {
            Some(here) => Some(here),
            None => self.blocking(move |engine| engine.content(id)).await?,
        };
        Ok(found.map(|(parts, len)| Content { engine, id, len, parts }))
    }

    /// The first attempt is over: memory that holds the content may go.
    pub fn forget_content(&self, id: MessageId) {
        self.shared.engine.memory.forget(id);
    }

    /// All destinations with something scheduled or held.
    pub async fn destinations(&self) -> Result<Vec<(Destination, Counters)>, ReadError> {
        self.blocking(Engine::destinations).await
    }

    /// What is due at a destination up to `until`, by due time, behind `after`. Nothing held.
    pub async fn due(
        &self,
        destination: &Destination,
        after: Option<Cursor>,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Due>, ReadError> {
        let destination = destination.clone();
        self.blocking(move |engine| engine.due(&destination, after, until, limit)).await
    }

    /// Everything of a destination behind `after`: scheduled by due time, then held.
    pub async fn of_destination(
        &self,
        destination: &Destination,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<Due>, ReadError> {
        let destination = destination.clone();
        self.blocking(move |engine| engine.of_destination(&destination, after, limit)).await
    }

    /// Messages behind `after` in the order of ids, which is that of acceptance.
    pub async fn page(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<Arc<StoredMessage>>, ReadError> {
        self.blocking(move |engine| engine.page(after, limit)).await
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let engine = &self.shared.engine;
        let closed = engine.admit(0).err();
        let state = engine.state();
        Status {
            messages: state.totals.messages,
            deliveries: state.totals.deliveries,
            log_bytes: state.segments.used_bytes(),
            live_bytes: state.segments.live_bytes(),
            free_bytes: engine.space().map(|space| space.bytes),
            content_memory: engine.memory.used(),
            lag_messages: state.lag() as u64,
            quarantined: engine.quarantine.count(),
            closed: closed.map(|error| error.word()),
        }
    }

    /// Takes no more mail, writes what is in line, makes a last checkpoint and ends. Futures of other clones that wait for
    /// something that comes later never end.
    pub async fn close(self) {
        let shared = self.shared;
        // A panic in there was told by the panic's own message.
        let _ = spawn_blocking(move || shared.end(true)).await;
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Engine) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let engine = self.shared.engine.clone();
        match spawn_blocking(move || call(&engine)).await {
            Ok(result) => result,
            Err(error) => Err(ReadError::Disk(error.to_string())),
        }
    }
}

impl Shared {
    fn end(&self, checkpoint: bool) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        if threads.is_empty() {
            return;
        }
        self.engine.stop_intake();
        self.committer.close();
        self.bell.end();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
        if checkpoint && !self.engine.checkpoint() {
            tracing::warn!("no last checkpoint could be made: the next start reads more of the log");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end(false);
    }
}

fn spawn(name: &str, life: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new().name(name.into()).spawn(life).map_err(OpenError::files(format!("start the thread {name}")))
}

fn keep_house(engine: &Engine, bell: &Bell) {
    let mut patience = Duration::ZERO;
    while bell.wait(patience) {
        engine.maintain(&|| bell.going_on());
        let troubled = engine.trouble().is_some() || engine.is_failing();
        patience =
            if troubled { TROUBLED.min(engine.options.checkpoint_every) } else { engine.options.checkpoint_every };
    }
}

/// Wakes the housekeeper.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<Rung>,
    sound: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    wanted: bool,
    ended: bool,
}

impl Bell {
    fn ring(&self) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).wanted = true;
        self.sound.notify_one();
    }

    fn end(&self) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.sound.notify_one();
    }

    fn going_on(&self) -> bool {
        !self.rung.lock().unwrap_or_else(PoisonError::into_inner).ended
    }

    /// Waits to be rung, at most so long. False at the end.
    fn wait(&self, patience: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.sound.wait_timeout_while(rung, patience, |rung| !rung.wanted && !rung.ended);
        let mut rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        rung.wanted = false;
        !rung.ended
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
    /// Octets of it that messages in the queue need.
    pub live_bytes: u64,
    /// Free octets on the disk, if it tells.
    pub free_bytes: Option<u64>,
    /// Octets of content in memory.
    pub content_memory: u64,
    /// Changed messages that wait for a checkpoint.
    pub lag_messages: u64,
    /// Damaged records found since the start.
    pub quarantined: u64,
    /// Why no new mail is taken; nothing while it is.
    pub closed: Option<&'static str>,
}

/// A message's content on its way out, trace in front. What was begun can be read to the end even if the message is
/// finished meanwhile.
#[derive(Debug)]
pub struct Content {
    engine: Arc<Engine>,
    id: MessageId,
    len: u64,
    parts: VecDeque<Part>,
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
                Part::Frame(file, at) => {
                    let (engine, id) = (self.engine.clone(), self.id);
                    let read = spawn_blocking(move || match read_body(file.as_ref(), at) {
                        Ok(octets) => Ok(octets),
                        Err(FrameError::Disk(error)) => Err(ReadError::Disk(error.to_string())),
                        Err(FrameError::Gone | FrameError::Damaged(_)) => {
                            if let Err(error) = engine.bury(id) {
                                tracing::warn!(message = %id, %error, "damaged content cannot be put away yet");
                            }
                            Err(ReadError::Damaged(id))
                        }
                    });
                    match read.await.unwrap_or_else(|error| Err(ReadError::Disk(error.to_string()))) {
                        Ok(octets) => self.parts.push_front(Part::Octets(octets)),
                        Err(error) => {
                            self.parts.clear();
                            return Some(Err(error));
                        }
                    }
                }
            }
        }
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
