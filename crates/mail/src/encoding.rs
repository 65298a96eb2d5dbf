//! The two content transfer encodings that carry any octets over a path of seven bits: quoted-printable and base64
//! (RFC 2045 §6.7, §6.8).
//!
//! Both encoders append to a buffer, keep their lines within 76 characters and end without a line break of their own,
//! so that the caller decides what follows. What they write decodes to exactly the octets that went in.

/// The longest line of a message, without its CRLF (RFC 5322 §2.1.1).
pub const LONGEST_LINE: usize = 998;
/// The longest encoded line, without its CRLF (RFC 2045 §6.7 rule 5, §6.8).
const LINE: usize = 76;

/// Appends `data` as quoted-printable.
///
/// CRLF stays a line break; a CR or LF that stands alone is encoded. A line never begins with `--` (it could be taken
/// for a boundary of an enclosing multipart), with `From ` or with a dot, which other software is known to change
/// (RFC 2049 §3).
pub fn quoted_printable(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len() + data.len() / 8);
    let mut column = 0;
    let mut at = 0;
    while let Some(&octet) = data.get(at) {
        let rest = &data[at..];
        if rest.starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            column = 0;
            at += 2;
            continue;
        }
        // Softly broken before the width of the widest token that may follow is known: one column is kept for `=`.
        if column + 3 > LINE - 1 && (column + 1 > LINE - 1 || !stands_for_itself(rest, column)) {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if stands_for_itself(rest, column) {
            out.push(octet);
            column += 1;
        } else {
            escape(octet, out);
            column += 3;
        }
        at += 1;
    }
}

/// Whether the first octet of `rest` may be written as it is in this column (RFC 2045 §6.7 rules 2 and 3).
fn stands_for_itself(rest: &[u8], column: usize) -> bool {
    match rest[0] {
        b' ' | b'\t' => !(rest.len() == 1 || rest[1..].starts_with(b"\r\n")),
        b'-' if column == 0 => !rest[1..].starts_with(b"-"),
        b'F' if column == 0 => !rest.starts_with(b"From "),
        b'.' if column == 0 => false,
        octet => matches!(octet, b'!'..=b'~') && octet != b'=',
    }
}

/// Appends one octet as `=XX`.
pub(crate) fn escape(octet: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = [DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]];
    out.extend_from_slice(&[b'=', digits[0], digits[1]]);
}

/// Appends `data` as base64 in lines of 76 characters.
pub fn base64(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len() / 3 * 4 + data.len() / 28 + 8);
    for (index, line) in data.chunks(LINE / 4 * 3).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        line.chunks(3).for_each(|triple| base64_quantum(triple, out));
    }
}

/// Appends the four characters of one to three octets.
fn base64_quantum(triple: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let octet = |index: usize| u32::from(triple.get(index).copied().unwrap_or(0));
    let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
    for place in 0..4 {
        let sextet = (bits >> (18 - 6 * place)) & 63;
        let padding = place > triple.len();
        out.push(if padding { b'=' } else { ALPHABET[sextet as usize] });
    }
}

/// Whether `data` needs no encoding for the sake of its lines: all end with CRLF and have at most 998 octets, and there
/// is no NUL. That is all that 8BITMIME asks for (RFC 6152 §2); seven bits must also be ASCII.
pub fn has_proper_lines(data: &[u8]) -> bool {
    let mut line = 0;
    let mut ends = memchr::memchr2_iter(b'\r', b'\n', data);
    while let Some(cr) = ends.next() {
        if data[cr] != b'\r' || data.get(cr + 1) != Some(&b'\n') || cr - line > LONGEST_LINE {
            return false;
        }
        ends.next();
        line = cr + 2;
    }
    data.len() - line <= LONGEST_LINE && memchr::memchr(0, data).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn qp(data: &[u8]) -> String {
        let mut out = Vec::new();
        quoted_printable(data, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn b64(data: &[u8]) -> String {
        let mut out = Vec::new();
        base64(data, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// A decoder as plain as RFC 2045 §6.7: enough to prove that the encoder is its inverse.
    fn decode_qp(text: &str) -> Vec<u8> {
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at..].starts_with(b"=\r\n") {
                at += 3;
            } else if bytes[at] == b'=' {
                out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
                at += 3;
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
        out
    }

    fn decode_b64(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut bits, mut count) = (0u32, 0);
        for character in text.bytes().filter(|c| !b"=\r\n".contains(c)) {
            let sextet = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                other => panic!("{other} is not in the alphabet"),
            };
            bits = bits << 6 | u32::from(sextet);
            count += 6;
            if count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        out
    }

    #[test]
    fn quoted_printable_escapes_what_the_path_could_change() {
        assert_eq!(qp("Grüße=\r\n".as_bytes()), "Gr=C3=BC=C3=9Fe=3D\r\n");
        assert_eq!(qp(b"end \r\nend\t"), "end=20\r\nend=09");
        assert_eq!(qp(b"a\rb\nc\0"), "a=0Db=0Ac=00");
        assert_eq!(qp(b"--b\r\n-b\r\nFrom me\r\n.\r\n"), "=2D-b\r\n-b\r\n=46rom me\r\n=2E\r\n");
    }

    #[test]
    fn quoted_printable_guards_the_line_after_a_soft_break_too() {
        let text = format!("{}--b", "x".repeat(75));
        assert_eq!(qp(text.as_bytes()), format!("{}=\r\n=2D-b", "x".repeat(75)));
    }

    #[test]
    fn base64_has_the_vectors_of_rfc_4648() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, encoded) in vectors {
            assert_eq!(b64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn proper_lines_are_short_and_end_with_crlf() {
        let line = "x".repeat(998);
        for good in ["", "a", "a\r\n\r\nb", "\u{e9}\r\n", &line, &format!("{line}\r\n{line}\r\n")] {
            assert!(has_proper_lines(good.as_bytes()), "{good:?}");
        }
        for bad in ["a\nb", "a\rb", "\n", "a\r", "\0", "\r\r\n", &format!("{line}x"), &format!("{line}x\r\n")] {
            assert!(!has_proper_lines(bad.as_bytes()), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn quoted_printable_round_trips(data in prop::collection::vec(octet(), 0..400)) {
            let text = qp(&data);
            prop_assert_eq!(decode_qp(&text), data);
            for line in text.split("\r\n") {
                prop_assert!(line.len() <= 76 && !line.starts_with("--"));
                prop_assert!(!line.ends_with([' ', '\t']) && !line.contains(['\r', '\n']));
                prop_assert!(line.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)));
            }
        }

        #[test]
        fn base64_round_trips(data in prop::collection::vec(any::<u8>(), 0..400)) {
            let text = b64(&data);
            prop_assert_eq!(decode_b64(&text), data);
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 76));
        }
    }

    /// Octets with the awkward ones made frequent.
    fn octet() -> impl Strategy<Value = u8> {
        prop_oneof![any::<u8>(), Just(b'-'), Just(b' '), Just(b'\r'), Just(b'\n'), Just(b'='), b'a'..=b'e']
    }
}
