//! Wakes the one who waits for work: a thread in service, a task in a simulation.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A bell that goes on ringing until somebody hears it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
    sound: Condvar,
    #[cfg(any(test, feature = "testing"))]
    task: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    /// Whether a thread waits: waking costs a system call that nobody else needs.
    awaited: bool,
}

impl Bell {
    /// Ends the wait that goes on, or else the next one.
    pub fn ring(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rung = true;
        let awaited = state.awaited;
        drop(state);
        if awaited {
            self.sound.notify_one();
        }
        #[cfg(any(test, feature = "testing"))]
        self.task.notify_one();
    }

    /// Waits to be rung, at most so long.
    pub fn wait(&self, patience: Option<Duration>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.awaited = true;
        let asleep = |state: &mut State| !state.rung;
        let mut state = match patience {
            Some(patience) => {
                let waited = self.sound.wait_timeout_while(state, patience, asleep);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.sound.wait_while(state, asleep).unwrap_or_else(PoisonError::into_inner),
        };
        *state = State::default();
    }

    /// As [`Bell::wait`], for a task. A bell is heard either by threads or by tasks.
    #[cfg(any(test, feature = "testing"))]
    pub async fn heard(&self, patience: Option<Duration>) {
        match patience {
            Some(patience) => drop(tokio::time::timeout(patience, self.task.notified()).await),
            None => self.task.notified().await,
        }
    }
}
