//! A web server on loopback that speaks for many hosts, each with a good or a bad certificate and an answer of its own.

#![allow(dead_code, reason = "the tests of the whole binary use another part of it")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    Good,
    Expired,
    OtherName,
    SelfSigned,
}

/// What was asked of the server.
#[derive(Clone, Debug)]
pub struct Request {
    pub host: String,
    pub line: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The server. It ends with the runtime.
pub struct Web {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    certificates: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    answers: Mutex<HashMap<String, String>>,
    requests: Mutex<Vec<Request>>,
}

impl Web {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shared) as Arc<dyn ResolvesServerCert>);
        let (acceptor, state) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&shared));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&state)));
            }
        });
        Self { address, shared }
    }

    /// The host is served, with this whole answer to every request.
    pub fn host(&self, name: &str, certificate: Certificate, answer: impl Into<String>) {
        self.shared.certificates.lock().unwrap().insert(name.to_owned(), certified(name, certificate));
        self.answer(name, answer);
    }

    /// From now on it answers so.
    pub fn answer(&self, name: &str, answer: impl Into<String>) {
        self.shared.answers.lock().unwrap().insert(name.to_owned(), answer.into());
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How often a host was asked.
    pub fn asked(&self, name: &str) -> usize {
        self.requests().iter().filter(|request| request.host == name).count()
    }
}

/// 200 with a policy.
pub fn text(body: &str) -> String {
    respond("200 OK", "Content-Type: text/plain; charset=utf-8\r\n", body)
}

pub fn respond(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

impl ResolvesServerCert for Shared {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificates.lock().unwrap().get(hello.server_name()?).cloned()
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) -> Option<()> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let mut octets = Vec::new();
    let end = loop {
        if let Some(end) = octets.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut octets).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&octets[..end]).into_owned();
    let field = |name: &str| {
        let found = head.lines().find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let length: usize = field("content-length").parse().unwrap_or(0);
    while octets.len() < end + length {
        if stream.read_buf(&mut octets).await.ok()? == 0 {
            return None;
        }
    }
    let host = field("host").split(':').next().unwrap_or_default().to_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let body = octets[end..].to_vec();
    let answer = shared.answers.lock().unwrap().get(&host).cloned()?;
    shared.requests.lock().unwrap().push(Request { host, line, content_type: field("content-type"), body });
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

fn authority() -> &'static Issuer<'static, KeyPair> {
    static AUTHORITY: OnceLock<Issuer<'static, KeyPair>> = OnceLock::new();
    AUTHORITY.get_or_init(|| Issuer::new(authority_params(), KeyPair::generate().unwrap()))
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "the authority of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// The authority that vouches for good certificates, in PEM form.
pub fn authority_pem() -> String {
    authority_params().self_signed(authority().key()).unwrap().pem()
}

/// A good certificate and its key in PEM form.
pub fn pem(name: &str) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, authority()).unwrap().pem(), key.serialize_pem())
}

/// The same without an authority.
pub fn self_signed_pem(name: &str) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The authority that vouches for good certificates.
pub fn roots() -> Arc<RootCertStore> {
    let certificate = authority_params().self_signed(authority().key()).unwrap();
    let mut store = RootCertStore::empty();
    store.add(certificate.der().clone()).unwrap();
    Arc::new(store)
}

fn certified(name: &str, kind: Certificate) -> Arc<CertifiedKey> {
    let name = if kind == Certificate::OtherName { "elsewhere.example" } else { name };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if kind == Certificate::Expired {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }
    let certificate = match kind {
        Certificate::SelfSigned => params.self_signed(&key).unwrap(),
        _ => params.signed_by(&key, authority()).unwrap(),
    };
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Arc::new(CertifiedKey::new(chain, any_supported_type(&key).unwrap()))
}
