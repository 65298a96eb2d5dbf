//! Accounts in a data base: one query with the name as its only parameter, which is bound and never written into the text.

mod postgres;
mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use crate::Unavailable;
use crate::account::{Account, AccountLimits, Limit};
use crate::directory::Record;
use crate::names::normalise;
use crate::password::{Credentials, Hash, Password, Verifier};
use crate::send_as::SendAs;
use crate::trust::TrustError;

/// Where accounts are, and how one is found.
#[derive(Clone, Debug)]
pub struct SqlSettings {
    /// The data base.
    pub database: Database,
    /// The query. `$1` stands for the account's name; the columns `hash`, `scram`, `name`, `addresses`, `disabled` and
    /// those that are named like a [`Limit`] count.
    pub query: String,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// A data base.
#[derive(Clone)]
pub enum Database {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A server.
    Postgres {
        /// `postgresql://user@host/database`.
        url: String,
        /// The password, if it is not in the URL.
        password: Option<Password>,
        /// Whose certificates are trusted; the system's if not set.
        authorities: Option<PathBuf>,
    },
}

/// Why a data base cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The URL is none.
    #[error("this is no URL of a PostgreSQL server: {0}")]
    Url(String),
    /// See the inner error.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The accounts of a data base.
pub enum SqlAccounts {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

/// What the query said of an account.
#[derive(Debug, Default)]
pub struct Row {
    name: Option<String>,
    hash: Option<String>,
    scram: Option<String>,
    addresses: Option<Vec<String>>,
    disabled: bool,
    limits: AccountLimits,
}

impl SqlSettings {
    /// Whether the query brings verifiers for SCRAM.
    pub fn brings_scram(&self) -> bool {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        self.query.split(|c| !is_word(c)).any(|word| word.eq_ignore_ascii_case("scram"))
    }
}

impl SqlAccounts {
    /// Connects when the first account is asked for.
    pub fn new(settings: SqlSettings) -> Result<Self, SqlError> {
        let SqlSettings { database, query, timeout } = settings;
        Ok(match database {
            Database::Sqlite(path) => Self::Sqlite(sqlite::Sqlite::new(path, query, timeout)),
            Database::Postgres { url, password, authorities } => {
                let password = password.as_ref().map(Password::as_typed);
                Self::Postgres(postgres::Postgres::new(&url, password, authorities.as_deref(), query, timeout)?)
            }
        })
    }

    /// The account of that name.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Record>>, Unavailable> {
        let row = match self {
            Self::Sqlite(sqlite) => sqlite.row(name).await,
            Self::Postgres(postgres) => postgres.row(name).await,
        };
        let record = match row {
            Ok(Some(row)) => row.to_record(name).map(Some),
            Ok(None) => Ok(None),
            Err(problem) => Err(problem),
        };
        record.map(|record| record.map(Arc::new)).map_err(|problem| {
            error!(account = name, problem, "the data base of accounts cannot answer");
            Unavailable(problem)
        })
    }
}

impl Row {
    /// The account that was found by the name `asked`.
    fn to_record(&self, asked: &str) -> Result<Record, String> {
        let wrong = |column: &str, error: &dyn fmt::Display| format!("column `{column}` of `{asked}`: {error}");
        let name = normalise(self.name.as_deref().unwrap_or(asked)).map_err(|error| wrong("name", &error))?;
        let hash = self.hash.as_deref().map(Hash::parse).transpose().map_err(|error| wrong("hash", &error))?;
        let scram = self.scram.as_deref().map(Verifier::parse).transpose().map_err(|error| wrong("scram", &error))?;
        let send_as = match &self.addresses {
            Some(rules) => SendAs::parse(rules).map_err(|error| wrong("addresses", &error))?,
            None => SendAs::own(&name),
        };
        Ok(Record {
            account: Arc::new(Account { name, send_as, limits: self.limits.if_any(), hide_client: None }),
            credentials: Arc::new(Credentials::new(hash, scram, Vec::new())),
            disabled: self.disabled,
            app_passwords_only: false,
        })
    }

    /// Sets a limit; a number that cannot be one is told.
    fn limit(&mut self, limit: Limit, most: Option<i64>) -> Result<(), String> {
        let Some(most) = most else { return Ok(()) };
        let most = u32::try_from(most).map_err(|_| format!("column `{}`: {most} is no limit", limit.as_str()))?;
        self.limits.set(limit, most);
        Ok(())
    }
}

/// Addresses in one text: behind commas or spaces.
fn listed(text: &str) -> Vec<String> {
    text.split([',', ' ', '\n', '\t', ';']).filter(|rule| !rule.is_empty()).map(str::to_owned).collect()
}

/// What a text says of a truth.
fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes" | "on")
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(path) => write!(f, "Sqlite({})", path.display()),
            // The URL may hold a password.
            Database::Postgres { .. } => f.write_str("Postgres(…)"),
        }
    }
}
