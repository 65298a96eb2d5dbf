//! The handshake: configurations with their resumable sessions, one per host and proof.

use std::io;
use std::sync::Arc;

use mail::TlsFacts;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig, Error, OtherError};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::failure::TlsFailure;
use super::policy::{Policy, Proof};
use super::verifier::Verifier;
use super::{Client, judge};
use crate::report::FailureType;

/// A line with TLS on it.
pub type TlsStream<S> = tokio_rustls::client::TlsStream<S>;

/// What one configuration, and with it the sessions that can be resumed, is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    host: String,
    proof: Proof,
    post_quantum: bool,
}

/// What is known of a secured line.
#[derive(Clone, Debug)]
pub struct Secured {
    /// For logs and records.
    pub facts: TlsFacts,
    /// The certificates that the host has shown the key for, its own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What binds an authentication to this very session (RFC 9266); under TLS 1.3 only.
    pub exporter: Option<[u8; 32]>,
}

/// The sessions that are kept of one host: as many TLS 1.3 tickets, or one session of TLS 1.2.
const SESSIONS: usize = 8;

/// With and without a post-quantum key exchange. One with it makes a ClientHello of two segments, on which some hosts and
/// boxes in front of them choke.
pub(super) fn providers() -> (CryptoProvider, CryptoProvider) {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let with = |kx_groups| CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    (with(vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1]), with(vec![X25519, SECP256R1, SECP384R1]))
}

impl Client {
    /// Does the handshake and holds the host to the policy. The caller bounds the time; one that runs out is to be told by
    /// [`Client::choked`].
    pub async fn handshake<S>(&self, stream: S, policy: &Policy) -> Result<(TlsStream<S>, Secured), TlsFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = policy.host_text();
        let post_quantum = !self.0.classic_hosts.contains_key(host.as_str());
        let key = Key { host, proof: policy.proof(), post_quantum };
        let config = self.config(&key)?;
        let connector = TlsConnector::from(config);
        let stream = connector.connect(policy.server_name(), stream).await.map_err(|error| {
            let failure = failure(&error);
            match failure {
                Ok(certificate) => certificate,
                Err(failure) => TlsFailure { again: self.choked(policy), ..failure },
            }
        })?;
        let secured = secured(stream.get_ref().1, policy)?;
        Ok((stream, secured))
    }

    /// The handshake came to nothing. Whether another one, with a smaller ClientHello, may come to more.
    pub fn choked(&self, policy: &Policy) -> bool {
        let host = policy.host_text();
        let first = !self.0.classic_hosts.contains_key(host.as_str());
        if first {
            self.0.classic_hosts.insert(host.into(), ());
        }
        first
    }

    fn config(&self, key: &Key) -> Result<Arc<ClientConfig>, TlsFailure> {
        if let Some(config) = self.0.configs.get(key) {
            return Ok(config);
        }
        let provider = if key.post_quantum { &self.0.post_quantum } else { &self.0.classic };
        let verifier = Verifier { proof: key.proof.clone(), roots: Arc::clone(&self.0.roots) };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsFailure::new(FailureType::ValidationFailure, error.to_string()))?;
        let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        self.0.configs.insert(key.clone(), Arc::clone(&config));
        Ok(config)
    }
}

/// The facts of a line, if its certificates prove what is demanded. A resumed session shows those of the first handshake.
fn secured(connection: &rustls::ClientConnection, policy: &Policy) -> Result<Secured, TlsFailure> {
    let chain: Vec<CertificateDer<'static>> = connection.peer_certificates().unwrap_or_default().to_vec();
    let verified = policy.judge(&chain, UnixTime::now())?;
    let unfinished = || TlsFailure::new(FailureType::ValidationFailure, "the TLS handshake did not end");
    let facts = crate::session_facts(connection, verified).ok_or_else(unfinished)?;
    let binds = facts.version == mail::TlsVersion::V1_3;
    let exported = || connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
    let exporter = binds.then(exported).and_then(Result::ok);
    Ok(Secured { facts, chain, exporter })
}

/// What a broken handshake means: `Ok` where the certificate was refused, by our verifier or the library's.
fn failure(error: &io::Error) -> Result<TlsFailure, TlsFailure> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(ours)))) => {
            let ours = ours.downcast_ref::<TlsFailure>().cloned();
            Ok(ours.unwrap_or_else(|| TlsFailure::new(FailureType::CertificateNotTrusted, error.to_string())))
        }
        Some(error @ Error::InvalidCertificate(_)) => Ok(judge::told(error)),
        Some(error) => Err(broken(&error.to_string())),
        None => Err(broken(&error.to_string())),
    }
}

fn broken(why: &str) -> TlsFailure {
    TlsFailure::new(FailureType::ValidationFailure, format!("the TLS handshake failed: {why}"))
}
