//! The files a configuration was read from, and places in them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All files of one configuration, in the order in which they were read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it lies, as it was named.
    pub path: PathBuf,
    /// Its text.
    pub text: Arc<str>,
}

/// A place: a piece of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: usize,
    span: Range<usize>,
}

impl Sources {
    /// Adds a file and returns its number.
    pub fn add(&mut self, path: PathBuf, text: Arc<str>) -> usize {
        self.files.push(SourceFile { path, text });
        self.files.len() - 1
    }

    /// The file that a place is in.
    pub fn file(&self, place: &Place) -> &SourceFile {
        &self.files[place.file]
    }

    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The line of a place, counted from 1.
    pub fn line(&self, place: &Place) -> usize {
        let text = self.file(place).text.as_bytes();
        1 + text[..place.span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
    }

    /// `postrider.toml:12`.
    pub fn describe(&self, place: &Place) -> String {
        format!("{}:{}", self.file(place).path.display(), self.line(place))
    }
}

impl Place {
    /// A piece of a file.
    pub fn new(file: usize, span: Range<usize>) -> Self {
        Self { file, span }
    }

    /// The number of the file.
    pub fn file(&self) -> usize {
        self.file
    }

    /// The octets of the file.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }
}
