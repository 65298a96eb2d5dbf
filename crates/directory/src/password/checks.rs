//! Holds passwords against verifiers: off the reactor, bounded in number, at the same cost whether or not the account
//! exists.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::cache::Successes;
use super::verifier::sha256;
use super::{Hash, ITERATIONS, Password, Verifier, new_salt};

/// Checks that may wait for a place; beyond, clients are told to come again.
const MOST_WAITING: usize = 256;
/// How long a check may wait for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an account's passwords are recognised by.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The account's own password, if it has one.
    pub hash: Option<Hash>,
    /// For SCRAM by that password.
    pub verifier: Option<Verifier>,
    /// Further passwords. Those whose salt and rounds differ from the first one's are not found.
    pub extras: Vec<Extra>,
    /// Of all of the above.
    fingerprint: [u8; 32],
}

/// A further password of an account, made by the program and therefore strong: its verifier serves PLAIN, too.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Its name.
    pub name: String,
    /// What recognises it.
    pub verifier: Verifier,
}

/// Which of an account's passwords it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// Its own.
    Main,
    /// The further one of that name.
    Extra(String),
}

/// More checks are wanted than there are places for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBusy;

impl Credentials {
    /// Puts them together; an account without a hash is recognised by its verifier.
    pub fn new(hash: Option<Hash>, verifier: Option<Verifier>, extras: Vec<Extra>) -> Self {
        let hash = hash.or_else(|| verifier.clone().map(|verifier| Hash::Scram(Box::new(verifier))));
        let mut made = Self { hash, verifier, extras, fingerprint: [0; 32] };
        let mut text = made.text_of_main();
        for extra in &made.extras {
            text.push_str(&format!("{}\n{}\n", extra.name, extra.verifier.to_text()));
        }
        made.fingerprint = sha256(text.as_bytes());
        made
    }

    /// What one of its passwords is recognised by, digested; nothing if there is no such password any more.
    pub fn recogniser(&self, matched: &Matched) -> Option<[u8; 32]> {
        let text = match matched {
            Matched::Main if self.hash.is_none() && self.verifier.is_none() => None,
            Matched::Main => Some(self.text_of_main()),
            Matched::Extra(name) => self.extras.iter().find(|one| one.name == *name).map(|one| one.verifier.to_text()),
        };
        text.map(|text| sha256(text.as_bytes()))
    }

    fn text_of_main(&self) -> String {
        let parts = [self.hash.as_ref().map(Hash::to_text), self.verifier.as_ref().map(Verifier::to_text)];
        parts.map(|part| part.unwrap_or_default() + "\n").concat()
    }

    /// The verifiers that one SCRAM exchange can be held against, with whose they are: those that share the first one's
    /// salt and rounds.
    pub fn verifiers(&self, with_main: bool) -> Vec<(Matched, &Verifier)> {
        let main = self.verifier.iter().filter(|_| with_main).map(|verifier| (Matched::Main, verifier));
        let extras = self.extras.iter().map(|extra| (Matched::Extra(extra.name.clone()), &extra.verifier));
        let mut all: Vec<_> = main.chain(extras).collect();
        if let Some((_, first)) = all.first().cloned() {
            all.retain(|(_, verifier)| verifier.asks_like(first));
        }
        all
    }
}

/// The places for checks, and what is remembered of them.
pub struct Checks {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    successes: Successes,
    decoy: Mutex<Decoy>,
}

/// What stands in for the credentials of accounts that do not exist: it takes the work that the last real account's
/// would.
#[derive(Clone)]
struct Decoy {
    hash: Hash,
    verifier: Verifier,
}

impl Checks {
    /// So many at a time.
    pub fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.max(1))),
            waiting: AtomicUsize::new(0),
            successes: Successes::new(),
            decoy: Mutex::new(Decoy { hash: Hash::of_nothing(), verifier: Verifier::of_nothing(ITERATIONS) }),
        }
    }

    /// Whether and by which of the account's passwords this one is recognised; without credentials it never is, and that
    /// takes as long to say.
    pub async fn check(
        &self,
        name: &str,
        credentials: Option<Arc<Credentials>>,
        password: Password,
    ) -> Result<Option<Matched>, TooBusy> {
        let key = credentials.as_ref().map(|known| self.successes.key(name, &known.fingerprint, &password));
        if let Some(matched) = key.as_ref().and_then(|key| self.successes.find(key)) {
            return Ok(Some(matched));
        }
        let decoy = self.decoy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let place = self.place().await?;
        let check = tokio::task::spawn_blocking(move || {
            let matched = recognise(credentials.as_deref(), &decoy, &password);
            drop(place);
            matched
        });
        // A check that panicked has found nothing out.
        let matched = check.await.map_err(|_| TooBusy)?;
        if let (Some(key), Some(matched)) = (key, &matched) {
            self.successes.keep(key, matched.clone());
        }
        Ok(matched)
    }

    /// What a client that names an unknown account is asked for by SCRAM.
    pub fn decoy_verifier(&self, salt: &[u8]) -> Verifier {
        let decoy = self.decoy.lock().unwrap_or_else(PoisonError::into_inner);
        let length = decoy.verifier.salt().len().min(salt.len());
        decoy.verifier.decoy(salt[..length].to_vec())
    }

    /// Makes the decoy like an account that exists.
    pub fn learn(&self, credentials: &Credentials) {
        let mut decoy = self.decoy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = credentials.hash.as_ref().filter(|hash| !hash.costs_like(&decoy.hash)) {
            decoy.hash = hash.decoy();
        }
        let looks = |verifier: &Verifier| (verifier.iterations(), verifier.salt().len());
        if let Some(verifier) = credentials.verifier.as_ref().filter(|one| looks(one) != looks(&decoy.verifier)) {
            decoy.verifier = verifier.decoy(new_salt().into_iter().cycle().take(verifier.salt().len()).collect());
        }
    }

    async fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, TooBusy> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::begin(&self.waiting)?;
        match tokio::time::timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(TooBusy),
        }
    }
}

/// Counts one that waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Result<Self, TooBusy> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING { Err(TooBusy) } else { Ok(waiting) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every refusal costs a hash and a derivation, whatever the account has of the two.
fn recognise(credentials: Option<&Credentials>, decoy: &Decoy, password: &Password) -> Option<Matched> {
    let hash = credentials.and_then(|known| known.hash.as_ref());
    let main = hash.unwrap_or(&decoy.hash).is_of(password) && hash.is_some();
    if main {
        return Some(Matched::Main);
    }
    let extras = credentials.map_or(&[][..], |known| &known.extras);
    let like = extras.first().map_or(&decoy.verifier, |extra| &extra.verifier);
    let alike = || extras.iter().filter(|extra| extra.verifier.asks_like(like));
    let found = Verifier::find(password, like, alike().map(|extra| &extra.verifier))?;
    alike().nth(found).map(|extra| Matched::Extra(extra.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    fn quick(text: &str, salt: &[u8]) -> Verifier {
        Verifier::new(&password(text), salt.to_vec(), 4096)
    }

    fn credentials() -> Credentials {
        let salt = new_salt();
        let extra = |name: &str| Extra { name: name.to_owned(), verifier: quick(name, &salt) };
        Credentials::new(
            Some(Hash::new(&password("main"))),
            Some(quick("main", &salt)),
            vec![extra("phone"), extra("laptop")],
        )
    }

    #[tokio::test]
    async fn each_password_of_an_account_is_recognised() {
        let (checks, known) = (Checks::new(2), Arc::new(credentials()));
        for (typed, matched) in [
            ("main", Some(Matched::Main)),
            ("phone", Some(Matched::Extra("phone".into()))),
            ("laptop", Some(Matched::Extra("laptop".into()))),
            ("laptops", None),
        ] {
            for _ in 0..2 {
                let found = checks.check("joe", Some(Arc::clone(&known)), password(typed)).await;
                assert_eq!(found, Ok(matched.clone()), "{typed}");
            }
        }
        assert_eq!(checks.check("nobody", None, password("main")).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_remembered_belongs_to_one_account_and_its_verifiers() {
        let (checks, known) = (Checks::new(1), Arc::new(credentials()));
        checks.check("joe", Some(Arc::clone(&known)), password("main")).await.unwrap();
        let key =
            |name, known: &Credentials, typed: &str| checks.successes.key(name, &known.fingerprint, &password(typed));
        assert_eq!(checks.successes.find(&key("joe", &known, "main")), Some(Matched::Main));
        assert_eq!(checks.successes.find(&key("jo", &known, "emain")), None);
        let fewer = Credentials::new(known.hash.clone(), known.verifier.clone(), known.extras[..1].to_vec());
        assert_eq!(checks.successes.find(&key("joe", &fewer, "main")), None);
    }

    #[tokio::test]
    async fn more_than_a_bounded_number_of_checks_is_turned_away() {
        let checks = Checks::new(1);
        let held = Arc::clone(&checks.places).acquire_owned().await.unwrap();
        checks.waiting.store(MOST_WAITING, Ordering::Relaxed);
        assert_eq!(checks.check("nobody", None, password("x")).await, Err(TooBusy));
        assert_eq!(checks.waiting.load(Ordering::Relaxed), MOST_WAITING);
        drop(held);
        assert_eq!(checks.check("nobody", None, password("x")).await, Ok(None));
    }

    #[test]
    fn the_decoy_becomes_like_the_accounts_there_are() {
        let checks = Checks::new(1);
        assert_eq!(checks.decoy_verifier(&[7; 32]).iterations(), ITERATIONS);
        let known = Credentials::new(None, Some(quick("x", &[1; 8])), Vec::new());
        checks.learn(&known);
        let decoy = checks.decoy.lock().unwrap().clone();
        assert!(decoy.hash.costs_like(known.hash.as_ref().unwrap()) && decoy.verifier.iterations() == 4096);
        assert_eq!(checks.decoy_verifier(&[7; 32]).salt(), [7; 8]);
    }
}
