//! Listening sockets: opened before anything else changes, so that a reload that cannot bind changes nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};

use mail::{Domain, Protocol};
use socket2::{SockRef, Type};

use crate::settings::Socket;

/// Connections that the operating system keeps for us until we accept them; it may lower the number.
const BACKLOG: i32 = 4096;

/// Why the settings cannot be put in force. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReceptionError {
    /// A listener's address cannot be bound.
    #[error("listener {name:?} cannot listen at {address}: {error}")]
    Bind {
        /// The listener.
        name: String,
        /// Where it should listen.
        address: SocketAddr,
        /// What the operating system says.
        error: io::Error,
    },
    /// A socket handed in cannot be used.
    #[error("listener {name:?} cannot use the socket it was handed: {error}")]
    Inherited {
        /// The listener.
        name: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// Two listeners have the same name.
    #[error("two listeners have the name {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// LMTP may not be spoken on port 25 (RFC 2033 §5).
    #[error("listener {name:?} of {hostname} speaks LMTP, which must not be on port 25")]
    LmtpPort {
        /// The listener.
        name: String,
        /// Its host name.
        hostname: Domain,
    },
    /// A connection was handed over for a listener that there is not.
    #[error("there is no listener {name:?}")]
    NoListener {
        /// The name.
        name: String,
    },
    /// The reception is drained, or draining.
    #[error("the server is shutting down")]
    Drained,
}

/// A listening socket, not blocking, where it is for us to listen, and where it listens.
pub(crate) fn open(name: &str, socket: &Socket) -> Result<(Option<TcpListener>, SocketAddr), ReceptionError> {
    let unusable = |error| ReceptionError::Inherited { name: name.to_owned(), error };
    let listener = match socket {
        Socket::Bind(address) => {
            bind(*address).map_err(|error| ReceptionError::Bind { name: name.to_owned(), address: *address, error })?
        }
        Socket::Inherited(listener) => inherit(listener).map_err(unusable)?,
        Socket::Elsewhere(address) => return Ok((None, *address)),
    };
    let local = listener.local_addr().map_err(unusable)?;
    Ok((Some(listener), local))
}

/// Whether `protocol` may be spoken at `port`.
pub(crate) fn port_allows(protocol: Protocol, port: u16) -> bool {
    !(protocol == Protocol::Lmtp && port == 25)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Said either way: what the system's default is differs.
        socket.set_only_v6(true)?;
    }
    // A restart need not wait for old connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    prepare(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn inherit(listener: &TcpListener) -> io::Result<TcpListener> {
    let listener = listener.try_clone()?;
    prepare(&SockRef::from(&listener))?;
    Ok(listener)
}

fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Replies are written whole, so there is nothing to gather. Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)
}
