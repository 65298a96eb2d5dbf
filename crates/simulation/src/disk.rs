//! The disk under the store: the store's own simulated disk, with every operation a step of the process's life.

use std::io::{self, IoSlice};
use std::sync::Arc;

use store::testing::Disk;
use store::{File, Files, Space};

use crate::life::Life;

/// A disk as one life of the process sees it.
#[derive(Clone)]
pub struct Mounted {
    disk: Disk,
    life: Arc<Life>,
    /// Says that content is durable, and does nothing.
    lies: bool,
}

impl Mounted {
    /// For a life.
    pub fn new(disk: Disk, life: Arc<Life>, lies: bool) -> Self {
        Self { disk, life, lies }
    }

    /// The disk decides itself what becomes of the operation in which the power fails.
    fn step(&self) -> io::Result<()> {
        if self.life.loses_power_next() && !self.life.is_over() {
            self.disk.cut_after(0);
            self.life.step();
            return Ok(());
        }
        if self.life.step() { Ok(()) } else { Err(io::Error::other("the process is dead")) }
    }
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mounted")
    }
}

impl Files for Mounted {
    fn list(&self) -> io::Result<Vec<String>> {
        self.step()?;
        self.disk.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        self.step()?;
        let file = self.disk.create(name, len)?;
        Ok(Arc::new(Opened { file, mounted: self.clone() }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.step()?;
        let file = self.disk.open(name)?;
        Ok(Arc::new(Opened { file, mounted: self.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.step()?;
        self.disk.sync_names()
    }

    fn space(&self) -> io::Result<Space> {
        if self.life.is_over() {
            return Err(io::Error::other("the process is dead"));
        }
        self.disk.space()
    }
}

#[derive(Debug)]
struct Opened {
    file: Arc<dyn File>,
    mounted: Mounted,
}

impl File for Opened {
    fn size(&self) -> io::Result<u64> {
        self.mounted.step()?;
        self.file.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.mounted.step()?;
        self.file.read(buffer, offset)
    }

    fn write(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.mounted.step()?;
        self.file.write(slices, offset)
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        self.mounted.step()?;
        self.file.resize(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.mounted.step()?;
        if self.mounted.lies { Ok(()) } else { self.file.sync() }
    }
}
