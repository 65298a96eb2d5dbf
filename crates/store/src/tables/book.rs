//! The file: one ordered table of records and one of expiries for each [`Table`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mail::Timestamp;
use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError};

use super::line::{Change, Job, Made};
use super::{Table, TablesError};
use crate::backend::{Backend, Fence};
use crate::error::IndexError;
use crate::files::Files;
use crate::index::{guarded, io_error};

/// The file's name.
pub(super) const NAME: &str = "tables.redb";
/// Its name until it is whole.
const NEW_NAME: &str = "tables.redb.new";
/// Octets of pages in memory.
const CACHE: usize = 8 << 20;
/// Expired records that one transaction removes from one table.
const SWEEP: usize = 1024;

/// Expiry (the largest number for never) and value.
type Rows<'t> = redb::Table<'t, &'static str, (u64, &'static [u8])>;
type Expiries<'t> = redb::Table<'t, (u64, &'static str), ()>;

/// A record as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub value: Vec<u8>,
    pub expires: Option<Timestamp>,
}

impl Record {
    pub fn lives(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether the table takes it.
    pub fn fits(&self, table: Table, key: &str) -> Result<(), TablesError> {
        let octets = key.len() + self.value.len();
        if octets > table.largest() { Err(TablesError::TooLarge { table, octets }) } else { Ok(()) }
    }

    fn from_row((expires, value): (u64, &[u8])) -> Self {
        Self { value: value.to_vec(), expires: (expires != u64::MAX).then(|| Timestamp::from_millis(expires)) }
    }

    fn expires_row(&self) -> u64 {
        self.expires.map_or(u64::MAX, Timestamp::as_millis)
    }
}

/// What a scan is for.
#[derive(Debug)]
pub(super) struct Bounds {
    pub prefix: String,
    pub after: Option<String>,
    pub limit: usize,
    pub now: Timestamp,
}

impl Bounds {
    /// Whether it is for this key.
    pub fn hold(&self, key: &str) -> bool {
        key.starts_with(&self.prefix) && self.after.as_deref().is_none_or(|after| key > after)
    }

    fn start(&self) -> Bound<&str> {
        match self.after.as_deref() {
            Some(after) if after >= self.prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(&self.prefix),
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Book {
    database: Database,
    fence: Option<Fence>,
}

impl Drop for Book {
    /// As for the index: nothing is written behind the last commit, so that whoever opens the file next is alone.
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Book {
    pub fn in_memory() -> Result<Self, IndexError> {
        guarded(|| Ok(Self { database: Database::builder().create_with_backend(InMemoryBackend::new())?, fence: None }))
    }

    /// Opens the file, or makes it where there is none.
    pub fn open(files: &dyn Files) -> Result<Self, IndexError> {
        if !files.list().map_err(io_error)?.iter().any(|name| name == NAME) {
            Self::make(files)?;
        }
        let file = files.open(NAME).map_err(io_error)?;
        // What a life wrote that ended before its sync can be read, but is not durable yet.
        file.sync().map_err(io_error)?;
        let (backend, fence) = Backend::new(file);
        guarded(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE);
            Ok(Self { database: builder.create_with_backend(backend)?, fence: Some(fence) })
        })
    }

    /// Makes an empty file under another name first, so that a power cut leaves a whole one or none.
    fn make(files: &dyn Files) -> Result<(), IndexError> {
        let file = files.create(NEW_NAME, 0).map_err(io_error)?;
        let (backend, _) = Backend::new(Arc::clone(&file));
        drop(guarded(|| Ok(Database::builder().create_with_backend(backend)?))?);
        file.sync().map_err(io_error)?;
        files.rename(NEW_NAME, NAME).map_err(io_error)?;
        files.sync_names().map_err(io_error)
    }

    /// Nothing more is written through it.
    pub fn give_up(&self) {
        if let Some(fence) = &self.fence {
            fence.close();
        }
    }

    pub fn get(&self, table: Table, key: &str) -> Result<Option<Record>, IndexError> {
        guarded(|| {
            let read = self.database.begin_read()?;
            let rows = match read.open_table(rows_of(table)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                rows => rows?,
            };
            Ok(rows.get(key)?.map(|row| Record::from_row(row.value())))
        })
    }

    /// The first living records within the bounds whose keys are not `but` these.
    pub fn scan(
        &self,
        table: Table,
        bounds: &Bounds,
        but: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Record>, IndexError> {
        guarded(|| {
            let read = self.database.begin_read()?;
            let rows = match read.open_table(rows_of(table)) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
                rows => rows?,
            };
            let mut found = BTreeMap::new();
            for row in rows.range::<&str>((bounds.start(), Bound::Unbounded))? {
                let (key, row) = row?;
                let (key, record) = (key.value(), Record::from_row(row.value()));
                if found.len() >= bounds.limit || !key.starts_with(&bounds.prefix) {
                    break;
                }
                if record.lives(bounds.now) && !but(key) {
                    found.insert(key.to_owned(), record);
                }
            }
            Ok(found)
        })
    }

    /// Makes changes, durably and all at once; each says what it did, or why it did nothing. `sweep` removes what expired
    /// by then.
    pub fn write(
        &self,
        jobs: &mut [Job],
        now: Timestamp,
        sweep: bool,
    ) -> Result<Vec<Result<Made, TablesError>>, IndexError> {
        guarded(|| {
            let mut write = self.database.begin_write()?;
            // Opening after a crash then needs no walk through the tables.
            write.set_quick_repair(true);
            write.set_durability(Durability::Immediate).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
            let mut made = Vec::with_capacity(jobs.len());
            for job in jobs {
                let mut sheet = Sheet::open(&write, job.table)?;
                made.push(sheet.make(job, now)?);
            }
            if sweep {
                for table in Table::ALL {
                    Sheet::open(&write, table)?.sweep(now)?;
                }
            }
            write.commit()?;
            Ok(made)
        })
    }
}

/// One table, open for changes.
struct Sheet<'t> {
    table: Table,
    rows: Rows<'t>,
    expiries: Expiries<'t>,
}

impl<'t> Sheet<'t> {
    fn open(write: &'t redb::WriteTransaction, table: Table) -> Result<Self, redb::Error> {
        let (rows, expiries) = (write.open_table(rows_of(table))?, write.open_table(expiries_of(table))?);
        Ok(Self { table, rows, expiries })
    }

    fn make(&mut self, job: &mut Job, now: Timestamp) -> Result<Result<Made, TablesError>, redb::Error> {
        let found = self.rows.get(job.key.as_str())?.map(|row| Record::from_row(row.value()));
        let was_there = found.is_some();
        let new = match &mut job.change {
            Change::Put(record) => Some(record.clone()),
            Change::Remove => None,
            Change::Update(change) => {
                let Some(change) = change.take() else { return Ok(Err(TablesError::NotMade)) };
                let found = found.clone();
                // The panic told its own message; others' changes are not to suffer from it.
                match catch_unwind(AssertUnwindSafe(|| change(found))) {
                    Ok(new) => new,
                    Err(_) => return Ok(Err(TablesError::NotMade)),
                }
            }
        };
        if let Some(new) = &new {
            if let Err(error) = new.fits(self.table, &job.key) {
                return Ok(Err(error));
            }
            if !was_there && !self.has_room(now)? {
                return Ok(Err(TablesError::Full(self.table)));
            }
        }
        if let Some(expires) = found.and_then(|old| old.expires) {
            self.expiries.remove((expires.as_millis(), job.key.as_str()))?;
        }
        match &new {
            Some(new) => self.insert(&job.key, new)?,
            None => drop(self.rows.remove(job.key.as_str())?),
        }
        Ok(Ok(Made { was_there, now: new.map(|record| record.value) }))
    }

    fn insert(&mut self, key: &str, record: &Record) -> Result<(), redb::Error> {
        self.rows.insert(key, (record.expires_row(), record.value.as_slice()))?;
        if let Some(expires) = record.expires {
            self.expiries.insert((expires.as_millis(), key), ())?;
        }
        Ok(())
    }

    /// Whether one more record may be put; makes room for it if it can.
    fn has_room(&mut self, now: Timestamp) -> Result<bool, redb::Error> {
        if self.rows.len()? < self.table.most() {
            return Ok(true);
        }
        if self.sweep(now)? > 0 {
            return Ok(true);
        }
        let next = self.expiries.first()?.map(|(key, _)| {
            let (expires, key) = key.value();
            (expires, key.to_owned())
        });
        let Some((expires, key)) = next else { return Ok(false) };
        self.expiries.remove((expires, key.as_str()))?;
        self.rows.remove(key.as_str())?;
        Ok(true)
    }

    /// Removes what has expired; how much that was.
    fn sweep(&mut self, now: Timestamp) -> Result<usize, redb::Error> {
        let mut expired = Vec::new();
        for row in self.expiries.iter()?.take(SWEEP) {
            let (row, _) = row?;
            let (expires, key) = row.value();
            if expires > now.as_millis() {
                break;
            }
            expired.push((expires, key.to_owned()));
        }
        for (expires, key) in &expired {
            self.expiries.remove((*expires, key.as_str()))?;
            self.rows.remove(key.as_str())?;
        }
        Ok(expired.len())
    }
}

fn rows_of(table: Table) -> TableDefinition<'static, &'static str, (u64, &'static [u8])> {
    TableDefinition::new(table.name())
}

fn expiries_of(table: Table) -> TableDefinition<'static, (u64, &'static str), ()> {
    TableDefinition::new(table.expiry_name())
}
