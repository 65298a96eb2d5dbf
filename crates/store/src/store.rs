//! The asynchronous face over the engine and what drives it.

use std::fmt;
use std::sync::Arc;

use mail::{Clock, Destination, MessageId, Randomness, Timestamp};
use serde::Serialize;

use crate::committer::Committer;
use crate::content::Content;
use crate::engine::Engine;
use crate::error::{CommitError, IntakeError, OpenError, ReadError};
use crate::files::Files;
use crate::incoming::Incoming;
use crate::life::Life;
use crate::message::{Counters, Cursor, Due, NewMessage, ScheduleClock, StoredMessage, Update};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::read::Part;
use crate::record::{MOST, Payload, Record};
use crate::state::Known;

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
    life: Life,
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
        let (engine, committer) = ready(options, files, clock, randomness, metrics)?;
        let life = Life::threaded(engine.clone(), committer.clone())?;
        Ok(Store { shared: Arc::new(Shared { engine, committer, life }) })
    }

    /// Opens the store without threads, for a simulation on one thread: the driver, while it runs, does what the threads
    /// do in service, and reading happens at once. Nothing but the arguments decides what is written when. Dropping store
    /// and driver is a crash of the process: what was in line is not written.
    #[cfg(any(test, feature = "testing"))]
    pub fn open_driven(
        options: Options,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        randomness: Randomness,
        metrics: Metrics,
    ) -> Result<(Store, crate::testing::Driver), OpenError> {
        let (engine, committer) = ready(options, files, clock, randomness.clone(), metrics)?;
        let (life, driver) = Life::driven(engine.clone(), committer.clone(), randomness);
        Ok((Store { shared: Arc::new(Shared { engine, committer, life }) }, driver))
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
    ///
    /// More than a frame of the log can hold (2 GiB) are made in several steps, each all or none.
    pub fn record(&self, updates: Vec<Update>) -> impl Future<Output = ()> + Send + 'static {
        let steps = steps(updates, MOST);
        let answers: Option<Vec<_>> = steps.map(|steps| {
            let in_line = |(record, payload)| self.shared.committer.record(record, payload);
            steps.into_iter().map(in_line).collect()
        });
        async move {
            let Some(answers) = answers else {
                tracing::error!("a change of more than 2 GiB cannot be recorded");
                return std::future::pending().await;
            };
            for answer in answers {
                // An error means that the store was closed under its users: what they wait for never comes.
                if answer.await.is_err() {
                    std::future::pending().await
                }
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
        let calls = self.shared.life.calls();
        Ok(found.map(|(parts, len)| Content { engine, calls, id, len, parts }))
    }

    /// The first attempt is over: memory that holds the content may go.
    pub fn forget_content(&self, id: MessageId) {
        self.shared.engine.memory.forget(id);
    }

    /// All destinations with something scheduled or held, in the order of their names.
    pub async fn destinations(&self) -> Result<Vec<(Destination, Counters)>, ReadError> {
        self.destinations_after(None, usize::MAX).await
    }

    /// Destinations behind one, in the order of their names, with something scheduled or held.
    pub async fn destinations_after(
        &self,
        after: Option<&Destination>,
        limit: usize,
    ) -> Result<Vec<(Destination, Counters)>, ReadError> {
        let after = after.cloned();
        self.blocking(move |engine| engine.destinations(after, limit)).await
    }

    /// How much waits for a destination.
    pub async fn counters(&self, destination: &Destination) -> Result<Counters, ReadError> {
        let destination = destination.clone();
        self.blocking(move |engine| engine.counters(&destination)).await
    }

    /// Messages by their ids; those that are not in the queue are missing.
    pub async fn messages(&self, ids: Vec<MessageId>) -> Result<Vec<Arc<StoredMessage>>, ReadError> {
        self.blocking(move |engine| engine.messages(&ids)).await
    }

    /// How many messages are in the queue.
    pub fn queued(&self) -> u64 {
        self.shared.engine.state().totals.messages
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

    /// What the schedule's clock showed last, as far as the store was told, also before the start. It may have gone on
    /// since by some seconds, or by minutes if nothing was written.
    pub fn schedule_clock(&self) -> Option<ScheduleClock> {
        *self.shared.engine.schedule_clock()
    }

    /// Tells what the schedule's clock shows. It is in the log in front of whatever is put in line from now on.
    pub fn show_schedule_clock(&self, clock: ScheduleClock) {
        if self.shared.engine.show_schedule(clock) {
            self.shared.committer.write_clock();
        }
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

    /// Brings its gauges up to date; by themselves they follow every few seconds.
    pub fn refresh_metrics(&self) {
        self.shared.engine.show();
    }

    /// Takes no more mail, writes what is in line, makes a last checkpoint and ends. Futures of other clones that wait for
    /// something that comes later never end.
    pub async fn close(self) {
        self.shared.life.end().await;
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Engine) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let engine = self.shared.engine.clone();
        self.shared.life.calls().make(move || call(&engine)).await.unwrap_or_else(|error| Err(ReadError::Disk(error)))
    }
}

/// Changes as records of at most so many octets each: one, if they fit. `None` if a single one is larger.
fn steps(updates: Vec<Update>, most: u32) -> Option<Vec<(Record, Payload)>> {
    if updates.is_empty() {
        return Some(Vec::new());
    }
    let record = Record::Updates(updates);
    if let Some(payload) = Payload::new(&record, Vec::new()).filter(|payload| payload.length() < most) {
        return Some(vec![(record, payload)]);
    }
    let Record::Updates(mut first) = record else { return None };
    if first.len() == 1 {
        return None;
    }
    let second = first.split_off(first.len() / 2);
    let mut all = steps(first, most)?;
    all.extend(steps(second, most)?);
    Some(all)
}

fn ready(
    options: Options,
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
    randomness: Randomness,
    metrics: Metrics,
) -> Result<(Arc<Engine>, Arc<Committer>), OpenError> {
    let engine = Arc::new(Engine::open(options, files, clock, randomness, metrics)?);
    engine.show();
    let committer = Arc::new(Committer::new(engine.clone()));
    Ok((engine, committer))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Delivery;

    #[test]
    fn changes_that_do_not_fit_into_one_frame_are_made_in_several_steps_in_order() {
        let update = |n: u64| Update::Delivery {
            id: MessageId::from_u128(u128::from(n)),
            number: 0,
            state: Delivery::new(Destination::new("mx:example.org"), [0], Timestamp::from_millis(n)),
        };
        let updates: Vec<_> = (0..100).map(update).collect();
        assert_eq!(steps(updates.clone(), MOST).unwrap().len(), 1);
        let several = steps(updates.clone(), 500).unwrap();
        assert!(several.iter().all(|(_, payload)| payload.length() < 500));
        let again = several.into_iter().flat_map(|(record, _)| match record {
            Record::Updates(updates) => updates,
            other => panic!("{other:?}"),
        });
        assert_eq!(again.collect::<Vec<_>>(), updates);
        assert!(steps(updates, 20).is_none());
    }
}
