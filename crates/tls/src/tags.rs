//! The `v=…; name=value; …` form that the TXT records of MTA-STS (RFC 8461 §3.1) and TLS-RPT (RFC 8460 §3) share.

/// The longest record that is looked at.
const MAX_RECORD: usize = 4096;
/// The longest name of a tag.
const MAX_NAME: usize = 32;

/// The tags of a record behind its version, in their order.
pub(crate) struct Tags<'a>(Vec<(&'a str, &'a str)>);

/// The texts that are records of this version, broken or not (both RFCs: all others are passed over).
pub(crate) fn of_version<'a>(texts: impl IntoIterator<Item = &'a str>, version: &str) -> Vec<&'a str> {
    texts.into_iter().filter(|text| begins(text, version).is_some()).collect()
}

/// What follows the version, if the text begins with `v=` and it: nothing, or a `;` and what is behind.
fn begins<'a>(text: &'a str, version: &str) -> Option<&'a str> {
    let rest = text.strip_prefix("v=")?.strip_prefix(version)?.trim_start_matches(BLANK);
    (rest.is_empty() || rest.starts_with(';')).then_some(rest)
}

impl<'a> Tags<'a> {
    /// Reads a whole record; one `;` may end it, and blanks may stand around every `;`.
    pub(crate) fn parse(text: &'a str, version: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_RECORD {
            return Err("it is too long");
        }
        let rest = begins(text, version).ok_or("it does not begin with its version")?;
        let rest = rest.trim_end_matches(BLANK);
        let rest = rest.strip_prefix(';').unwrap_or(rest);
        let rest = rest.strip_suffix(';').unwrap_or(rest);
        if rest.trim_matches(BLANK).is_empty() {
            return Ok(Self(Vec::new()));
        }
        rest.split(';').map(tag).collect::<Result<_, _>>().map(Self)
    }

    /// The first value of a name.
    pub(crate) fn first(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// All values of a name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, _)| *other == name).map(|(_, value)| *value)
    }
}

/// One `name=value`. Values are printable ASCII; without `=` and blanks, except where the tag's own grammar has them.
fn tag(text: &str) -> Result<(&str, &str), &'static str> {
    let (name, value) = text.trim_matches(BLANK).split_once('=').ok_or("a tag has no `=`")?;
    let proper = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let good_name = name.len() <= MAX_NAME
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(proper);
    if !good_name {
        return Err("a tag's name is not one");
    }
    let text_octet = |b: u8| b.is_ascii_graphic() && b != b'=';
    let good_value = match name {
        "rua" => value.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t'),
        _ => value.bytes().all(text_octet),
    };
    if value.is_empty() || !good_value {
        return Err("a tag's value is empty or not printable");
    }
    Ok((name, value))
}

const BLANK: [char; 2] = [' ', '\t'];
