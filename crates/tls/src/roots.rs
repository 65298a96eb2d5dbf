//! Whom we believe when they vouch for the name of another: the system's certificate authorities, and those of the
//! configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why there is nobody to believe.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("cannot read the certificate authorities in {}: {why}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The file holds none.
    #[error("{} holds no certificate in PEM form", .0.display())]
    Empty(PathBuf),
}

/// The system's certificate authorities (Mozilla's, as they were when this program was built, where the system has none)
/// and those in the PEM file `more`.
pub fn roots(more: Option<&Path>) -> Result<Arc<RootCertStore>, RootsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = more {
        add(&mut store, path)?;
    }
    Ok(Arc::new(store))
}

fn add(store: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let unreadable = |why: &dyn std::fmt::Display| RootsError::Read { path: path.to_owned(), why: why.to_string() };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?;
    let mut found = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        store.add(certificate).map_err(|error| unreadable(&error))?;
        found += 1;
    }
    if found == 0 { Err(RootsError::Empty(path.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_ones_come_on_top() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("more.pem");
        let made = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        std::fs::write(&path, made.cert.pem()).unwrap();
        let (alone, more) = (roots(None).unwrap(), roots(Some(&path)).unwrap());
        assert!(!alone.is_empty());
        assert_eq!(more.len(), alone.len() + 1);
    }

    #[test]
    fn a_file_without_any_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.pem");
        std::fs::write(&path, "nothing\n").unwrap();
        assert!(matches!(roots(Some(&path)), Err(RootsError::Empty(_))));
        assert!(matches!(roots(Some(&folder.path().join("missing.pem"))), Err(RootsError::Read { .. })));
    }
}
