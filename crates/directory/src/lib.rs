//! Who is here: accounts, how they prove who they are, and what they may send as.
//!
//! ```text
//! AUTH ──► Exchange (a mechanism's dialogue) ──► what the client claims and proves
//!                                                       │
//!          Directory ──► backend: file, SQL: the account's verifiers, checked here, off the reactor and bounded
//!                   └──► backend: Dovecot, LDAP: asked whether they take it
//! ```
//!
//! What must always hold: a password is never kept, printed or logged; the answer for an account that does not exist
//! costs the same work as one for an account that does; what could not be found out is [`AuthFailure::Unavailable`],
//! never a refusal.

#![forbid(unsafe_code)]

mod account;
mod admission;
mod backend;
mod directory;
mod dovecot;
mod exchange;
pub mod file;
mod ldap;
mod mechanisms;
mod metrics;
mod names;
pub mod oauth;
mod password;
mod send_as;
mod settings;
mod sql;
mod trust;
mod uses;

pub use account::{Account, AccountLimits, Limit};
pub use admission::Admission;
pub use directory::{Directory, Prepared};
pub use dovecot::DovecotSettings;
pub use exchange::{AuthFailure, CertificateAccount, ChannelFacts, Exchange, Step, UnknownMechanism};
pub use ldap::{LdapFind, LdapSettings};
pub use mechanisms::Mechanism;
pub use metrics::Metrics;
pub use names::{NameError, normalise};
pub use password::{Password, PasswordError, Secret, SecretError, generate as generate_password};
pub use send_as::{SendAs, SendAsError};
pub use settings::{BackendSettings, Settings, SetupError};
pub use sql::{Database, SqlError, SqlSettings};
pub use trust::{TrustError, is_local};
pub use uses::{LastUse, Uses};

/// Why the directory cannot answer now. The reason is for the operator; clients are told to come again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// An error with its causes: the first line alone, such as `db error`, tells nothing.
pub(crate) fn with_causes(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
