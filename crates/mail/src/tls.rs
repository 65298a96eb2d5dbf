//! What is known of a TLS session over which mail went, in either direction.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The facts of a TLS session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// The version of the protocol.
    pub version: TlsVersion,
    /// The cipher suite by IANA's name: `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// How the peer's certificate was verified, if it was.
    pub verified: Verified,
}

/// A version of TLS that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl TlsVersion {
    /// `TLSv1.2` or `TLSv1.3`.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "TLSv1.2",
            TlsVersion::V1_3 => "TLSv1.3",
        }
    }
}

/// How the certificate of the peer was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verified {
    /// It was not; the line is safe from who only listens.
    No,
    /// By an authority that we trust, for the name that we asked for (RFC 6125).
    WebPki,
    /// By a TLSA record with usage 3 (RFC 7672 §3.1.1).
    DaneEe,
    /// By a TLSA record with usage 2 (RFC 7672 §3.1.2).
    DaneTa,
    /// By a fingerprint from the configuration.
    Fingerprint,
}

impl Verified {
    /// The word in logs and metrics: `no`, `web_pki`, `dane_ee`, `dane_ta` or `fingerprint`.
    pub fn word(self) -> &'static str {
        match self {
            Verified::No => "no",
            Verified::WebPki => "web_pki",
            Verified::DaneEe => "dane_ee",
            Verified::DaneTa => "dane_ta",
            Verified::Fingerprint => "fingerprint",
        }
    }
}

/// As `TLSv1.3 TLS_AES_256_GCM_SHA384`.
impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version.as_str(), self.cipher)
    }
}
