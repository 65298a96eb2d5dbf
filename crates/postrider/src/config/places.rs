//! Where each value of a configuration stands.

use std::collections::HashMap;
use std::path::Path;

use super::problem::Problem;
use super::source::{Place, Sources};
use super::tree::{Node, Value, join_path};

/// The place of every value, by its path: `route[2].to`.
#[derive(Debug)]
pub struct Places {
    sources: Sources,
    places: HashMap<String, Place>,
}

impl Places {
    /// Notes the places of a whole tree.
    pub fn new(root: &Node, sources: Sources) -> Self {
        let mut places = HashMap::new();
        note(root, String::new(), &mut places);
        Self { sources, places }
    }

    /// `postrider.toml:12`, if the value was set.
    pub fn describe(&self, path: &str) -> Option<String> {
        self.places.get(path).map(|place| self.sources.describe(place))
    }

    /// Whether the value was set.
    pub fn is_set(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// The files that were read.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The folder of the configuration: relative paths begin there.
    pub fn folder(&self) -> &Path {
        self.sources.paths().next().and_then(Path::parent).unwrap_or(Path::new(""))
    }

    /// A problem with the value at `path`, or with what it is part of if it was not set itself.
    pub fn problem(&self, path: &str, message: impl Into<String>, label: impl Into<String>) -> Problem {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path).filter(|_| !path.is_empty()) {
                return Problem::at(place, message, label);
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => {
                    let (message, label) = (message.into(), label.into());
                    return Problem::general(if label.is_empty() { message } else { format!("{message}: {label}") });
                }
            }
        }
    }
}

fn note(node: &Node, path: String, places: &mut HashMap<String, Place>) {
    match &node.value {
        Value::Table(table) => {
            for (key, entry) in table {
                note(&entry.node, join_path(&path, key), places);
            }
        }
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                note(item, format!("{path}[{at}]"), places);
            }
        }
        _ => {}
    }
    places.insert(path, node.place.clone());
}
