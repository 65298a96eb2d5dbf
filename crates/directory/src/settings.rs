//! What a directory is made from.

use std::path::PathBuf;

use crate::file::FormError;
use crate::mechanisms::Mechanism;
use crate::password::Secret;

/// The settings of a [`Directory`](crate::Directory).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where accounts are.
    pub backend: BackendSettings,
    /// The mechanisms to be offered where they can be; all if not set.
    pub mechanisms: Option<Vec<Mechanism>>,
    /// How many passwords may be checked at a time.
    pub parallel_checks: usize,
    /// The key of this server.
    pub secret: Secret,
}

/// Where accounts are.
#[derive(Clone, Debug)]
pub enum BackendSettings {
    /// In a file.
    File(PathBuf),
}

impl Settings {
    /// With what can be left out left out.
    pub fn new(backend: BackendSettings, secret: Secret) -> Self {
        let parallel_checks = std::thread::available_parallelism().map_or(1, usize::from);
        Self { backend, mechanisms: None, parallel_checks, secret }
    }
}

/// Why a directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The accounts file has mistakes.
    #[error(transparent)]
    File(#[from] FormError),
}
