//! Addresses by the grammar of RFC 5321 §4.1.2, with the extensions of RFC 6531 §3.3 where UTF-8 is allowed.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::{Domain, MAX_DOMAIN};

/// The longest local part, in octets (RFC 5321 §4.5.3.1.1).
pub const MAX_LOCAL_PART: usize = 64;
/// The longest mailbox, in octets: a path has 256 with its brackets (RFC 5321 §4.5.3.1.3, erratum 1690).
pub const MAX_MAILBOX: usize = 254;

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `local@domain`, or no `<…>` around it.
    #[error("the address is not of the form <local@domain>")]
    Syntax,
    /// The part before the `@` breaks the grammar.
    #[error("the part before the @ is neither a dot-string nor a quoted string")]
    LocalPart,
    /// The part before the `@` is longer than 64 octets.
    #[error("the part before the @ is longer than 64 octets")]
    LocalPartTooLong,
    /// The part after the `@` is no domain name.
    #[error("the part after the @ is not a domain name or an address literal")]
    Domain,
    /// The part after the `@` is longer than 255 octets.
    #[error("the domain is longer than 255 octets")]
    DomainTooLong,
    /// The whole is longer than 254 octets.
    #[error("the address is longer than 254 octets")]
    TooLong,
    /// UTF-8 stands where only ASCII is allowed.
    #[error("the address has non-ASCII characters, and SMTPUTF8 was not asked for")]
    NeedsUtf8,
}

/// Whether UTF-8 may stand in an address (RFC 6531 §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utf8 {
    /// `SMTPUTF8` is in force.
    Allowed,
    /// ASCII only. Internationalised domains are then A-labels.
    Refused,
}

/// The part of an address before the `@`, as its owner wrote it: quotes are kept and come out again exactly.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalPart(Arc<str>);

impl LocalPart {
    /// Reads a dot-string or a quoted string (RFC 5321 §4.1.2), each with UTF-8 if allowed.
    pub fn parse(text: &str, utf8: Utf8) -> Result<Self, AddressError> {
        if text.len() > MAX_LOCAL_PART {
            return Err(AddressError::LocalPartTooLong);
        }
        if utf8 == Utf8::Refused && !text.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        let proper = match text.strip_prefix('"') {
            Some(rest) => quoted_string_end(rest).is_some_and(|end| end == rest.len()),
            None => is_dot_string(text),
        };
        if proper { Ok(Self(text.into())) } else { Err(AddressError::LocalPart) }
    }

    /// As written, quotes and backslashes included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the quotes mean: without the outer quotes and without backslashes.
    pub fn unquoted(&self) -> Cow<'_, str> {
        let Some(inner) = self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Cow::Borrowed(&self.0);
        };
        if !inner.contains('\\') {
            return Cow::Borrowed(inner);
        }
        let mut plain = String::with_capacity(inner.len());
        let mut characters = inner.chars();
        while let Some(c) = characters.next() {
            plain.extend(if c == '\\' { characters.next() } else { Some(c) });
        }
        Cow::Owned(plain)
    }

    /// Whether it has no octet above 127.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }
}

/// The right-hand side of an address: a name, or an address literal (RFC 5321 §4.1.3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
}

impl Host {
    /// Reads a domain name (ASCII or Unicode) or a bracketed address literal.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_DOMAIN {
            return Err(AddressError::DomainTooLong);
        }
        match text.strip_prefix('[') {
            None => Domain::parse(text).map(Host::Domain),
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(AddressError::Domain)?;
                literal(inner).map(Host::Literal).ok_or(AddressError::Domain)
            }
        }
    }

    /// The name, unless it is a literal.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Host::Domain(domain) => Some(domain),
            Host::Literal(_) => None,
        }
    }
}

/// `IPv4-address-literal` or `IPv6-address-literal` without the brackets; the tag is case-insensitive.
fn literal(inner: &str) -> Option<IpAddr> {
    const TAG: usize = "IPv6:".len();
    match inner.get(..TAG) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner.get(TAG..)?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// `local@domain`: the `Mailbox` of RFC 5321 §4.1.2.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mailbox {
    /// The part before the `@`.
    pub local: LocalPart,
    /// The part after it.
    pub host: Host,
}

impl Mailbox {
    /// Reads `local@domain` without brackets around it.
    pub fn parse(text: &str, utf8: Utf8) -> Result<Self, AddressError> {
        let at = local_part_end(text).ok_or(AddressError::Syntax)?;
        let (local, host) = (&text[..at], text[at..].strip_prefix('@').ok_or(AddressError::Syntax)?);
        if local.is_empty() || host.is_empty() {
            return Err(AddressError::Syntax);
        }
        if utf8 == Utf8::Refused && !host.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        let mailbox = Self { local: LocalPart::parse(local, utf8)?, host: Host::parse(host)? };
        // The host may have grown: A-labels are longer than what they stand for.
        if text.len() > MAX_MAILBOX || mailbox.to_string().len() > MAX_MAILBOX {
            return Err(AddressError::TooLong);
        }
        Ok(mailbox)
    }

    /// Whether a peer must offer SMTPUTF8 to take this address.
    pub fn needs_utf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// Where the local part ends: behind the closing quote, or before the last `@` of what is not quoted.
fn local_part_end(text: &str) -> Option<usize> {
    match text.strip_prefix('"') {
        Some(rest) => quoted_string_end(rest).map(|end| end + 1),
        None => text.find('@'),
    }
}

/// The length up to and with the closing quote; `text` starts behind the opening one. `None` if it breaks the grammar.
fn quoted_string_end(text: &str) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some(at + 1),
            // quoted-pairSMTP = %d92 %d32-126
            '\\' => match characters.next() {
                Some((_, ' '..='~')) => {}
                _ => return None,
            },
            ' '..='~' => {}
            c if c.is_ascii() || c.is_control() => return None,
            _ => {}
        }
    }
    None
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// `atext` of RFC 5322 §3.2.3, with RFC 6531's `UTF8-non-ascii`.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

impl fmt::Display for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Domain(domain) => domain.fmt(f),
            Host::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            Host::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}

macro_rules! text_form {
    ($type:ty, $parse:expr) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
        impl std::str::FromStr for $type {
            type Err = AddressError;
            fn from_str(text: &str) -> Result<Self, AddressError> {
                $parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = AddressError;
            fn try_from(text: String) -> Result<Self, AddressError> {
                $parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
text_form!(LocalPart, |text: &str| LocalPart::parse(text, Utf8::Allowed));
text_form!(Host, Host::parse);
text_form!(Mailbox, |text: &str| Mailbox::parse(text, Utf8::Allowed));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mailbox(text: &str) -> Result<Mailbox, AddressError> {
        Mailbox::parse(text, Utf8::Refused)
    }

    #[test]
    fn addresses_come_out_as_they_went_in() {
        for good in [
            "a@b",
            "john.doe+tag@example.org",
            r#""a b"@example.org"#,
            r#""a@b"@example.org"#,
            r#""a\"b\\c"@example.org"#,
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "!#$%&'*+-/=?^_`{|}~@example.org",
        ] {
            assert_eq!(mailbox(good).unwrap().to_string(), good);
        }
    }

    #[test]
    fn quotes_mean_what_they_hide() {
        assert_eq!(mailbox(r#""a\"b c"@x"#).unwrap().local.unquoted(), r#"a"b c"#);
        assert_eq!(mailbox("plain@x").unwrap().local.unquoted(), "plain");
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a..b@c",
            ".a@c",
            "a.@c",
            "a b@c",
            "a@b c",
            "\"a@b",
            "\"a\"b@c",
            "a@[1.2.3]",
            "a@[IPv6:1.2.3.4]",
            "a@[::1]",
            "a@[1.2.3.4",
            "a\r@b",
            "a\n@b",
            "a\0@b",
            "\"\r\n\"@b",
            "\"\\\r\"@b",
            "a@b@c",
        ] {
            assert!(mailbox(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let local = "a".repeat(64);
        assert!(mailbox(&format!("{local}@b")).is_ok());
        assert_eq!(mailbox(&format!("{local}a@b")), Err(AddressError::LocalPartTooLong));
        let domain = ["d".repeat(63), "d".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(domain.len(), 189);
        assert!(mailbox(&format!("{local}@{domain}")).is_ok());
        assert_eq!(mailbox(&format!("{local}@{domain}d")), Err(AddressError::TooLong));
        assert_eq!(mailbox(&format!("a@{}", "d.".repeat(130))), Err(AddressError::DomainTooLong));
    }

    #[test]
    fn utf8_needs_permission() {
        assert_eq!(mailbox("jörg@example.org"), Err(AddressError::NeedsUtf8));
        assert_eq!(mailbox("joerg@bücher.example"), Err(AddressError::NeedsUtf8));
        let address = Mailbox::parse("jörg@bücher.example", Utf8::Allowed).unwrap();
        assert_eq!(address.to_string(), "jörg@xn--bcher-kva.example");
        assert!(address.needs_utf8());
        assert!(!Mailbox::parse("joerg@bücher.example", Utf8::Allowed).unwrap().needs_utf8());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_prints_what_is_taken_again(text in "[ -~äß@\"\\\\.]{0,40}") {
            if let Ok(mailbox) = Mailbox::parse(&text, Utf8::Allowed) {
                let printed = mailbox.to_string();
                prop_assert!(!printed.contains(['\r', '\n', '\0']));
                prop_assert_eq!(Mailbox::parse(&printed, Utf8::Allowed), Ok(mailbox));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = Mailbox::parse(&text, Utf8::Allowed);
            let _ = Host::parse(&text);
        }
    }
}
