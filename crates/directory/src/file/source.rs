//! The file as a source of accounts: what was read last, and a look whether it has changed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tracing::{error, info, warn};

use super::form::{self, Entry, FormError};
use crate::directory::Record;

/// The accounts of a file.
pub struct FileAccounts {
    path: PathBuf,
    held: RwLock<Held>,
    /// Whoever reads the file anew.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Held {
    accounts: Arc<HashMap<String, Arc<Record>>>,
    stamp: Option<Stamp>,
}

/// What tells one version of the file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl FileAccounts {
    /// Reads the file. If there is none yet, there are no accounts yet.
    pub fn open(path: PathBuf) -> Result<Self, FormError> {
        let held = match Stamp::of(&path) {
            None => {
                warn!(file = %path.display(), "there are no accounts yet; make one with `postrider account add`");
                Held { accounts: Arc::default(), stamp: None }
            }
            Some(_) => read(&path)?,
        };
        Ok(Self { path, held: RwLock::new(held), reading: tokio::sync::Mutex::new(()) })
    }

    /// The account of that name.
    pub async fn find(&self, name: &str) -> Option<Arc<Record>> {
        let held = self.current();
        if Stamp::of(&self.path) != held.stamp {
            self.read_anew().await;
        }
        self.current().accounts.get(name).cloned()
    }

    /// Any account that has a password.
    pub fn example(&self) -> Option<Arc<Record>> {
        self.current().accounts.values().find(|record| record.credentials.hash.is_some()).cloned()
    }

    fn current(&self) -> Held {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// If it cannot be read, what was read before stays in force, and the log says so once per version.
    async fn read_anew(&self) {
        let _reading = self.reading.lock().await;
        let before = self.current();
        let stamp = Stamp::of(&self.path);
        if stamp == before.stamp {
            return;
        }
        let path = self.path.clone();
        let result = tokio::task::spawn_blocking(move || read(&path)).await;
        let next = match result {
            Ok(Ok(held)) => {
                info!(file = %self.path.display(), accounts = held.accounts.len(), "accounts read anew");
                held
            }
            Ok(Err(problem)) => {
                error!(%problem, "accounts not read anew; those that were read before stay in force");
                Held { stamp, ..before }
            }
            Err(_) => return,
        };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

fn read(path: &Path) -> Result<Held, FormError> {
    // Taken before the content: a change in between is seen the next time.
    let stamp = Stamp::of(path);
    let text = std::fs::read_to_string(path).map_err(|error| FormError::unreadable(path, &error))?;
    let text = zeroize::Zeroizing::new(text);
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.mode() & 0o077 != 0
    {
        warn!(file = %path.display(), "others than the owner may read the accounts; chmod 600 mends that");
    }
    let entries = form::read(path, &text)?;
    let accounts = entries.iter().map(|entry: &Entry| (entry.name.clone(), Arc::new(entry.to_record()))).collect();
    Ok(Held { accounts: Arc::new(accounts), stamp })
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Some(Self { inode: metadata.ino(), length: metadata.len(), changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_read_anew_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        let write = |text: &str| super::super::write_private(&path, text.as_bytes(), None).unwrap();
        let accounts = FileAccounts::open(path.clone()).unwrap();
        assert!(accounts.find("a").await.is_none());
        write("[[account]]\nname = \"a\"\n");
        assert!(accounts.find("a").await.is_some());
        write("[[account]]\nname = \"b\"\n[[account]\n");
        assert!(accounts.find("a").await.is_some() && accounts.find("b").await.is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(accounts.find("a").await.is_some());
        write("[[account]]\nname = \"b\"\n");
        assert!(accounts.find("a").await.is_none() && accounts.find("b").await.is_some());
    }

    #[test]
    fn a_broken_file_is_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        std::fs::write(&path, "[[account]]\nnam = \"a\"\n").unwrap();
        let told = FileAccounts::open(path).err().unwrap().to_string();
        assert!(told.contains("accounts.toml:2: unknown field `nam`"), "{told}");
    }
}
