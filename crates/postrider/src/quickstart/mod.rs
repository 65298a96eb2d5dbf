//! `postrider quickstart`: from nothing to a server that can be started.
//!
//! ```text
//! ask ─► write (all or nothing) ─► look at the machine ─► look at the DNS ─► say what comes next
//! ```
//!
//! It may be run again at any time: what exists stays as it is, and the checks and records are told anew.

mod ask;
mod files;
mod machine;
mod names;
mod options;
mod plan;
mod print;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use directory::file::AccountsFile;
use mail::{Clock, SystemClock};
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::config;
use crate::output;
use ask::FirstAccount;
use files::{Made, Making};
use machine::Finding;
use names::Record;
pub use options::Options;
use plan::Plan;

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
    /// No resolver, no runtime, no terminal.
    #[error("{0}")]
    System(#[from] io::Error),
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
                Some(format!("postrider account add NAME --config {}", config.display()))
            }
            Self::Password(error) => error.cure(),
            Self::OtherServer { .. } => Some("choose another --folder, or move the old one away".into()),
            _ => None,
        }
    }
}

/// The file of accounts before there are any.
const NO_ACCOUNTS: &str = "# The accounts; `postrider account add NAME` writes them.\n";

/// All that was done and found.
#[derive(Debug, Serialize)]
struct Outcome {
    hostname: String,
    domain: String,
    configuration: PathBuf,
    files: Vec<Made>,
    /// The password of the first account, if it was made here. Told once.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    machine: Vec<Finding>,
    records: Vec<Record>,
    next: Vec<String>,
}

/// Sets a server up, and tells how the machine and the DNS are.
pub fn run(options: &Options) -> Result<(), QuickstartError> {
    let plan = Plan::new(options);
    same_server(&plan)?;
    let account = ask::first_account(options, &plan)?;
    let password = account.as_ref().filter(|account| account.generated).map(print::exposed);
    let files = write(&plan, account)?;
    let (machine, records) = look(options, &plan)?;
    let next = print::next(&plan, &machine);
    let outcome = Outcome {
        hostname: plan.hostname.to_string(),
        domain: plan.domain.to_string(),
        configuration: plan.configuration(),
        files,
        password,
        machine,
        records,
        next,
    };
    match options.json {
        true => output::json(&outcome)?,
        false => output::print(print::text(&outcome))?,
    }
    Ok(())
}

/// A configuration that is there must be that of the same server: its records would be told wrong.
fn same_server(plan: &Plan) -> Result<(), QuickstartError> {
    let path = plan.configuration();
    if !path.exists() {
        return Ok(());
    }
    let there = config::load_to_obey(&path).map_err(QuickstartError::Configuration)?.configuration;
    if there.hostname.0 == plan.hostname {
        return Ok(());
    }
    Err(QuickstartError::OtherServer { path, hostname: there.hostname.to_string() })
}

fn write(plan: &Plan, account: Option<FirstAccount>) -> Result<Vec<Made>, QuickstartError> {
    let (mut making, owner, obeyed) = (Making::default(), plan.owner(), plan.obeyed_owner());
    let failed = |path: PathBuf| move |error| QuickstartError::File { path, error };
    making.folder(&plan.folder, 0o750, obeyed, "the configuration's folder").map_err(failed(plan.folder.clone()))?;
    making.folder(&plan.store, 0o700, owner, "the queue's folder").map_err(failed(plan.store.clone()))?;
    let path = plan.configuration();
    making.file(&path, plan.text().as_bytes(), 0o640, obeyed, "the configuration").map_err(failed(path))?;
    let path = plan.accounts();
    match account {
        Some(account) => {
            // Nobody else makes it meanwhile: that it did not exist was asked before.
            let mut file = AccountsFile::open(&path)?;
            file.add(&account.name.to_string(), None, Some(&account.password), SystemClock.now())?;
            file.save(owner.map(|owner| (owner.uid, owner.gid)))?;
            making.adopt(&path, &format!("the accounts, with {}", account.name));
        }
        None => {
            making.file(&path, NO_ACCOUNTS.as_bytes(), 0o600, owner, "the accounts, none yet").map_err(failed(path))?;
        }
    }
    config::load_to_obey(&plan.configuration()).map_err(QuickstartError::Configuration)?;
    Ok(making.keep())
}

fn look(options: &Options, plan: &Plan) -> Result<(Vec<Finding>, Vec<Record>), QuickstartError> {
    let mut findings: Vec<Finding> = machine::user(plan).into_iter().collect();
    findings.extend(machine::ports(plan));
    findings.push(machine::clock());
    if options.offline {
        return Ok((findings, Vec::new()));
    }
    let settings = match config::load(&plan.configuration()) {
        Ok(loaded) => loaded.configuration.dns.to_settings(),
        Err(problems) => return Err(QuickstartError::Configuration(problems)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let metrics = dns::Metrics::register(&mut Registry::default());
        let resolver = dns::Resolver::new(settings, Arc::new(SystemClock), metrics).map_err(io::Error::other)?;
        let (out, dnssec, records) = tokio::join!(
            machine::way_out(&resolver, &options.probe),
            machine::name_servers(&resolver, &plan.domain),
            async {
                let public = match options.address.is_empty() {
                    true => names::public_addresses(),
                    false => options.address.iter().copied().collect(),
                };
                names::first_records(plan, &public, &resolver).await
            }
        );
        findings.push(out);
        findings.extend(dnssec);
        Ok((findings, records))
    })
}
