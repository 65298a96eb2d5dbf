//! The terms of a service's handshakes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion, version,
};

use super::identities::{ACME_TLS, Identities};

/// The oldest version of TLS that a service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2 (RFC 5246) and 1.3.
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446) alone.
    V1_3,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask {
    /// They are not.
    #[default]
    No,
    /// They may show one. Any is taken that they hold the key of: what it is good for is decided afterwards.
    Optional,
}

/// The terms of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptorSettings {
    /// The oldest version that is spoken.
    pub minimum: Version,
    /// Whether clients are asked for a certificate.
    pub certificates: Ask,
}

/// Makes the handshakes of one service. Tickets that it gives are good here only.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    settings: AcceptorSettings,
}

impl Acceptor {
    /// For a mail service: a client that offers protocols by ALPN must offer `smtp`, so that nobody can lead the browser of
    /// a web server with the same name here (ALPACA).
    pub fn new(identities: &Identities, settings: AcceptorSettings) -> Result<Self, Error> {
        Self::with_protocols(identities, settings, &[b"smtp"])
    }

    /// For a web service: HTTP/1.1, and proofs for certificate authorities (RFC 8737).
    pub fn web(identities: &Identities) -> Result<Self, Error> {
        Self::with_protocols(identities, AcceptorSettings::default(), &[b"http/1.1", ACME_TLS])
    }

    fn with_protocols(identities: &Identities, settings: AcceptorSettings, protocols: &[&[u8]]) -> Result<Self, Error> {
        let versions: &[&SupportedProtocolVersion] = match settings.minimum {
            Version::V1_2 => &[&version::TLS13, &version::TLS12],
            Version::V1_3 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match settings.certificates {
            Ask::No => builder.with_no_client_auth(),
            Ask::Optional => builder.with_client_cert_verifier(Arc::new(AnyCertificate)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(identities.clone()));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // The suites of TLS 1.3 first, then AES-256, AES-128, ChaCha20: a client that lists a weaker one first gets ours.
        config.ignore_client_order = true;
        config.ticketer = tickets()?;
        // Tickets do; a cache on this side would be one more thing that clients make grow.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A mail client keeps one.
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), settings })
    }

    /// As rustls takes it.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The terms.
    pub fn settings(&self) -> AcceptorSettings {
        self.settings
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The cryptography of all our handshakes.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// New ticket keys: they change every six hours, and those before are still understood for as long again.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
}

/// Takes every certificate that the client proves to hold the key of.
#[derive(Debug)]
struct AnyCertificate;

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
