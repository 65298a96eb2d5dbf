//! What a directory is made from.

use std::path::PathBuf;

use crate::backend::Backend;
use crate::dovecot::DovecotSettings;
use crate::file::FormError;
use crate::ldap::LdapSettings;
use crate::mechanisms::Mechanism;
use crate::oauth::{KeysError, OauthSettings};
use crate::password::Secret;
use crate::sql::{SqlError, SqlSettings};
use crate::trust::TrustError;
use crate::uses::Uses;

/// The settings of a [`Directory`](crate::Directory).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where accounts are.
    pub backend: BackendSettings,
    /// Tokens that prove who somebody is; none if not set.
    pub oauth: Option<OauthSettings>,
    /// The mechanisms to be offered where they can be; all if not set.
    pub mechanisms: Option<Vec<Mechanism>>,
    /// How many passwords may be checked at a time.
    pub parallel_checks: usize,
    /// The key of this server.
    pub secret: Secret,
    /// Where uses of passwords are noted, if anywhere.
    pub uses: Option<Uses>,
}

/// Where accounts are.
#[derive(Clone, Debug)]
pub enum BackendSettings {
    /// In a file.
    File(PathBuf),
    /// With a Dovecot.
    Dovecot(DovecotSettings),
    /// With an LDAP server.
    Ldap(LdapSettings),
    /// In a data base.
    Sql(SqlSettings),
}

impl Settings {
    /// With what can be left out left out.
    pub fn new(backend: BackendSettings, secret: Secret) -> Self {
        let parallel_checks = std::thread::available_parallelism().map_or(1, usize::from);
        Self { backend, oauth: None, mechanisms: None, parallel_checks, secret, uses: None }
    }
}

impl BackendSettings {
    /// Whether a directory can be made from them, as far as that can be seen without asking anybody.
    pub fn check(self) -> Result<(), SetupError> {
        Backend::new(self).map(drop)
    }
}

/// Why a directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The accounts file has mistakes.
    #[error(transparent)]
    File(#[from] FormError),
    /// The data base cannot be used.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// Nobody is trusted to be the server.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The keys of a token issuer cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
}
