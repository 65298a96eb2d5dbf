//! Who may write the files of a configuration. Root does what they say: it gives folders away and writes where they point,
//! so whoever can change them can do as root. Only root may, then, and only root may replace them in their folders.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::problem::Problem;
use super::source::Sources;

/// Writable for others; for the group.
const OTHERS: u32 = 0o002;
const GROUP: u32 = 0o020;
/// In such a folder nobody replaces what belongs to somebody else.
const STICKY: u32 = 0o1000;

/// What is wrong with the files, if root is to do what they say.
pub fn judge(sources: &Sources) -> Vec<Problem> {
    sources.paths().filter_map(|file| problem(file, other_writer(file))).collect()
}

fn problem(file: &Path, found: io::Result<Option<PathBuf>>) -> Option<Problem> {
    let file = file.display();
    match found {
        Ok(None) => None,
        Ok(Some(path)) => {
            let path = path.display();
            let message = format!("others than root may write {path}, and root does what {file} says");
            let cure = format!("chown root {path} && chmod go-w {path}; let the server read it by its group");
            Some(Problem::general(message).help(cure))
        }
        Err(error) => Some(Problem::general(format!("who may write {file} cannot be found out: {error}"))),
    }
}

/// The file, or the folder on the way to it, that others than root may write.
fn other_writer(file: &Path) -> io::Result<Option<PathBuf>> {
    // By both ways: of a symbolic link, the folder that it lies in counts, and the one that it leads to.
    for file in [file.canonicalize()?, std::path::absolute(file)?] {
        for path in file.ancestors() {
            let facts = path.metadata()?;
            if is_open(&facts, path != file) {
                return Ok(Some(path.to_owned()));
            }
        }
    }
    Ok(None)
}

fn is_open(facts: &Metadata, is_above: bool) -> bool {
    let (mode, kept) = (facts.mode(), is_above && facts.mode() & STICKY != 0);
    let by_group = mode & GROUP != 0 && facts.gid() != 0;
    facts.uid() != 0 || ((mode & OTHERS != 0 || by_group) && !kept)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn only_root_may_write_what_root_obeys() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root can give files to others");
        }
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("etc");
        let file = inner.join("postrider.toml");
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "").unwrap();
        let open = |path: &Path| other_writer(path).unwrap();
        let set = |path: &Path, uid: u32, gid: u32, mode: u32| {
            chown(path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        for (uid, gid, mode, fine) in [
            (0, 65534, 0o640, true),
            (0, 0, 0o660, true),
            (0, 65534, 0o660, false),
            (0, 0, 0o602, false),
            (65534, 65534, 0o400, false),
        ] {
            set(&file, uid, gid, mode);
            assert_eq!(open(&file), (!fine).then(|| file.clone()), "{uid}:{gid} {mode:o}");
        }
        set(&file, 0, 0, 0o644);
        for (uid, mode, fine) in [(65534, 0o755, false), (0, 0o777, false), (0, 0o1777, true), (0, 0o755, true)] {
            set(&inner, uid, 0, mode);
            assert_eq!(open(&file), (!fine).then(|| inner.clone()), "{uid} {mode:o}");
        }
        // A link leads from where anybody could put another.
        let swapped = folder.path().join("swapped");
        fs::create_dir(&swapped).unwrap();
        symlink(&file, swapped.join("link.toml")).unwrap();
        assert_eq!(open(&swapped.join("link.toml")), None);
        set(&swapped, 65534, 0, 0o755);
        assert_eq!(open(&swapped.join("link.toml")), Some(swapped.clone()));
        let told = problem(&file, Ok(Some(swapped))).unwrap();
        let told = super::super::Problems::new(Sources::default(), vec![told]).render(false);
        assert!(told.contains("others than root may write") && told.contains("chown root"), "{told}");
    }
}
