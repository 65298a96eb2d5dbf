//! How many files and connections the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Configuration;

/// Files beside connections: segments of the log, the index, the control socket, name look-ups.
const OTHERS: u64 = 512;

/// How many connections there may be. Clients must never take the files that the log and deliveries need: they are refused
/// with a word before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// From clients.
    pub clients: usize,
    /// To hosts.
    pub deliveries: usize,
}

/// Raises the soft limit to the hard one.
pub fn raise() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Nothing is lost if that fails: what is allowed is asked for again.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Warns if fewer files are allowed than the configuration allows connections.
pub fn warn(configuration: &Configuration) {
    let (allowed, needed) = (allowed(), needed(configuration));
    if allowed < needed {
        let Room { clients, deliveries } = room(configuration);
        warn!(
            allowed,
            needed,
            clients,
            deliveries,
            "the system allows fewer open files than the configuration allows connections, so there will be fewer \
             connections; raise LimitNOFILE or ulimit -n"
        );
    }
}

/// The connections that the configuration allows, or their share of those that the system allows.
pub fn room(configuration: &Configuration) -> Room {
    share(configuration.connections.total, configuration.delivery.connections, allowed())
}

fn share(clients: u32, deliveries: u32, allowed: u64) -> Room {
    let both = u64::from(clients) + u64::from(deliveries);
    let files = allowed.saturating_sub(OTHERS.min(allowed / 4)).min(both);
    let part = |wanted: u32| usize::try_from((u64::from(wanted) * files / both.max(1)).max(1)).unwrap_or(usize::MAX);
    Room { clients: part(clients), deliveries: part(deliveries) }
}

fn needed(configuration: &Configuration) -> u64 {
    u64::from(configuration.connections.total) + u64::from(configuration.delivery.connections) + OTHERS
}

fn allowed() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shared_between_clients_and_deliveries_when_they_are_few() {
        assert_eq!(share(10_000, 2_000, 1 << 20), Room { clients: 10_000, deliveries: 2_000 });
        assert_eq!(share(10_000, 2_000, 12_512), Room { clients: 10_000, deliveries: 2_000 });
        assert_eq!(share(10_000, 2_000, 1024), Room { clients: 640, deliveries: 128 });
        assert_eq!(share(10, 1, 8), Room { clients: 5, deliveries: 1 });
    }
}
