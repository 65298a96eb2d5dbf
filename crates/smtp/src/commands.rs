//! The commands of SMTP and LMTP (RFC 5321 §4.1.1, RFC 2033, RFC 3030): which they are, and what their arguments mean.
//!
//! A command line comes here without its line end and free of CR, LF and NUL. The verb is found first, so that the
//! session can decide whether the command may stand where it stands before its argument is looked at.

use mail::{AddressError, Recipient, ReversePath, Utf8, path};

use crate::params::{MailParameters, ParameterError, RecipientParameters};

/// The longest name in EHLO, HELO or LHLO (RFC 5321 §4.5.3.1.2).
pub const MAX_HELLO: usize = 255;

/// A command by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// EHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// LHLO (RFC 2033).
    Lhlo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// BDAT (RFC 3030).
    Bdat,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Vrfy,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// XCLIENT.
    Xclient,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth,
    /// A command of the standards that is not offered: EXPN, TURN, ETRN, ATRN, BURL, SEND, SOML, SAML.
    NotOffered,
}

const VERBS: &[(&str, Verb)] = &[
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("EHLO", Verb::Ehlo),
    ("HELO", Verb::Helo),
    ("LHLO", Verb::Lhlo),
    ("QUIT", Verb::Quit),
    ("RSET", Verb::Rset),
    ("NOOP", Verb::Noop),
    ("VRFY", Verb::Vrfy),
    ("HELP", Verb::Help),
    ("STARTTLS", Verb::StartTls),
    ("AUTH", Verb::Auth),
    ("XCLIENT", Verb::Xclient),
    ("EXPN", Verb::NotOffered),
    ("TURN", Verb::NotOffered),
    ("ETRN", Verb::NotOffered),
    ("ATRN", Verb::NotOffered),
    ("BURL", Verb::NotOffered),
    ("SEND", Verb::NotOffered),
    ("SOML", Verb::NotOffered),
    ("SAML", Verb::NotOffered),
];

impl Verb {
    /// Splits a command line into its verb, if we know it, and its argument without white space around it.
    pub fn take(line: &[u8]) -> (Option<Verb>, &[u8]) {
        // RFC 5321 §4.1.1: white space before the line end is tolerated.
        let line = line.trim_ascii_end();
        let end = memchr::memchr(b' ', line).unwrap_or(line.len());
        let (word, argument) = line.split_at(end);
        let known = VERBS.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word));
        (known.map(|(_, verb)| *verb), argument.trim_ascii_start())
    }

    /// Whether other commands may follow in the same group (RFC 2920 §3.1; RFC 3030 §2 for BDAT). Every other command,
    /// an unknown one too, is the last of its group: its reply decides what the client may say next.
    pub fn may_lead(self) -> bool {
        matches!(self, Verb::Mail | Verb::Rcpt | Verb::Rset | Verb::Bdat)
    }
}

/// What is wrong with the argument of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// It is missing, or something stands where nothing belongs.
    #[error("the argument is missing or malformed")]
    Syntax,
    /// The path breaks the grammar.
    #[error("bad path: {0}")]
    Path(AddressError),
    /// A parameter is malformed or unknown.
    #[error("bad parameter: {0}")]
    Parameter(ParameterError),
}

/// The argument of EHLO, HELO and LHLO: one word of printable ASCII.
///
/// Not held against the grammar of a domain: RFC 5321 §4.1.4 forbids to refuse mail over the name, and printers,
/// scripts and desktops greet with whatever they are called.
pub fn hello(argument: &str) -> Result<&str, ArgumentError> {
    let proper = (1..=MAX_HELLO).contains(&argument.len()) && argument.bytes().all(|b| b.is_ascii_graphic());
    if proper { Ok(argument) } else { Err(ArgumentError::Syntax) }
}

/// The argument of MAIL: `FROM:<path> parameters`.
pub fn mail(argument: &str) -> Result<(ReversePath, MailParameters), ArgumentError> {
    let path = behind(argument, "FROM:")?;
    // SMTPUTF8 stands behind the path that it allows.
    let (reverse_path, rest) = path::take_reverse(path, Utf8::Allowed).map_err(ArgumentError::Path)?;
    let parameters = MailParameters::parse(behind_path(rest)?).map_err(ArgumentError::Parameter)?;
    let written = &path[..path.len() - rest.len()];
    if !parameters.utf8 && !written.is_ascii() {
        return Err(ArgumentError::Path(AddressError::NeedsUtf8));
    }
    Ok((reverse_path, parameters))
}

/// The argument of RCPT: `TO:<path> parameters`; `utf8` says whether MAIL had SMTPUTF8.
pub fn rcpt(argument: &str, utf8: Utf8) -> Result<Recipient, ArgumentError> {
    let path = behind(argument, "TO:")?;
    let (path, rest) = path::take_forward(path, utf8).map_err(ArgumentError::Path)?;
    let RecipientParameters { notify, orcpt } =
        RecipientParameters::parse(behind_path(rest)?, utf8).map_err(ArgumentError::Parameter)?;
    Ok(Recipient { path, notify, orcpt })
}

/// A chunk that BDAT announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command line.
    pub size: u64,
    /// Whether the message ends with it.
    pub last: bool,
}

/// The argument of BDAT: `size [LAST]` (RFC 3030 §2). A sign is no digit, and what does not fit 64 bits is no size.
pub fn bdat(argument: &str) -> Result<Chunk, ArgumentError> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
    let size = size.and_then(|word| word.parse().ok()).ok_or(ArgumentError::Syntax)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(ArgumentError::Syntax),
    };
    if words.next().is_some() { Err(ArgumentError::Syntax) } else { Ok(Chunk { size, last }) }
}

/// What follows `keyword` in any case. White space behind the colon is a common mistake that does no harm.
fn behind<'a>(argument: &'a str, keyword: &str) -> Result<&'a str, ArgumentError> {
    match argument.split_at_checked(keyword.len()) {
        Some((head, rest)) if head.eq_ignore_ascii_case(keyword) => Ok(rest.trim_start_matches(' ')),
        _ => Err(ArgumentError::Syntax),
    }
}

/// Parameters are set off from the path by a space.
fn behind_path(rest: &str) -> Result<&str, ArgumentError> {
    if rest.is_empty() || rest.starts_with(' ') { Ok(rest) } else { Err(ArgumentError::Syntax) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verbs_in_any_case_with_their_arguments() {
        assert_eq!(Verb::take(b"mAiL  FROM:<> \t"), (Some(Verb::Mail), &b"FROM:<>"[..]));
        assert_eq!(Verb::take(b"QUIT"), (Some(Verb::Quit), &b""[..]));
        assert_eq!(Verb::take(b"StartTLS"), (Some(Verb::StartTls), &b""[..]));
        assert_eq!(Verb::take(b"ETRN x"), (Some(Verb::NotOffered), &b"x"[..]));
        assert_eq!(Verb::take(b" QUIT").0, None);
        assert_eq!(Verb::take(b"QUITE").0, None);
        assert_eq!(Verb::take(b"").0, None);
    }

    #[test]
    fn mail_and_its_parameters() {
        let (path, parameters) = mail("from: <\"a b\"@Example.org> SIZE=5").unwrap();
        assert_eq!(path.to_string(), "<\"a b\"@example.org>");
        assert_eq!(parameters.size, Some(5));
        for bad in
            ["", "FROM", "FROM:", "FROM:a@b", "TO:<a@b>", "FROM <a@b>", "FROM:<a@b>SIZE=5", "FROM:<a@b", "FROM:<a>"]
        {
            assert!(mail(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn utf8_addresses_need_their_parameter() {
        let needs = Err(ArgumentError::Path(AddressError::NeedsUtf8));
        assert_eq!(mail("FROM:<jörg@example.org>"), needs);
        // The domain would become A-labels, but RFC 6531 §3.2 does not let it stand on the wire.
        assert_eq!(mail("FROM:<joerg@bücher.example>"), needs);
        assert!(mail("FROM:<jörg@bücher.example> SMTPUTF8").is_ok());
        assert_eq!(rcpt("TO:<jörg@example.org>", Utf8::Refused).err(), needs.err());
        assert!(rcpt("TO:<jörg@example.org>", Utf8::Allowed).is_ok());
    }

    #[test]
    fn chunks() {
        assert_eq!(bdat("0 last"), Ok(Chunk { size: 0, last: true }));
        assert_eq!(bdat("86"), Ok(Chunk { size: 86, last: false }));
        for bad in ["", "-5", "+5", "5x", "0x10", "LAST", "5 LAST 6", "5 FIRST", "18446744073709551616", "１"] {
            assert_eq!(bdat(bad), Err(ArgumentError::Syntax), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..80), text in any::<String>()) {
            let _ = Verb::take(&line);
            let _ = (hello(&text).is_ok(), mail(&text).is_ok(), bdat(&text).is_ok());
            let _ = mail(&format!("FROM:<{text}> {text}"));
            let _ = rcpt(&format!("TO:<{text}> {text}"), Utf8::Allowed);
        }
    }
}
