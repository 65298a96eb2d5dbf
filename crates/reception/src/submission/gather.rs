//! Holds a message back until its header section is whole.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// What came of a header section so far.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    buffer: BytesMut,
    searched: usize,
}

impl Gather {
    /// Takes a piece of the content. Gives the header section with its empty line, and what follows it, once they are there.
    pub(crate) fn push(&mut self, piece: Bytes) -> Option<(Bytes, Bytes)> {
        if self.buffer.is_empty()
            && let Some(end) = end(&piece, 0)
        {
            return Some((piece.slice(..end), piece.slice(end..)));
        }
        self.buffer.extend_from_slice(&piece);
        let end = end(&self.buffer, self.searched);
        // The end may lie across two pieces.
        self.searched = self.buffer.len().saturating_sub(3);
        end.map(|end| {
            let header = self.buffer.split_to(end).freeze();
            (header, std::mem::take(&mut self.buffer).freeze())
        })
    }

    /// Octets that are held back.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// All there is: a message that ends with its header section.
    pub(crate) fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}

/// Where the body begins.
fn end(content: &[u8], from: usize) -> Option<usize> {
    if content.starts_with(b"\r\n") {
        return Some(2);
    }
    memmem::find(&content[from..], b"\r\n\r\n").map(|at| from + at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_content_is_cut() {
        for message in ["a: b\r\nc: d\r\n\r\nbody\r\n\r\nmore", "\r\nbody", "a: b\r\n\r\n", "a: b\r\n\r\n\r\n"] {
            let head = if message.starts_with("\r\n") { 2 } else { message.find("\r\n\r\n").unwrap() + 4 };
            for cut in 1..=message.len() {
                let mut gather = Gather::default();
                let mut pieces = message.as_bytes().chunks(cut);
                let (header, rest) =
                    pieces.by_ref().find_map(|piece| gather.push(Bytes::copy_from_slice(piece))).unwrap();
                let rest = [&rest[..], &pieces.collect::<Vec<_>>().concat()].concat();
                assert_eq!((&header[..], &rest[..]), message.as_bytes().split_at(head), "{message:?} {cut}");
                assert_eq!(gather.len(), 0);
            }
        }
        let mut gather = Gather::default();
        assert_eq!(gather.push(Bytes::from_static(b"a: b\r\n")), None);
        assert_eq!(gather.finish(), "a: b\r\n");
    }
}
