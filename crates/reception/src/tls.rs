//! TLS over a connection: [`SecureStream`], itself a [`Stream`], and [`Wire`], which is in clear or not.
//!
//! Nobody but the session's own task uses a stream; the lock is there because a [`Stream`] is used by reference, and is
//! never waited for.

use std::cell::RefCell;
use std::io::{self, BufRead, IoSlice, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::tls::PeerCertificate;
use bytes::{Buf, BytesMut};
use mail::{TlsFacts, Verified};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use crate::stream::Stream;

/// Octets that are read from the network, or written as one record, at once.
const PIECE: usize = 16 << 10;
/// Octets that a client may send before its handshake is complete. rustls takes messages of 64 KiB, and there are few.
const MOST_HANDSHAKE: usize = 256 << 10;
/// How often a look for something to read goes on after records that carry nothing.
const MOST_LOOKS: usize = 16;
/// RFC 9266 §2.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

thread_local! {
    /// Where records are read to before they are opened, so that idle connections need no memory for it.
    static RECORDS: RefCell<BytesMut> = RefCell::default();
}

/// A connection, in clear or not.
pub(crate) enum Wire<S> {
    /// In clear.
    Clear(S),
    /// Inside TLS.
    Secure(Box<SecureStream<S>>),
    /// Lost in the handshake.
    Lost,
}

/// A connection inside TLS.
pub(crate) struct SecureStream<S> {
    stream: S,
    state: Mutex<State>,
}

struct State {
    tls: ServerConnection,
    /// Records that were read and not opened yet because nobody had room for what is in them; mostly empty.
    unopened: BytesMut,
    /// Whether there may be more input than the network knows of.
    more: bool,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client went away, or the network broke.
    #[error("{0}")]
    Network(#[from] io::Error),
    /// The two sides do not come together.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The client sends without end.
    #[error("the handshake is too long")]
    TooLong,
    /// The client is too slow.
    #[error("the handshake takes too long")]
    TooSlow,
}

impl HandshakeError {
    /// A word for metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Network(_) => "network",
            Self::Tls(rustls::Error::NoApplicationProtocol) => "protocol",
            Self::Tls(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Self::Tls(rustls::Error::AlertReceived(_)) => "client",
            Self::Tls(_) => "invalid",
            Self::TooLong => "long",
            Self::TooSlow => "slow",
        }
    }
}

impl<S: Stream> SecureStream<S> {
    /// Makes the handshake; how long it may take is the caller's.
    /// `early` was read from the stream before.
    pub(crate) async fn accept(stream: S, config: Arc<ServerConfig>, early: BytesMut) -> Result<Self, HandshakeError> {
        let mut state = State { tls: ServerConnection::new(config)?, unopened: early, more: true };
        let mut left = MOST_HANDSHAKE;
        state.open_handshake()?;
        loop {
            while let Some(error) = state.send(&stream).err() {
                match error.kind() {
                    io::ErrorKind::WouldBlock => stream.writable().await?,
                    _ => return Err(error.into()),
                }
            }
            if !state.tls.is_handshaking() {
                return Ok(Self { stream, state: Mutex::new(state) });
            }
            let octets = state.hear(&stream).await?;
            left = left.checked_sub(octets).ok_or(HandshakeError::TooLong)?;
            if let Err(error) = state.open_handshake() {
                // The client should hear why; whether it does makes no difference here.
                let _ = state.send(&stream);
                return Err(error);
            }
        }
    }

    /// The facts of the session.
    pub(crate) fn facts(&self) -> Option<TlsFacts> {
        ::tls::session_facts(&self.state().tls, Verified::No)
    }

    /// Whether it goes on where an earlier session ended.
    pub(crate) fn is_resumed(&self) -> bool {
        self.state().tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificate that the client has shown.
    pub(crate) fn peer_certificate(&self) -> Option<PeerCertificate> {
        PeerCertificate::of(self.state().tls.peer_certificates()?)
    }

    /// What binds an authentication to this session (`tls-exporter`, RFC 9266). Nothing under TLS 1.2, where a man in the
    /// middle may bring two sessions to the same value unless both sides use an extension (RFC 9266 §3).
    pub(crate) fn exporter(&self) -> Option<[u8; 32]> {
        let state = self.state();
        if state.tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        state.tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"")).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Waits for octets of the handshake.
    async fn hear(&mut self, stream: &impl Stream) -> Result<usize, HandshakeError> {
        loop {
            stream.readable().await?;
            self.unopened.reserve(PIECE);
            match stream.try_read_buf(&mut self.unopened) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Ok(read?),
            }
        }
    }

    /// Takes what was heard up to the end of the handshake. What stands behind that waits.
    fn open_handshake(&mut self) -> Result<(), HandshakeError> {
        while self.tls.is_handshaking() && !self.unopened.is_empty() {
            let mut records = &self.unopened[..];
            self.tls.read_tls(&mut records)?;
            let rest = records.len();
            self.unopened.advance(self.unopened.len() - rest);
            // Not by `feed`: rustls' own word says what the matter is.
            self.tls.process_new_packets()?;
        }
        if self.unopened.is_empty() {
            self.unopened = BytesMut::new();
        }
        Ok(())
    }

    /// Reads into the room that `buffer` has: what is there already, or what the network has at this moment.
    fn read(&mut self, stream: &impl Stream, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut records = RECORDS.take();
        records.clear();
        records.extend_from_slice(&self.unopened);
        self.unopened = BytesMut::new();
        let read = self.open(stream, &mut records, buffer);
        if !records.is_empty() {
            self.unopened.extend_from_slice(&records);
        }
        RECORDS.replace(records);
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::InvalidData
        {
            let _ = self.send(stream);
        }
        read
    }

    /// Opens `records`, and those that the network has, into `buffer`.
    fn open(&mut self, stream: &impl Stream, records: &mut BytesMut, buffer: &mut BytesMut) -> io::Result<usize> {
        let (start, mut asked) = (buffer.len(), false);
        loop {
            let closed = self.take_plaintext(buffer)?;
            let taken = buffer.len() - start;
            self.more = buffer.len() == buffer.capacity() || closed;
            if self.more || (taken > 0 && records.is_empty()) {
                return Ok(taken);
            }
            if records.is_empty() {
                // Once is enough: whether there is more, the network tells when it is asked again.
                if asked {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                asked = true;
                records.reserve(PIECE);
                if stream.try_read_buf(records)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.feed(records)?;
        }
    }

    /// Whether there is something to read: octets from the network alone do not say so.
    fn has_plaintext(&mut self, stream: &impl Stream) -> bool {
        let mut found = false;
        for _ in 0..MOST_LOOKS {
            match self.tls.reader().fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => {
                    found = true;
                    break;
                }
            }
            if self.unopened.is_empty() {
                self.unopened.reserve(PIECE);
                if !stream.has_input() || !matches!(stream.try_read_buf(&mut self.unopened), Ok(octets) if octets > 0) {
                    self.unopened = BytesMut::new();
                    break;
                }
            }
            let mut records = std::mem::take(&mut self.unopened);
            let fed = self.feed(&mut records);
            self.unopened = records;
            if fed.is_err() {
                break;
            }
        }
        self.more = found || !self.unopened.is_empty();
        found
    }

    /// Gives rustls a piece of `records`, and lets it open what is complete.
    fn feed(&mut self, records: &mut BytesMut) -> io::Result<()> {
        let mut rest = &records[..];
        self.tls.read_tls(&mut rest)?;
        let rest = rest.len();
        records.advance(records.len() - rest);
        self.tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(())
    }

    /// Moves what was opened into the room that `buffer` has; tells whether the client has said that this was all.
    fn take_plaintext(&mut self, buffer: &mut BytesMut) -> io::Result<bool> {
        loop {
            let room = buffer.capacity() - buffer.len();
            if room == 0 {
                return Ok(false);
            }
            let mut reader = self.tls.reader();
            let piece = match reader.fill_buf() {
                Ok([]) => return Ok(true),
                Ok(piece) => &piece[..piece.len().min(room)],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            buffer.extend_from_slice(piece);
            let taken = piece.len();
            reader.consume(taken);
        }
    }

    /// Writes what rustls has to say.
    fn send(&mut self, stream: &impl Stream) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Out(stream))?;
        }
        Ok(())
    }
}

impl<S: Stream> Stream for SecureStream<S> {
    async fn readable(&self) -> io::Result<()> {
        let more = self.state().more;
        if more { Ok(()) } else { self.stream.readable().await }
    }

    /// 0 is the end that the client has announced; an end that it has not, which anybody on the way can make, is
    /// [`io::ErrorKind::UnexpectedEof`].
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.state().read(&self.stream, buffer)
    }

    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.stream.writable()
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.send(&self.stream)?;
        let taken = state.tls.writer().write(&octets[..octets.len().min(PIECE)])?;
        match state.send(&self.stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        self.state().send(&self.stream)
    }

    fn say(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write(octets)
    }

    fn has_input(&self) -> bool {
        self.state().has_plaintext(&self.stream)
    }

    fn finish(&self) -> io::Result<()> {
        let mut state = self.state();
        state.tls.send_close_notify();
        // If it does not fit, the client has not read for long, and will not miss it.
        let _ = state.send(&self.stream);
        self.stream.finish()
    }
}

/// The network as rustls writes to it. The records of a flight go out together.
struct Out<'a, S>(&'a S);

impl<S: Stream> Write for Out<'_, S> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.try_write(octets)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [one] => self.0.try_write(one),
            several => {
                let flight: Vec<u8> = several.iter().flat_map(|piece| piece.iter().copied()).collect();
                self.0.try_write(&flight)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Stream> Wire<S> {
    /// What is inside TLS, if it is.
    pub(crate) fn inside(&self) -> Option<&SecureStream<S>> {
        match self {
            Wire::Secure(stream) => Some(stream),
            Wire::Clear(_) | Wire::Lost => None,
        }
    }

    /// Makes a handshake on a connection in clear, within this time; `early` was read before. A connection that fails in
    /// it is lost.
    pub(crate) async fn secure(
        &mut self,
        config: Arc<ServerConfig>,
        early: BytesMut,
        time: Duration,
    ) -> Result<(), HandshakeError> {
        let Wire::Clear(stream) = std::mem::replace(self, Wire::Lost) else { return Err(lost().into()) };
        // Boxed, so that connections that wait do not pay for its size.
        let handshake = Box::pin(SecureStream::accept(stream, config, early));
        let stream = tokio::time::timeout(time, handshake).await.map_err(|_| HandshakeError::TooSlow)??;
        *self = Wire::Secure(Box::new(stream));
        Ok(())
    }
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl<S: Stream> Stream for Wire<S> {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Wire::Clear(stream) => stream.readable().await,
            Wire::Secure(stream) => stream.readable().await,
            Wire::Lost => Err(lost()),
        }
    }

    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.try_read_buf(buffer),
            Wire::Secure(stream) => stream.try_read_buf(buffer),
            Wire::Lost => Err(lost()),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Wire::Clear(stream) => stream.writable().await,
            Wire::Secure(stream) => stream.writable().await,
            Wire::Lost => Err(lost()),
        }
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.try_write(octets),
            Wire::Secure(stream) => stream.try_write(octets),
            Wire::Lost => Err(lost()),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        match self {
            Wire::Clear(stream) => stream.try_flush(),
            Wire::Secure(stream) => stream.try_flush(),
            Wire::Lost => Err(lost()),
        }
    }

    fn say(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.say(octets),
            Wire::Secure(stream) => stream.say(octets),
            Wire::Lost => Err(lost()),
        }
    }

    fn has_input(&self) -> bool {
        match self {
            Wire::Clear(stream) => stream.has_input(),
            Wire::Secure(stream) => stream.has_input(),
            Wire::Lost => false,
        }
    }

    fn finish(&self) -> io::Result<()> {
        match self {
            Wire::Clear(stream) => stream.finish(),
            Wire::Secure(stream) => stream.finish(),
            Wire::Lost => Err(lost()),
        }
    }
}
