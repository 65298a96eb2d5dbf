//! One life of the process: the real rooms, wired as the binary wires them, on the seams of the world.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use delivery::{Deliverer, Dial, Endpoint, Stream, Work};
use dns::BoxFuture;
use mail::{
    Assignment, AttemptReport, Clock, Domain, Envelope, Event, Fault, MessageId, MessageIds, Observer, Randomness,
    ReversePath, Target, Utf8,
};
use queue::{Grant, Queue, Windows};
use reception::{Draft, Intake, Listener, QueueIntake, Reception, Refused, Relay};
use shaping::Jitter;
use smtp::server::Config;
use store::{Metrics, OpenError, Options, Store};
use tokio::time::sleep;

use crate::disk::Mounted;
use crate::host;
use crate::network;
use crate::planted::Planted;
use crate::resolver::SimResolver;
use crate::scene::Scene;
use crate::ways;

/// The rooms of one life.
pub struct House {
    /// The store.
    pub store: Store,
    /// The queue.
    pub queue: Queue,
    /// What takes connections.
    pub reception: Reception,
    /// What may not grow beyond its bound.
    pub gauges: Gauges,
}

/// What the rooms say that they hold.
#[derive(Clone)]
pub struct Gauges {
    store: Store,
    queue: queue::Metrics,
    reception: reception::Metrics,
}

/// Octets of content that the store may keep in memory.
const CONTENT_MEMORY: u64 = 1 << 20;

/// How often at least the queue counts what it has in memory, and a little longer.
const LOOKS: Duration = Duration::from_secs(11);

/// For so long a delivery may be in hand before a connection has it.
const IN_HAND: Duration = Duration::from_secs(5);

/// With fewer inodes no mail is taken.
const FLOOR_INODES: u64 = 100;

impl House {
    /// Opens the store and puts everything in motion.
    pub fn open(scene: &Arc<Scene>, random: &Randomness) -> Result<Self, OpenError> {
        let world = &scene.world;
        let planted = world.options.planted;
        let clock: Arc<dyn Clock> = Arc::new(scene.clock.clone());
        let files = Mounted::new(world.disk(), scene.life.clone(), planted == Some(Planted::AckBeforeSync));
        let (store, driver) = Store::open_driven(
            options(world.options.large),
            Arc::new(files),
            clock.clone(),
            random.clone(),
            Metrics::default(),
        )?;
        tokio::spawn(driver.run());
        let resolver: Arc<dyn dns::Resolve> = Arc::new(SimResolver(scene.clone()));
        let (metrics, incoming) = (queue::Metrics::default(), reception::Metrics::default());
        let gauges = Gauges { store: store.clone(), queue: metrics.clone(), reception: incoming.clone() };
        let queue = Queue::new(queue::Parts {
            store: store.clone(),
            resolver: resolver.clone(),
            settings: settings(scene),
            clock: clock.clone(),
            randomness: random.clone(),
            observer: Arc::new(Witness { scene: scene.clone(), gauges: gauges.clone() }),
            metrics,
        })
        .expect("the settings are sound");
        match planted {
            Some(Planted::OutcomeBeforeReport) => queue.plant(queue::Planted::OutcomeBeforeReport),
            Some(Planted::LostScheduleEntry) => queue.plant(queue::Planted::LostScheduleEntry),
            _ => {}
        }
        // No host of the world offers TLS, so nobody's word on certificates is asked for.
        let nobody = Arc::new(tls::RootCertStore::empty());
        let tls = tls::client::Client::new(Arc::clone(&resolver), Arc::new(tls::mtasts::NoPolicies), nobody);
        let deliverer = Deliverer::new(delivery::Parts {
            store: store.clone(),
            resolver,
            dial: Arc::new(SimDial(scene.clone())),
            settings: delivery::Settings::default(),
            clock: clock.clone(),
            randomness: random.clone(),
            tls,
            reports: Arc::new(tls::report::NoReports),
            metrics: delivery::Metrics::default(),
        });
        let intake = QueueIntake::new(queue.clone());
        let intake: Arc<dyn Intake> =
            if planted == Some(Planted::ReportForNull) { Arc::new(Renaming(intake)) } else { Arc::new(intake) };
        let ids = Arc::new(MessageIds::new(random.clone()));
        let reception = Reception::new(reception::Parts {
            intake,
            clock,
            ids,
            metrics: incoming,
            directory: directory::Directory::new(directory::Metrics::default()),
            observer: Arc::new(()),
        });
        reception.bind(listeners(scene)).expect("nothing is to be bound");
        tokio::spawn({
            let queue = queue.clone();
            async move { queue.run().await }
        });
        tokio::spawn(deliver(scene.clone(), queue.clone(), deliverer));
        Ok(Self { store, queue, reception, gauges })
    }
}

impl Gauges {
    /// Holds them against the limits.
    pub fn check(&self, scene: &Scene) {
        let policy = &scene.world.plan.policy;
        let in_memory = usize::try_from(self.queue.in_memory.get()).unwrap_or(0);
        let in_flight = u64::try_from(self.reception.in_flight_bytes.get()).unwrap_or(0);
        let content = self.store.status().content_memory;
        let mut ledger = scene.ledger();
        let commanded = ledger.commanded || ledger.acted.is_some_and(|at| ledger.age <= at + LOOKS);
        if in_memory > policy.in_memory && !commanded {
            ledger.fail("deliveries in memory keep to the limit", format!("{in_memory} of {}", policy.in_memory));
        }
        if in_flight > policy.in_flight {
            ledger.fail("content in flight keeps to the limit", format!("{in_flight} of {}", policy.in_flight));
        }
        if content > CONTENT_MEMORY {
            ledger.fail("content in memory keeps to the limit", format!("{content} of {CONTENT_MEMORY}"));
        }
    }
}

fn options(large: bool) -> Options {
    if large {
        return Options {
            segment_size: 1 << 20,
            content_memory: CONTENT_MEMORY,
            checkpoint_messages: 1024,
            checkpoint_bytes: 8 << 20,
            checkpoint_every: Duration::from_secs(3600),
            floor_inodes: FLOOR_INODES,
            ..Options::small()
        };
    }
    Options {
        segment_size: 128 << 10,
        inline_limit: 24 << 10,
        content_memory: CONTENT_MEMORY,
        checkpoint_messages: 16,
        checkpoint_bytes: 256 << 10,
        checkpoint_every: Duration::from_secs(300),
        floor_inodes: FLOOR_INODES,
        ..Options::small()
    }
}

/// What the configuration says for the queue.
pub fn settings(scene: &Scene) -> queue::Settings {
    let policy = &scene.world.plan.policy;
    let mut settings = queue::Settings::new(name("mail.postrider.example"));
    settings.routes = ways::routes(&scene.world.plan, &scene.world.ways().0);
    settings.retry = policy.retry.clone();
    if scene.world.options.planted == Some(Planted::RetryWithoutBound) {
        settings.retry.jitter = Jitter::new(0.5);
    }
    settings.limits = policy.limits.clone();
    settings.backoff = policy.backoff.clone();
    settings.windows = Windows {
        connections: policy.connections,
        total: policy.in_memory,
        destination: policy.destination,
        lane: policy.lane,
        ..Windows::default()
    };
    settings
}

/// What the configuration says for reception.
pub fn listeners(scene: &Scene) -> reception::Settings {
    let policy = &scene.world.plan.policy;
    let pattern = "*.example".parse().ok();
    let relay = Relay { domains: pattern.into_iter().collect(), ..Relay::default() };
    let mut listener = Listener::new("mx", network::listening(), Config::new(name("mail.postrider.example")), relay);
    listener.socket = reception::Socket::Elsewhere(network::listening());
    let mut settings = reception::Settings::new(vec![listener]);
    (settings.connections.total, settings.connections.per_address) = policy.incoming;
    settings.in_flight = policy.in_flight;
    settings
}

fn name(name: &str) -> Domain {
    Domain::parse(name).expect("a domain name")
}

/// Writes the facts of the process into the ledger, as long as it lives.
struct Witness {
    scene: Arc<Scene>,
    gauges: Gauges,
}

impl Observer for Witness {
    fn observe(&self, event: &Event) {
        if self.scene.life.is_over() {
            return;
        }
        let now = self.scene.moment();
        self.scene.ledger().observe(event, now);
        if matches!(event, Event::Attempted { outcome, .. } if outcome.is_final()) {
            self.scene.life.told_outcome();
        }
        self.gauges.check(&self.scene);
        match event {
            Event::Accepted { message, envelope, size } => {
                let from = &envelope.reverse_path;
                self.scene.note(format_args!("{message} accepted: {size} octets from {from:?}"));
            }
            Event::Attempted { message, recipient, outcome, attempts, next, .. } => {
                let to = recipient.mailbox().map(ToString::to_string).unwrap_or_default();
                let why = match outcome {
                    mail::Outcome::Deferred(fault) | mail::Outcome::Failed(fault) => fault.to_string(),
                    _ => String::new(),
                };
                let word = outcome.word();
                self.scene.note(format_args!("{message} {to} {word} (attempt {attempts}, next {next:?}) {why}"));
            }
            other => self.scene.note(format_args!("{other:?}")),
        }
    }
}

/// Connects to the hosts of the world.
struct SimDial(Arc<Scene>);

impl Dial for SimDial {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, _: Option<IpAddr>) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let scene = &self.0;
            let Some(site) = endpoint.ip().and_then(|ip| scene.world.site_at(ip)) else {
                return Err(io::ErrorKind::HostUnreachable.into());
            };
            if scene.life.step() && scene.world.misbehaves(site) {
                match scene.world.random.below(3) {
                    0 => return Err(io::ErrorKind::ConnectionRefused.into()),
                    1 => std::future::pending::<()>().await,
                    _ => {}
                }
            }
            sleep(Duration::from_millis(1 + scene.world.random.below(80) as u64)).await;
            if !scene.life.step() {
                std::future::pending::<()>().await;
            }
            let piece = [0, 1, 7, 100][scene.world.random.below(4)];
            let (ours, theirs) = network::connect(&scene.life, &scene.world.random, piece);
            let ours = called(scene, ours);
            tokio::spawn(host::serve(scene.clone(), site, theirs));
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}

tokio::task_local! {
    /// The site of the lane for which the present task connects; several may lead to the same hosts.
    static SITE: String;
}

/// Counts a connection to a site, as long as the process has it.
fn called(scene: &Scene, ours: network::End) -> network::End {
    let site = SITE.get();
    let ours = ours.counted(&scene.calls, &site);
    let (here, total) = (scene.calls.of(&site), scene.calls.total());
    let policy = &scene.world.plan.policy;
    let most = policy.connections.min(policy.limits.per_source as usize);
    if here > policy.limits.per_site as usize || total > most {
        let found = format!("{here} open to {site}, {total} in total");
        scene.ledger().fail("connections that go out keep to the limits", found);
    }
    ours
}

/// Gives every granted connection a task of its own.
async fn deliver(scene: Arc<Scene>, queue: Queue, deliverer: Deliverer) {
    let desk = Arc::new(Desk::default());
    while let Some(grant) = queue.grant().await {
        desk.granted(&scene, grant.target());
        let granted = Granted { grant, scene: scene.clone(), desk: desk.clone(), carried: BTreeMap::new() };
        let deliverer = deliverer.clone();
        let site = granted.target().lane.site.to_string();
        tokio::spawn(SITE.scope(site, async move { deliverer.run(granted).await }));
    }
}

/// What is counted over all grants of a life.
#[derive(Default)]
struct Desk {
    open: Mutex<BTreeMap<String, usize>>,
    /// Deliveries that will be handed out once more, if that fault is planted.
    again: Mutex<VecDeque<Assignment>>,
}

impl Desk {
    fn granted(&self, scene: &Scene, target: &Target) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let site = target.lane.site.to_string();
        *open.entry(site.clone()).or_default() += 1;
        let (here, total) = (open[&site], open.values().sum::<usize>());
        let policy = &scene.world.plan.policy;
        let source = policy.limits.per_source as usize;
        if here > policy.limits.per_site as usize || total > policy.connections || total > source {
            let found = format!("{here} connections to {site}, {total} in total");
            scene.ledger().fail("connections that go out keep to the limits", found);
        }
    }

    fn ended(&self, target: &Target) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(target.lane.site.as_str()) {
            *count = count.saturating_sub(1);
        }
    }
}

/// A grant of the queue, with the ledger looking over its shoulder.
struct Granted {
    grant: Grant,
    scene: Arc<Scene>,
    desk: Arc<Desk>,
    carried: BTreeMap<(MessageId, u32), Vec<u32>>,
}

impl Granted {
    fn takes_off(&mut self, assignment: Assignment) -> Assignment {
        if !self.scene.life.is_over() {
            let now = self.scene.moment();
            self.scene.ledger().takes_off(assignment.id, &assignment.recipients, now);
            self.goes_right(&assignment);
            self.scene.note(format_args!("{} goes out, attempt {}", assignment.id, assignment.attempt));
        }
        self.carried.insert((assignment.id, assignment.delivery), assignment.recipients.clone());
        assignment
    }

    /// What was not in hand when the configuration was read takes the way that it says.
    fn goes_right(&self, assignment: &Assignment) {
        let (ways, since) = self.scene.world.ways();
        let mut ledger = self.scene.ledger();
        let settled = ledger.age > since.max(ledger.disk_hurt) + IN_HAND;
        let lane = &self.grant.target().lane.site;
        if settled && ways::of_lane(lane).is_some_and(|(site, way)| ways[site] != way) {
            ledger.fail("mail goes the way that is configured", format!("{} goes by {lane}", assignment.id));
        }
    }

    fn lands(&self, id: MessageId, places: &[u32], told_of: bool) {
        if !self.scene.life.is_over() {
            let now = self.scene.moment();
            self.scene.ledger().lands(id, places, told_of, now);
        }
    }

    /// With the fault planted, what another connection is carrying.
    fn popped_twice(&self) -> Option<Assignment> {
        self.desk.again.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Work for Granted {
    fn target(&self) -> &Target {
        self.grant.target()
    }

    async fn next(&mut self) -> Option<Assignment> {
        if let Some(again) = self.popped_twice() {
            return Some(self.takes_off(again));
        }
        let assignment = self.grant.next().await?;
        if self.scene.world.options.planted == Some(Planted::DoublePop) && self.scene.world.random.below(4) == 0 {
            self.desk.again.lock().unwrap_or_else(PoisonError::into_inner).push_back(assignment.clone());
        }
        Some(self.takes_off(assignment))
    }

    async fn report(&mut self, report: AttemptReport) {
        if let Some(places) = self.carried.remove(&(report.id, report.delivery)) {
            self.lands(report.id, &places, true);
        }
        self.grant.report(report).await;
    }

    fn unreachable(&mut self, fault: Fault) {
        self.scene.note(format_args!("{} is not reached: {fault}", self.grant.target().lane));
        self.grant.unreachable(fault);
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        for ((id, _), places) in std::mem::take(&mut self.carried) {
            self.lands(id, &places, false);
        }
        self.desk.ended(self.grant.target());
    }
}

/// The planted fault of reports to `<>`: gives mail from nobody a sender.
struct Renaming(QueueIntake);

impl Intake for Renaming {
    fn begin(&self, expected: Option<u64>) -> Result<Box<dyn Draft>, Refused> {
        Ok(Box::new(RenamingDraft(self.0.begin(expected)?)))
    }
}

struct RenamingDraft(Box<dyn Draft>);

impl Draft for RenamingDraft {
    fn write(&mut self, piece: bytes::Bytes) -> futures_util::future::BoxFuture<'_, Result<(), Refused>> {
        self.0.write(piece)
    }

    fn submit(
        self: Box<Self>,
        mut envelope: Envelope,
        trace: bytes::Bytes,
        hold: Option<mail::Act>,
    ) -> futures_util::future::BoxFuture<'static, Result<MessageId, Refused>> {
        if envelope.reverse_path == ReversePath::Null
            && let Ok(mailbox) = mail::Mailbox::parse("s0@d0.example", Utf8::Refused)
        {
            envelope.reverse_path = ReversePath::Mailbox(mailbox);
        }
        self.0.submit(envelope, trace, hold)
    }
}
