//! Files that are made in one go: all of them, or none.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;

/// Who owns what is made: a server that is started as root reads its secrets as somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What became of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Where.
    pub path: PathBuf,
    /// Whether it is new; if not, it was there and is as it was.
    pub new: bool,
    /// What it is for.
    pub note: String,
}

/// Makes folders and files, and takes them away again unless [`Making::keep`] is called.
#[derive(Debug, Default)]
pub struct Making {
    made: Vec<Made>,
    /// New paths, folders too, in the order of their making.
    undo: Vec<PathBuf>,
}

impl Making {
    /// Makes a folder with those above it. One that exists is left as it is, and that is told.
    pub fn folder(&mut self, path: &Path, mode: u32, owner: Option<Owner>, note: &str) -> io::Result<bool> {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        let new = !missing.is_empty();
        for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir(folder)?;
            self.undo.push(folder.to_owned());
        }
        if new {
            let folder = open_folder(path)?;
            folder.set_permissions(Permissions::from_mode(mode))?;
            give(&folder, owner)?;
            sync_parent(path);
        }
        self.note(path, new, note);
        Ok(new)
    }

    /// Gives away a folder that was made here, once all is in it: before that nobody else can lay something in the way.
    pub fn hand_over(&self, path: &Path, owner: Option<Owner>) -> io::Result<()> {
        give(&open_folder(path)?, owner)
    }

    /// Makes a file, which is there as a whole or not at all, whatever ends this program. One that exists is left as it is,
    /// and that is told.
    pub fn file(&mut self, path: &Path, text: &[u8], mode: u32, owner: Option<Owner>, note: &str) -> io::Result<bool> {
        let beside = beside(path)?;
        let written = write(&beside, text, mode, owner).and_then(|()| fs::hard_link(&beside, path));
        let _ = fs::remove_file(&beside);
        let new = match written {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        if new {
            self.undo.push(path.to_owned());
            sync_parent(path);
        }
        self.note(path, new, note);
        Ok(new)
    }

    /// Takes over a file that somebody else has made, so that it goes with the others if something fails.
    pub fn adopt(&mut self, path: &Path, note: &str) {
        self.undo.push(path.to_owned());
        self.note(path, true, note);
    }

    /// What became of each path.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    /// All is well: what was made stays.
    pub fn keep(mut self) {
        self.undo.clear();
    }

    /// Tells of a path, and does nothing to it.
    pub fn note(&mut self, path: &Path, new: bool, note: &str) {
        self.made.push(Made { path: path.to_owned(), new, note: note.to_owned() });
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        for path in self.undo.iter().rev() {
            // A folder that somebody else has put something into stays.
            let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        }
    }
}

/// The name of a file before it is whole.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.new", std::process::id())))
}

fn write(path: &Path, text: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    // What a crash has left is nobody's.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask may have taken what the mode gives.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text)?;
    give(&file, owner)?;
    file.sync_all()
}

/// The folder itself and not its name, which somebody might lay on another meanwhile.
fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn give(file: &File, owner: Option<Owner>) -> io::Result<()> {
    match owner {
        Some(owner) => fchown(file, Some(owner.uid), Some(owner.gid)),
        None => Ok(()),
    }
}

/// So that the name is on disk, too. What cannot be synced is no reason to give up a file that is there.
fn sync_parent(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = fs::File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_again_unless_it_is_kept_and_what_was_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let there = root.path().join("there");
        fs::write(&there, "mine").unwrap();
        let folder = root.path().join("a/b");
        let mut making = Making::default();
        making.folder(&folder, 0o750, None, "").unwrap();
        assert!(making.file(&folder.join("new"), b"text", 0o600, None, "").unwrap());
        assert!(!making.file(&there, b"other", 0o600, None, "").unwrap());
        assert_eq!(fs::metadata(folder.join("new")).unwrap().permissions().mode() & 0o777, 0o600);
        // Nothing is left beside it, and a link that leads nowhere is something that exists.
        let link = folder.join("link");
        std::os::unix::fs::symlink(root.path().join("nowhere"), &link).unwrap();
        assert!(!making.file(&link, b"other", 0o600, None, "").unwrap());
        fs::remove_file(&link).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(!root.path().join("nowhere").exists());
        drop(making);
        assert!(!root.path().join("a").exists());
        assert_eq!(fs::read_to_string(&there).unwrap(), "mine");

        let mut making = Making::default();
        assert!(making.folder(&folder, 0o750, None, "").unwrap());
        assert!(making.made()[0].new);
        making.keep();
        assert!(folder.exists());
    }

    #[test]
    fn a_folder_with_foreign_files_survives() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("store");
        let mut making = Making::default();
        making.folder(&folder, 0o700, None, "").unwrap();
        fs::write(folder.join("foreign"), "mail").unwrap();
        drop(making);
        assert!(folder.join("foreign").exists());
    }
}
