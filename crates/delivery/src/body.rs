//! The content of a message as a peer can take it: streamed as it is, or converted to seven bits.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mail::downgrade::{downgrade, needs_downgrade};
use mail::{BodyKind, EnhancedCode, Envelope, Fault, header};
use smtp::extensions::Extensions;
use store::{Content, ReadError, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Content, ready to be sent. It is in memory by pieces, but for what had to be converted.
pub(crate) struct Body {
    /// What it holds.
    pub kind: BodyKind,
    /// Whether its header needs SMTPUTF8.
    pub utf8: bool,
    /// Octets.
    pub size: u64,
    /// Whether it was converted.
    pub converted: bool,
    ahead: VecDeque<Bytes>,
    rest: Option<Content>,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Why content can't be given to a peer.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// It can't be made what this peer takes.
    Here(Fault),
    /// It can't be had at all.
    Unreadable(Fault),
}

/// Bounds the memory of all conversions under way together.
#[derive(Clone, Debug)]
pub(crate) struct Conversions(Arc<Semaphore>);

/// The unit in which memory is counted.
const UNIT: u64 = 1024;
/// Memory for all conversions together, in units: 64 MiB.
const MEMORY: u64 = 64 * 1024;
/// How far a header is looked at to see whether it is ASCII; what is longer counts as UTF-8 if it was declared so.
const LONGEST_HEADER: usize = 1 << 20;

impl Default for Conversions {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY as usize)))
    }
}

impl Conversions {
    /// Waits for the memory that converting this many octets takes: the content and up to three times as much. More than
    /// there is at all gets all of it.
    async fn reserve(&self, size: u64) -> Option<OwnedSemaphorePermit> {
        let units = (size.saturating_mul(4) / UNIT + 1).min(MEMORY);
        Arc::clone(&self.0).acquire_many_owned(units as u32).await.ok()
    }
}

impl Body {
    /// Opens a message's content as it is.
    pub async fn open(store: &Store, envelope: &Envelope) -> Result<Self, Fault> {
        let content = store.content(envelope.id).await.map_err(|error| unreadable(&error))?;
        let content = content
            .ok_or_else(|| Fault::local(451, EnhancedCode::new(4, 3, 0), "the message is no longer in the store"))?;
        Ok(Self {
            kind: envelope.body,
            utf8: envelope.utf8,
            size: content.len(),
            converted: false,
            ahead: VecDeque::new(),
            rest: Some(content),
            _memory: None,
        })
    }

    /// Makes it fit for a peer that offers this, as far as that can be done; what cannot, the peer's lack of an extension
    /// tells later. Only content of at most `largest` octets is converted.
    pub async fn fit(&mut self, offered: &Extensions, conversions: &Conversions, largest: u64) -> Result<(), Unfit> {
        if self.utf8 && !offered.utf8 {
            // RFC 6531 §3.4: SMTPUTF8 may be asked for without being used. Then any peer will do.
            self.utf8 = !self.has_ascii_header().await.map_err(Unfit::Unreadable)?;
        }
        let takes = match self.kind {
            BodyKind::SevenBit => true,
            BodyKind::EightBitMime => offered.eight_bit_mime,
            BodyKind::BinaryMime => offered.binary_mime && offered.chunking,
        };
        if takes || (self.utf8 && !offered.utf8) || self.size > largest {
            return Ok(());
        }
        self._memory = conversions.reserve(self.size).await;
        let whole = self.collect().await.map_err(Unfit::Unreadable)?;
        let whole = if self.kind == BodyKind::BinaryMime || needs_downgrade(&whole) {
            self.converted = true;
            downgrade(&whole).map_err(|unconvertible| Unfit::Here(unconvertible.fault()))?.to_bytes()
        } else {
            whole
        };
        self.kind = BodyKind::SevenBit;
        self.size = whole.len() as u64;
        self.ahead.push_back(whole);
        Ok(())
    }

    /// The next piece.
    pub async fn next(&mut self) -> Option<Result<Bytes, Fault>> {
        if let Some(piece) = self.ahead.pop_front() {
            return Some(Ok(piece));
        }
        let piece = self.rest.as_mut()?.next().await?;
        Some(piece.map_err(|error| unreadable(&error)))
    }

    /// Reads ahead up to the end of the header.
    async fn has_ascii_header(&mut self) -> Result<bool, Fault> {
        let mut start = BytesMut::new();
        while let Some(rest) = &mut self.rest {
            let Some(piece) = rest.next().await else { break };
            let piece = piece.map_err(|error| unreadable(&error))?;
            start.extend_from_slice(&piece);
            self.ahead.push_back(piece);
            let header = header::header_length(&start);
            if header < start.len() {
                return Ok(start[..header].is_ascii());
            }
            if start.len() > LONGEST_HEADER {
                return Ok(false);
            }
        }
        Ok(start.is_ascii())
    }

    async fn collect(&mut self) -> Result<Bytes, Fault> {
        let mut whole = BytesMut::with_capacity(usize::try_from(self.size).unwrap_or(0));
        while let Some(piece) = self.next().await {
            whole.extend_from_slice(&piece?);
        }
        Ok(whole.freeze())
    }
}

/// Damage on the disk does not heal: better the sender is told now than after days of trying.
fn unreadable(error: &ReadError) -> Fault {
    match error {
        ReadError::Disk(_) => Fault::local(451, EnhancedCode::new(4, 3, 0), error.to_string()),
        ReadError::Damaged(_) => Fault::local(554, EnhancedCode::new(5, 3, 0), error.to_string()),
    }
}
