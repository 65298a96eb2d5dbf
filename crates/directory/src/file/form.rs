//! The form of `accounts.toml`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use crate::account::{Account, AccountLimits};
use crate::directory::Record;
use crate::names::normalise;
use crate::password::{Credentials, Extra, Hash, Verifier};
use crate::send_as::SendAs;

const HEAD: &str = "\
# Accounts. `postrider account` changes this file; whoever edits it by hand may do so, but comments are not kept.
# It holds what recognises passwords: nobody but the server may read it.

";

/// An account in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The addresses it may use; its name, if that is an address, when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_as: Option<SendAs>,
    /// Whether it is shut out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disabled: bool,
    /// Whether its own password is for other uses, and only app passwords open this server.
    #[serde(default, skip_serializing_if = "is_false")]
    pub app_passwords_only: bool,
    /// Whether its clients' addresses are left out of Received fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hide_client: Option<bool>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scram: Option<Verifier>,
    /// Its own limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<AccountLimits>,
    /// Further passwords, one per program or device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub app_password: Vec<AppPassword>,
}

/// A password for one program or device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppPassword {
    /// What it is for.
    pub name: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    pub(super) scram: Verifier,
}

/// What is wrong with the file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormError {
    path: PathBuf,
    line: Option<usize>,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    #[serde(default)]
    account: Vec<Spanned<Entry>>,
}

#[derive(Serialize)]
struct Written<'a> {
    account: &'a [Entry],
}

/// Reads the text of the file.
pub fn read(path: &Path, text: &str) -> Result<Vec<Entry>, FormError> {
    let line_at = |offset: usize| 1 + text.bytes().take(offset).filter(|octet| *octet == b'\n').count();
    // The error's own text would show the line, and the line may hold a hash.
    let form: Form = toml::from_str(text).map_err(|error| FormError {
        path: path.to_owned(),
        line: error.span().map(|span| line_at(span.start)),
        message: error.message().to_owned(),
    })?;
    let mut lines = HashMap::new();
    for account in &form.account {
        let line = line_at(account.span().start);
        let wrong = |message| FormError { path: path.to_owned(), line: Some(line), message };
        let entry = account.get_ref();
        if let Some(first) = lines.insert(entry.name.clone(), line) {
            return Err(wrong(format!("two accounts are called `{}`; the other one is at line {first}", entry.name)));
        }
        let mut labels: Vec<&str> = entry.app_password.iter().map(|one| one.name.as_str()).collect();
        labels.sort_unstable();
        if let Some(pair) = labels.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(format!("`{}` has two app passwords called `{}`", entry.name, pair[0])));
        }
    }
    Ok(form.account.into_iter().map(Spanned::into_inner).collect())
}

/// The text of the file.
pub fn write(entries: &[Entry]) -> Result<String, toml::ser::Error> {
    Ok(format!("{HEAD}{}", toml::to_string(&Written { account: entries })?))
}

impl Entry {
    /// The addresses it may use.
    pub fn sends_as(&self) -> SendAs {
        self.send_as.clone().unwrap_or_else(|| SendAs::own(&self.name))
    }

    /// Whether it has a password of its own.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// As the directory uses it.
    pub(crate) fn to_record(&self) -> Record {
        let extras = self.app_password.iter().map(|one| Extra { name: one.name.clone(), verifier: one.scram.clone() });
        Record {
            account: Arc::new(Account {
                name: self.name.clone(),
                send_as: self.sends_as(),
                limits: self.limits,
                hide_client: self.hide_client,
            }),
            credentials: Arc::new(Credentials::new(self.password.clone(), self.scram.clone(), extras.collect())),
            disabled: self.disabled,
            app_passwords_only: self.app_passwords_only,
        }
    }
}

impl FormError {
    /// The file cannot be read at all.
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self { path: path.to_owned(), line: None, message: format!("cannot be read: {error}") }
    }
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for FormError {}

fn is_false(truth: &bool) -> bool {
    !truth
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    normalise(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

macro_rules! text_form {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_text())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}
text_form!(Hash);
text_form!(Verifier);

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn read(text: &str) -> Result<Vec<Entry>, FormError> {
        super::read(Path::new("accounts.toml"), text)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = format!(
            "[[account]]\nname = \"JOE@example.org\"\nsend_as = [\"joe@example.org\", \"*@lists.example.org\"]\nscram = \"{SCRAM}\"\n\
             hide_client = false\n[account.limits]\nmessages_per_day = 7\n[[account.app_password]]\nname = \"phone\"\nscram = \"{SCRAM}\"\n\
             [[account]]\nname = \"ann\"\ndisabled = true\napp_passwords_only = true\n"
        );
        let entries = read(&text).unwrap();
        let again = read(&write(&entries).unwrap()).unwrap();
        assert_eq!(again.len(), 2);
        let joe = &again[0];
        assert_eq!((joe.name.as_str(), joe.hide_client, joe.app_password.len()), ("joe@example.org", Some(false), 1));
        assert_eq!(joe.limits.unwrap().messages_per_day, Some(7));
        assert_eq!(joe.sends_as().describe(), "joe@example.org, *@lists.example.org");
        assert!(again[1].disabled && again[1].app_passwords_only && again[1].sends_as().is_empty());
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_without_secrets() {
        for (text, wanted) in [
            ("[[account]]\nname = \"a\"\npasswort = \"x\"\n", "accounts.toml:3: unknown field `passwort`"),
            ("[[account]]\nname = \"a\"\n\npassword = \"secret\"\n", "accounts.toml:4: this is neither an argon2 hash"),
            ("[[account]]\nname = \"a\"\nsend_as = [\"a@\"]\n", "accounts.toml:3: `a@` is neither an address"),
            ("[[account]]\nname = \"\"\n", "accounts.toml:2: a user name must not be empty"),
            (
                "[[account]]\nname = \"a\"\n[[account]]\nname = \"A\"\n",
                "accounts.toml:3: two accounts are called `a`; the other one is at line 1",
            ),
            ("[[account]]\nname =\n", "accounts.toml:2: "),
            ("[[account]]\ndisabled = true\n", "accounts.toml:1: missing field `name`"),
        ] {
            let told = read(text).unwrap_err().to_string();
            assert!(told.starts_with(wanted) && !told.contains("secret"), "{told}");
        }
    }
}
