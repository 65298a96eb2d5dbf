//! Reading lines and replies from a connection, for the parties outside of the process.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::network::End;

/// A connection that is read line by line.
pub struct Talk {
    /// The connection.
    pub end: End,
    input: Vec<u8>,
    at: usize,
}

/// The connection is over, or the other side took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over;

impl Talk {
    /// Over a connection.
    pub fn new(end: End) -> Self {
        Self { end, input: Vec::new(), at: 0 }
    }

    /// The next line, without its end.
    pub async fn line(&mut self, patience: Duration) -> Result<String, Over> {
        let line = self.raw_line(patience).await?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next line, as it came.
    pub async fn raw_line(&mut self, patience: Duration) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(length) = self.input[self.at..].iter().position(|octet| *octet == b'\n') {
                let line = self.input[self.at..=self.at + length].to_vec();
                self.at += length + 1;
                return Ok(line);
            }
            self.fill(patience).await?;
        }
    }

    /// So many octets.
    pub async fn octets(&mut self, count: usize, patience: Duration) -> Result<Vec<u8>, Over> {
        while self.input.len() - self.at < count {
            self.fill(patience).await?;
        }
        let octets = self.input[self.at..self.at + count].to_vec();
        self.at += count;
        Ok(octets)
    }

    /// A reply: its code, and the text of its last line.
    pub async fn reply(&mut self, patience: Duration) -> Result<(u16, String), Over> {
        loop {
            let line = self.line(patience).await?;
            let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or(Over)?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, line.get(4..).unwrap_or("").to_owned()));
            }
        }
    }

    /// Writes all of it.
    pub async fn say(&mut self, octets: impl AsRef<[u8]>) -> Result<(), Over> {
        self.end.write_all(octets.as_ref()).await.map_err(|_| Over)
    }

    async fn fill(&mut self, patience: Duration) -> Result<(), Over> {
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        match timeout(patience, self.end.read_buf(&mut self.input)).await {
            Ok(Ok(1..)) => Ok(()),
            _ => Err(Over),
        }
    }
}
