//! The server's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::answer::Control;
use super::{Line, Request};

/// The longest request.
const MOST_REQUEST: u64 = 64 << 10;
/// How many commands may be answered at a time; more wait.
const MOST_CONNECTIONS: usize = 32;
/// How long a client may take to ask, and to read each part of its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A bound control socket. Its file goes when it is dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    control: Arc<Control>,
}

impl Server {
    /// Opens the socket. The store is ours alone, so a socket that lies there is what a crash has left.
    pub fn bind(path: &Path, control: Control) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned(), control: Arc::new(control) })
    }

    /// Answers until the task is dropped.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let control = Arc::clone(&self.control);
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &control).await {
                            debug!(%error, "a control connection ended early");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "the control socket cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays behind is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers one request after the other.
async fn converse(stream: UnixStream, control: &Control) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let mut answer = Answer { out: write };
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MOST_REQUEST);
        let read = tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await;
        if read.map_err(io::Error::from)?? == 0 {
            return Ok(());
        }
        let result = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => control.answer(request, &mut answer).await,
            Err(error) => Err(Refusal::new(format!("this request makes no sense: {error}"))),
        };
        match result {
            Ok(()) => answer.line(&Line::End).await?,
            Err(Refusal::Said(why)) => answer.line(&Line::Error(why)).await?,
            Err(Refusal::Gone(error)) => return Err(error),
        }
    }
}

/// Where an answer goes, piece by piece.
pub struct Answer {
    out: OwnedWriteHalf,
}

/// Why an answer ends early.
#[derive(Debug)]
pub enum Refusal {
    /// The client is told.
    Said(String),
    /// There is no client any more.
    Gone(io::Error),
}

impl Refusal {
    /// In words for people.
    pub fn new(why: impl ToString) -> Self {
        Self::Said(why.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

impl Answer {
    /// Sends one item.
    pub async fn item(&mut self, item: &impl Serialize) -> Result<(), Refusal> {
        let value = serde_json::to_value(item).map_err(Refusal::new)?;
        Ok(self.line(&Line::Item(value)).await?)
    }

    /// Tells how far it came.
    pub async fn progress(&mut self, progress: &impl Serialize) -> Result<(), Refusal> {
        let value = serde_json::to_value(progress).map_err(Refusal::new)?;
        Ok(self.line(&Line::Progress(value)).await?)
    }

    /// Sends octets.
    pub async fn bytes(&mut self, bytes: &Bytes) -> Result<(), Refusal> {
        self.line(&Line::Bytes(bytes.len() as u64)).await?;
        Ok(self.write(bytes).await?)
    }

    async fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.write(&text).await
    }

    async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        tokio::time::timeout(PATIENCE, self.out.write_all(octets)).await.map_err(io::Error::from)?
    }
}
