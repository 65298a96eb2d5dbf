//! TLS: who we are, which versions, which protocols, whose sessions, whose certificates.

use std::sync::Arc;
use std::time::Duration;

use reception::{ListenerTls, Settings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme};
use smtp::server::TlsOffer;
use tls::{
    Acceptor, AcceptorSettings, Ask, ClientCertificates, ClientRule, Grant, Identities, Identity, Shown, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::testing::{Server, settings, until, within};

/// A certificate with its key, in PEM form.
pub struct Made(pub String, pub String);

pub fn made(names: &[&str]) -> Made {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let (chain, key) = tls::self_signed(&names, None).unwrap();
    Made(chain, key)
}

impl Made {
    fn identity(&self) -> Identity {
        let (chain, key) = ("chain.pem".as_ref(), "key.pem".as_ref());
        Identity::from_pem((chain, self.0.as_bytes()), (key, self.1.as_bytes())).unwrap()
    }
}

fn identities(names: &[&[&str]]) -> Identities {
    Identities::new(names.iter().map(|names| made(names).identity()).collect())
}

pub fn implicit(acceptor: AcceptorSettings) -> ListenerTls {
    let acceptor = Acceptor::new(&identities(&[&["mx.example.org"]]), acceptor).unwrap();
    ListenerTls { implicit: true, ..ListenerTls::new(acceptor) }
}

pub fn with(tls: ListenerTls) -> Settings {
    let mut settings = settings();
    settings.listeners[0].session.tls = if tls.implicit { TlsOffer::Implicit } else { TlsOffer::StartTls };
    settings.listeners[0].tls = Some(tls);
    settings
}

/// The same by STARTTLS.
fn offered() -> Settings {
    with(ListenerTls { implicit: false, ..implicit(AcceptorSettings::default()) })
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's configuration with these versions, which shows this certificate.
pub fn client(versions: &[&'static rustls::SupportedProtocolVersion], shows: Option<&Made>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    match shows {
        None => builder.with_no_client_auth(),
        Some(Made(chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    }
}

/// An SMTP client inside TLS.
pub struct Secure {
    stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl Secure {
    pub async fn over(stream: TcpStream, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = within(TlsConnector::from(config.clone()).connect(name, stream)).await?;
        Ok(Self { stream, read: Vec::new() })
    }

    pub async fn connect(server: &Server, config: &Arc<ClientConfig>) -> std::io::Result<Self> {
        let stream = within(TcpStream::connect(server.address())).await.unwrap();
        Self::over(stream, config, "mx.example.org").await
    }

    pub async fn ask(&mut self, text: &str, expected: &str) -> String {
        within(self.stream.write_all(text.as_bytes())).await.unwrap();
        self.expect(expected).await
    }

    /// The next reply, all of its lines.
    pub async fn expect(&mut self, expected: &str) -> String {
        let mut reply = String::new();
        loop {
            while let Some(end) = self.read.iter().position(|octet| *octet == b'\n') {
                let line = String::from_utf8(self.read.drain(..=end).collect()).unwrap();
                reply.push_str(&line);
                if line.as_bytes().get(3) != Some(&b'-') {
                    assert!(reply.starts_with(expected), "expected {expected}, got {reply:?}");
                    return reply;
                }
            }
            let octets = within(self.stream.read_buf(&mut self.read)).await.unwrap();
            assert!(octets > 0, "expected {expected}, got the end");
        }
    }

    async fn in_transaction(&mut self) {
        self.expect("220 ").await;
        self.ask("EHLO client.example\r\n", "250-").await;
        self.ask("MAIL FROM:<a@client.example>\r\n", "250 ").await;
        self.ask("RCPT TO:<b@example.org>\r\n", "250 ").await;
    }

    async fn in_data(&mut self) {
        self.in_transaction().await;
        self.ask("DATA\r\n", "354 ").await;
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Whether the server has closed.
    pub async fn is_over(&mut self) -> bool {
        self.read.is_empty() && !matches!(within(self.stream.read_buf(&mut self.read)).await, Ok(octets) if octets > 0)
    }

    fn kind(&self) -> HandshakeKind {
        self.stream.get_ref().1.handshake_kind().unwrap()
    }
}

pub const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

#[tokio::test]
async fn mail_comes_inside_tls_of_both_versions() {
    let mut server = Server::start(with(implicit(AcceptorSettings::default())));
    // Larger than every buffer on the way, and than a record.
    let content = format!("Subject: hi\r\n\r\n{}", "0123456789abcdef\r\n".repeat(20_000));
    for (version, expected) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = Arc::new(client(&[version], None));
        let mut client = Secure::connect(&server, &config).await.unwrap();
        assert_eq!(client.stream.get_ref().1.protocol_version(), Some(expected));
        client.in_data().await;
        client.ask(&format!("{content}.\r\n"), "250 2.0.0 ").await;
        assert_eq!(server.arrived().await.content, content);
        client.ask("QUIT\r\n", "221 ").await;
        assert_eq!(within(client.stream.read(&mut [0])).await.unwrap(), 0, "the end is announced");
    }
}

#[tokio::test]
async fn a_service_may_demand_tls_1_3() {
    let server = Server::start(with(implicit(AcceptorSettings { minimum: Version::V1_3, ..Default::default() })));
    let old = Arc::new(client(&[&rustls::version::TLS12], None));
    assert!(Secure::connect(&server, &old).await.is_err());
    until(|| server.count(|m| &m.tls_failures, "incompatible") == 1).await;
    Secure::connect(&server, &Arc::new(client(BOTH, None))).await.unwrap().expect("220 ").await;
}

#[tokio::test]
async fn a_client_that_wants_another_protocol_is_refused() {
    let server = Server::start(with(implicit(AcceptorSettings::default())));
    for (offered, taken) in [(&["h2", "http/1.1"][..], false), (&["h2", "smtp"], true), (&["smtp"], true)] {
        let mut config = client(BOTH, None);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let connected = Secure::connect(&server, &Arc::new(config)).await;
        assert_eq!(connected.is_ok(), taken, "{offered:?}");
    }
    until(|| server.count(|m| &m.tls_failures, "protocol") == 1).await;
}

#[tokio::test]
async fn the_name_asked_for_gets_its_certificate_and_new_ones_come_without_a_break() {
    let names: [&[&str]; 2] = [&["mx.example.org"], &["mail.example.net"]];
    let identities = identities(&names);
    let acceptor = Acceptor::new(&identities, AcceptorSettings::default()).unwrap();
    let server = Server::start(with(ListenerTls { implicit: true, ..ListenerTls::new(acceptor) }));
    let config = Arc::new(client(BOTH, None));
    let shown = |name: &'static str| {
        let (config, address) = (config.clone(), server.address());
        async move {
            let stream = within(TcpStream::connect(address)).await.unwrap();
            Secure::over(stream, &config, name).await.unwrap()
        }
    };
    let sha256 = |identities: &Identities, name| identities.find(name).unwrap().facts().sha256;
    let of = |certificate: CertificateDer<'_>| tls::PeerCertificate::of(&[certificate]).unwrap().sha256;
    for name in ["mx.example.org", "mail.example.net"] {
        assert_eq!(of(shown(name).await.certificate()), sha256(&identities, name));
    }
    assert_eq!(of(shown("other.example").await.certificate()), sha256(&identities, "mx.example.org"));

    let mut old = shown("mx.example.org").await;
    old.expect("220 ").await;
    let before = sha256(&identities, "mx.example.org");
    identities.replace(vec![made(&["mx.example.org"]).identity()]);
    assert_ne!(sha256(&identities, "mx.example.org"), before);
    let fresh = Arc::new(client(BOTH, None));
    let new = Secure::connect(&server, &fresh).await.unwrap();
    assert_eq!(of(new.certificate()), sha256(&identities, "mx.example.org"));
    old.ask("NOOP\r\n", "250 ").await;
}

#[tokio::test]
async fn a_session_is_resumed_by_its_own_service_alone() {
    let shared = identities(&[&["mx.example.org"]]);
    let service = || {
        let acceptor = Acceptor::new(&shared, AcceptorSettings::default()).unwrap();
        Server::start(with(ListenerTls { implicit: true, ..ListenerTls::new(acceptor) }))
    };
    let (one, other) = (service(), service());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(client(&[version], None));
        let go = async |server: &Server| {
            let mut client = Secure::connect(server, &config).await.unwrap();
            client.expect("220 ").await;
            client.ask("QUIT\r\n", "221 ").await;
            client.kind()
        };
        assert_eq!(go(&one).await, HandshakeKind::Full);
        assert_eq!(go(&one).await, HandshakeKind::Resumed);
        assert_eq!(go(&other).await, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn the_end_of_tls_inside_content_drops_the_message() {
    let mut server = Server::start(with(implicit(AcceptorSettings::default())));
    let config = Arc::new(client(BOTH, None));
    let mut client = Secure::connect(&server, &config).await.unwrap();
    client.in_data().await;
    within(client.stream.write_all(b"Subject: hi\r\n\r\nhello\r\n")).await.unwrap();
    within(client.stream.shutdown()).await.unwrap();
    within(client.stream.read_to_end(&mut Vec::new())).await.ok();
    until(|| server.metrics.sessions.get() == 0).await;
    assert!(server.nothing_arrived());
    // Cut off without a word.
    let mut client = Secure::connect(&server, &config).await.unwrap();
    client.in_data().await;
    within(client.stream.write_all(b"Subject: hi\r\n\r\nhello\r\n.\r")).await.unwrap();
    drop(client.stream.into_inner());
    until(|| server.metrics.sessions.get() == 0).await;
    assert!(server.nothing_arrived());
    // Inside the last chunk, and behind one that is not the last.
    for chunk in ["BDAT 100 LAST\r\nSubject: hi\r\n", "BDAT 13\r\nSubject: hi\r\n"] {
        let mut client = Secure::connect(&server, &config).await.unwrap();
        client.in_transaction().await;
        within(client.stream.write_all(chunk.as_bytes())).await.unwrap();
        within(client.stream.shutdown()).await.unwrap();
        within(client.stream.read_to_end(&mut Vec::new())).await.ok();
        until(|| server.metrics.sessions.get() == 0).await;
        assert!(server.nothing_arrived(), "{chunk}");
    }
}

#[tokio::test]
async fn a_slow_handshake_ends() {
    let tls = ListenerTls { handshake_time: Duration::from_millis(50), ..implicit(AcceptorSettings::default()) };
    let server = Server::start(with(tls));
    let mut stream = within(TcpStream::connect(server.address())).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
    // Nothing is said in clear to a client that waits for TLS.
    assert_eq!(within(stream.read(&mut [0])).await.unwrap_or(0), 0);
    until(|| server.count(|m| &m.tls_failures, "slow") == 1).await;
    assert_eq!(server.metrics.sessions.get(), 0);
}

#[tokio::test]
async fn what_is_no_handshake_ends_it() {
    let server = Server::start(with(implicit(AcceptorSettings::default())));
    let mut stream = within(TcpStream::connect(server.address())).await.unwrap();
    stream.write_all(b"EHLO client.example\r\n").await.unwrap();
    let mut heard = Vec::new();
    within(stream.read_to_end(&mut heard)).await.ok();
    assert!(!heard.starts_with(b"2") && !heard.starts_with(b"5"), "{heard:?}");
    until(|| server.count(|m| &m.tls_failures, "invalid") == 1).await;
}

#[tokio::test]
async fn tls_begins_behind_a_proxy_header() {
    let mut settings = with(implicit(AcceptorSettings::default()));
    settings.listeners[0].proxy_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    let mut server = Server::start(settings);
    let mut stream = within(TcpStream::connect(server.address())).await.unwrap();
    stream.write_all(b"PROXY TCP4 203.0.113.5 198.51.100.1 4711 465\r\n").await.unwrap();
    let mut client = Secure::over(stream, &Arc::new(client(BOTH, None)), "mx.example.org").await.unwrap();
    client.in_data().await;
    client.ask("Subject: hi\r\n\r\nhello\r\n.\r\n", "250 ").await;
    assert_eq!(server.arrived().await.envelope.origin.peer, "203.0.113.5:4711".parse().unwrap());
}

#[tokio::test]
async fn a_known_certificate_may_relay() {
    let (known, stranger) = (made(&["gateway.example"]), made(&["gateway.example"]));
    let shown = Shown::Certificate(known.identity().facts().sha256);
    let rule = ClientRule { shown, grant: Grant { relay: true, account: None } };
    let acceptor = AcceptorSettings { certificates: Ask::Optional, ..Default::default() };
    let tls = ListenerTls { clients: ClientCertificates::new(vec![rule]), ..implicit(acceptor) };
    let server = Server::start(with(tls));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (shows, expected) in [(Some(&known), "250 "), (Some(&stranger), "550 5.7.1 "), (None, "550 5.7.1 ")] {
            let config = Arc::new(client(&[version], shows));
            // The second one is resumed, and shows the same.
            for _ in 0..2 {
                let mut client = Secure::connect(&server, &config).await.unwrap();
                client.expect("220 ").await;
                client.ask("EHLO client.example\r\n", "250-").await;
                client.ask("MAIL FROM:<a@client.example>\r\n", "250 ").await;
                client.ask("RCPT TO:<b@elsewhere.example>\r\n", expected).await;
                client.ask("QUIT\r\n", "221 ").await;
            }
        }
    }
}

#[tokio::test]
async fn starttls_begins_anew_inside() {
    let mut server = Server::start(offered());
    let mut plain = server.connect().await.greeted().await;
    plain.ask("STARTTLS", "220 2.0.0 ").await;
    let config = Arc::new(client(BOTH, None));
    let mut client = Secure::over(plain.into_stream(), &config, "mx.example.org").await.unwrap();
    // The greeting from before is forgotten, and STARTTLS is not offered again (RFC 3207 §4.2).
    client.ask("MAIL FROM:<a@client.example>\r\n", "503 ").await;
    let offered = client.ask("EHLO client.example\r\n", "250-").await;
    assert!(!offered.contains("STARTTLS"), "{offered}");
    client.ask("STARTTLS\r\n", "503 ").await;
    client.ask("MAIL FROM:<a@client.example>\r\n", "250 ").await;
    client.ask("RCPT TO:<b@example.org>\r\n", "250 ").await;
    client.ask("DATA\r\n", "354 ").await;
    client.ask("Subject: hi\r\n\r\nhello\r\n.\r\n", "250 ").await;
    let arrived = server.arrived().await;
    assert!(arrived.trace.contains(" with ESMTPS\r\n"), "{}", arrived.trace);
}

#[tokio::test]
async fn commands_injected_behind_starttls_close_the_connection() {
    let server = Server::start(offered());
    let mut client = server.connect().await.greeted().await;
    client.say("STARTTLS\r\nRSET\r\n").await;
    client.expect("5").await;
    client.expect_end().await;
    until(|| server.count(|m| &m.closed, "injected_before_tls") == 1).await;
    // A moment later they are no handshake.
    let mut client = server.connect().await.greeted().await;
    client.ask("STARTTLS", "220 2.0.0 ").await;
    client.say("RSET\r\n").await;
    assert!(!client.rest().await.starts_with('2'));
    until(|| server.count(|m| &m.closed, "tls_handshake") == 1).await;
}
