//! systemd: readiness, reloads, the watchdog, and the sockets it hands over. Without systemd all of it does nothing.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// Says that the server takes mail.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the configuration is being read anew; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the monotonic clock cannot be read for systemd"),
    }
}

/// Says that the server drains.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often systemd wants to hear that we are alive: twice in its limit.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|period| !period.is_zero())
}

/// Says that we are alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd cannot be told");
    }
}

/// The sockets that systemd hands over.
#[derive(Debug, Default)]
pub struct Handed(Vec<(SocketAddr, Arc<TcpListener>)>);

impl Handed {
    /// Takes them over.
    pub fn take() -> std::io::Result<Self> {
        let mut sockets = listenfd::ListenFd::from_env();
        let mut handed = Vec::new();
        for at in 0..sockets.len() {
            if let Some(listener) = sockets.take_tcp_listener(at)? {
                handed.push((listener.local_addr()?, Arc::new(listener)));
            }
        }
        Ok(Self(handed))
    }

    /// The one that listens on this address, if there is one.
    pub fn find(&self, address: SocketAddr) -> Option<Arc<TcpListener>> {
        self.0.iter().find(|(bound, _)| *bound == address).map(|(_, listener)| Arc::clone(listener))
    }

    /// Their addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(|(address, _)| *address)
    }
}
