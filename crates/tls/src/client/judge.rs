//! Whether certificates prove what is demanded.

use aws_lc_rs::digest::{SHA256, digest};
use mail::{CertificateName, Domain};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::failure::TlsFailure;
use super::verifier;
use crate::report::FailureType;

/// Whether an authority vouches for the certificate now, and for one of the names (RFC 6125).
pub(super) fn by_authority(
    own: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    roots: &RootCertStore,
    names: &[CertificateName],
    now: UnixTime,
) -> Result<(), TlsFailure> {
    let parsed = ParsedCertificate::try_from(own).map_err(|error| told(&error))?;
    let algorithms = verifier::algorithms().all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, issuers, now, algorithms)
        .map_err(|error| told(&error))?;
    let has = |name: &CertificateName| match name {
        CertificateName::Exact(name) => {
            server_name(name).is_some_and(|name| verify_server_name(&parsed, &name).is_ok())
        }
        CertificateName::Below(parent) => has_name_below(own, parent),
    };
    if names.iter().any(has) {
        return Ok(());
    }
    let wanted: Vec<String> = names.iter().map(CertificateName::to_string).collect();
    let reason = format!("its certificate is not for {}", wanted.join(" or "));
    Err(TlsFailure::new(FailureType::CertificateHostMismatch, reason))
}

/// Whether the certificate is for the address of a host that has no name.
pub(super) fn by_address(
    own: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    roots: &RootCertStore,
    address: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), TlsFailure> {
    let parsed = ParsedCertificate::try_from(own).map_err(|error| told(&error))?;
    let algorithms = verifier::algorithms().all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, issuers, now, algorithms)
        .map_err(|error| told(&error))?;
    verify_server_name(&parsed, address).map_err(|error| told(&error))
}

/// Whether the certificate or its key has one of the digests.
pub(super) fn by_fingerprint(own: &CertificateDer<'_>, digests: &[[u8; 32]]) -> Result<(), TlsFailure> {
    let is_listed = |octets: &[u8]| digests.iter().any(|listed| digest(&SHA256, octets).as_ref() == listed);
    if is_listed(own) || public_key(own).is_some_and(is_listed) {
        return Ok(());
    }
    let reason = "its certificate has none of the configured fingerprints";
    Err(TlsFailure::new(FailureType::CertificateNotTrusted, reason))
}

/// The SubjectPublicKeyInfo of a certificate, of odd ones too.
pub(super) fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.subject_pki.raw)
}

/// What is inside of a DER SEQUENCE that is the whole text.
pub(super) fn contents(der: &[u8]) -> Option<&[u8]> {
    let (tag, contents, rest) = element(der)?;
    (tag == 0x30 && rest.is_empty()).then_some(contents)
}

/// The first DER element: tag, contents, and what follows it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (octets.iter().fold(0, |length, octet| (length << 8) | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// A name as TLS has it; none for names with an underscore, which no certificate can have.
pub(super) fn server_name(name: &Domain) -> Option<ServerName<'static>> {
    ServerName::try_from(name.as_str().to_owned()).ok()
}

fn has_name_below(own: &CertificateDer<'_>, parent: &Domain) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(own) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => {
            let name = name.strip_prefix("*.").map_or_else(|| (*name).to_owned(), |rest| format!("any.{rest}"));
            Domain::parse(&name).is_ok_and(|name| name.is_below(parent))
        }
        _ => false,
    })
}

/// What the library says, as reports and people have it.
pub(super) fn told(error: &Error) -> TlsFailure {
    let Error::InvalidCertificate(error) = error else {
        return TlsFailure::new(FailureType::ValidationFailure, error.to_string());
    };
    let (kind, reason) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (FailureType::CertificateExpired, "its certificate has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (FailureType::CertificateExpired, "its certificate is not valid yet")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            (FailureType::CertificateHostMismatch, "its certificate is for another name")
        }
        CertificateError::UnknownIssuer => {
            (FailureType::CertificateNotTrusted, "no trusted authority vouches for its certificate")
        }
        CertificateError::BadEncoding => (FailureType::ValidationFailure, "its certificate cannot be read"),
        other => {
            let reason = format!("its certificate is not trusted: {other}");
            return TlsFailure::new(FailureType::CertificateNotTrusted, reason);
        }
    };
    TlsFailure::new(kind, reason)
}
