//! The vocabulary of mail: what every room of Postrider says and means the same way.
//!
//! Nothing here talks to the operating system, with two marked exceptions that hand the world in through a trait:
//! [`SystemClock`] behind [`Clock`] and the operating system's seed behind [`Randomness`]. Types carry the proof: a
//! [`Domain`] is lower-case A-labels, a [`Mailbox`] can be printed into `RCPT TO:<…>` without a thought, a [`Reply`]
//! cannot hold a CR, LF or NUL.

#![forbid(unsafe_code)]

pub mod address;
pub mod attempt;
pub mod domain;
pub mod downgrade;
pub mod encoding;
pub mod envelope;
pub mod event;
pub mod header;
pub mod id;
pub mod mailboxes;
pub mod outcome;
pub mod path;
pub mod random;
pub mod received;
pub mod reply;
pub mod route;
pub mod time;
pub mod tls;
mod tls_level;

pub use address::{AddressError, Host, LocalPart, Mailbox, Utf8};
pub use attempt::{Assignment, AttemptReport, Protocol, Target, TargetHost};
pub use domain::Domain;
pub use envelope::{
    BodyKind, ByMode, DeliverBy, Envelope, Notify, NotifyOn, Origin, OriginalRecipient, Recipient, Ret, TlsDemand,
    TransferProtocol,
};
pub use event::{Event, Observer};
pub use id::{MessageId, MessageIds};
pub use mailboxes::{MailboxesError, mailboxes};
pub use outcome::{Act, Delivered, Fault, FaultSource, Outcome};
pub use path::{ForwardPath, ReversePath};
pub use random::Randomness;
pub use received::Received;
pub use reply::{EnhancedCode, Reply};
pub use route::{Destination, Lane, Site, Source};
pub use time::{Clock, SystemClock, Timestamp};
pub use tls::{TlsFacts, TlsVersion, Verified};
pub use tls_level::{CertificateName, FoundBy, TargetTls, TlsLevel};
