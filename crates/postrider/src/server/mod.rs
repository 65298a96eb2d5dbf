//! The server: rooms put together, started, told to reload and stopped.
//!
//! ```text
//! read configuration ─► open sockets ─► become the user ─► (threads begin) ─► open the store ─► queue ─► take mail
//!        problems: nothing has happened yet                       problems: nothing was accepted yet
//! ```
//!
//! The end goes the other way round: no new connections, open transactions finish within the limit, deliveries under
//! way finish within the limit, and the store is closed. Whatever the limit cuts off is still queued.

mod dnssec;
mod files;
mod intake;
mod metrics;
mod privileges;
mod reload;
mod reporting;
mod rooms;
mod security;
mod settings;
mod signals;
mod supervision;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use directory::Directory;
use mail::{MessageIds, Randomness, SystemClock};
use reception::Reception;
use tracing::{error, info, warn};

use crate::config::{self, Loaded, Problems};
use crate::control;
use crate::logs::{Logging, Story};
use intake::LateIntake;
use privileges::Identity;
use rooms::Rooms;
use security::{Security, WebSocket};
use signals::{Signal, Signals};
use supervision::Handed;

pub use dnssec::check as check_dnssec;
pub use metrics::Meters;
pub use privileges::{Become, become_user, keep_private, make_user};
pub use reporting::Reporting;
pub use rooms::CONTROL_SOCKET;
pub use security::TLS_FOLDER;
pub use security::{certificate_chains, web_addresses};
pub use settings::queue as queue_settings;

/// Threads for calls that wait for the disk or take long. A thread for each of hundreds of reads would not make the disk
/// faster, and each takes memory of its own.
const BLOCKING: usize = 32;

/// Why the server cannot start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Configuration(Problems),
    /// A reload would leave a part of the server with the old name.
    #[error("the hostname cannot change from {old} to {new} while the server runs; restart it")]
    Hostname {
        /// That in force.
        old: String,
        /// That in the file.
        new: String,
    },
    /// See the inner error.
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    /// See the inner error.
    #[error(transparent)]
    Queue(#[from] queue::SettingsError),
    /// See the inner error.
    #[error(transparent)]
    Privileges(#[from] privileges::PrivilegesError),
    /// See the inner error.
    #[error(transparent)]
    Reception(#[from] reception::ReceptionError),
    /// See the inner error.
    #[error("cannot open the store: {0}")]
    Store(#[from] store::OpenError),
    /// See the inner error.
    #[error("cannot open the store's tables: {0}")]
    Tables(#[from] store::TablesError),
    /// See the inner error.
    #[error("cannot use the accounts: {0}")]
    Accounts(#[from] directory::SetupError),
    /// See the inner error.
    #[error(transparent)]
    Secret(#[from] directory::SecretError),
    /// See the inner error.
    #[error(transparent)]
    Roots(#[from] tls::RootsError),
    /// See the inner error.
    #[error(transparent)]
    Https(#[from] tls::HttpsError),
    /// See the inner error.
    #[error("cannot look up names: {0}")]
    Dns(#[from] dns::SetupError),
    /// See the inner error.
    #[error(transparent)]
    Certificates(#[from] tls::CertificatesError),
    /// The web server's address cannot be bound.
    #[error("the web server cannot listen at {address}: {error}")]
    Web {
        /// Where it should listen.
        address: std::net::SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The system refused something.
    #[error("cannot {action}: {error}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// A part of the server ended although nobody told it to.
    #[error("{0} ended unexpectedly; the log tells why")]
    Broken(&'static str),
}

impl ServeError {
    /// The system refused an action.
    pub fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::System { action: action.into(), error }
    }

    /// What to do about it, where that is not said already.
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::Privileges(privileges::PrivilegesError::Root) => Some(
                "set `user = \"postrider\"` in the configuration, or start it as an ordinary user with the right to \
                 bind the port (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
                    .to_owned(),
            ),
            Self::Privileges(privileges::PrivilegesError::Foreign { folder, name }) => Some(format!(
                "choose an empty folder for `store.path`; if it is meant for the queue: chown {name}: {}",
                folder.display()
            )),
            Self::Certificates(tls::CertificatesError::Identity(error))
            | Self::Settings(settings::SettingsError::Authorities(error)) => Some(error.cure()),
            Self::Reception(reception::ReceptionError::Bind { address, error, .. }) | Self::Web { address, error } => {
                match error.kind() {
                    std::io::ErrorKind::PermissionDenied => Some(format!(
                        "ports below 1024 need root (with `user` set) or CAP_NET_BIND_SERVICE; {} has neither",
                        address.port()
                    )),
                    std::io::ErrorKind::AddrInUse => Some(format!(
                        "another server listens there; `ss -ltnp 'sport = :{}'` tells which",
                        address.port()
                    )),
                    _ => None,
                }
            }
            Self::Store(store::OpenError::InUse(_)) => Some("is another postrider running?".to_owned()),
            _ => None,
        }
    }
}

/// What the process is before it has threads: everything that root must do is done.
pub struct Prepared {
    loaded: Loaded,
    source: Option<PathBuf>,
    handed: Handed,
    reception: Reception,
    directory: Directory,
    intake: Arc<LateIntake>,
    security: Security,
    web: Vec<WebSocket>,
    meters: Meters,
}

/// Whether root may run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// What the world can reach does not run as root.
    Refused,
    /// Nobody but this machine can reach it.
    Allowed,
}

/// Runs the server of a configuration file until it is told to stop.
pub fn serve(path: &Path) -> Result<(), ServeError> {
    keep_private();
    let loaded = config::load_to_obey(path).map_err(ServeError::Configuration)?;
    let prepared = Prepared::new(loaded, Some(path.to_owned()), Root::Refused)?;
    prepared.run(|_| {})
}

impl Prepared {
    /// Opens the sockets and becomes the user. No thread may run yet.
    pub fn new(loaded: Loaded, source: Option<PathBuf>, root: Root) -> Result<Self, ServeError> {
        let configuration = &loaded.configuration;
        let identity = match root {
            Root::Refused => Identity::find(configuration.user.as_deref(), configuration.group.as_deref())?,
            Root::Allowed => None,
        };
        files::raise();
        let handed = Handed::take().map_err(ServeError::system("take the sockets of systemd"))?;
        let mut meters = Meters::new();
        let directory = Directory::new(directory::Metrics::register(meters.registry()));
        let intake = Arc::new(LateIntake::default());
        let reception = Reception::new(reception::Parts {
            intake: Arc::clone(&intake) as Arc<dyn reception::Intake>,
            clock: Arc::new(SystemClock),
            ids: Arc::new(MessageIds::new(Randomness::from_system())),
            metrics: reception::Metrics::register(meters.registry()),
            directory: directory.clone(),
            observer: Arc::new(Story),
        });
        let security = Security::default();
        reception.bind(settings::reception(configuration, &handed, &security)?)?;
        let web = security::open_web(configuration, &handed)?;
        if let Some(identity) = identity {
            let folder = &configuration.store.path;
            identity.own(folder)?;
            identity.assume()?;
        }
        privileges::keep_memory_private();
        Ok(Self { loaded, source, handed, reception, security, web, directory, intake, meters })
    }

    /// Starts the threads and serves until the end. `started` is called once, when mail is taken.
    pub fn run(self, started: impl FnOnce(&Reception)) -> Result<(), ServeError> {
        let logging = Logging::start(&self.loaded.configuration.log);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("postrider")
            .max_blocking_threads(BLOCKING)
            .build();
        let runtime = runtime.map_err(ServeError::system("start threads"))?;
        let result = runtime.block_on(self.live(&logging, started));
        if let Err(error) = &result {
            error!(%error, "ending");
        }
        // What hangs now hangs for good; everything that matters is on disk.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        result
    }

    async fn live(self, logging: &Logging, started: impl FnOnce(&Reception)) -> Result<(), ServeError> {
        let began = Instant::now();
        let mut signals = Signals::listen().map_err(ServeError::system("listen for signals"))?;
        self.warn();
        files::warn(&self.loaded.configuration);
        let mut rooms = Rooms::open(self).await?;
        let control = control::Server::bind(&rooms.control_path(), rooms.to_control(began));
        let control = control.map_err(ServeError::system("open the control socket"))?;
        let mut tasks = rooms.start()?;
        tasks.watch("the control socket", control.run());
        if let Some(period) = supervision::watchdog_period() {
            tasks.watch("the watchdog", alive(period));
        }
        supervision::ready(&rooms.ready_status());
        info!(version = env!("CARGO_PKG_VERSION"), start_ms = millis(began), "ready");
        started(&rooms.reception);
        let outcome = loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => {
                        supervision::reloading();
                        rooms.reload(logging);
                        supervision::ready(&rooms.ready_status());
                    }
                    Signal::Stop(name) => {
                        info!(signal = name, "stopping");
                        break Ok(());
                    }
                },
                name = tasks.ended() => break Err(ServeError::Broken(name)),
            }
        };
        supervision::stopping();
        tokio::select! {
            () = rooms.drain() => info!("stopped"),
            () = signals.stop() => warn!("told to stop again: not waiting any longer; the store will be read anew at the next start"),
        }
        outcome
    }

    fn warn(&self) {
        if !self.loaded.warnings.is_empty() {
            warn!(warnings = %self.loaded.warnings, "the configuration has doubtful points; postrider check tells them");
        }
        let wanted = self.loaded.configuration.listeners();
        for address in self.handed.addresses() {
            let web = security::web_addresses(&self.loaded.configuration).iter().any(|(bound, _)| *bound == address);
            if !web && !wanted.iter().any(|listener| listener.address.0.iter().any(|bound| bound.0 == address)) {
                warn!(%address, "systemd hands over a socket that no listener has; nothing is served there");
            }
        }
    }
}

async fn alive(period: std::time::Duration) {
    loop {
        supervision::alive();
        tokio::time::sleep(period).await;
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
