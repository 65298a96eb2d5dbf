//! What can go wrong, by what the caller does next.

use std::io;

use mail::{EnhancedCode, MessageId, Reply};

/// The store cannot be opened. An operator reads this.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store in {0} is in use by another process")]
    InUse(String),
    /// A file or folder cannot be used.
    #[error("cannot {action}: {error}")]
    Files {
        /// What was tried, with the file's name.
        action: String,
        /// Why it failed.
        error: io::Error,
    },
    /// The index cannot be made anew.
    #[error("cannot build the index: {0}")]
    Index(#[from] IndexError),
    /// An option is out of range.
    #[error("{0}")]
    Options(&'static str),
}

impl OpenError {
    pub(crate) fn files(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Files { action: action.into(), error }
    }
}

/// Why no new mail is taken right now. Passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IntakeError {
    /// Too few bytes are free on the disk.
    #[error("too little free space on the store's disk")]
    Space,
    /// Too few inodes are free on the disk.
    #[error("too few free inodes on the store's disk")]
    Inodes,
    /// Messages in flight fill the memory meant for them.
    #[error("too much content in flight")]
    Memory,
    /// The disk refuses writes; the store tries again every second.
    #[error("the store's disk fails to write")]
    Failing,
    /// The index lags too far behind the log.
    #[error("the index lags behind")]
    Lag,
    /// The index is broken and is being built anew from the log.
    #[error("the index is being rebuilt")]
    Index,
    /// The store is closing.
    #[error("the store is closing")]
    Closing,
}

impl IntakeError {
    /// What the client is told: to come back later.
    pub fn reply(&self) -> Reply {
        match self {
            IntakeError::Closing => Reply::new(421, EnhancedCode::new(4, 3, 2), "Shutting down, try again later"),
            _ => Reply::new(452, EnhancedCode::new(4, 3, 1), "Insufficient system storage, try again later"),
        }
    }

    /// A word for metrics and status.
    pub fn word(&self) -> &'static str {
        match self {
            IntakeError::Space => "space",
            IntakeError::Inodes => "inodes",
            IntakeError::Memory => "memory",
            IntakeError::Failing => "failing",
            IntakeError::Lag => "lag",
            IntakeError::Index => "index",
            IntakeError::Closing => "closing",
        }
    }
}

/// Content cannot be taken further, or a message was not committed: nothing of it exists.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// No new mail is taken.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The disk failed this write.
    #[error("the store's disk failed: {0}")]
    Disk(String),
    /// The id was used before.
    #[error("message {0} exists already")]
    Exists(MessageId),
}

impl CommitError {
    /// What the client is told: to come back later.
    pub fn reply(&self) -> Reply {
        match self {
            CommitError::Intake(error) => error.reply(),
            CommitError::Disk(_) => IntakeError::Failing.reply(),
            CommitError::Exists(_) => Reply::new(451, EnhancedCode::new(4, 3, 0), "Internal error, try again"),
        }
    }
}

/// A message cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk or the index failed; trying again may help.
    #[error("the store cannot read: {0}")]
    Disk(String),
    /// The content on disk is damaged: what is left of it lies in `quarantine/`, the message stays in the queue.
    #[error("the content of message {0} is damaged; see the quarantine folder of the store")]
    Damaged(MessageId),
}

/// The index failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// Reading or writing failed; opening it again may help.
    #[error("{0}")]
    Io(String),
    /// It holds nonsense; only building it anew helps.
    #[error("the index is broken: {0}")]
    Broken(String),
}

impl From<IndexError> for ReadError {
    fn from(error: IndexError) -> Self {
        ReadError::Disk(error.to_string())
    }
}
