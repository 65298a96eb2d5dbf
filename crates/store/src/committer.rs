//! The one that writes: gathers what all callers wait for, makes it durable in one go, and tells them.
//!
//! New mail is written at once, together with whatever else waits. Changes alone wait a moment for company. If the disk
//! fails, new mail is told so; changes stay in line, in order, and are tried again until the disk works.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::bell::Bell;
use crate::engine::{Engine, Entry};
use crate::error::{CommitError, IntakeError};
use crate::frame::{FrameAt, HEADER};
use crate::incoming::Incoming;
use crate::log::Need;
use crate::message::ScheduleClock;
use crate::record::{Payload, Record};

/// Octets that are written in one batch, if one frame alone is not larger.
const BATCH: u64 = 16 << 20;
/// How long to wait before a failing disk is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Where callers leave their changes.
#[derive(Debug)]
pub(crate) struct Committer {
    engine: Arc<Engine>,
    line: Mutex<Line>,
    /// Rung when there may be a next step before the time that was told last.
    pub bell: Bell,
}

/// What the committer does next.
#[derive(Debug)]
pub(crate) enum Step {
    Write(Vec<Job>),
    /// Nothing until the bell rings or so much time went by.
    Wait(Option<Duration>),
    End,
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// How many of them are not to wait for company.
    urgent: usize,
    /// Since when the oldest one waits.
    since: Option<Instant>,
    /// When a failing disk is tried again.
    retry: Option<Instant>,
    closing: bool,
    /// Nothing is written any more.
    closed: bool,
}

/// A change, and who waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    entry: Entry,
    reply: Reply,
}

#[derive(Debug)]
enum Reply {
    /// A message's record, with its content: chunks stay pinned until the record is durable, whether or not the caller
    /// still waits.
    Commit(oneshot::Sender<Result<(), CommitError>>, #[allow(dead_code, reason = "held, not read")] Incoming),
    Record(oneshot::Sender<()>),
    Chunk(oneshot::Sender<Result<Pinned, CommitError>>),
    Nobody,
}

/// A chunk on disk that is kept for a message's record to come.
#[derive(Debug)]
pub(crate) struct Pinned {
    engine: Arc<Engine>,
    at: FrameAt,
}

impl Pinned {
    pub fn at(&self) -> FrameAt {
        self.at
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.engine.unpin(&[self.at]);
    }
}

impl Committer {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, line: Mutex::default(), bell: Bell::default() }
    }

    /// Commits a message, with its content.
    pub async fn commit(&self, record: Record, payload: Payload, content: Incoming) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        self.push(Job { entry: Entry { record, payload }, reply: Reply::Commit(reply, content) });
        answer.await.unwrap_or(Err(CommitError::Intake(IntakeError::Closing)))
    }

    /// Writes a chunk.
    pub async fn chunk(&self, payload: Payload) -> Result<Pinned, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.push(Job { entry: Entry { record: Record::Chunk, payload }, reply: Reply::Chunk(reply) });
        answer.await.unwrap_or(Err(CommitError::Intake(IntakeError::Closing)))
    }

    /// Makes changes. In line when this returns; the answer comes when they are durable.
    pub fn record(&self, record: Record, payload: Payload) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.push(Job { entry: Entry { record, payload }, reply: Reply::Record(reply) });
        answer
    }

    fn push(&self, job: Job) {
        let mut line = self.line();
        if line.closed {
            // Dropping the job tells its caller.
            return;
        }
        let urgent = job.is_urgent();
        let is_news = urgent || line.since.is_none();
        line.urgent += usize::from(urgent);
        if line.since.is_none() {
            line.since = Some(self.engine.now());
        }
        line.jobs.push_back(job);
        drop(line);
        if is_news {
            self.bell.ring();
        }
    }

    /// Writes down what the schedule's clock shows, though nobody waits for it.
    pub fn write_clock(&self) {
        // Each batch begins with what the log does not say yet.
        if let Some(probe) = Job::probe() {
            self.push(probe);
        }
    }

    /// Lets what is in line be written, then comes the end.
    pub fn close(&self) {
        self.line().closing = true;
        self.bell.ring();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next.
    pub fn next(&self) -> Step {
        let mut line = self.line();
        if line.closed {
            return Step::End;
        }
        let now = self.engine.now();
        let due = if line.closing {
            now
        } else if self.engine.is_failing() {
            *line.retry.get_or_insert(now + RETRY)
        } else {
            match line.since {
                Some(_) if line.urgent > 0 => now,
                Some(since) => since + self.engine.options.gather,
                None => return Step::Wait(None),
            }
        };
        if now < due {
            return Step::Wait(Some(due - now));
        }
        line.retry = None;
        if !line.jobs.is_empty() {
            return Step::Write(line.take());
        }
        // Somebody must find out when the disk works again, though nobody has anything to write.
        match Job::probe() {
            Some(probe) if !line.closing => Step::Write(vec![probe]),
            _ => {
                line.closed = true;
                Step::End
            }
        }
    }

    /// Writes a batch and answers those who wait for it.
    pub fn write(&self, mut batch: Vec<Job>) {
        // First what the due times behind it are by.
        if let Some(clock) = self.engine.owed_clock().and_then(Job::clock) {
            batch.insert(0, clock);
        }
        let again = write(&self.engine, batch);
        if again.is_empty() {
            return;
        }
        let mut line = self.line();
        if line.closing {
            let changes = again.len();
            tracing::error!(changes, "the disk fails at the end: changes are lost, deliveries may be repeated");
            line.closed = true;
            line.jobs.clear();
            return;
        }
        // Back in front of all others.
        for job in again.into_iter().rev() {
            line.jobs.push_front(job);
        }
        let now = self.engine.now();
        line.since.get_or_insert(now);
    }
}

impl Line {
    fn take(&mut self) -> Vec<Job> {
        let (mut taken, mut octets) = (Vec::new(), 0);
        while let Some(job) = self.jobs.front() {
            octets += HEADER as u64 + u64::from(job.entry.payload.length());
            if octets > BATCH && !taken.is_empty() {
                break;
            }
            self.urgent -= usize::from(job.is_urgent());
            taken.extend(self.jobs.pop_front());
        }
        if self.jobs.is_empty() {
            self.since = None;
        }
        taken
    }
}

impl Job {
    fn is_urgent(&self) -> bool {
        !matches!(self.reply, Reply::Record(_))
    }

    fn probe() -> Option<Self> {
        Self::of_the_store(Record::Probe)
    }

    fn clock(clock: ScheduleClock) -> Option<Self> {
        Self::of_the_store(Record::Clock(clock))
    }

    /// One that nobody waits for.
    fn of_the_store(record: Record) -> Option<Self> {
        let payload = Payload::new(&record, Vec::new())?;
        Some(Self { entry: Entry { record, payload }, reply: Reply::Nobody })
    }
}

/// Writes jobs and answers them; gives back the changes that are to be tried again.
fn write(engine: &Arc<Engine>, jobs: Vec<Job>) -> Vec<Job> {
    let need = if jobs.iter().any(Job::is_urgent) { Need::May } else { Need::Must };
    let (entries, mut replies): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.entry, job.reply)).unzip();
    let written = engine.append(&entries, need);
    let failed = replies.split_off(written.placed.len());
    for (reply, at) in replies.into_iter().zip(&written.placed) {
        reply.done(engine, *at);
    }
    let Some(error) = written.error else { return Vec::new() };
    let (mut again, mut refused) = (Vec::new(), Vec::new());
    for (entry, reply) in entries.into_iter().skip(written.placed.len()).zip(failed) {
        match reply {
            Reply::Record(_) => again.push(Job { entry, reply }),
            reply => refused.push(reply),
        }
    }
    if need == Need::May {
        // New mail may have failed for want of space where there is some in reserve for changes.
        if !again.is_empty() {
            again = write(engine, again);
        } else if written.is_doubtful {
            // Whatever is written next says that what is refused here is void, also to the next start after a crash. If
            // that fails too, the refused mail may come back, which the client's next try makes a duplicate.
            let probe = Job::probe().map(|probe| probe.entry);
            engine.append(probe.as_slice(), Need::Must);
        }
    }
    for reply in refused {
        reply.failed(&error);
    }
    again
}

impl Reply {
    fn done(self, engine: &Arc<Engine>, at: FrameAt) {
        // A caller that went away does not care; a chunk that nobody takes is let go by its own drop.
        match self {
            Reply::Commit(caller, content) => {
                drop(content);
                let _ = caller.send(Ok(()));
            }
            Reply::Record(caller) => drop(caller.send(())),
            Reply::Chunk(caller) => drop(caller.send(Ok(Pinned { engine: engine.clone(), at }))),
            Reply::Nobody => {}
        }
    }

    fn failed(self, error: &std::io::Error) {
        let error = CommitError::Disk(error.to_string());
        match self {
            Reply::Commit(caller, _) => drop(caller.send(Err(error))),
            Reply::Chunk(caller) => drop(caller.send(Err(error))),
            Reply::Record(_) | Reply::Nobody => {}
        }
    }
}
