//! What the session tells its driver, what it asks, and what it takes for an answer.

use bytes::Bytes;
use mail::{Recipient, Reply, ReversePath, TlsFacts, TransferProtocol};

use super::peer::{Hello, Peer};
use super::reason::{CloseReason, Refusal};
use crate::params::MailParameters;
use crate::sasl::Secret;

/// One thing that happened, or a question.
#[derive(Debug)]
pub enum Event {
    /// The client said EHLO, HELO or LHLO.
    Hello(Hello),
    /// The client wants TLS. Write and flush what there is to write, do the handshake, then tell
    /// [`secured`](super::Session::secured) or [`handshake_failed`](super::Session::handshake_failed); or say at once that
    /// [TLS is not available](super::Session::tls_unavailable). Until then the session takes no input: what else was read
    /// in clear and not yet given to the session must be given to it, never to the handshake.
    StartTls,
    /// Question: the client begins to authenticate. The answer is a challenge, the account, or a refusal.
    Auth {
        /// One of those that are offered, in upper case.
        mechanism: String,
        /// What the client said along with it; not the same as nothing: empty.
        initial: Option<Secret>,
    },
    /// Question: the client's answer to the challenge. The answer is as to [`Event::Auth`].
    AuthResponse(Secret),
    /// The exchange is over without a verdict; the session has said why.
    AuthCancelled,
    /// The client is this account from here on: the session has said so.
    Authenticated(String),
    /// Question: the client, which may do so, speaks for this peer from here on. Refuse to end the connection.
    Xclient(Box<Peer>),
    /// Question: may mail with this sender come in?
    Mail(Sender),
    /// Question: may mail go to this recipient?
    Recipient(Recipient),
    /// Question, before 354 or before the first chunk of BDAT: is there room for the content?
    Begin(Begin),
    /// The next piece of the content, decoded. The pieces in order are the message.
    ///
    /// Usually a slice of what `receive` was given: to keep it is to keep that whole buffer.
    Content(Bytes),
    /// Question: the content is complete. Commit, then answer; a positive reply makes the message ours.
    End(Box<Finished>),
    /// The transaction is gone: forget what belongs to it. Not a question.
    Abort {
        /// What is dropped.
        transaction: Box<Transaction>,
        /// Why.
        why: Abort,
    },
    /// The session refused something by itself.
    Refused(Refusal),
    /// The connection is to be closed; the last event.
    Close(CloseReason),
}

impl Event {
    /// Whether the session waits for [`super::Session::answer`].
    pub fn is_question(&self) -> bool {
        match self {
            Event::Xclient(_) | Event::Mail(_) | Event::Recipient(_) | Event::Begin(_) | Event::End(_) => true,
            Event::Auth { .. } | Event::AuthResponse(_) => true,
            Event::Hello(_) | Event::StartTls | Event::AuthCancelled | Event::Authenticated(_) => false,
            Event::Content(_) | Event::Abort { .. } | Event::Refused(_) | Event::Close(_) => false,
        }
    }
}

/// The answer to a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Yes, with the session's own words.
    Accept,
    /// In these words: positive is yes, anything else is no, and 421 also closes. To [`Event::Begin`] any positive or
    /// intermediate reply means 354; to [`Event::End`] under LMTP it counts for every recipient.
    Reply(Reply),
    /// To [`Event::End`] under LMTP: one reply for each recipient, in their order (RFC 2033 §4.2).
    Each(Vec<Reply>),
    /// To [`Event::Auth`] and [`Event::AuthResponse`]: the server's next message. To anything else it is a no for now.
    Challenge(Vec<u8>),
    /// To [`Event::Auth`] and [`Event::AuthResponse`]: it is proven. To anything else it is a no for now.
    Authenticated {
        /// Who it is.
        account: String,
        /// The server's last message, if the mechanism has one; the session waits for the empty answer to it.
        last: Option<Vec<u8>>,
    },
}

/// The sender of a transaction with what MAIL said about the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Where reports go.
    pub path: ReversePath,
    /// The parameters of MAIL.
    pub parameters: MailParameters,
}

/// A transaction: what MAIL and RCPT have said and the driver has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// From MAIL.
    pub sender: Sender,
    /// From RCPT, in order.
    pub recipients: Vec<Recipient>,
}

/// Content is about to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// How many octets at least, as far as the client has said by SIZE or BDAT.
    pub expected: Option<u64>,
    /// How many recipients the transaction has.
    pub recipients: usize,
}

/// A complete transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Who and to whom.
    pub transaction: Transaction,
    /// What was seen of the content.
    pub content: ContentFacts,
    /// The client's greeting.
    pub hello: Hello,
    /// For the trace field.
    pub protocol: TransferProtocol,
    /// How the line is secured.
    pub tls: Option<TlsFacts>,
    /// Who the client is, if it is known.
    pub account: Option<String>,
}

/// What the session saw of the content while it passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentFacts {
    /// Octets of the content.
    pub size: u64,
    /// Octets of the header section with the empty line.
    pub header: u64,
    /// Received fields.
    pub hops: u32,
    /// Whether there is an octet above 127 anywhere, whatever BODY said.
    pub eight_bit: bool,
    /// Whether there is one in the header section.
    pub eight_bit_header: bool,
    /// Whether the header section says `TLS-Required: No` (RFC 8689 §3).
    pub tls_optional: bool,
}

/// Why a transaction was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// The client said RSET, EHLO again, or QUIT.
    Client,
    /// The driver refused the content before it came.
    Answer,
    /// The session refuses the content; why is told by [`Event::Refused`] when all of it has come and is answered.
    Refused,
    /// The connection ends.
    Close(CloseReason),
}
