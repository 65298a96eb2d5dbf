//! Where secrets lie.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use tokio::task::spawn_blocking;
use zeroize::Zeroize;

/// The most octets of a secret.
const LONGEST: u64 = 64 << 10;

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// In the first line of this file.
    File(PathBuf),
    /// In this variable of the environment.
    Env(String),
}

/// Why there is no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read {place}: {why}")]
    Unreadable {
        /// Where it should be.
        place: String,
        /// Why it cannot be read.
        why: String,
    },
    /// There is nothing there.
    #[error("{0} is empty")]
    Empty(String),
    /// A command or a web service did not give one.
    #[error("no token: {0}")]
    NotGranted(String),
}

impl SecretPlace {
    /// Reads it.
    pub async fn read(&self) -> Result<SecretString, SecretError> {
        let place = self.clone();
        match spawn_blocking(move || place.read_now()).await {
            Ok(secret) => secret,
            Err(error) => Err(SecretError::Unreadable { place: self.to_string(), why: error.to_string() }),
        }
    }

    /// Reads it at once, for those who may wait for a disk.
    pub fn read_now(&self) -> Result<SecretString, SecretError> {
        let unreadable = |why: String| SecretError::Unreadable { place: self.to_string(), why };
        let text = match self {
            SecretPlace::Env(name) => std::env::var(name).map_err(|error| unreadable(error.to_string()))?,
            SecretPlace::File(path) => read_file(path).map_err(|error| unreadable(error.to_string()))?,
        };
        first_line(text, &self.to_string())
    }
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretPlace::Env(name) => write!(f, "the environment's {name}"),
            SecretPlace::File(path) => path.display().fmt(f),
        }
    }
}

fn read_file(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The first line, for editors put a line end behind what people write.
pub(super) fn first_line(mut text: String, place: &str) -> Result<SecretString, SecretError> {
    let line = text.lines().next().unwrap_or_default().trim_end_matches('\r').to_owned();
    text.zeroize();
    if line.is_empty() { Err(SecretError::Empty(place.to_owned())) } else { Ok(SecretString::from(line)) }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_the_first_line_of_its_file_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = SecretPlace::File(folder.path().join("password"));
        assert!(matches!(file.read().await, Err(SecretError::Unreadable { .. })));
        std::fs::write(folder.path().join("password"), "p ä s s\r\nnot this\n").unwrap();
        let secret = file.read().await.unwrap();
        assert_eq!(secret.expose_secret(), "p ä s s");
        assert!(!format!("{secret:?}").contains("p ä s s"));
        std::fs::write(folder.path().join("password"), "\n").unwrap();
        assert!(matches!(file.read().await, Err(SecretError::Empty(_))));
    }
}
