//! The sending side of SMTP (RFC 5321) and LMTP (RFC 2033) without I/O.
//!
//! A [`Connection`] is driven by whoever owns the socket: bytes of the peer go in with [`Connection::receive`], what is
//! to be written comes out of [`Connection::output`] in slices, [`Connection::next_event`] tells what happened, and
//! [`Connection::deadline`] when to call [`Connection::expire`]. It greets, learns what the peer offers, and then takes
//! one [`Transaction`] after the other; each ends with one [`Verdict`] per recipient, whatever happens on the way.
//!
//! The order of the conversation is chosen for few round trips and for safety:
//!
//! - A peer with PIPELINING gets MAIL, all RCPT and DATA in one piece (RFC 2920), others one command at a time.
//! - A peer with CHUNKING gets MAIL and all RCPT in one piece and then one `BDAT n LAST` with the whole content, but only
//!   when a recipient was accepted. RFC 3030 would allow to send BDAT along with them, for one round trip less; then a
//!   server that does not swallow the octets of a refused BDAT takes the message's text for commands.
//! - The next transaction is not put behind the final dot of this one, although RFC 2920 §3.1 allows it: its delivery
//!   would have to be pulled from the queue before it is known whether the peer takes another one.
//! - Success is believed only as the reply to the whole content. Whatever breaks after it was sent and before that reply
//!   is [`Lost::MaybeTaken`]: to be tried again, so that a message may come twice but never goes missing.
//!
//! STARTTLS and AUTH stand between the answer to EHLO and the first transaction (`security.rs`), where the driver is asked;
//! REQUIRETLS is among the needs that are checked before one begins (`transaction.rs`).

mod connection;
mod content;
mod exchange;
mod greeting;
mod output;
mod security;
#[cfg(test)]
mod tests;
mod transaction;

pub use connection::{Closed, Connection, Event, Timeouts};
pub use content::DotStuffing;
pub use output::Output;
pub use security::{NoAuth, NoTls, Security, Tls};
pub use transaction::{Asks, Lost, RequireTls, Shortfall, Transaction, Unfit, Verdict};
