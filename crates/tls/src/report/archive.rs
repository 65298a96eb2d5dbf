//! Reports that others sent us, kept for a time and found again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use mail::{Clock, Domain, MessageId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use store::{Table, Tables, TablesError};

use super::json::Report;
use super::metrics::{Metrics, Received, ReceivedKind};
use super::receive::{self, Read};

/// The most octets of a compressed report that are kept with all details.
const MOST_KEPT: usize = 200 << 10;
/// How many are read from the table at a time.
const PAGE: usize = 50;

/// The received reports; clones share them.
#[derive(Clone)]
pub struct Archive {
    tables: Tables,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// A mail that came for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceivedReport {
    /// The mail's queue id.
    pub id: MessageId,
    /// When it came.
    pub received_at: Timestamp,
    /// Its reverse-path; empty for `<>`.
    pub sender: String,
    /// Its subject.
    pub subject: String,
    /// The report in it.
    pub report: Option<Report>,
    /// Why there is none.
    pub trouble: Option<String>,
}

/// What several reports say together about one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DomainSummary {
    /// The domain.
    pub domain: String,
    /// The reports about it.
    pub reports: u64,
    /// Who sent them.
    pub organizations: BTreeSet<String>,
    /// Sessions as the policy asks.
    pub successful: u64,
    /// Sessions that failed.
    pub failed: u64,
    /// Failed sessions by their kind.
    pub failures: BTreeMap<String, u64>,
}

/// Which reports are meant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// About this domain.
    pub domain: Option<Domain>,
    /// Received since.
    pub since: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    received_at: Timestamp,
    sender: String,
    subject: String,
    report: Option<Vec<u8>>,
    trouble: Option<String>,
}

impl Archive {
    /// Reports in a table.
    pub fn new(tables: Tables, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { tables, clock, metrics }
    }

    /// Looks into a mail and keeps what it finds for a time. Durable when it returns; the same mail is kept once.
    pub async fn receive(
        &self,
        id: MessageId,
        sender: String,
        mail: Bytes,
        keep: Duration,
    ) -> Result<ReceivedKind, TablesError> {
        let looking = tokio::task::spawn_blocking(move || receive::read(&mail)).await;
        let looked = looking.map_err(|_| TablesError::NotMade)?;
        let (report, trouble) = match looked.read {
            Read::Report(report) => (packed(report), None),
            Read::Other(why) => (None, Some(why)),
        };
        let kind = if report.is_some() { ReceivedKind::Report } else { ReceivedKind::Other };
        let row = Row { received_at: self.clock.now(), sender, subject: looked.subject, report, trouble };
        let expires = row.received_at + keep;
        let value = postcard::to_stdvec(&row).unwrap_or_default();
        self.tables.put(Table::TlsReports, &key(id), value, Some(expires)).await?;
        self.metrics.received.get_or_create(&Received { kind }).inc();
        Ok(kind)
    }

    /// The next ones behind `after`, oldest first; fewer than asked for only at the end.
    pub async fn list(
        &self,
        wanted: &Wanted,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<ReceivedReport>, TablesError> {
        let mut after = after.map(key);
        let mut found = Vec::new();
        loop {
            let now = self.clock.now();
            let page = self.tables.scan(Table::TlsReports, PREFIX, after.as_deref(), PAGE, now).await?;
            let Some((last, ..)) = page.last() else { return Ok(found) };
            after = Some(last.clone());
            for report in page.iter().filter_map(|(key, value, _)| unpacked(key, value)) {
                if wanted.covers(&report) {
                    found.push(report);
                }
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }

    /// One of them.
    pub async fn show(&self, id: MessageId) -> Result<Option<ReceivedReport>, TablesError> {
        let value = self.tables.get(Table::TlsReports, &key(id), self.clock.now()).await?;
        Ok(value.and_then(|value| unpacked(&key(id), &value)))
    }

    /// What they say together, by domain.
    pub async fn summary(&self, wanted: &Wanted) -> Result<Vec<DomainSummary>, TablesError> {
        let mut by_domain: BTreeMap<String, DomainSummary> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.tables.scan(Table::TlsReports, PREFIX, after.as_deref(), PAGE, self.clock.now()).await?;
            let Some((last, ..)) = page.last() else { return Ok(by_domain.into_values().collect()) };
            after = Some(last.clone());
            // One at a time out of its compression.
            for received in page.iter().filter_map(|(key, value, _)| unpacked(key, value)) {
                let Some(report) = received.report.as_ref().filter(|_| wanted.covers(&received)) else { continue };
                for domain in report.domains() {
                    if wanted.domain.as_ref().is_none_or(|wanted| wanted.as_str() == domain) {
                        by_domain.entry(domain.to_owned()).or_default().add(domain, report);
                    }
                }
            }
        }
    }
}

impl DomainSummary {
    /// The most organisations that are listed.
    const ORGANIZATIONS: usize = 100;
    /// The most kinds of failures that are told apart: the RFC has fewer.
    const KINDS: usize = 50;

    fn add(&mut self, domain: &str, report: &Report) {
        domain.clone_into(&mut self.domain);
        self.reports += 1;
        if self.organizations.len() < Self::ORGANIZATIONS {
            self.organizations.insert(report.organization_name.clone());
        }
        for result in report.policies.iter().filter(|result| result.policy.policy_domain == domain) {
            self.successful = self.successful.saturating_add(result.summary.total_successful_session_count);
            self.failed = self.failed.saturating_add(result.summary.total_failure_session_count);
            for detail in &result.failure_details {
                let kinds = self.failures.len();
                match self.failures.get_mut(&detail.result_type) {
                    Some(count) => *count = count.saturating_add(detail.failed_session_count),
                    None if kinds < Self::KINDS => {
                        self.failures.insert(detail.result_type.clone(), detail.failed_session_count);
                    }
                    None => {}
                }
            }
        }
    }
}

impl Wanted {
    fn covers(&self, report: &ReceivedReport) -> bool {
        let about = |domain: &Domain| report.report.iter().any(|report| report.domains().contains(&domain.as_str()));
        self.since.is_none_or(|since| report.received_at >= since) && self.domain.as_ref().is_none_or(about)
    }
}

const PREFIX: &str = "received/";

/// Ids are ordered by time.
fn key(id: MessageId) -> String {
    format!("{PREFIX}{id}")
}

/// Compressed; without its details if it is too long with them.
fn packed(mut report: Report) -> Option<Vec<u8>> {
    let packed = gzip(&report)?;
    if packed.len() <= MOST_KEPT {
        return Some(packed);
    }
    report.policies.iter_mut().for_each(|result| {
        result.failure_details.clear();
        result.policy.policy_string.clear();
        result.policy.mx_host.clear();
    });
    gzip(&report).filter(|packed| packed.len() <= MOST_KEPT)
}

fn gzip(report: &Report) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&serde_json::to_vec(report).ok()?).ok()?;
    encoder.finish().ok()
}

fn unpacked(key: &str, value: &[u8]) -> Option<ReceivedReport> {
    let id = MessageId::parse(key.strip_prefix(PREFIX)?).ok()?;
    let Row { received_at, sender, subject, report, trouble } = postcard::from_bytes(value).ok()?;
    let report = report.and_then(|packed| receive::from_kept(&packed));
    Some(ReceivedReport { id, received_at, sender, subject, report, trouble })
}
