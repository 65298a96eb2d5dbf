//! What the calls of all lives did: to the disk, and in the eyes of the peers.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::letters::acknowledged;
use crate::powercut::disk::{Disk, Entry, FileChange, Image, Moment, Node, Span};
use crate::powercut::trace::{self, Call, What};

/// The disk, and who was told what when.
#[derive(Debug)]
pub struct History {
    /// What was done to the folder.
    pub disk: Disk,
    /// When a client was told that a message is queued, by its queue id.
    pub acknowledged: HashMap<String, Moment>,
    /// When the server had read that a sink took a message, by the number that the sink gave it.
    pub taken: HashMap<u64, Moment>,
    /// When the log said that a recipient's fate is final: the message, the recipient.
    pub claimed: HashMap<(String, String), Moment>,
    /// The line behind the last.
    pub end: Moment,
    /// The path of the folder.
    root: PathBuf,
    /// What the server is up to, by thread of the trace: the file that was written last.
    last_write: Moment,
    early_replies: bool,
}

/// What a descriptor leads to.
#[derive(Debug)]
enum Target {
    Node(Node),
    Stream(Stream),
    /// Something that is not in the folder.
    Elsewhere,
}

/// A connection, with what was not yet a whole line.
#[derive(Debug, Default)]
struct Stream {
    ours: bool,
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// The descriptor of the log.
const LOG: u64 = 2;

/// One of the two moments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Begin,
    End,
}

impl History {
    /// Nothing has happened yet in this folder.
    pub fn new(root: &Path, early_replies: bool) -> Self {
        Self {
            disk: Disk::new(),
            acknowledged: HashMap::new(),
            taken: HashMap::new(),
            claimed: HashMap::new(),
            end: 0,
            root: root.to_path_buf(),
            last_write: 0,
            early_replies,
        }
    }

    /// The folder holds this, and all of it is durable.
    pub fn on(root: &Path, image: &Image) -> Self {
        let mut history = Self::new(root, false);
        history.end = history.disk.hold(image);
        history
    }

    /// Adds a life of the server, which left this trace, and the folder like this. Fails if the one does not explain the
    /// other.
    pub fn live(&mut self, text: &[u8], left: &Image) -> Result<(), String> {
        let first = self.end + 1;
        let calls = trace::read(text, first)?;
        let death = first + text.iter().filter(|octet| **octet == b'\n').count();
        self.follow(&calls, death, left);
        explained(&self.disk.live(), left)
    }

    fn follow(&mut self, calls: &[Call], death: Moment, left: &Image) {
        let sides = calls.iter().enumerate().flat_map(|(place, call)| {
            let end = call.end.map(|end| (end, Side::End, place));
            [(call.begin, Side::Begin, place)].into_iter().chain(end)
        });
        let mut sides: Vec<_> = sides.collect();
        sides.sort_unstable();
        let mut life = Life { history: self, targets: HashMap::new(), begun: HashMap::new(), log: Vec::new() };
        for (_, side, place) in sides {
            match side {
                Side::Begin => life.begin(place, &calls[place]),
                Side::End => life.end(place, &calls[place]),
            }
        }
        let unfinished = calls.iter().enumerate().filter(|(_, call)| call.end.is_none());
        for (place, call) in unfinished {
            life.resolve(place, call, death, left);
        }
        self.end = death;
    }
}

/// One life of the server.
struct Life<'h> {
    history: &'h mut History,
    targets: HashMap<u64, Target>,
    /// The files of calls that have begun: their descriptors may have another meaning when they end.
    begun: HashMap<usize, Node>,
    log: Vec<u8>,
}

impl Life<'_> {
    fn begin(&mut self, place: usize, call: &Call) {
        match &call.what {
            // A closed descriptor may be given out again before the call has ended.
            What::Close { fd } => drop(self.targets.remove(fd)),
            What::Write { fd: LOG, octets, .. } => self.log(octets, call.begin),
            What::Write { fd, octets, .. } => match self.targets.get_mut(fd) {
                Some(Target::Stream(stream)) => {
                    let told = if self.history.early_replies { self.history.last_write } else { call.begin };
                    for line in stream.said(octets) {
                        if let Some(id) = acknowledged(&line) {
                            self.history.acknowledged.insert(id.to_owned(), told);
                        }
                    }
                }
                Some(Target::Node(node)) => drop(self.begun.insert(place, *node)),
                Some(Target::Elsewhere) | None => {}
            },
            What::Truncate { fd, .. } | What::Allocate { fd, .. } | What::Sync { fd } | What::FailedSync { fd } => {
                if let Some(Target::Node(node)) = self.targets.get(fd) {
                    self.begun.insert(place, *node);
                }
            }
            What::Connect { fd } => {
                drop(self.targets.insert(*fd, Target::Stream(Stream { ours: true, ..Stream::default() })))
            }
            _ => {}
        }
    }

    fn end(&mut self, place: usize, call: &Call) {
        let span = Span { begin: call.begin, end: call.end.unwrap_or(call.begin) };
        let node = self.begun.remove(&place);
        match &call.what {
            What::Open { path, create, truncate, fd } => {
                let target = self.opened(path, *create, *truncate, span);
                if let Some(fd) = fd {
                    self.targets.insert(*fd, target);
                }
            }
            What::Duplicate { from, to } => {
                if let Some(Target::Node(node)) = self.targets.get(from) {
                    self.targets.insert(*to, Target::Node(*node));
                }
            }
            What::Accept { fd } => drop(self.targets.insert(*fd, Target::Stream(Stream::default()))),
            What::Receive { fd, octets } => self.received(*fd, octets, span.end),
            What::Sync { .. } => {
                if let Some(node) = node {
                    self.history.disk.sync(node, span);
                }
            }
            What::FailedSync { .. } => {
                if let Some(node) = node {
                    self.history.disk.fail_sync(node, span);
                }
            }
            What::Rename { .. } | What::Unlink { .. } | What::MakeFolder { .. } => self.named(&call.what, span),
            What::Write { .. } | What::Truncate { .. } | What::Allocate { .. } => {
                if let Some(node) = node
                    && let Some(change) = file_change(&call.what, self.history.disk.size(node))
                {
                    self.history.disk.change(node, change, span);
                    self.history.last_write = span.end;
                }
            }
            What::Close { .. } | What::Connect { .. } => {}
        }
    }

    /// A call that the process did not survive: what is there says whether it was carried out.
    fn resolve(&mut self, place: usize, call: &Call, death: Moment, left: &Image) {
        let span = Span { begin: call.begin, end: death };
        let there = |path: &str| self.inside(path).is_some_and(|path| left.contains_key(&path));
        match &call.what {
            What::Open { path, create: true, .. } if there(path) && self.find(path).is_none() => {
                self.opened(path, true, false, span);
            }
            What::Rename { from, .. } if !there(from) => self.named(&call.what, span),
            What::Unlink { path } if !there(path) => self.named(&call.what, span),
            What::MakeFolder { path } if there(path) => self.named(&call.what, span),
            What::Write { offset, octets, .. } => {
                let Some(node) = self.begun.remove(&place) else { return };
                let from = start(*offset, self.history.disk.size(node));
                // It may have been carried out in part.
                let now = self.history.disk.live();
                let same = |found: &&[u8]| *found == octets.as_slice();
                let file = left.iter().find(|(path, _)| self.history.disk.find(path) == Some(node));
                let Some((path, Entry::File(found))) = file else { return };
                let part = found.get(from..(from + octets.len()).min(found.len())).unwrap_or_default();
                let whole = Some(part).filter(same).is_some();
                let changed = now.get(path) != Some(&Entry::File(found.clone()));
                if whole || changed {
                    let change = FileChange::Write { offset: from, octets: part.into() };
                    self.history.disk.change(node, change, span);
                }
            }
            What::Truncate { .. } | What::Allocate { .. } => {
                let Some(node) = self.begun.remove(&place) else { return };
                let Some(change) = file_change(&call.what, self.history.disk.size(node)) else { return };
                let size = left.iter().find_map(|(path, entry)| match entry {
                    Entry::File(octets) if self.history.disk.find(path) == Some(node) => Some(octets.len()),
                    _ => None,
                });
                if let (Some(size), FileChange::Resize(wanted) | FileChange::Grow(wanted)) = (size, &change)
                    && size == *wanted
                {
                    self.history.disk.change(node, change, span);
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, path: &str, create: bool, truncate: bool, span: Span) -> Target {
        let Some(inside) = self.inside(path) else { return Target::Elsewhere };
        let node = match self.find(path) {
            Some(node) if !truncate => Some(node),
            None if !create => None,
            _ => self.history.disk.make(&inside, false, span),
        };
        node.map_or(Target::Elsewhere, Target::Node)
    }

    fn named(&mut self, what: &What, span: Span) {
        match what {
            What::Rename { from, to } => {
                if let (Some(from), Some(to)) = (self.inside(from), self.inside(to)) {
                    self.history.disk.rename(&from, &to, span);
                }
            }
            What::Unlink { path } => {
                if let Some(path) = self.inside(path) {
                    self.history.disk.unlink(&path, span);
                }
            }
            What::MakeFolder { path } => {
                if let Some(path) = self.inside(path) {
                    self.history.disk.make(&path, true, span);
                }
            }
            _ => {}
        }
    }

    fn received(&mut self, fd: u64, octets: &[u8], moment: Moment) {
        let Some(Target::Stream(stream)) = self.targets.get_mut(&fd) else { return };
        if !stream.ours {
            return;
        }
        for line in lines(&mut stream.received, octets) {
            if let Some(number) = line.strip_prefix("250 2.0.0 taken ").and_then(|number| number.parse().ok()) {
                self.history.taken.insert(number, moment);
            }
        }
    }

    /// The log says that something is final only when that is durable.
    fn log(&mut self, octets: &[u8], moment: Moment) {
        const FINAL: [&str; 4] = ["delivered", "failed", "expired", "removed"];
        for line in lines(&mut self.log, octets) {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            let event = line["event"].as_str().unwrap_or_default();
            if let (Some(message), Some(recipient)) = (line["message"].as_str(), line["recipient"].as_str())
                && FINAL.contains(&event)
            {
                self.history.claimed.entry((message.to_owned(), recipient.to_owned())).or_insert(moment);
            }
        }
    }

    /// A path within the folder; the socket of the server is none of it.
    fn inside(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path).strip_prefix(&self.history.root).ok()?;
        Some(path.to_path_buf()).filter(|path| is_ours(path))
    }

    fn find(&self, path: &str) -> Option<Node> {
        self.history.disk.find(&self.inside(path)?)
    }
}

/// Whether a path of the folder belongs to the store.
pub fn is_ours(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name != "control" && name != "postrider.toml")
}

/// Where a write begins. One that does not say it goes on behind the last: such files are written once, from their start.
fn start(offset: Option<u64>, written: usize) -> usize {
    offset.map_or(written, |offset| usize::try_from(offset).unwrap_or(usize::MAX))
}

/// What a call does to a file of which so much is written.
fn file_change(what: &What, written: usize) -> Option<FileChange> {
    let size = |size: &u64| usize::try_from(*size).ok();
    match what {
        What::Write { offset, octets, .. } => {
            Some(FileChange::Write { offset: start(*offset, written), octets: octets.as_slice().into() })
        }
        What::Truncate { len, .. } => Some(FileChange::Resize(size(len)?)),
        What::Allocate { end, .. } => Some(FileChange::Grow(size(end)?)),
        _ => None,
    }
}

impl Stream {
    /// Lines that are now complete, of those that we send to a client.
    fn said(&mut self, octets: &[u8]) -> Vec<String> {
        if self.ours { Vec::new() } else { lines(&mut self.sent, octets) }
    }
}

/// Adds octets, and takes the lines that are complete.
fn lines(buffer: &mut Vec<u8>, octets: &[u8]) -> Vec<String> {
    buffer.extend_from_slice(octets);
    let Some(end) = buffer.iter().rposition(|octet| *octet == b'\n') else { return Vec::new() };
    let whole: Vec<u8> = buffer.drain(..=end).collect();
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

/// Whether the calls explain what is in the folder, octet by octet.
fn explained(expected: &Image, left: &Image) -> Result<(), String> {
    let paths: HashSet<&PathBuf> = expected.keys().chain(left.keys()).collect();
    for path in paths {
        let (expected, found) = (expected.get(path), left.get(path));
        if expected != found {
            let about = |entry: Option<&Entry>| match entry {
                None => "nothing".to_owned(),
                Some(Entry::Folder) => "a folder".to_owned(),
                Some(Entry::File(octets)) => format!("a file of {} octets", octets.len()),
            };
            let place = match (expected, found) {
                (Some(Entry::File(one)), Some(Entry::File(other))) => one.iter().zip(other).position(|(a, b)| a != b),
                _ => None,
            };
            return Err(format!(
                "the trace does not explain {}: {} by the trace, {} found, first different at {place:?}",
                path.display(),
                about(expected),
                about(found)
            ));
        }
    }
    Ok(())
}
