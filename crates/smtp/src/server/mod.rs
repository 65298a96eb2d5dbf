//! The receiving side of SMTP (RFC 5321) and LMTP (RFC 2033): one [`Session`] per connection, without I/O.
//!
//! The driver moves bytes and answers questions:
//!
//! ```text
//! read socket ──► receive ──► next_event … next_event ──► None ──► take_output ──► write and flush ──► read or wait
//!                                 │      ▲                                                              until deadline
//!                                 └ answer ┘ (to a question, before anything else moves)                (then expire)
//! ```
//!
//! - [`Session::receive`] takes what the session may hold; call it again with the rest once [`Session::wants_input`]
//!   says so. After [`Event::Close`] write what [`Session::take_output`] still gives, shut the sending side down and
//!   read into the void for a moment, so that the peer gets to see the last reply.
//! - A question ([`Event::is_question`]) stops everything until [`Session::answer`]. No timer runs meanwhile.
//! - [`Session::deadline`] is the next instant at which [`Session::expire`] has something to do: a held reply may go, or
//!   the peer was too slow. It is `None` while the session waits for an answer.
//!
//! A transaction is one value. It is born when MAIL is accepted and every way out consumes it: [`Event::End`] hands it
//! to the driver with the facts about its content, [`Event::Abort`] hands it out as dropped. Nothing is reset by hand.
//!
//! TLS is the driver's: [`Event::StartTls`] asks for the handshake, [`Session::secured`] tells that it is done. So are
//! accounts: the session carries the messages of AUTH as questions and answers, and remembers who was proven.
//!
//! What the session refuses by itself is told by [`Event::Refused`], why it ends by [`CloseReason`]; both have stable
//! labels for logs and metrics.

mod content;
mod dialogue;
mod early;
mod event;
mod inspect;
mod limits;
mod line;
mod output;
mod peer;
mod reason;
mod security;
mod session;
mod tally;
mod timer;
mod transfer;
mod xclient;

pub use event::{Abort, Answer, Begin, ContentFacts, Event, Finished, Sender, Transaction};
pub use limits::{AuthOffer, Config, Endings, Limits, TlsOffer};
pub use peer::{Dialect, Hello, Peer, Source};
pub use reason::{CloseReason, Refusal};
pub use session::Session;
