//! What becomes of changes that were not synced when the power goes: decided by a seed.

use mail::Randomness;

/// What is believed of the trace. Anything but [`Belief::All`] is a planted fault, to see that the check finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// The trace as it is.
    All,
    /// As if no file had ever been synced.
    NoFileSyncs,
    /// As if no folder had ever been synced.
    NoNameSyncs,
    /// As if each message had been acknowledged when it was written, and not when it was synced.
    EarlyReplies,
}

/// How a disk treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// All of it is lost.
    Lost,
    /// All of it is there, as after the crash of a process.
    Kept,
    /// All of it up to some moment, the last change torn.
    Prefix,
    /// Each change by itself is there, lost or torn.
    Each,
    /// Each sector or page by itself has any of its states since the sync.
    Pieces,
}

/// What happens to everything on the disk at one cut.
#[derive(Debug)]
pub struct Fate {
    randomness: Randomness,
    belief: Belief,
    /// Nothing if each file has its own.
    manner: Option<Manner>,
    /// Octets that are written as one.
    grain: usize,
}

/// What happens to one file.
#[derive(Debug)]
pub struct FileFate<'f> {
    fate: &'f Fate,
    manner: Manner,
    /// How many changes a prefix has left.
    left: usize,
    /// Of eight pieces, how many survive.
    luck: usize,
}

/// A part of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From where in the write.
    pub from: usize,
    /// To where.
    pub to: usize,
}

const MANNERS: [Manner; 5] = [Manner::Lost, Manner::Kept, Manner::Prefix, Manner::Each, Manner::Pieces];

impl Fate {
    /// Decided by this generator.
    pub fn new(randomness: Randomness, belief: Belief) -> Self {
        let manner = match belief {
            Belief::All => MANNERS.get(randomness.below(2 * MANNERS.len())).copied(),
            // A planted fault is to show: whatever may be lost is lost.
            Belief::NoFileSyncs | Belief::NoNameSyncs | Belief::EarlyReplies => Some(Manner::Lost),
        };
        let grain = if randomness.below(2) == 0 { 512 } else { 4096 };
        Self { randomness, belief, manner, grain }
    }

    /// What decides, for choices beside it.
    pub fn randomness(&self) -> &Randomness {
        &self.randomness
    }

    /// A line for people.
    pub fn describe(&self) -> String {
        match self.manner {
            Some(manner) => format!("{manner:?}, {} octets as one", self.grain),
            None => format!("each file its own way, {} octets as one", self.grain),
        }
    }

    /// Whether whatever may be lost is lost.
    pub fn loses_all(&self) -> bool {
        self.manner == Some(Manner::Lost)
    }

    /// Whether syncs of files count.
    pub fn trusts_file_syncs(&self) -> bool {
        self.belief != Belief::NoFileSyncs
    }

    /// Whether syncs of folders count.
    pub fn trusts_name_syncs(&self) -> bool {
        self.belief != Belief::NoNameSyncs
    }

    /// For a file or folder with so many changes in doubt.
    pub fn of_file(&self, changes: usize) -> FileFate<'_> {
        let manner = self.manner.unwrap_or_else(|| MANNERS[self.randomness.below(MANNERS.len())]);
        let (left, luck) = (self.randomness.below(changes + 1), 1 + self.randomness.below(7));
        FileFate { fate: self, manner, left, luck }
    }
}

impl FileFate<'_> {
    /// Whether the next change, which cannot be torn, survives.
    pub fn keeps(&mut self) -> bool {
        match self.manner {
            Manner::Lost => false,
            Manner::Kept => true,
            Manner::Prefix => {
                let kept = self.left > 0;
                self.left = self.left.saturating_sub(1);
                kept
            }
            Manner::Each | Manner::Pieces => self.lucky(),
        }
    }

    /// What survives of the next write.
    pub fn pieces(&mut self, offset: usize, len: usize) -> Vec<Piece> {
        let whole = vec![Piece { from: 0, to: len }];
        match self.manner {
            Manner::Lost => Vec::new(),
            Manner::Kept => whole,
            Manner::Prefix => {
                let left = self.left;
                self.left = left.saturating_sub(1);
                match left {
                    0 => Vec::new(),
                    1 => self.torn(offset, len),
                    _ => whole,
                }
            }
            Manner::Each => match self.fate.randomness.below(3) {
                0 => Vec::new(),
                1 => whole,
                _ => self.torn(offset, len),
            },
            Manner::Pieces => {
                let mut pieces = self.all(offset, len);
                pieces.retain(|_| self.lucky());
                pieces
            }
        }
    }

    /// The size that is found, if it is not what the surviving changes make it.
    pub fn size(&mut self, sizes: &[usize]) -> Option<usize> {
        let open = matches!(self.manner, Manner::Each | Manner::Pieces) && self.fate.randomness.below(4) == 0;
        open.then(|| sizes[self.fate.randomness.below(sizes.len())])
    }

    /// A write of which a first part, a last part, or a part in the middle survives, or anything.
    fn torn(&self, offset: usize, len: usize) -> Vec<Piece> {
        let mut pieces = self.all(offset, len);
        let (one, other) = (self.fate.randomness.below(pieces.len() + 1), self.fate.randomness.below(pieces.len() + 1));
        let (low, high) = (one.min(other), one.max(other));
        match self.fate.randomness.below(4) {
            0 => pieces.truncate(low),
            1 => drop(pieces.drain(..high)),
            2 => pieces = pieces[low..high].to_vec(),
            _ => pieces.retain(|_| self.lucky()),
        }
        pieces
    }

    /// The pieces that a write falls into.
    fn all(&self, offset: usize, len: usize) -> Vec<Piece> {
        let grain = self.fate.grain;
        let (mut pieces, mut from) = (Vec::new(), 0);
        while from < len {
            let to = (((offset + from) / grain + 1) * grain - offset).min(len);
            pieces.push(Piece { from, to });
            from = to;
        }
        pieces
    }

    fn lucky(&self) -> bool {
        self.fate.randomness.below(8) < self.luck
    }
}
