//! Connections as a parameter: the operating system's in service, anything that reads and writes in tests.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixStream};

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The peer's port, where it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Endpoint::Tcp(address) => Some(address.port()),
            Endpoint::Unix(_) => None,
        }
    }

    /// The peer's address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Endpoint::Tcp(address) => Some(address.ip().to_canonical()),
            Endpoint::Unix(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Opens connections. The caller bounds the time.
pub trait Dial: Send + Sync {
    /// Connects to `endpoint`, over TCP from the local address `from` if one is given.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, from: Option<IpAddr>) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;
}

/// The operating system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, from: Option<IpAddr>) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            Ok(match endpoint {
                Endpoint::Tcp(address) => Box::new(tcp(*address, from).await?) as Box<dyn Stream>,
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        })
    }
}

async fn tcp(address: SocketAddr, from: Option<IpAddr>) -> io::Result<tokio::net::TcpStream> {
    let socket = open(address.is_ipv4(), from)?;
    // Each write is a whole phase of the conversation: waiting for more only delays it.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// A socket that leaves from this address. Its port is chosen when it is known where it leads, so that one port serves
/// connections to many hosts: else a source would be out of ports with some ten thousand connections in all.
fn open(is_ipv4: bool, from: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = if is_ipv4 { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(from, 0))?;
    }
    Ok(socket)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_uses_up_no_port_before_it_is_known_where_to() {
        for from in ["127.0.0.1", "::1"] {
            let from: IpAddr = from.parse().unwrap();
            let socket = match open(from.is_ipv4(), Some(from)) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => continue,
                socket => socket.unwrap(),
            };
            assert_eq!(socket.local_addr().unwrap(), SocketAddr::new(from, 0));
        }
    }
}
