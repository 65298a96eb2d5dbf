//! A mail transfer agent that loses nothing.
//!
//! The binary reads the configuration, puts the rooms together, and talks to people: command line, logs, control
//! socket, systemd. How mail is received, kept, scheduled and delivered stands in the rooms below.

#![forbid(unsafe_code)]

mod account_command;
mod acme_command;
mod ban_command;
mod check_command;
mod cli;
mod config;
mod control;
mod dns_records;
mod explain;
mod logs;
mod output;
mod queue_command;
mod quickstart;
mod sandbox;
mod server;
mod tlsrpt_command;
mod use_command;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Reach};
use config::Problems;
use server::ServeError;

/// `EX_CONFIG` of sysexits: the service manager need not try again before somebody has changed something.
const EXIT_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Serve => server::serve(&cli.config)?,
        Command::Quickstart(options) => quickstart::run(options)?,
        Command::Sandbox(options) => sandbox::sandbox(options)?,
        Command::Check { json } => return Ok(check_command::run(&cli.config, *json)?),
        Command::Schema => output::json(&config::schema())?,
        Command::Reference => output::print(config::reference())?,
        Command::Explain { recipient, json } => explain::run(&cli.config, recipient, *json)?,
        Command::Queue { reach, command } => queue_command::run(&socket(cli, reach)?, command)?,
        Command::Account { command } => account_command::run(&cli.config, command)?,
        Command::Acme { reach, command } => acme_command::run(&socket(cli, reach)?, *command)?,
        Command::Ban { reach, command } => ban_command::run(&socket(cli, reach)?, command)?,
        Command::TlsReports { reach, command } => tlsrpt_command::run(&socket(cli, reach)?, command)?,
        Command::DnsRecords { domain, json } => dns_records::run(&cli.config, domain.as_ref(), *json)?,
        Command::Status { reach, json } => queue_command::status(&socket(cli, reach)?, *json)?,
        Command::Metrics { reach } => queue_command::metrics(&socket(cli, reach)?)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "postrider", &mut script);
            output::print(script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the running server listens for commands.
fn socket(cli: &Cli, reach: &Reach) -> Result<PathBuf, Failure> {
    match &reach.socket {
        Some(socket) => Ok(socket.clone()),
        None => Ok(config::load(&cli.config)?.configuration.store.path.join(server::CONTROL_SOCKET)),
    }
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the configuration cannot be used")]
    Configuration(#[from] Problems),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    #[error(transparent)]
    Quickstart(#[from] quickstart::QuickstartError),
    #[error(transparent)]
    Control(#[from] control::ClientError),
    #[error(transparent)]
    Account(#[from] account_command::AccountError),
    #[error(transparent)]
    Records(#[from] dns_records::RecordsError),
    #[error(transparent)]
    Explain(#[from] explain::ExplainError),
    #[error("{0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// Tells it to the person at the terminal, with the cure.
    fn tell(&self) -> ExitCode {
        let (problems, cure) = match self {
            Failure::Configuration(problems) | Failure::Serve(ServeError::Configuration(problems)) => {
                (Some(problems), None)
            }
            Failure::Explain(explain::ExplainError::Configuration(problems))
            | Failure::Account(account_command::AccountError::Configuration(problems)) => (Some(problems), None),
            Failure::Records(dns_records::RecordsError::Configuration(problems)) => (Some(problems), None),
            Failure::Records(dns_records::RecordsError::NoDomain) => {
                (None, Some("name one: postrider dns-records example.org; or set `domains`".to_owned()))
            }
            Failure::Account(error) => (None, error.cure()),
            Failure::Serve(error) => (None, error.cure()),
            Failure::Quickstart(quickstart::QuickstartError::Configuration(problems)) => (Some(problems), None),
            Failure::Quickstart(error) => (None, error.cure()),
            Failure::Sandbox(error) => (None, error.cure()),
            Failure::Control(error) => (None, error.cure()),
            Failure::Records(_) | Failure::Explain(_) | Failure::Output(_) => (None, None),
        };
        if let Some(problems) = problems {
            eprint!("{}", problems.render(std::io::stderr().is_terminal()));
        }
        eprintln!("postrider: {}", output::harmless(&self.to_string()));
        if let Some(cure) = cure {
            eprintln!("  help: {cure}");
        }
        if problems.is_some() { ExitCode::from(EXIT_CONFIGURATION) } else { ExitCode::FAILURE }
    }
}
