//! What proves that a name is ours, for as long as the authority looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::AcmeError;
use crate::server::acceptor;
use crate::server::identities::Identities;

/// Proofs that are shown at this moment; clones show the same.
#[derive(Clone)]
pub struct Proofs(Arc<Inner>);

struct Inner {
    identities: Identities,
    /// What the web server answers with, by token (RFC 8555 §8.3).
    answers: Mutex<HashMap<String, String>>,
}

/// A proof; it is shown until it is dropped.
pub(super) struct Shown {
    proofs: Proofs,
    what: What,
}

enum What {
    Answer(String),
    Handshake(String),
}

impl Proofs {
    /// Handshakes are answered by these identities.
    pub fn new(identities: Identities) -> Self {
        Self(Arc::new(Inner { identities, answers: Mutex::default() }))
    }

    /// The routes that a web server on port 80 needs.
    pub fn router(&self) -> Router {
        Router::new().route("/.well-known/acme-challenge/{token}", get(answer)).with_state(self.clone())
    }

    /// http-01.
    pub(super) fn answer(&self, token: &str, authorization: &str) -> Shown {
        self.answers().insert(token.to_owned(), authorization.to_owned());
        Shown { proofs: self.clone(), what: What::Answer(token.to_owned()) }
    }

    /// tls-alpn-01 (RFC 8737 §3): a certificate for the name with the digest of the authorisation in it.
    pub(super) fn handshake(&self, name: &str, digest: &[u8]) -> Result<Shown, AcmeError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec![name.to_owned()])?;
        parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = parameters.self_signed(&key)?.der().clone();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = acceptor::provider().key_provider.load_private_key(secret)?;
        self.0.identities.prove(name, CertifiedKey::new(vec![certificate], signing));
        Ok(Shown { proofs: self.clone(), what: What::Handshake(name.to_owned()) })
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        match &self.what {
            What::Answer(token) => drop(self.proofs.answers().remove(token)),
            What::Handshake(name) => self.proofs.0.identities.proven(name),
        }
    }
}

async fn answer(State(proofs): State<Proofs>, UrlPath(token): UrlPath<String>) -> impl IntoResponse {
    match proofs.answers().get(&token) {
        Some(authorization) => Ok(([(CONTENT_TYPE, "application/octet-stream")], authorization.clone())),
        None => Err(StatusCode::NOT_FOUND),
    }
}
