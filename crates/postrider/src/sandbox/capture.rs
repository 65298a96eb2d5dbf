//! The capture server: takes every message, writes it to a file, and says so in a line.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mail::{Act, EnhancedCode, Envelope, MessageId, Reply};
use reception::{Draft, Intake, Listener, Networks, Refused, Relay, Settings, Socket};

use crate::logs::{recipient, sender};
use crate::output;

/// Takes everything into a folder.
#[derive(Clone, Debug)]
pub struct Capture {
    folder: Arc<PathBuf>,
}

impl Capture {
    /// Writes to this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder: Arc::new(folder) }
    }
}

/// A listener that takes mail for everybody: it is reached from this machine only.
pub fn settings(listener: TcpListener, address: SocketAddr) -> Settings {
    let loopback = reception::Network::around(address.ip(), 8);
    let relay = Relay::from_networks(Networks::from_iter([loopback]));
    let hostname = match mail::Domain::parse("capture.localhost") {
        Ok(hostname) => hostname,
        Err(_) => unreachable!("a constant that is a domain name"),
    };
    let mut session = smtp::server::Config::new(hostname);
    session.limits.message = 1 << 30;
    let mut listening = Listener::new("capture", address, session, relay);
    listening.socket = Socket::Inherited(Arc::new(listener));
    Settings::new(vec![listening])
}

impl Intake for Capture {
    fn begin(&self, _expected: Option<u64>) -> Result<Box<dyn Draft>, Refused> {
        Ok(Box::new(CaptureDraft { folder: Arc::clone(&self.folder), content: Vec::new() }))
    }
}

struct CaptureDraft {
    folder: Arc<PathBuf>,
    content: Vec<u8>,
}

impl Draft for CaptureDraft {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), Refused>> {
        self.content.extend_from_slice(&piece);
        async { Ok(()) }.boxed()
    }

    fn submit(
        self: Box<Self>,
        envelope: Envelope,
        trace: Bytes,
        _: Option<Act>,
    ) -> BoxFuture<'static, Result<MessageId, Refused>> {
        async move {
            let path = self.folder.join(format!("{}.eml", envelope.id));
            let told = line(&envelope, &path);
            let id = envelope.id;
            let writing = tokio::task::spawn_blocking(move || write(&path, &envelope, &trace, &self.content));
            match writing.await {
                Ok(Ok(())) => {
                    // Whether anybody looks at the terminal does not matter to the message.
                    let _ = output::line(told);
                    Ok(id)
                }
                Ok(Err(error)) => Err(refused(&error.to_string())),
                Err(error) => Err(refused(&error.to_string())),
            }
        }
        .boxed()
    }
}

fn line(envelope: &Envelope, path: &std::path::Path) -> String {
    let recipients: Vec<String> = envelope.recipients.iter().map(|one| recipient(&one.path)).collect();
    let text =
        format!("captured from {} to {}: {}", sender(&envelope.reverse_path), recipients.join(", "), path.display());
    output::harmless(&text)
}

/// As a mailbox would keep it: the envelope in front (RFC 5321 §4.4 for Return-Path), then the trace, then the message.
fn write(path: &std::path::Path, envelope: &Envelope, trace: &[u8], content: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let sender = envelope.reverse_path.mailbox().map(ToString::to_string).unwrap_or_default();
    write!(file, "Return-Path: <{sender}>\r\n")?;
    for one in &envelope.recipients {
        write!(file, "Delivered-To: {}\r\n", recipient(&one.path))?;
    }
    file.write_all(trace)?;
    file.write_all(content)
}

fn refused(error: &str) -> Refused {
    let reply = Reply::new(452, EnhancedCode::new(4, 3, 1), format!("The message cannot be captured: {error}"));
    Refused { reply, reason: "capture", passing: false }
}
