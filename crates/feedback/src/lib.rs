//! What came back: delivery status notifications (RFC 3461 to 3464, 6522, 6533).
//!
//! A report about a message is a message of its own. [`owed`] says whether a recipient's outcome owes the sender one,
//! [`returns`] how much of the message it gives back, and [`build`] makes it: an envelope from `<>` and content in
//! three parts, for a person, for a machine, and what was sent. Everything here is a pure function of its arguments.
//!
//! A report must arrive where the message itself could not, so its own lines are short and declared for what they are.
//! What other servers said goes through one writer of fields that lets no control character pass: nothing that a peer
//! or a sender wrote can become a header of the report.

#![forbid(unsafe_code)]

mod dsn;
mod field;
mod human;
mod machine;
mod notice;
mod returned;

pub use dsn::{Dsn, Form, Happened, Notice, Refusal, Report, build};
pub use notice::{Action, owed, owes};
pub use returned::{Returned, returns};
