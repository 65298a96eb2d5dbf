//! A certificate that vouches for itself, for the time before there is a better one: mail servers take it when they do
//! not verify, and a TLSA record (DANE) makes it as good as any.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};

/// How long it is good for.
const YEARS: u32 = 5;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why none could be made.
#[derive(Debug, thiserror::Error)]
#[error("no self-signed certificate could be made: {0}")]
pub struct SelfSignedError(#[from] rcgen::Error);

/// A self-signed certificate for `names` and its key, both in PEM form. With `key`, which is in PEM form too, that key
/// goes on: what others have noted of it (TLSA `3 1 1`) stays true.
pub fn self_signed(names: &[String], key: Option<&str>) -> Result<(String, String), SelfSignedError> {
    let key = match key {
        Some(pem) => KeyPair::from_pem(pem)?,
        None => KeyPair::generate()?,
    };
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(first) = names.first() {
        parameters.distinguished_name.push(DnType::CommonName, first.as_str());
    }
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // A clock of the other side that is a little behind does no harm.
    let now = SystemTime::now();
    parameters.not_before = (now - DAY).into();
    parameters.not_after = (now + DAY * (365 * YEARS)).into();
    let certificate = parameters.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
