//! The face of the room, and what its parts share.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dns::Resolve;
use mail::{Act, Clock, EnhancedCode, Envelope, Host, MessageId, MessageIds, Observer, Randomness, Reply};
use store::{CommitError, Incoming, ScheduleClock, Store};
use tokio::sync::Notify;

use crate::engine::Busy;
use crate::grant::Grant;
use crate::metrics::Metrics;
use crate::routing::{Explanation, SettingsError};
use crate::scheduler::{Jump, LaneId, Now, Scheduler};
use crate::settings::{Rules, Settings};

/// How far the schedule's clock goes before the store is told.
const TELL: Duration = Duration::from_secs(1);
/// Messages whose end is remembered, so that it is told once.
const FINISHED: usize = 4096;

/// What a queue is made of.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// Who answers for the DNS.
    pub resolver: Arc<dyn Resolve>,
    /// What the operator set.
    pub settings: Settings,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// For ids and jitter.
    pub randomness: Randomness,
    /// Who hears of all facts.
    pub observer: Arc<dyn Observer>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The queue; clones share it.
#[derive(Clone)]
pub struct Queue(pub(crate) Arc<Inner>);

/// Why a message was not accepted; nothing of it exists then.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// It could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It is for nobody.
    #[error("the message has no recipients")]
    NoRecipients,
    /// The queue holds as many messages as it may.
    #[error("the queue holds as many messages as it may")]
    Full,
}

impl SubmitError {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        match self {
            SubmitError::Commit(error) => error.reply(),
            SubmitError::Full => Reply::new(452, EnhancedCode::new(4, 3, 1), "The queue is full, try again later"),
            SubmitError::NoRecipients => Reply::new(554, EnhancedCode::new(5, 5, 1), "No valid recipients"),
        }
    }
}

impl Queue {
    /// A queue that does nothing yet: see [`Self::run`].
    pub fn new(parts: Parts) -> Result<Self, SettingsError> {
        let rules = Rules::new(parts.settings)?;
        let (windows, weights) = (rules.settings.windows.clone(), rules.settings.weights.clone());
        let mut scheduler = Scheduler::new(windows, weights, parts.randomness.next_u64());
        resume(&mut scheduler, &parts.store, &*parts.clock);
        let core = Core { scheduler, bells: BTreeMap::new(), busy: Busy::default(), planned: None, shown: None };
        Ok(Self(Arc::new(Inner {
            store: parts.store,
            resolver: parts.resolver,
            clock: parts.clock,
            ids: MessageIds::new(parts.randomness.clone()),
            randomness: parts.randomness,
            observer: parts.observer,
            metrics: parts.metrics,
            rules: RwLock::new(Arc::new(rules)),
            core: Mutex::new(core),
            granted: Notify::new(),
            stirred: Notify::new(),
            ended: Notify::new(),
            settled: Notify::new(),
            bookkeeping: AtomicUsize::new(0),
            finished: Mutex::default(),
            telling: Mutex::new(HashMap::new()),
            #[cfg(feature = "planted")]
            planted: Default::default(),
        })))
    }

    /// Room for a message of perhaps `expected` octets from outside: refused if the queue holds as many as it may.
    /// Reports to senders are not asked, for they empty the queue.
    pub fn intake(&self, expected: Option<u64>) -> Result<Incoming, SubmitError> {
        let most = self.0.rules().settings.most_messages;
        if most.is_some_and(|most| self.0.store.queued() >= most) {
            self.0.metrics.refused.inc();
            return Err(SubmitError::Full);
        }
        Ok(self.0.store.intake(expected).map_err(CommitError::from)?)
    }

    /// Takes responsibility for a message: plans its deliveries, makes all of it durable, and schedules it.
    ///
    /// `envelope.id` is the id of the message; `trace` goes in front of the content.
    pub async fn submit(&self, envelope: Envelope, trace: Bytes, content: Incoming) -> Result<MessageId, SubmitError> {
        if envelope.recipients.is_empty() {
            return Err(SubmitError::NoRecipients);
        }
        let id = envelope.id;
        self.0.commit(Arc::new(envelope), trace, content, Vec::new(), None).await?;
        Ok(id)
    }

    /// As [`Self::submit`], for a message that is on hold from its first moment on, until an operator releases it.
    pub async fn submit_held(
        &self,
        envelope: Envelope,
        trace: Bytes,
        content: Incoming,
        act: Act,
    ) -> Result<MessageId, SubmitError> {
        if envelope.recipients.is_empty() {
            return Err(SubmitError::NoRecipients);
        }
        let id = envelope.id;
        self.0.commit(Arc::new(envelope), trace, content, Vec::new(), Some(act)).await?;
        Ok(id)
    }

    /// Loads, schedules, finds hosts, writes reports: to be kept running from the start until [`Self::stop`].
    pub async fn run(&self) {
        crate::engine::run(&self.0).await;
    }

    /// The next permission to open a connection; waits for one. `None` once the queue is stopped.
    ///
    /// May be waited for by several tasks.
    pub async fn grant(&self) -> Option<Grant> {
        Grant::wait(&self.0).await
    }

    /// Replaces all settings at once. What is being attempted goes on; everything else is placed anew.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), SettingsError> {
        let rules = Rules::new(settings)?;
        let (windows, weights) = (rules.settings.windows.clone(), rules.settings.weights.clone());
        self.0.core(|core, now| {
            *self.0.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
            core.scheduler.reconfigure(windows, weights, now);
        });
        Ok(())
    }

    /// Which route a domain or address literal takes and why.
    pub fn explain(&self, host: &Host) -> Explanation {
        self.0.rules().explain(host)
    }

    /// Ends: no more grants, no more work for open connections. Returns when the last grant is dropped and all outcomes
    /// are recorded; what is not delivered stays in the store.
    pub async fn stop(&self) {
        let inner = &self.0;
        let bells = inner.core(|core, _| {
            core.scheduler.stop();
            core.bells.values().cloned().collect::<Vec<_>>()
        });
        bells.iter().for_each(|bell| bell.notify_waiters());
        inner.granted.notify_waiters();
        inner.stirred.notify_one();
        loop {
            let ended = inner.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let connections = inner.core(|core, _| core.scheduler.connections());
            if connections == 0 && inner.bookkeeping.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// What the parts of the room share.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Randomness,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) metrics: Metrics,
    pub(crate) ids: MessageIds,
    rules: RwLock<Arc<Rules>>,
    core: Mutex<Core>,
    /// A connection may be granted.
    pub(crate) granted: Notify,
    /// There is something for the engine to do.
    pub(crate) stirred: Notify,
    /// A connection or a piece of bookkeeping ended.
    pub(crate) ended: Notify,
    /// A delivery that was busy no longer is.
    pub(crate) settled: Notify,
    bookkeeping: AtomicUsize,
    finished: Mutex<Finished>,
    telling: Mutex<HashMap<MessageId, usize>>,
    #[cfg(feature = "planted")]
    pub(crate) planted: crate::planted::Slot,
}

/// The messages whose end was told last.
#[derive(Default)]
struct Finished {
    known: HashSet<MessageId>,
    order: VecDeque<MessageId>,
}

impl Finished {
    /// Whether the message is not among them; from now on it is.
    fn is_new(&mut self, id: MessageId) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > FINISHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// What the lock protects.
pub(crate) struct Core {
    pub(crate) scheduler: Scheduler,
    /// One per lane with connections: rung when an idle one has something to do.
    pub(crate) bells: BTreeMap<LaneId, Arc<Notify>>,
    /// What the engine is at.
    pub(crate) busy: Busy,
    /// When the engine wakes by itself.
    pub(crate) planned: Option<Instant>,
    /// What the store was last told about the schedule's clock.
    pub(crate) shown: Option<ScheduleClock>,
}

impl Core {
    /// Reads the clocks. A jump is noticed with the first reading after it: what is decided by the new time of the wall
    /// clock must not meet a schedule that still has the old one.
    fn now(&mut self, clock: &dyn Clock) -> Now {
        let read = self.scheduler.now(clock.instant(), clock.now());
        match self.scheduler.watch_clocks(read) {
            None => return read,
            Some(Jump::Ahead(by)) => {
                tracing::warn!(seconds = by.as_secs(), "the wall clock jumped ahead; nothing expires for an hour");
            }
            Some(Jump::Back(by)) => {
                tracing::warn!(
                    seconds = by.as_secs(),
                    "the wall clock went back; attempts come when they would have come"
                );
            }
        }
        self.scheduler.now(read.instant, read.wall())
    }

    /// What the store is to know of the schedule's clock, if there is news.
    fn news(&mut self, now: Now) -> Option<ScheduleClock> {
        let clock = ScheduleClock { time: now.due, lead: now.lead };
        let known = self.shown.is_some_and(|shown| shown.lead == now.lead && now.due.since(shown.time) < TELL);
        if known {
            return None;
        }
        self.shown = Some(clock);
        Some(clock)
    }
}

/// Lets the schedule go on with the clock by which the store's due times are. Where nothing is due it starts anew.
fn resume(scheduler: &mut Scheduler, store: &Store, clock: &dyn Clock) {
    let Some(shown) = store.schedule_clock().filter(|_| store.queued() > 0) else { return };
    let back = scheduler.resume(shown, clock.instant(), clock.now());
    if !back.is_zero() {
        tracing::warn!(
            seconds = back.as_secs(),
            "the wall clock went back before this start; attempts come when they would have come"
        );
    }
}

impl Inner {
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does something with the scheduler, and then wakes those for whom it made work. Never held over an await.
    pub(crate) fn core<R>(&self, work: impl FnOnce(&mut Core, Now) -> R) -> R {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let now = core.now(&*self.clock);
        if let Some(clock) = core.news(now) {
            self.store.show_schedule_clock(clock);
        }
        let result = work(&mut core, now);
        let rung = std::mem::take(&mut core.scheduler.rung);
        let bells: Vec<_> = rung.iter().filter_map(|lane| core.bells.get(lane).cloned()).collect();
        let (grant, stir) = (core.scheduler.wants_grant(), core.wants_engine(now));
        drop(core);
        bells.iter().for_each(|bell| bell.notify_one());
        if grant {
            self.granted.notify_one();
        }
        if stir {
            self.stirred.notify_one();
        }
        result
    }

    /// Does something beside; [`Queue::stop`] waits for it.
    pub(crate) fn keep_books(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let books = Books::open(self);
        tokio::spawn(async move {
            work.await;
            drop(books);
        });
    }

    /// How many still have something to tell, by message.
    pub(crate) fn telling(&self) -> MutexGuard<'_, HashMap<MessageId, usize>> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody still has something to tell of the message.
    pub(crate) fn is_telling(&self, id: MessageId) -> bool {
        self.telling().contains_key(&id)
    }

    /// Whether nobody has told of the end of the message yet; from now on somebody has.
    pub(crate) fn tells_end(&self, id: MessageId) -> bool {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).is_new(id)
    }
}

/// Counts work that must be over before the queue has stopped, also if it panics.
struct Books(Arc<Inner>);

impl Books {
    fn open(inner: &Arc<Inner>) -> Self {
        inner.bookkeeping.fetch_add(1, Ordering::AcqRel);
        Self(inner.clone())
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.0.bookkeeping.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

/// The longest time between two looks at the clocks.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
