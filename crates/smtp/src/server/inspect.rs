//! Looks at content while it passes: size, header section, hops, line lengths. Counts and compares, never keeps it.

use super::event::ContentFacts;
use super::limits::Limits;
use super::reason::Refusal;

/// The field whose number tells of loops (RFC 5321 §6.3), in lower case.
const RECEIVED: &[u8] = b"received";

/// What was seen so far of one message.
#[derive(Debug)]
pub(super) struct Inspector {
    facts: ContentFacts,
    /// Octets of the current line.
    line: usize,
    /// How the current line of the header section begins.
    name: Name,
    in_header: bool,
    /// The current line of the header section, as far as it may be the wish for TLS.
    wish: Wish,
    /// Whether the body may be anything (BINARYMIME).
    binary: bool,
    verdict: Option<Refusal>,
    message_limit: u64,
    header_limit: u64,
    line_limit: usize,
    hops_limit: u32,
}

/// How much of `Received:` the current line has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// So many letters of it, and nothing else.
    Letters(usize),
    /// All of it and white space; the colon is due (RFC 5322 §4.5 lets old fields have the space).
    Complete,
    /// Something else, or counted already.
    Settled,
}

/// A line that may be `TLS-Required: No` (RFC 8689 §3).
#[derive(Debug, Default)]
struct Wish {
    start: [u8; Self::ROOM],
    length: usize,
    other: bool,
}

impl Wish {
    /// Octets that the field has at most, with some white space.
    const ROOM: usize = 32;

    fn text(&mut self, part: &[u8]) {
        let first = self.length == 0 && part.first().is_some_and(|octet| !octet.eq_ignore_ascii_case(&b't'));
        self.other |= first || part.len() > Self::ROOM - self.length;
        if !self.other {
            self.start[self.length..self.length + part.len()].copy_from_slice(part);
            self.length += part.len();
        }
    }

    fn is_expressed(&self) -> bool {
        let line = if self.other { &[] } else { &self.start[..self.length] };
        let mut parts = line.splitn(2, |octet| *octet == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        name.trim_ascii_end().eq_ignore_ascii_case(b"tls-required") && value.trim_ascii().eq_ignore_ascii_case(b"no")
    }
}

impl Inspector {
    pub(super) fn new(limits: &Limits, binary: bool) -> Self {
        Self {
            facts: ContentFacts::default(),
            line: 0,
            name: Name::Letters(0),
            in_header: true,
            wish: Wish::default(),
            binary,
            verdict: None,
            message_limit: limits.message,
            header_limit: limits.header,
            line_limit: limits.line,
            hops_limit: limits.hops,
        }
    }

    /// Whether the empty line is still to come.
    pub(super) fn in_header(&self) -> bool {
        self.in_header
    }

    /// Why the message cannot be taken, if so.
    pub(super) fn verdict(&self) -> Option<Refusal> {
        self.verdict
    }

    pub(super) fn facts(&self) -> ContentFacts {
        self.facts
    }

    /// Part of a line, without its line end; a whole line may come in any number of parts.
    pub(super) fn text(&mut self, part: &[u8]) {
        self.line += part.len();
        if self.line > self.line_limit && (self.in_header || !self.binary) {
            self.judge(Refusal::ContentLine);
        }
        if self.in_header {
            self.facts.eight_bit_header |= !part.is_ascii();
            self.header_octets(part.len());
            self.field_name(part);
            self.wish.text(part);
        }
    }

    /// The line is over.
    pub(super) fn line_end(&mut self) {
        if self.in_header {
            self.header_octets(2);
            self.in_header = self.line > 0;
            self.name = Name::Letters(0);
            self.facts.tls_optional |= std::mem::take(&mut self.wish).is_expressed();
        }
        self.line = 0;
    }

    /// A piece of decoded content, as it is handed on.
    pub(super) fn count(&mut self, piece: &[u8]) {
        self.facts.size += piece.len() as u64;
        self.facts.eight_bit |= !piece.is_ascii();
        if self.facts.size > self.message_limit {
            self.judge(Refusal::MessageSize);
        }
    }

    /// Whether so many more octets would be too many.
    pub(super) fn exceeds(&self, more: u64) -> bool {
        self.facts.size.saturating_add(more) > self.message_limit
    }

    fn header_octets(&mut self, octets: usize) {
        self.facts.header += octets as u64;
        if self.facts.header > self.header_limit {
            self.judge(Refusal::HeaderSize);
        }
    }

    fn field_name(&mut self, part: &[u8]) {
        for &byte in part {
            self.name = match self.name {
                Name::Settled => return,
                Name::Letters(n) if RECEIVED.get(n) == Some(&byte.to_ascii_lowercase()) => Name::Letters(n + 1),
                Name::Letters(n) if n == RECEIVED.len() && matches!(byte, b' ' | b'\t') => Name::Complete,
                Name::Complete if matches!(byte, b' ' | b'\t') => Name::Complete,
                Name::Letters(n) if n == RECEIVED.len() && byte == b':' => self.hop(),
                Name::Complete if byte == b':' => self.hop(),
                _ => Name::Settled,
            };
        }
    }

    fn hop(&mut self) -> Name {
        self.facts.hops += 1;
        if self.facts.hops >= self.hops_limit {
            self.judge(Refusal::Hops);
        }
        Name::Settled
    }

    /// Of several reasons the gravest stays, so that the reply does not depend on how the content was cut up.
    fn judge(&mut self, found: Refusal) {
        let gravity = |refusal| match refusal {
            Refusal::Hops => 3,
            Refusal::MessageSize => 2,
            Refusal::HeaderSize => 1,
            _ => 0,
        };
        if self.verdict.is_none_or(|known| gravity(found) > gravity(known)) {
            self.verdict = Some(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(limits: Limits, binary: bool, message: &str, cut: usize) -> Inspector {
        let mut inspector = Inspector::new(&limits, binary);
        for line in message.split_inclusive("\r\n") {
            let text = line.trim_end_matches("\r\n").as_bytes();
            text.chunks(cut).for_each(|part| inspector.text(part));
            inspector.line_end();
            inspector.count(line.as_bytes());
        }
        inspector
    }

    #[test]
    fn facts_do_not_depend_on_the_cut() {
        let message = "Received: a\r\nSubject: Received: x\r\n\tReceived: folded\r\nRECEIVED : b\r\nReceivedX: c\r\nTo: ä\r\n\r\nReceived: body\r\n";
        for cut in 1..20 {
            let inspector = inspect(Limits::default(), false, message, cut);
            let header = message.find("\r\n\r\n").unwrap() as u64 + 4;
            let expected = ContentFacts {
                size: message.len() as u64,
                header,
                hops: 2,
                eight_bit: true,
                eight_bit_header: true,
                tls_optional: false,
            };
            assert_eq!((inspector.facts(), inspector.verdict()), (expected, None));
        }
    }

    #[test]
    fn the_wish_for_no_tls_is_seen() {
        let wish = |message: &str, cut| inspect(Limits::default(), false, message, cut).facts().tls_optional;
        for cut in 1..20 {
            assert!(wish("To: a\r\nTLS-Required: No\r\n\r\nbody\r\n", cut));
            assert!(wish("tls-required :no\t\r\n\r\n", cut));
            for other in [
                "TLS-Required: Yes",
                "TLS-Required: No way",
                "X-TLS-Required: No",
                "To: TLS-Required: No",
                "\r\nTLS-Required: No",
            ] {
                assert!(!wish(&format!("{other}\r\n\r\n"), cut), "{other}");
            }
            assert!(!wish(&format!("TLS-Required:{}No\r\n\r\n", " ".repeat(90)), cut));
        }
    }

    #[test]
    fn each_limit_has_its_verdict() {
        let limits = Limits { message: 100, header: 40, line: 20, hops: 3, ..Limits::default() };
        let verdict = |message: &str| inspect(limits.clone(), false, message, 7).verdict();
        assert_eq!(verdict(&format!("a: b\r\n\r\n{}\r\n", "x".repeat(20))), None);
        assert_eq!(verdict(&format!("a: b\r\n\r\n{}\r\n", "x".repeat(21))), Some(Refusal::ContentLine));
        assert_eq!(verdict(&"a: bcdefgh\r\n".repeat(4)), Some(Refusal::HeaderSize));
        assert_eq!(verdict(&"Received:a\r\n".repeat(2)), None);
        assert_eq!(verdict(&"Received:a\r\n".repeat(3)), Some(Refusal::Hops));
        assert_eq!(verdict(&format!("\r\n{}", "12345678\r\n".repeat(10))), Some(Refusal::MessageSize));
    }

    #[test]
    fn a_binary_body_has_no_lines() {
        let limits = Limits { line: 20, ..Limits::default() };
        let long = "x".repeat(30);
        assert_eq!(inspect(limits.clone(), true, &format!("a: b\r\n\r\n{long}"), 9).verdict(), None);
        assert_eq!(inspect(limits, true, &format!("a: {long}\r\n\r\n"), 9).verdict(), Some(Refusal::ContentLine));
    }
}
