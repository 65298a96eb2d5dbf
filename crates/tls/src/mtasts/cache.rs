//! The policies that are known: asked for once by however many, kept durably, looked after while they are used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{Flights, LookupError, Resolve};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use mail::{Clock, Domain, Timestamp};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use store::{Table, Tables};

use super::StsPolicies;
use super::fetch::{FetchError, fetch};
use super::metrics::{End, Fetched, Metrics};
use super::policy::StsPolicy;
use super::record::StsRecord;
use crate::https::Https;
use crate::names;
use crate::report::{PolicyApplied, SessionReports, TlsSession};

/// How long the look-up of a domain's record counts. Its policy is asked for once in this time at most.
const LOOK: Duration = Duration::from_secs(5 * 60);
/// The longest rest after fetches that failed.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
/// A policy counts for so long at least, that one with a `max_age` of 0 is not fetched for every message.
const LEAST_AGE: Duration = Duration::from_secs(60);
/// How old a policy may be before it is fetched anew (RFC 8461 §3.3 suggests a day), unless it is half over before.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// A policy that was not used for so long is left to its end.
const USED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often policies are looked after.
const ROUND: Duration = Duration::from_secs(60 * 60);
/// How many are fetched anew at a time.
const TOGETHER: usize = 4;
/// How many are read from the table at a time.
const PAGE: usize = 200;
/// Octets of policies in memory, about, and of what is known of domains that have none; all policies are in the table.
const MEMORY: u64 = 4 << 20;

/// What a cache is made of.
pub struct Parts {
    /// For the records of domains.
    pub resolver: Arc<dyn Resolve>,
    /// For their policies.
    pub https: Https,
    /// Where policies are kept.
    pub tables: Tables,
    /// Who hears of policies that could not be had.
    pub reports: Arc<dyn SessionReports>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The counters.
    pub metrics: Metrics,
}

/// Policies by domain; clones share them.
#[derive(Clone)]
pub struct PolicyCache(Arc<Inner>);

struct Inner {
    parts: Parts,
    known: Cache<Domain, Known>,
    flights: Flights<Domain, Known>,
}

/// What is known of a domain, and for how long nobody need ask again.
#[derive(Clone)]
struct Known {
    kept: Option<Arc<Kept>>,
    again: Instant,
    /// Fetches that failed in a row.
    failures: u32,
}

/// A policy with its dates.
struct Kept {
    id: String,
    fetched: Timestamp,
    policy: Arc<StsPolicy>,
}

/// A policy in its table.
#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    fetched: Timestamp,
    used: Timestamp,
    file: String,
}

/// What a domain's record says.
enum Announced {
    /// There is a policy of this id.
    Id(String),
    /// There is none.
    Nothing,
    /// That could not be found out.
    Unknown,
}

impl PolicyCache {
    /// A cache over what the table has.
    pub fn new(parts: Parts) -> Self {
        let weight = |_: &Domain, known: &Known| {
            let lines = known.kept.iter().flat_map(|kept| kept.policy.lines.iter());
            u32::try_from(400 + 3 * lines.map(String::len).sum::<usize>()).unwrap_or(u32::MAX)
        };
        let known = Cache::builder().max_capacity(MEMORY).weigher(weight).build();
        Self(Arc::new(Inner { parts, known, flights: Flights::new() }))
    }

    /// Fetches policies anew before they end, hour after hour. To be kept running.
    pub async fn run(&self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Fetches anew what is used and no longer fresh (RFC 8461 §3.3, §10.2: so that whoever can block the fetch cannot
    /// wait for the end of a policy).
    pub async fn refresh(&self) {
        let mut after: Option<String> = None;
        loop {
            let (tables, now) = (&self.0.parts.tables, self.0.parts.clock.now());
            let page = match tables.scan(Table::StsPolicies, "", after.as_deref(), PAGE, now).await {
                Ok(page) => page,
                Err(error) => return tracing::warn!(%error, "the MTA-STS policies cannot be read"),
            };
            let Some((last, ..)) = page.last() else { return };
            after = Some(last.clone());
            let stale: Vec<_> = page.iter().filter_map(|(key, value, _)| stale(key, value, now)).collect();
            for some in stale.chunks(TOGETHER) {
                join_all(some.iter().map(|(domain, row)| self.0.renew(domain, row))).await;
            }
        }
    }
}

impl StsPolicies for PolicyCache {
    fn policy<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Option<Arc<StsPolicy>>> {
        async move {
            let known = match self.0.current(domain) {
                Some(known) => known,
                None => {
                    let (inner, of) = (Arc::clone(&self.0), domain.clone());
                    self.0.flights.join(domain.clone(), || async move { inner.inquire(&of).await }.boxed()).await
                }
            };
            known.kept.map(|kept| Arc::clone(&kept.policy))
        }
        .boxed()
    }
}

impl Inner {
    /// What memory knows, unless it is time to ask again.
    fn current(&self, domain: &Domain) -> Option<Known> {
        let known = self.known.get(domain)?;
        let now = self.parts.clock.now();
        let counts = known.kept.as_ref().is_none_or(|kept| kept.is_valid(now));
        (self.parts.clock.instant() < known.again && counts).then_some(known)
    }

    /// RFC 8461 §5.1: the kept policy as long as it is valid, unless the record announces another.
    async fn inquire(&self, domain: &Domain) -> Known {
        let now = self.parts.clock.now();
        let failures = self.known.get(domain).map_or(0, |known| known.failures);
        let kept = self.load(domain, now).await;
        let known = match (self.announced(domain).await, kept) {
            (Announced::Id(id), Some(kept)) if kept.id == id => self.settled(Some(kept)),
            (Announced::Id(id), kept) => match self.fetch(domain, id, now, kept.as_deref()).await {
                Some(new) => self.settled(Some(Arc::new(new))),
                None => Known { again: self.parts.clock.instant() + rest(failures), failures: failures + 1, kept },
            },
            // §3.3, §8.3: a record that is gone ends nothing; only a policy that says `none` does.
            (Announced::Nothing | Announced::Unknown, kept) => self.settled(kept),
        };
        self.known.insert(domain.clone(), known.clone());
        known
    }

    fn settled(&self, kept: Option<Arc<Kept>>) -> Known {
        Known { kept, again: self.parts.clock.instant() + LOOK, failures: 0 }
    }

    async fn announced(&self, domain: &Domain) -> Announced {
        match names::texts(&*self.parts.resolver, "_mta-sts", domain).await {
            Ok(texts) => match StsRecord::find(texts.iter().map(String::as_str)) {
                Ok(record) => Announced::Id(record.id),
                Err(why) => {
                    tracing::debug!(%domain, %why, "no MTA-STS");
                    Announced::Nothing
                }
            },
            Err(LookupError::NoRecords | LookupError::NoSuchDomain) => Announced::Nothing,
            Err(error) => {
                tracing::debug!(%domain, %error, "the MTA-STS record cannot be looked up");
                Announced::Unknown
            }
        }
    }

    /// Fetches the policy and keeps it. If that fails, the domain is told by its reports.
    async fn fetch(&self, domain: &Domain, id: String, now: Timestamp, kept: Option<&Kept>) -> Option<Kept> {
        let outcome = fetch(&self.parts.https, domain).await;
        let end = outcome.as_ref().map_or_else(FetchError::end, |_| End::Found);
        self.parts.metrics.fetches.get_or_create(&Fetched { outcome: end }).inc();
        match outcome {
            Ok(policy) => {
                tracing::info!(%domain, id, mode = %policy.mode, max_age = policy.max_age.as_secs(), "MTA-STS policy fetched");
                let kept = Kept { id, fetched: now, policy: Arc::new(policy) };
                self.keep(domain, &kept, now);
                Some(kept)
            }
            Err(error) => {
                tracing::warn!(%domain, id, %error, kept = kept.is_some(), "an MTA-STS policy cannot be fetched");
                self.parts.reports.session(TlsSession {
                    domain: domain.clone(),
                    policy: PolicyApplied::Sts(kept.map(|kept| Arc::clone(&kept.policy))),
                    mx_host: None,
                    receiving_ip: None,
                    sending_ip: None,
                    failure: Some(error.failure()),
                });
                None
            }
        }
    }

    /// Fetches a policy anew before its end, if the domain still announces one.
    async fn renew(&self, domain: &Domain, row: &Row) {
        let Announced::Id(id) = self.announced(domain).await else { return };
        let now = self.parts.clock.now();
        let Some(kept) = row.to_kept() else { return };
        if let Some(new) = self.fetch(domain, id, now, Some(&kept)).await {
            let row = Row { used: row.used, ..Row::new(&new, now) };
            self.put(domain, &row, new.ends());
            // Whoever asks next reads it from the table, and notes its use.
            self.known.invalidate(domain);
        }
    }

    /// The kept policy, if it is valid. That it is used is noted once a day.
    async fn load(&self, domain: &Domain, now: Timestamp) -> Option<Arc<Kept>> {
        let value = match self.parts.tables.get(Table::StsPolicies, domain.as_str(), now).await {
            Ok(value) => value?,
            Err(error) => {
                tracing::error!(%domain, %error, "a kept MTA-STS policy cannot be read");
                return self.known.get(domain)?.kept.filter(|kept| kept.is_valid(now));
            }
        };
        let row: Row = postcard::from_bytes(&value).ok()?;
        let kept = row.to_kept().filter(|kept| kept.is_valid(now))?;
        if now.since(row.used) > FRESH {
            self.keep(domain, &kept, now);
        }
        Some(Arc::new(kept))
    }

    fn keep(&self, domain: &Domain, kept: &Kept, now: Timestamp) {
        self.put(domain, &Row::new(kept, now), kept.ends());
    }

    fn put(&self, domain: &Domain, row: &Row, ends: Timestamp) {
        match postcard::to_stdvec(row) {
            Ok(value) => self.parts.tables.put_soon(Table::StsPolicies, domain.as_str(), value, Some(ends)),
            Err(error) => tracing::error!(%domain, %error, "an MTA-STS policy cannot be kept"),
        }
    }
}

impl Kept {
    fn ends(&self) -> Timestamp {
        self.fetched + self.policy.max_age.max(LEAST_AGE)
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        now < self.ends()
    }
}

impl Row {
    fn new(kept: &Kept, used: Timestamp) -> Self {
        Self { id: kept.id.clone(), fetched: kept.fetched, used, file: kept.policy.to_file() }
    }

    fn to_kept(&self) -> Option<Kept> {
        let policy = Arc::new(StsPolicy::read(&self.file).ok()?);
        Some(Kept { id: self.id.clone(), fetched: self.fetched, policy })
    }
}

/// The policy of a row, if it is to be fetched anew.
fn stale(key: &str, value: &[u8], now: Timestamp) -> Option<(Domain, Row)> {
    let row: Row = postcard::from_bytes(value).ok()?;
    let fresh = FRESH.min(row.to_kept()?.policy.max_age / 2);
    let due = now.since(row.fetched) >= fresh && now.since(row.used) < USED;
    due.then_some((Domain::parse(key).ok()?, row))
}

/// The wait after a fetch that failed, when `failures` failed before it.
fn rest(failures: u32) -> Duration {
    LOOK.saturating_mul(1 << failures.min(10)).min(LONGEST_REST)
}
