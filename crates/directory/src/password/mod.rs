//! Passwords: what is kept in their place, and how one is held against it.
//!
//! PLAIN and LOGIN bring the password itself; it is held against an argon2id hash, which is costly for whoever steals
//! it. SCRAM never shows the password and needs a verifier of its own (RFC 5802 §3), which stands beside the hash.

mod cache;
mod checks;
mod generate;
mod hash;
mod verifier;

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use stringprep::saslprep;
use zeroize::{Zeroize, Zeroizing};

pub(crate) use checks::{Checks, Credentials, Extra, Matched, TooBusy};
pub use generate::generate;
pub(crate) use hash::{Hash, HashError};
pub(crate) use verifier::{ITERATIONS, Verifier, new_salt, sha256};

/// The longest password, in octets: more than people type, less than what is work to hash.
const MAX_PASSWORD: usize = 1024;

/// A password in the clear: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

/// Why a text cannot be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// There is nothing.
    #[error("a password must not be empty")]
    Empty,
    /// More than `MAX_PASSWORD` octets.
    #[error("a password has at most {MAX_PASSWORD} octets")]
    TooLong,
    /// NUL, or a line end: protocols cannot carry it.
    #[error("a password cannot hold a NUL or a line end")]
    Control,
}

impl Password {
    /// Takes what somebody typed or sent.
    pub fn new(text: impl Into<String>) -> Result<Self, PasswordError> {
        let text = Zeroizing::new(text.into());
        if text.is_empty() {
            return Err(PasswordError::Empty);
        }
        if text.len() > MAX_PASSWORD {
            return Err(PasswordError::TooLong);
        }
        if text.contains(['\0', '\r', '\n']) {
            return Err(PasswordError::Control);
        }
        Ok(Self(text))
    }

    /// As it was typed: for servers that prepare it themselves.
    pub(crate) fn as_typed(&self) -> &str {
        &self.0
    }

    /// Prepared by SASLprep (RFC 4013), so that every keyboard gives the same octets. Passwords that it prohibits are
    /// taken as they are, as PostgreSQL does: they were chosen, and must keep working.
    pub(crate) fn prepared(&self) -> Zeroizing<String> {
        match saslprep(&self.0) {
            Ok(prepared) if !prepared.is_empty() => Zeroizing::new(prepared.into_owned()),
            _ => self.0.clone(),
        }
    }

    /// For the one who must be told a password that was just made.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A key of this server that outlives restarts: from it come the salts of accounts that do not exist, so that they look
/// the same every time.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        Self(random())
    }

    /// Reads it from a file, which is made if it does not exist. One that was cut short, by a disk that lied about what it
    /// had kept, is made anew: nothing but the look of accounts that do not exist hangs on it.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let wrong = |error| SecretError { path: path.to_owned(), error };
        match std::fs::read(path) {
            Ok(mut octets) => {
                let secret = <[u8; 32]>::try_from(octets.as_slice());
                octets.zeroize();
                if let Ok(secret) = secret {
                    return Ok(Self(secret));
                }
                tracing::warn!(file = %path.display(), "a key that is not whole is made anew");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
        }
        let secret = Self::random();
        crate::file::write_private(path, &secret.0, None).map_err(wrong)?;
        Ok(secret)
    }

    /// A MAC of `message` by this key.
    pub(crate) fn mac(&self, message: &[u8]) -> [u8; 32] {
        hmac(&self.0, message)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The file of a [`Secret`] cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {error}", path.display())]
pub struct SecretError {
    path: PathBuf,
    error: std::io::Error,
}

/// HMAC-SHA-256.
pub(crate) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key), message);
    let mut octets = [0; 32];
    octets.copy_from_slice(tag.as_ref());
    octets
}

/// Octets that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    // Without a source of randomness there is no security at all: nothing may go on.
    SystemRandom::new().fill(&mut octets).expect("the operating system gives random numbers");
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_prepared_but_not_refused_for_odd_characters() {
        assert_eq!(Password::new("\u{2168}\u{AD}").unwrap().prepared().as_str(), "IX");
        assert_eq!(Password::new("a\u{7}").unwrap().prepared().as_str(), "a\u{7}");
        assert_eq!(Password::new("\u{AD}").unwrap().prepared().as_str(), "\u{AD}");
        assert_eq!(Password::new(""), Err(PasswordError::Empty));
        assert_eq!(Password::new("a\0"), Err(PasswordError::Control));
        assert_eq!(Password::new("a".repeat(1025)), Err(PasswordError::TooLong));
        assert_eq!(format!("{:?}", Password::new("secret").unwrap()), "Password(…)");
    }

    #[test]
    fn a_secret_outlives_the_process_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("directory.key");
        let first = Secret::open(&path).unwrap();
        assert_eq!(first.mac(b"x"), Secret::open(&path).unwrap().mac(b"x"));
        assert_ne!(first.mac(b"x"), Secret::random().mac(b"x"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        let anew = Secret::open(&path).unwrap();
        assert_eq!(anew.mac(b"x"), Secret::open(&path).unwrap().mac(b"x"));
        assert!(Secret::open(folder.path()).is_err());
    }
}
