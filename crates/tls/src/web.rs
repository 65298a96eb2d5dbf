//! A small web server, for what a mail server owes the web: proofs for certificate authorities (RFC 8555 §8.3) and the
//! MTA-STS policy (RFC 8461 §3.3). Each connection carries one short exchange.
//!
//! What clients can make grow: connections (a fixed number, more wait unaccepted), the time of each, the size of a
//! request's head. There are no bodies.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
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
/// Connections that the operating system keeps until they are accepted.
const BACKLOG: i32 = 256;
/// How long a connection may last, handshake included.
const TIME: Duration = Duration::from_secs(20);
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
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
        let security = self.security.map(|acceptor| TlsAcceptor::from(acceptor.config()));
        tracing::info!(%address, https = security.is_some(), "the web server listens");
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (security, router) = (security.clone(), self.router.clone());
                    tokio::spawn(async move {
                        let served = tokio::time::timeout(TIME, connection(stream, security, router)).await;
                        if let Err(error) = served.unwrap_or_else(|_| Err("it took too long".into())) {
                            tracing::debug!(%peer, error, "a web connection failed");
                        }
                        drop(place);
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
    let stream = security.accept(stream).await.map_err(|error| error.to_string())?;
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
