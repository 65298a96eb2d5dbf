//! The keys of an issuer: a JSON Web Key Set (RFC 7517 §5) in a file or at a URL, kept for a while and asked for again when a
//! token names a key that is not among them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use tracing::{info, warn};
use url::Url;

use super::TokenError;
use crate::trust::is_local;
use crate::with_causes;

/// The largest set, in octets.
const MOST_OCTETS: usize = 1 << 20;
/// The most keys of a set.
const MOST_KEYS: usize = 100;
/// How long fetching may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old the set may become before it is fetched again: so long a key that was withdrawn may still be used.
const FRESH: Duration = Duration::from_secs(3600);
/// How old it may become when it cannot be fetched.
const USABLE: Duration = Duration::from_secs(24 * 3600);
/// Tokens that name unknown keys make it fetched so often at most; anybody can send such tokens.
const PAUSE: Duration = Duration::from_secs(30);

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// At an HTTPS URL; HTTP only on this machine.
    Url(Url),
}

/// Why a source of keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Anybody on the way could put keys of his own in their place.
    #[error("keys must come by HTTPS; {0} would come in the clear")]
    InTheClear(Url),
    /// The HTTP client cannot be made.
    #[error("no keys can be fetched: {0}")]
    Client(String),
}

impl KeySource {
    /// Whether keys from there can be trusted.
    pub(super) fn check(&self) -> Result<(), KeysError> {
        match self {
            KeySource::Url(url)
                if url.scheme() != "https" && !(url.scheme() == "http" && url.host_str().is_some_and(is_local)) =>
            {
                Err(KeysError::InTheClear(url.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether there are keys now, if they lie in a file.
    pub(super) fn examine(&self) -> Result<(), String> {
        match self {
            KeySource::File(path) => {
                let octets = read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                parse(&octets).map(drop).map_err(|why| format!("{}: {why}", path.display()))
            }
            KeySource::Url(_) => Ok(()),
        }
    }
}

pub struct Keys {
    source: KeySource,
    client: reqwest::Client,
    held: Mutex<Held>,
    /// Whoever fetches.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    set: Option<Arc<JwkSet>>,
    /// When the set was fetched.
    fetched: Option<Instant>,
    /// When fetching was last tried, and what came of it.
    tried: Option<(Instant, Option<String>)>,
}

impl Keys {
    pub fn new(source: KeySource) -> Result<Self, KeysError> {
        source.check()?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .user_agent(concat!("postrider/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| KeysError::Client(error.to_string()))?;
        Ok(Self { source, client, held: Mutex::default(), fetching: tokio::sync::Mutex::new(()) })
    }

    /// The keys of that name, or all if none is named.
    pub async fn find(&self, kid: Option<&str>) -> Result<Vec<Jwk>, TokenError> {
        if let Some(keys) = self.fresh().map(|set| choose(&set, kid)).filter(|keys| !keys.is_empty()) {
            return Ok(keys);
        }
        self.fetch_soon().await;
        let held = self.held();
        let usable = held.fetched.is_some_and(|at| at.elapsed() < USABLE);
        match &held.set {
            Some(set) if usable => Ok(choose(set, kid)),
            _ => {
                let why = held.tried.as_ref().and_then(|(_, problem)| problem.clone()).unwrap_or_default();
                Err(TokenError::Unavailable(format!("the issuer's keys are not to be had: {why}")))
            }
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Arc<JwkSet>> {
        let held = self.held();
        held.fetched.filter(|at| at.elapsed() < FRESH).and(held.set.clone())
    }

    /// Fetches, unless that was done a moment ago.
    async fn fetch_soon(&self) {
        let before = self.held().tried.as_ref().map(|(at, _)| *at);
        let _fetching = self.fetching.lock().await;
        let now = self.held().tried.as_ref().map(|(at, _)| *at);
        if now != before || now.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let result = self.fetch().await;
        let mut held = self.held();
        let problem = match result {
            Ok(set) => {
                info!(keys = set.keys.len(), "keys of the token issuer fetched");
                held.set = Some(Arc::new(set));
                held.fetched = Some(Instant::now());
                None
            }
            Err(problem) => {
                warn!(%problem, "keys of the token issuer not fetched");
                Some(problem)
            }
        };
        held.tried = Some((Instant::now(), problem));
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let octets = match &self.source {
            KeySource::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read(&path)).await.map_err(with_causes)?.map_err(with_causes)?
            }
            KeySource::Url(url) => self.download(url).await?,
        };
        parse(&octets)
    }

    async fn download(&self, url: &Url) -> Result<Vec<u8>, String> {
        let mut response = self.client.get(url.clone()).send().await.map_err(with_causes)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("{url} answers {}", response.status()));
        }
        let mut octets = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(with_causes)? {
            octets.extend_from_slice(&piece);
            if octets.len() > MOST_OCTETS {
                break;
            }
        }
        Ok(octets)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    fs::File::open(path)?.take(MOST_OCTETS as u64 + 1).read_to_end(&mut octets)?;
    Ok(octets)
}

fn parse(octets: &[u8]) -> Result<JwkSet, String> {
    if octets.len() > MOST_OCTETS {
        return Err(format!("the set is larger than {MOST_OCTETS} octets"));
    }
    let set: JwkSet = serde_json::from_slice(octets).map_err(|error| format!("this is no key set: {error}"))?;
    match set.keys.len() {
        0..=MOST_KEYS => Ok(set),
        more => Err(format!("{more} keys are too many")),
    }
}

fn choose(set: &JwkSet, kid: Option<&str>) -> Vec<Jwk> {
    set.keys.iter().filter(|key| kid.is_none() || key.common.key_id.as_deref() == kid).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_come_in_the_clear() {
        let make = |url: &str| Keys::new(KeySource::Url(url.parse().unwrap())).map(drop);
        assert!(make("https://id.example.org/keys").is_ok() && make("http://127.0.0.1:8080/keys").is_ok());
        assert!(matches!(make("http://id.example.org/keys"), Err(KeysError::InTheClear(_))));
        assert!(matches!(make("http://localhost.example.org/"), Err(KeysError::InTheClear(_))));
    }
}
