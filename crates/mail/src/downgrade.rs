//! Conversion of a message for a peer that takes seven bits only (RFC 6152 §3, RFC 2045).
//!
//! The structure is walked once, by ranges of the original: what may stay is kept as a slice of it, and only leaves
//! that need it are encoded, text as quoted-printable and everything else as base64. The labels of the parts and of
//! what surrounds them are corrected. Every part decodes afterwards to exactly the octets it had before.
//!
//! What cannot be converted is refused with a reason that becomes the recipient's failure: octets outside ASCII in a
//! header (they need SMTPUTF8, there is no encoding that keeps them), a signed multipart (any change would break the
//! signature and so say that the sender's text was tampered with), and structures that two readers could understand
//! in two ways. Text before the first and behind the last boundary of a multipart, which no reader may show
//! (RFC 2046 §5.1.1), is left out where it is not plain ASCII.
//!
//! The same conversion serves content that came as BINARYMIME: bare CR, bare LF, NUL and over-long lines count as
//! reasons to encode a leaf. The caller bounds the size of the content: the converted message may be three times as
//! long, and encoded parts are held in memory.

mod head;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use crate::encoding;
use crate::outcome::Fault;
use crate::reply::EnhancedCode;
use head::{Encoding, Head, Kind};

/// Whether there is an octet outside ASCII, for which a peer without 8BITMIME needs [`downgrade`].
///
/// Content that came as BINARYMIME may need it without such an octet: call [`downgrade`] in any case then.
pub fn needs_downgrade(content: &[u8]) -> bool {
    !content.is_ascii()
}

/// Makes a message of seven bits and lines of at most 998 octets, whose parts decode to the same octets as before.
///
/// `content` is the whole message, header and body, with CRLF as line ends. Content that needs no conversion comes
/// back untouched.
pub fn downgrade(content: &[u8]) -> Result<Downgraded<'_>, Unconvertible> {
    let mut walk = Walk { content, out: Output::default(), entities: 0 };
    if is_plain(content) {
        walk.out.keep(0..content.len());
    } else {
        walk.entity(Entity { range: 0..content.len(), is_message: true, in_digest: false, depth: 0 })?;
    }
    Ok(Downgraded { pieces: walk.out.into_pieces(content) })
}

/// A message of seven bits, in pieces of the original and of what replaces the rest of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downgraded<'a> {
    pieces: Vec<Cow<'a, [u8]>>,
}

impl Downgraded<'_> {
    /// The pieces in order; together they are the message.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(AsRef::as_ref)
    }

    /// Its length in octets.
    pub fn len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message as one buffer.
    pub fn to_bytes(&self) -> Bytes {
        let mut whole = Vec::with_capacity(self.len());
        self.pieces().for_each(|piece| whole.extend_from_slice(piece));
        Bytes::from(whole)
    }
}

/// Why a message cannot be made to fit a path of seven bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unconvertible {
    /// A header has octets outside ASCII, which only SMTPUTF8 carries (RFC 6532).
    #[error("a header contains characters outside ASCII")]
    Header,
    /// A `multipart/signed` would have to be changed, which breaks its signature (RFC 1847 §2.1).
    #[error("the message is signed and would have to be changed")]
    Signed,
    /// A part in an encoding that is unknown here, or of a type that may not be encoded (RFC 2045 §6.4).
    #[error("a part with octets outside ASCII may not be encoded")]
    Encoding,
    /// The structure cannot be read without a guess.
    #[error("the structure of the message is broken: {0}")]
    Malformed(&'static str),
    /// More nested or more numerous parts than are looked at.
    #[error("the message has too many parts inside parts")]
    TooComplex,
}

impl Unconvertible {
    /// The failure that it means for every recipient behind the peer.
    pub fn fault(&self) -> Fault {
        let (enhanced, cause) = match self {
            // RFC 6531 §4.2 and IANA's registry: 5.6.9, a message with UTF-8 headers cannot be transferred.
            Unconvertible::Header => (EnhancedCode::new(5, 6, 9), "it does not offer SMTPUTF8"),
            // RFC 3463 §3.7: 5.6.3, conversion is required and not possible.
            _ => (EnhancedCode::new(5, 6, 3), "it does not offer 8BITMIME"),
        };
        Fault::local(554, enhanced, format!("{self}, and the next server cannot take that: {cause}"))
    }
}

/// Entities inside entities.
const DEEPEST: usize = 32;
/// Entities of one message.
const MOST_ENTITIES: usize = 10_000;

/// Whether `data` can go as it is: ASCII without NUL, in lines of at most 998 octets that end with CRLF.
fn is_plain(data: &[u8]) -> bool {
    data.is_ascii() && encoding::has_proper_lines(data)
}

/// One pass over the structure of a message.
struct Walk<'a> {
    content: &'a [u8],
    out: Output,
    entities: usize,
}

/// A header with a body, somewhere in the content.
struct Entity {
    range: Range<usize>,
    /// Whether it is a message of its own and thus carries a MIME-Version.
    is_message: bool,
    in_digest: bool,
    depth: usize,
}

impl Walk<'_> {
    fn entity(&mut self, entity: Entity) -> Result<(), Unconvertible> {
        let before = self.out.mark();
        let range = entity.range.clone();
        match self.convert(entity) {
            // Only labels would change here: what cannot be understood can also stay as it is.
            Err(_) if is_plain(&self.content[range.clone()]) => {
                self.out.rewind(before);
                self.out.keep(range);
                Ok(())
            }
            result => result,
        }
    }

    fn convert(&mut self, entity: Entity) -> Result<(), Unconvertible> {
        self.entities += 1;
        if entity.depth > DEEPEST || self.entities > MOST_ENTITIES {
            return Err(Unconvertible::TooComplex);
        }
        let head = Head::parse(self.content, entity.range.clone())?;
        let kind = head.kind(self.content, entity.in_digest)?;
        let body = head.body..entity.range.end;
        let is_plain = is_plain(&self.content[body.clone()]);
        let encoding = head.encoding(self.content);
        let label = label(&kind, encoding, is_plain)?;
        self.head(&head, label, entity.is_message && !is_plain && !head.mime_version);
        let inside = Entity { range: body, is_message: false, in_digest: false, depth: entity.depth + 1 };
        match kind {
            Kind::Multipart(boundary) => {
                let in_digest = head.is_digest(self.content);
                self.multipart(&boundary, Entity { in_digest, ..inside })
            }
            Kind::Message if matches!(encoding, Encoding::SevenBit | Encoding::Wide) => {
                self.entity(Entity { is_message: true, ..inside })
            }
            _ if is_plain => {
                self.out.keep(inside.range);
                Ok(())
            }
            _ => self.leaf(inside.range, label, encoding),
        }
    }

    /// Writes a header with its encoding corrected. The empty line behind it stays.
    fn head(&mut self, head: &Head, label: Option<Label>, add_version: bool) {
        let mut rest = head.fields.clone();
        if let (Some(label), Some(field)) = (label, head.encoding.clone()) {
            self.out.keep(rest.start..field.start);
            let line_end = if self.content[field.clone()].ends_with(b"\r\n") { "\r\n" } else { "" };
            self.out.make(format!("Content-Transfer-Encoding: {}{line_end}", label.word()).into_bytes());
            rest.start = field.end;
        }
        self.out.keep(rest);
        if add_version {
            self.out.make(b"MIME-Version: 1.0\r\n".to_vec());
        }
        if let (Some(label), None) = (label, &head.encoding) {
            self.out.make(format!("Content-Transfer-Encoding: {}\r\n", label.word()).into_bytes());
        }
        self.out.keep(head.fields.end..head.body);
    }

    fn multipart(&mut self, boundary: &[u8], body: Entity) -> Result<(), Unconvertible> {
        let content = self.content;
        let mut delimiters = Delimiters::new(content, body.range.clone(), boundary);
        let first = delimiters.next().filter(|first| !first.is_close);
        let mut open = first.ok_or(Unconvertible::Malformed("a multipart without parts"))?;
        self.aside(body.range.start..open.line.start);
        loop {
            self.out.keep(open.line.clone());
            if open.is_close {
                self.aside(open.line.end..body.range.end);
                return Ok(());
            }
            let next = delimiters.next();
            let end = next.as_ref().map_or(body.range.end, |next| next.line.start);
            self.entity(Entity { range: open.line.end..end, ..body })?;
            match next {
                Some(next) => open = next,
                None => return Ok(()),
            }
        }
    }

    /// Text around the parts of a multipart: kept where it can be, else left out.
    fn aside(&mut self, range: Range<usize>) {
        if is_plain(&self.content[range.clone()]) {
            self.out.keep(range);
        }
    }

    /// A body that cannot stay as it is and has no structure of its own.
    fn leaf(&mut self, body: Range<usize>, label: Option<Label>, encoding: Encoding) -> Result<(), Unconvertible> {
        let data = &self.content[body.clone()];
        let mut encoded = Vec::new();
        match (label, encoding) {
            (Some(Label::QuotedPrintable), _) => encoding::quoted_printable(data, &mut encoded),
            (Some(_), _) => {
                encoding::base64(data, &mut encoded);
                if body.end == self.content.len() {
                    encoded.extend_from_slice(b"\r\n");
                }
            }
            (None, Encoding::QuotedPrintable) => mend_quoted_printable(data, &mut encoded),
            // RFC 2045 §6.8: a decoder ignores what is outside the alphabet.
            (None, _) => encoded.extend(data.iter().filter(|octet| octet.is_ascii() && **octet != 0)),
        }
        if !is_plain(&encoded) {
            return Err(Unconvertible::Malformed("lines that its own encoding does not allow"));
        }
        self.out.make(encoded);
        Ok(())
    }
}

/// A new value for `Content-Transfer-Encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl Label {
    fn word(self) -> &'static str {
        match self {
            Label::SevenBit => "7bit",
            Label::QuotedPrintable => "quoted-printable",
            Label::Base64 => "base64",
        }
    }
}

/// What an entity's encoding must say from now on; `None` where what it says stays true.
fn label(kind: &Kind, encoding: Encoding, is_plain: bool) -> Result<Option<Label>, Unconvertible> {
    let corrected = (encoding == Encoding::Wide).then_some(Label::SevenBit);
    match (kind, encoding) {
        (Kind::Signed, _) if is_plain => Ok(None),
        (Kind::Signed, _) => Err(Unconvertible::Signed),
        (Kind::Multipart(_), _) => Ok(corrected),
        (_, _) if is_plain => Ok(corrected),
        // Some readers undo a forbidden encoding of a message before they look inside, others do not.
        (Kind::Message, Encoding::QuotedPrintable | Encoding::Base64) => Err(Unconvertible::Encoding),
        (_, Encoding::QuotedPrintable | Encoding::Base64) => Ok(None),
        (_, Encoding::Unknown) | (Kind::Opaque, _) => Err(Unconvertible::Encoding),
        (Kind::Message, _) => Ok(corrected),
        (Kind::Text, _) => Ok(Some(Label::QuotedPrintable)),
        (Kind::Binary, _) => Ok(Some(Label::Base64)),
    }
}

/// Escapes the octets that quoted-printable text may not have but has. They decode to themselves.
fn mend_quoted_printable(data: &[u8], out: &mut Vec<u8>) {
    for &octet in data {
        match octet {
            b'\r' | b'\n' | b'\t' | b' '..=b'~' => out.push(octet),
            _ => encoding::escape(octet, out),
        }
    }
}

/// The delimiter lines of one multipart, in order (RFC 2046 §5.1.1).
struct Delimiters<'a> {
    content: &'a [u8],
    body: Range<usize>,
    dashes: Vec<u8>,
    /// Where the search goes on.
    at: usize,
    /// Where the last delimiter ended.
    last: usize,
}

/// One delimiter line: from the CRLF in front of it to behind the one at its end.
struct Delimiter {
    line: Range<usize>,
    is_close: bool,
}

impl<'a> Delimiters<'a> {
    fn new(content: &'a [u8], body: Range<usize>, boundary: &[u8]) -> Delimiters<'a> {
        let start = body.start;
        Delimiters { content, body, dashes: [b"--", boundary].concat(), at: start, last: start }
    }

    /// The delimiter whose dashes begin at `start`, if the line has nothing else on it. A longer line is another
    /// multipart's: outer and inner boundaries often differ by what is behind them alone.
    fn parse(&self, start: usize) -> Option<Delimiter> {
        let body = &self.content[..self.body.end];
        let from = match start == self.body.start {
            true => start,
            false => start - body[self.body.start..start].ends_with(b"\r\n").then_some(2)?,
        };
        let mut end = start + self.dashes.len();
        let is_close = body[end..].starts_with(b"--");
        end += if is_close { 2 } else { 0 };
        end += body[end..].iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        match &body[end..] {
            [] => Some(Delimiter { line: from..end, is_close }),
            [b'\r', b'\n', ..] => Some(Delimiter { line: from..end + 2, is_close }),
            _ => None,
        }
    }
}

impl Iterator for Delimiters<'_> {
    type Item = Delimiter;

    fn next(&mut self) -> Option<Delimiter> {
        let finder = memmem::Finder::new(&self.dashes);
        while let Some(found) = finder.find(&self.content[self.at..self.body.end]) {
            let start = self.at + found;
            self.at = start + self.dashes.len();
            if let Some(mut delimiter) = self.parse(start) {
                // Two that touch share one CRLF: it belongs to the first.
                delimiter.line.start = delimiter.line.start.max(self.last);
                self.last = delimiter.line.end;
                self.at = self.at.max(self.last);
                return Some(delimiter);
            }
        }
        None
    }
}

/// The new message while it is made: kept ranges and made pieces, in order.
#[derive(Default)]
struct Output {
    pieces: Vec<Piece>,
}

#[derive(Clone)]
enum Piece {
    Kept(Range<usize>),
    Made(Vec<u8>),
}

impl Output {
    fn keep(&mut self, range: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Kept(last)) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.pieces.push(Piece::Kept(range)),
        }
    }

    fn make(&mut self, bytes: Vec<u8>) {
        self.pieces.push(Piece::Made(bytes));
    }

    /// A point to come back to. The last piece is remembered whole, for it may grow.
    fn mark(&self) -> (usize, Option<Range<usize>>) {
        let last = match self.pieces.last() {
            Some(Piece::Kept(range)) => Some(range.clone()),
            _ => None,
        };
        (self.pieces.len(), last)
    }

    fn rewind(&mut self, (length, last): (usize, Option<Range<usize>>)) {
        self.pieces.truncate(length);
        if let (Some(Piece::Kept(range)), Some(last)) = (self.pieces.last_mut(), last) {
            *range = last;
        }
    }

    fn into_pieces(self, content: &[u8]) -> Vec<Cow<'_, [u8]>> {
        let piece = |piece| match piece {
            Piece::Kept(range) => Cow::Borrowed(&content[range]),
            Piece::Made(bytes) => Cow::Owned(bytes),
        };
        self.pieces.into_iter().map(piece).collect()
    }
}
