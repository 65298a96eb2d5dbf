//! `xtext`: how a parameter value carries octets that a command line cannot (RFC 3461 §4), and its relative for
//! internationalised addresses, `utf-8-addr-xtext` and `utf-8-addr-unitext` (RFC 6533 §3).

use mail::Utf8;

/// The text is not xtext, or it hides an octet that is not printable ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not xtext of printable characters")]
pub struct XtextError;

/// Encodes printable text: `+`, `=`, the space and everything outside `!` to `~` become `+XX`, octet by octet.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => push_hex(&mut out, byte),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => push_hex(&mut out, byte),
        }
    }
    out
}

/// Decodes xtext whose meaning must be printable ASCII, the space included (RFC 3461 §4.2, §4.4).
pub fn decode(text: &str) -> Result<String, XtextError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        match first {
            b'+' => {
                out.push(hex_octet(rest)?);
                rest = &rest[3..];
            }
            b'!'..=b'~' if first != b'=' => {
                out.push(char::from(first));
                rest = &rest[1..];
            }
            _ => return Err(XtextError),
        }
    }
    Ok(out)
}

/// Encodes an address of the type `utf-8`. What is not plain becomes `\x{…}`; with [`Utf8::Allowed`] characters
/// outside ASCII stay as they are.
pub fn encode_address(address: &str, utf8: Utf8) -> String {
    let mut out = String::with_capacity(address.len());
    for c in address.chars() {
        let plain = if c.is_ascii() { is_qchar(c) } else { utf8 == Utf8::Allowed && !c.is_control() };
        if plain {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{{{:02X}}}", u32::from(c)));
        }
    }
    out
}

/// Decodes an address of the type `utf-8`: `\x{…}`, `+XX`, plain characters and, if allowed, UTF-8. No control
/// character comes out.
pub fn decode_address(text: &str, utf8: Utf8) -> Result<String, XtextError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '+' => {
                out.push(hex_octet(rest)?);
                3
            }
            '\\' => {
                let (embedded, taken) = embedded_character(rest)?;
                out.push(embedded);
                taken
            }
            c if is_qchar(c) || (!c.is_ascii() && !c.is_control() && utf8 == Utf8::Allowed) => {
                out.push(c);
                c.len_utf8()
            }
            _ => return Err(XtextError),
        };
        rest = &rest[taken..];
    }
    Ok(out)
}

/// `+` and two upper-case hexadecimal digits at the start of `text`, of a printable ASCII character.
fn hex_octet(text: &str) -> Result<char, XtextError> {
    let digits = text.as_bytes().get(1..3).ok_or(XtextError)?;
    let mut value = 0;
    for &digit in digits {
        value = value << 4
            | match digit {
                b'0'..=b'9' => digit - b'0',
                b'A'..=b'F' => digit - b'A' + 10,
                _ => return Err(XtextError),
            };
    }
    if matches!(value, b' '..=b'~') { Ok(char::from(value)) } else { Err(XtextError) }
}

/// `\x{HEX}` at the start of `text`, with its length there.
fn embedded_character(text: &str) -> Result<(char, usize), XtextError> {
    let inner = text.strip_prefix("\\x{").ok_or(XtextError)?;
    let end = inner.bytes().take(7).position(|b| b == b'}').ok_or(XtextError)?;
    let digits = &inner[..end];
    if digits.len() < 2 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return Err(XtextError);
    }
    let value = u32::from_str_radix(digits, 16).map_err(|_| XtextError)?;
    match char::from_u32(value) {
        Some(c) if !c.is_control() => Ok((c, "\\x{}".len() + end)),
        _ => Err(XtextError),
    }
}

/// `QCHAR` of RFC 6533 §3: printable ASCII without the space, `+`, `=` and `\`.
fn is_qchar(c: char) -> bool {
    matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\')
}

fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('+');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 3461 §4: "+" and "=" and anything not printable are hexchars.
        assert_eq!(encode("a+b=c d"), "a+2Bb+3Dc+20d");
        assert_eq!(decode("a+2Bb+3Dc+20d").unwrap(), "a+b=c d");
    }

    #[test]
    fn what_is_no_xtext_is_refused() {
        for bad in ["a b", "a=b", "+", "+2", "+2b", "+GG", "+0D", "+0A", "+00", "+7F", "+FF", "ä", "+2ä"] {
            assert_eq!(decode(bad), Err(XtextError), "{bad}");
        }
    }

    #[test]
    fn internationalised_addresses() {
        let address = "jörg+tag@bücher.example";
        let seven = encode_address(address, Utf8::Refused);
        assert_eq!(seven, "j\\x{F6}rg\\x{2B}tag@b\\x{FC}cher.example");
        assert_eq!(decode_address(&seven, Utf8::Refused).unwrap(), address);
        assert_eq!(encode_address(address, Utf8::Allowed), "jörg\\x{2B}tag@bücher.example");
        assert_eq!(decode_address("jörg", Utf8::Refused), Err(XtextError));
        for bad in ["\\x{0D}", "\\x{A}", "\\x{110000}", "\\x{D800}", "\\x{zz}", "\\x{41", "\\", "\\x{+F6}", "a b"] {
            assert_eq!(decode_address(bad, Utf8::Allowed), Err(XtextError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printable_text_comes_back(text in "[ -~]{0,60}") {
            prop_assert_eq!(decode(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn addresses_come_back(text in "[ -~äß漢]{0,60}") {
            for utf8 in [Utf8::Allowed, Utf8::Refused] {
                prop_assert_eq!(&decode_address(&encode_address(&text, utf8), utf8).unwrap(), &text);
            }
        }

        #[test]
        fn nothing_unprintable_comes_out(text in any::<String>()) {
            if let Ok(plain) = decode(&text) {
                prop_assert!(plain.bytes().all(|b| matches!(b, b' '..=b'~')));
            }
            if let Ok(plain) = decode_address(&text, Utf8::Allowed) {
                prop_assert!(!plain.contains(char::is_control));
            }
        }
    }
}
