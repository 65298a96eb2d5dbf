//! Accounts in a file, `accounts.toml`: read as a whole, read anew when it changes, replaced as a whole by commands.

mod edit;
mod form;
mod source;

pub use edit::{AccountsFile, EditError, write_private};
pub use form::{AppPassword, Entry, FormError};
pub(crate) use source::FileAccounts;
