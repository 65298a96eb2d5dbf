//! What waits to be written: commands and slices of content in order, without copying content.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A queue of octets in slices.
#[derive(Default)]
pub struct Output {
    slices: VecDeque<Bytes>,
    /// Commands and short slices gather here, so that a group of them is one slice.
    open: BytesMut,
    length: usize,
}

/// Without the octets, which may be a password.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} octets)", self.length)
    }
}

/// Up to here copying costs less than one more slice.
const SHORT: usize = 128;

impl Output {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Octets that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Fills `slices` from the front for one vectored write; gives how many were filled.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let open = (!self.open.is_empty()).then_some(&self.open[..]);
        let waiting = self.slices.iter().map(|slice| &slice[..]).chain(open);
        let mut filled = 0;
        for (place, slice) in slices.iter_mut().zip(waiting) {
            *place = IoSlice::new(slice);
            filled += 1;
        }
        filled
    }

    /// Takes `written` octets off the front.
    pub fn advance(&mut self, written: usize) {
        let mut left = written.min(self.length);
        self.length -= left;
        while let Some(first) = self.slices.front_mut() {
            if left < first.len() {
                first.advance(left);
                return;
            }
            left -= first.len();
            self.slices.pop_front();
        }
        self.open.advance(left);
    }

    /// Everything that waits, in one piece.
    pub(crate) fn take(&mut self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.length);
        for slice in self.slices.drain(..) {
            whole.extend_from_slice(&slice);
        }
        whole.extend_from_slice(&self.open);
        self.open.clear();
        self.length = 0;
        whole.freeze()
    }

    /// Appends text by copying it.
    pub(crate) fn text(&mut self, text: &[u8]) {
        self.open.extend_from_slice(text);
        self.length += text.len();
    }

    /// Appends a slice of content without copying it, unless it is short.
    pub(crate) fn slice(&mut self, slice: Bytes) {
        if slice.len() <= SHORT {
            return self.text(&slice);
        }
        self.length += slice.len();
        if !self.open.is_empty() {
            self.slices.push_back(self.open.split().freeze());
        }
        self.slices.push_back(slice);
    }

    /// Drops what waits: nothing more may be said.
    pub(crate) fn clear(&mut self) {
        self.slices.clear();
        self.open.clear();
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_octet_once_in_order(
            pieces in proptest::collection::vec((0..400_usize, any::<bool>()), 1..20),
            steps in proptest::collection::vec(1..500_usize, 1..20),
        ) {
            let (mut output, mut expected, mut written) = (Output::default(), Vec::new(), Vec::new());
            for (at, (length, copied)) in pieces.into_iter().enumerate() {
                let piece = vec![at as u8; length];
                expected.extend_from_slice(&piece);
                if copied { output.text(&piece) } else { output.slice(piece.into()) }
            }
            prop_assert_eq!(output.len(), expected.len());
            for step in steps {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = output.fill(&mut slices);
                let offered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                let count = step.min(offered.len());
                written.extend_from_slice(&offered[..count]);
                output.advance(count);
            }
            written.extend_from_slice(&output.take());
            prop_assert_eq!(written, expected);
            prop_assert!(output.is_empty());
        }
    }
}
