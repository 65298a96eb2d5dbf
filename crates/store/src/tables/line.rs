//! The line in which changes wait, and the one who makes them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use mail::Timestamp;
use tokio::sync::oneshot;

use super::book::{self, Book, Bounds, Record};
use super::{Table, TablesError};
use crate::bell::Bell;
use crate::error::{IndexError, OpenError};
use crate::files::Files;

/// How long a change for which nobody waits may wait for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long to wait before a failing disk is tried again on behalf of nobody.
const RETRY: Duration = Duration::from_secs(1);
/// How often expired records are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Changes for which nobody waits that are kept while the disk fails.
const MOST_SOON: usize = 16_384;
/// Changes that are made in one transaction.
const BATCH: usize = 4096;

/// A change that waits.
pub(super) struct Job {
    pub table: Table,
    pub key: String,
    pub change: Change,
    answer: Option<Answer>,
    /// Its place in the order of all changes.
    number: u64,
}

type Answer = oneshot::Sender<Result<Made, TablesError>>;

/// What a change does to a record.
pub(super) enum Change {
    Put(Record),
    Remove,
    /// Taken when it is made.
    Update(Option<Step>),
}

/// What makes of a record what it is from now on.
pub(super) type Step = Box<dyn FnOnce(Option<Record>) -> Option<Record> + Send>;

/// What a change did.
#[derive(Debug)]
pub(super) struct Made {
    /// Whether there was a record before.
    pub was_there: bool,
    /// The record's value now.
    pub now: Option<Vec<u8>>,
}

impl Job {
    /// A change; without an answer it is made soon, not at once.
    pub fn new(table: Table, key: &str, change: Change, answer: Option<Answer>) -> Self {
        Self { table, key: key.to_owned(), change, answer, number: 0 }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("table", &self.table).field("key", &self.key).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// How many of them somebody waits for.
    awaited: usize,
    /// Since when the oldest one waits.
    since: Option<Instant>,
    /// Whether the disk failed at the last change.
    failing: bool,
    /// What was last put where, as long as it is not in the file.
    puts: HashMap<(Table, String), (u64, Option<Record>)>,
    numbers: u64,
    closing: bool,
}

/// Keeps the tables: in service with a thread, otherwise at once on the caller's.
#[derive(Debug)]
pub(super) struct Keeper {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Desk {
    in_memory: bool,
    /// Where the file lies; nowhere in memory, nor after the end.
    files: Mutex<Option<Arc<dyn Files>>>,
    /// Nothing while the file cannot be opened.
    book: RwLock<Option<Arc<Book>>>,
    /// What a reader stumbled over.
    trouble: Mutex<Option<IndexError>>,
    line: Mutex<Line>,
    bell: Bell,
    /// The time by what callers last said, and by when expired records were last removed, in milliseconds.
    now: AtomicU64,
    swept: AtomicU64,
}

impl Keeper {
    pub fn threaded(files: Arc<dyn Files>) -> Result<Self, TablesError> {
        let book = match Book::open(files.as_ref()) {
            Err(IndexError::Broken(why)) => begin_anew(files.as_ref(), &why),
            book => book,
        };
        let book = book.map_err(|error| TablesError::Open(format!("cannot open {}: {error}", book::NAME)))?;
        let desk = Arc::new(Desk::new(Some(files), book));
        let thread = thread::Builder::new().name("store-tables".into()).spawn({
            let desk = Arc::clone(&desk);
            move || desk.work()
        });
        let thread = thread.map_err(OpenError::files("start the thread store-tables"))?;
        Ok(Self { desk, thread: Mutex::new(Some(thread)) })
    }

    pub fn in_memory() -> Self {
        // Memory has no pages to be broken and no disk to fail; without a book every call would say so.
        let desk = match Book::in_memory() {
            Ok(book) => Desk::new(None, book),
            Err(error) => unreachable!("an empty book in memory: {error}"),
        };
        Self { desk: Arc::new(desk), thread: Mutex::new(None) }
    }

    pub fn is_in_memory(&self) -> bool {
        self.desk.in_memory
    }

    /// Hears what the time is.
    pub fn look(&self, now: Timestamp) {
        self.desk.now.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Gets a change in line.
    pub fn push(&self, job: Job) {
        if !self.desk.push(job) {
            return;
        }
        if self.is_in_memory() {
            self.desk.write_all();
        } else {
            self.desk.bell.ring();
        }
    }

    /// What was put and waits: nothing if nothing waits, `Some(None)` if the record is about to be removed.
    pub fn waiting(&self, table: Table, key: &str) -> Option<Option<Record>> {
        let line = self.desk.line();
        if line.puts.is_empty() {
            return None;
        }
        line.puts.get(&(table, key.to_owned())).map(|(_, record)| record.clone())
    }

    pub fn read<T>(&self, read: impl FnOnce(&Book) -> Result<T, IndexError>) -> Result<T, TablesError> {
        self.desk.read(read)
    }

    pub fn scan(&self, table: Table, bounds: &Bounds) -> Result<Vec<(String, Record)>, TablesError> {
        let waiting: HashMap<String, Option<Record>> = {
            let line = self.desk.line();
            let puts = line.puts.iter().filter(|((of, key), _)| *of == table && bounds.hold(key));
            puts.map(|((_, key), (_, record))| (key.clone(), record.clone())).collect()
        };
        let mut found = self.read(|book| book.scan(table, bounds, |key| waiting.contains_key(key)))?;
        let put = waiting.into_iter().filter_map(|(key, record)| Some((key, record?)));
        found.extend(put.filter(|(_, record)| record.lives(bounds.now)));
        Ok(found.into_iter().take(bounds.limit).collect())
    }

    /// Lets what is in line be written and ends. Blocks.
    pub fn end(&self) {
        self.desk.line().closing = true;
        self.desk.bell.ring();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the tables has panicked");
        }
        self.desk.leave();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread does next.
enum Task {
    Write,
    Sweep,
    Wait(Duration),
    End,
}

impl Desk {
    fn new(files: Option<Arc<dyn Files>>, book: Book) -> Self {
        Self {
            in_memory: files.is_none(),
            files: Mutex::new(files),
            book: RwLock::new(Some(Arc::new(book))),
            trouble: Mutex::default(),
            line: Mutex::default(),
            bell: Bell::default(),
            now: AtomicU64::new(0),
            swept: AtomicU64::new(0),
        }
    }

    fn files(&self) -> Option<Arc<dyn Files>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the file, whoever still has a clone of the tables: another may open it.
    fn leave(&self) {
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the change got in line and somebody should look.
    fn push(&self, mut job: Job) -> bool {
        let mut line = self.line();
        if line.closing {
            // Dropping the job tells its caller.
            return false;
        }
        if job.answer.is_none() && line.jobs.len() - line.awaited >= MOST_SOON {
            drop(line);
            tracing::error!(table = job.table.name(), "a record was not kept: too many wait for the disk");
            return false;
        }
        line.numbers += 1;
        job.number = line.numbers;
        let put = match &job.change {
            Change::Put(record) => Some(Some(record.clone())),
            Change::Remove => Some(None),
            Change::Update(_) => None,
        };
        if let Some(put) = put {
            let number = job.number;
            line.puts.insert((job.table, job.key.clone()), (number, put));
        }
        let is_news = job.answer.is_some() || line.since.is_none();
        line.awaited += usize::from(job.answer.is_some());
        line.since.get_or_insert_with(Instant::now);
        line.jobs.push_back(job);
        is_news
    }

    fn read<T>(&self, read: impl FnOnce(&Book) -> Result<T, IndexError>) -> Result<T, TablesError> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(book) = book else { return Err(TablesError::Disk("it cannot be opened".into())) };
        read(&book).map_err(|error| {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
            self.bell.ring();
            error.into()
        })
    }

    /// The thread's life.
    fn work(&self) {
        loop {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(error) = trouble {
                self.mend(&error);
            }
            match self.next() {
                Task::Write => self.write(),
                Task::Sweep => self.sweep(),
                Task::Wait(patience) => self.bell.wait(Some(patience)),
                Task::End => break,
            }
        }
    }

    fn next(&self) -> Task {
        let line = self.line();
        if line.jobs.is_empty() {
            if line.closing {
                return Task::End;
            }
            return if self.must_sweep() { Task::Sweep } else { Task::Wait(SWEEP_EVERY) };
        }
        let due = line.since.map(|since| since + if line.failing { RETRY } else { GATHER });
        let left = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
        if line.awaited > 0 || line.closing || left.is_zero() { Task::Write } else { Task::Wait(left) }
    }

    /// Whether a minute went by since the last sweep, in either direction.
    fn must_sweep(&self) -> bool {
        let (now, swept) = (self.now.load(Ordering::Relaxed), self.swept.load(Ordering::Relaxed));
        now.abs_diff(swept) >= SWEEP_EVERY.as_millis() as u64
    }

    fn sweep(&self) {
        if let Err(error) = self.try_write(&mut []) {
            self.mend(&error);
            // Not again at once.
            self.swept.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Makes all changes that are in line.
    fn write_all(&self) {
        while !self.line().jobs.is_empty() {
            self.write();
        }
    }

    /// Makes the first changes in line, and answers those who wait for them.
    fn write(&self) {
        let mut jobs = self.take();
        if jobs.is_empty() {
            return;
        }
        let mut written = self.try_write(&mut jobs);
        if let Err(error) = &written
            && self.mend(error)
            // What was asked to change once is not asked again; the others are tried in the mended file.
            && jobs.iter().all(|job| !matches!(job.change, Change::Update(None)))
        {
            written = self.try_write(&mut jobs);
        }
        match written {
            Ok(made) => {
                self.note(None);
                self.settle(&jobs);
                for (job, made) in jobs.into_iter().zip(made) {
                    job.finish(made);
                }
            }
            Err(error) => {
                self.note(Some(&error));
                let (again, failed): (Vec<_>, Vec<_>) =
                    jobs.into_iter().partition(|job| job.answer.is_none() && !self.in_memory);
                self.settle(&failed);
                for job in failed {
                    job.finish(Err(error.clone().into()));
                }
                self.put_back(again, &error);
            }
        }
    }

    fn take(&self) -> Vec<Job> {
        let mut line = self.line();
        let count = line.jobs.len().min(BATCH);
        let jobs: Vec<Job> = line.jobs.drain(..count).collect();
        line.awaited -= jobs.iter().filter(|job| job.answer.is_some()).count();
        line.since = (!line.jobs.is_empty()).then(Instant::now);
        jobs
    }

    /// What was put by these changes is in the file now, or never will be.
    fn settle(&self, jobs: &[Job]) {
        let mut line = self.line();
        for job in jobs {
            let place = (job.table, job.key.clone());
            if line.puts.get(&place).is_some_and(|(number, _)| *number == job.number) {
                line.puts.remove(&place);
            }
        }
    }

    /// Changes for which nobody waits are tried again, in their order.
    fn put_back(&self, jobs: Vec<Job>, error: &IndexError) {
        let mut line = self.line();
        if line.closing {
            drop(line);
            if !jobs.is_empty() {
                tracing::error!(%error, records = jobs.len(), "the disk fails at the end: records are lost");
            }
            return;
        }
        for job in jobs.into_iter().rev() {
            line.jobs.push_front(job);
        }
        if !line.jobs.is_empty() {
            line.since = Some(Instant::now());
        }
    }

    fn note(&self, error: Option<&IndexError>) {
        let mut line = self.line();
        let was = std::mem::replace(&mut line.failing, error.is_some());
        drop(line);
        match error {
            Some(error) if !was => tracing::error!(%error, "the store's tables cannot be written"),
            None if was => tracing::info!("the store's tables can be written again"),
            _ => {}
        }
    }

    fn try_write(&self, jobs: &mut [Job]) -> Result<Vec<Result<Made, TablesError>>, IndexError> {
        let book = self.open_book()?;
        let now = self.now.load(Ordering::Relaxed);
        let sweep = self.must_sweep();
        let made = book.write(jobs, Timestamp::from_millis(now), sweep)?;
        if sweep {
            self.swept.store(now, Ordering::Relaxed);
        }
        Ok(made)
    }

    /// The file, opened again if it was given up.
    fn open_book(&self) -> Result<Arc<Book>, IndexError> {
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(book) = &*book {
            return Ok(Arc::clone(book));
        }
        let Some(files) = self.files() else { return Err(IndexError::Io("the tables are closed".into())) };
        let opened = match Book::open(files.as_ref()) {
            Err(IndexError::Broken(why)) => begin_anew(files.as_ref(), &why),
            opened => opened,
        };
        Ok(Arc::clone(book.insert(Arc::new(opened?))))
    }

    /// Gives the file up after an error, so that it is opened again; whether a new one was begun because it is broken.
    fn mend(&self, error: &IndexError) -> bool {
        let Some(files) = self.files() else { return false };
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        // Nothing is written through the former one from here on, whoever still reads.
        if let Some(former) = book.take() {
            former.give_up();
        }
        let opened = match error {
            IndexError::Broken(why) => begin_anew(files.as_ref(), why),
            IndexError::Io(_) => Book::open(files.as_ref()),
        };
        match opened {
            Ok(opened) => {
                *book = Some(Arc::new(opened));
                matches!(error, IndexError::Broken(_))
            }
            Err(_) => false,
        }
    }
}

impl Job {
    fn finish(self, made: Result<Made, TablesError>) {
        match (self.answer, made) {
            // Who went away does not care.
            (Some(answer), made) => drop(answer.send(made)),
            (None, Err(error)) => tracing::error!(%error, "a record was not kept"),
            (None, Ok(_)) => {}
        }
    }
}

/// Puts the broken file into quarantine and begins an empty one.
fn begin_anew(files: &dyn Files, why: &str) -> Result<Book, IndexError> {
    // Of the real clock, so that the name is new in every life; nothing depends on it.
    let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_millis());
    let name = format!("quarantine/tables-{stamp}.redb");
    let moved = match files.rename(book::NAME, &name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    };
    tracing::error!(
        why,
        file = name,
        error = moved.as_ref().err().map(tracing::field::display),
        "the store's tables are broken: bans, policies and counts begin anew"
    );
    moved.and_then(|()| files.sync_names()).map_err(crate::index::io_error)?;
    Book::open(files)
}
