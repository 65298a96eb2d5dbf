//! What rustls asks about a server's certificate.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::odd::{self, Try};
use super::policy::Proof;

/// Holds a server to a proof. A failure travels inside of the library's error.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) proof: Proof,
    pub(super) roots: Arc<RootCertStore>,
}

/// The signatures that we can check.
pub(super) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);
    &ALGORITHMS
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = [own].into_iter().chain(issuers).cloned().collect();
        match self.proof.judge(&chain, &self.roots, now) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(failure) => Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(failure))))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(certificate).is_ok() {
            return verify_tls12_signature(message, certificate, signed, algorithms());
        }
        odd::verify(message, certificate, signed, algorithms(), Try::Each)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(certificate).is_ok() {
            return verify_tls13_signature(message, certificate, signed, algorithms());
        }
        odd::verify(message, certificate, signed, algorithms(), Try::First)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
