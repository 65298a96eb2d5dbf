//! Header sections (RFC 5322 §2.2) as they come: scanned in place, never re-serialised.

use memchr::memchr;

/// One field of a header section, as slices of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name without the colon, as written.
    pub name: &'a [u8],
    /// Everything behind the colon up to and without the last line end; folded lines keep their line ends.
    pub value: &'a [u8],
    /// The whole field with its last line end.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// Whether the field has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value as one line: unfolded (RFC 5322 §2.2.3) and trimmed, what is not UTF-8 replaced.
    pub fn unfolded(&self) -> String {
        let plain: Vec<u8> = self.value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        String::from_utf8_lossy(&plain).trim().to_owned()
    }
}

/// The fields at the start of a message. Lines that are no field are passed over; the empty line or the end stops it.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Reads the header section at the start of `message`.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

/// Octets of the header section, without the empty line that ends it; the whole if there is none.
pub fn header_length(message: &[u8]) -> usize {
    let mut at = 0;
    while at < message.len() {
        let line = line_length(&message[at..]);
        if is_empty_line(&message[at..at + line]) {
            return at;
        }
        at += line;
    }
    at
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        while !self.rest.is_empty() {
            let first = line_length(self.rest);
            if is_empty_line(&self.rest[..first]) {
                self.rest = &[];
                return None;
            }
            let mut end = first;
            while matches!(self.rest.get(end), Some(b' ' | b'\t')) {
                end += line_length(&self.rest[end..]);
            }
            let (raw, rest) = self.rest.split_at(end);
            self.rest = rest;
            if let Some(field) = field(raw) {
                return Some(field);
            }
        }
        None
    }
}

/// Splits at the colon; white space before it is tolerated (RFC 5322 §4.5), anything else unprintable is not.
fn field(raw: &[u8]) -> Option<Field<'_>> {
    let colon = memchr(b':', raw)?;
    let name = raw[..colon].trim_ascii_end();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let value = &raw[colon + 1..];
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    Some(Field { name, value, raw })
}

fn line_length(bytes: &[u8]) -> usize {
    memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1)
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_slices_of_the_message() {
        let message = b"Received: by a\r\nSubject : one\r\n\ttwo\r\nno field\r\n\r\nBody: no\r\n";
        let found: Vec<_> = fields(message).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].is("received"));
        assert_eq!(found[1].unfolded(), "one\ttwo");
        assert_eq!(found[1].raw, b"Subject : one\r\n\ttwo\r\n");
        assert_eq!(&message[header_length(message)..], b"\r\nBody: no\r\n");
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            for field in fields(&message) {
                prop_assert!(field.raw.len() > field.name.len());
            }
            prop_assert!(header_length(&message) <= message.len());
        }
    }
}
