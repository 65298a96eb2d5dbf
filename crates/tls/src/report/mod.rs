//! TLS reports (RFC 8460): domains hear once a day how well servers could reach them over TLS.
//!
//! ```text
//! delivery ─► Tally: counts per domain, day, policy and failure ─► Sender: one report per domain and day ─► mail, HTTPS
//! mail to the address for reports ─► Archive
//! ```
//!
//! What must always hold: counts and reports are bounded, whatever peers do; a report is made of one whole day in UTC; a
//! report that cannot be sent is tried for a day and then given up, and never costs a message of anybody.

mod archive;
mod compose;
mod day;
mod failure;
mod json;
mod lenient;
mod metrics;
mod receive;
mod record;
mod send;
mod session;
mod tally;

pub use archive::{Archive, DomainSummary, ReceivedReport, Wanted};
pub use compose::{ReportMail, Submitter};
pub use day::{Day, NoDay};
pub use failure::FailureType;
pub use json::{DateRange, FailureDetail, Policy, PolicyResult, Report, Summary};
pub use metrics::{Metrics, Received, ReceivedKind, SendEnd, Sent};
pub use receive::{MAX_MAIL, read_mail};
pub use record::{RecordError, ReportPlace, ReportRecord};
pub use send::{PlaceResult, Post, Sender, SenderParts, SentReport};
pub use session::{Failure, NoReports, PolicyApplied, SessionReports, TlsSession};
pub use tally::{Counted, Tally};
