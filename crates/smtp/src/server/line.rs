//! Cuts command lines out of the input.

use bytes::{Buf, BytesMut};
use memchr::{memchr, memchr2};

use super::content::Fault;
use super::limits::{Endings, Limits};
use crate::sasl;

/// What the input begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// No whole line yet.
    Partial,
    /// A line, without its line end and without CR, LF and NUL.
    Command(BytesMut),
    /// A line that was too long; it is gone, to its end.
    Overlong,
    /// The same of a command line that began with AUTH.
    OverlongAuth,
    /// A line that keeps coming after it was too long by far.
    Endless,
    /// A line with an octet that none may have.
    Fault(Fault),
}

/// Remembers, while it throws an overlong line away, that nothing of it may run as a command.
#[derive(Debug, Default)]
pub(super) struct LineReader {
    skipping: Option<Skipped>,
}

/// The part of an overlong line that is gone.
#[derive(Debug, Default)]
struct Skipped {
    auth: bool,
    octets: u64,
    last: u8,
}

impl LineReader {
    /// Takes the next command line from `input`, or as much of an overlong one as there is.
    pub(super) fn take(&mut self, input: &mut BytesMut, limits: &Limits, endings: Endings) -> Line {
        self.take_up_to(longest(input, limits), input, limits, endings)
    }

    /// Takes the next line of an exchange of AUTH.
    pub(super) fn take_response(&mut self, input: &mut BytesMut, limits: &Limits, endings: Endings) -> Line {
        self.take_up_to(sasl::MAX_LINE, input, limits, endings)
    }

    fn take_up_to(&mut self, most: usize, input: &mut BytesMut, limits: &Limits, endings: Endings) -> Line {
        if self.skipping.is_some() {
            return self.skip(input, limits, endings);
        }
        match memchr(b'\n', &input[..input.len().min(most)]) {
            Some(end) => proper(input.split_to(end + 1), endings),
            None if input.len() < most => Line::Partial,
            None => {
                self.skipping = Some(Skipped { auth: is_auth(input), ..Skipped::default() });
                self.skip(input, limits, endings)
            }
        }
    }

    fn skip(&mut self, input: &mut BytesMut, limits: &Limits, endings: Endings) -> Line {
        let Skipped { auth, octets, last } = self.skipping.take().unwrap_or_default();
        if let Some(end) = memchr(b'\n', input) {
            let before = if end == 0 { last } else { input[end - 1] };
            input.advance(end + 1);
            return match before {
                _ if before != b'\r' && endings == Endings::Strict => Line::Fault(Fault::BareLf),
                _ if auth => Line::OverlongAuth,
                _ => Line::Overlong,
            };
        }
        let octets = octets + input.len() as u64;
        let last = input.last().copied().unwrap_or(last);
        input.clear();
        self.skipping = Some(Skipped { auth, octets, last });
        if octets > limits.discard { Line::Endless } else { Line::Partial }
    }
}

fn longest(input: &[u8], limits: &Limits) -> usize {
    if is_auth(input) { limits.command_line.max(sasl::MAX_LINE) } else { limits.command_line }
}

/// Whether the input begins with AUTH, whose line may be longer.
fn is_auth(input: &[u8]) -> bool {
    input.get(..5).is_some_and(|head| head.eq_ignore_ascii_case(b"AUTH "))
}

/// A line with its line end, which must be CRLF unless LF alone is repaired.
fn proper(mut line: BytesMut, endings: Endings) -> Line {
    line.truncate(line.len() - 1);
    if line.last() == Some(&b'\r') {
        line.truncate(line.len() - 1);
    } else if endings == Endings::Strict {
        return Line::Fault(Fault::BareLf);
    }
    match memchr2(b'\r', 0, &line) {
        None => Line::Command(line),
        Some(at) if line[at] == 0 => Line::Fault(Fault::Nul),
        Some(_) => Line::Fault(Fault::BareCr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]], endings: Endings) -> Vec<Line> {
        let limits = Limits { command_line: 20, discard: 100, ..Limits::default() };
        let (mut reader, mut input, mut lines) = (LineReader::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match reader.take(&mut input, &limits, endings) {
                    Line::Partial => break,
                    Line::Endless => {
                        lines.push(Line::Endless);
                        return lines;
                    }
                    line => lines.push(line),
                }
            }
        }
        lines
    }

    fn command(text: &str) -> Line {
        Line::Command(text.into())
    }

    #[test]
    fn lines_end_with_crlf() {
        assert_eq!(lines(&[b"NOOP\r", b"\nRS", b"ET\r\n"], Endings::Strict), [command("NOOP"), command("RSET")]);
        assert_eq!(lines(&[b"NOOP\n"], Endings::Strict), [Line::Fault(Fault::BareLf)]);
        assert_eq!(lines(&[b"NOOP\n"], Endings::Repair), [command("NOOP")]);
    }

    #[test]
    fn no_line_holds_cr_or_nul() {
        for endings in [Endings::Strict, Endings::Repair] {
            assert_eq!(lines(&[b"NO\rOP\r\n"], endings), [Line::Fault(Fault::BareCr)]);
            assert_eq!(lines(&[b"NOOP\r\r\n"], endings), [Line::Fault(Fault::BareCr)]);
            assert_eq!(lines(&[b"NO\0OP\r\n"], endings), [Line::Fault(Fault::Nul)]);
        }
    }

    #[test]
    fn nothing_of_an_overlong_line_is_left() {
        let long: Vec<u8> = [b"x".repeat(50), b"\r\nNOOP\r\n".to_vec()].concat();
        let expected = [Line::Overlong, command("NOOP")];
        assert_eq!(lines(&[&long], Endings::Strict), expected);
        let octets: Vec<&[u8]> = long.chunks(1).collect();
        assert_eq!(lines(&octets, Endings::Strict), expected);
        assert_eq!(lines(&[&[b'x'; 101]], Endings::Strict), [Line::Endless]);
    }

    #[test]
    fn twenty_octets_with_the_line_end_are_allowed() {
        assert_eq!(lines(&[b"123456789012345678\r\n"], Endings::Strict), [command("123456789012345678")]);
        assert_eq!(lines(&[b"1234567890123456789\r\n"], Endings::Strict), [Line::Overlong]);
        assert_eq!(lines(&[b"auth 6789012345678901\r\n"], Endings::Strict), [command("auth 6789012345678901")]);
    }
}
