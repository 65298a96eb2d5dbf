//! Servers in folders of their own, ended with the test.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Says that a test could not be done here.
pub fn skipped(why: &str) {
    println!("skipped: {why}");
}

/// The tree into which `./dev test` unpacks servers: `$POSTRIDER_TEST_ACCOUNTS`, or below `target/peers`.
pub fn tree(program: &str) -> Option<PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/accounts");
    let tree = std::env::var_os("POSTRIDER_TEST_ACCOUNTS").map_or_else(usual, PathBuf::from);
    let tree = tree.canonicalize().ok().filter(|tree| tree.join(program).is_file());
    if tree.is_none() {
        skipped(&format!("{program} is not unpacked"));
    }
    tree
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address").port()
}

/// A server. It gets a signal when it is dropped, which a master tells its children.
pub struct Peer {
    child: Child,
    signal: &'static str,
}

impl Peer {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let out = File::create(log).expect("a log");
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a log")).stderr(out);
        Self { child: command.spawn().expect("it starts"), signal: "-TERM" }
    }

    /// For servers that wait for their clients when they get SIGTERM.
    pub fn stopped_by(mut self, signal: &'static str) -> Self {
        self.signal = signal;
        self
    }

    /// Waits until somebody answers.
    pub fn wait(&mut self, answers: impl Fn() -> bool, log: &Path) {
        let begun = Instant::now();
        while !answers() {
            let ended = self.child.try_wait().expect("its state");
            let told = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none(), "it ended: {}", told());
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not answer: {}", told());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.signal).arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

pub fn listens_at(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// A certificate authority and a server's certificate for `localhost` and 127.0.0.1: `ca.pem`, `cert.pem`, `key.pem`.
pub fn certificates(folder: &Path) {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate =
        rcgen::CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
    std::fs::write(folder.join("ca.pem"), authority_certificate.pem()).expect("a file");
    std::fs::write(folder.join("cert.pem"), certificate.pem()).expect("a file");
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("a file");
}
