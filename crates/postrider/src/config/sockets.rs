//! Which sockets the configuration opens, for mail and for the web: no two of them may want the same place.

use std::net::SocketAddr;

use super::judge::listed_path;
use super::places::Places;
use super::problem::Problem;
use super::tls::AcmeChallenge;
use super::types::Configuration;

/// A socket that will be opened.
struct Socket {
    address: SocketAddr,
    /// The value that asks for it.
    path: String,
    speaks: Speaks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Mail,
    Http,
    Https,
}

/// Sockets that cannot be opened, or not beside each other.
pub(super) fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let mut before: Vec<Socket> = Vec::new();
    for socket in all(configuration, places) {
        if socket.address.port() == 0 {
            problems.push(places.problem(&socket.path, "a listener needs a port", "port 0 is none"));
        } else if let Some(first) = before.iter().find(|first| socket.excludes(first)) {
            problems.push(clash(&socket, first, places));
        }
        before.push(socket);
    }
}

fn all(configuration: &Configuration, places: &Places) -> Vec<Socket> {
    let mut sockets = Vec::new();
    let mut add = |path: &str, addresses: &[SocketAddr], speaks: Speaks| {
        for (item, address) in addresses.iter().enumerate() {
            sockets.push(Socket { address: *address, path: listed_path(path, item, places), speaks });
        }
    };
    for (at, listener) in configuration.listeners().iter().enumerate() {
        let addresses: Vec<SocketAddr> = listener.address.0.iter().map(|address| address.0).collect();
        add(&format!("listener[{at}].address"), &addresses, Speaks::Mail);
    }
    let acme = &configuration.acme;
    if !acme.names.is_empty() {
        let https = acme.challenge == AcmeChallenge::TlsAlpn01;
        add("acme.listen", &acme.listen(), if https { Speaks::Https } else { Speaks::Http });
    }
    add("mta_sts.listen", &configuration.policy_addresses(), Speaks::Https);
    sockets
}

impl Socket {
    /// Whether the system opens only one of the two, or a client would not know which one answers.
    fn excludes(&self, other: &Socket) -> bool {
        let (one, two) = (self.address, other.address);
        let same_port = one.port() == two.port() && one.is_ipv4() == two.is_ipv4();
        let same_place = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
        // The proofs of ACME and policies share a socket; the same twice in one list is a slip.
        let both_https = self.speaks == Speaks::Https && other.speaks == Speaks::Https;
        let shared = one == two && both_https && self.list() != other.list();
        same_port && same_place && !shared
    }

    fn list(&self) -> &str {
        self.path.split('[').next().unwrap_or_default()
    }
}

fn clash(socket: &Socket, first: &Socket, places: &Places) -> Problem {
    let (one, two) = (socket.address, first.address);
    let message = match one == two {
        true => format!("two listeners cannot both have {one}"),
        false => format!("{one} cannot be opened beside {two}"),
    };
    let whole = [one, two].into_iter().find(|address| address.ip().is_unspecified()).filter(|_| one != two);
    let takes = whole.map(|address| format!("{} takes this port of every address; ", address.ip()));
    let usual = || format!("`{}` has it unless told otherwise", first.list());
    let taken = places.describe(&first.path).map_or_else(usual, |place| format!("it is taken at {place}"));
    let help = format!("{}{taken}; give one of them another port", takes.unwrap_or_default());
    places.problem(&socket.path, message, "").help(help)
}
