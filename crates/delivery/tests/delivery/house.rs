//! A deliverer over a real store, and work from a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use delivery::{Deliverer, Metrics, Parts, Settings, TcpDial, Work};
use dns::testing::Fixed;
use mail::{
    Assignment, AttemptReport, Clock, Destination, Domain, Envelope, Fault, Lane, Mailbox, MessageId, Outcome,
    Protocol, Randomness, Recipient, ReversePath, Site, Source, SystemClock, Target, TargetHost, TargetTls, Timestamp,
    Utf8,
};
use rustls::RootCertStore;
use store::{Delivery, NewMessage, Options, RealFiles, Store};
use tempfile::TempDir;
use tls::client::Client;
use tls::mtasts::NoPolicies;
use tls::report::{SessionReports, TlsSession};
use tokio::sync::Semaphore;

pub const CONTENT: &str = "Subject: hello\r\n\r\n.dot\r\n";

/// Everything that a test needs.
pub struct House {
    pub dns: Fixed,
    pub metrics: Metrics,
    pub settings: Settings,
    /// The authorities that are believed.
    pub roots: Arc<RootCertStore>,
    /// What is told of TLS.
    pub sessions: Arc<Sessions>,
    store: Store,
    queued: VecDeque<Assignment>,
    _folder: TempDir,
}

/// What was told of TLS sessions.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Vec<TlsSession>>);

impl SessionReports for Sessions {
    fn session(&self, session: TlsSession) {
        self.0.lock().unwrap().push(session);
    }
}

impl Sessions {
    /// Each as `domain failure-type`, or `domain good`.
    pub fn told(&self) -> Vec<String> {
        let sessions = self.0.lock().unwrap();
        let kind = |session: &TlsSession| session.failure.as_ref().map_or("good", |failure| failure.kind.as_str());
        sessions.iter().map(|session| format!("{} {}", session.domain, kind(session))).collect()
    }
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Story {
    pub reports: Vec<AttemptReport>,
    pub unreachable: Option<Fault>,
}

impl Story {
    /// `0 delivered taken`: place, outcome and the reply's text, report by report.
    pub fn told(&self) -> Vec<String> {
        let outcomes = self.reports.iter().flat_map(|report| &report.outcomes);
        outcomes
            .map(|(place, outcome)| match outcome {
                Outcome::Delivered(delivered) => format!("{place} delivered {}", delivered.reply),
                Outcome::Deferred(fault) | Outcome::Failed(fault) => format!("{place} {} {fault}", outcome.word()),
                other => panic!("{other:?} is no outcome of an attempt"),
            })
            .collect()
    }

    /// The only outcome.
    pub fn only(&self) -> String {
        let told = self.told();
        assert_eq!(told.len(), 1, "{told:?}");
        told.into_iter().next().unwrap()
    }

    /// Whether any report says that a connection failed.
    pub fn is_connection_blamed(&self) -> bool {
        self.reports.iter().any(|report| report.connection_failed)
    }
}

impl House {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = RealFiles::open(folder.path()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store =
            Store::open(Options::small(), files, clock, Randomness::seeded(1), store::Metrics::default()).unwrap();
        Self {
            dns: Fixed::default(),
            metrics: Metrics::default(),
            settings: Settings::default(),
            roots: Arc::new(RootCertStore::empty()),
            sessions: Arc::default(),
            store,
            queued: VecDeque::new(),
            _folder: folder,
        }
    }

    /// One plain message for this many recipients `N@x.example`.
    pub async fn plain(recipients: usize) -> Self {
        let mut house = Self::new();
        house.queue(recipients, CONTENT.as_bytes(), |_| ()).await;
        house
    }

    /// Stores a message and puts it in the list.
    pub async fn queue(&mut self, recipients: usize, content: &[u8], change: impl FnOnce(&mut Envelope)) {
        let id = MessageId::from_u128(self.queued.len() as u128 + 1);
        let mut envelope = Envelope::new(
            id,
            Timestamp::from_millis(1),
            ReversePath::Mailbox(mailbox("s@us.example")),
            (0..recipients).map(|place| mailbox(&format!("{place}@x.example")).into()),
        );
        change(&mut envelope);
        let (envelope, places) = (Arc::new(envelope), 0..recipients as u32);
        let mut incoming = self.store.intake(None).unwrap();
        for piece in content.chunks(50_000) {
            incoming.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let deliveries =
            vec![Delivery::new(Destination::new("mx:x.example"), places.clone(), Timestamp::from_millis(1))];
        let message =
            NewMessage { id, envelope: Arc::clone(&envelope), trace: Bytes::new(), content: incoming, deliveries };
        self.store.commit(message, Vec::new()).await.unwrap();
        let size = content.len() as u64;
        self.queued.push_back(Assignment { id, delivery: 0, envelope, recipients: places.collect(), size, attempt: 1 });
    }

    /// Runs one connection with these hosts until it ends.
    pub async fn run(&mut self, hosts: Vec<TargetHost>) -> Story {
        self.run_target(target(hosts)).await
    }

    pub async fn run_target(&mut self, target: Target) -> Story {
        self.run_slowly(target, None).await
    }

    /// Each assignment but the first waits for a permit of the gate.
    pub async fn run_slowly(&mut self, target: Target, gate: Option<Arc<Semaphore>>) -> Story {
        let deliverer = Deliverer::new(Parts {
            store: self.store.clone(),
            resolver: Arc::new(self.dns.clone()),
            dial: Arc::new(TcpDial),
            settings: self.settings.clone(),
            clock: Arc::new(SystemClock),
            randomness: Randomness::seeded(1),
            tls: Client::new(Arc::new(self.dns.clone()), Arc::new(NoPolicies), Arc::clone(&self.roots)),
            reports: self.sessions.clone(),
            metrics: self.metrics.clone(),
        });
        let story = Arc::new(Mutex::new(Story::default()));
        let queued = std::mem::take(&mut self.queued);
        let list = List { target, queued, gate, story: Arc::clone(&story), taken: None };
        tokio::time::timeout(std::time::Duration::from_secs(60), deliverer.run(list)).await.expect("an end");
        let story = std::mem::take(&mut *story.lock().unwrap());
        assert_eq!(self.metrics.open.get(), 0, "every connection is closed");
        story
    }
}

pub fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text, Utf8::Allowed).unwrap()
}

pub fn recipient(text: &str) -> Recipient {
    mailbox(text).into()
}

pub fn target(hosts: Vec<TargetHost>) -> Target {
    Target {
        lane: Lane { source: "default".into(), site: Site::new("x") },
        protocol: Protocol::Smtp,
        source: Source { name: "default".into(), ipv4: None, ipv6: None, ehlo: Domain::parse("us.example").unwrap() },
        hosts,
        tls: TargetTls::default(),
    }
}

/// Work from a list.
struct List {
    target: Target,
    queued: VecDeque<Assignment>,
    gate: Option<Arc<Semaphore>>,
    story: Arc<Mutex<Story>>,
    /// What was handed out and not reported.
    taken: Option<Assignment>,
}

impl Work for List {
    fn target(&self) -> &Target {
        &self.target
    }

    async fn next(&mut self) -> Option<Assignment> {
        assert!(self.taken.is_none(), "the one before was not reported");
        if let Some(gate) = &self.gate
            && !self.story.lock().unwrap().reports.is_empty()
        {
            gate.acquire().await.unwrap().forget();
        }
        self.taken = self.queued.pop_front();
        self.taken.clone()
    }

    async fn report(&mut self, report: AttemptReport) {
        let taken = self.taken.take().expect("a report for something");
        let places: Vec<u32> = report.outcomes.iter().map(|(place, _)| *place).collect();
        assert_eq!((report.id, places), (taken.id, taken.recipients), "one outcome per recipient");
        self.story.lock().unwrap().reports.push(report);
    }

    fn unreachable(&mut self, fault: Fault) {
        assert!(self.taken.is_none());
        self.story.lock().unwrap().unreachable = Some(fault);
    }
}
