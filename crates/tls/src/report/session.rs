//! One attempt to speak TLS with a mail host, as whoever made it tells it.

use std::net::IpAddr;
use std::sync::Arc;

use mail::Domain;

use crate::mtasts::StsPolicy;
use crate::report::FailureType;

/// Hears of every TLS session with a mail host, good or bad. Does not wait.
pub trait SessionReports: Send + Sync + 'static {
    /// Counts one.
    fn session(&self, session: TlsSession);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReports;

impl SessionReports for NoReports {
    fn session(&self, _: TlsSession) {}
}

/// A TLS session, or the failure to get one.
#[derive(Clone, Debug)]
pub struct TlsSession {
    /// The recipients' domain: its `_smtp._tls` record says who wants to know.
    pub domain: Domain,
    /// By which rule the session was judged. A session that fails DANE and MTA-STS is told once for each.
    pub policy: PolicyApplied,
    /// The mail host, if one was chosen.
    pub mx_host: Option<Domain>,
    /// Its address, if it was connected to.
    pub receiving_ip: Option<IpAddr>,
    /// Our address of the connection.
    pub sending_ip: Option<IpAddr>,
    /// What went wrong; a session that fulfils the policy has nothing.
    pub failure: Option<Failure>,
}

/// The rule by which a session was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyApplied {
    /// DANE (RFC 7672).
    Tlsa {
        /// The TLSA base domain.
        base: Domain,
        /// Its records in the text form of zone files, `3 1 1 0123…`.
        records: Arc<[String]>,
    },
    /// MTA-STS: the domain's policy; `None` where one is announced and could not be had.
    Sts(Option<Arc<StsPolicy>>),
    /// Neither.
    NoPolicyFound,
}

/// What went wrong with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub kind: FailureType,
    /// More about it, for `failure-reason-code`: short, of few different texts (they are counted apart).
    pub reason: String,
}

impl Failure {
    /// A failure and its reason; an empty text gives none.
    pub fn new(kind: FailureType, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}
