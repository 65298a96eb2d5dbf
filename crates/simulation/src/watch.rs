//! What a run can't tell of itself: a panic in any of its tasks, which nobody may wait for, and a run that does not end.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::plan::Options;

/// A run that takes longer than this is told by name, and again after each doubling.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// The run of this thread.
struct Here {
    command: String,
    panic: Option<String>,
}

/// A run under way, on any thread.
struct Running {
    command: String,
    began: Instant,
    told: Duration,
}

static RUNNING: Mutex<Vec<(ThreadId, Running)>> = Mutex::new(Vec::new());

/// As long as it lives, panics of this thread count as its run's, and a run that does not end has a name.
pub struct Watched(ThreadId);

impl Watched {
    /// A run begins on this thread.
    pub fn begin(options: &Options) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(watch);
        let command = options.command();
        HERE.set(Some(Here { command: command.clone(), panic: None }));
        let thread = thread::current().id();
        let began = Instant::now();
        running().push((thread, Running { command, began, told: Duration::ZERO }));
        Self(thread)
    }

    /// The first panic of the run so far.
    pub fn panic(&self) -> Option<String> {
        HERE.with_borrow(|here| here.as_ref().and_then(|here| here.panic.clone()))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        HERE.set(None);
        running().retain(|(thread, _)| *thread != self.0);
    }
}

fn running() -> MutexGuard<'static, Vec<(ThreadId, Running)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For all runs of this process.
fn watch() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        note(panic);
        before(panic);
    }));
    // It ends with the process.
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(1));
            tell_of_the_long();
        }
    });
}

fn note(panic: &PanicHookInfo<'_>) {
    // Nothing here may panic: a thread that ends has no run any more.
    let _ = HERE.try_with(|here| {
        let Ok(mut here) = here.try_borrow_mut() else { return };
        let Some(here) = here.as_mut() else { return };
        eprintln!("a panic in {}", here.command);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("something that is no text");
        here.panic.get_or_insert_with(|| format!("{what}, at {place}"));
    });
}

fn tell_of_the_long() {
    for (_, run) in running().iter_mut() {
        let lasts = run.began.elapsed();
        if lasts >= PATIENCE.max(run.told * 2) {
            run.told = lasts;
            eprintln!("not ended after {} s: {}", lasts.as_secs(), run.command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_nobody_waits_for_is_known() {
        let watched = Watched::begin(&Options::seed(7));
        assert_eq!(watched.panic(), None);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let _ = tokio::spawn(async { panic!("for the test") }).await;
        });
        assert!(watched.panic().is_some_and(|panic| panic.starts_with("for the test, at ")));
        drop(watched);
        assert_eq!(Watched::begin(&Options::seed(8)).panic(), None);
    }
}
