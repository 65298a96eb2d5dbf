//! The command line's end of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Line, Request};

/// A connection to the running server.
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why the server did not answer as wished.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no server answers at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error("the control socket {} may only be used by the server's user", .0.display())]
    Denied(PathBuf),
    /// The server says why not.
    #[error("{0}")]
    Refused(String),
    /// The connection broke, or the answer makes no sense.
    #[error("the server did not answer properly: {0}")]
    Broken(#[from] io::Error),
}

impl ClientError {
    /// What to do about it.
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::NotRunning(_) => Some(
                "start it (postrider serve, systemctl start postrider), or name the socket of the one that runs with \
                 --socket"
                    .to_owned(),
            ),
            Self::Denied(_) => Some("run the command as root or as that user: sudo -u postrider …".to_owned()),
            Self::Refused(_) | Self::Broken(_) => None,
        }
    }
}

impl Client {
    /// Connects to the server behind a socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream) }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(ClientError::Denied(path.to_owned())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(ClientError::NotRunning(path.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for one item.
    pub fn ask(&mut self, request: &Request) -> Result<Value, ClientError> {
        self.ask_patiently(request, |_| Ok(()))
    }

    /// Asks for one item; meanwhile takes what is said of the progress.
    pub fn ask_patiently(
        &mut self,
        request: &Request,
        progress: impl FnMut(Value) -> io::Result<()>,
    ) -> Result<Value, ClientError> {
        let mut answer = None;
        let take = |item| {
            answer = Some(item);
            Ok(())
        };
        self.each_item(request, take, progress)?;
        answer.ok_or_else(|| io::Error::other("an empty answer").into())
    }

    /// Asks for items, and takes each as it comes.
    pub fn each(&mut self, request: &Request, take: impl FnMut(Value) -> io::Result<()>) -> Result<(), ClientError> {
        self.each_item(request, take, |_| Ok(()))
    }

    fn each_item(
        &mut self,
        request: &Request,
        mut take: impl FnMut(Value) -> io::Result<()>,
        mut progress: impl FnMut(Value) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        self.send(request)?;
        loop {
            match self.line()? {
                Line::Item(item) => take(item)?,
                Line::Progress(value) => progress(value)?,
                Line::End => return Ok(()),
                Line::Error(error) => return Err(ClientError::Refused(error)),
                Line::Bytes(_) => return Err(io::Error::other("octets where items were asked for").into()),
            }
        }
    }

    /// Asks for octets, and writes them as they come.
    pub fn copy(&mut self, request: &Request, out: &mut impl Write) -> Result<(), ClientError> {
        self.send(request)?;
        loop {
            match self.line()? {
                Line::Bytes(octets) => {
                    let copied = io::copy(&mut (&mut self.stream).take(octets), out)?;
                    if copied < octets {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                }
                Line::End => return Ok(()),
                Line::Error(error) => return Err(ClientError::Refused(error)),
                Line::Item(_) | Line::Progress(_) => {
                    return Err(io::Error::other("items where octets were asked for").into());
                }
            }
        }
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    fn line(&mut self) -> io::Result<Line> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("it hung up; its log may tell why"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}
