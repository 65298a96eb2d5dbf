//! Hashes that a password is held against: argon2 in the PHC form, and what else can be checked without other crates.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};

use super::Password;
use super::verifier::Verifier;

/// The most memory that a hash may ask for, in KiB: 256 MiB.
const MOST_MEMORY: u32 = 256 << 10;
/// The most passes and lanes that a hash may ask for.
const MOST_PASSES: u32 = 64;

/// What stands in place of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Hash {
    /// `$argon2id$v=19$m=19456,t=2,p=1$…`, also argon2i and argon2d.
    Argon2(Box<Argon2Hash>),
    /// `SCRAM-SHA-256$…`: a verifier can also be held against the password itself.
    Scram(Box<Verifier>),
}

/// A hash and its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Argon2Hash {
    parsed: PasswordHash,
    params: (u32, u32, u32),
    text: String,
}

/// Why a text is no hash that can be used. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Another form.
    #[error("this is neither an argon2 hash ($argon2id$…) nor a SCRAM-SHA-256 verifier (SCRAM-SHA-256$…)")]
    Form,
    /// It would take too much.
    #[error("this hash asks for more than 256 MiB of memory or 64 passes or lanes")]
    Costly,
}

impl Hash {
    /// A hash of a new password, by argon2id with the parameters that OWASP recommends: 19 MiB, two passes, one lane.
    pub fn new(password: &Password) -> Self {
        let hash = Argon2::default().hash_password(password.prepared().as_bytes());
        let text = hash.expect("the default parameters and a password of bounded length are valid").to_string();
        Self::parse(&text).expect("what argon2 wrote can be read")
    }

    /// Reads a hash; Dovecot's `{ARGON2ID}` and `{SCRAM-SHA-256}` in front are taken off.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let (scheme, text) = match text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((scheme, rest)) => (scheme, rest),
            None => ("", text),
        };
        if scheme.eq_ignore_ascii_case("SCRAM-SHA-256") {
            return Verifier::parse_dovecot(text).map(|verifier| Self::Scram(Box::new(verifier)));
        }
        if text.starts_with("SCRAM-SHA-256$") {
            return Verifier::parse(text).map(|verifier| Self::Scram(Box::new(verifier)));
        }
        if !["$argon2id$", "$argon2i$", "$argon2d$"].iter().any(|kind| text.starts_with(kind)) {
            return Err(HashError::Form);
        }
        let parsed = PasswordHash::new(text).map_err(|_| HashError::Form)?;
        let params = Params::try_from(&parsed).map_err(|_| HashError::Form)?;
        let params = (params.m_cost(), params.t_cost(), params.p_cost());
        if params.0 > MOST_MEMORY || params.1 > MOST_PASSES || params.2 > MOST_PASSES {
            return Err(HashError::Costly);
        }
        if parsed.salt.is_none() || parsed.hash.is_none() {
            return Err(HashError::Form);
        }
        Ok(Self::Argon2(Box::new(Argon2Hash { parsed, params, text: text.to_owned() })))
    }

    /// Whether it is of this password. Costly on purpose.
    pub fn is_of(&self, password: &Password) -> bool {
        match self {
            Hash::Argon2(hash) => {
                let prepared = password.prepared();
                Argon2::default().verify_password(prepared.as_bytes(), &hash.parsed).is_ok()
            }
            Hash::Scram(verifier) => verifier.is_of(password),
        }
    }

    /// A hash that takes the same work, and is of no password.
    pub fn decoy(&self) -> Self {
        match self {
            Hash::Argon2(hash) => Self::argon2_of_nothing(hash.params),
            Hash::Scram(verifier) => Hash::Scram(Box::new(verifier.decoy(super::random::<16>().to_vec()))),
        }
    }

    /// Whether `other` takes the same work.
    pub fn costs_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Hash::Argon2(mine), Hash::Argon2(theirs)) => mine.params == theirs.params,
            (Hash::Scram(mine), Hash::Scram(theirs)) => mine.iterations() == theirs.iterations(),
            _ => false,
        }
    }

    /// As new hashes are, of no password.
    pub fn of_nothing() -> Self {
        let params = Params::DEFAULT;
        Self::argon2_of_nothing((params.m_cost(), params.t_cost(), params.p_cost()))
    }

    fn argon2_of_nothing((memory, passes, lanes): (u32, u32, u32)) -> Self {
        use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine};
        let (salt, hash) = (super::random::<16>(), super::random::<32>());
        let (salt, hash) = (BASE64_STANDARD_NO_PAD.encode(salt), BASE64_STANDARD_NO_PAD.encode(hash));
        let text = format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}");
        Self::parse(&text).expect("parameters that were read can be written")
    }

    /// As it is kept.
    pub fn to_text(&self) -> String {
        match self {
            Hash::Argon2(hash) => hash.text.clone(),
            Hash::Scram(verifier) => verifier.to_text(),
        }
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    #[test]
    fn a_hash_is_of_its_password_only() {
        let hash = Hash::new(&password("correct \u{2168}"));
        assert!(hash.to_text().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.to_text());
        let read = Hash::parse(&hash.to_text()).unwrap();
        assert!(read.is_of(&password("correct IX")) && !read.is_of(&password("correct")));
        assert!(!hash.decoy().is_of(&password("correct IX")) && hash.decoy().costs_like(&hash));
        assert_eq!(format!("{hash:?}"), "Hash(…)");
    }

    #[test]
    fn hashes_of_other_programs_are_read() {
        // From the README of the reference implementation: echo -n password | ./argon2 somesalt -t 2 -m 16 -p 4 -l 24
        let reference = "$argon2i$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b+dWRWJTmaaJObG";
        let hash = Hash::parse(reference).unwrap();
        assert!(hash.is_of(&password("password")) && !hash.is_of(&password("passwore")));
        assert_eq!(Hash::parse(&format!("{{ARGON2I}}{reference}")), Hash::parse(reference));
        assert_eq!(Hash::parse(&reference.replace("2i", "2x")), Err(HashError::Form));
    }

    #[test]
    fn what_cannot_be_checked_is_told() {
        for bad in
            ["", "secret", "$2y$10$abc", "$argon2id$v=19$m=8,t=1,p=1$", "$argon2id$", "{SSHA}abc", "SCRAM-SHA-256$x"]
        {
            assert_eq!(Hash::parse(bad), Err(HashError::Form), "{bad}");
        }
        let costly = "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$JV9zrEsIOZOGxZpvuKGMhLHaH1YWhgIG";
        assert_eq!(Hash::parse(costly), Err(HashError::Costly));
    }
}
