//! Files of our own: private, and never half-written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes a folder that nobody else can look into.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file that nobody else can read. Whoever reads it sees the old content or the new.
pub(crate) fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    // What a crash has left may have other rights.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut writer = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writer.write_all(content)?;
    writer.sync_all()?;
    std::fs::rename(&new, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
