//! One open connection: moves the bytes of a `smtp::client::Connection` and keeps its time.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mail::{Clock, Fault, FaultSource, Reply, TlsFacts};
use smtp::client::{Closed, Connection, Event};
use tls::client::Secured;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::dial::Stream;
use crate::hosts::Candidate;
use crate::metrics::Metrics;
use crate::secure::Want;

/// Slices of one vectored write.
const SLICES: usize = 16;
/// Octets of one read: replies are short.
const READ: usize = 4096;
/// How long the words of a peer that takes nothing more are waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the end of TLS may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// An open connection.
pub(crate) struct Line {
    stream: Box<dyn Stream>,
    /// The conversation.
    pub connection: Connection,
    input: BytesMut,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// The host at the other end.
    pub candidate: Candidate,
    /// For whose mail it is good enough.
    pub want: Want,
    /// What its host has proven, if TLS is on it.
    pub secured: Option<Secured>,
    /// Transactions begun on it.
    pub used: u32,
    closed: Option<Closed>,
    /// Whether TLS may still hold back what was written.
    unflushed: bool,
}

impl Line {
    /// A line over which nothing was said yet.
    pub fn new(
        stream: Box<dyn Stream>,
        connection: Connection,
        candidate: Candidate,
        want: Want,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        metrics.open.inc();
        let input = BytesMut::new();
        let (secured, used, closed, unflushed) = (None, 0, None, false);
        Self { stream, connection, input, clock, metrics, candidate, want, secured, used, closed, unflushed }
    }

    /// Takes the stream out for a handshake; what is left of the line reads nothing more.
    pub fn take_stream(&mut self) -> Box<dyn Stream> {
        std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()))
    }

    /// The handshake is done.
    pub fn secure(&mut self, stream: Box<dyn Stream>, secured: Secured, now: Instant) {
        self.stream = stream;
        self.connection.secured(secured.facts.clone(), now);
        self.secured = Some(secured);
    }

    /// What is told of TLS.
    pub fn facts(&self) -> Option<TlsFacts> {
        self.secured.as_ref().map(|secured| secured.facts.clone())
    }

    /// Writes what waits and reads until something happened; [`Event::Closed`] at the latest when time is out.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.connection.next_event() {
                if let Event::Closed(closed) = &event {
                    self.closed = Some(closed.clone());
                }
                return event;
            }
            if self.connection.is_closed() {
                return Event::Closed(self.closed.clone().unwrap_or(Closed::Quit));
            }
            self.move_bytes().await;
        }
    }

    /// Writes until little waits, so that more content may be given; a peer that answers meanwhile is heard.
    pub async fn drain(&mut self, keep: usize) {
        while self.connection.output().len() > keep && !self.connection.is_closed() {
            self.move_bytes().await;
        }
    }

    /// Listens while nothing is to be said: comes back when the peer has ended the connection or said goodbye.
    pub async fn listen(&mut self) {
        while !self.connection.is_closed() {
            let read = self.stream.read_buf(&mut self.input).await;
            self.took(read.map(|count| count > 0));
        }
        if let Event::Closed(closed) = self.event().await {
            self.closed = Some(closed);
        }
    }

    /// Says goodbye and waits for the answer, shortly.
    pub async fn quit(&mut self) {
        self.connection.quit(self.clock.instant());
        self.closing().await;
        if self.secured.is_some() {
            // RFC 8446 §6.1: each side says that it ends. Who does not listen is not waited for.
            let _ = tokio::time::timeout(FAREWELL, self.stream.shutdown()).await;
        }
        self.hang_up();
    }

    /// Gives the connection of a closed line back: for the peer, and for our limits, it is one until then.
    pub fn hang_up(&mut self) {
        drop(self.take_stream());
    }

    /// Why it is closed; to be asked once it is.
    pub async fn closing(&mut self) -> Closed {
        loop {
            if let Event::Closed(closed) = self.event().await {
                return closed;
            }
        }
    }

    /// Why it is closed, if it is.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// A fault in the peer's words, or in ours about it.
    pub fn fault(&self, (reply, by_peer): (Reply, bool)) -> Fault {
        let by = FaultSource::Peer { host: self.candidate.host.clone(), address: self.candidate.endpoint.ip() };
        if by_peer {
            return Fault { reply, by };
        }
        let place = match self.candidate.endpoint.ip() {
            // A host that is named by its address says it already.
            Some(ip) if !self.candidate.host.starts_with('[') => format!("{} [{ip}]", self.candidate.host),
            _ => self.candidate.host.clone(),
        };
        let text = format!("{place}: {}", reply.text());
        Fault { reply: Reply::new(reply.code(), reply.enhanced(), text), by: FaultSource::Local }
    }

    /// One read or one write, or the deadline.
    ///
    /// Reading comes first: it costs nothing while nothing has come, and a refusal is heard while content is written.
    async fn move_bytes(&mut self) {
        let deadline = self.connection.deadline();
        let (stream, connection, input) = (&mut self.stream, &self.connection, &mut self.input);
        let unflushed = &mut self.unflushed;
        let progress = poll_fn(|cx| {
            if let Poll::Ready(read) = poll_read(stream.as_mut(), input, cx) {
                return Poll::Ready(Progress::Read(read));
            }
            if connection.output().is_empty() {
                if *unflushed && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx) {
                    *unflushed = false;
                    return Poll::Ready(Progress::Flushed(flushed));
                }
                return Poll::Pending;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = connection.output().fill(&mut slices);
            Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..filled]).map(Progress::Wrote)
        });
        let progress = match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(self.clock.instant());
                tokio::time::timeout(left, progress).await
            }
            None => Ok(progress.await),
        };
        let now = self.clock.instant();
        match progress {
            Ok(Progress::Wrote(Ok(count @ 1..))) => {
                self.metrics.sent_bytes.inc_by(count as u64);
                self.unflushed = self.secured.is_some();
                self.connection.wrote(count, now);
            }
            Ok(Progress::Flushed(Ok(()))) => {}
            Ok(Progress::Wrote(_) | Progress::Flushed(Err(_))) => self.rescue().await,
            Ok(Progress::Read(read)) => self.took(read),
            // The timer may ring a little before the clock agrees.
            Err(_) => self.connection.expire(deadline.map_or(now, |deadline| deadline.max(now))),
        }
    }

    /// Writing failed: the peer is gone, but what it said before it went is worth hearing.
    async fn rescue(&mut self) {
        let listen = async {
            while !self.connection.is_closed() {
                let read = self.stream.read_buf(&mut self.input).await;
                self.took(read.map(|count| count > 0));
            }
        };
        if tokio::time::timeout(LAST_WORDS, listen).await.is_err() {
            self.connection.lost();
        }
    }

    /// `Ok(true)`: there is more in the input.
    fn took(&mut self, read: io::Result<bool>) {
        match read {
            Ok(true) => self.connection.receive(&mut self.input, self.clock.instant()),
            Ok(false) | Err(_) => self.connection.lost(),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

enum Progress {
    Flushed(io::Result<()>),
    Wrote(io::Result<usize>),
    Read(io::Result<bool>),
}

fn poll_read(stream: &mut dyn Stream, input: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
    // Not zeroed: that would cost more than the look for early replies does.
    let mut space = [MaybeUninit::uninit(); READ];
    let mut buffer = ReadBuf::uninit(&mut space);
    match Pin::new(stream).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => {
            input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(!buffer.filled().is_empty()))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}
