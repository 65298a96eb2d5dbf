//! The transparency procedure of DATA (RFC 5321 §4.5.2) on the fly: slices of the content with dots between them.

use bytes::Bytes;
use memchr::memchr2;

use super::output::Output;

/// Passes content on for DATA: a dot in front of each dot that begins a line, CRLF and a dot at the end.
///
/// Content that was accepted has no bare CR and no bare LF, but a server that takes one for a line end would find the
/// end of the data where we see none. So neither ever leaves: each becomes CRLF.
#[derive(Clone, Copy, Debug)]
pub struct DotStuffing {
    before: Before,
}

/// What was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// The start, or CRLF.
    LineStart,
    /// Anything else.
    Within,
    /// A CR, which is sent only when it is known what follows.
    Cr,
}

impl Default for DotStuffing {
    fn default() -> Self {
        Self { before: Before::LineStart }
    }
}

impl DotStuffing {
    /// Passes on the next piece.
    pub fn pass(&mut self, piece: Bytes, output: &mut Output) {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = match self.before {
                Before::LineStart => self.begin_line(rest, output),
                Before::Cr => self.end_line(rest, output),
                Before::Within => self.pass_lines(rest, output),
            };
        }
    }

    /// Ends the content: its last line is ended if it is not, and the dot that ends all follows.
    pub fn finish(self, output: &mut Output) {
        match self.before {
            Before::LineStart => output.text(b".\r\n"),
            Before::Within | Before::Cr => output.text(b"\r\n.\r\n"),
        }
    }

    fn begin_line(&mut self, rest: Bytes, output: &mut Output) -> Bytes {
        if rest.first() == Some(&b'.') {
            output.text(b".");
        }
        self.before = Before::Within;
        rest
    }

    /// Behind a CR that was held back: with or without its LF it ends the line.
    fn end_line(&mut self, mut rest: Bytes, output: &mut Output) -> Bytes {
        output.text(b"\r\n");
        if rest.first() == Some(&b'\n') {
            let _ = rest.split_to(1);
        }
        self.before = Before::LineStart;
        rest
    }

    /// Passes on whole lines in one slice, up to the first place where something must be inserted or is not known yet.
    fn pass_lines(&mut self, mut rest: Bytes, output: &mut Output) -> Bytes {
        let mut at = 0;
        while let Some(found) = memchr2(b'\r', b'\n', &rest[at..]) {
            let end = at + found;
            if rest[end..].starts_with(b"\r\n") {
                at = end + 2;
                if rest.get(at).is_none_or(|&next| next == b'.') {
                    output.slice(rest.split_to(at));
                    self.before = Before::LineStart;
                    return rest;
                }
                continue;
            }
            let bare_lf = rest[end] == b'\n';
            output.slice(rest.split_to(end));
            let _ = rest.split_to(1);
            self.before = if bare_lf { Before::LineStart } else { Before::Cr };
            if bare_lf {
                output.text(b"\r\n");
            }
            return rest;
        }
        output.slice(rest);
        Bytes::new()
    }
}

/// Watches over content that goes by BDAT as it is: the announced size leaves no room for a repair.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineEnds {
    after_cr: bool,
}

impl LineEnds {
    /// Whether the next piece has no bare CR and no bare LF.
    pub(super) fn pass(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        if self.after_cr {
            let Some(behind) = rest.strip_prefix(b"\n") else { return rest.is_empty() };
            (rest, self.after_cr) = (behind, false);
        }
        while let Some(end) = memchr2(b'\r', b'\n', rest) {
            match &rest[end..] {
                [b'\r'] => {
                    self.after_cr = true;
                    return true;
                }
                [b'\r', b'\n', behind @ ..] => rest = behind,
                _ => return false,
            }
        }
        true
    }

    /// Whether the end comes in good order.
    pub(super) fn finish(self) -> bool {
        !self.after_cr
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut stuffing, mut output) = (DotStuffing::default(), Output::default());
        for piece in pieces {
            stuffing.pass(Bytes::copy_from_slice(piece), &mut output);
        }
        stuffing.finish(&mut output);
        output.take().to_vec()
    }

    /// The receiving side as RFC 5321 §4.5.2 has it: what it takes for the content, and what it leaves over.
    fn unstuffed(wire: &[u8]) -> (Vec<u8>, &[u8]) {
        let mut content = Vec::new();
        let mut rest = wire;
        loop {
            let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("the end of the data") + 2;
            let (line, left) = rest.split_at(end);
            rest = left;
            match line {
                b".\r\n" => return (content, rest),
                [b'.', line @ ..] => content.extend_from_slice(line),
                line => content.extend_from_slice(line),
            }
        }
    }

    #[test]
    fn dots_that_begin_lines_are_doubled() {
        assert_eq!(stuffed(&[b".a\r\n..\r\nb.\r\n"]), b"..a\r\n...\r\nb.\r\n.\r\n");
        assert_eq!(stuffed(&[b"a\r", b"\n", b".b"]), b"a\r\n..b\r\n.\r\n");
        assert_eq!(stuffed(&[]), b".\r\n");
    }

    #[test]
    fn every_form_of_smuggling_is_harmless_on_the_way_out() {
        // What some server takes for the end of the data must not stand on the wire inside of it.
        for (content, wire) in [
            (&b"a\n.\nMAIL"[..], &b"a\r\n..\r\nMAIL\r\n.\r\n"[..]),
            (b"a\n.\r\nMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r\n.\nMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r.\rMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r\n.\rMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r\r\n.\r\r\nMAIL", b"a\r\n\r\n..\r\n\r\nMAIL\r\n.\r\n"),
            (b"a\n\n.\r", b"a\r\n\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(&[content]), wire, "{content:?}");
            let single: Vec<&[u8]> = content.chunks(1).collect();
            assert_eq!(stuffed(&single), wire, "{content:?} octet by octet");
        }
    }

    #[test]
    fn long_content_is_not_copied() {
        let content = Bytes::from(format!("{}\r\n.{}", "x".repeat(900), "y".repeat(900)));
        let (mut stuffing, mut output) = (DotStuffing::default(), Output::default());
        stuffing.pass(content.clone(), &mut output);
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let filled = output.fill(&mut slices);
        assert_eq!(filled, 3);
        assert!(std::ptr::eq(slices[0].as_ptr(), content.as_ptr()));
        assert!(std::ptr::eq(slices[2].as_ptr(), content[902..].as_ptr()));
    }

    proptest! {
        #[test]
        fn what_is_stuffed_comes_out_as_it_was(
            lines in proptest::collection::vec("[.a]{0,4}", 0..30),
            cuts in proptest::collection::vec(0..9_usize, 0..30),
        ) {
            let content: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let mut rest = &content[..];
            let mut pieces = Vec::new();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            let wire = stuffed(&pieces);
            prop_assert_eq!(unstuffed(&wire), (content, &b""[..]));
        }

        #[test]
        fn no_bare_line_end_leaves_and_the_end_is_found_once(
            octets in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')
            ], 0..60),
            cut in 0..60_usize,
        ) {
            let (one, two) = octets.split_at(cut.min(octets.len()));
            let wire = stuffed(&[one, two]);
            prop_assert_eq!(&wire, &stuffed(&[&octets]));
            prop_assert!(unstuffed(&wire).1.is_empty());
            let text = String::from_utf8(wire).unwrap();
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        }
    }
}
