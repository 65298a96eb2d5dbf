//! Signatures of servers whose certificates webpki does not read: X.509 version 1, and other odd ones that mail servers
//! have had for decades. Only the form of the certificate is taken lightly; the signature is checked as always.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DigitallySignedStruct, Error};
use rustls_pki_types::CertificateDer;

use super::judge::{contents, element, public_key};

/// How many algorithms of a scheme are tried: TLS 1.3 ties a scheme to its curve, TLS 1.2 does not (RFC 8446 §4.2.3).
#[derive(Clone, Copy, Debug)]
pub(super) enum Try {
    First,
    Each,
}

/// Whether the server has the key of its certificate.
pub(super) fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    how: Try,
) -> Result<(), Error> {
    let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (algorithm, key) = public_key(certificate).and_then(split).ok_or_else(unreadable)?;
    let of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let most = match how {
        Try::First => 1,
        Try::Each => usize::MAX,
    };
    let mut candidates = of_scheme.flat_map(|(_, algorithms)| algorithms.iter()).take(most);
    let verified = candidates.any(|candidate| {
        let fits = candidate.public_key_alg_id().as_ref() == algorithm;
        fits && candidate.verify_signature(key, message, signed.signature()).is_ok()
    });
    if verified { Ok(()) } else { Err(Error::InvalidCertificate(CertificateError::BadSignature)) }
}

/// The algorithm identifier (without its tag) and the key of a SubjectPublicKeyInfo (RFC 5280 §4.1).
fn split(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let (0x30, algorithm, rest) = element(contents(info)?)? else { return None };
    let (0x03, bits, []) = element(rest)? else { return None };
    // The first octet counts the unused bits of the last one.
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key))? else { return None };
    Some((algorithm, key))
}
