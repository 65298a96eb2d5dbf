//! How many files and connections the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Configuration;

/// Files beside connections: segments of the log, the index, the control socket, name look-ups.
const OTHERS: u64 = 512;

/// Raises the soft limit to the hard one, and warns if that is less than the configuration allows connections.
pub fn raise(configuration: &Configuration) {
    let needed = u64::from(configuration.connections.total) + u64::from(configuration.delivery.connections) + OTHERS;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let got = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    if got < needed {
        warn!(
            allowed = got,
            needed,
            "the system allows fewer open files than the configuration allows connections; raise LimitNOFILE or ulimit -n"
        );
    }
}
