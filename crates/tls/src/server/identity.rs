//! A certificate with its key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use mail::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// The most octets that are read of a PEM file.
const MOST_PEM: u64 = 1 << 20;

/// A certificate chain with the key of its first certificate, ready for handshakes.
#[derive(Clone)]
pub struct Identity {
    pub(crate) certified: Arc<CertifiedKey>,
    facts: IdentityFacts,
}

/// What the first certificate of a chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFacts {
    /// The names it is for, in lower case; a wildcard as `*.example.org`.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`), which is what a TLSA record `3 1 1` holds.
    pub spki_sha256: [u8; 32],
    /// Whether it vouches for itself.
    pub self_signed: bool,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No certificate in PEM form.
    #[error("{} holds no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    /// No private key in PEM form.
    #[error("{} holds no private key in PEM form", .0.display())]
    NoKey(PathBuf),
    /// The certificate makes no sense.
    #[error("the certificate in {} cannot be understood: {why}", file.display())]
    Certificate {
        /// Where it lies.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The key is of a kind that we cannot use.
    #[error("the key in {} cannot be used: {why}", file.display())]
    Key {
        /// Where it lies.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The key is not that of the certificate.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), chain.display())]
    Mismatch {
        /// The certificate.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

impl IdentityError {
    /// What to do about it.
    pub fn cure(&self) -> String {
        match self {
            Self::Read { file, error } if error.kind() == io::ErrorKind::PermissionDenied => {
                format!("let the server's user read it: chgrp postrider {0} && chmod 640 {0}", file.display())
            }
            Self::Read { .. } => "name the right file".to_owned(),
            Self::NoCertificate(_) | Self::Certificate { .. } => {
                "the file begins with -----BEGIN CERTIFICATE-----, the server's own certificate first and those that \
                 vouch for it behind"
                    .to_owned()
            }
            Self::NoKey(_) | Self::Key { .. } => {
                "the key is RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519, in PEM form and without a \
                 passphrase"
                    .to_owned()
            }
            Self::Mismatch { .. } => {
                "name a chain and a key that were made for each other; the server's own certificate \
                                      stands first in the chain"
                    .to_owned()
            }
        }
    }
}

impl Identity {
    /// From two PEM files.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, IdentityError> {
        Self::from_pem((chain, &read(chain)?), (key, &read(key)?))
    }

    /// From what two PEM files hold; their names are for errors.
    pub fn from_pem(chain: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<Self, IdentityError> {
        let (chain_file, chain) = chain;
        let certificates = certificates(chain_file, chain)?;
        let key_der = PrivateKeyDer::from_pem_slice(key.1).map_err(|error| match error {
            pem::Error::NoItemsFound => IdentityError::NoKey(key.0.to_owned()),
            error => IdentityError::Key { file: key.0.to_owned(), why: error.to_string() },
        })?;
        let unusable = |why: String| IdentityError::Certificate { file: chain_file.to_owned(), why };
        let facts = match certificates.first() {
            Some(first) => IdentityFacts::of(first).map_err(unusable)?,
            None => return Err(IdentityError::NoCertificate(chain_file.to_owned())),
        };
        let key_of = super::acceptor::provider().key_provider.load_private_key(key_der);
        let signing = key_of.map_err(|error| IdentityError::Key { file: key.0.to_owned(), why: error.to_string() })?;
        let certified = CertifiedKey::new(certificates, signing);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(IdentityError::Mismatch { chain: chain_file.to_owned(), key: key.0.to_owned() });
            }
            Err(error) => return Err(unusable(error.to_string())),
        }
        Ok(Self { certified: Arc::new(certified), facts })
    }

    /// What its certificate says.
    pub fn facts(&self) -> &IdentityFacts {
        &self.facts
    }
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl IdentityFacts {
    /// Of the first certificate in a PEM file; its key is not needed.
    pub fn from_file(chain: &Path) -> Result<Self, IdentityError> {
        let certificates = certificates(chain, &read(chain)?)?;
        let first = certificates.first().ok_or_else(|| IdentityError::NoCertificate(chain.to_owned()))?;
        Self::of(first).map_err(|why| IdentityError::Certificate { file: chain.to_owned(), why })
    }

    /// Reads a certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_millis(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
        };
        Ok(Self {
            names: dns_names(&parsed),
            not_before: time(parsed.validity().not_before),
            not_after: time(parsed.validity().not_after),
            sha256: sha256(certificate),
            spki_sha256: sha256(parsed.public_key().raw),
            self_signed: parsed.subject() == parsed.issuer(),
        })
    }

    /// The name to call it by: the first one it is for.
    pub fn name(&self) -> &str {
        self.names.first().map_or("unnamed", String::as_str)
    }

    /// Whether it is for this host name (in lower case), also by a wildcard.
    pub fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => parent == Some(below),
            None => name == host,
        })
    }
}

/// The DNS names of a certificate, in lower case.
pub(crate) fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| extension.value.general_names.iter());
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

pub(crate) fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(IdentityError::NoCertificate(file.to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(IdentityError::Certificate { file: file.to_owned(), why: error.to_string() }),
    }
}

/// A whole file, wiped from memory afterwards.
pub(crate) fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let unreadable = |error| IdentityError::Read { file: file.to_owned(), error };
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > MOST_PEM {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any certificate")));
    }
    std::fs::read(file).map(Zeroizing::new).map_err(unreadable)
}

pub(crate) fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, octets).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing::Made;

    fn load(chain: &str, key: &str) -> Result<Identity, IdentityError> {
        Identity::from_pem((Path::new("chain.pem"), chain.as_bytes()), (Path::new("key.pem"), key.as_bytes()))
    }

    #[test]
    fn a_certificate_tells_its_names_and_times() {
        let made = Made::new(&["MX.example.org", "*.wild.example"]);
        let facts = load(&made.chain, &made.key).unwrap().facts().clone();
        assert_eq!(facts.names, ["mx.example.org", "*.wild.example"]);
        assert!(facts.self_signed && facts.not_before < facts.not_after);
        assert!(facts.covers("mx.example.org") && facts.covers("a.wild.example"));
        for other in ["wild.example", "a.b.wild.example", "example.org"] {
            assert!(!facts.covers(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let (one, other) = (Made::new(&["a.example"]), Made::new(&["b.example"]));
        assert!(matches!(load(&one.chain, &other.key), Err(IdentityError::Mismatch { .. })));
        assert!(matches!(load("", &one.key), Err(IdentityError::NoCertificate(_))));
        assert!(matches!(load(&one.chain, &one.chain), Err(IdentityError::NoKey(_))));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(load(broken, &one.key), Err(IdentityError::Certificate { .. })));
        let missing = Identity::from_files(Path::new("/nowhere/chain.pem"), Path::new("/nowhere/key.pem"));
        assert!(matches!(missing, Err(IdentityError::Read { .. })));
    }

    #[test]
    fn keys_are_not_printed() {
        let made = Made::new(&["a.example"]);
        let printed = format!("{:?}", load(&made.chain, &made.key).unwrap());
        assert!(printed.contains("a.example") && !printed.to_lowercase().contains("key:"), "{printed}");
    }
}
