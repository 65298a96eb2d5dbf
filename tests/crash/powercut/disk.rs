//! A disk that remembers everything that was done to it, and can say what may be on it after the power went at any moment.
//!
//! What a file system promises, and no more: a change of a file is there for sure once a sync of the file that began after
//! the change's end has ended; a change of a name, once such a sync of its folder has ended. Everything younger may be
//! there, or not, or in part, one change without the other, a file's size without its content or its content without its
//! size. A crash of the process alone loses nothing of it.
//!
//! A sync that fails makes nothing durable, and no later sync does so for what was to become durable by it: the system has
//! forgotten that it is not on the disk (Linux does), though it goes on showing it. Only what is written anew counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::powercut::fate::{Fate, FileFate, Piece};

/// A moment: the number of a line of the trace.
pub type Moment = usize;

/// A file or a folder by its number; the first is the folder of everything.
pub type Node = usize;

/// All that was done to a folder and what is in it.
#[derive(Debug)]
pub struct Disk {
    nodes: Vec<Content>,
    /// Moments at which something is about to happen on the disk or has just happened, for cuts that hit.
    pub edges: Vec<Moment>,
    /// The edges of changes of names and sizes.
    pub rare_edges: Vec<Moment>,
}

/// A tree of files as it is found after the power is back.
pub type Image = BTreeMap<PathBuf, Entry>;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file with its octets.
    File(Vec<u8>),
}

#[derive(Debug)]
enum Content {
    File { changes: Vec<Change>, syncs: Syncs, now: Vec<u8> },
    Folder { changes: Vec<NameChange>, syncs: Syncs, now: BTreeMap<String, Node> },
}

/// From the begin to the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub begin: Moment,
    /// When it ended.
    pub end: Moment,
}

/// The syncs of a file or a folder.
#[derive(Debug, Default)]
struct Syncs {
    good: Vec<Span>,
    failed: Vec<Span>,
}

/// A change of a file.
#[derive(Clone, Debug)]
pub struct Change {
    span: Span,
    what: FileChange,
}

/// What is changed in a file.
#[derive(Clone, Debug)]
pub enum FileChange {
    /// Octets are written.
    Write { offset: usize, octets: Arc<[u8]> },
    /// The size is set.
    Resize(usize),
    /// The size is made at least so much.
    Grow(usize),
}

#[derive(Clone, Debug)]
struct NameChange {
    span: Span,
    what: Naming,
}

#[derive(Clone, Debug)]
enum Naming {
    Set(String, Node),
    Remove(String, Node),
    /// Within one folder: both names change at once.
    Rename(String, String, Node),
}

impl Disk {
    /// An empty folder, whose own name nothing can take away.
    pub fn new() -> Self {
        Self { nodes: vec![Content::folder()], edges: Vec::new(), rare_edges: Vec::new() }
    }

    /// Puts files there that are durable already; gives the moment from which on that is so.
    pub fn hold(&mut self, image: &Image) -> Moment {
        let (made, synced) = (Span { begin: 0, end: 0 }, Span { begin: 1, end: 1 });
        for (path, entry) in image {
            let node = self.make(path, *entry == Entry::Folder, made);
            if let (Some(node), Entry::File(octets)) = (node, entry) {
                self.change(node, FileChange::Write { offset: 0, octets: octets.as_slice().into() }, made);
            }
        }
        for node in 0..self.nodes.len() {
            self.sync(node, synced);
        }
        self.edges.clear();
        self.rare_edges.clear();
        synced.end
    }

    /// What a path leads to now.
    pub fn find(&self, path: &Path) -> Option<Node> {
        path.iter().try_fold(0, |node, name| match &self.nodes[node] {
            Content::Folder { now, .. } => now.get(name.to_str()?).copied(),
            Content::File { .. } => None,
        })
    }

    /// Makes an empty file or folder, or empties the file that is there.
    pub fn make(&mut self, path: &Path, folder: bool, span: Span) -> Option<Node> {
        if let Some(there) = self.find(path) {
            self.change(there, FileChange::Resize(0), span);
            return Some(there);
        }
        let (parent, name) = self.place(path)?;
        self.nodes.push(if folder { Content::folder() } else { Content::file() });
        let node = self.nodes.len() - 1;
        self.rename_in(parent, Naming::Set(name, node), span);
        Some(node)
    }

    /// Renames, over what has the name.
    pub fn rename(&mut self, from: &Path, to: &Path, span: Span) {
        let (Some(node), Some((old, name)), Some((new, other))) = (self.find(from), self.place(from), self.place(to))
        else {
            return;
        };
        if old == new {
            self.rename_in(old, Naming::Rename(name, other, node), span);
        } else {
            self.rename_in(new, Naming::Set(other, node), span);
            self.rename_in(old, Naming::Remove(name, node), span);
        }
    }

    /// Takes a name away.
    pub fn unlink(&mut self, path: &Path, span: Span) {
        if let (Some(node), Some((parent, name))) = (self.find(path), self.place(path)) {
            self.rename_in(parent, Naming::Remove(name, node), span);
        }
    }

    /// The size of a file; nothing for a folder.
    pub fn size(&self, node: Node) -> usize {
        match &self.nodes[node] {
            Content::File { now, .. } => now.len(),
            _ => 0,
        }
    }

    /// Changes a file.
    pub fn change(&mut self, node: Node, what: FileChange, span: Span) {
        self.note(span, !matches!(what, FileChange::Write { .. }));
        if let Content::File { changes, now, .. } = &mut self.nodes[node] {
            what.apply(now);
            changes.push(Change { span, what });
        }
    }

    /// What was done before is durable from the end of this on.
    pub fn sync(&mut self, node: Node, span: Span) {
        self.note(span, false);
        match &mut self.nodes[node] {
            Content::File { syncs, .. } | Content::Folder { syncs, .. } => syncs.good.push(span),
        }
    }

    /// What was done before and is not durable will not become so any more.
    pub fn fail_sync(&mut self, node: Node, span: Span) {
        self.note(span, true);
        match &mut self.nodes[node] {
            Content::File { syncs, .. } | Content::Folder { syncs, .. } => syncs.failed.push(span),
        }
    }

    /// How many syncs have failed.
    pub fn failed_syncs(&self) -> usize {
        let failed = self.nodes.iter().map(|node| match node {
            Content::File { syncs, .. } | Content::Folder { syncs, .. } => syncs.failed.len(),
        });
        failed.sum()
    }

    /// How often names have changed.
    pub fn names_changed(&self) -> usize {
        let changes = self.nodes.iter().map(|node| match node {
            Content::Folder { changes, .. } => changes.len(),
            Content::File { .. } => 0,
        });
        changes.sum()
    }

    /// How it is for those who run on it.
    pub fn live(&self) -> Image {
        let mut image = Image::new();
        self.gather(0, Path::new(""), &mut image, &|node| match &self.nodes[node] {
            Content::File { now, .. } => (BTreeMap::new(), now.clone()),
            Content::Folder { now, .. } => (now.clone(), Vec::new()),
        });
        image
    }

    /// How it may be found when the power goes at this moment.
    pub fn after_cut(&self, moment: Moment, fate: &Fate) -> Image {
        let mut image = Image::new();
        self.gather(0, Path::new(""), &mut image, &|node| match &self.nodes[node] {
            Content::File { changes, syncs, .. } => (BTreeMap::new(), survivors(changes, syncs, moment, fate)),
            Content::Folder { changes, syncs, .. } => (names(changes, syncs, moment, fate), Vec::new()),
        });
        image
    }

    fn gather(
        &self,
        folder: Node,
        path: &Path,
        image: &mut Image,
        look: &dyn Fn(Node) -> (BTreeMap<String, Node>, Vec<u8>),
    ) {
        for (name, node) in look(folder).0 {
            let path = path.join(name);
            match &self.nodes[node] {
                Content::File { .. } => drop(image.insert(path, Entry::File(look(node).1))),
                Content::Folder { .. } => {
                    self.gather(node, &path, image, look);
                    image.insert(path, Entry::Folder);
                }
            }
        }
    }

    /// The folder that a path is in, and the last name of it.
    fn place(&self, path: &Path) -> Option<(Node, String)> {
        let parent = self.find(path.parent()?)?;
        Some((parent, path.file_name()?.to_str()?.to_owned()))
    }

    fn rename_in(&mut self, folder: Node, what: Naming, span: Span) {
        self.note(span, true);
        if let Content::Folder { changes, now, .. } = &mut self.nodes[folder] {
            what.apply(now);
            changes.push(NameChange { span, what });
        }
    }

    fn note(&mut self, span: Span, rare: bool) {
        // A cut at a moment comes before what happens on that line.
        let edges = [span.begin, span.begin + 1, span.end, span.end + 1];
        self.edges.extend(edges);
        if rare {
            self.rare_edges.extend(edges);
        }
    }
}

impl Content {
    fn file() -> Self {
        Self::File { changes: Vec::new(), syncs: Syncs::default(), now: Vec::new() }
    }

    fn folder() -> Self {
        Self::Folder { changes: Vec::new(), syncs: Syncs::default(), now: BTreeMap::new() }
    }
}

impl Syncs {
    /// Those of which the effect is sure at this moment.
    fn until(&self, moment: Moment) -> Settled<'_> {
        let good: Vec<Span> = self.good.iter().filter(|sync| sync.end < moment).copied().collect();
        Settled { last: good.iter().map(|sync| sync.begin).max().unwrap_or(0), good, failed: &self.failed }
    }
}

/// What syncs have made durable.
struct Settled<'s> {
    good: Vec<Span>,
    /// When the last of them began.
    last: Moment,
    failed: &'s [Span],
}

impl Settled<'_> {
    /// Whether a change is on the disk for sure.
    fn holds(&self, change: Span) -> bool {
        let spoils = |sync: &Span| self.failed.iter().any(|bad| change.begin < bad.end && bad.begin < sync.end);
        let mut after = self.good.iter().filter(|sync| change.end < sync.begin);
        change.end < self.last && (self.failed.is_empty() || after.any(|sync| !spoils(sync)))
    }
}

/// A file's octets after the cut.
fn survivors(changes: &[Change], syncs: &Syncs, moment: Moment, fate: &Fate) -> Vec<u8> {
    let settled = syncs.until(moment);
    let durable = |change: &Change| fate.trusts_file_syncs() && settled.holds(change.span);
    let begun = changes.iter().filter(|change| change.span.begin < moment);
    let begun: Vec<(&Change, bool)> = begun.map(|change| (change, durable(change))).collect();
    let pending = begun.iter().filter(|(_, durable)| !durable).count();
    let (mut octets, mut sizes) = (Vec::new(), vec![0]);
    let mut fate = fate.of_file(pending);
    for (Change { what, .. }, durable) in begun {
        if durable {
            what.apply(&mut octets);
            sizes.clear();
        } else {
            what.survive(&mut fate, &mut octets);
        }
        sizes.push(octets.len());
    }
    // The size may be any that the file has had since.
    if let Some(size) = fate.size(&sizes).filter(|_| pending > 0) {
        octets.resize(size, 0);
    }
    octets
}

/// A folder's names after the cut.
fn names(changes: &[NameChange], syncs: &Syncs, moment: Moment, fate: &Fate) -> BTreeMap<String, Node> {
    let settled = syncs.until(moment);
    let durable = |change: &NameChange| fate.trusts_name_syncs() && settled.holds(change.span);
    let begun = changes.iter().filter(|change| change.span.begin < moment);
    let begun: Vec<(&NameChange, bool)> = begun.map(|change| (change, durable(change))).collect();
    let mut fate = fate.of_file(begun.iter().filter(|(_, durable)| !durable).count());
    let mut names = BTreeMap::new();
    for (change, durable) in begun {
        if durable || fate.keeps() {
            change.what.apply(&mut names);
        }
    }
    names
}

impl FileChange {
    /// Does what is left of it.
    fn survive(&self, fate: &mut FileFate, into: &mut Vec<u8>) {
        match self {
            Self::Write { offset, octets } => {
                for Piece { from, to } in fate.pieces(*offset, octets.len()) {
                    Self::Write { offset: offset + from, octets: octets[from..to].into() }.apply(into);
                }
            }
            Self::Resize(_) | Self::Grow(_) => {
                if fate.keeps() {
                    self.apply(into);
                }
            }
        }
    }

    fn apply(&self, into: &mut Vec<u8>) {
        match self {
            Self::Resize(len) => into.resize(*len, 0),
            Self::Grow(len) => into.resize(into.len().max(*len), 0),
            Self::Write { offset, octets } => {
                let end = offset + octets.len();
                into.resize(into.len().max(end), 0);
                into[*offset..end].copy_from_slice(octets);
            }
        }
    }
}

impl Naming {
    /// A name that is lost takes nothing with it: what came to it later stays.
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        let mut forget = |name: &String, node: Node| {
            if names.get(name) == Some(&node) {
                names.remove(name);
            }
        };
        match self {
            Self::Remove(name, node) => forget(name, *node),
            Self::Set(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Rename(from, to, node) => {
                forget(from, *node);
                names.insert(to.clone(), *node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mail::Randomness;

    use super::*;
    use crate::powercut::fate::Belief;

    /// What is surely there: where all that may be lost is lost.
    fn surely(disk: &Disk, moment: Moment) -> Option<Vec<u8>> {
        let fate = (0..).map(|seed| Fate::new(Randomness::seeded(seed), Belief::All)).find(Fate::loses_all)?;
        match disk.after_cut(moment, &fate).remove(Path::new("a")) {
            Some(Entry::File(octets)) => Some(octets),
            _ => None,
        }
    }

    fn at(moment: Moment) -> Span {
        Span { begin: moment, end: moment }
    }

    #[test]
    fn what_a_failed_sync_was_for_is_in_doubt_until_it_is_written_anew() {
        let mut disk = Disk::new();
        let file = disk.make(Path::new("a"), false, at(1)).expect("a name");
        disk.sync(0, at(2));
        let write = |disk: &mut Disk, offset: usize, octets: &[u8], moment| {
            disk.change(file, FileChange::Write { offset, octets: octets.into() }, at(moment));
        };
        write(&mut disk, 0, b"AA", 3);
        disk.sync(file, at(4));
        write(&mut disk, 2, b"BB", 5);
        disk.fail_sync(file, at(6));
        write(&mut disk, 4, b"CC", 7);
        disk.sync(file, at(8));
        assert_eq!(surely(&disk, 5).as_deref(), Some(b"AA".as_slice()));
        assert_eq!(surely(&disk, 9).as_deref(), Some(b"AA\0\0CC".as_slice()));
        assert_eq!(disk.live().get(Path::new("a")), Some(&Entry::File(b"AABBCC".to_vec())));
        write(&mut disk, 2, b"BB", 9);
        disk.sync(file, at(10));
        assert_eq!(surely(&disk, 11).as_deref(), Some(b"AABBCC".as_slice()));
    }
}
