//! The rooms of a running server, wired.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use delivery::{Deliverer, Work};
use directory::Directory;
use futures_util::FutureExt;
use mail::{Assignment, AttemptReport, Clock, Fault, Randomness, SystemClock, Target};
use queue::{Grant, Queue};
use reception::{QueueIntake, Reception};
use store::{RealFiles, Store, Tables};
use tokio::task::JoinSet;
use tracing::{error, info};

use super::reporting::{self, OutgoingReports, Reporting};
use super::security::{Keeper, Security, WebSocket};
use super::supervision::Handed;
use super::{Prepared, ServeError, settings};
use crate::config::Loaded;
use crate::control::Control;
use crate::logs::Story;

/// The name of the control socket in the folder of the store.
pub const CONTROL_SOCKET: &str = "control";
/// The name of the directory's key in the folder of the store.
const DIRECTORY_KEY: &str = "directory.key";

/// All of them.
pub struct Rooms {
    pub(super) store: Store,
    pub(super) tables: Tables,
    pub(super) queue: Queue,
    pub(super) deliverer: Deliverer,
    pub(super) reception: Reception,
    pub(super) directory: Directory,
    pub(super) secret: directory::Secret,
    pub(super) reporting: Reporting,
    pub(super) handed: Handed,
    pub(super) security: Security,
    pub(super) keeper: Keeper,
    web: Vec<WebSocket>,
    pub(super) source: Option<PathBuf>,
    pub(super) loaded: Arc<RwLock<Arc<Loaded>>>,
    meters: Arc<super::metrics::Meters>,
}

impl Rooms {
    /// Opens the store and puts everything else on top of it.
    pub async fn open(prepared: Prepared) -> Result<Self, ServeError> {
        let Prepared { loaded, source, handed, reception, security, web, directory, intake, mut meters } = prepared;
        let configuration = &loaded.configuration;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let randomness = Randomness::from_system();
        let store_metrics = store::Metrics::register(meters.registry());
        let store = open_store(configuration, &clock, &randomness, store_metrics).await?;
        let tables = open_tables(configuration).await?;
        let keeper = Keeper::open(configuration, &security, &clock, &randomness, meters.registry())?;
        let secret = directory::Secret::open(&configuration.store.path.join(DIRECTORY_KEY))?;
        directory.configure(settings::accounts(&loaded, &secret, &tables)?)?;
        reception.remember(tables.clone()).await?;
        let dns_metrics = dns::Metrics::register(meters.registry());
        let resolver = dns::Resolver::new(configuration.dns.to_settings(), Arc::clone(&clock), dns_metrics)?;
        super::dnssec::tell(resolver.clone());
        let resolver: Arc<dyn dns::Resolve> = Arc::new(resolver);
        let roots = tls::roots(configuration.tls.roots.as_deref())?;
        let queue = Queue::new(queue::Parts {
            store: store.clone(),
            resolver: Arc::clone(&resolver),
            settings: settings::queue(configuration)?,
            clock: Arc::clone(&clock),
            randomness: randomness.clone(),
            observer: Arc::new(Story),
            metrics: queue::Metrics::register(meters.registry()),
        })?;
        let outgoing = OutgoingReports::new(queue.clone(), Arc::clone(&clock), randomness.clone());
        let reporting = reporting::Parts {
            configuration,
            tables: &tables,
            resolver: &resolver,
            clock: &clock,
            randomness: &randomness,
            roots: &roots,
            registry: meters.registry(),
        };
        let reporting = Reporting::open(reporting, &Arc::new(outgoing))?;
        let tls = tls::client::Client::new(Arc::clone(&resolver), reporting.policies(), roots);
        let deliverer = Deliverer::new(delivery::Parts {
            store: store.clone(),
            resolver,
            dial: Arc::new(delivery::TcpDial),
            settings: settings::delivery(configuration),
            clock,
            randomness,
            tls,
            reports: reporting.sessions(),
            metrics: delivery::Metrics::register(meters.registry()),
        });
        intake.open(QueueIntake::new(queue.clone()));
        let loaded = Arc::new(RwLock::new(Arc::new(loaded)));
        let meters = Arc::new(meters);
        Ok(Self {
            store,
            tables,
            queue,
            deliverer,
            reception,
            security,
            keeper,
            web,
            directory,
            secret,
            reporting,
            handed,
            source,
            loaded,
            meters,
        })
    }

    /// The configuration in force.
    pub fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the control socket lies.
    pub fn control_path(&self) -> PathBuf {
        self.loaded().configuration.store.path.join(CONTROL_SOCKET)
    }

    /// What the control socket answers from.
    pub fn to_control(&self, began: Instant) -> Control {
        Control {
            store: self.store.clone(),
            queue: self.queue.clone(),
            reception: self.reception.clone(),
            directory: self.directory.clone(),
            reporting: self.reporting.clone(),
            loaded: Arc::clone(&self.loaded),
            meters: Arc::clone(&self.meters),
            acme: self.keeper.acme.clone(),
            began,
        }
    }

    /// Sets everything in motion.
    pub fn start(&mut self) -> Result<Tasks, ServeError> {
        let mut tasks = Tasks::default();
        let queue = self.queue.clone();
        tasks.watch("the queue", async move { queue.run().await });
        tasks.watch("delivery", deliver(self.hands()));
        let reception = self.reception.clone();
        tasks.watch("reception", async move { reception.serve().await });
        self.reporting.start(&mut tasks);
        self.keeper.start(std::mem::take(&mut self.web), &mut tasks)?;
        Ok(tasks)
    }

    fn hands(&self) -> Hands {
        Hands {
            queue: self.queue.clone(),
            deliverer: self.deliverer.clone(),
            reporting: self.reporting.clone(),
            store: self.store.clone(),
            loaded: Arc::clone(&self.loaded),
        }
    }

    /// For systemd: where it listens.
    pub fn ready_status(&self) -> String {
        let addresses: Vec<String> = self.reception.local_addresses().iter().map(ToString::to_string).collect();
        format!("listening on {}", addresses.join(", "))
    }

    /// Ends in order, within the limit of the configuration.
    pub async fn drain(self) {
        let limit = self.loaded().configuration.drain.0;
        let (drained, ()) = tokio::join!(self.reception.drain(limit), self.quiet(limit));
        info!(sessions = drained.open, cut = drained.cut, "no more sessions");
        self.store.close().await;
        self.tables.close().await;
    }

    /// No more deliveries; waits for those under way.
    async fn quiet(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.queue.stop()).await.is_err() {
            info!("drain limit reached; deliveries under way are cut off and will be tried again");
        }
    }
}

async fn open_store(
    configuration: &crate::config::Configuration,
    clock: &Arc<dyn Clock>,
    randomness: &Randomness,
    metrics: store::Metrics,
) -> Result<Store, ServeError> {
    let options = settings::store(configuration);
    let (path, clock, randomness) = (configuration.store.path.clone(), Arc::clone(clock), randomness.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let files = RealFiles::open(path)?;
        Store::open(options, files, clock, randomness, metrics)
    });
    match opening.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ServeError::Broken("the opening of the store")),
    }
}

/// After the store, which may have to make the folder and says so better if it cannot.
async fn open_tables(configuration: &crate::config::Configuration) -> Result<Tables, ServeError> {
    let path = configuration.store.path.clone();
    match tokio::task::spawn_blocking(move || Tables::open(&path)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ServeError::Broken("the opening of the tables")),
    }
}

/// Who serves the queue's grants.
#[derive(Clone)]
struct Hands {
    queue: Queue,
    deliverer: Deliverer,
    reporting: Reporting,
    store: Store,
    loaded: Arc<RwLock<Arc<Loaded>>>,
}

/// Gives every grant a task of its own, until the queue stops.
async fn deliver(hands: Hands) {
    while let Some(grant) = hands.queue.grant().await {
        let hands = hands.clone();
        tokio::spawn(async move {
            if AssertUnwindSafe(hands.serve(grant)).catch_unwind().await.is_err() {
                error!("a delivery panicked; its messages will be tried again");
            }
        });
    }
}

impl Hands {
    async fn serve(&self, grant: Grant) {
        if reporting::is_inside(&grant) {
            self.reporting.serve(grant, &self.store, &self.loaded).await;
        } else {
            self.deliverer.run(Granted(grant)).await;
        }
    }
}

/// A grant of the queue as delivery wants its work.
struct Granted(Grant);

impl Work for Granted {
    fn target(&self) -> &Target {
        self.0.target()
    }

    fn next(&mut self) -> impl Future<Output = Option<Assignment>> + Send {
        self.0.next()
    }

    fn report(&mut self, report: AttemptReport) -> impl Future<Output = ()> + Send {
        self.0.report(report)
    }

    fn unreachable(&mut self, fault: Fault) {
        self.0.unreachable(fault);
    }
}

/// The tasks that last as long as the server.
#[derive(Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Starts one.
    pub fn watch(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                error!(part = name, "a part of the server panicked");
            }
            name
        });
    }

    /// Waits until one of them ends; none should.
    pub async fn ended(&mut self) -> &'static str {
        match self.0.join_next().await {
            Some(Ok(name)) => name,
            // They catch their panics, and nobody aborts them.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}
