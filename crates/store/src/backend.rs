//! The index's file, as the table library wants to see it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files::File;

/// Lets the library read and write through the store's own seam, so that a simulated disk has the index too.
#[derive(Debug)]
pub(crate) struct Backend {
    file: Arc<dyn File>,
    closed: Arc<AtomicBool>,
}

/// Ends all writing through a backend.
#[derive(Clone, Debug)]
pub(crate) struct Fence(Arc<AtomicBool>);

impl Fence {
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Backend {
    pub fn new(file: Arc<dyn File>) -> (Self, Fence) {
        let closed = Arc::new(AtomicBool::new(false));
        (Self { file, closed: closed.clone() }, Fence(closed))
    }

    fn open(&self) -> io::Result<&dyn File> {
        match self.closed.load(Ordering::SeqCst) {
            false => Ok(self.file.as_ref()),
            true => Err(io::Error::other("the index was given up")),
        }
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.open()?.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.open()?.read(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.open()?.resize(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.open()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.open()?.write(&[IoSlice::new(data)], offset)
    }
}
