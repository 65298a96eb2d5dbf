//! Changes to `accounts.toml`: under a lock, and all or nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mail::Timestamp;

use super::form::{self, AppPassword, Entry, FormError};
use crate::names::{NameError, normalise};
use crate::password::{Hash, ITERATIONS, Password, Verifier, generate, new_salt};
use crate::send_as::SendAs;

/// The most app passwords of one account.
const MOST_APP_PASSWORDS: usize = 100;
/// The longest name of an app password, in octets.
const MAX_LABEL: usize = 100;

/// The file, to be changed: nobody else changes it as long as this lives.
#[derive(Debug)]
pub struct AccountsFile {
    path: PathBuf,
    entries: Vec<Entry>,
    _lock: File,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file has mistakes.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is one already.
    #[error("there is an account `{0}` already")]
    Exists(String),
    /// There is none.
    #[error("there is no account `{0}`")]
    Unknown(String),
    /// There is one already.
    #[error("`{0}` has an app password `{1}` already")]
    AppPasswordExists(String, String),
    /// There is none.
    #[error("`{0}` has no app password `{1}`")]
    UnknownAppPassword(String, String),
    /// Too many.
    #[error("an account may have {MOST_APP_PASSWORDS} app passwords at most")]
    TooManyAppPasswords,
    /// It cannot be a name.
    #[error("the name of an app password has 1 to {MAX_LABEL} octets and no control characters")]
    Label,
    /// The account could send nothing.
    #[error("`{0}` is no address, so say what it may send as")]
    NoAddress(String),
    /// The system refused.
    #[error("cannot {action} {}: {error}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl AccountsFile {
    /// Reads the file, or begins a new one, and keeps others from changing it.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let system = |action, path: &Path| {
            let path = path.to_owned();
            move |error| EditError::System { action, path, error }
        };
        // The folder is locked, not the file: the file is about to be replaced.
        let folder = folder_of(path);
        let lock = File::open(folder).map_err(system("open", folder))?;
        lock.lock().map_err(system("lock", folder))?;
        let entries = match fs::read_to_string(path) {
            Ok(text) => form::read(path, &zeroize::Zeroizing::new(text))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(system("read", path)(error)),
        };
        Ok(Self { path: path.to_owned(), entries, _lock: lock })
    }

    /// All accounts.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One account.
    pub fn entry(&self, name: &str) -> Result<&Entry, EditError> {
        let name = normalise(name)?;
        self.entries.iter().find(|entry| entry.name == name).ok_or(EditError::Unknown(name))
    }

    /// Adds an account, with a password unless it proves itself by other means.
    pub fn add(
        &mut self,
        name: &str,
        send_as: Option<SendAs>,
        password: Option<&Password>,
        now: Timestamp,
    ) -> Result<&mut Entry, EditError> {
        let name = normalise(name)?;
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(EditError::Exists(name));
        }
        if send_as.is_none() && SendAs::own(&name).is_empty() {
            return Err(EditError::NoAddress(name));
        }
        let mut entry = Entry {
            name,
            send_as,
            disabled: false,
            app_passwords_only: false,
            hide_client: None,
            created: Some(now.to_string()),
            password: None,
            scram: None,
            limits: None,
            app_password: Vec::new(),
        };
        if let Some(password) = password {
            entry.set_password(password);
        }
        self.entries.push(entry);
        let last = self.entries.len() - 1;
        Ok(&mut self.entries[last])
    }

    /// Gives an account another password.
    pub fn set_password(&mut self, name: &str, password: &Password) -> Result<(), EditError> {
        self.change(name)?.set_password(password);
        Ok(())
    }

    /// Shuts an account out, or lets it in again.
    pub fn set_disabled(&mut self, name: &str, disabled: bool) -> Result<(), EditError> {
        self.change(name)?.disabled = disabled;
        Ok(())
    }

    /// Removes an account.
    pub fn remove(&mut self, name: &str) -> Result<(), EditError> {
        let name = self.entry(name)?.name.clone();
        self.entries.retain(|entry| entry.name != name);
        Ok(())
    }

    /// Makes a password for one program or device; it is shown this once.
    pub fn add_app_password(&mut self, name: &str, label: &str, now: Timestamp) -> Result<Password, EditError> {
        let label = label.trim();
        if label.is_empty() || label.len() > MAX_LABEL || label.chars().any(char::is_control) {
            return Err(EditError::Label);
        }
        let entry = self.change(name)?;
        if entry.app_password.iter().any(|one| one.name == label) {
            return Err(EditError::AppPasswordExists(entry.name.clone(), label.to_owned()));
        }
        if entry.app_password.len() >= MOST_APP_PASSWORDS {
            return Err(EditError::TooManyAppPasswords);
        }
        let password = generate();
        let scram = entry.verifier_of(&password);
        entry.app_password.push(AppPassword { name: label.to_owned(), created: Some(now.to_string()), scram });
        Ok(password)
    }

    /// Removes the password of one program or device.
    pub fn remove_app_password(&mut self, name: &str, label: &str) -> Result<(), EditError> {
        let entry = self.change(name)?;
        let before = entry.app_password.len();
        entry.app_password.retain(|one| one.name != label.trim());
        if entry.app_password.len() == before {
            return Err(EditError::UnknownAppPassword(entry.name.clone(), label.to_owned()));
        }
        Ok(())
    }

    /// One account, to be changed.
    pub fn change(&mut self, name: &str) -> Result<&mut Entry, EditError> {
        let name = normalise(name)?;
        self.entries.iter_mut().find(|entry| entry.name == name).ok_or(EditError::Unknown(name))
    }

    /// Puts the changes in force. The file keeps its owner; a new one belongs to `owner`.
    pub fn save(self, owner: Option<(u32, u32)>) -> Result<(), EditError> {
        let system = |error| EditError::System { action: "write", path: self.path.clone(), error };
        let text = form::write(&self.entries).map_err(|error| system(io::Error::other(error)))?;
        let kept = fs::metadata(&self.path).ok().map(|metadata| (metadata.uid(), metadata.gid()));
        write_private(&self.path, text.as_bytes(), kept.or(owner)).map_err(system)
    }
}

impl Entry {
    fn set_password(&mut self, password: &Password) {
        self.password = Some(Hash::new(password));
        self.scram = Some(self.verifier_of(password));
    }

    /// All verifiers of an account share salt and rounds: SCRAM asks a client for one proof, which is then held against
    /// each of them.
    fn verifier_of(&self, password: &Password) -> Verifier {
        let apps = self.app_password.iter().map(|one| &one.scram);
        let like = apps.chain(&self.scram).next();
        let salt = like.map_or_else(new_salt, |verifier| verifier.salt().to_vec());
        Verifier::new(password, salt, like.map_or(ITERATIONS, Verifier::iterations))
    }
}

/// Replaces a file by one that only its owner can read: a reader sees the old one or the new one, and after a crash there is
/// one of the two.
pub fn write_private(path: &Path, octets: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    let folder = folder_of(path);
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?.to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let metadata = file.metadata()?;
        if let Some((user, group)) = owner.filter(|owner| *owner != (metadata.uid(), metadata.gid())) {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        }
        file.write_all(octets)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    let result = written();
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_253_400_000);

    #[test]
    fn accounts_are_made_changed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        let mut file = AccountsFile::open(&path).unwrap();
        let password = Password::new("first").unwrap();
        file.add("Joe@example.org", None, Some(&password), NOW).unwrap();
        let phone = file.add_app_password("joe@example.org", " phone ", NOW).unwrap();
        assert!(matches!(file.add("joe@EXAMPLE.org", None, None, NOW), Err(EditError::Exists(_))));
        assert!(matches!(file.add("joe", None, None, NOW), Err(EditError::NoAddress(_))));
        assert!(matches!(
            file.add_app_password("joe@example.org", "phone", NOW),
            Err(EditError::AppPasswordExists(..))
        ));
        assert!(matches!(file.add_app_password("joe@example.org", "a\nb", NOW), Err(EditError::Label)));
        file.save(None).unwrap();

        let mut file = AccountsFile::open(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("first") && !text.contains(phone.reveal()));
        file.set_password("joe@example.org", &Password::new("second").unwrap()).unwrap();
        let entry = file.entry("joe@example.org").unwrap();
        assert!(entry.password.as_ref().unwrap().is_of(&Password::new("second").unwrap()));
        assert!(entry.app_password[0].scram.is_of(&phone));
        assert!(entry.app_password[0].scram.asks_like(entry.scram.as_ref().unwrap()), "one proof serves all");
        file.set_disabled("joe@example.org", true).unwrap();
        file.remove_app_password("joe@example.org", "phone").unwrap();
        assert!(matches!(file.remove_app_password("joe@example.org", "phone"), Err(EditError::UnknownAppPassword(..))));
        file.remove("joe@example.org").unwrap();
        assert!(matches!(file.remove("joe@example.org"), Err(EditError::Unknown(_))));
    }

    #[test]
    fn the_file_is_private_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        fs::write(&path, "[[account]]\nname = \"old\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let mut file = AccountsFile::open(&path).unwrap();
        file.add("a@b", None, None, NOW).unwrap();
        file.save(None).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert!(after.ino() != before && after.mode() & 0o777 == 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(AccountsFile::open(&path).unwrap().entries().len(), 2);
    }

    #[test]
    fn changes_wait_for_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        let add = |name: String| {
            let mut file = AccountsFile::open(&path).unwrap();
            file.add(&name, None, None, NOW).unwrap();
            file.save(None).unwrap();
        };
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || add(format!("a{number}@b")));
            }
        });
        assert_eq!(AccountsFile::open(&path).unwrap().entries().len(), 8);
    }
}
