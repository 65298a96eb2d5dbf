//! The certificates of the server over time: files that change, a self-signed one for want of another, warnings before
//! one expires.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail::{Clock, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use super::folder;
use super::identities::Identities;
use super::identity::{Identity, IdentityError, IdentityFacts};
use super::self_signed::{SelfSignedError, self_signed};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// When it is said that a certificate will expire: first, and again.
const WARNINGS: [Duration; 2] = [Duration::from_secs(14 * 24 * 60 * 60), Duration::from_secs(3 * 24 * 60 * 60)];
/// How long before its end a self-signed certificate is made anew.
const REMADE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The names of our own files in our folder.
const SELF_SIGNED: (&str, &str) = ("self-signed.pem", "self-signed-key.pem");

/// Which certificates there are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateSettings {
    /// A chain and its key each, in PEM form. The first is the default.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The same of a certificate that may not be there yet ([`Acme`](super::Acme) will put it there).
    pub awaited: Option<(PathBuf, PathBuf)>,
}

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// From files of the configuration.
    Files,
    /// From a certificate authority, by ACME.
    Acme,
    /// Made here.
    SelfSigned,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// See the inner error.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// See the inner error.
    #[error(transparent)]
    SelfSigned(#[from] SelfSignedError),
    /// Our own folder cannot be used.
    #[error("the self-signed certificate cannot be kept: {0}")]
    Folder(#[from] io::Error),
}

/// Gauges of the certificates in force; clones count together.
#[derive(Clone, Debug, Default)]
pub struct CertificateMetrics {
    expiry: Family<Named, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: String,
}

impl CertificateMetrics {
    /// `postrider_tls_certificate_expiry_seconds` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Seconds until the certificate expires, by its first name; negative afterwards";
        let room = registry.sub_registry_with_prefix("postrider_tls");
        room.register("certificate_expiry_seconds", help, metrics.expiry.clone());
        metrics
    }
}

/// Keeps the certificates in force; clones share them.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    identities: Identities,
    folder: PathBuf,
    hostname: String,
    clock: Arc<dyn Clock>,
    metrics: CertificateMetrics,
    kept: Mutex<Kept>,
}

/// Certificates that were read, and where they lie.
#[derive(Default)]
pub struct Kept {
    pairs: Vec<Pair>,
    /// How many warnings there were about each certificate.
    warned: HashMap<[u8; 32], usize>,
}

/// A certificate and its key on disk.
struct Pair {
    source: CertificateSource,
    chain: PathBuf,
    key: PathBuf,
    /// What was looked at last.
    seen: Option<(Stamp, Stamp)>,
    identity: Option<Identity>,
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Certificates {
    /// For a server of this name, which keeps files of its own in `folder`. None are in force before
    /// [`adopt`](Self::adopt).
    pub fn new(
        identities: Identities,
        folder: PathBuf,
        hostname: String,
        clock: Arc<dyn Clock>,
        metrics: CertificateMetrics,
    ) -> Self {
        Self(Arc::new(Inner { identities, folder, hostname, clock, metrics, kept: Mutex::default() }))
    }

    /// Where the certificate and its key lie that are made where there is no other.
    pub fn self_signed_files(folder: &Path) -> (PathBuf, PathBuf) {
        (folder.join(SELF_SIGNED.0), folder.join(SELF_SIGNED.1))
    }

    /// Reads all certificates; if one cannot be used, nothing is. Where there is none, a self-signed one is made.
    pub fn load(&self, settings: &CertificateSettings) -> Result<Kept, CertificatesError> {
        let given = settings.files.iter().map(|files| (CertificateSource::Files, files));
        let awaited = settings.awaited.iter().map(|files| (CertificateSource::Acme, files));
        let mut pairs = Vec::new();
        for (source, (chain, key)) in given.chain(awaited) {
            let mut pair = Pair { source, chain: chain.clone(), key: key.clone(), seen: None, identity: None };
            pair.seen = pair.stamps().ok();
            pair.identity = match Identity::from_files(chain, key) {
                Ok(identity) => Some(identity),
                // It may not be there yet; if it is broken, another one will be got.
                Err(_) if source == CertificateSource::Acme => None,
                Err(error) => return Err(error.into()),
            };
            pairs.push(pair);
        }
        if pairs.iter().all(|pair| pair.identity.is_none()) {
            pairs.push(self.0.self_signed()?);
        }
        Ok(Kept { pairs, warned: HashMap::new() })
    }

    /// Puts certificates in force that were read.
    pub fn adopt(&self, new: Kept) {
        for Pair { source, identity, .. } in &new.pairs {
            let Some(facts) = identity.as_ref().map(Identity::facts) else { continue };
            info!(name = facts.name(), names = ?facts.names, expires = %facts.not_after, source = source.word(), "certificate");
        }
        *self.0.kept() = new;
        self.0.put_in_force();
    }

    /// Looks whether files have changed, and puts those in force that have.
    pub fn look(&self) {
        self.0.look();
    }

    /// Looks now and then, until the future is dropped.
    pub async fn run(&self) {
        loop {
            let inner = Arc::clone(&self.0);
            // A panic in there would be an error of this program; the next look may go better.
            let _ = tokio::task::spawn_blocking(move || inner.look()).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is in force, and where it comes from.
    pub fn list(&self) -> Vec<(CertificateSource, IdentityFacts)> {
        let kept = self.0.kept();
        let known = |pair: &Pair| pair.identity.as_ref().map(|identity| (pair.source, identity.facts().clone()));
        kept.pairs.iter().filter_map(known).collect()
    }

    /// What is in force for handshakes.
    pub fn identities(&self) -> &Identities {
        &self.0.identities
    }
}

impl CertificateSource {
    /// A word for logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Acme => "acme",
            Self::SelfSigned => "self-signed",
        }
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let mut changed = false;
        {
            let mut kept = self.kept();
            for pair in &mut kept.pairs {
                changed |= pair.look();
                if pair.source == CertificateSource::SelfSigned && self.is_stale(pair) {
                    match self.self_signed() {
                        Ok(new) => (*pair, changed) = (new, true),
                        Err(error) => warn!(%error, "the self-signed certificate could not be made anew"),
                    }
                }
            }
            // What was made for want of a better one goes when that comes.
            let real = |pair: &Pair| pair.source != CertificateSource::SelfSigned && pair.identity.is_some();
            if kept.pairs.iter().any(real) {
                kept.pairs.retain(|pair| pair.source != CertificateSource::SelfSigned);
            }
        }
        if changed {
            self.put_in_force();
        }
        self.watch_time();
    }

    fn put_in_force(&self) {
        let identities = self.kept().pairs.iter().filter_map(|pair| pair.identity.clone()).collect();
        self.identities.replace(identities);
        self.watch_time();
    }

    /// Tells how long each certificate is good for, and warns in time.
    fn watch_time(&self) {
        let now = self.clock.now();
        let mut kept = self.kept();
        let Kept { pairs, warned } = &mut *kept;
        self.metrics.expiry.clear();
        for facts in pairs.iter().filter_map(|pair| pair.identity.as_ref()).map(Identity::facts) {
            let left = seconds_between(now, facts.not_after);
            self.metrics.expiry.get_or_create(&Named { name: facts.name().to_owned() }).set(left);
            let due = WARNINGS.iter().filter(|before| facts.not_after - **before <= now).count();
            let said = warned.entry(facts.sha256).or_default();
            if due > *said {
                *said = due;
                let days = facts.not_after.since(now).as_secs() / DAY.as_secs();
                warn!(name = facts.name(), expires = %facts.not_after, days, "a certificate expires soon, or has expired");
            }
        }
    }

    /// Whether the self-signed certificate is due to be made anew.
    fn is_stale(&self, pair: &Pair) -> bool {
        let facts = pair.identity.as_ref().map(Identity::facts);
        facts.is_none_or(|facts| !facts.covers(&self.hostname) || facts.not_after - REMADE <= self.clock.now())
    }

    /// The self-signed certificate in our folder; made, or made anew with the key that it had, where need be.
    fn self_signed(&self) -> Result<Pair, CertificatesError> {
        folder::make(&self.folder)?;
        let (chain, key) = Certificates::self_signed_files(&self.folder);
        let mut pair = Pair { source: CertificateSource::SelfSigned, chain, key, seen: None, identity: None };
        pair.seen = pair.stamps().ok();
        pair.identity = Identity::from_files(&pair.chain, &pair.key).ok();
        if !self.is_stale(&pair) {
            return Ok(pair);
        }
        let old_key = std::fs::read_to_string(&pair.key).ok();
        let names = [self.hostname.clone()];
        let (chain, key) = match self_signed(&names, old_key.as_deref()) {
            Err(_) if old_key.is_some() => self_signed(&names, None)?,
            made => made?,
        };
        folder::write(&pair.key, key.as_bytes())?;
        folder::write(&pair.chain, chain.as_bytes())?;
        info!(name = self.hostname, file = %pair.chain.display(), "a self-signed certificate was made");
        pair.seen = pair.stamps().ok();
        pair.identity = Some(Identity::from_files(&pair.chain, &pair.key)?);
        Ok(pair)
    }
}

impl Pair {
    fn stamps(&self) -> io::Result<(Stamp, Stamp)> {
        Ok((Stamp::of(&self.chain)?, Stamp::of(&self.key)?))
    }

    /// Reads the files again if they have changed; tells whether there is another certificate now.
    fn look(&mut self) -> bool {
        let stamps = self.stamps().ok();
        if stamps == self.seen || (stamps.is_none() && self.identity.is_none()) {
            return false;
        }
        self.seen = stamps;
        match Identity::from_files(&self.chain, &self.key) {
            Ok(new) => {
                let facts = new.facts();
                if self.identity.as_ref().is_some_and(|old| old.facts() == facts) {
                    return false;
                }
                info!(name = facts.name(), names = ?facts.names, expires = %facts.not_after, source = self.source.word(), "new certificate");
                self.identity = Some(new);
                true
            }
            Err(error) => {
                warn!(%error, cure = error.cure(), "a new certificate cannot be used; the old one stays");
                false
            }
        }
    }
}

impl Stamp {
    fn of(file: &Path) -> io::Result<Self> {
        let facts = std::fs::metadata(file)?;
        Ok(Self {
            inode: (facts.dev(), facts.ino()),
            size: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

fn seconds_between(now: Timestamp, then: Timestamp) -> i64 {
    let seconds = |time: Timestamp| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    seconds(then).saturating_sub(seconds(now))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::server::testing::Made;

    /// A clock that is so far ahead.
    #[derive(Debug, Default)]
    struct Ahead(AtomicU64);

    impl Clock for Ahead {
        fn now(&self) -> Timestamp {
            mail::SystemClock.now() + DAY * u32::try_from(self.0.load(Ordering::Relaxed)).unwrap()
        }

        fn instant(&self) -> std::time::Instant {
            std::time::Instant::now()
        }
    }

    struct House {
        folder: tempfile::TempDir,
        clock: Arc<Ahead>,
        certificates: Certificates,
    }

    fn house() -> House {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(Ahead::default()));
        let own = folder.path().join("tls");
        let metrics = CertificateMetrics::default();
        let certificates =
            Certificates::new(Identities::default(), own, "mx.example.org".into(), clock.clone(), metrics);
        House { folder, clock, certificates }
    }

    impl House {
        fn put(&self, made: &Made) -> CertificateSettings {
            let (chain, key) = (self.folder.path().join("chain.pem"), self.folder.path().join("key.pem"));
            std::fs::write(&chain, &made.chain).unwrap();
            std::fs::write(&key, &made.key).unwrap();
            CertificateSettings { files: vec![(chain, key)], awaited: None }
        }

        fn load(&self, settings: &CertificateSettings) -> Result<(), CertificatesError> {
            self.certificates.load(settings).map(|kept| self.certificates.adopt(kept))
        }

        fn in_force(&self) -> IdentityFacts {
            self.certificates.identities().find("mx.example.org").unwrap().facts().clone()
        }

        fn left(&self, name: &str) -> i64 {
            let named = Named { name: name.to_owned() };
            self.certificates.0.metrics.expiry.get_or_create(&named).get()
        }
    }

    #[test]
    fn a_self_signed_certificate_is_made_once_and_anew_before_it_ends() {
        let house = house();
        house.load(&CertificateSettings::default()).unwrap();
        let first = house.in_force();
        assert_eq!((first.names.as_slice(), first.self_signed), (&["mx.example.org".to_owned()][..], true));
        house.load(&CertificateSettings::default()).unwrap();
        assert_eq!(house.in_force(), first);
        let mode = std::fs::metadata(house.folder.path().join("tls").join(SELF_SIGNED.1)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        house.clock.0.store(5 * 365 - 31, Ordering::Relaxed);
        house.certificates.look();
        assert_eq!(house.in_force(), first);
        house.clock.0.store(5 * 365 - 29, Ordering::Relaxed);
        house.certificates.look();
        let second = house.in_force();
        assert_ne!(second.sha256, first.sha256);
        assert_eq!(second.spki_sha256, first.spki_sha256, "its key goes on");
    }

    #[test]
    fn changed_files_come_into_force_and_broken_ones_do_not() {
        let house = house();
        let settings = house.put(&Made::new(&["mx.example.org"]));
        house.load(&settings).unwrap();
        let first = house.in_force();
        house.put(&Made::new(&["mx.example.org", "more.example.org"]));
        house.certificates.look();
        let second = house.in_force();
        assert_ne!(first, second);
        for broken in [
            Made { chain: "nothing".into(), ..Made::new(&["a.example"]) },
            Made { key: Made::new(&["a.example"]).key, ..Made::new(&["a.example"]) },
        ] {
            house.put(&broken);
            house.certificates.look();
            assert_eq!(house.in_force(), second);
            assert!(house.load(&settings).is_err());
        }
        std::fs::remove_file(&settings.files[0].0).unwrap();
        house.certificates.look();
        assert_eq!(house.in_force(), second);
    }

    #[test]
    fn an_awaited_certificate_takes_the_place_of_the_self_signed_one() {
        let house = house();
        let folder = house.folder.path();
        let awaited = Some((folder.join("chain.pem"), folder.join("key.pem")));
        house.load(&CertificateSettings { files: Vec::new(), awaited }).unwrap();
        assert!(house.certificates.list().iter().all(|(source, _)| *source == CertificateSource::SelfSigned));
        house.put(&Made::new(&["mx.example.org", "second.example.org"]));
        house.certificates.look();
        assert_eq!(house.in_force().names.len(), 2);
        assert!(house.certificates.list().iter().all(|(source, _)| *source == CertificateSource::Acme));
    }

    #[test]
    fn the_time_that_is_left_is_told() {
        let house = house();
        house.load(&CertificateSettings::default()).unwrap();
        let days = house.left("mx.example.org") / 86_400;
        assert!((5 * 365 - 1..=5 * 365).contains(&days), "{days}");
        let settings = house.put(&Made::new(&["other.example"]));
        house.load(&settings).unwrap();
        house.clock.0.store(5 * 365 + 1, Ordering::Relaxed);
        house.certificates.look();
        assert!(house.left("other.example") < 0);
        assert_eq!(house.certificates.0.kept().warned.values().copied().collect::<Vec<_>>(), [2]);
    }
}
