//! Counting sessions: in memory for a second, then in a table, one record per domain, day and policy.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use mail::{Clock, Domain, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Table, Tables, TablesError};

use super::day::Day;
use super::failure::FailureType;
use super::json::{FailureDetail, Policy, PolicyResult, Summary};
use super::metrics::Metrics;
use super::session::{PolicyApplied, SessionReports, TlsSession};

/// How long counts wait in memory; a crash costs them.
const WAIT: Duration = Duration::from_secs(1);
/// The most records of counts that wait in memory.
const MOST_WAITING: usize = 20_000;
/// The most ways to fail that one record tells apart; more are counted with their kind alone.
const MOST_WAYS: usize = 50;
/// The most octets of a policy's text.
const MOST_TEXT: usize = 4 << 10;
/// The longest reason.
const LONGEST_REASON: usize = 200;
/// How long counts are kept after their day.
const KEPT: Duration = Duration::from_secs(4 * 24 * 60 * 60);

/// Counts sessions; clones share it.
#[derive(Clone)]
pub struct Tally(Arc<Inner>);

struct Inner {
    tables: Tables,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    waiting: Mutex<HashMap<String, Counts>>,
}

/// What is counted under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    policy: PolicyText,
    good: u64,
    bad: u64,
    ways: BTreeMap<Way, u64>,
}

/// A policy as reports tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PolicyText {
    kind: String,
    domain: String,
    lines: Vec<String>,
    hosts: Vec<String>,
}

/// A way to fail, as far as reports tell it apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Way {
    kind: FailureType,
    reason: String,
    host: Option<String>,
    receiving: Option<IpAddr>,
    sending: Option<IpAddr>,
}

impl Tally {
    /// Counts into a table.
    pub fn new(tables: Tables, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { tables, clock, metrics, waiting: Mutex::default() }))
    }

    /// Writes what is counted, second after second. To be kept running.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(WAIT).await;
            self.flush().await;
        }
    }

    /// Writes what is counted; durable when it returns. What cannot be written stays in memory.
    pub async fn flush(&self) {
        let waiting = std::mem::take(&mut *self.0.waiting());
        let writing = waiting.into_iter().map(|(key, counts)| self.0.add(key, counts));
        for (key, counts, error) in join_all(writing).await.into_iter().flatten() {
            tracing::warn!(%error, "counts of TLS sessions cannot be written");
            self.0.wait(key, counts);
        }
    }

    /// The domains with counts of a day, behind `after`.
    pub(super) async fn domains(&self, day: Day, after: Option<&Domain>) -> Result<Vec<Domain>, TablesError> {
        const PAGE: usize = 1000;
        let prefix = format!("count/{day}/");
        // `0` comes behind `/`: every key of that domain is passed over.
        let after = after.map(|domain| format!("{prefix}{domain}0"));
        let page = self.0.tables.scan(Table::TlsSessions, &prefix, after.as_deref(), PAGE, self.0.clock.now()).await?;
        let name = |key: &str| Domain::parse(key.strip_prefix(&prefix)?.split_once('/')?.0).ok();
        let mut domains: Vec<_> = page.iter().filter_map(|(key, ..)| name(key)).collect();
        domains.dedup();
        Ok(domains)
    }

    /// What was counted for a domain on a day, by policy, as a report tells it.
    pub async fn results(&self, day: Day, domain: &Domain) -> Result<Vec<PolicyResult>, TablesError> {
        let rows = self.0.rows(day, domain).await?;
        Ok(rows.into_iter().map(|(_, counts)| counts.into_result()).collect())
    }

    /// Takes away what was counted for a domain on a day.
    pub(super) async fn forget(&self, day: Day, domain: &Domain) -> Result<(), TablesError> {
        for (key, _) in self.0.rows(day, domain).await? {
            self.0.tables.remove(Table::TlsSessions, &key).await?;
        }
        Ok(())
    }
}

impl SessionReports for Tally {
    fn session(&self, session: TlsSession) {
        self.0.metrics.session(session.failure.as_ref().map(|failure| failure.kind));
        let policy = PolicyText::new(&session);
        let key = format!("count/{}/{}/{}", Day::of(self.0.clock.now()), session.domain, policy.mark());
        self.0.wait(key, Counts::one(policy, session));
    }
}

impl Inner {
    /// Puts counts into line for the table.
    fn wait(&self, key: String, counts: Counts) {
        let mut waiting = self.waiting();
        let full = waiting.len() >= MOST_WAITING;
        match waiting.get_mut(&key) {
            Some(there) => there.add(counts),
            None if full => drop(self.metrics.lost.inc()),
            None => drop(waiting.insert(key, counts)),
        }
    }

    /// Adds to the table; gives back what could not be added.
    async fn add(&self, key: String, counts: Counts) -> Option<(String, Counts, TablesError)> {
        let now = self.clock.now();
        let (new, expires) = (counts.clone(), now + Duration::from_secs(24 * 60 * 60) + KEPT);
        let change = move |old: Option<Vec<u8>>| {
            let old: Option<Counts> = old.and_then(|old| postcard::from_bytes(&old).ok());
            let mut sum = old.unwrap_or_else(|| Counts { policy: new.policy.clone(), ..Counts::default() });
            sum.add(new);
            Some((postcard::to_stdvec(&sum).ok()?, Some(expires)))
        };
        match self.tables.update(Table::TlsSessions, &key, now, change).await {
            Ok(_) => None,
            Err(error @ (TablesError::TooLarge { .. } | TablesError::Full(_))) => {
                tracing::error!(%key, %error, "TLS sessions are not counted");
                self.metrics.lost.inc();
                None
            }
            Err(error) => Some((key, counts, error)),
        }
    }

    async fn rows(&self, day: Day, domain: &Domain) -> Result<Vec<(String, Counts)>, TablesError> {
        /// Policies of one domain on one day.
        const MOST: usize = 100;
        let prefix = format!("count/{day}/{domain}/");
        let rows = self.tables.scan(Table::TlsSessions, &prefix, None, MOST, self.clock.now()).await?;
        Ok(rows.into_iter().filter_map(|(key, value, _)| Some((key, postcard::from_bytes(&value).ok()?))).collect())
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Counts>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyText {
    fn new(session: &TlsSession) -> Self {
        let own = session.domain.to_string();
        let (kind, domain, lines, hosts) = match &session.policy {
            PolicyApplied::Tlsa { base, records } => ("tlsa", base.to_string(), bounded(records.iter()), Vec::new()),
            PolicyApplied::Sts(Some(policy)) => {
                let hosts: Vec<String> = policy.mx.iter().map(ToString::to_string).collect();
                ("sts", own, bounded(policy.lines.iter()), bounded(hosts.iter()))
            }
            PolicyApplied::Sts(None) => ("sts", own, Vec::new(), Vec::new()),
            PolicyApplied::NoPolicyFound => ("no-policy-found", own, Vec::new(), Vec::new()),
        };
        Self { kind: kind.to_owned(), domain, lines, hosts }
    }

    /// A short name for it among those of its domain.
    fn mark(&self) -> String {
        use std::fmt::Write;
        let text = format!("{}\n{}\n{}", self.kind, self.domain, self.lines.join("\n"));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().take(8).fold(String::new(), |mut mark, octet| {
            // Writing to a text does not fail.
            let _ = write!(mark, "{octet:02x}");
            mark
        })
    }
}

/// As many of the texts as fit into the bound.
fn bounded<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut octets = 0;
    let fits = |text: &&String| {
        octets += text.len() + 4;
        octets <= MOST_TEXT
    };
    texts.take_while(fits).cloned().collect()
}

impl Counts {
    fn one(policy: PolicyText, session: TlsSession) -> Self {
        let Some(failure) = session.failure else { return Self { policy, good: 1, ..Self::default() } };
        let way = Way {
            kind: failure.kind,
            reason: failure.reason.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect(),
            host: session.mx_host.map(|host| host.to_string()),
            receiving: session.receiving_ip,
            sending: session.sending_ip,
        };
        Self { policy, bad: 1, ways: BTreeMap::from([(way, 1)]), ..Self::default() }
    }

    fn add(&mut self, more: Counts) {
        self.good = self.good.saturating_add(more.good);
        self.bad = self.bad.saturating_add(more.bad);
        for (way, count) in more.ways {
            let known = self.ways.contains_key(&way) || self.ways.len() < MOST_WAYS;
            // There are eleven kinds: the record stays bounded.
            let plain = Way { kind: way.kind, reason: String::new(), host: None, receiving: None, sending: None };
            *self.ways.entry(if known { way } else { plain }).or_default() += count;
        }
    }

    fn into_result(self) -> PolicyResult {
        let PolicyText { kind, domain, lines, hosts } = self.policy;
        let detail = |(way, count): (Way, u64)| FailureDetail {
            result_type: way.kind.to_string(),
            sending_mta_ip: way.sending.map(|ip| ip.to_string()),
            receiving_mx_hostname: way.host,
            receiving_mx_helo: None,
            receiving_ip: way.receiving.map(|ip| ip.to_string()),
            failed_session_count: count,
            additional_information: None,
            failure_reason_code: Some(way.reason).filter(|reason| !reason.is_empty()),
        };
        PolicyResult {
            policy: Policy { policy_type: kind, policy_string: lines, policy_domain: domain, mx_host: hosts },
            summary: Summary { total_successful_session_count: self.good, total_failure_session_count: self.bad },
            failure_details: self.ways.into_iter().map(detail).collect(),
        }
    }
}

/// What is counted at the moment, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// The day, `2026-11-21`.
    pub day: String,
    /// The domain.
    pub domain: Domain,
    /// What happened.
    pub results: Vec<PolicyResult>,
}

impl Tally {
    /// What is counted and not reported yet, oldest first; of one domain if it is given, at most `limit` entries.
    pub async fn counted(&self, domain: Option<&Domain>, limit: usize) -> Result<Vec<Counted>, TablesError> {
        self.flush().await;
        let today = Day::of(self.0.clock.now());
        let mut found = Vec::new();
        for day in (0..=4).rev().map(|back| today.back(back)) {
            let mut after: Option<Domain> = None;
            loop {
                let page = match domain {
                    Some(domain) => vec![domain.clone()],
                    None => self.domains(day, after.as_ref()).await?,
                };
                for one in &page {
                    let results = self.results(day, one).await?;
                    if !results.is_empty() {
                        found.push(Counted { day: day.to_string(), domain: one.clone(), results });
                    }
                    if found.len() >= limit {
                        return Ok(found);
                    }
                }
                match page.last() {
                    Some(last) if domain.is_none() => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(found)
    }

    /// For reports: until when all sessions of a day are counted.
    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}
