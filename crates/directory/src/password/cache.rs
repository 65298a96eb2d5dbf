//! Remembers for a short while which passwords were found right.
//!
//! A client that opens a session per message would cost a hash each time. What is kept is a MAC, by a key that only this
//! process has, of the name, the password and the verifiers it was held against: a changed password, a removed app
//! password or a removed account is never answered from here. Only successes are kept, so nothing helps somebody who
//! guesses. Whoever can read this process's memory could search the MACs faster than the hashes, for as long as they
//! are kept; but such a reader sees the passwords themselves when clients send them.

use std::time::Duration;

use moka::sync::Cache;

use super::{Matched, Password, Secret};

/// How long a success is remembered.
const LIFE: Duration = Duration::from_secs(300);
/// How many.
const MOST: u64 = 10_000;

pub struct Successes {
    key: Secret,
    kept: Cache<[u8; 32], Matched>,
}

impl Successes {
    pub fn new() -> Self {
        Self { key: Secret::random(), kept: Cache::builder().max_capacity(MOST).time_to_live(LIFE).build() }
    }

    /// The key of a success; `fingerprint` is of the account's verifiers and has a fixed length, as has the length of the
    /// name, so that no two triples give one message.
    pub fn key(&self, name: &str, fingerprint: &[u8; 32], password: &Password) -> [u8; 32] {
        let mut message = zeroize::Zeroizing::new(Vec::with_capacity(name.len() + 64 + password.as_typed().len()));
        message.extend_from_slice(fingerprint);
        message.extend_from_slice(&(name.len() as u64).to_be_bytes());
        message.extend_from_slice(name.as_bytes());
        message.extend_from_slice(password.as_typed().as_bytes());
        self.key.mac(&message)
    }

    pub fn find(&self, key: &[u8; 32]) -> Option<Matched> {
        self.kept.get(key)
    }

    pub fn keep(&self, key: [u8; 32], matched: Matched) {
        self.kept.insert(key, matched);
    }
}
