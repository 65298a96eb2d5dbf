//! A disk that remembers everything that was done to it, and can say what may be on it after the power went at any moment.
//!
//! What a file system promises, and no more: a change of a file is there for sure once a sync of the file that began after
//! the change's end has ended; a change of a name, once such a sync of its folder has ended. Everything younger may be
//! there, or not, or in part, one change without the other, a file's size without its content or its content without its
//! size. A crash of the process alone loses nothing of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::powercut::fate::{Fate, Piece};

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
    File { changes: Vec<Change>, syncs: Vec<Span>, now: Vec<u8> },
    Folder { changes: Vec<NameChange>, syncs: Vec<Span>, now: BTreeMap<String, Node> },
}

/// From the begin to the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub begin: Moment,
    /// When it ended.
    pub end: Moment,
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
            Content::File { syncs, .. } | Content::Folder { syncs, .. } => syncs.push(span),
        }
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
        Self::File { changes: Vec::new(), syncs: Vec::new(), now: Vec::new() }
    }

    fn folder() -> Self {
        Self::Folder { changes: Vec::new(), syncs: Vec::new(), now: BTreeMap::new() }
    }
}

/// The last moment before which every ended change is durable at `moment`.
fn settled(syncs: &[Span], moment: Moment) -> Moment {
    syncs.iter().filter(|sync| sync.end < moment).map(|sync| sync.begin).max().unwrap_or(0)
}

/// A file's octets after the cut.
fn survivors(changes: &[Change], syncs: &[Span], moment: Moment, fate: &Fate) -> Vec<u8> {
    let settled = if fate.trusts_file_syncs() { settled(syncs, moment) } else { 0 };
    let begun = changes.iter().filter(|change| change.span.begin < moment);
    let (durable, pending): (Vec<&Change>, Vec<&Change>) = begun.partition(|change| change.span.end < settled);
    let mut octets = Vec::new();
    for change in durable {
        change.what.apply(&mut octets);
    }
    if pending.is_empty() {
        return octets;
    }
    let (mut fate, mut sizes) = (fate.of_file(pending.len()), vec![octets.len()]);
    for change in pending {
        match &change.what {
            FileChange::Write { offset, octets: written } => {
                for Piece { from, to } in fate.pieces(*offset, written.len()) {
                    let octets_of_piece: Arc<[u8]> = written[from..to].into();
                    FileChange::Write { offset: offset + from, octets: octets_of_piece }.apply(&mut octets);
                }
            }
            resize if fate.keeps() => resize.apply(&mut octets),
            FileChange::Resize(_) | FileChange::Grow(_) => {}
        }
        sizes.push(octets.len());
    }
    // The size may be any that the file has had since.
    if let Some(size) = fate.size(&sizes) {
        octets.resize(size, 0);
    }
    octets
}

/// A folder's names after the cut.
fn names(changes: &[NameChange], syncs: &[Span], moment: Moment, fate: &Fate) -> BTreeMap<String, Node> {
    let settled = if fate.trusts_name_syncs() { settled(syncs, moment) } else { 0 };
    let begun = changes.iter().filter(|change| change.span.begin < moment);
    let (durable, pending): (Vec<&NameChange>, Vec<&NameChange>) = begun.partition(|change| change.span.end < settled);
    let mut names = BTreeMap::new();
    for change in durable {
        change.what.apply(&mut names);
    }
    let mut fate = fate.of_file(pending.len());
    for change in pending {
        if fate.keeps() {
            change.what.apply(&mut names);
        }
    }
    names
}

impl FileChange {
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
