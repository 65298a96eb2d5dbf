//! What the process is told from outside.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// One thing it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration anew.
    Reload,
    /// SIGTERM or SIGINT: drain and stop; with the signal's name.
    Stop(&'static str),
}

/// The signals that the server listens to. From its creation on they do not end the process by themselves.
pub struct Signals {
    hangup: Stream,
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// Starts listening.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Signal::Stop("SIGINT"),
        }
    }

    /// The next one that says stop.
    pub async fn stop(&mut self) {
        while self.next().await == Signal::Reload {}
    }
}
