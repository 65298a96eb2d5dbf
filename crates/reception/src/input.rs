//! The input buffer of a connection.
//!
//! Content is handed on in slices of it, so a buffer lives as long as the messages that it carried: its size follows what
//! is expected, and a large one is given up as soon as commands are read again.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

/// The buffer for commands, and the least for content.
pub(crate) const SMALL: usize = 4 << 10;
/// The buffer for content of unknown size: most messages fit.
pub(crate) const MEDIUM: usize = 16 << 10;
/// The largest buffer.
pub(crate) const LARGE: usize = 64 << 10;
/// A buffer with less room than this is replaced before a read.
pub(crate) const SLACK: usize = 512;

/// Bytes that were read and that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) bytes: BytesMut,
    /// How large the next buffer is.
    pub(crate) next: usize,
    /// How large the present one is; `bytes` may be but the end of it.
    size: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), next: SMALL, size: 0 }
    }
}

impl Input {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the last read filled the buffer, so that there may be much more.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() == self.bytes.capacity()
    }

    /// Waits for input and reads once; 0 is the end. No buffer is made before there is something to read. Losing the
    /// future loses nothing.
    pub(crate) async fn read(&mut self, stream: &TcpStream) -> io::Result<usize> {
        if self.is_empty() && self.size > self.next {
            self.bytes = BytesMut::new();
        }
        loop {
            stream.readable().await?;
            self.make_room();
            match stream.try_read_buf(&mut self.bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// A fresh buffer where the present one has little room. `BytesMut::reserve` would make one as large as the largest
    /// before it.
    fn make_room(&mut self) {
        if self.bytes.capacity() - self.bytes.len() >= SLACK {
            return;
        }
        self.size = self.next.max(SLACK) + self.bytes.len();
        let mut fresh = BytesMut::with_capacity(self.size);
        fresh.extend_from_slice(&self.bytes);
        self.bytes = fresh;
    }
}
