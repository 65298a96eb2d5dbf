//! A small web server, for what a mail server owes the web: proofs for certificate authorities (RFC 8555 §8.3) and the
//! MTA-STS policy (RFC 8461 §3.3). Each connection carries one short exchange.
//!
//! What clients can make grow: connections (a fixed number, more wait unaccepted; fewer from one address, more are
//! closed), the time of each, the size of a request's head. There are no bodies.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::server::{ACME_TLS, Acceptor};

/// Connections that are served at a time.
const MOST_CONNECTIONS: usize = 256;
/// Those of one address, or of one /64 of IPv6 addresses: who fetches a policy or looks at a proof needs one.
const MOST_FROM_ONE: usize = 16;
/// Connections that the operating system keeps until they are accepted.
const BACKLOG: i32 = 256;
/// How long a connection may last, handshake included.
const TIME: Duration = Duration::from_secs(20);
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The largest head of a request.
const HEAD: usize = 8 << 10;
/// How long the accepting of connections pauses when the operating system has no more files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a socket for it. An IPv6 address takes no IPv4 connections along.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart need not wait for old connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket with what is answered there. The routes are fixed; what they answer may change.
pub struct Web {
    listener: TcpListener,
    security: Option<Acceptor>,
    router: Router,
}

impl Web {
    /// HTTP.
    pub fn http(listener: TcpListener, router: Router) -> Self {
        Self { listener, security: None, router }
    }

    /// HTTPS, with the terms of [`Acceptor::web`].
    pub fn https(listener: TcpListener, security: Acceptor, router: Router) -> Self {
        Self { listener, security: Some(security), router }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped; connections under way end within their time. Needs a Tokio runtime.
    pub async fn run(self) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let address = self.address()?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let crowd = Arc::new(Crowd::default());
        let security = self.security.map(|acceptor| TlsAcceptor::from(acceptor.config()));
        tracing::info!(%address, https = security.is_some(), "the web server listens");
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(entry) = crowd.enter(peer.ip()) else {
                        tracing::debug!(%peer, "a web connection is closed: too many from there");
                        continue;
                    };
                    let (security, router) = (security.clone(), self.router.clone());
                    tokio::spawn(async move {
                        let served = tokio::time::timeout(TIME, connection(stream, security, router)).await;
                        if let Err(error) = served.unwrap_or_else(|_| Err("it took too long".into())) {
                            tracing::debug!(%peer, error, "a web connection failed");
                        }
                        drop((place, entry));
                    });
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "the web server cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, security: Option<TlsAcceptor>, router: Router) -> Result<(), String> {
    let Some(security) = security else { return exchange(stream, router).await };
    let shaken = tokio::time::timeout(HANDSHAKE_TIME, security.accept(stream)).await;
    let stream = shaken.map_err(|_| "the handshake took too long")?.map_err(|error| error.to_string())?;
    if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) {
        // The handshake was all that was asked for (RFC 8737 §3).
        return Ok(());
    }
    exchange(stream, router).await
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) -> Result<(), String> {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD).keep_alive(false);
    let service = TowerToHyperService::new(router);
    http.serve_connection(TokioIo::new(stream), service).await.map_err(|error: hyper::Error| error.to_string())
}

/// Who is connected, by address.
#[derive(Default)]
struct Crowd(Mutex<HashMap<IpAddr, usize>>);

impl Crowd {
    /// Counts a connection until the entry is dropped; none if there are too many from there.
    fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Entry> {
        let from = network(peer);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_default();
        if *count == MOST_FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Entry { crowd: Arc::clone(self), from })
    }
}

struct Entry {
    crowd: Arc<Crowd>,
    from: IpAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

/// Who has an IPv6 address has the /64 around it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn addresses_of_one_network_count_together() {
        let crowd = Arc::new(Crowd::default());
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let mut entries: Vec<_> = (0..MOST_FROM_ONE).map(|at| enter(&format!("2001:db8::{at:x}"))).collect();
        assert!(entries.iter().all(Option::is_some));
        assert!(enter("2001:db8::ffff:1").is_none() && enter("2001:db8:0:1::1").is_some());
        entries.pop();
        assert!(enter("2001:db8::1").is_some());
        drop(entries);
        assert!(crowd.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_address_cannot_take_all_places() {
        let router = Router::new().route("/", axum::routing::get(async || "here"));
        let web = Web::http(listen("127.0.0.1:0".parse().unwrap()).unwrap(), router);
        let address = web.address().unwrap();
        let serving = tokio::spawn(web.run());
        let mut idle = Vec::new();
        for _ in 0..MOST_FROM_ONE {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();
        let mut said = Vec::new();
        one_more.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.ok();
        one_more.read_to_end(&mut said).await.ok();
        assert!(said.is_empty(), "closed without a word");
        let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
        elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut elsewhere = elsewhere.connect(address).await.unwrap();
        elsewhere.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        elsewhere.read_to_end(&mut said).await.unwrap();
        assert!(said.ends_with(b"here"), "{}", String::from_utf8_lossy(&said));
        serving.abort();
    }
}
