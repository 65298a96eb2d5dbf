//! A report as a whole: its header, its parts, its envelope.

use bytes::Bytes;
use mail::{
    BodyKind, DeliverBy, Delivered, Domain, Envelope, Fault, Mailbox, MessageId, Notify, Outcome, Protocol, Recipient,
    ReversePath, Timestamp, TlsDemand, header,
};

use crate::field::Fields;
use crate::notice::Action;
use crate::returned::{Part, Returned};
use crate::{human, machine, returned};

/// Everything that a report is made from.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The id of the report, a new message.
    pub id: MessageId,
    /// When it is made.
    pub now: Timestamp,
    /// Who reports: our own name.
    pub reporting_mta: &'a Domain,
    /// The envelope of the message that is reported about.
    pub original: &'a Envelope,
    /// What happened to which recipient; at least one.
    pub notices: Vec<Notice<'a>>,
    /// The message itself, as far as it is at hand.
    pub returned: Returned,
    /// The most octets of it that the report gives back; a longer message is cut to its header.
    pub return_limit: usize,
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub struct Notice<'a> {
    /// The recipient, one of the original envelope's.
    pub recipient: &'a Recipient,
    /// What happened.
    pub happened: Happened<'a>,
    /// When it was last tried, if it was.
    pub last_attempt: Option<Timestamp>,
}

/// What is reported about a recipient.
#[derive(Clone, Copy, Debug)]
pub enum Happened<'a> {
    /// Somebody refused it for good.
    Failed(&'a Fault),
    /// Time ran out; the last fault, if an attempt was made.
    Expired(Option<&'a Fault>),
    /// Not yet.
    Delayed {
        /// The last fault, if an attempt was made.
        fault: Option<&'a Fault>,
        /// How long attempts go on.
        until: Timestamp,
    },
    /// Given to a host that will not report by itself.
    Relayed(&'a Delivered),
    /// In the recipient's mailbox.
    Delivered(&'a Delivered),
}

impl<'a> Happened<'a> {
    /// What there is to say about an outcome (see [`Action::of`]); `until` is when attempts end.
    pub fn of(
        outcome: &'a Outcome,
        protocol: Protocol,
        limit: Option<DeliverBy>,
        until: Timestamp,
    ) -> Option<Happened<'a>> {
        Some(match (Action::of(outcome, protocol, limit)?, outcome) {
            (_, Outcome::Failed(fault)) => Happened::Failed(fault),
            (_, Outcome::Expired(fault)) => Happened::Expired(fault.as_ref()),
            (_, Outcome::Deferred(fault)) => Happened::Delayed { fault: Some(fault), until },
            (Action::Delivered, Outcome::Delivered(delivered)) => Happened::Delivered(delivered),
            (_, Outcome::Delivered(delivered)) => Happened::Relayed(delivered),
            (_, Outcome::Removed(_)) => return None,
        })
    }

    /// The action that is reported.
    pub fn action(&self) -> Action {
        match self {
            Happened::Failed(_) | Happened::Expired(_) => Action::Failed,
            Happened::Delayed { .. } => Action::Delayed,
            Happened::Relayed(_) => Action::Relayed,
            Happened::Delivered(_) => Action::Delivered,
        }
    }

    /// The fault behind it.
    pub(crate) fn fault(&self) -> Option<&'a Fault> {
        match self {
            Happened::Failed(fault) => Some(fault),
            Happened::Expired(fault) | Happened::Delayed { fault, .. } => *fault,
            Happened::Relayed(_) | Happened::Delivered(_) => None,
        }
    }
}

/// What the way back can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Seven bits only: goes everywhere. Addresses in UTF-8 are written as RFC 6533 §3 escapes them.
    Ascii,
    /// Header fields and addresses in UTF-8 (RFC 6532): every hop back must offer SMTPUTF8 if there are any.
    Utf8,
}

/// A report, ready to be committed as a message.
#[derive(Clone, Debug)]
pub struct Dsn {
    /// From `<>` to the original's reverse-path.
    pub envelope: Envelope,
    /// Header and body.
    pub content: Bytes,
}

/// Why there is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message came from `<>` (RFC 5321 §4.5.5).
    #[error("a message from <> is never reported about")]
    NullReversePath,
    /// There is nothing to report.
    #[error("a report needs at least one recipient")]
    NoRecipients,
}

impl Report<'_> {
    /// The form that arrives: ASCII wherever the sender's address is ASCII; UTF-8 where it is not, because the way back
    /// has to offer SMTPUTF8 for the address itself.
    pub fn form(&self) -> Form {
        if self.original.reverse_path.needs_utf8() { Form::Utf8 } else { Form::Ascii }
    }

    /// The action that matters most.
    pub fn action(&self) -> Option<Action> {
        self.notices.iter().map(|notice| notice.happened.action()).min()
    }
}

/// Makes the report.
pub fn build(report: &Report<'_>, form: Form) -> Result<Dsn, Refusal> {
    let sender = report.original.reverse_path.mailbox().ok_or(Refusal::NullReversePath)?;
    let action = report.action().ok_or(Refusal::NoRecipients)?;
    let mut parts = vec![human::part(report, form), machine::part(report, form)];
    parts.extend(returned::part(report, form));
    let body = match parts.iter().all(|part| part.body.is_ascii()) {
        true => BodyKind::SevenBit,
        false => BodyKind::EightBitMime,
    };
    let mut content = head(report, sender, action, body, form).into_bytes();
    append_parts(&mut content, &boundary(report.id), &parts);
    let utf8 = !content.is_ascii();
    Ok(Dsn { envelope: envelope(report, sender, body, utf8), content: content.into() })
}

/// RFC 3461 §6.2: from `<>`, and nobody is told what becomes of the report.
fn envelope(report: &Report<'_>, sender: &Mailbox, body: BodyKind, utf8: bool) -> Envelope {
    let recipient = Recipient { notify: Notify::Never, ..Recipient::from(sender.clone()) };
    Envelope {
        body,
        utf8,
        tenant: report.original.tenant.clone(),
        // RFC 8689 §5: what was not to be seen on its way is not to be seen on its way back.
        tls: match report.original.tls {
            TlsDemand::Required => TlsDemand::Required,
            TlsDemand::Default | TlsDemand::NotRequired => TlsDemand::Default,
        },
        // RFC 6710 §4.4: a report is as urgent as what it is about.
        priority: report.original.priority,
        ..Envelope::new(report.id, report.now, ReversePath::Null, [recipient])
    }
}

fn head(report: &Report<'_>, sender: &Mailbox, action: Action, body: BodyKind, form: Form) -> String {
    let us = report.reporting_mta;
    let mut fields = Fields::new(form);
    fields.add("From", format_args!("Mail Delivery System <MAILER-DAEMON@{us}>"));
    match form {
        // RFC 6857 §3.1: an address that cannot be written in ASCII leaves an empty group behind.
        Form::Ascii if sender.needs_utf8() => fields.add("To", "\"Internationalized address\":;"),
        _ => fields.add("To", format_args!("<{sender}>")),
    }
    fields.add("Subject", human::subject(action));
    fields.add("Date", report.now.rfc5322());
    fields.add("Message-ID", format_args!("<{}@{us}>", report.id));
    if let Some(original) = original_message_id(report, form) {
        fields.add("In-Reply-To", &original);
        fields.add("References", &original);
    }
    fields.add("Auto-Submitted", "auto-replied");
    fields.add("MIME-Version", "1.0");
    let boundary = boundary(report.id);
    fields.add("Content-Type", format_args!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\""));
    if body == BodyKind::EightBitMime {
        fields.add("Content-Transfer-Encoding", "8bit");
    }
    fields.end_group();
    fields.into_text()
}

/// The original's `Message-ID`, if it has one that can be repeated as it is.
fn original_message_id(report: &Report<'_>, form: Form) -> Option<String> {
    let message = report.returned.octets()?;
    let id = header::fields(message).find(|field| field.is("Message-ID"))?.unfolded();
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let proper = |c: char| !c.is_whitespace() && !c.is_control() && !"<>".contains(c);
    let printable = form == Form::Utf8 || id.is_ascii();
    (id.len() <= 500 && printable && inner.contains('@') && inner.chars().all(proper)).then_some(id)
}

/// The id of the report is 80 random bits that nobody knew before: no part can contain it.
fn boundary(id: MessageId) -> String {
    format!("=_{id}")
}

fn append_parts(content: &mut Vec<u8>, boundary: &str, parts: &[Part]) {
    for part in parts {
        content.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        content.extend_from_slice(part.head.as_bytes());
        content.extend_from_slice(b"\r\n");
        content.extend_from_slice(&part.body);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
}
