//! The configuration before it has types: what the files say, merged over `include`, each value with its place.
//!
//! Merging is simple on purpose: tables are joined, lists are put one behind the other, and a plain value that is set
//! twice is an error. What a file says therefore never depends on the order of the files, except that items of lists
//! (routes!) come in the order in which they were read: first the file itself, then its includes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::source::{Place, Sources};

/// How deep includes may nest.
const MAX_DEPTH: usize = 8;
/// The largest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value stands.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// A value as TOML has it.
#[derive(Clone, Debug)]
pub enum Value {
    /// `"…"`
    Text(String),
    /// A whole number that fits.
    Number(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// `[…]` or `[[…]]`.
    List(Vec<Node>),
    /// `[…]` or `{…}`.
    Table(BTreeMap<String, Entry>),
    /// Something that no key takes: a fraction, a date, a number out of range; with its name.
    Foreign(&'static str),
}

/// A key's value and where the key stands.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where the key stands.
    pub key: Place,
    /// Its value.
    pub node: Node,
}

/// Reads a file and what it includes. Problems are collected; the tree is returned all the same unless a file is not
/// even TOML, for then everything else that could be said would only follow from that.
pub fn read(path: &Path, sources: &mut Sources, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut reading = Reading { sources, problems, seen: Vec::new(), broken: false };
    let root = reading.file(path, None, 0)?;
    (!reading.broken).then_some(root)
}

/// Reads one text that lies in no file.
pub fn read_text(name: &str, text: &str, sources: &mut Sources, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut reading = Reading { sources, problems, seen: Vec::new(), broken: false };
    let root = reading.text(PathBuf::from(name), text.into());
    (!reading.broken).then_some(root)
}

struct Reading<'a> {
    sources: &'a mut Sources,
    problems: &'a mut Vec<Problem>,
    seen: Vec<PathBuf>,
    broken: bool,
}

impl Reading<'_> {
    fn file(&mut self, path: &Path, included_at: Option<&Place>, depth: usize) -> Option<Node> {
        let report = |message: String, help: Option<&str>| {
            let problem = match included_at {
                Some(place) => Problem::at(place, message, "included here"),
                None => Problem::general(message),
            };
            match help {
                Some(help) => problem.help(help),
                None => problem,
            }
        };
        if depth > MAX_DEPTH {
            self.problems.push(report(format!("includes are nested more than {MAX_DEPTH} deep"), None));
            return None;
        }
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.seen.contains(&identity) {
            self.problems.push(report(format!("{} is included twice", path.display()), Some("leave one of them out")));
            return None;
        }
        self.seen.push(identity);
        match read_bounded(path) {
            Ok(text) => {
                let mut node = self.text(path.to_owned(), text.into());
                self.includes(&mut node, path, depth);
                Some(node)
            }
            Err(error) => {
                self.problems.push(report(format!("cannot read {}: {error}", path.display()), None));
                None
            }
        }
    }

    fn text(&mut self, path: PathBuf, text: Arc<str>) -> Node {
        let file = self.sources.add(path, Arc::clone(&text));
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            self.broken = true;
            let span = error.span().unwrap_or(0..0);
            let label = error.message().to_owned();
            self.problems.push(Problem::at(&Place::new(file, span), "this is not TOML", label));
        }
        let place = Place::new(file, table.span());
        Node { place, value: Value::Table(convert_table(table.get_ref(), file)) }
    }

    /// Takes `include` out of the table and merges what it names.
    fn includes(&mut self, node: &mut Node, path: &Path, depth: usize) {
        let Value::Table(table) = &mut node.value else { return };
        let Some(entry) = table.remove("include") else { return };
        let Value::List(patterns) = &entry.node.value else {
            self.problems.push(not_patterns(&entry.node.place));
            return;
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        for pattern in patterns {
            let Value::Text(text) = &pattern.value else {
                self.problems.push(not_patterns(&pattern.place));
                continue;
            };
            match expand(folder, text) {
                Ok(paths) => {
                    for path in paths {
                        if let Some(other) = self.file(&path, Some(&pattern.place), depth + 1) {
                            merge(node, other, "", self.sources, self.problems);
                        }
                    }
                }
                Err(message) => self.problems.push(Problem::at(&pattern.place, message, "included here")),
            }
        }
    }
}

fn not_patterns(place: &Place) -> Problem {
    Problem::at(place, "`include` takes a list of file names", "not a list of strings")
        .help("write for example: include = [\"conf.d/*.toml\"]")
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {} MiB", MAX_FILE >> 20)));
    }
    std::fs::read_to_string(path)
}

/// The files that a pattern names: one file, or in one folder those whose names fit around one `*`.
fn expand(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let full = folder.join(pattern);
    let name = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((head, tail)) = name.split_once('*') else { return Ok(vec![full]) };
    let parent = full.parent().unwrap_or(Path::new(""));
    if tail.contains('*') || parent.to_string_lossy().contains('*') {
        return Err("a pattern may have one `*`, in the file's name".to_owned());
    }
    let entries = std::fs::read_dir(parent).map_err(|error| format!("cannot list {}: {error}", parent.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot list {}: {error}", parent.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let fits = name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail);
        if fits && !name.starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Joins `other` into `node`; both are tables or both are lists.
fn merge(node: &mut Node, other: Node, path: &str, sources: &Sources, problems: &mut Vec<Problem>) {
    match (&mut node.value, other.value) {
        (Value::List(list), Value::List(more)) => list.extend(more),
        (Value::Table(table), Value::Table(more)) => {
            for (key, entry) in more {
                match table.get_mut(&key) {
                    None => {
                        table.insert(key, entry);
                    }
                    Some(present) if joins(&present.node.value, &entry.node.value) => {
                        let inner = join_path(path, &key);
                        merge(&mut present.node, entry.node, &inner, sources, problems);
                    }
                    Some(present) => {
                        let first = sources.describe(&present.key);
                        let message = format!("`{}` is set twice", join_path(path, &key));
                        problems.push(
                            Problem::at(&entry.key, message, "set again here")
                                .help(format!("it is first set at {first}; leave one of the two out")),
                        );
                    }
                }
            }
        }
        _ => {}
    }
}

fn joins(one: &Value, other: &Value) -> bool {
    matches!((one, other), (Value::List(_), Value::List(_)) | (Value::Table(_), Value::Table(_)))
}

/// `limits.connections` from `limits` and `connections`.
pub fn join_path(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn convert_table(table: &DeTable<'_>, file: usize) -> BTreeMap<String, Entry> {
    table
        .iter()
        .map(|(key, value)| {
            let entry = Entry { key: Place::new(file, key.span()), node: convert(value, file) };
            (key.get_ref().to_string(), entry)
        })
        .collect()
}

fn convert(value: &Spanned<DeValue<'_>>, file: usize) -> Node {
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Foreign("a number out of range"),
        },
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Array(items) => Value::List(items.iter().map(|item| convert(item, file)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(table, file)),
        DeValue::Float(_) => Value::Foreign("a fraction"),
        DeValue::Datetime(_) => Value::Foreign("a date"),
    };
    Node { place: Place::new(file, value.span()), value: converted }
}

impl Node {
    /// The value as serde wants it.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Text(text) => text.as_str().into(),
            Value::Number(number) => (*number).into(),
            Value::Boolean(truth) => (*truth).into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(table) => table.iter().map(|(key, entry)| (key.clone(), entry.node.to_json())).collect(),
            Value::Foreign(_) => serde_json::Value::Null,
        }
    }
}
