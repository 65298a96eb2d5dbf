//! The envelope: what SMTP says about a message beside its content.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::Mailbox;
use crate::id::MessageId;
use crate::path::{ForwardPath, ReversePath};
use crate::time::Timestamp;
use crate::tls::TlsFacts;

/// Everything that travels with a message outside its content. Never printed into content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The queue id.
    pub id: MessageId,
    /// When responsibility was taken.
    pub received_at: Timestamp,
    /// Where reports go.
    pub reverse_path: ReversePath,
    /// Whom it is for; deliveries name recipients by their place in this list.
    pub recipients: Vec<Recipient>,
    /// What the content may hold.
    pub body: BodyKind,
    /// Whether SMTPUTF8 was asked for (RFC 6531 §3.4): header fields may then hold UTF-8.
    pub utf8: bool,
    /// What a failure report returns (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// The sender's own name for the transaction, xtext decoded (RFC 3461 §4.4).
    pub envid: Option<String>,
    /// How it came here.
    pub origin: Origin,
    /// Who is accountable for it; lanes share fairly between tenants.
    pub tenant: Option<String>,
    /// The stream within a tenant; lanes share fairly between campaigns.
    pub campaign: Option<String>,
    /// Who submitted it: the name of the account that authenticated.
    pub account: Option<String>,
    /// What the sender asks of the lines it goes over.
    pub tls: TlsDemand,
    /// By when it is wanted (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// Before this time nobody gets it (RFC 4865).
    pub release_at: Option<Timestamp>,
    /// From -9 to 9; the higher one goes first where both wait (RFC 6710).
    pub priority: i8,
}

impl Envelope {
    /// An envelope that says nothing but this: a message of ours, of seven bits, sent without a parameter.
    pub fn new(
        id: MessageId,
        received_at: Timestamp,
        reverse_path: ReversePath,
        recipients: impl IntoIterator<Item = Recipient>,
    ) -> Self {
        Self {
            id,
            received_at,
            reverse_path,
            recipients: recipients.into_iter().collect(),
            body: BodyKind::SevenBit,
            utf8: false,
            ret: None,
            envid: None,
            origin: Origin::local(),
            tenant: None,
            campaign: None,
            account: None,
            tls: TlsDemand::Default,
            deliver_by: None,
            release_at: None,
            priority: 0,
        }
    }

    /// From when on it may be delivered; its age counts from here too.
    pub fn begins_at(&self) -> Timestamp {
        self.release_at.map_or(self.received_at, |release| release.max(self.received_at))
    }

    /// Whether any address needs SMTPUTF8, or the sender asked for it.
    pub fn needs_utf8(&self) -> bool {
        self.utf8 || self.reverse_path.needs_utf8() || self.recipients.iter().any(|r| r.path.needs_utf8())
    }
}

/// One recipient of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The address.
    pub path: ForwardPath,
    /// Which reports the sender wants (RFC 3461 §4.1).
    pub notify: Notify,
    /// The address the sender first wrote (RFC 3461 §4.2).
    pub orcpt: Option<OriginalRecipient>,
}

impl Recipient {
    /// A recipient without DSN parameters.
    pub fn new(path: ForwardPath) -> Self {
        Self { path, notify: Notify::Default, orcpt: None }
    }
}

impl From<Mailbox> for Recipient {
    fn from(mailbox: Mailbox) -> Self {
        Self::new(ForwardPath::Mailbox(mailbox))
    }
}

/// What a sender asks of the lines that the message goes over (RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsDemand {
    /// What the policy for the destination says.
    #[default]
    Default,
    /// `REQUIRETLS`: verified TLS at every hop, or none at all.
    Required,
    /// The field `TLS-Required: No`: better over a line that cannot be verified than not.
    NotRequired,
}

/// The `BY` parameter (RFC 2852 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverBy {
    /// By when.
    pub by: Timestamp,
    /// What happens if that cannot be done.
    pub mode: ByMode,
    /// Whether the sender wants to hear that the message went on to a server that may not know of the limit.
    pub trace: bool,
}

/// What happens to a message that was not delivered in time (RFC 2852 §4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ByMode {
    /// It is given up and returned.
    Return,
    /// The sender is told of the delay, and it is tried on.
    Notify,
}

/// The `BODY` parameter (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyKind {
    /// Lines of seven-bit octets; also what was sent without the parameter.
    #[default]
    SevenBit,
    /// Lines that may hold octets above 127.
    EightBitMime,
    /// Any octets; came by BDAT and can leave only so.
    BinaryMime,
}

/// The `NOTIFY` parameter (RFC 3461 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notify {
    /// Not given: failures are reported, delays may be.
    #[default]
    Default,
    /// `NEVER`.
    Never,
    /// Any of `SUCCESS`, `FAILURE`, `DELAY`; at least one.
    On(NotifyOn),
}

/// What a sender asked to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyOn {
    /// `SUCCESS`.
    pub success: bool,
    /// `FAILURE`.
    pub failure: bool,
    /// `DELAY`.
    pub delay: bool,
}

/// The `ORCPT` parameter: an address type and the address, xtext decoded (RFC 3461 §4.2, RFC 6533 §3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalRecipient {
    /// `rfc822`, `utf-8` or another registered type, lower-case.
    pub kind: String,
    /// The address, free of control characters.
    pub address: String,
}

/// The `RET` parameter (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// How a message came to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The client's address; ours for what we made ourselves.
    pub peer: SocketAddr,
    /// What it called itself, printable ASCII; empty if it said nothing.
    pub helo: String,
    /// The protocol it spoke.
    pub protocol: TransferProtocol,
    /// The listener it used, as the configuration names it.
    pub listener: String,
    /// What is known of the TLS session it came over.
    pub tls: Option<TlsFacts>,
}

impl Origin {
    /// For messages that we make ourselves: delivery status notifications.
    pub fn local() -> Self {
        Self {
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            helo: String::new(),
            protocol: TransferProtocol::Local,
            listener: String::new(),
            tls: None,
        }
    }
}

/// The `with` of a Received field: IANA's mail transmission types (RFC 3848, RFC 6531 §4.3).
///
/// Records on disk hold the place of a variant: new ones come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferProtocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// LHLO.
    Lmtp,
    /// EHLO with SMTPUTF8 in the transaction.
    Utf8Smtp,
    /// LHLO with SMTPUTF8 in the transaction.
    Utf8Lmtp,
    /// Made here.
    Local,
    /// EHLO over TLS.
    Esmtps,
    /// EHLO and AUTH.
    Esmtpa,
    /// EHLO and AUTH over TLS.
    Esmtpsa,
    /// LHLO over TLS.
    Lmtps,
    /// LHLO and AUTH.
    Lmtpa,
    /// LHLO and AUTH over TLS.
    Lmtpsa,
    /// EHLO over TLS with SMTPUTF8 in the transaction.
    Utf8Smtps,
    /// EHLO and AUTH with SMTPUTF8 in the transaction.
    Utf8Smtpa,
    /// EHLO and AUTH over TLS with SMTPUTF8 in the transaction.
    Utf8Smtpsa,
    /// LHLO over TLS with SMTPUTF8 in the transaction.
    Utf8Lmtps,
    /// LHLO and AUTH with SMTPUTF8 in the transaction.
    Utf8Lmtpa,
    /// LHLO and AUTH over TLS with SMTPUTF8 in the transaction.
    Utf8Lmtpsa,
}

impl TransferProtocol {
    /// As a Received field prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            TransferProtocol::Smtp => "SMTP",
            TransferProtocol::Esmtp => "ESMTP",
            TransferProtocol::Lmtp => "LMTP",
            TransferProtocol::Utf8Smtp => "UTF8SMTP",
            TransferProtocol::Utf8Lmtp => "UTF8LMTP",
            TransferProtocol::Local => "local",
            TransferProtocol::Esmtps => "ESMTPS",
            TransferProtocol::Esmtpa => "ESMTPA",
            TransferProtocol::Esmtpsa => "ESMTPSA",
            TransferProtocol::Lmtps => "LMTPS",
            TransferProtocol::Lmtpa => "LMTPA",
            TransferProtocol::Lmtpsa => "LMTPSA",
            TransferProtocol::Utf8Smtps => "UTF8SMTPS",
            TransferProtocol::Utf8Smtpa => "UTF8SMTPA",
            TransferProtocol::Utf8Smtpsa => "UTF8SMTPSA",
            TransferProtocol::Utf8Lmtps => "UTF8LMTPS",
            TransferProtocol::Utf8Lmtpa => "UTF8LMTPA",
            TransferProtocol::Utf8Lmtpsa => "UTF8LMTPSA",
        }
    }
}
