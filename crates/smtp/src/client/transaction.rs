//! What is to be sent, whether the peer can take it, and what became of it.

use std::sync::Arc;

use mail::{
    BodyKind, ByMode, EnhancedCode, Envelope, Fault, Recipient, Reply, ReversePath, Timestamp, TlsDemand, Utf8,
};

use crate::extensions::{Extensions, SizeOffer};
use crate::params::{DeliverBy, MailParameters, RecipientParameters, Submitter};

/// One message for some of its recipients.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The message's envelope.
    pub envelope: Arc<Envelope>,
    /// The recipients, as places in the envelope's list; verdicts come in this order.
    pub recipients: Vec<u32>,
    /// Octets of the content as it will be given.
    pub size: u64,
    /// What the content as it will be given may hold; after a conversion less than the envelope says.
    pub body: BodyKind,
    /// Whether SMTPUTF8 is needed: for an address of this transaction, or for the header.
    pub utf8: bool,
    /// What is asked of the peer beside delivery.
    pub asks: Asks,
}

/// What is asked of the peer beside delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// REQUIRETLS (RFC 8689).
    pub require_tls: RequireTls,
    /// In what time delivery is due from now on (RFC 2852). The peer must offer it for messages that are to go back.
    pub deliver_by: Option<DeliverBy>,
    /// The priority (RFC 6710), told where it is offered.
    pub priority: i8,
    /// Who submitted it (RFC 4954 §5), told where AUTH is offered.
    pub(super) submitter: Option<Submitter>,
}

/// Whether the peer is to keep TLS up on the rest of the way (RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    /// That is not asked.
    #[default]
    No,
    /// Where the peer offers it: a report is not lost for the want of it (§5).
    WhereOffered,
    /// A peer that does not offer it cannot take the message.
    Always,
}

impl RequireTls {
    /// What a message's envelope asks.
    pub fn of(envelope: &Envelope) -> Self {
        match (envelope.tls, &envelope.reverse_path) {
            (TlsDemand::Required, ReversePath::Null) => Self::WhereOffered,
            (TlsDemand::Required, ReversePath::Mailbox(_)) => Self::Always,
            (TlsDemand::Default | TlsDemand::NotRequired, _) => Self::No,
        }
    }
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The peer took responsibility; its reply to the content.
    Accepted(Reply),
    /// The peer refused with a reply of the 4yz or 5yz kind.
    Refused(Reply),
    /// The peer takes no more recipients in this transaction, but took others: another one may carry it right away
    /// (RFC 5321 §4.5.3.1.10, which also says that 552 means 452 here).
    Surplus(Reply),
    /// The connection ended before the peer had answered for this recipient; [`super::Closed`] tells why.
    Lost(Lost),
}

/// How far the message had come when the connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The peer did not have the whole content or said that it goes away: another host may be tried right away.
    NotTaken,
    /// The peer had the whole content and did not answer. It may deliver it, so that trying again may duplicate it; that
    /// should wait, as a peer that is slow to answer is slow again (RFC 1047).
    MaybeTaken,
}

/// What a message needs and the peer does not offer. Nothing has been sent then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// It is larger than the peer takes (RFC 1870 §6.1).
    #[error("the message has {size} octets, but the next host takes {limit} at most")]
    Size {
        /// Octets of the message.
        size: u64,
        /// Octets that the peer takes.
        limit: u64,
    },
    /// No SMTPUTF8 (RFC 6531 §3.5).
    #[error("an address or the header needs SMTPUTF8, which the next host does not offer")]
    Utf8,
    /// No 8BITMIME (RFC 6152 §3).
    #[error("the content has octets above 127, and the next host does not offer 8BITMIME")]
    EightBitMime,
    /// No BINARYMIME, or no CHUNKING to send it with (RFC 3030 §3).
    #[error("the content is binary, and the next host does not offer BINARYMIME")]
    BinaryMime,
    /// No REQUIRETLS, or no TLS (RFC 8689 §4.2.1).
    #[error("the sender requires TLS on the whole way, and the next host does not offer REQUIRETLS")]
    RequireTls,
    /// No DELIVERBY (RFC 2852 §4.1.4).
    #[error("the message is to go back when its time is over, and the next host does not offer DELIVERBY")]
    DeliverBy,
    /// Less time is left than the peer asks for (RFC 2852 §4.1.4).
    #[error("delivery is due in {left} seconds, but the next host asks for {least} at least")]
    DeliverByTime {
        /// Seconds that are left.
        left: i32,
        /// Seconds that the peer asks for.
        least: u32,
    },
}

impl Shortfall {
    /// The fault to report for each recipient; always permanent.
    pub fn fault(&self) -> Fault {
        let (code, enhanced) = match self {
            Shortfall::Size { .. } => (552, EnhancedCode::new(5, 3, 4)),
            Shortfall::Utf8 => (553, EnhancedCode::new(5, 6, 7)),
            Shortfall::EightBitMime | Shortfall::BinaryMime => (554, EnhancedCode::new(5, 6, 3)),
            Shortfall::RequireTls => (550, EnhancedCode::new(5, 7, 30)),
            Shortfall::DeliverBy | Shortfall::DeliverByTime { .. } => (554, EnhancedCode::new(5, 4, 7)),
        };
        Fault::local(code, enhanced, self.to_string())
    }
}

/// Why content could not be given to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It could not be read.
    #[error("the content could not be read")]
    Unreadable,
    /// It is longer or shorter than was announced.
    #[error("the content has not the length that was announced")]
    Length,
    /// It has a CR or LF that stands alone, and went by BDAT, which leaves no room for a repair.
    #[error("the content has a CR or LF that stands alone")]
    BareLineEnd,
}

impl Unfit {
    /// What to report: a bare line end stays, the other two may pass.
    pub(super) fn reply(self) -> Reply {
        match self {
            Unfit::Unreadable | Unfit::Length => Reply::new(451, EnhancedCode::new(4, 3, 0), self.to_string()),
            Unfit::BareLineEnd => Reply::new(554, EnhancedCode::new(5, 6, 0), self.to_string()),
        }
    }
}

impl Transaction {
    /// Whether a peer with these extensions can take it.
    pub fn check(&self, offered: &Extensions) -> Result<(), Shortfall> {
        if self.asks.require_tls == RequireTls::Always && !offered.require_tls {
            return Err(Shortfall::RequireTls);
        }
        if self.utf8 && !offered.utf8 {
            return Err(Shortfall::Utf8);
        }
        self.asks.check_time(offered)?;
        match self.body {
            BodyKind::BinaryMime if !(offered.binary_mime && offered.chunking) => return Err(Shortfall::BinaryMime),
            BodyKind::EightBitMime if !offered.eight_bit_mime => return Err(Shortfall::EightBitMime),
            _ => {}
        }
        match offered.size {
            Some(SizeOffer::Limit(limit)) if self.size > limit => Err(Shortfall::Size { size: self.size, limit }),
            _ => Ok(()),
        }
    }

    /// The MAIL command with what the peer offers of its parameters.
    pub(super) fn mail_command(&self, offered: &Extensions) -> String {
        let mut command = format!("MAIL FROM:{}", self.envelope.reverse_path);
        let parameters = MailParameters {
            size: offered.size.map(|_| self.size),
            body: self.body,
            utf8: self.utf8,
            ret: self.envelope.ret.filter(|_| offered.dsn),
            envid: self.envelope.envid.clone().filter(|_| offered.dsn),
            require_tls: self.asks.require_tls != RequireTls::No && offered.require_tls,
            deliver_by: self.asks.deliver_by.filter(|_| offered.deliver_by.is_some()),
            release: None,
            priority: Some(self.asks.priority).filter(|&priority| priority != 0 && offered.priority),
            submitter: self.asks.submitter.clone().filter(|_| !offered.auth.is_empty()),
        };
        parameters.write_to(&mut command);
        command.push_str("\r\n");
        command
    }

    /// The RCPT command for the recipient at this place of the transaction.
    pub(super) fn recipient_command(&self, recipient: &Recipient, offered: &Extensions) -> String {
        let mut command = format!("RCPT TO:{}", recipient.path);
        if offered.dsn {
            let parameters = RecipientParameters { notify: recipient.notify, orcpt: recipient.orcpt.clone() };
            parameters.write_to(&mut command, if self.utf8 { Utf8::Allowed } else { Utf8::Refused });
        }
        command.push_str("\r\n");
        command
    }

    /// The recipient at a place of the transaction. A place that the envelope does not have is a mistake of the caller.
    pub(super) fn recipient(&self, at: usize) -> Option<&Recipient> {
        self.recipients.get(at).and_then(|&place| self.envelope.recipients.get(place as usize))
    }
}

impl Asks {
    /// What the envelope of a message asks for that goes `now`.
    pub fn of(envelope: &Envelope, now: Timestamp) -> Self {
        Self {
            require_tls: RequireTls::of(envelope),
            deliver_by: envelope.deliver_by.map(|limit| DeliverBy::left(limit, now)),
            priority: envelope.priority,
            submitter: None,
        }
    }

    fn check_time(&self, offered: &Extensions) -> Result<(), Shortfall> {
        let Some(DeliverBy { seconds: left, mode: ByMode::Return, .. }) = self.deliver_by else { return Ok(()) };
        match offered.deliver_by {
            None => Err(Shortfall::DeliverBy),
            Some(least) if i64::from(left) < i64::from(least.max(1)) => Err(Shortfall::DeliverByTime { left, least }),
            Some(_) => Ok(()),
        }
    }
}
