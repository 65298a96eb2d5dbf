//! What goes wrong between a policy and a secured line.

use std::fmt;

use mail::{EnhancedCode, Fault};

use super::policy::Basis;
use crate::report::{Failure, FailureType, PolicyApplied};

/// The line was not secured as demanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    /// The kind, as reports have it.
    pub kind: FailureType,
    /// What happened, for people.
    pub reason: String,
    /// The host choked on our first words; it will get simpler ones, so another connection may work.
    pub again: bool,
}

impl TlsFailure {
    /// A failure that stays.
    pub fn new(kind: FailureType, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), again: false }
    }

    /// For a report.
    pub fn for_report(&self) -> Failure {
        Failure::new(self.kind, self.reason.clone())
    }

    /// The fault of a host that a policy with this basis demands it of. RFC 8689 §4.2.1: what REQUIRETLS demands is not
    /// waited for.
    pub fn fault(&self, basis: Basis, host: &str) -> Fault {
        let text = format!("{host}: {}; {basis} demands it", self.reason);
        match (basis, self.kind) {
            // A handshake that was cut or took too long says nothing of what the host can.
            (Basis::RequireTls, kind) if kind != FailureType::ValidationFailure => {
                Fault::local(550, EnhancedCode::new(5, 7, 10), text)
            }
            // RFC 3463 §3.8: X.7.4 security features not supported, X.7.5 cryptographic failure.
            (_, FailureType::StarttlsNotSupported) => Fault::local(451, EnhancedCode::new(4, 7, 4), text),
            _ => Fault::local(451, EnhancedCode::new(4, 7, 5), text),
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for TlsFailure {}

/// A host must not be used: what it would have to prove is not known, or it cannot prove it.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For the recipients, if no other host can be used.
    pub fault: Fault,
    /// What to report, and of which policy.
    pub report: Option<Box<(PolicyApplied, Failure)>>,
}

impl Refusal {
    /// Later it may be known.
    pub(crate) fn later(text: impl AsRef<str>) -> Self {
        Self { fault: Fault::local(451, EnhancedCode::new(4, 7, 5), text), report: None }
    }

    /// A message with REQUIRETLS cannot go there (RFC 8689 §4.2.1).
    pub(crate) fn required(text: impl AsRef<str>) -> Self {
        Self { fault: Fault::local(550, EnhancedCode::new(5, 7, 10), text), report: None }
    }

    pub(crate) fn reported(mut self, policy: PolicyApplied, failure: Failure) -> Self {
        self.report = Some(Box::new((policy, failure)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verdict_on_the_host_sends_back_what_requires_tls() {
        let fault = |kind| TlsFailure::new(kind, "why").fault(Basis::RequireTls, "mx.example.org");
        assert!(fault(FailureType::StarttlsNotSupported).is_permanent());
        assert!(fault(FailureType::CertificateNotTrusted).is_permanent());
        assert!(fault(FailureType::ValidationFailure).is_transient());
    }
}
