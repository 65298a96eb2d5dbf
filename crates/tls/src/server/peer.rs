//! What a client's certificate says, and whom to believe it.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::acceptor::provider;
use super::identity::{IdentityError, certificates, dns_names, read, sha256};

/// The certificate that a client has shown. It holds the key; nothing else is proven yet.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`).
    pub spki_sha256: [u8; 32],
    /// The DNS names and mail addresses that it says it is for, in lower case. To be believed only when
    /// [`Authorities`] vouch for it.
    pub names: Vec<String>,
    chain: Vec<CertificateDer<'static>>,
}

impl PeerCertificate {
    /// The first of the certificates that the client has sent; nothing if it makes no sense.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let first = chain.first()?;
        let (_, parsed) = X509Certificate::from_der(first).ok()?;
        let mut names = dns_names(&parsed);
        names.extend(mail_names(&parsed));
        Some(Self {
            sha256: sha256(first),
            spki_sha256: sha256(parsed.public_key().raw),
            names,
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
        })
    }
}

/// In short.
impl std::fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

fn mail_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| extension.value.general_names.iter());
    names
        .filter_map(|name| match name {
            GeneralName::RFC822Name(address) => Some(address.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Who may vouch for the names of clients.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// The certificates of a PEM file.
    pub fn from_file(file: &Path) -> Result<Self, IdentityError> {
        let unusable = |why: String| IdentityError::Certificate { file: file.to_owned(), why };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file, &read(file)?)? {
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        verifier.map(Self).map_err(|error| unusable(error.to_string()))
    }

    /// Whether they vouch for the certificate now.
    pub fn vouch_for(&self, certificate: &PeerCertificate) -> bool {
        let Some((first, others)) = certificate.chain.split_first() else { return false };
        self.0.verify_client_cert(first, others, UnixTime::now()).is_ok()
    }
}
