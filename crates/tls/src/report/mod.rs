//! TLS reports (RFC 8460): domains hear once a day how well servers could reach them over TLS.
//!
//! ```text
//! delivery ─► SessionReports: counts per domain, day, policy and failure ─► one report per domain and day ─► mail, HTTPS
//! ```

mod failure;
mod record;
mod session;

pub use failure::FailureType;
pub use record::{RecordError, ReportPlace, ReportRecord};
pub use session::{Failure, NoReports, PolicyApplied, SessionReports, TlsSession};
