//! A queue over a real store in a temporary folder, with time that moves by command, and peers that do as they are
//! told.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dns::testing::Fixed;
use mail::{
    AttemptReport, Clock, Delivered, Domain, EnhancedCode, Envelope, Event, Fault, ForwardPath, Mailbox, MessageId,
    MessageIds, Notify, Observer, Outcome, Randomness, Recipient, Reply, ReversePath, Timestamp, Utf8,
};
use queue::{Grant, Metrics, Parts, Queue, Settings};
use store::{Options, RealFiles, Store};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);

/// Everything that a test needs; see [`House::new`].
pub struct House {
    pub queue: Queue,
    pub store: Store,
    pub dns: Fixed,
    pub peers: Arc<Peers>,
    pub clock: Arc<TestClock>,
    ids: MessageIds,
    folder: Arc<TempDir>,
    running: Vec<JoinHandle<()>>,
    _frozen: Arc<Frozen>,
}

impl House {
    /// With `example.org`, `example.com` and `example.net` each at a mail host of its own.
    pub async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let dns = Fixed::default();
        for name in ["example.org", "example.com", "example.net", "sender.example"] {
            let host = format!("mx.{name}");
            dns.mx(name, 10, &host).host(&host, "192.0.2.1");
        }
        let mut settings = Settings::new(Domain::parse("mail.test.example").unwrap());
        settings.retry.jitter = shaping::Jitter::NONE;
        settings.backoff.jitter = shaping::Jitter::NONE;
        change(&mut settings);
        let clock = Arc::new(TestClock::new());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let peers = Arc::new(Peers::new(clock.clone()));
        Self::open(folder, dns, clock, peers, settings, Frozen::new()).await
    }

    async fn open(
        folder: Arc<TempDir>,
        dns: Fixed,
        clock: Arc<TestClock>,
        peers: Arc<Peers>,
        settings: Settings,
        frozen: Arc<Frozen>,
    ) -> Self {
        let store = open_store(folder.path(), clock.clone());
        let queue = Queue::new(Parts {
            store: store.clone(),
            resolver: Arc::new(dns.clone()),
            settings,
            clock: clock.clone(),
            randomness: Randomness::seeded(5),
            observer: peers.clone(),
            metrics: Metrics::default(),
        })
        .unwrap();
        let ids = MessageIds::new(Randomness::seeded(clock.now().as_millis()));
        Self { queue, store, dns, peers, clock, ids, folder, running: Vec::new(), _frozen: frozen }
    }

    /// Starts the engine, and peers that take connections.
    pub fn start(&mut self) {
        let queue = self.queue.clone();
        self.running.push(tokio::spawn(async move { queue.run().await }));
        let (queue, peers) = (self.queue.clone(), self.peers.clone());
        self.running.push(tokio::spawn(async move {
            while let Some(grant) = queue.grant().await {
                let peers = peers.clone();
                tokio::spawn(async move { peers.connect(grant).await });
            }
        }));
    }

    /// Stops everything and opens it again.
    pub async fn restart(mut self, settings: impl FnOnce(&mut Settings)) -> Self {
        self.peers.release_all();
        self.queue.stop().await;
        for task in self.running.drain(..) {
            task.await.unwrap();
        }
        let Self { queue, store, dns, peers, clock, folder, _frozen, .. } = self;
        drop(queue);
        store.close().await;
        let mut next = Settings::new(Domain::parse("mail.test.example").unwrap());
        next.retry.jitter = shaping::Jitter::NONE;
        next.backoff.jitter = shaping::Jitter::NONE;
        settings(&mut next);
        Self::open(folder, dns, clock, peers, next, _frozen).await
    }

    pub fn envelope(&self, from: &str, to: &[&str]) -> Envelope {
        let mailbox = |text: &str| Mailbox::parse(text, Utf8::Refused).unwrap();
        let now = self.clock.now();
        Envelope::new(
            self.ids.next(now),
            now,
            if from.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(mailbox(from)) },
            to.iter().map(|to| Recipient::new(ForwardPath::Mailbox(mailbox(to)))),
        )
    }

    pub async fn send(&self, from: &str, to: &[&str]) -> MessageId {
        self.submit(self.envelope(from, to)).await
    }

    pub async fn send_notify(&self, from: &str, to: &str, notify: Notify) -> MessageId {
        let mut envelope = self.envelope(from, &[to]);
        envelope.recipients[0].notify = notify;
        self.submit(envelope).await
    }

    pub async fn submit(&self, envelope: Envelope) -> MessageId {
        let mut content = self.store.intake(None).unwrap();
        content.write(Bytes::from_static(b"Subject: the subject\r\n\r\nthe text\r\n")).await.unwrap();
        self.queue.submit(envelope, Bytes::from_static(b"Received: by test\r\n"), content).await.unwrap()
    }

    /// Moves time on in small steps, letting things happen in between.
    pub async fn advance(&self, by: Duration) {
        let steps = 8;
        for _ in 0..steps {
            tokio::time::advance(by / steps).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            // The store's threads answer in real time.
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(2))).await.unwrap();
        }
        tokio::time::advance(Duration::from_millis(2)).await;
    }

    /// Waits until what happened fits. Time goes on slowly meanwhile, as it does for everybody who waits.
    pub async fn until(&self, fits: impl Fn(&Peers) -> bool) {
        tokio::select! {
            () = self.peers.until(fits) => {}
            () = slow_time() => {}
        }
    }

    /// Waits until nothing is left in the queue.
    pub async fn until_empty(&self) {
        let empty = async {
            while !self.store.destinations().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = empty => {}
            () = slow_time() => {}
        }
    }
}

/// Never ends. A second of paused time takes a tenth of a real one at least.
async fn slow_time() {
    loop {
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
        tokio::time::advance(Duration::from_millis(50)).await;
    }
}

fn open_store(folder: &Path, clock: Arc<TestClock>) -> Store {
    let metrics = store::Metrics::default();
    let files = RealFiles::open(folder).unwrap();
    let clock = Arc::new(StoreClock(clock));
    Store::open(Options::small(), files, clock, Randomness::seeded(11), metrics).unwrap()
}

/// The store's threads are outside of tokio and wait in real time.
#[derive(Debug)]
struct StoreClock(Arc<TestClock>);

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// Wall and monotonic time by tokio's paused clock.
#[derive(Debug)]
pub struct TestClock {
    base: tokio::time::Instant,
    offset: AtomicI64,
}

impl TestClock {
    fn new() -> Self {
        Self { base: tokio::time::Instant::now(), offset: AtomicI64::new(0) }
    }

    /// The wall clock jumps.
    pub fn jump(&self, millis: i64) {
        self.offset.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let elapsed = Timestamp::from_millis(1_800_000_000_000) + self.base.elapsed();
        let offset = self.offset.load(Ordering::SeqCst);
        Timestamp::from_millis(elapsed.as_millis().saturating_add_signed(offset))
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// While it lives, tokio's clock moves only by command: it does not run ahead while the store's threads are at work.
/// A test that hangs is ended.
struct Frozen(#[allow(dead_code, reason = "held, not read")] Sender<()>);

impl Frozen {
    fn new() -> Arc<Self> {
        let (sender, receiver) = channel::<()>();
        tokio::task::spawn_blocking(move || {
            if receiver.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the test waits for something that does not happen");
                std::process::abort();
            }
        });
        Arc::new(Self(sender))
    }
}

/// What a peer does with a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Accept,
    /// Accepts and takes over the duty to report.
    AcceptDsn,
    Defer,
    Refuse,
    /// Can't be connected to: by site.
    Dead,
    /// Waits until told otherwise.
    Hang,
    /// The connection's task ends without a word.
    Panic,
}

/// One attempt for one recipient.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub recipient: String,
    pub message: MessageId,
    pub site: String,
    pub at: Timestamp,
    pub from_null: bool,
}

/// All peers of the world, and what they saw.
pub struct Peers {
    clock: Arc<TestClock>,
    does: Mutex<HashMap<String, Does>>,
    attempts: Mutex<Vec<Attempt>>,
    events: Mutex<Vec<Event>>,
    pub connections: AtomicUsize,
    panics: AtomicBool,
    pub changed: tokio::sync::Notify,
}

impl Peers {
    fn new(clock: Arc<TestClock>) -> Self {
        Self {
            clock,
            does: Mutex::new(HashMap::new()),
            attempts: Mutex::new(Vec::new()),
            events: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            changed: tokio::sync::Notify::new(),
        }
    }

    /// Whoever tells of the next attempt panics.
    pub fn panic_at_next_attempt(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// From now on, for a recipient or a site.
    pub fn set(&self, who: &str, does: Does) {
        self.does.lock().unwrap().insert(who.to_owned(), does);
        self.changed.notify_waiters();
    }

    fn release_all(&self) {
        self.does.lock().unwrap().retain(|_, does| *does != Does::Hang);
        self.changed.notify_waiters();
    }

    fn does(&self, who: &str) -> Does {
        self.does.lock().unwrap().get(who).copied().unwrap_or(Does::Accept)
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }

    pub fn attempts_for(&self, recipient: &str) -> usize {
        self.attempts().iter().filter(|attempt| attempt.recipient == recipient).count()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// How many recipients had this outcome.
    pub fn outcomes(&self, word: &str) -> usize {
        let fits = |event: &&Event| matches!(event, Event::Attempted { outcome, .. } if outcome.word() == word);
        self.events().iter().filter(fits).count()
    }

    /// Reports made, by action.
    pub fn reports(&self, wanted: &str) -> usize {
        let fits = |event: &&Event| matches!(event, Event::Reported { action, .. } if *action == wanted);
        self.events().iter().filter(fits).count()
    }

    pub fn finished(&self, id: MessageId) -> usize {
        let fits = |event: &&Event| matches!(event, Event::Finished { message, .. } if *message == id);
        self.events().iter().filter(fits).count()
    }

    pub async fn until(&self, fits: impl Fn(&Peers) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if fits(self) {
                return;
            }
            changed.await;
        }
    }

    async fn connect(&self, mut grant: Grant) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let site = grant.target().lane.site.to_string();
        if self.does(&site) == Does::Dead {
            return grant.unreachable(Fault::local(451, EnhancedCode::new(4, 4, 1), "nobody answers"));
        }
        while let Some(assignment) = grant.next().await {
            let mut outcomes = Vec::new();
            for index in &assignment.recipients {
                let path = &assignment.envelope.recipients[*index as usize].path;
                let recipient = path.mailbox().map(ToString::to_string).unwrap_or_default();
                self.attempts.lock().unwrap().push(Attempt {
                    recipient: recipient.clone(),
                    message: assignment.id,
                    site: site.clone(),
                    at: self.clock.now(),
                    from_null: assignment.envelope.reverse_path == ReversePath::Null,
                });
                self.changed.notify_waiters();
                self.until(|peers| peers.does(&recipient) != Does::Hang && peers.does(&site) != Does::Hang).await;
                if self.does(&recipient) == Does::Panic {
                    return;
                }
                outcomes.push((*index, outcome(self.does(&recipient))));
            }
            let (id, delivery) = (assignment.id, assignment.delivery);
            grant.report(AttemptReport { id, delivery, outcomes, connection_failed: false }).await;
        }
    }
}

fn outcome(does: Does) -> Outcome {
    let delivered = |dsn| {
        let reply = Reply::new(250, EnhancedCode::new(2, 0, 0), "ok");
        Outcome::Delivered(Delivered { host: "mx".into(), address: None, reply, dsn, deliver_by: false, tls: None })
    };
    match does {
        Does::Accept => delivered(false),
        Does::AcceptDsn => delivered(true),
        Does::Defer => Outcome::Deferred(Fault::local(451, EnhancedCode::new(4, 2, 1), "come back")),
        Does::Refuse => Outcome::Failed(Fault::local(550, EnhancedCode::new(5, 1, 1), "no such user")),
        Does::Dead | Does::Hang | Does::Panic => unreachable!("these have no outcome"),
    }
}

impl Observer for Peers {
    fn observe(&self, event: &Event) {
        let is_attempt = matches!(event, Event::Attempted { .. });
        if is_attempt && self.panics.swap(false, Ordering::SeqCst) {
            self.events.lock().unwrap().push(event.clone());
            self.changed.notify_waiters();
            panic!("as the test wants");
        }
        self.events.lock().unwrap().push(event.clone());
        self.changed.notify_waiters();
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.events()).finish()
    }
}
