//! Real files, and a count of what is asked of them.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::{File, Files, RealFiles, Space};

/// Real files, and what is asked of them.
#[derive(Debug)]
pub struct Counted<T: ?Sized> {
    /// What was asked so far.
    pub sums: Arc<Sums>,
    /// Where it is done.
    pub files: Arc<T>,
}

/// What was asked of them.
#[derive(Debug, Default)]
pub struct Sums {
    written: AtomicU64,
    synced: AtomicU64,
}

impl Sums {
    /// Octets written, and syncs.
    pub fn get(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.synced.load(Ordering::Relaxed))
    }
}

impl<T: ?Sized> Counted<T> {
    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(Counted { sums: self.sums.clone(), files: file })
    }
}

impl Files for Counted<RealFiles> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.files.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.files.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.sums.synced.fetch_add(1, Ordering::Relaxed);
        self.files.sync_names()
    }

    fn space(&self) -> io::Result<Space> {
        self.files.space()
    }
}

impl File for Counted<dyn File> {
    fn size(&self) -> io::Result<u64> {
        self.files.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.read(buffer, offset)
    }

    fn write(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let octets: usize = slices.iter().map(|slice| slice.len()).sum();
        self.sums.written.fetch_add(octets as u64, Ordering::Relaxed);
        self.files.write(slices, offset)
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        self.files.resize(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sums.synced.fetch_add(1, Ordering::Relaxed);
        self.files.sync()
    }
}
