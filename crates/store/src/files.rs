//! The seam to the disk: the few things that the store asks of a folder and its files.

use std::fmt;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::OpenError;

/// A folder that belongs to the store. Names are plain, or `quarantine/` and a plain one.
///
/// What is written may be lost until [`File::sync`] returned; names that were made, changed or removed may come back or
/// vanish until [`Files::sync_names`] returned.
pub trait Files: Send + Sync + fmt::Debug {
    /// The names of all files, without those in quarantine.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of `len` zero octets with disk space behind each; an existing one of the name is replaced.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file; one that has the name already is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name; who has the file open may go on.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names durable.
    fn sync_names(&self) -> io::Result<()>;
    /// What is free.
    fn space(&self) -> io::Result<Space>;
}

/// A file of the folder.
pub trait File: Send + Sync + fmt::Debug {
    /// Octets.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; an error if the file ends before.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all slices one after another from `offset`.
    fn write(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Sets the size; new octets are zero and have disk space behind them.
    fn resize(&self, len: u64) -> io::Result<()>;
    /// Makes content and size durable. After an error nothing that was written since the last success is believed.
    fn sync(&self) -> io::Result<()>;
}

/// What is free on a disk for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Octets.
    pub bytes: u64,
    /// Inodes; the largest number on file systems that do not count them.
    pub inodes: u64,
}

/// A real folder, locked against other processes.
#[derive(Debug)]
pub struct RealFiles {
    path: PathBuf,
    folder: fs::File,
    /// Holds the lock for as long as the folder is open.
    _lock: fs::File,
}

impl RealFiles {
    /// Opens the folder, and makes it if need be (readable to its owner only).
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, OpenError> {
        Self::open_beside(path.as_ref(), "lock")
    }

    /// As [`RealFiles::open`], for one of several parts of the store that share the folder, each with a lock of its own.
    pub(crate) fn open_beside(path: &Path, lock_name: &str) -> Result<Arc<Self>, OpenError> {
        let path = path.to_path_buf();
        let at = path.display();
        make_folder(&path).map_err(OpenError::files(format!("make the folder {at}")))?;
        make_folder(&path.join("quarantine")).map_err(OpenError::files(format!("make the folder {at}/quarantine")))?;
        let folder = fs::File::open(&path).map_err(OpenError::files(format!("open the folder {at}")))?;
        let lock = fs::File::options().create(true).append(true).open(path.join(lock_name));
        let lock = lock.map_err(OpenError::files(format!("open {at}/{lock_name}")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(at.to_string())),
            Err(fs::TryLockError::Error(error)) => {
                return Err(OpenError::files(format!("lock {at}/{lock_name}"))(error));
            }
        }
        Ok(Arc::new(Self { folder, _lock: lock, path }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a folder (readable to its owner only) unless it is there, and the names that lead to it durable, up to the root
/// of its file system. A folder that is there may have been made by a life that ended before it could do that.
pub fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let path = path.canonicalize()?;
    let disk = path.metadata()?.dev();
    for above in path.ancestors().skip(1) {
        match fs::File::open(above) {
            Ok(folder) if folder.metadata()?.dev() != disk => break,
            Ok(folder) => folder.sync_all()?,
            // Where we may not even look, somebody else has made what we stand on.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Files for RealFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path.join(name);
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let file = RealFile(file);
        if let Err(error) = file.resize(len) {
            // The space that was got before it ran out is needed elsewhere.
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::File::options().read(true).write(true).open(self.path.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let found = rustix::fs::fstatvfs(&self.folder)?;
        // File systems with dynamic inodes (btrfs) report none at all.
        let inodes = if found.f_files == 0 { u64::MAX } else { found.f_favail };
        Ok(Space { bytes: found.f_bavail.saturating_mul(found.f_frsize), inodes })
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

/// The most slices that one system call takes (`IOV_MAX` on Linux).
const MAX_SLICES: usize = 1024;

impl File for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write(&self, slices: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        for group in slices.chunks(MAX_SLICES) {
            let all: usize = group.iter().map(|slice| slice.len()).sum();
            let written = retry(|| rustix::io::pwritev(&self.0, group, offset))?;
            if written < all {
                self.write_rest(group, written, offset)?;
            }
            offset += all as u64;
        }
        Ok(())
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        let now = self.size()?;
        if len <= now {
            return if len < now { self.0.set_len(len) } else { Ok(()) };
        }
        match retry(|| rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), now, len - now)) {
            // Without preallocation a write may still find the disk full; that is handled like any failed write.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.0.set_len(len),
            result => result,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl RealFile {
    /// A write came up short, which a signal or a nearly full disk may cause: writes the rest slice by slice, which gives
    /// the error its own name.
    fn write_rest(&self, slices: &[IoSlice<'_>], mut written: usize, mut offset: u64) -> io::Result<()> {
        for slice in slices {
            let skip = written.min(slice.len());
            written -= skip;
            self.0.write_all_at(&slice[skip..], offset + skip as u64)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }
}

/// A file that is not there any more went in an earlier try, of which only the sync of the names failed.
pub(crate) fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Calls again when a signal came in between.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
