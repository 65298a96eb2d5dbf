//! Accounts in a file, `accounts.toml`: read as a whole, read anew when it changes, replaced as a whole by commands.

mod edit;
mod form;
mod source;

pub use edit::{AccountsFile, EditError, write_private};
pub use form::{AppPassword, Entry, FormError};
pub(crate) use source::FileAccounts;

/// Whether the accounts of a file can be used. A file that is not there, or that may not be read here, is no mistake.
pub fn check(path: &std::path::Path) -> Result<(), FormError> {
    match std::fs::read_to_string(path) {
        Ok(text) => form::read(path, &zeroize::Zeroizing::new(text)).map(drop),
        Err(_) => Ok(()),
    }
}
