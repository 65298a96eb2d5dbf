//! The input buffer of a connection.
//!
//! Content is handed on in slices of it, so a buffer lives as long as the messages that it carried: its size follows what
//! is expected, a slice that would keep more than twice its size alive is copied, and a large buffer is given up as soon
//! as commands are read again.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::stream::Stream;

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
    pub(crate) async fn read(&mut self, stream: &impl Stream) -> io::Result<usize> {
        loop {
            stream.readable().await?;
            self.make_room();
            match stream.try_read_buf(&mut self.bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// `piece`, which is a slice of the buffer, in a form that may be kept.
    pub(crate) fn keepable(&self, piece: Bytes) -> Bytes {
        if piece.len() < self.size / 2 { Bytes::copy_from_slice(&piece) } else { piece }
    }

    /// A fresh buffer where the present one has little room or the wrong size. `BytesMut::reserve` would make one as large
    /// as the largest before it.
    fn make_room(&mut self) {
        let room = self.bytes.capacity() - self.bytes.len();
        let too_large = self.size > self.next && self.is_empty();
        if room >= SLACK && self.size >= self.next && !too_large {
            return;
        }
        self.size = self.next + self.bytes.len();
        let mut fresh = BytesMut::with_capacity(self.size);
        fresh.extend_from_slice(&self.bytes);
        self.bytes = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads, and somebody takes it all.
    fn read(input: &mut Input, octets: usize) -> Bytes {
        input.make_room();
        input.bytes.extend(std::iter::repeat_n(b'x', octets));
        input.bytes.split().freeze()
    }

    #[test]
    fn the_buffer_follows_what_is_expected() {
        let mut input = Input::default();
        assert_eq!(input.bytes.capacity(), 0);
        read(&mut input, 100);
        assert_eq!((input.size, input.bytes.capacity()), (SMALL, SMALL - 100));
        read(&mut input, SMALL - 100 - SLACK / 2);
        read(&mut input, 100);
        assert_eq!(input.bytes.capacity(), SMALL - 100);
        input.next = LARGE;
        read(&mut input, 5000);
        read(&mut input, 5000);
        assert_eq!(input.bytes.capacity(), LARGE - 10_000);
        input.next = SMALL;
        read(&mut input, 100);
        assert_eq!(input.bytes.capacity(), SMALL - 100);
    }

    #[test]
    fn what_nobody_took_stays() {
        let mut input = Input::default();
        read(&mut input, SMALL - 10);
        input.bytes.extend(b"left over");
        input.make_room();
        assert_eq!(&input.bytes[..], b"left over");
        assert!(input.bytes.capacity() >= SMALL);
    }

    #[test]
    fn no_slice_keeps_more_than_twice_its_size_alive() {
        let mut input = Input { next: MEDIUM, ..Input::default() };
        let small = read(&mut input, 5000);
        assert_ne!(input.keepable(small.clone()).as_ptr(), small.as_ptr());
        let large = read(&mut input, 10_000);
        assert_eq!(input.keepable(large.clone()).as_ptr(), large.as_ptr());
    }
}
