//! Small durable records beside the log: policies, bans, counts of use. Not mail.
//!
//! All tables lie in one file, `tables.redb`. Every change goes through one line, in the order of the calls; one thread
//! writes what waits in one transaction and one sync, then answers all who waited. Reads see what was last put, also while
//! it waits. A file that is broken is put into quarantine, said loudly, and an empty one begun: what lies here is worth
//! keeping, but the server must not stand still for want of it.
//!
//! A record may have a time of expiry, from which on nobody sees it and a sweep removes it. What the time is, callers say:
//! the tables have no clock of their own. Every table has a bounded number of records of bounded size; a full one lets go
//! what expires next, or refuses if nothing ever does.

mod book;
mod line;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use mail::Timestamp;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::error::{IndexError, OpenError};
use crate::files::{Files, RealFiles};
use book::{Bounds, Record};
use line::{Change, Job, Keeper};

pub use table::Table;

/// The most records that one [`Tables::scan`] gives.
const SCAN: usize = 10_000;

/// The tables; clones share them.
///
/// [`Tables::close`] ends them in an orderly way; if the last clone is dropped instead, what is in line is still written,
/// but the drop blocks meanwhile.
#[derive(Clone)]
pub struct Tables {
    keeper: Arc<Keeper>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tables")
    }
}

/// Why a record cannot be read or kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    /// The disk failed; trying again may help.
    #[error("the tables' disk failed: {0}")]
    Disk(String),
    /// The tables cannot be opened. An operator reads this.
    #[error("{0}")]
    Open(String),
    /// The table holds as many records as it may, and none of them ever expires.
    #[error("the table {} is full", .0.name())]
    Full(Table),
    /// The key or value is larger than the table takes.
    #[error("a record of {octets} octets is too large for the table {}", .table.name())]
    TooLarge {
        /// The table.
        table: Table,
        /// Of key and value.
        octets: usize,
    },
    /// The tables were closed, or the change panicked.
    #[error("the change was not made")]
    NotMade,
}

impl From<IndexError> for TablesError {
    fn from(error: IndexError) -> Self {
        TablesError::Disk(error.to_string())
    }
}

impl From<OpenError> for TablesError {
    fn from(error: OpenError) -> Self {
        TablesError::Open(error.to_string())
    }
}

impl Tables {
    /// Opens the tables in the store's folder, or makes them. Blocks.
    pub fn open(folder: &Path) -> Result<Tables, TablesError> {
        Self::open_on(RealFiles::open_beside(folder, "tables.lock")?)
    }

    /// As [`Tables::open`], on any files.
    pub fn open_on(files: Arc<dyn Files>) -> Result<Tables, TablesError> {
        Ok(Self { keeper: Arc::new(Keeper::threaded(files)?) })
    }

    /// Tables that live as long as the process, without a thread: for tests and simulations.
    pub fn in_memory() -> Tables {
        Self { keeper: Arc::new(Keeper::in_memory()) }
    }

    /// A record, if there is one that has not expired.
    pub async fn get(&self, table: Table, key: &str, now: Timestamp) -> Result<Option<Vec<u8>>, TablesError> {
        self.keeper.look(now);
        if let Some(waiting) = self.keeper.waiting(table, key) {
            return Ok(waiting.filter(|record| record.lives(now)).map(|record| record.value));
        }
        let key = key.to_owned();
        let found = self.read(move |keeper| keeper.read(|book| book.get(table, &key))).await?;
        Ok(found.filter(|record| record.lives(now)).map(|record| record.value))
    }

    /// Puts a record in the place of what is there. Durable when it returns.
    pub async fn put(
        &self,
        table: Table,
        key: &str,
        value: Vec<u8>,
        expires: Option<Timestamp>,
    ) -> Result<(), TablesError> {
        let record = Record { value, expires };
        record.fits(table, key)?;
        self.change(table, key, Change::Put(record)).await?;
        Ok(())
    }

    /// As [`Tables::put`], but durable only within a second, and nobody waits. Read at once.
    pub fn put_soon(&self, table: Table, key: &str, value: Vec<u8>, expires: Option<Timestamp>) {
        let record = Record { value, expires };
        match record.fits(table, key) {
            Ok(()) => self.keeper.push(Job::new(table, key, Change::Put(record), None)),
            Err(error) => tracing::error!(%error, "a record was not kept"),
        }
    }

    /// Changes a record in one step: nobody else changes it between what `change` is given and what it returns. `None`
    /// removes the record. Durable when it returns; the value is what the record is from now on.
    pub async fn update(
        &self,
        table: Table,
        key: &str,
        now: Timestamp,
        change: impl FnOnce(Option<Vec<u8>>) -> Option<(Vec<u8>, Option<Timestamp>)> + Send + 'static,
    ) -> Result<Option<Vec<u8>>, TablesError> {
        self.keeper.look(now);
        let change = move |found: Option<Record>| {
            let found = found.filter(|record| record.lives(now)).map(|record| record.value);
            change(found).map(|(value, expires)| Record { value, expires })
        };
        Ok(self.change(table, key, Change::Update(Some(Box::new(change)))).await?.now)
    }

    /// Removes a record; whether there was one. Durable when it returns.
    pub async fn remove(&self, table: Table, key: &str) -> Result<bool, TablesError> {
        Ok(self.change(table, key, Change::Remove).await?.was_there)
    }

    /// Records whose keys begin with `prefix`, in the order of the keys, behind `after`: key, value, expiry.
    pub async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(String, Vec<u8>, Option<Timestamp>)>, TablesError> {
        self.keeper.look(now);
        let bounds = Bounds { prefix: prefix.to_owned(), after: after.map(str::to_owned), limit: limit.min(SCAN), now };
        let found = self.read(move |keeper| keeper.scan(table, &bounds)).await?;
        Ok(found.into_iter().map(|(key, record)| (key, record.value, record.expires)).collect())
    }

    /// Writes what is in line and ends. Changes that other clones make from here on are not made.
    pub async fn close(self) {
        let keeper = self.keeper;
        // A panic in there was told by the panic's own message.
        let _ = spawn_blocking(move || keeper.end()).await;
    }

    async fn change(&self, table: Table, key: &str, change: Change) -> Result<line::Made, TablesError> {
        let (answer, answered) = oneshot::channel();
        self.keeper.push(Job::new(table, key, change, Some(answer)));
        answered.await.unwrap_or(Err(TablesError::NotMade))
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Keeper) -> Result<T, TablesError> + Send + 'static,
    ) -> Result<T, TablesError> {
        if self.keeper.is_in_memory() {
            return read(&self.keeper);
        }
        let keeper = Arc::clone(&self.keeper);
        let read = spawn_blocking(move || read(&keeper)).await;
        read.unwrap_or_else(|error| Err(TablesError::Disk(error.to_string())))
    }
}
