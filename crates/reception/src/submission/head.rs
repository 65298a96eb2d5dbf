//! What is done to the header section of a submitted message (RFC 6409 §8), and what it must show.
//!
//! Nothing is rewritten: fields that are missing are put in front, `Bcc` fields are cut out, and every other octet stays
//! where it is.

use bytes::Bytes;
use mail::header::{Field, fields};
use mail::{Domain, EnhancedCode, Mailbox, MessageId, Reply, Timestamp, mailboxes};

/// What a header section is held against.
pub(crate) struct Author<'a> {
    /// Whether an address is one of the account's.
    pub(crate) owns: &'a dyn Fn(&Mailbox) -> bool,
    /// MAIL FROM, which is known to be one of the account's.
    pub(crate) sender: Option<&'a Mailbox>,
}

/// A header section that may go, in slices of what came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mended {
    /// What stays of it, in order.
    pub(crate) kept: Vec<Bytes>,
    pub(crate) missing: Missing,
}

/// The fields that are to be put in front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    sender: Option<Mailbox>,
    date: bool,
    message_id: bool,
}

/// Why a submitted message cannot go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A line that is no field.
    Line(usize),
    /// A field that there may be only once.
    Twice(&'static str),
    NoFrom,
    /// Its value cannot be read.
    Unreadable(String, mail::MailboxesError),
    /// An address that is not the account's, and where it stands.
    Foreign(String, Mailbox),
}

/// Fields that name an originator (RFC 5322 §3.6.2, §3.6.6).
const ORIGINATORS: [&str; 4] = ["From", "Sender", "Resent-From", "Resent-Sender"];
/// Fields of which a second one would be read by some and overlooked by others (RFC 5322 §3.6).
const ONCE: [&str; 5] = ["From", "Sender", "Subject", "Date", "Message-ID"];

/// Looks at a header section, with or without the empty line that ends it.
pub(crate) fn mend(header: &Bytes, author: &Author<'_>) -> Result<Mended, Fault> {
    lines(header)?;
    let mut seen = [false; ONCE.len()];
    let (mut from, mut sender) = (Vec::new(), false);
    let (mut kept, mut rest) = (Vec::new(), 0);
    for field in fields(header) {
        if let Some(at) = ONCE.iter().position(|name| field.is(name))
            && std::mem::replace(&mut seen[at], true)
        {
            return Err(Fault::Twice(ONCE[at]));
        }
        if let Some(name) = ORIGINATORS.into_iter().find(|name| field.is(name)) {
            let found = originators(name, &field, author)?;
            match name {
                "From" => from = found,
                "Sender" => sender = true,
                _ => {}
            }
        }
        if field.is("Bcc") || field.is("Resent-Bcc") {
            let start = field.raw.as_ptr() as usize - header.as_ptr() as usize;
            kept.push(header.slice(rest..start));
            rest = start + field.raw.len();
        }
    }
    kept.push(header.slice(rest..));
    let Some(first) = from.first() else { return Err(Fault::NoFrom) };
    // RFC 5322 §3.6.2: with several authors somebody must say who sent it.
    let speaker = (from.len() > 1 && !sender).then(|| author.sender.unwrap_or(first).clone());
    let has = |name: &str| ONCE.iter().zip(seen).any(|(once, seen)| *once == name && seen);
    let missing = Missing { sender: speaker, date: !has("Date"), message_id: !has("Message-ID") };
    Ok(Mended { kept: kept.into_iter().filter(|piece| !piece.is_empty()).collect(), missing })
}

/// Every line is a field or continues one (RFC 5322 §2.2).
fn lines(header: &[u8]) -> Result<(), Fault> {
    let mut expected = header;
    for field in fields(header) {
        let skipped = field.raw.as_ptr() as usize - expected.as_ptr() as usize;
        if skipped > 0 {
            break;
        }
        expected = &expected[field.raw.len()..];
    }
    if matches!(expected, b"" | b"\r\n" | b"\n") || expected.starts_with(b"\r\n") {
        return Ok(());
    }
    let before = &header[..header.len() - expected.len()];
    Err(Fault::Line(before.iter().filter(|octet| **octet == b'\n').count() + 1))
}

/// The addresses of a field; all must be the account's.
fn originators(name: &str, field: &Field<'_>, author: &Author<'_>) -> Result<Vec<Mailbox>, Fault> {
    let found = mailboxes(field.value).map_err(|error| Fault::Unreadable(name.to_owned(), error))?;
    if found.is_empty() {
        return Err(if name == "From" {
            Fault::NoFrom
        } else {
            Fault::Unreadable(name.to_owned(), mail::MailboxesError::Syntax)
        });
    }
    match found.iter().find(|mailbox| !(author.owns)(mailbox)) {
        Some(foreign) => Err(Fault::Foreign(name.to_owned(), foreign.clone())),
        None => Ok(found),
    }
}

impl Missing {
    /// Appends the fields as they stand in front of the message.
    pub(crate) fn write_to(&self, out: &mut String, hostname: &Domain, id: MessageId, now: Timestamp) {
        if let Some(sender) = &self.sender {
            out.push_str(&format!("Sender: {sender}\r\n"));
        }
        if self.date {
            out.push_str(&format!("Date: {}\r\n", now.rfc5322()));
        }
        if self.message_id {
            out.push_str(&format!("Message-ID: <{id}@{hostname}>\r\n"));
        }
    }
}

impl Fault {
    /// A word for logs and metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Fault::Line(_) => "header_line",
            Fault::Twice(_) => "header_twice",
            Fault::NoFrom => "no_from",
            Fault::Unreadable(..) => "header_address",
            Fault::Foreign(..) => "send_as",
        }
    }

    /// What the client is told; `account` and its `addresses` are named where one of them was not used.
    pub(crate) fn reply(&self, account: &str, addresses: &str) -> Reply {
        let content = |text: String| Reply::new(550, EnhancedCode::new(5, 6, 0), text);
        match self {
            Fault::Line(line) => content(format!("line {line} of the header is not a field (RFC 5322 section 2.2)")),
            Fault::Twice(name) => content(format!("the header has more than one {name} field (RFC 5322 section 3.6)")),
            Fault::NoFrom => {
                content("the header has no From field with an address (RFC 5322 section 3.6.2)".to_owned())
            }
            Fault::Unreadable(name, error) => content(format!("the {name} field cannot be read: {error}")),
            Fault::Foreign(name, mailbox) => not_owned(&format!("{name}: {mailbox}"), account, addresses),
        }
    }
}

/// The refusal of an address that is not the account's.
pub(crate) fn not_owned(what: &str, account: &str, addresses: &str) -> Reply {
    let text = format!("{what}: not an address of {account}, which may send as {addresses}");
    Reply::new(550, EnhancedCode::new(5, 7, 1), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn anna() -> Mailbox {
        "anna@example.org".parse().unwrap()
    }

    fn try_mend(header: &str) -> Result<Mended, Fault> {
        let owns = |mailbox: &Mailbox| mailbox.host == anna().host;
        mend(&Bytes::copy_from_slice(header.as_bytes()), &Author { owns: &owns, sender: Some(&anna()) })
    }

    fn mended(header: &str) -> (String, String) {
        let mended = try_mend(header).unwrap();
        let hostname = Domain::parse("mx.example.org").unwrap();
        let now = Timestamp::from_millis(1_795_253_400_000);
        let mut added = String::new();
        mended.missing.write_to(&mut added, &hostname, MessageId::from_u128(1), now);
        (added, String::from_utf8(mended.kept.concat()).unwrap())
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let header = "From: Anna <anna@example.org>\r\nDate: x\r\nX-Odd : \t y\r\n folded\r\nMESSAGE-ID: <a@b>\r\n\r\n";
        assert_eq!(mended(header), (String::new(), header.to_owned()));
    }

    #[test]
    fn what_is_missing_is_put_in_front() {
        let (added, kept) = mended("From: anna@example.org\r\n\r\n");
        assert_eq!(
            added,
            "Date: Sat, 21 Nov 2026 09:30:00 +0000\r\nMessage-ID: <00000000000000000000000001@mx.example.org>\r\n"
        );
        assert_eq!(kept, "From: anna@example.org\r\n\r\n");
    }

    #[test]
    fn several_authors_have_a_sender() {
        let (added, _) = mended("From: a@example.org, b@example.org\r\nDate: x\r\nMessage-ID: <x@y>\r\n");
        assert_eq!(added, "Sender: anna@example.org\r\n");
        let (added, _) =
            mended("From: a@example.org, b@example.org\r\nSender: b@example.org\r\nDate: x\r\nMessage-ID: <x@y>\r\n");
        assert_eq!(added, "");
    }

    #[test]
    fn nobody_sees_who_else_got_it() {
        let (_, kept) = mended(
            "bcc: x@y\r\nFrom: anna@example.org\r\nBcc : a@b,\r\n\tc@d\r\nSubject: hi\r\nResent-Bcc: e@f\r\nBCC:\r\n\r\n",
        );
        assert_eq!(kept, "From: anna@example.org\r\nSubject: hi\r\n\r\n");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let foreign = |name: &str, address: &str| Fault::Foreign(name.to_owned(), address.parse().unwrap());
        for (header, fault) in [
            ("Subject: x\r\n\r\n", Fault::NoFrom),
            ("\r\n", Fault::NoFrom),
            ("From:\r\n\r\n", Fault::NoFrom),
            ("From: undisclosed:;\r\n\r\n", Fault::NoFrom),
            ("From: Anna\r\n\r\n", Fault::Unreadable("From".to_owned(), mail::MailboxesError::Syntax)),
            ("From: a@example.org\r\nfrom: b@example.org\r\n\r\n", Fault::Twice("From")),
            ("From: a@example.org\r\nhello there\r\n\r\n", Fault::Line(2)),
            ("From anna Sat Nov 21\r\nFrom: a@example.org\r\n\r\n", Fault::Line(1)),
            (" folded\r\nFrom: a@example.org\r\n\r\n", Fault::Line(1)),
            ("From: a@example.org, c@bank.example\r\n\r\n", foreign("From", "c@bank.example")),
            ("From: a@example.org\r\nSender: c@bank.example\r\n\r\n", foreign("Sender", "c@bank.example")),
            ("From: a@example.org\r\nResent-From: c@bank.example\r\n", foreign("Resent-From", "c@bank.example")),
        ] {
            assert_eq!(try_mend(header), Err(fault), "{header:?}");
        }
        let reply = foreign("From", "c@bank.example").reply("anna", "anna@example.org").to_string();
        assert_eq!(reply, "550 5.7.1 From: c@bank.example: not an address of anna, which may send as anna@example.org");
    }

    proptest! {
        /// Whatever else a header holds, it comes out octet by octet.
        #[test]
        fn only_bcc_is_cut(fields in proptest::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,20}(\r\n [ -~]{1,9})?"), 0..8)) {
            let known = |name: &str| ONCE.iter().chain(&ORIGINATORS).any(|one| one.eq_ignore_ascii_case(name));
            let mut header = "From: anna@example.org\r\n".to_owned();
            let mut expected = header.clone();
            for (name, value) in fields.iter().filter(|(name, _)| !known(name)) {
                let field = format!("{name}:{value}\r\n");
                header.push_str(&field);
                if !name.eq_ignore_ascii_case("bcc") && !name.eq_ignore_ascii_case("resent-bcc") {
                    expected.push_str(&field);
                }
            }
            header.push_str("Bcc: hidden@example.org\r\n\r\n");
            expected.push_str("\r\n");
            prop_assert_eq!(mended(&header).1, expected);
        }

        #[test]
        fn arbitrary_octets_never_panic(header in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = mend(&Bytes::from(header), &Author { owns: &|_| true, sender: None });
        }
    }
}
