//! Decodes content: DATA with its dots (RFC 5321 §4.5.2) and the chunks of BDAT (RFC 3030).
//!
//! Only CRLF.CRLF ends DATA. Octets are looked at once, by a vectorised search for CR, LF and NUL; what comes out are
//! slices of the input, cut only where a stuffed dot is taken out. Nothing that is undecided leaves the input: a CR at
//! its end, or a dot that may be the last line, waits there for what follows.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr3;

use super::inspect::Inspector;
use super::limits::Endings;
use super::reason::{CloseReason, Refusal};

/// An octet that no command and no line of content may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// CR without LF.
    BareCr,
    /// LF without CR.
    BareLf,
    /// NUL.
    Nul,
}

impl Fault {
    pub(super) fn reasons(self) -> (Refusal, CloseReason) {
        match self {
            Fault::BareCr => (Refusal::BareCr, CloseReason::BareCr),
            Fault::BareLf => (Refusal::BareLf, CloseReason::BareLf),
            Fault::Nul => (Refusal::Nul, CloseReason::Nul),
        }
    }
}

/// What one look at the input of DATA gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing can be told without more input.
    More,
    /// Content; never empty.
    Content(Bytes),
    /// The dot; it is taken out of the input.
    End,
    /// The content is not acceptable.
    Fault(Fault),
}

/// Where the content of one message stands between two pieces of input.
#[derive(Debug)]
pub(super) struct Decoder {
    endings: Endings,
    /// Whether anything may stand in the body (BINARYMIME).
    binary: bool,
    /// DATA: the next octet begins a line.
    line_start: bool,
    /// DATA: the line before ended with CRLF, not with a repaired LF; the command line counts as one.
    after_crlf: bool,
    /// BDAT: the last octet was a CR.
    after_cr: bool,
    /// Content that had to be copied to repair its line ends.
    repaired: BytesMut,
}

/// What the beginning of a line says about its dot.
enum Dot {
    None,
    Undecided,
    Stuffed,
    End,
}

impl Decoder {
    pub(super) fn new(endings: Endings, binary: bool) -> Self {
        Self { endings, binary, line_start: true, after_crlf: true, after_cr: false, repaired: BytesMut::new() }
    }

    /// Looks at the input of DATA until a piece of content ends.
    pub(super) fn dotted(&mut self, input: &mut BytesMut, inspector: &mut Inspector) -> Step {
        // Octets at the start of `input` that are known to be content.
        let mut known = 0;
        loop {
            if self.line_start {
                match self.dot(&input[known..]) {
                    Dot::None => {}
                    Dot::Stuffed if known == 0 => input.advance(1),
                    Dot::End if known == 0 && self.repaired.is_empty() => {
                        input.advance(3);
                        return Step::End;
                    }
                    Dot::Undecided | Dot::Stuffed | Dot::End => return self.piece(input, known),
                }
                self.line_start = false;
            }
            let rest = &input[known..];
            let Some(at) = memchr3(b'\r', b'\n', 0, rest) else {
                inspector.text(rest);
                let all = input.len();
                return self.piece(input, all);
            };
            let end = known + at;
            inspector.text(&rest[..at]);
            match (rest[at], rest.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    known = end + 2;
                    self.after_crlf = true;
                }
                (b'\r', None) => return self.piece(input, end),
                (b'\n', _) if self.endings == Endings::Repair => {
                    self.repair(&input[..end]);
                    input.advance(end + 1);
                    known = 0;
                    self.after_crlf = false;
                }
                (octet, _) => return Step::Fault(fault(octet)),
            }
            inspector.line_end();
            self.line_start = true;
        }
    }

    /// Decodes the next piece of a chunk of BDAT; any cut is good.
    pub(super) fn chunk(&mut self, mut piece: BytesMut, inspector: &mut Inspector) -> Result<Bytes, Fault> {
        let mut known = 0;
        while known < piece.len() && (inspector.in_header() || !self.binary) {
            let rest = &piece[known..];
            if std::mem::take(&mut self.after_cr) {
                if rest[0] != b'\n' {
                    return Err(Fault::BareCr);
                }
                inspector.line_end();
                known += 1;
                continue;
            }
            let Some(at) = memchr3(b'\r', b'\n', 0, rest) else {
                inspector.text(rest);
                break;
            };
            inspector.text(&rest[..at]);
            match rest[at] {
                b'\r' => {
                    self.after_cr = true;
                    known += at + 1;
                }
                b'\n' if self.endings == Endings::Repair => {
                    inspector.line_end();
                    self.repair(&piece[..known + at]);
                    piece.advance(known + at + 1);
                    known = 0;
                }
                octet => return Err(fault(octet)),
            }
        }
        Ok(self.with_repaired(piece))
    }

    /// The last chunk is over: a CR at the very end has no LF any more.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.after_cr { Err(Fault::BareCr) } else { Ok(()) }
    }

    /// RFC 5321 §4.5.2: a dot alone ends the content, a dot before other characters is taken out. A lone dot that does
    /// not stand between CRLFs is neither.
    fn dot(&self, line: &[u8]) -> Dot {
        match line {
            [] | [b'.'] | [b'.', b'\r'] => Dot::Undecided,
            [b'.', b'\r', b'\n', ..] if self.after_crlf => Dot::End,
            [b'.', b'\r' | b'\n', ..] => Dot::None,
            [b'.', ..] => Dot::Stuffed,
            _ => Dot::None,
        }
    }

    fn piece(&mut self, input: &mut BytesMut, length: usize) -> Step {
        let piece = self.with_repaired(input.split_to(length));
        if piece.is_empty() { Step::More } else { Step::Content(piece) }
    }

    fn repair(&mut self, line: &[u8]) {
        self.repaired.extend_from_slice(line);
        self.repaired.extend_from_slice(b"\r\n");
    }

    fn with_repaired(&mut self, piece: BytesMut) -> Bytes {
        if self.repaired.is_empty() {
            return piece.freeze();
        }
        self.repaired.extend_from_slice(&piece);
        self.repaired.split().freeze()
    }
}

fn fault(octet: u8) -> Fault {
    match octet {
        b'\r' => Fault::BareCr,
        b'\n' => Fault::BareLf,
        _ => Fault::Nul,
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::*;
    use proptest::prelude::*;

    /// The content, and what is left behind the dot.
    type Decoded = Result<(Vec<u8>, Vec<u8>), Option<Fault>>;

    fn dotted(endings: Endings, wire: &[u8], cut: usize) -> Decoded {
        let mut inspector = Inspector::new(&Limits::default(), false);
        let (mut decoder, mut input, mut content) = (Decoder::new(endings, false), BytesMut::new(), Vec::new());
        let mut pieces = wire.chunks(cut.max(1));
        loop {
            match decoder.dotted(&mut input, &mut inspector) {
                Step::Content(piece) => {
                    assert!(!piece.is_empty());
                    content.extend_from_slice(&piece);
                }
                Step::End => {
                    let behind: Vec<u8> = input.iter().copied().chain(pieces.flatten().copied()).collect();
                    return Ok((content, behind));
                }
                Step::Fault(fault) => return Err(Some(fault)),
                Step::More => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => return Err(None),
                },
            }
        }
    }

    fn chunked(endings: Endings, binary: bool, wire: &[u8], cut: usize) -> Result<Vec<u8>, Fault> {
        let mut inspector = Inspector::new(&Limits::default(), binary);
        let (mut decoder, mut content) = (Decoder::new(endings, binary), Vec::new());
        for piece in wire.chunks(cut.max(1)) {
            content.extend_from_slice(&decoder.chunk(piece.into(), &mut inspector)?);
        }
        decoder.finish()?;
        Ok(content)
    }

    fn stuffed(content: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for line in content.split_inclusive(|b| *b == b'\n') {
            if line[0] == b'.' {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    #[test]
    fn dots_are_taken_out() {
        for cut in 1..30 {
            for (wire, content) in [
                (&b".\r\n"[..], &b""[..]),
                (b"a\r\n.\r\n", b"a\r\n"),
                (b"..\r\n...x\r\n.y\r\na.\r\n.\r\n", b".\r\n..x\r\ny\r\na.\r\n"),
                (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
            ] {
                assert_eq!(dotted(Endings::Strict, wire, cut), Ok((content.to_vec(), vec![])));
            }
        }
    }

    #[test]
    fn what_follows_the_dot_stays() {
        assert_eq!(dotted(Endings::Strict, b"a\r\n.\r\nQUIT\r\n", 99), Ok((b"a\r\n".to_vec(), b"QUIT\r\n".to_vec())));
    }

    #[test]
    fn only_crlf_dot_crlf_ends_it() {
        use Fault::{BareCr, BareLf, Nul};
        for (wire, fault) in [
            (&b"a\n.\nb\r\n.\r\n"[..], BareLf),
            (b"a\n.\r\nb\r\n.\r\n", BareLf),
            (b"a\r\n.\nb\r\n.\r\n", BareLf),
            (b"a\r.\rb\r\n.\r\n", BareCr),
            (b"a\r.\r\nb\r\n.\r\n", BareCr),
            (b"a\r\n.\rb\r\n.\r\n", BareCr),
            (b"a\r\n.\r\r\nb\r\n.\r\n", BareCr),
            (b"a\r\r\n.\r\r\nb\r\n.\r\n", BareCr),
            (b"a\r\n\r.\r\n", BareCr),
            (b"a\r\n\n.\r\n", BareLf),
            (b"a\r\n.\0\r\n.\r\n", Nul),
            (b"\0\r\n.\r\n", Nul),
        ] {
            for cut in 1..wire.len() {
                assert_eq!(dotted(Endings::Strict, wire, cut), Err(Some(fault)), "{}", wire.escape_ascii());
            }
        }
    }

    #[test]
    fn repair_makes_lines_and_no_ends() {
        for (wire, content) in [
            (&b"a\nb\n\nc\r\n.\r\n"[..], &b"a\r\nb\r\n\r\nc\r\n"[..]),
            // A lone dot behind or before a bare LF is a line like any other.
            (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
            (b"a\n\r\n.\r\n", b"a\r\n\r\n"),
        ] {
            for cut in 1..wire.len() {
                let expected = Ok((content.to_vec(), vec![]));
                assert_eq!(dotted(Endings::Repair, wire, cut), expected, "{} by {cut}", wire.escape_ascii());
            }
        }
        assert_eq!(dotted(Endings::Repair, b"a\r.\r\n", 9), Err(Some(Fault::BareCr)));
        assert_eq!(dotted(Endings::Repair, b"a\0\r\n", 9), Err(Some(Fault::Nul)));
        assert_eq!(chunked(Endings::Repair, false, b"a\nb\r\nc\n", 2), Ok(b"a\r\nb\r\nc\r\n".to_vec()));
    }

    #[test]
    fn chunks_are_lines_too_unless_they_are_binary() {
        let wire = b"a: b\r\n\r\n.\r\nx\0y\rz\n";
        for cut in 1..wire.len() {
            assert_eq!(chunked(Endings::Strict, true, wire, cut), Ok(wire.to_vec()));
            assert_eq!(chunked(Endings::Strict, false, wire, cut), Err(Fault::Nul));
            assert_eq!(chunked(Endings::Strict, true, b"a: b\n\r\n", cut), Err(Fault::BareLf));
            assert_eq!(chunked(Endings::Strict, false, b"a\r\nb\r", cut), Err(Fault::BareCr));
            assert_eq!(chunked(Endings::Strict, false, b"a\r\rb", cut), Err(Fault::BareCr));
            assert_eq!(chunked(Endings::Strict, false, b"a\r\n.\r\nb", cut), Ok(b"a\r\n.\r\nb".to_vec()));
        }
    }

    #[test]
    fn content_is_not_copied() {
        let mut input = BytesMut::from(&b"one\r\n.two\r\n.\r\n"[..]);
        let start = input.as_ptr() as usize;
        let mut inspector = Inspector::new(&Limits::default(), false);
        let mut decoder = Decoder::new(Endings::Strict, false);
        let Step::Content(first) = decoder.dotted(&mut input, &mut inspector) else { panic!() };
        let Step::Content(second) = decoder.dotted(&mut input, &mut inspector) else { panic!() };
        assert_eq!((&first[..], &second[..]), (&b"one\r\n"[..], &b"two\r\n"[..]));
        assert_eq!((first.as_ptr() as usize, second.as_ptr() as usize), (start, start + 6));
    }

    proptest! {
        #[test]
        fn stuffed_content_comes_back(lines in proptest::collection::vec("[.a\\x80]{0,5}", 0..12), cut in 1..40_usize) {
            let content: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let wire = [stuffed(&content), b"MAIL".to_vec()].concat();
            prop_assert_eq!(dotted(Endings::Strict, &wire, cut), Ok((content.clone(), b"MAIL".to_vec())));
            prop_assert_eq!(chunked(Endings::Strict, false, &content, cut), Ok(content));
        }

        #[test]
        fn the_cut_changes_nothing(
            wire in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a'), Just(0)], 0..24),
            cut in 1..24_usize,
            repair in any::<bool>(),
            binary in any::<bool>(),
        ) {
            let endings = if repair { Endings::Repair } else { Endings::Strict };
            let whole = dotted(endings, &wire, wire.len());
            prop_assert_eq!(&dotted(endings, &wire, cut), &whole);
            if let Ok((content, behind)) = whole {
                // Whatever ends DATA is CRLF.CRLF, and what comes out has no other line ends.
                let consumed = &wire[..wire.len() - behind.len()];
                prop_assert!(consumed == b".\r\n" || consumed.ends_with(b"\r\n.\r\n"));
                let text = String::from_utf8(content).unwrap().replace("\r\n", "");
                prop_assert!(!text.contains(['\r', '\n', '\0']));
            }
            prop_assert_eq!(chunked(endings, binary, &wire, cut), chunked(endings, binary, &wire, wire.len()));
        }
    }
}
