//! Certificates from an authority by ACME (RFC 8555): one for all names of the server, renewed in time.
//!
//! ```text
//! due? ──► account ──► order ──► proof per name ──► certificate ──► files in our folder ──► Certificates takes them
//!   ▲                                  │
//!   └── later, and later each time ◄── failed
//! ```
//!
//! The key of the certificate is made once and goes on, so that a TLSA record (`3 1 1`) stays true over renewals. What
//! failed, and when it may be tried again, is kept on disk: a server that restarts again and again does not use up what
//! the authority allows.

mod order;
mod proofs;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail::{Clock, Randomness, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::identity::{Identity, IdentityError, IdentityFacts};
use super::keeper::Certificates;
use super::{folder, identity};
pub use proofs::Proofs;

/// How long one attempt may take with everything.
const ATTEMPT: Duration = Duration::from_secs(10 * 60);
/// The wait after the first failure; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(5 * 60);
const MOST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How far a wait is moved at random, in either direction.
const JITTER: f64 = 0.2;
/// The longest time without a look at the clock, which may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// How a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Challenge {
    /// By a file on port 80 (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// By a TLS handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// Which authority to ask for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The address of the authority's directory.
    pub directory: String,
    /// Who vouches for the directory's own HTTPS, in a PEM file; those whom the system trusts if not set.
    pub root: Option<PathBuf>,
    /// Mail addresses that the authority may write to.
    pub contact: Vec<String>,
    /// The names of the certificate.
    pub names: Vec<String>,
    /// How they are proven.
    pub challenge: Challenge,
    /// The account that the authority knows already (RFC 8555 §7.3.4): its id, and the file with its key in base64url.
    pub external: Option<(String, PathBuf)>,
}

/// How it stands with the certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AcmeStatus {
    /// The names of the certificate.
    pub names: Vec<String>,
    /// The authority's directory.
    pub directory: String,
    /// How names are proven.
    pub challenge: Challenge,
    /// Until when the certificate is good, if there is one.
    pub expires: Option<Timestamp>,
    /// When the next attempt is due.
    pub next: Timestamp,
    /// Attempts that failed since the last that did not.
    pub failures: u32,
    /// Why the last one failed.
    pub error: Option<String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The authority says no, or cannot be understood.
    #[error("{}", order::chain(.0))]
    Authority(#[from] instant_acme::Error),
    /// The authority did not believe the proof.
    #[error("{name} is not proven: {why}")]
    NotProven {
        /// The name.
        name: String,
        /// What the authority says.
        why: String,
    },
    /// The authority does not take this kind of proof for the name.
    #[error("the authority offers no such challenge for {0}")]
    NoChallenge(String),
    /// The authority has a certificate for us that is not what we asked for.
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(String),
    /// See the inner error.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Our own key or request could not be made.
    #[error("{0}")]
    Request(#[from] rcgen::Error),
    /// The handshake for a proof cannot be set up.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// Our own folder cannot be used.
    #[error("{0}")]
    Files(#[from] io::Error),
    /// What was kept makes no sense.
    #[error("{} cannot be understood: {why}", file.display())]
    Kept {
        /// Where it lies.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("it took more than ten minutes")]
    Time,
}

/// Gets certificates; clones share it.
#[derive(Clone)]
pub struct Acme(Arc<Inner>);

struct Inner {
    settings: Mutex<Option<AcmeSettings>>,
    folder: PathBuf,
    certificates: Certificates,
    proofs: Proofs,
    clock: Arc<dyn Clock>,
    randomness: Randomness,
    attempts: Mutex<Attempts>,
    /// Whether somebody wants a certificate now.
    asked: AtomicBool,
    /// Told when there is something to think over.
    woken: Notify,
}

/// What became of the attempts; kept on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Attempts {
    failures: u32,
    error: Option<String>,
    /// Not before this time.
    not_before: Timestamp,
}

impl Acme {
    /// Keeps its files in `folder`, and tells `certificates` when there is something new.
    pub fn new(
        folder: PathBuf,
        certificates: Certificates,
        proofs: Proofs,
        clock: Arc<dyn Clock>,
        randomness: Randomness,
    ) -> Self {
        let attempts = Mutex::new(read_attempts(&folder.join(ATTEMPTS)));
        let (settings, asked, woken) = (Mutex::new(None), AtomicBool::new(false), Notify::new());
        Self(Arc::new(Inner { settings, folder, certificates, proofs, clock, randomness, attempts, asked, woken }))
    }

    /// Where the certificate and its key lie, as [`Certificates`] is told.
    pub fn files(folder: &Path) -> (PathBuf, PathBuf) {
        (folder.join(CERTIFICATE), folder.join(KEY))
    }

    /// From now on this is wanted; nothing: nothing is.
    pub fn configure(&self, settings: Option<AcmeSettings>) {
        *lock(&self.0.settings) = settings;
        self.0.woken.notify_one();
    }

    /// A certificate is got at once, whether one is due or not.
    pub fn renew_now(&self) {
        let mut attempts = lock(&self.0.attempts);
        attempts.not_before = Timestamp::default();
        attempts.failures = 0;
        drop(attempts);
        self.0.asked.store(true, Ordering::Release);
        self.0.woken.notify_one();
    }

    /// How it stands; nothing if no certificate is wanted from an authority.
    pub fn status(&self) -> Option<AcmeStatus> {
        let settings = lock(&self.0.settings).clone()?;
        let facts = self.0.certificate().map(|identity| identity.facts().clone());
        let next = self.0.due(&settings, facts.as_ref());
        let Attempts { failures, error, .. } = lock(&self.0.attempts).clone();
        let AcmeSettings { directory, names, challenge, .. } = settings;
        Some(AcmeStatus {
            names,
            directory,
            challenge,
            expires: facts.map(|facts| facts.not_after),
            next,
            failures,
            error,
        })
    }

    /// Gets certificates when they are due, until the future is dropped.
    pub async fn run(&self) {
        loop {
            let settings = lock(&self.0.settings).clone();
            let wait = match &settings {
                None => LONGEST_SLEEP,
                Some(settings) => {
                    let facts = self.0.certificate().map(|identity| identity.facts().clone());
                    let asked = self.0.asked.swap(false, Ordering::AcqRel);
                    let due = if asked { Timestamp::default() } else { self.0.due(settings, facts.as_ref()) };
                    due.since(self.0.clock.now())
                }
            };
            if let (Some(settings), true) = (settings, wait.is_zero()) {
                self.0.attempt(&settings).await;
                continue;
            }
            let _ = tokio::time::timeout(wait.min(LONGEST_SLEEP), self.0.woken.notified()).await;
        }
    }
}

/// The names of our files.
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const ATTEMPTS: &str = "attempts.json";

impl Inner {
    /// The certificate that we have.
    fn certificate(&self) -> Option<Identity> {
        let (chain, key) = Acme::files(&self.folder);
        Identity::from_files(&chain, &key).ok()
    }

    /// When the next certificate should be got: at two thirds of the life of the one that we have, at once if that is for
    /// other names, and not before the wait after a failure is over.
    fn due(&self, settings: &AcmeSettings, facts: Option<&IdentityFacts>) -> Timestamp {
        let due = match facts {
            Some(facts) if same_names(&facts.names, &settings.names) => {
                facts.not_before + facts.not_after.since(facts.not_before) * 2 / 3
            }
            _ => Timestamp::default(),
        };
        due.max(lock(&self.attempts).not_before)
    }

    async fn attempt(&self, settings: &AcmeSettings) {
        info!(names = ?settings.names, directory = settings.directory, "asking for a certificate");
        let result = match tokio::time::timeout(ATTEMPT, order::issue(settings, &self.folder, &self.proofs)).await {
            Ok(result) => result,
            Err(_) => Err(AcmeError::Time),
        };
        let now = self.clock.now();
        let attempts = match result {
            Ok(()) => {
                self.certificates.look();
                Attempts::default()
            }
            Err(error) => {
                let failures = lock(&self.attempts).failures.saturating_add(1);
                let wait = wait_after(failures, self.randomness.unit());
                let error = error.to_string();
                warn!(error, failures, next = %(now + wait), "no certificate could be got");
                Attempts { failures, error: Some(error), not_before: now + wait }
            }
        };
        if let Err(error) = write_attempts(&self.folder, &attempts) {
            warn!(%error, "what became of the attempt cannot be kept");
        }
        *lock(&self.attempts) = attempts;
    }
}

fn wait_after(failures: u32, unit: f64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(MOST_WAIT).mul_f64(1.0 + JITTER * (2.0 * unit - 1.0))
}

fn same_names(one: &[String], other: &[String]) -> bool {
    other.iter().all(|name| one.contains(&name.to_ascii_lowercase())) && one.len() == other.len()
}

fn read_attempts(file: &Path) -> Attempts {
    let read = identity::read(file).ok();
    read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write_attempts(to: &Path, attempts: &Attempts) -> io::Result<()> {
    folder::make(to)?;
    folder::write(&to.join(ATTEMPTS), &serde_json::to_vec(attempts)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::keeper::CertificateMetrics;
    use crate::server::{Identities, testing::Made};

    const DAY: u64 = 24 * 60 * 60 * 1000;

    #[derive(Debug)]
    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1000 * DAY)
        }

        fn instant(&self) -> std::time::Instant {
            std::time::Instant::now()
        }
    }

    fn acme(folder: &Path) -> Acme {
        let identities = Identities::default();
        let (clock, metrics) = (Arc::new(Fixed), CertificateMetrics::default());
        let proofs = Proofs::new(identities.clone());
        let certificates =
            Certificates::new(identities, folder.to_owned(), "mx.example.org".into(), clock.clone(), metrics);
        Acme::new(folder.to_owned(), certificates, proofs, clock, Randomness::seeded(1))
    }

    fn settings(names: &[&str]) -> AcmeSettings {
        AcmeSettings {
            directory: "https://ca.example/directory".into(),
            root: None,
            contact: Vec::new(),
            names: names.iter().map(ToString::to_string).collect(),
            challenge: Challenge::Http01,
            external: None,
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let folder = tempfile::tempdir().unwrap();
        let acme = acme(folder.path());
        let mut facts = Made::new(&["mx.example.org"]).identity().facts().clone();
        (facts.not_before, facts.not_after) = (Timestamp::from_millis(10 * DAY), Timestamp::from_millis(100 * DAY));
        let due = |names: &[&str]| acme.0.due(&settings(names), Some(&facts)).as_millis() / DAY;
        assert_eq!(due(&["mx.example.org"]), 70);
        assert_eq!(due(&["mx.example.org", "other.example.org"]), 0, "other names are wanted now");
        assert_eq!(acme.0.due(&settings(&["mx.example.org"]), None), Timestamp::default());
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_waits() {
        let waits: Vec<u64> = (1..=12).map(|failures| wait_after(failures, 0.5).as_secs() / 60).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440]);
        assert_eq!(wait_after(1, 0.0), FIRST_WAIT.mul_f64(0.8));
    }

    #[tokio::test]
    async fn a_failure_is_kept_over_a_restart_until_somebody_asks() {
        let folder = tempfile::tempdir().unwrap();
        let first = acme(folder.path());
        let nowhere = AcmeSettings { directory: "https://127.0.0.1:1/".into(), ..settings(&["mx.example.org"]) };
        first.0.attempt(&nowhere).await;
        let again = acme(folder.path());
        again.configure(Some(nowhere));
        let status = again.status().unwrap();
        assert_eq!(status.failures, 1);
        assert!(status.error.is_some() && status.next > Fixed.now(), "{status:?}");
        again.renew_now();
        assert_eq!(again.status().unwrap().next, Timestamp::default());
    }
}
