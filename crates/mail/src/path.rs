//! The arguments of MAIL and RCPT: reverse-path and forward-path (RFC 5321 §4.1.1.2, §4.1.1.3).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::{AddressError, Host, Mailbox, Utf8};
use crate::domain::Domain;

/// The longest path that is looked at, source route included; a plain one has 256 octets (RFC 5321 §4.5.3.1.3), and
/// source routes are deprecated, so this much is generous.
pub const MAX_PATH: usize = 1024;

/// Where reports about a message go: nobody, or a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReversePath {
    /// `<>`: no report may ever be sent (RFC 5321 §4.5.5).
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain, in any case (RFC 5321 §4.5.1).
    Postmaster,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Whether a peer must offer SMTPUTF8 to take it.
    pub fn needs_utf8(&self) -> bool {
        self.mailbox().is_some_and(Mailbox::needs_utf8)
    }
}

impl ForwardPath {
    /// The mailbox, unless it is the bare postmaster.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ForwardPath::Postmaster => None,
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// The domain, if it has one: neither the bare postmaster nor an address literal has.
    pub fn domain(&self) -> Option<&Domain> {
        self.mailbox().and_then(|mailbox| mailbox.host.domain())
    }

    /// Whether a peer must offer SMTPUTF8 to take it.
    pub fn needs_utf8(&self) -> bool {
        self.mailbox().is_some_and(Mailbox::needs_utf8)
    }
}

/// Reads `<>`, `<mailbox>` or `<@a,@b:mailbox>` at the start of `input`; gives what follows the `>`.
///
/// A source route is checked and dropped (RFC 5321 §4.1.1.3, appendix C).
pub fn take_reverse(input: &str, utf8: Utf8) -> Result<(ReversePath, &str), AddressError> {
    let (inner, rest) = take_brackets(input)?;
    let path = if inner.is_empty() {
        ReversePath::Null
    } else {
        ReversePath::Mailbox(Mailbox::parse(without_route(inner, utf8)?, utf8)?)
    };
    Ok((path, rest))
}

/// Reads `<mailbox>`, `<postmaster>` or `<@a,@b:mailbox>` at the start of `input`; gives what follows the `>`.
pub fn take_forward(input: &str, utf8: Utf8) -> Result<(ForwardPath, &str), AddressError> {
    let (inner, rest) = take_brackets(input)?;
    let path = if inner.eq_ignore_ascii_case("postmaster") {
        ForwardPath::Postmaster
    } else {
        ForwardPath::Mailbox(Mailbox::parse(without_route(inner, utf8)?, utf8)?)
    };
    Ok((path, rest))
}

/// Splits `<inner>rest`; a `>` inside a quoted string does not end it.
fn take_brackets(input: &str) -> Result<(&str, &str), AddressError> {
    let body = input.strip_prefix('<').ok_or(AddressError::Syntax)?;
    let mut quoted = false;
    let mut bytes = body.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        if at > MAX_PATH {
            return Err(AddressError::TooLong);
        }
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next();
            }
            b'>' if !quoted => return Ok((&body[..at], &body[at + 1..])),
            _ => {}
        }
    }
    Err(AddressError::Syntax)
}

/// Drops `@a,@b:`; every name of it must be one, so that nothing else hides there.
fn without_route(inner: &str, utf8: Utf8) -> Result<&str, AddressError> {
    if !inner.starts_with('@') {
        return Ok(inner);
    }
    // An IPv6 literal in a route has colons of its own: the route ends at the first colon outside brackets.
    let mut bracket = false;
    let end = inner.bytes().position(|byte| {
        bracket = (bracket || byte == b'[') && byte != b']';
        byte == b':' && !bracket
    });
    let (route, mailbox) = inner.split_at(end.ok_or(AddressError::Syntax)?);
    for hop in route.split(',') {
        let host = hop.strip_prefix('@').ok_or(AddressError::Syntax)?;
        if utf8 == Utf8::Refused && !host.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        Host::parse(host)?;
    }
    Ok(&mailbox[1..])
}

/// With angle brackets, as it stands in a command.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => f.write_str("<>"),
            ReversePath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

/// With angle brackets, as it stands in a command.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardPath::Postmaster => f.write_str("<postmaster>"),
            ForwardPath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_and_what_follows_them() {
        let (path, rest) = take_reverse("<a@b.example> SIZE=3", Utf8::Refused).unwrap();
        assert_eq!((path.to_string().as_str(), rest), ("<a@b.example>", " SIZE=3"));
        assert_eq!(take_reverse("<>", Utf8::Refused).unwrap(), (ReversePath::Null, ""));
        assert_eq!(take_forward("<PostMaster>", Utf8::Refused).unwrap().0, ForwardPath::Postmaster);
        let (path, rest) = take_forward(r#"<"a> b"@c.example>x"#, Utf8::Refused).unwrap();
        assert_eq!((path.to_string().as_str(), rest), (r#"<"a> b"@c.example>"#, "x"));
    }

    #[test]
    fn source_routes_are_checked_and_dropped() {
        let (path, _) = take_forward("<@one.example,@[IPv6:::1]:a@b.example>", Utf8::Refused).unwrap();
        assert_eq!(path.to_string(), "<a@b.example>");
        for bad in ["<@a>", "<@a:>", "<@:a@b>", "<@a b:c@d>", "<@a,b:c@d>", "<@a:@b:c@d>"] {
            assert!(take_forward(bad, Utf8::Refused).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_forward_path_is_never_empty() {
        assert!(take_forward("<>", Utf8::Refused).is_err());
        assert!(take_forward("a@b", Utf8::Refused).is_err());
        assert!(take_forward("<a@b", Utf8::Refused).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), tail in "<[ -~]{0,60}>?") {
            for input in [&text, &tail] {
                let _ = take_reverse(input, Utf8::Allowed);
                let _ = take_forward(input, Utf8::Refused);
            }
        }
    }
}
