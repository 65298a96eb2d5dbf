//! A connection of a client that follows a script, in clear or inside TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

/// A connection in clear or inside TLS.
pub enum Line {
    /// In clear.
    Clear(TcpStream),
    /// Inside TLS.
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// Goes inside TLS, whoever the server says it is.
    pub fn secure(self, name: &str, patience: Duration) -> io::Result<Self> {
        let Line::Clear(mut socket) = self else { return Err(io::Error::other("inside TLS already")) };
        socket.set_read_timeout(Some(patience))?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(config(), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Line::Secure(Box::new(StreamOwned::new(connection, socket))))
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Line::Clear(socket) => socket,
            Line::Secure(stream) => &stream.sock,
        }
    }

    /// Writes all of it.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Line::Clear(socket) => socket.write_all(octets),
            Line::Secure(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
        }
    }

    /// Reads what is there, or waits for it as long as the socket does.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Line::Clear(socket) => socket.read(buffer),
            Line::Secure(stream) => stream.read(buffer),
        }
    }

    /// Says that nothing more will come, inside TLS by close_notify.
    pub fn finish(&mut self) {
        if let Line::Secure(stream) = self {
            stream.conn.send_close_notify();
            stream.flush().expect("the connection stands");
        }
        self.socket().shutdown(Shutdown::Write).expect("the connection stands");
    }
}

fn config() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let anybody = Arc::new(Anybody(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the versions of the provider");
    Arc::new(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth())
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
