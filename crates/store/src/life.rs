//! What drives the engine: two threads in service, or one future in a simulation. Both take the same steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::bell::Bell;
use crate::committer::{Committer, Step};
use crate::engine::Engine;
use crate::error::OpenError;

/// How soon the housekeeper looks again when something failed.
const TROUBLED: Duration = Duration::from_secs(1);

/// Keeps an engine going until it is told to end.
#[derive(Debug)]
pub(crate) struct Life {
    works: Arc<Works>,
    calls: Calls,
    drive: Mutex<Drive>,
}

/// Who does the work.
#[derive(Debug)]
enum Drive {
    Threads(Vec<JoinHandle<()>>),
    /// A future that somebody polls; the channel closes when it is done or dropped.
    #[cfg(any(test, feature = "testing"))]
    Driven(tokio::sync::oneshot::Receiver<()>),
    Over,
}

/// Where calls that may wait for the disk are made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Calls {
    /// On threads for such calls.
    Apart,
    /// At once, on the caller's thread.
    #[cfg(any(test, feature = "testing"))]
    Here,
}

impl Calls {
    /// Makes a call; an error if it panicked.
    pub async fn make<T: Send + 'static>(self, call: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        match self {
            Calls::Apart => spawn_blocking(call).await.map_err(|error| error.to_string()),
            #[cfg(any(test, feature = "testing"))]
            Calls::Here => Ok(call()),
        }
    }
}

impl Life {
    /// A life with threads.
    pub fn threaded(engine: Arc<Engine>, committer: Arc<Committer>) -> Result<Self, OpenError> {
        let works = Arc::new(Works::new(engine, committer));
        let committing = spawn("store-commit", {
            let works = works.clone();
            move || works.commit()
        })?;
        let keeping = spawn("store-keep", {
            let works = works.clone();
            move || works.keep()
        });
        match keeping {
            Ok(keeping) => {
                let drive = Mutex::new(Drive::Threads(vec![committing, keeping]));
                Ok(Self { works, calls: Calls::Apart, drive })
            }
            Err(error) => {
                works.committer.close();
                Err(error)
            }
        }
    }

    pub fn calls(&self) -> Calls {
        self.calls
    }

    /// Takes no more mail, writes what is in line, makes a last checkpoint.
    pub async fn end(&self) {
        match self.take_drive() {
            Drive::Over => {}
            Drive::Threads(threads) => {
                self.works.wind_up();
                let works = self.works.clone();
                let ended = spawn_blocking(move || {
                    join(threads);
                    works.last_checkpoint();
                });
                // A panic in there was told by the panic's own message.
                let _ = ended.await;
            }
            #[cfg(any(test, feature = "testing"))]
            Drive::Driven(done) => {
                self.works.wind_up();
                // Closed without a word also if the driver was dropped.
                let _ = done.await;
                self.works.last_checkpoint();
            }
        }
    }

    fn take_drive(&self) -> Drive {
        std::mem::replace(&mut *self.drive.lock().unwrap_or_else(PoisonError::into_inner), Drive::Over)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        match self.take_drive() {
            Drive::Over => {}
            Drive::Threads(threads) => {
                self.works.wind_up();
                join(threads);
            }
            #[cfg(any(test, feature = "testing"))]
            Drive::Driven(_) => self.works.wind_up(),
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the store has panicked");
        }
    }
}

/// A panic on the thread ends the process: without it every commit would wait for ever, and the next start makes up for it.
fn spawn(name: &str, life: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let watched = move || {
        if catch_unwind(AssertUnwindSafe(life)).is_err() {
            std::process::abort();
        }
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(watched)
        .map_err(OpenError::files(format!("start the thread {name}")))
}

/// The work itself.
#[derive(Debug)]
struct Works {
    engine: Arc<Engine>,
    committer: Arc<Committer>,
    /// Calls the housekeeper.
    keeper: Bell,
    ended: AtomicBool,
}

impl Works {
    fn new(engine: Arc<Engine>, committer: Arc<Committer>) -> Self {
        Self { engine, committer, keeper: Bell::default(), ended: AtomicBool::new(false) }
    }

    fn wind_up(&self) {
        self.engine.stop_intake();
        self.committer.close();
        self.ended.store(true, Ordering::SeqCst);
        self.keeper.ring();
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn last_checkpoint(&self) {
        if !self.engine.checkpoint() {
            tracing::warn!("no last checkpoint could be made: the next start reads more of the log");
        }
    }

    /// The committer's thread.
    fn commit(&self) {
        loop {
            match self.committer.next() {
                Step::Write(batch) => {
                    self.committer.write(batch);
                    self.call_keeper();
                }
                Step::Wait(patience) => self.committer.bell.wait(patience),
                Step::End => break,
            }
        }
    }

    fn call_keeper(&self) {
        if self.engine.wants_maintenance() {
            self.keeper.ring();
        }
    }

    /// The housekeeper's thread.
    fn keep(&self) {
        while !self.is_ended() {
            let patience = self.keep_once();
            self.keeper.wait(Some(patience));
        }
    }

    /// One round of the housekeeper; how long until the next.
    fn keep_once(&self) -> Duration {
        self.engine.maintain(&|| !self.is_ended());
        let (every, failing) = (self.engine.options.checkpoint_every, self.engine.is_failing());
        if failing {
            // It may be the housekeeper who found out; the committer sees when it is over.
            self.committer.bell.ring();
        }
        let patience = if failing || self.engine.trouble().is_some() { TROUBLED.min(every) } else { every };
        self.engine.checkpoint_again_in().map_or(patience, |wait| wait.max(TROUBLED).min(patience))
    }
}

#[cfg(any(test, feature = "testing"))]
mod driven {
    use super::*;

    /// Does the work of a [`Store`](crate::Store) that was opened with
    /// [`open_driven`](crate::Store::open_driven), on the task that runs it.
    ///
    /// A batch is written a few milliseconds after it was gathered, so that other tasks go on meanwhile; time is Tokio's,
    /// which may be paused. Dropping it, whether it ran or not, is what a crash is: nothing more is written and nothing
    /// waits.
    #[derive(Debug)]
    pub struct Driver {
        works: Arc<Works>,
        latency: mail::Randomness,
        _done: tokio::sync::oneshot::Sender<()>,
    }

    impl Life {
        /// A life for somebody else to drive.
        pub fn driven(engine: Arc<Engine>, committer: Arc<Committer>, randomness: mail::Randomness) -> (Self, Driver) {
            let (finished, done) = tokio::sync::oneshot::channel();
            let works = Arc::new(Works::new(engine, committer));
            let life = Self { works: works.clone(), calls: Calls::Here, drive: Mutex::new(Drive::Driven(done)) };
            (life, Driver { works, latency: randomness, _done: finished })
        }
    }

    impl Driver {
        /// Works until the store is closed, or its last clone dropped and what was in line is written.
        pub async fn run(self) {
            tokio::join!(self.commit(), self.keep());
        }

        async fn commit(&self) {
            let works = &self.works;
            loop {
                match works.committer.next() {
                    Step::Write(batch) => {
                        // Tokio's clock counts in milliseconds.
                        tokio::time::sleep(Duration::from_millis(1 + self.latency.below(6) as u64)).await;
                        works.committer.write(batch);
                        works.call_keeper();
                    }
                    Step::Wait(patience) => works.committer.bell.heard(patience).await,
                    Step::End => break,
                }
            }
        }

        async fn keep(&self) {
            while !self.works.is_ended() {
                let patience = self.works.keep_once();
                self.works.keeper.heard(Some(patience)).await;
            }
        }
    }
}

#[cfg(any(test, feature = "testing"))]
pub use driven::Driver;
