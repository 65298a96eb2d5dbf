//! The part that gives the message back: all of it or its header, in a form that arrives (RFC 6522 §3 and §4,
//! RFC 6533 §6).

use bytes::Bytes;
use mail::downgrade::downgrade;
use mail::{Envelope, Ret, TlsDemand, encoding, header};

use crate::dsn::{Form, Report};
use crate::field::Fields;
use crate::notice::Action;

/// The message that is reported about, as far as it is at hand.
#[derive(Clone, Debug)]
pub enum Returned {
    /// Nothing of it: the content could not be read. The report is made without it.
    Nothing,
    /// Its header, or its beginning with the whole header in it.
    Headers(Bytes),
    /// Header and body.
    Full(Bytes),
}

impl Returned {
    /// What is at hand.
    pub(crate) fn octets(&self) -> Option<&[u8]> {
        match self {
            Returned::Nothing => None,
            Returned::Headers(octets) | Returned::Full(octets) => Some(octets),
        }
    }
}

/// How much of a message of `size` octets a report with these actions gives back: the whole only when something failed
/// (RFC 3461 §5.2.1, §6.2: RET means nothing to other reports), the sender did not ask for the header alone, TLS was not
/// required on its way (RFC 8689 §5), and the message is not longer than `limit`.
///
/// [`build`](crate::build) holds to it by itself; ask before to know what must be read.
pub fn returns(original: &Envelope, actions: impl IntoIterator<Item = Action>, size: u64, limit: usize) -> Ret {
    let failed = actions.into_iter().any(|action| action == Action::Failed);
    let fits = usize::try_from(size).is_ok_and(|size| size <= limit);
    let open = original.ret != Some(Ret::Headers) && original.tls != TlsDemand::Required;
    if failed && fits && open { Ret::Full } else { Ret::Headers }
}

/// One part of the report: its header fields, and its body as it goes.
pub(crate) struct Part {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Part {
    pub(crate) fn new(media: &str, encoding: &str, description: &str, body: Vec<u8>) -> Part {
        let mut head = Fields::new(Form::Ascii);
        head.add("Content-Type", media);
        head.add("Content-Transfer-Encoding", encoding);
        head.add("Content-Description", description);
        Part { head: head.into_text(), body }
    }

    /// Text, encoded only if it must be.
    pub(crate) fn text(media: &str, description: &str, text: &[u8], form: Form) -> Part {
        if encoding::has_proper_lines(text) && text.is_ascii() {
            return Part::new(media, "7bit", description, text.to_vec());
        }
        if encoding::has_proper_lines(text) && form == Form::Utf8 && std::str::from_utf8(text).is_ok() {
            return Part::new(media, "8bit", description, text.to_vec());
        }
        let mut encoded = Vec::new();
        encoding::quoted_printable(text, &mut encoded);
        Part::new(media, "quoted-printable", description, encoded)
    }
}

pub(crate) fn part(report: &Report<'_>, form: Form) -> Option<Part> {
    let octets = report.returned.octets()?;
    let actions = report.notices.iter().map(|notice| notice.happened.action());
    let whole = match &report.returned {
        Returned::Full(_) => returns(report.original, actions, octets.len() as u64, report.return_limit),
        _ => Ret::Headers,
    };
    match whole {
        Ret::Full => message(octets, form).or_else(|| headers(octets, report.return_limit, form)),
        Ret::Headers => headers(octets, report.return_limit, form),
    }
}

/// The whole message, if there is a form in which it arrives.
fn message(content: &[u8], form: Form) -> Option<Part> {
    const DESCRIPTION: &str = "Undelivered message";
    let header = std::str::from_utf8(&content[..header::header_length(content)]);
    if let (Form::Utf8, Ok(header), true) = (form, header, encoding::has_proper_lines(content)) {
        let media = if header.is_ascii() { "message/rfc822" } else { "message/global" };
        let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
        return Some(Part::new(media, encoding, DESCRIPTION, content.to_vec()));
    }
    if let Ok(plain) = downgrade(content) {
        return Some(Part::new("message/rfc822", "7bit", DESCRIPTION, plain.to_bytes().to_vec()));
    }
    // RFC 6532 §3.7: message/global may be encoded, which message/rfc822 may not, but its header must be UTF-8.
    header.ok()?;
    let mut encoded = Vec::new();
    encoding::base64(content, &mut encoded);
    Some(Part::new("message/global", "base64", DESCRIPTION, encoded))
}

/// The header, cut behind a whole field if it is longer than `limit`.
fn headers(message: &[u8], limit: usize, form: Form) -> Option<Part> {
    const DESCRIPTION: &str = "Header of the message";
    let header = first_fields(&message[..header::header_length(message)], limit);
    let is_utf8 = std::str::from_utf8(header).is_ok();
    let media = match !header.is_ascii() && is_utf8 {
        true => "message/global-headers",
        // RFC 6522 §4: broken headers may be encoded here.
        false => "text/rfc822-headers",
    };
    (!header.is_empty()).then(|| Part::text(media, DESCRIPTION, header, form))
}

/// As many whole fields of a header as `limit` octets hold.
fn first_fields(header: &[u8], limit: usize) -> &[u8] {
    let begins_field = |at: usize| header[at - 1] == b'\n' && !matches!(header[at], b' ' | b'\t');
    match header.len() <= limit {
        true => header,
        false => &header[..(1..=limit).rev().find(|at| begins_field(*at)).unwrap_or(0)],
    }
}
