//! What can go wrong with TLS, in the words of RFC 8460 §4.3.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `result-type` of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureType {
    /// The host does not offer STARTTLS.
    StarttlsNotSupported,
    /// The certificate names other hosts; also a host that the policy does not list.
    CertificateHostMismatch,
    /// The certificate is too old.
    CertificateExpired,
    /// Nobody whom we trust vouches for the certificate.
    CertificateNotTrusted,
    /// Any other failure, told by its reason code.
    ValidationFailure,
    /// No TLSA record matches, or they are unusable.
    TlsaInvalid,
    /// The resolver calls the records bogus.
    DnssecInvalid,
    /// We demand DANE of the host, and it has none.
    DaneRequired,
    /// The policy could not be fetched.
    StsPolicyFetchError,
    /// The policy could not be read.
    StsPolicyInvalid,
    /// The policy's host did not prove who it is.
    StsWebpkiInvalid,
}

impl FailureType {
    /// The word of the RFC.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StarttlsNotSupported => "starttls-not-supported",
            Self::CertificateHostMismatch => "certificate-host-mismatch",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateNotTrusted => "certificate-not-trusted",
            Self::ValidationFailure => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::DaneRequired => "dane-required",
            Self::StsPolicyFetchError => "sts-policy-fetch-error",
            Self::StsPolicyInvalid => "sts-policy-invalid",
            Self::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}

impl fmt::Display for FailureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
