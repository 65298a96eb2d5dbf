//! Load for measurements of SMTP over STARTTLS: a generator and a sink, the same for every server.
//!
//! ```text
//! load certificate FOLDER                       a certificate for `bench.test`: FOLDER/cert.pem, FOLDER/key.pem
//! load source PORT SESSIONS COUNT SIZE [reuse]  sends COUNT messages to 127.0.0.1:PORT
//! load sink PORT FOLDER                         takes all, and prints `mesg=N` as it goes
//! ```
//!
//! The generator does not pipeline and does not resume sessions, which is what a server on the Internet meets most.
//! Neither side checks a certificate.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match words.as_slice() {
        ["certificate", folder] => certificate(Path::new(folder)),
        ["source", port, sessions, count, size, rest @ ..] => {
            let load = Load {
                port: port.parse()?,
                left: AtomicU64::new(count.parse()?),
                keep: rest.contains(&"reuse"),
                content: content(size.parse()?),
                connector: TlsConnector::from(Arc::new(client()?)),
            };
            runtime.block_on(source(Arc::new(load), sessions.parse()?))
        }
        ["sink", port, folder] => runtime.block_on(sink(port.parse()?, Path::new(folder))),
        _ => Err("load certificate FOLDER | source PORT SESSIONS COUNT SIZE [reuse] | sink PORT FOLDER".into()),
    }
}

fn certificate(folder: &Path) -> Result<(), Failure> {
    let made = rcgen::generate_simple_self_signed(["bench.test".to_owned()])?;
    std::fs::write(folder.join("cert.pem"), made.cert.pem())?;
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

/// What all sessions of the generator share.
struct Load {
    port: u16,
    left: AtomicU64,
    keep: bool,
    content: Vec<u8>,
    connector: TlsConnector,
}

impl Load {
    /// Takes one of the messages that are left.
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// A message of about that many octets, in lines, with the final dot.
fn content(size: usize) -> Vec<u8> {
    let mut content = b"From: from@bench.test\r\nTo: to@bench.test\r\nSubject: load\r\n\r\n".to_vec();
    while content.len() < size {
        content.extend_from_slice(&[b'x'; 70]);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(b".\r\n");
    content
}

async fn source(load: Arc<Load>, sessions: usize) -> Result<(), Failure> {
    let tasks: Vec<_> = (0..sessions).map(|_| tokio::spawn(session(load.clone()))).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn session(load: Arc<Load>) -> Result<(), Failure> {
    while load.take() {
        let tcp = TcpStream::connect(("127.0.0.1", load.port)).await?;
        tcp.set_nodelay(true)?;
        let mut plain = BufReader::new(tcp);
        reply(&mut plain, '2').await?;
        ask(&mut plain, b"EHLO bench.test\r\n", '2').await?;
        ask(&mut plain, b"STARTTLS\r\n", '2').await?;
        let name = ServerName::try_from("bench.test")?;
        let mut secure = BufReader::new(load.connector.connect(name, plain.into_inner()).await?);
        ask(&mut secure, b"EHLO bench.test\r\n", '2').await?;
        loop {
            ask(&mut secure, b"MAIL FROM:<from@bench.test>\r\n", '2').await?;
            ask(&mut secure, b"RCPT TO:<to@bench.test>\r\n", '2').await?;
            ask(&mut secure, b"DATA\r\n", '3').await?;
            ask(&mut secure, &load.content, '2').await?;
            if !load.keep || !load.take() {
                break;
            }
        }
        ask(&mut secure, b"QUIT\r\n", '2').await?;
    }
    Ok(())
}

async fn ask<S>(stream: &mut BufReader<S>, octets: &[u8], wanted: char) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.get_mut().write_all(octets).await?;
    stream.get_mut().flush().await?;
    reply(stream, wanted).await
}

async fn reply<S: AsyncRead + Unpin>(stream: &mut BufReader<S>, wanted: char) -> Result<(), Failure> {
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err("the server closed the connection".into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            break;
        }
    }
    if line.starts_with(wanted) { Ok(()) } else { Err(format!("the server said {line}").into()) }
}

async fn sink(port: u16, folder: &Path) -> Result<(), Failure> {
    let chain = CertificateDer::pem_file_iter(folder.join("cert.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let (acceptor, taken) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicU64::new(0)));
    tokio::spawn(count(taken.clone()));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let (acceptor, taken) = (acceptor.clone(), taken.clone());
        // Who comes and goes without mail, such as a probe of the port, is no failure.
        tokio::spawn(async move { serve(tcp, acceptor, taken).await });
    }
}

/// Prints the number of messages whenever it has changed.
async fn count(taken: Arc<AtomicU64>) {
    let mut told = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = taken.load(Ordering::Relaxed);
        if now != told {
            println!("mesg={now}");
            told = now;
        }
    }
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, taken: Arc<AtomicU64>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut plain = BufReader::new(tcp);
    plain.get_mut().write_all(b"220 sink.test ESMTP\r\n").await?;
    if !converse(&mut plain, &taken, true).await? {
        return Ok(());
    }
    let mut secure = BufReader::new(acceptor.accept(plain.into_inner()).await?);
    converse(&mut secure, &taken, false).await?;
    Ok(())
}

/// Answers until the end, or until STARTTLS: then `true`.
async fn converse<S>(stream: &mut BufReader<S>, taken: &AtomicU64, clear: bool) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_slice() {
            b"EHLO" if clear => b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 STARTTLS\r\n",
            b"EHLO" => b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            b"STAR" => b"220 go ahead\r\n",
            b"DATA" => b"354 go ahead\r\n",
            b"QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        stream.get_mut().write_all(answer).await?;
        stream.get_mut().flush().await?;
        match verb.as_slice() {
            b"STAR" => return Ok(true),
            b"QUIT" => return Ok(false),
            b"DATA" => {
                while line != b".\r\n" {
                    line.clear();
                    if stream.read_until(b'\n', &mut line).await? == 0 {
                        return Ok(false);
                    }
                }
                taken.fetch_add(1, Ordering::Relaxed);
                stream.get_mut().write_all(b"250 taken\r\n").await?;
                stream.get_mut().flush().await?;
            }
            _ => {}
        }
    }
}

/// Takes every certificate, and forgets sessions.
fn client() -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
