//! A server that follows a script, one script for each connection.

use std::net::SocketAddr;
use std::sync::Arc;

use mail::TargetHost;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A server that takes as many connections as it has scripts, and nothing after that.
pub struct Peer {
    pub address: SocketAddr,
    serving: JoinHandle<Followed>,
    gate: Arc<Semaphore>,
}

/// The usual start, PIPELINING offered.
pub const HELLO: &str = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 PIPELINING\n";
/// One message for one recipient, taken.
pub const TAKES: &str =
    "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\ncontent\nS 250 taken\n";
/// The usual end.
pub const BYE: &str = "C QUIT\nS 221 bye\n";

impl Peer {
    /// `S text`: says it, `|` for a line end. `C text`: reads a line, which must be this. `content`: reads to the final dot. `octets N`: reads
    /// N octets of content. `cut`: ends the connection, as does the end of the script. `reset`: ends it hard. `hang`:
    /// says nothing more, until the client leaves. `deaf`: reads nothing more, and leaves the connection open. `unread`:
    /// waits for input and leaves it there, so that the connection ends by a reset. `wait`: until [`Peer::go_on`]. `tls`:
    /// does the handshake; of what follows only `S`, `C` and `content` are known then.
    pub async fn start(scripts: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", scripts).await
    }

    /// With a certificate to show.
    pub async fn start_tls(certificate: &Certificate, scripts: &[&str]) -> Self {
        Self::serve("127.0.0.1:0", scripts, Some(certificate.acceptor())).await
    }

    /// At an address of one's own.
    pub async fn start_at(address: &str, scripts: &[&str]) -> Self {
        Self::serve(address, scripts, None).await
    }

    async fn serve(address: &str, scripts: &[&str], acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: Vec<String> = scripts.iter().map(|&script| script.to_owned()).collect();
        let gate = Arc::new(Semaphore::new(0));
        let mut followed =
            Followed { contents: Vec::new(), names: Vec::new(), deaf: Vec::new(), gate: Arc::clone(&gate), acceptor };
        let serving = tokio::spawn(async move {
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                followed.follow(stream, &script).await;
            }
            followed
        });
        Self { address, serving, gate }
    }

    /// Ends one `wait`.
    pub fn go_on(&self) {
        self.gate.add_permits(1);
    }

    /// As a host of a target.
    pub fn host(&self, preference: u16) -> TargetHost {
        TargetHost::Address { address: self.address, preference }
    }

    /// The names that were asked for by SNI. All scripts must have been followed.
    pub async fn names(self) -> Vec<String> {
        assert!(self.serving.is_finished() || settled(&self.serving).await, "a script was not followed to its end");
        self.serving.await.unwrap().names
    }

    /// The contents that it got. All scripts must have been followed.
    pub async fn contents(self) -> Vec<String> {
        assert!(self.serving.is_finished() || settled(&self.serving).await, "a script was not followed to its end");
        self.serving.await.unwrap().contents
    }
}

/// Gives the server the chance to see the last of the client's end.
async fn settled(serving: &JoinHandle<Followed>) -> bool {
    for _ in 0..1000 {
        if serving.is_finished() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    false
}

/// What the scripts have led to so far.
struct Followed {
    contents: Vec<String>,
    names: Vec<String>,
    deaf: Vec<BufReader<TcpStream>>,
    gate: Arc<Semaphore>,
    acceptor: Option<TlsAcceptor>,
}

impl Followed {
    async fn follow(&mut self, stream: TcpStream, script: &str) {
        let mut stream = BufReader::new(stream);
        let mut steps = script.lines();
        while let Some(step) = steps.next() {
            if self.talk(&mut stream, step, script).await {
                continue;
            }
            match step.split_once(' ').unwrap_or((step, "")) {
                ("tls", _) => {
                    assert!(stream.buffer().is_empty(), "words behind STARTTLS");
                    let acceptor = self.acceptor.clone().expect("a certificate");
                    // The client may not like it.
                    let Ok(stream) = acceptor.accept(stream.into_inner()).await else { return };
                    self.names.extend(stream.get_ref().1.server_name().map(str::to_owned));
                    let mut stream = BufReader::new(stream);
                    for step in steps {
                        assert!(self.talk(&mut stream, step, script).await, "what is {step} inside TLS?");
                    }
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    return;
                }
                ("octets", count) => {
                    let mut content = vec![0; count.parse().unwrap()];
                    stream.read_exact(&mut content).await.unwrap();
                    self.contents.push(String::from_utf8(content).unwrap());
                }
                ("cut", _) => return,
                ("reset", _) => return stream.get_ref().set_zero_linger().unwrap(),
                ("deaf", _) => return self.deaf.push(stream),
                ("unread", _) => {
                    stream.get_ref().peek(&mut [0]).await.unwrap();
                }
                ("wait", _) => self.gate.acquire().await.unwrap().forget(),
                ("hang", _) => {
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    return;
                }
                other => panic!("what is {other:?}?"),
            }
        }
    }

    /// The steps that are the same on any line; whether it was one.
    async fn talk<S>(&mut self, stream: &mut BufReader<S>, step: &str, script: &str) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match step.split_once(' ').unwrap_or((step, "")) {
            ("S", text) => {
                // The client may have left already: that is its right.
                let text = format!("{}\r\n", text.replace('|', "\r\n"));
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.flush().await;
            }
            ("C", expected) => {
                let mut line = String::new();
                let _ = stream.read_line(&mut line).await;
                assert_eq!(line.trim_end_matches("\r\n"), expected, "in\n{script}");
            }
            ("content", _) => {
                let mut content = String::new();
                while !content.ends_with("\r\n.\r\n") {
                    let read = stream.read_line(&mut content).await.unwrap();
                    assert_ne!(read, 0, "the content ended early: {content}");
                }
                self.contents.push(content);
            }
            _ => return false,
        }
        true
    }
}

/// A certificate that vouches for itself.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// For a name; good for this century.
    pub fn new(name: &str) -> Self {
        Self::made(CertificateParams::new([name.to_owned()]).unwrap())
    }

    /// For a name, and long past its time.
    pub fn expired(name: &str) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        Self::made(params)
    }

    fn made(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { der: params.self_signed(&key).unwrap().der().clone(), key: key.serialize_der() }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], PrivateKeyDer::try_from(self.key.clone()).unwrap())
            .unwrap();
        Arc::new(config).into()
    }
}
