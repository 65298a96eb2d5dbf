//! The header of a MIME entity, as far as a change of its encoding needs it: where the three fields that matter lie,
//! what kind of body they announce, and where the body begins.

use std::ops::Range;

use super::Unconvertible;
use crate::encoding::LONGEST_LINE;

/// What stands in front of an entity's body. All ranges count from the start of the whole content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// From the first field to the empty line, which is not part of it.
    pub(super) fields: Range<usize>,
    /// Where the body begins: behind the empty line, or at the entity's end when there is none.
    pub(super) body: usize,
    /// The value of `Content-Type`.
    pub(super) content_type: Option<Range<usize>>,
    /// The whole field `Content-Transfer-Encoding`, with its line end.
    pub(super) encoding: Option<Range<usize>>,
    /// Whether there is a `MIME-Version`.
    pub(super) mime_version: bool,
}

/// What an entity's body is, by its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// `multipart/*` with its boundary.
    Multipart(Vec<u8>),
    /// `multipart/signed`: any change breaks the signature.
    Signed,
    /// `message/rfc822`: a message of its own, which may not be encoded as a whole.
    Message,
    /// `message/partial` and `message/external-body`: may not be encoded, and have nothing inside to encode.
    Opaque,
    /// Text and everything that is read as lines.
    Text,
    /// All other leaves.
    Binary,
}

/// What `Content-Transfer-Encoding` says about the octets of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// They are the data: `7bit` or no field at all.
    SevenBit,
    /// They are the data: `8bit` or `binary`.
    Wide,
    /// `quoted-printable`.
    QuotedPrintable,
    /// `base64`.
    Base64,
    /// A word that only the two ends may know.
    Unknown,
}

impl Head {
    /// Reads the header of the entity that lies in `range`.
    pub(super) fn parse(content: &[u8], range: Range<usize>) -> Result<Head, Unconvertible> {
        let mut head = Head {
            fields: range.start..range.start,
            body: range.end,
            content_type: None,
            encoding: None,
            mime_version: false,
        };
        let mut at = range.start;
        while at < range.end {
            if content[at..range.end].starts_with(b"\r\n") {
                head.body = at + 2;
                break;
            }
            let end = end_of_field(content, at..range.end)?;
            head.note(content, at..end)?;
            at = end;
        }
        head.fields.end = at;
        Ok(head)
    }

    /// Remembers a field if it is one of the three.
    fn note(&mut self, content: &[u8], field: Range<usize>) -> Result<(), Unconvertible> {
        let bytes = &content[field.clone()];
        let colon = memchr::memchr(b':', bytes).ok_or(Unconvertible::Malformed("a header line without a colon"))?;
        // White space before the colon (RFC 5322 §4.5) ends the header for some readers and not for others.
        let name = &bytes[..colon];
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return Err(Unconvertible::Malformed("a header line without a field name"));
        }
        let twice = if name.eq_ignore_ascii_case(b"Content-Type") {
            self.content_type.replace(field.start + colon + 1..field.end).is_some()
        } else if name.eq_ignore_ascii_case(b"Content-Transfer-Encoding") {
            self.encoding.replace(field).is_some()
        } else {
            self.mime_version |= name.eq_ignore_ascii_case(b"MIME-Version");
            false
        };
        match twice {
            true => Err(Unconvertible::Malformed("two fields that contradict each other")),
            false => Ok(()),
        }
    }

    /// The kind of the body; without a type it is text, or a message inside a digest (RFC 2046 §5.1.5).
    pub(super) fn kind(&self, content: &[u8], in_digest: bool) -> Result<Kind, Unconvertible> {
        let Some(value) = self.content_type.clone() else {
            return Ok(if in_digest { Kind::Message } else { Kind::Text });
        };
        let mut scan = Scan { bytes: &content[value] };
        let Some((major, minor)) = scan.media_type() else {
            return Ok(Kind::Text); // RFC 2045 §5.2: what cannot be read counts as plain text
        };
        match (major.as_str(), minor.as_str()) {
            ("multipart", "signed") => Ok(Kind::Signed),
            ("multipart", _) => match scan.parameter("boundary") {
                // Readers disagree whether the fold of a quoted string is part of it.
                Some(boundary) if boundary.contains(&b'\r') => Err(Unconvertible::Malformed("a folded boundary")),
                Some(boundary) if !boundary.is_empty() => Ok(Kind::Multipart(boundary)),
                _ => Err(Unconvertible::Malformed("a multipart without a boundary")),
            },
            ("message", "rfc822") => Ok(Kind::Message),
            ("message", "partial" | "external-body") => Ok(Kind::Opaque),
            // RFC 6532 §3.7 allows every encoding for message/global and its kin. For the other subtypes, which are
            // lists of fields, quoted-printable leaves the fields as they are: better than no report at all.
            ("message", _) => Ok(Kind::Text),
            ("text", _) => Ok(match scan.parameter("charset") {
                Some(charset) if in_wide_units(&charset) => Kind::Binary,
                _ => Kind::Text,
            }),
            _ => Ok(Kind::Binary),
        }
    }

    /// Whether the type is `multipart/digest`, whose parts are messages unless they say otherwise.
    pub(super) fn is_digest(&self, content: &[u8]) -> bool {
        self.content_type.clone().is_some_and(|value| {
            let media_type = Scan { bytes: &content[value] }.media_type();
            media_type.is_some_and(|(major, minor)| major == "multipart" && minor == "digest")
        })
    }

    /// What the body's octets are.
    pub(super) fn encoding(&self, content: &[u8]) -> Encoding {
        let Some(field) = self.encoding.clone() else {
            return Encoding::SevenBit;
        };
        let field = &content[field];
        let colon = memchr::memchr(b':', field).map_or(0, |colon| colon + 1);
        let word = Scan { bytes: &field[colon..] }.token().unwrap_or_default();
        match word.as_str() {
            "7bit" | "7-bit" => Encoding::SevenBit,
            "8bit" | "8-bit" | "binary" => Encoding::Wide,
            "quoted-printable" => Encoding::QuotedPrintable,
            "base64" => Encoding::Base64,
            _ => Encoding::Unknown,
        }
    }
}

/// The end of the field that begins at the start of `range`: behind its last folded line.
fn end_of_field(content: &[u8], range: Range<usize>) -> Result<usize, Unconvertible> {
    let mut at = range.start;
    loop {
        let line = &content[at..range.end];
        let length = memchr::memmem::find(line, b"\r\n").map_or(line.len(), |cr| cr + 2);
        if !line[..length].is_ascii() {
            return Err(Unconvertible::Header);
        }
        let text = line[..length].strip_suffix(b"\r\n").unwrap_or(&line[..length]);
        if text.len() > LONGEST_LINE || memchr::memchr3(b'\r', b'\n', 0, text).is_some() {
            return Err(Unconvertible::Malformed("a header line that no path of seven bits takes"));
        }
        at += length;
        if at >= range.end || !matches!(content[at], b' ' | b'\t') {
            return Ok(at);
        }
    }
}

/// Whether text in this charset is made of units of two or four octets, in which CR and LF are no line ends.
fn in_wide_units(charset: &[u8]) -> bool {
    let prefix = |word: &[u8]| charset.len() >= word.len() && charset[..word.len()].eq_ignore_ascii_case(word);
    prefix(b"utf-16") || prefix(b"utf-32") || prefix(b"iso-10646-ucs")
}

/// Reads structured values: tokens and quoted strings between white space and comments (RFC 2045 §5.1).
struct Scan<'a> {
    bytes: &'a [u8],
}

impl Scan<'_> {
    fn media_type(&mut self) -> Option<(String, String)> {
        let major = self.token()?;
        self.take(b'/')?;
        let minor = self.token()?;
        Some((major, minor))
    }

    /// The value of the first parameter of this name behind the media type.
    fn parameter(&mut self, wanted: &str) -> Option<Vec<u8>> {
        loop {
            while self.take(b';').is_none() {
                self.bytes = self.bytes.get(1..)?;
            }
            let Some(name) = self.token() else { continue };
            if self.take(b'=').is_none() {
                continue;
            }
            let value = match self.take(b'"') {
                Some(()) => self.quoted()?,
                None => self.word(),
            };
            if name == wanted {
                return Some(value);
            }
        }
    }

    /// One token, in lower case.
    fn token(&mut self) -> Option<String> {
        let word = self.word().to_ascii_lowercase();
        String::from_utf8(word).ok().filter(|word| !word.is_empty())
    }

    fn word(&mut self) -> Vec<u8> {
        self.skip_blank();
        let special = |octet: &u8| octet.is_ascii_whitespace() || b"()<>@,;:\\\"/[]?=".contains(octet);
        let length = self.bytes.iter().position(special).unwrap_or(self.bytes.len());
        self.advance(length).to_vec()
    }

    /// The rest of a quoted string, behind its opening quote; a missing end is the end of the value.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        loop {
            match *self.advance(1) {
                [b'"'] | [] => return Some(value),
                [b'\\'] => value.extend_from_slice(self.advance(1)),
                [octet] => value.push(octet),
                _ => return None,
            }
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        self.skip_blank();
        self.bytes = self.bytes.strip_prefix(&[wanted])?;
        Some(())
    }

    fn skip_blank(&mut self) {
        loop {
            match self.bytes.first() {
                Some(octet) if octet.is_ascii_whitespace() => {
                    self.advance(1);
                }
                Some(b'(') => self.skip_comment(),
                _ => return,
            }
        }
    }

    fn skip_comment(&mut self) {
        let mut depth = 0usize;
        while let [octet, ..] = *self.bytes {
            self.advance(if octet == b'\\' { 2 } else { 1 });
            match octet {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn advance(&mut self, length: usize) -> &[u8] {
        let (taken, rest) = self.bytes.split_at(length.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }
}
