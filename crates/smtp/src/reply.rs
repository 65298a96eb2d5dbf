//! Reading replies (RFC 5321 §4.2) from peers that may be careless, broken or hostile.
//!
//! A reply is one line or more, each of three digits, a separator and text. What people meet in practice is read as it
//! was meant: line ends without CR, text that is no ASCII, lines without a code inside a reply of several lines, codes
//! that change within one. What could put replies and commands out of step is an error and ends the connection: a
//! reply that begins without a code, and anything longer than the bounds. Memory is bounded in every case.

use bytes::{Buf, BytesMut};
use mail::{EnhancedCode, Reply};
use memchr::memchr;

/// The longest line that is read, in octets. RFC 5321 §4.5.3.1.5 allows 512; what is longer is cut to that later.
pub const MAX_LINE: usize = 4096;
/// The most lines of one reply.
pub const MAX_LINES: usize = 256;

/// The peer does not speak the protocol, so that nothing it says can be believed any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A reply began with something else than a code from 200 to 599 and a separator.
    #[error("not an SMTP reply: {0:?}")]
    NoCode(String),
    /// A line did not end.
    #[error("a line of the reply is longer than {MAX_LINE} octets")]
    LongLine,
    /// A reply did not end.
    #[error("the reply has more than {MAX_LINES} lines")]
    ManyLines,
}

/// Reads replies from a stream of bytes, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct ReplyReader {
    lines: Vec<Line>,
    /// How much of the unfinished line has been searched for its end.
    searched: usize,
}

/// One line, code split off. A line without a code has that of the line before.
#[derive(Debug)]
struct Line {
    code: u16,
    text: String,
}

impl ReplyReader {
    /// Takes the next reply out of `input`; nothing while its end has not come. After an error the stream is unusable.
    ///
    /// What is left of `input` is the start of the next line: the next call finds it there, with what came since.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
        self.searched = self.searched.min(input.len());
        while let Some(end) = memchr(b'\n', &input[self.searched..]) {
            let end = self.searched + end;
            self.searched = 0;
            if end > MAX_LINE {
                return Err(ReplyError::LongLine);
            }
            let last = self.take_line(&input[..end])?;
            input.advance(end + 1);
            if last {
                return Ok(Some(assemble(std::mem::take(&mut self.lines))));
            }
            if self.lines.len() >= MAX_LINES {
                return Err(ReplyError::ManyLines);
            }
        }
        self.searched = input.len();
        if input.len() > MAX_LINE { Err(ReplyError::LongLine) } else { Ok(None) }
    }

    /// Whether part of a reply has been read.
    pub fn is_within(&self) -> bool {
        self.searched > 0 || !self.lines.is_empty()
    }

    /// Notes one line; tells whether the reply ends with it.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some((code, text, last)) = split(line) {
            self.lines.push(Line { code, text: readable(text) });
            return Ok(last);
        }
        // Inside a reply the end is still to come, so that a line without a code can be taken as text.
        match self.lines.last().map(|before| before.code) {
            Some(code) => self.lines.push(Line { code, text: readable(line) }),
            None => return Err(ReplyError::NoCode(readable(&line[..line.len().min(80)]))),
        }
        Ok(false)
    }
}

/// `250-text`, `250 text` or `250`: code, text, and whether it is the last line (RFC 5321 §4.2.1).
fn split(line: &[u8]) -> Option<(u16, &[u8], bool)> {
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else { return None };
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest {
        [] => Some((code, rest, true)),
        [b'-', text @ ..] => Some((code, text, false)),
        [b' ' | b'\t', text @ ..] => Some((code, text, true)),
        _ => None,
    }
}

/// Text that can be shown: octets that are no UTF-8 become U+FFFD. `mail::Reply` sees to control characters.
fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text.trim_ascii_end()).into_owned()
}

/// One reply of its lines; there is at least one.
///
/// Where the lines do not agree on the code, a failure among them is believed before a success: to take a refusal for
/// an acceptance would lose mail.
fn assemble(lines: Vec<Line>) -> Reply {
    let last = lines.last().map_or(451, |line| line.code);
    let code = match lines.iter().find(|line| line.code >= 400) {
        Some(failure) if last < 400 => failure.code,
        _ => last,
    };
    let class = match code {
        200..400 => 2,
        400..500 => 4,
        _ => 5,
    };
    // An enhanced code counts where its class is that of the code (RFC 2034 §4); each line repeats it.
    let enhanced =
        lines.iter().find_map(|line| EnhancedCode::take(&line.text)).filter(|(found, _)| found.class == class);
    let enhanced = enhanced.map(|(found, _)| found);
    let texts = lines.iter().map(|line| match EnhancedCode::take(&line.text) {
        Some((found, rest)) if Some(found) == enhanced => rest,
        _ => line.text.as_str(),
    });
    Reply::with_lines(code, enhanced, texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, ReplyError> {
        ReplyReader::default().next(&mut BytesMut::from(bytes))
    }

    fn reply(bytes: &[u8]) -> String {
        read(bytes).unwrap().unwrap().to_string()
    }

    #[test]
    fn proper_replies() {
        assert_eq!(reply(b"250 2.1.0 fine\r\n"), "250 2.1.0 fine");
        assert_eq!(reply(b"354\r\n"), "354 ");
        let full = read(b"550-5.1.1 no such\r\n550 5.1.1 user\r\n").unwrap().unwrap();
        assert_eq!(full.enhanced(), Some(EnhancedCode::new(5, 1, 1)));
        assert_eq!(full.lines().collect::<Vec<_>>(), ["no such", "user"]);
    }

    #[test]
    fn two_replies_in_one_piece() {
        let mut input = BytesMut::from(&b"250 one\r\n251 two\r\n25"[..]);
        let mut reader = ReplyReader::default();
        assert_eq!(reader.next(&mut input).unwrap().unwrap().code(), 250);
        assert_eq!(reader.next(&mut input).unwrap().unwrap().code(), 251);
        assert_eq!(reader.next(&mut input).unwrap(), None);
        assert!(reader.is_within());
        input.extend_from_slice(b"2 x\n");
        assert_eq!(reader.next(&mut input).unwrap().unwrap().code(), 252);
        assert!(!reader.is_within() && input.is_empty());
    }

    #[test]
    fn what_was_taken_away_is_not_searched() {
        let mut reader = ReplyReader::default();
        assert_eq!(reader.next(&mut BytesMut::from(&b"25"[..])).unwrap(), None);
        assert_eq!(reader.next(&mut BytesMut::new()).unwrap(), None);
        assert_eq!(reader.next(&mut BytesMut::from(&b"250 x\r\n"[..])).unwrap().unwrap().code(), 250);
    }

    #[test]
    fn what_careless_servers_send() {
        // No CR, no text, a tab, octets that are no UTF-8, NUL, spaces at the end.
        assert_eq!(reply(b"250 ok\n"), "250 ok");
        assert_eq!(reply(b"250\tok\r\n"), "250 ok");
        assert_eq!(reply(b"550 caf\xe9\0  \r\n"), "550 caf\u{fffd}?");
        // A line without a code inside a reply is text.
        assert_eq!(reply(b"550-rejected\r\nsee our site\r\n\r\n550 bye\r\n"), "550 rejected see our site  bye");
        // An enhanced code of another class stays text.
        let odd = read(b"450 5.1.1 later\r\n").unwrap().unwrap();
        assert_eq!((odd.enhanced(), odd.text().as_str()), (None, "5.1.1 later"));
    }

    #[test]
    fn a_failure_inside_a_reply_is_never_taken_for_success() {
        assert_eq!(read(b"550-no\r\n250 ok\r\n").unwrap().unwrap().code(), 550);
        assert_eq!(read(b"450-no\r\n354 ok\r\n").unwrap().unwrap().code(), 450);
        assert_eq!(read(b"250-ok\r\n451 no\r\n").unwrap().unwrap().code(), 451);
        assert_eq!(read(b"550-no\r\n450 no\r\n").unwrap().unwrap().code(), 450);
    }

    #[test]
    fn a_reply_without_a_code_is_an_error() {
        for bad in ["hello\r\n", "\r\n", "25 x\r\n", "2500 x\r\n", "199 x\r\n", "600 x\r\n", "25a x\r\n", " 250 x\r\n"]
        {
            assert!(matches!(read(bad.as_bytes()), Err(ReplyError::NoCode(_))), "{bad}");
        }
    }

    #[test]
    fn endless_replies_are_bounded() {
        assert_eq!(read(&[b'2'; MAX_LINE + 1]), Err(ReplyError::LongLine));
        assert_eq!(read(&"250-x\r\n".repeat(MAX_LINES).into_bytes()), Err(ReplyError::ManyLines));
        let most = format!("{}250 x\r\n", "250-x\r\n".repeat(MAX_LINES - 1));
        assert!(read(most.as_bytes()).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b"250-".to_vec()), Just(b"250 ".to_vec()), Just(b"550 5.1.1 ".to_vec()), Just(b"\r\n".to_vec()),
                Just(b"\n".to_vec()), any::<u8>().prop_map(|b| vec![b]),
            ], 0..60).prop_map(|parts| parts.concat()),
            cuts in proptest::collection::vec(1..9_usize, 0..60),
        ) {
            let mut whole = BytesMut::from(&bytes[..]);
            let expected = drain(&mut ReplyReader::default(), &mut whole);
            let (mut reader, mut input, mut got) = (ReplyReader::default(), BytesMut::new(), Vec::new());
            let mut rest = &bytes[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                input.extend_from_slice(piece);
                got.extend(drain(&mut reader, &mut input));
                if got.last().is_some_and(Result::is_err) {
                    break;
                }
            }
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn what_a_server_writes_is_read_back(
            code in 200..600_u16,
            enhanced in any::<bool>(),
            lines in proptest::collection::vec("[!-~]([ -~]{0,60}[!-~])?", 1..5),
        ) {
            prop_assume!(lines.iter().all(|line| EnhancedCode::take(line).is_none()));
            let class = if code < 400 { 2 } else { (code / 100) as u8 };
            let sent = Reply::with_lines(code, enhanced.then_some(EnhancedCode::new(class, 1, 5)), &lines);
            let mut wire = Vec::new();
            sent.write_to(&mut wire);
            prop_assert_eq!(read(&wire).unwrap().unwrap(), sent);
        }
    }

    /// All replies up to the first error.
    fn drain(reader: &mut ReplyReader, input: &mut BytesMut) -> Vec<Result<Reply, ReplyError>> {
        let mut all = Vec::new();
        loop {
            match reader.next(input) {
                Ok(None) => return all,
                Ok(Some(reply)) => all.push(Ok(reply)),
                Err(error) => {
                    all.push(Err(error));
                    return all;
                }
            }
        }
    }
}
