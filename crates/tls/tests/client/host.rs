//! A mail host's end of a handshake, and the certificates that it may show.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use dns::TlsaRecord;
use mail::Domain;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tls::client::Client;
use tokio::net::{TcpListener, TcpStream};

/// A certificate with its key and the chain above it.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Whether a certificate is still good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Age {
    Fresh,
    Expired,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A certificate for the name, shown together with the authority's own.
    pub fn issue(&self, name: &str, age: Age) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, age).signed_by(&key, &self.0).unwrap();
        Identity { chain: vec![certificate.der().clone(), self.certificate()], key: key_of(&key) }
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).unwrap();
        Arc::new(roots)
    }
}

/// A certificate that vouches for itself.
pub fn own(name: &str, age: Age) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params(name, age).self_signed(&key).unwrap();
    Identity { chain: vec![certificate.der().clone()], key: key_of(&key) }
}

fn params(name: &str, age: Age) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    if age == Age::Expired {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    }
    params
}

fn key_of(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// The record that a certificate fits.
pub fn record(usage: u8, selector: u8, matching: u8, certificate: &CertificateDer<'_>) -> TlsaRecord {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    let part: &[u8] = if selector == 0 { certificate } else { parsed.tbs_certificate.subject_pki.raw };
    let data = match matching {
        0 => part.to_vec(),
        1 => digest(&SHA256, part).as_ref().to_vec(),
        _ => digest(&SHA512, part).as_ref().to_vec(),
    };
    TlsaRecord { usage, selector, matching, data: data.into() }
}

/// A server that does one handshake after the other, each with an octet in the end, so that tickets arrive.
pub async fn serve(identity: Identity) -> SocketAddr {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Whether key and certificate belong together is not checked: the library reads no odd certificates for that.
    let key = provider.key_provider.load_private_key(identity.key).unwrap();
    let resolver = SingleCertAndKey::from(CertifiedKey::new(identity.chain, key));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await;
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
            });
        }
    });
    address
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

pub fn client(dns: &dns::testing::Fixed, roots: Arc<RootCertStore>) -> Client {
    Client::new(Arc::new(dns.clone()), Arc::new(tls::mtasts::NoPolicies), roots)
}

pub fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}
