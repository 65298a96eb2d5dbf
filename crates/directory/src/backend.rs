//! Where accounts are. Two kinds: a file or a data base gives us what recognises passwords, and we check; LDAP and Dovecot
//! are asked whether a password is right.

use std::sync::Arc;

use crate::Unavailable;
use crate::account::Account;
use crate::directory::Record;
use crate::dovecot::DovecotAccounts;
use crate::file::FileAccounts;
use crate::ldap::LdapAccounts;
use crate::mechanisms::Mechanism;
use crate::settings::{BackendSettings, SetupError};
use crate::sql::SqlAccounts;

/// Where accounts are.
pub enum Backend {
    /// We check.
    Records(Records),
    /// The server is asked for each password.
    Ldap(Box<LdapAccounts>),
    /// The server is handed every message.
    Dovecot(Arc<DovecotAccounts>),
}

/// Accounts with what recognises their passwords.
pub enum Records {
    File(FileAccounts),
    Sql { accounts: SqlAccounts, scram: bool },
}

/// An account that exists.
pub struct Known {
    pub account: Arc<Account>,
    pub disabled: bool,
}

impl Backend {
    pub fn new(settings: BackendSettings) -> Result<Self, SetupError> {
        Ok(match settings {
            BackendSettings::File(path) => Self::Records(Records::File(FileAccounts::open(path)?)),
            BackendSettings::Sql(settings) => {
                let scram = settings.brings_scram();
                Self::Records(Records::Sql { accounts: SqlAccounts::new(settings)?, scram })
            }
            BackendSettings::Ldap(settings) => Self::Ldap(Box::new(LdapAccounts::new(settings)?)),
            BackendSettings::Dovecot(settings) => Self::Dovecot(Arc::new(DovecotAccounts::new(settings))),
        })
    }

    /// Whether a proof by a mechanism can be judged here.
    pub fn offers(&self, mechanism: Mechanism) -> bool {
        match (self, mechanism) {
            (Self::Dovecot(dovecot), Mechanism::External) => dovecot.knows_users(),
            (Self::Dovecot(dovecot), _) => dovecot.offers(mechanism),
            (_, Mechanism::Plain | Mechanism::Login | Mechanism::External) => true,
            (Self::Records(records), Mechanism::ScramSha256 | Mechanism::ScramSha256Plus) => match records {
                Records::File(_) => true,
                Records::Sql { scram, .. } => *scram,
            },
            _ => false,
        }
    }

    /// Any account, if one is at hand.
    pub fn example(&self) -> Option<Arc<Record>> {
        match self {
            Self::Records(Records::File(file)) => file.example(),
            _ => None,
        }
    }

    /// The account of a normalised name.
    pub async fn known(&self, name: &str) -> Result<Option<Known>, Unavailable> {
        let enabled = |account| Known { account, disabled: false };
        Ok(match self {
            Self::Records(records) => {
                let record = records.find(name).await?;
                record.map(|record| Known { account: Arc::clone(&record.account), disabled: record.disabled })
            }
            Self::Ldap(ldap) => ldap.find(name).await?.map(enabled),
            Self::Dovecot(dovecot) => dovecot.find(name).await?.map(enabled),
        })
    }
}

impl Records {
    /// The account of a normalised name.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Record>>, Unavailable> {
        match self {
            Self::File(file) => Ok(file.find(name).await),
            Self::Sql { accounts, .. } => accounts.find(name).await,
        }
    }
}
