//! The verifier of SCRAM-SHA-256 (RFC 5802 §3, RFC 7677): what a server keeps to recognise a password without having it.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::pbkdf2;
use base64::prelude::{BASE64_STANDARD, Engine};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{HashError, Password, hmac};

/// Rounds of new verifiers. RFC 7677 §4 asks for 4096 at least; each is paid by the client, too, so it cannot be as many as
/// a hash of its own would have.
pub const ITERATIONS: u32 = 100_000;
/// Fewer make a verifier that is too easily searched, more would let a stolen account table stop clients.
const SENSIBLE: std::ops::RangeInclusive<u32> = 1_000..=10_000_000;
const SALT: usize = 16;

/// Salt, rounds and the two keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// A new salt.
pub fn new_salt() -> Vec<u8> {
    super::random::<SALT>().to_vec()
}

impl Verifier {
    /// Of a password.
    pub fn new(password: &Password, salt: Vec<u8>, iterations: u32) -> Self {
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let salted = salted(password, &salt, iterations);
        let stored_key = stored_key(&salted);
        Self { server_key: hmac(&*salted, b"Server Key"), stored_key, iterations, salt }
    }

    /// Reads the form in which PostgreSQL keeps it: `SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`, in base64.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let parts = || {
            let (rounds, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let ((iterations, salt), (stored, server)) = (rounds.split_once(':')?, keys.split_once(':')?);
            Self::from_parts(iterations, salt, stored, server)
        };
        parts().ok_or(HashError::Form)
    }

    /// Reads the form in which Dovecot keeps it: `4096,salt,StoredKey,ServerKey`.
    pub fn parse_dovecot(text: &str) -> Result<Self, HashError> {
        let parts: Vec<&str> = text.split(',').collect();
        let [iterations, salt, stored, server] = parts[..] else { return Err(HashError::Form) };
        Self::from_parts(iterations, salt, stored, server).ok_or(HashError::Form)
    }

    fn from_parts(iterations: &str, salt: &str, stored: &str, server: &str) -> Option<Self> {
        let key = |text: &str| -> Option<[u8; 32]> { BASE64_STANDARD.decode(text).ok()?.try_into().ok() };
        let iterations: u32 = iterations.parse().ok().filter(|rounds| SENSIBLE.contains(rounds))?;
        let salt = BASE64_STANDARD.decode(salt).ok().filter(|salt| (4..=256).contains(&salt.len()))?;
        let iterations = NonZeroU32::new(iterations)?;
        Some(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// The form of PostgreSQL.
    pub fn to_text(&self) -> String {
        let encode = |octets: &[u8]| BASE64_STANDARD.encode(octets);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        format!("SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }

    /// Of no password, with a given salt: the same work and the same looks.
    pub fn decoy(&self, salt: Vec<u8>) -> Self {
        Self { salt, ..Self::of_nothing(self.iterations.get()) }
    }

    /// Of no password.
    pub fn of_nothing(iterations: u32) -> Self {
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        Self { iterations, salt: new_salt(), stored_key: super::random(), server_key: super::random() }
    }

    /// Whether it is of this password.
    pub fn is_of(&self, password: &Password) -> bool {
        let salted = salted(password, &self.salt, self.iterations);
        self.has_stored_key(&stored_key(&salted))
    }

    /// Which of several verifiers that share salt and rounds is of this password: one derivation for all of them.
    pub fn find<'a>(password: &Password, like: &Verifier, among: impl Iterator<Item = &'a Verifier>) -> Option<usize> {
        let salted = salted(password, &like.salt, like.iterations);
        let stored = stored_key(&salted);
        // All are looked at, so that the time does not tell which it was.
        among.enumerate().fold(
            None,
            |found, (at, verifier)| if verifier.has_stored_key(&stored) { found.or(Some(at)) } else { found },
        )
    }

    /// Whether a stored key is its own, in constant time.
    pub fn has_stored_key(&self, key: &[u8; 32]) -> bool {
        bool::from(self.stored_key.ct_eq(key))
    }

    /// Whether salt and rounds are the same, so that one client's proof can be held against both.
    pub fn asks_like(&self, other: &Verifier) -> bool {
        self.salt == other.salt && self.iterations == other.iterations
    }

    /// The rounds.
    pub fn iterations(&self) -> u32 {
        self.iterations.get()
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// `StoredKey`.
    pub fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    /// `ServerKey`.
    pub fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

/// `SaltedPassword := Hi(Normalize(password), salt, i)`
fn salted(password: &Password, salt: &[u8], iterations: NonZeroU32) -> Zeroizing<[u8; 32]> {
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.prepared().as_bytes(), &mut *salted);
    salted
}

/// `StoredKey := H(HMAC(SaltedPassword, "Client Key"))`
fn stored_key(salted: &[u8; 32]) -> [u8; 32] {
    sha256(&hmac(salted, b"Client Key"))
}

/// SHA-256.
pub fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, octets).as_ref());
    hash
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier(SCRAM-SHA-256, {} rounds)", self.iterations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677 §3: user `user`, password `pencil`.
    const SALT_OF_RFC: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    #[test]
    fn verifiers_are_those_of_postgresql() {
        // PostgreSQL 15, `CREATE ROLE … PASSWORD 'pencil'` with the salt of RFC 7677.
        let password = Password::new("pencil").unwrap();
        let verifier = Verifier::new(&password, BASE64_STANDARD.decode(SALT_OF_RFC).unwrap(), 4096);
        let text = verifier.to_text();
        assert_eq!(
            text,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        let read = Verifier::parse(&text).unwrap();
        assert!(read == verifier && read.is_of(&password) && !read.is_of(&Password::new("pencils").unwrap()));
        assert!(!verifier.decoy(verifier.salt().to_vec()).is_of(&password));
        assert!(!format!("{verifier:?}").contains("WG5d8o"));
    }

    #[test]
    fn several_passwords_of_one_account_are_told_apart() {
        let salt = new_salt();
        let make = |text: &str| Verifier::new(&Password::new(text).unwrap(), salt.clone(), 4096);
        let all = [make("one"), make("two")];
        let find = |text: &str| Verifier::find(&Password::new(text).unwrap(), &all[0], all.iter());
        assert_eq!((find("one"), find("two"), find("three")), (Some(0), Some(1), None));
    }

    #[test]
    fn what_is_no_verifier_is_refused() {
        for bad in [
            "",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:c2FsdA==",
            "SCRAM-SHA-256$1:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        ] {
            assert!(Verifier::parse(bad).is_err(), "{bad}");
        }
        assert!(Verifier::parse_dovecot("4096,c2FsdA==,x,y").is_err());
    }
}
