//! How somebody came in, kept for as long as the session lasts: the directory can be asked again whether they still would.

use std::fmt;
use std::sync::Arc;

use crate::account::Account;
use crate::backend::Backend;
use crate::directory::{Inner, Record};
use crate::exchange::AuthFailure;
use crate::password::Matched;

/// An account that was let in, and by what.
#[derive(Clone)]
pub struct Admission {
    /// Who.
    pub account: Arc<Account>,
    /// The name by which it was asked for; its backend may know it by another.
    asked: String,
    by: Proof,
}

#[derive(Clone)]
enum Proof {
    /// This one of its passwords, as it was recognised then.
    Password { matched: Matched, recognised_by: Option<[u8; 32]> },
    /// A token or a certificate; `any`: whether accounts that the backend does not know are let in, too.
    Name { any: bool },
    /// A password that somebody else has judged and that we have not kept.
    Elsewhere,
}

impl Admission {
    pub(crate) fn by_name(account: Arc<Account>, asked: &str, any: bool) -> Self {
        Self { account, asked: asked.to_owned(), by: Proof::Name { any } }
    }

    pub(crate) fn elsewhere(account: Arc<Account>, asked: &str) -> Self {
        Self { account, asked: asked.to_owned(), by: Proof::Elsewhere }
    }

    pub(crate) fn by_password(record: &Record, asked: &str, matched: &Matched) -> Self {
        let recognised_by = record.credentials.recogniser(matched);
        let by = Proof::Password { matched: matched.clone(), recognised_by };
        Self { account: Arc::clone(&record.account), asked: asked.to_owned(), by }
    }
}

impl Inner {
    /// Whether somebody who was let in would be let in again: the account as it is now, or why not. The name may lead to
    /// another account by now; whoever that is must log in.
    pub async fn still(&self, admission: &Admission) -> Result<Arc<Account>, AuthFailure> {
        let account = self.found_again(admission).await?;
        if account.name == admission.account.name { Ok(account) } else { Err(AuthFailure::Credentials) }
    }

    async fn found_again(&self, admission: &Admission) -> Result<Arc<Account>, AuthFailure> {
        let name = &admission.asked;
        match (&admission.by, &self.backend) {
            (Proof::Password { matched, recognised_by }, Backend::Records(records)) => {
                let record = records.find(name).await?.ok_or(AuthFailure::Credentials)?;
                record.lets_in(matched)?;
                let same = record.credentials.recogniser(matched) == *recognised_by;
                if same { Ok(Arc::clone(&record.account)) } else { Err(AuthFailure::Credentials) }
            }
            (Proof::Name { any }, _) => self.named(name, *any).await,
            (Proof::Elsewhere, Backend::Ldap(ldap)) if ldap.finds_without_password() => {
                ldap.find(name).await?.ok_or(AuthFailure::Credentials)
            }
            // It cannot be asked without the password.
            (Proof::Elsewhere, Backend::Ldap(_) | Backend::Dovecot(_)) => Ok(Arc::clone(&admission.account)),
            // Accounts are kept elsewhere since; there it is to be proven anew.
            (Proof::Password { .. }, _) | (Proof::Elsewhere, Backend::Records(_)) => Err(AuthFailure::Credentials),
        }
    }

    /// The account of somebody who has proven without a password to have this name.
    pub async fn named(&self, name: &str, any: bool) -> Result<Arc<Account>, AuthFailure> {
        match self.backend.known(name).await? {
            Some(known) if known.disabled => Err(AuthFailure::Disabled),
            Some(known) => Ok(known.account),
            None if any => Ok(Arc::new(Account::plain(name))),
            None => Err(AuthFailure::Credentials),
        }
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({})", self.account.name)
    }
}
