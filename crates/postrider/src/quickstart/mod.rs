//! `postrider quickstart`: from nothing to a server that can be started.
//!
//! ```text
//! ask ─► write (all or nothing) ─► tell what was written ─► look at the machine and at the DNS ─► tell what was found
//! ```
//!
//! What was written stays only once it has been told, a password among it; from then on nothing fails, it is only found. It
//! may be run again at any time: what exists stays as it is and says what the server is, and all is looked at anew.

mod ask;
mod files;
mod machine;
mod names;
mod options;
mod plan;
mod print;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use directory::file::AccountsFile;
use dns::Resolve;
use mail::{Clock, SystemClock};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Configuration};
use crate::output;
use crate::server::TLS_FOLDER;
use ask::FirstAccount;
use files::{Made, Making};
use machine::Finding;
use names::{Record, Wanted};
pub use options::Options;
use plan::{Plan, There};

/// Why nothing was set up. What had been made is gone again.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// A file or folder cannot be made.
    #[error("cannot make {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The first account's name is no address.
    #[error("`{name}` cannot be the first account: {why}")]
    Account {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// There are accounts already.
    #[error("{0} exists, and quickstart changes nothing that exists")]
    AccountsExist(PathBuf),
    /// The configuration that is there keeps no file of accounts.
    #[error("{0} has no file of accounts to put the first one into")]
    NoAccounts(PathBuf),
    /// There is no usable password.
    #[error(transparent)]
    Password(#[from] crate::account_command::AccountError),
    /// There is a configuration, and it is for another server.
    #[error("{path} is the configuration of {hostname}")]
    OtherServer {
        /// The configuration.
        path: PathBuf,
        /// Its server.
        hostname: String,
    },
    /// There is a configuration that cannot be used.
    #[error("the configuration that is there cannot be used")]
    Configuration(config::Problems),
    /// Nobody can be asked, or told.
    #[error("{0}")]
    Terminal(#[from] io::Error),
    /// There is no key for the server.
    #[error(transparent)]
    Key(#[from] tls::SelfSignedError),
    /// The accounts cannot be written.
    #[error(transparent)]
    Directory(#[from] directory::file::EditError),
}

impl QuickstartError {
    /// What to do about it.
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::File { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root, or choose folders of your own with --folder and --store".into())
            }
            Self::Account { .. } => Some("name it by an address, such as anna@example.org".into()),
            Self::AccountsExist(path) => {
                let config = path.with_file_name("postrider.toml");
                let command = |what: &str| format!("postrider account {what} NAME --config {}", config.display());
                Some(format!("{}, or for another password: {}", command("add"), command("passwd")))
            }
            Self::NoAccounts(_) => Some("leave --account out, or add the table [accounts] to it".into()),
            Self::Password(error) => error.cure(),
            Self::OtherServer { .. } => Some("choose another --folder, or move the old one away".into()),
            _ => None,
        }
    }
}

/// The file of accounts before there are any.
const NO_ACCOUNTS: &str = "# The accounts; `postrider account add NAME` writes them.\n";

/// The first stage: what was written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    stage: &'static str,
    hostname: &'a str,
    configuration: PathBuf,
    files: &'a [Made],
    /// The password of the first account, if it was made here. Told once.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// The other stages: how all is.
#[derive(Debug, Serialize)]
struct Found {
    stage: &'static str,
    domains: Vec<String>,
    machine: Vec<Finding>,
    records: Vec<Record>,
    next: Vec<String>,
}

/// Sets a server up, and tells how the machine and the DNS are.
pub fn run(options: &Options) -> Result<(), QuickstartError> {
    let there = existing(options)?;
    let plan = Plan::new(options, there.as_ref());
    let account = ask::first_account(options, &plan)?;
    let password = account.as_ref().filter(|account| account.generated).map(print::exposed);
    let outside = Outside::new();
    let mut making = Making::default();
    let configuration = write(&plan, account, &mut making)?;
    let written = Written {
        stage: "written",
        hostname: plan.hostname.as_str(),
        configuration: plan.configuration(),
        files: making.made(),
        password,
    };
    match options.json {
        true => output::tell(format!("{}\n", serde_json::to_string(&written).map_err(io::Error::other)?))?,
        false => output::tell(print::written(&written))?,
    }
    making.keep();
    let found = look(options, &plan, there.as_ref(), &configuration, outside);
    match options.json {
        true => output::line(serde_json::to_string(&found).map_err(io::Error::other)?)?,
        false => output::print(print::found(&found, &configuration, &plan))?,
    }
    Ok(())
}

/// The configuration that is there, if there is one. It must be that of the same server: its records would be told wrong.
fn existing(options: &Options) -> Result<Option<There>, QuickstartError> {
    let path = options::absolute(&options.folder).join("postrider.toml");
    if !path.exists() {
        return Ok(None);
    }
    let configuration = config::load_to_obey(&path).map_err(QuickstartError::Configuration)?.configuration;
    if configuration.hostname.0 != options.hostname {
        return Err(QuickstartError::OtherServer { path, hostname: configuration.hostname.to_string() });
    }
    // What has been read once can be read again; if not, nothing is lost but a comment.
    let commented = plan::commented_domains(&std::fs::read_to_string(&path).unwrap_or_default());
    Ok(Some(There { configuration, commented }))
}

/// Writes what is missing, and reads the configuration.
fn write(plan: &Plan, account: Option<FirstAccount>, making: &mut Making) -> Result<Configuration, QuickstartError> {
    let (owner, obeyed) = (plan.owner(), plan.obeyed_owner());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| QuickstartError::File { path, error }
    };
    making.folder(&plan.folder, 0o750, obeyed, "the configuration's folder").map_err(failed(&plan.folder))?;
    let new_store = making.folder(&plan.store, 0o700, None, "the queue's folder").map_err(failed(&plan.store))?;
    let path = plan.configuration();
    making.file(&path, plan.text().as_bytes(), 0o640, obeyed, "the configuration").map_err(failed(&path))?;
    if let Some(path) = &plan.accounts {
        accounts(plan, path, account, making)?;
    }
    let configuration = config::load_to_obey(&path).map_err(QuickstartError::Configuration)?.configuration;
    keys(plan, &configuration, new_store, making)?;
    if new_store {
        making.hand_over(&plan.store, owner).map_err(failed(&plan.store))?;
    }
    Ok(configuration)
}

fn accounts(
    plan: &Plan,
    path: &Path,
    account: Option<FirstAccount>,
    making: &mut Making,
) -> Result<(), QuickstartError> {
    let owner = plan.owner();
    let Some(account) = account else {
        let note = match AccountsFile::open(path).map(|file| file.entries().len()) {
            Ok(0) => "the accounts, none yet".to_owned(),
            Ok(count) => format!("the accounts, {count} of them"),
            Err(_) => "the accounts".to_owned(),
        };
        let made = making.file(path, NO_ACCOUNTS.as_bytes(), 0o600, owner, &note);
        return made.map(drop).map_err(|error| QuickstartError::File { path: path.to_owned(), error });
    };
    // Nobody else makes it meanwhile: that it did not exist was asked before.
    let mut file = AccountsFile::open(path)?;
    file.add(&account.name.to_string(), None, Some(&account.password), SystemClock.now())?;
    file.save(owner.map(|owner| (owner.uid, owner.gid)))?;
    making.adopt(path, &format!("the accounts, with {}", account.name));
    Ok(())
}

/// Makes the certificate and the key that the server would make at its first start, where it looks for them: so there is a
/// TLSA record to tell. Root writes nothing into a folder that is somebody else's.
fn keys(
    plan: &Plan,
    configuration: &Configuration,
    new_store: bool,
    making: &mut Making,
) -> Result<(), QuickstartError> {
    if !configuration.certificate.is_empty() || !configuration.acme.names.is_empty() {
        return Ok(());
    }
    let folder = plan.store.join(TLS_FOLDER);
    let (chain, key) = tls::Certificates::self_signed_files(&folder);
    if chain.exists() || key.exists() {
        making.note(&chain, false, CERTIFICATE);
        return Ok(());
    }
    let is_ours = match &plan.user {
        Some(user) => new_store && user.owner.is_some(),
        None => !nix::unistd::geteuid().is_root(),
    };
    if !is_ours {
        return Ok(());
    }
    let (certificate, secret) = tls::self_signed(&[plan.hostname.to_string()], None)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| QuickstartError::File { path, error }
    };
    let owner = plan.owner();
    making.folder(&folder, 0o700, owner, "the folder of certificates").map_err(failed(&folder))?;
    making.file(&key, secret.as_bytes(), 0o600, owner, "its key").map_err(failed(&key))?;
    making.file(&chain, certificate.as_bytes(), 0o600, owner, CERTIFICATE).map_err(failed(&chain))?;
    Ok(())
}

const CERTIFICATE: &str = "a certificate that vouches for itself, until you have another";

/// What looks at others. From its making on nobody ends this program before what was written has been told.
struct Outside {
    runtime: Runtime,
    stop: Option<[Signal; 3]>,
}

impl Outside {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listen = || {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [interrupt, terminate, hangup] = kinds.map(signal);
            io::Result::Ok([interrupt?, terminate?, hangup?])
        };
        let stop = runtime.block_on(async { listen().ok() });
        Ok(Self { runtime, stop })
    }

    /// Looks to the end, or until somebody has had enough.
    fn look<T>(self, looking: impl Future<Output = T>) -> T {
        let Self { runtime, stop } = self;
        runtime.block_on(async {
            let Some([mut interrupt, mut terminate, mut hangup]) = stop else { return looking.await };
            tokio::select! {
                found = looking => found,
                _ = interrupt.recv() => std::process::exit(INTERRUPTED),
                _ = terminate.recv() => std::process::exit(INTERRUPTED),
                _ = hangup.recv() => std::process::exit(INTERRUPTED),
            }
        })
    }
}

/// As shells have it for a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// Looks at the machine and at the DNS. What cannot be looked at is told like all else.
fn look(
    options: &Options,
    plan: &Plan,
    there: Option<&There>,
    configuration: &Configuration,
    outside: io::Result<Outside>,
) -> Found {
    let mut machine: Vec<Finding> = machine::user(plan).into_iter().collect();
    let unheeded = there.map(|there| plan::unheeded(options, &there.configuration)).unwrap_or_default();
    machine.extend(machine::command_line(plan, &unheeded));
    machine.extend(machine::ports(configuration));
    machine.push(machine::clock());
    let mut records = Vec::new();
    match outside {
        Ok(outside) => {
            let (findings, looked) = outside.look(look_outside(options, plan, configuration));
            machine.extend(findings);
            records.extend(looked);
        }
        Err(error) => machine.push(machine::no_look_ups(&error)),
    }
    let next = print::next(options, plan, &machine);
    Found { stage: "found", domains: plan.domains.iter().map(ToString::to_string).collect(), machine, records, next }
}

async fn look_outside(options: &Options, plan: &Plan, configuration: &Configuration) -> (Vec<Finding>, Vec<Record>) {
    let public = match options.address.is_empty() {
        true => names::public_addresses(),
        false => options.address.iter().copied().collect(),
    };
    let wanted = Wanted { configuration, domains: &plan.domains, public };
    if options.offline {
        return (Vec::new(), names::records(&wanted, None).await);
    }
    let metrics = dns::Metrics::register(&mut Registry::default());
    let resolver = match dns::Resolver::new(configuration.dns.to_settings(), Arc::new(SystemClock), metrics) {
        Ok(resolver) => resolver,
        Err(error) => {
            let out = machine::way_out(None, &options.probe).await;
            return (vec![machine::no_look_ups(&error), out], names::records(&wanted, None).await);
        }
    };
    let dns: &dyn Resolve = &resolver;
    let (out, servers, records) = tokio::join!(
        machine::way_out(Some(dns), &options.probe),
        machine::name_servers(&resolver, plan.domains.first().unwrap_or(&plan.hostname)),
        names::records(&wanted, Some(dns))
    );
    (std::iter::once(out).chain(servers).collect(), records)
}
