//! The network: connections between the process and everybody else, in memory.
//!
//! A connection is two flows of octets. It has no latency of its own: the other parties, which are ours, wait before they
//! read and before they answer. What is read comes in pieces of random size. Every operation of the process counts as a
//! step of its life; once that is over, its ends neither move nor answer, what it wrote before may still arrive, and the
//! other party finds the connection reset.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use mail::Randomness;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::life::Life;

/// Octets that may be on their way in one direction.
const ROOM: usize = 32 << 10;
/// Of more octets than these larger pieces are read.
const SMALL: usize = 128;

/// One of the two ends of a connection.
pub struct End {
    wire: Arc<Mutex<Wire>>,
    side: usize,
    /// Of the process, if it is the process's end.
    life: Option<Arc<Life>>,
    random: Randomness,
    places: Option<Place>,
}

#[derive(Default)]
struct Wire {
    /// What flows to the end with that number.
    flows: [Flow; 2],
}

#[derive(Default)]
struct Flow {
    octets: VecDeque<u8>,
    /// Nothing more will come.
    ended: bool,
    /// Nothing more can come, and what was not read is lost.
    broken: bool,
    /// As broken, once what is here was read.
    breaking: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The most octets that one read gives; 0: no bound.
    piece: usize,
    /// What is called once so many octets more were read, in order.
    once_read: VecDeque<(usize, OnceRead)>,
}

/// See [`End::once_read`].
type OnceRead = Box<dyn FnOnce() + Send>;

/// A connection between the process (the first end) and somebody else.
pub fn connect(life: &Arc<Life>, random: &Randomness, piece: usize) -> (End, End) {
    let wire = Arc::new(Mutex::new(Wire::default()));
    lock(&wire).flows[0].piece = piece;
    lock(&wire).flows[1].piece = piece;
    life.knows(Cut(Arc::downgrade(&wire)));
    let end = |side, life| End { wire: wire.clone(), side, life, random: random.clone(), places: None };
    (end(0, Some(life.clone())), end(1, None))
}

/// Cuts a connection when the process dies.
pub struct Cut(Weak<Mutex<Wire>>);

impl Cut {
    /// The process is gone. What it wrote arrives or is lost.
    pub fn cut(&self, arrives: bool) {
        let Some(wire) = self.0.upgrade() else { return };
        let mut wire = lock(&wire);
        wire.flows[0].broken = true;
        wire.flows[0].wake();
        wire.flows[1].breaking |= arrives;
        wire.flows[1].broken |= !arrives;
        wire.flows[1].wake();
    }

    /// Whether the connection is forgotten by both ends.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl End {
    /// Counts as one of the connections of a place until it is dropped.
    pub fn counted(mut self, places: &Places, name: &str) -> Self {
        places.change(name, 1);
        self.places = Some(Place { places: places.clone(), name: name.to_owned() });
        self
    }

    /// Breaks the connection, as a reset does.
    pub fn reset(&self) {
        let mut wire = lock(&self.wire);
        for flow in &mut wire.flows {
            flow.broken = true;
            flow.wake();
        }
    }

    /// Calls back when everything that was written here has been read by the other end, if that comes to pass.
    pub fn once_read(&self, tell: OnceRead) {
        let mut wire = lock(&self.wire);
        let flow = &mut wire.flows[1 - self.side];
        if !flow.octets.is_empty() {
            flow.once_read.push_back((flow.octets.len(), tell));
        } else if !flow.broken {
            drop(wire);
            tell();
        }
    }

    /// False once the life of the process that has this end is over.
    fn lives(&self) -> bool {
        self.life.as_ref().is_none_or(|life| life.step())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.wire);
        let flow = &mut wire.flows[self.side];
        if flow.broken || flow.ended || flow.breaking || !flow.octets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        flow.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes what is there, up to the bound and in a random piece.
    fn take(&self, room: usize) -> io::Result<Vec<u8>> {
        let mut wire = lock(&self.wire);
        let flow = &mut wire.flows[self.side];
        if flow.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if flow.octets.is_empty() {
            return match (flow.breaking, flow.ended) {
                (true, _) => Err(io::ErrorKind::ConnectionReset.into()),
                (_, true) => Ok(Vec::new()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let count = flow.octets.len().min(room).min(flow.most(&self.random));
        let taken = flow.octets.drain(..count).collect();
        if let Some(writer) = flow.writer.take() {
            writer.wake();
        }
        let tell = flow.read(count);
        drop(wire);
        tell.into_iter().for_each(|tell| tell());
        Ok(taken)
    }

    fn put(&self, octets: &[u8]) -> io::Result<usize> {
        let mut wire = lock(&self.wire);
        let flow = &mut wire.flows[1 - self.side];
        if flow.broken || flow.breaking || flow.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = octets.len().min(ROOM - flow.octets.len().min(ROOM));
        if count == 0 && !octets.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        flow.octets.extend(&octets[..count]);
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
        Ok(count)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.wire);
        let flow = &mut wire.flows[1 - self.side];
        if flow.broken || flow.breaking || flow.ended || flow.octets.len() < ROOM {
            return Poll::Ready(Ok(()));
        }
        flow.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn end_flow(&self) {
        let mut wire = lock(&self.wire);
        let flow = &mut wire.flows[1 - self.side];
        flow.ended = true;
        flow.wake();
    }
}

impl Flow {
    /// The most octets that the next read gives: commands, replies and the ends of content come in small pieces, the
    /// middle of content in ever larger ones, as thousands of reads of one octet show nothing that some do not.
    fn most(&self, random: &Randomness) -> usize {
        match self.piece {
            0 => usize::MAX,
            piece => 1 + random.below(piece) + self.octets.len().saturating_sub(SMALL) / 4,
        }
    }

    /// So many octets were read: who wanted to know of what was among them.
    fn read(&mut self, count: usize) -> Vec<OnceRead> {
        self.once_read.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(count));
        let read = self.once_read.iter().take_while(|(left, _)| *left == 0).count();
        self.once_read.drain(..read).map(|(_, tell)| tell).collect()
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// Who closes with input unread resets; otherwise the other end reads to the end.
impl Drop for End {
    fn drop(&mut self) {
        if self.life.as_ref().is_some_and(|life| life.is_over()) {
            return;
        }
        let mut wire = lock(&self.wire);
        let unread = !wire.flows[self.side].octets.is_empty();
        wire.flows[self.side].broken = true;
        wire.flows[self.side].wake();
        let other = &mut wire.flows[1 - self.side];
        other.ended = true;
        other.breaking |= unread;
        other.wake();
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.lives() {
            return Poll::Pending;
        }
        if self.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let taken = self.take(buffer.remaining())?;
        buffer.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if !self.lives() {
            return Poll::Pending;
        }
        if self.poll_writable(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.put(octets))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_flow();
        Poll::Ready(Ok(()))
    }
}

impl reception::Stream for End {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        poll_fn(|cx| if self.lives() { self.poll_readable(cx) } else { Poll::Pending })
    }

    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        if !self.lives() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.take(buffer.capacity() - buffer.len())?;
        buffer.extend_from_slice(&taken);
        Ok(taken.len())
    }

    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send {
        poll_fn(|cx| if self.lives() { self.poll_writable(cx) } else { Poll::Pending })
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        if self.lives() { self.put(octets) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn say(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write(octets)
    }

    fn has_input(&self) -> bool {
        !lock(&self.wire).flows[self.side].octets.is_empty()
    }

    fn finish(&self) -> io::Result<()> {
        if self.lives() {
            self.end_flow();
        }
        Ok(())
    }
}

/// How many connections the process holds, by the name of their place: an address, or a site of the queue.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<BTreeMap<String, usize>>>);

struct Place {
    places: Places,
    name: String,
}

impl Places {
    /// Those of one place.
    pub fn of(&self, name: &str) -> usize {
        lock(&self.0).get(name).copied().unwrap_or(0)
    }

    /// All of them.
    pub fn total(&self) -> usize {
        lock(&self.0).values().sum()
    }

    fn change(&self, name: &str, by: isize) {
        let mut places = lock(&self.0);
        let count = places.entry(name.to_owned()).or_default();
        *count = count.saturating_add_signed(by);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.change(&self.name, -1);
    }
}

/// The addresses at which the process listens.
pub fn listening() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 25], 25))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
