//! Reports about the days that are over: at a random time of the early day, again with growing rests where that fails,
//! for a day at most.
//!
//! An order per domain and day lies in the table from the moment the day is over until the report is sent or given up, so
//! that a crash repeats a report (under the same id) and never forgets one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dns::{LookupError, Resolve};
use futures_util::future::{BoxFuture, join_all};
use mail::{Domain, Randomness, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Table, Tables, TablesError};

use super::compose::{Composed, MEDIA_TYPE, ReportMail, Submitter};
use super::day::Day;
use super::metrics::{Metrics, SendEnd, Sent};
use super::record::{ReportPlace, ReportRecord};
use super::tally::Tally;
use crate::https::Https;
use crate::names;

/// How often the agenda is looked at.
const TICK: Duration = Duration::from_secs(60);
/// No report goes before so much of the new day is over.
const EARLIEST: Duration = Duration::from_secs(10 * 60);
/// Reports of all domains are spread over so much of the day (RFC 8460 §4.1 asks for up to four hours).
const SPREAD: Duration = Duration::from_secs(4 * 60 * 60);
/// Reports that are late already are spread over so much time.
const LATE_SPREAD: Duration = Duration::from_secs(10 * 60);
/// The first rest after a failure; it doubles.
const FIRST_REST: Duration = Duration::from_secs(15 * 60);
/// When a report is given up (RFC 8460 §5.5).
const GIVE_UP: Duration = Duration::from_secs(24 * 60 * 60);
/// How many days back are reported about, after a time without a running server.
const DAYS: u64 = 3;
/// How many reports are made at a time.
const TOGETHER: usize = 8;
/// How long it is known what was sent.
const KNOWN: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// How many rows are read from the table at a time.
const PAGE: usize = 1000;

/// Takes report mails to their addresses.
pub trait Post: Send + Sync + 'static {
    /// Takes responsibility for a mail, or says why not.
    fn post(&self, mail: ReportMail) -> BoxFuture<'_, Result<(), String>>;
}

/// What a sender is made of.
pub struct SenderParts {
    /// What was counted.
    pub tally: Tally,
    /// For the records of domains.
    pub resolver: Arc<dyn Resolve>,
    /// For reports by HTTPS.
    pub https: Https,
    /// For reports by mail.
    pub post: Arc<dyn Post>,
    /// Where orders are kept.
    pub tables: Tables,
    /// As whom reports are sent.
    pub submitter: Submitter,
    /// For the times of reports and their ids.
    pub randomness: Randomness,
    /// The counters.
    pub metrics: Metrics,
}

/// Sends reports; clones share it.
#[derive(Clone)]
pub struct Sender(Arc<Inner>);

struct Inner {
    parts: SenderParts,
    agenda: Mutex<Agenda>,
}

#[derive(Default)]
struct Agenda {
    /// The day whose predecessors have their orders.
    begun: Option<Day>,
    orders: BTreeSet<(Timestamp, Day, Domain)>,
}

/// A report to be made.
#[derive(Serialize, Deserialize)]
struct Order {
    report_id: String,
    due: Timestamp,
    /// When it was tried first.
    began: Option<Timestamp>,
    attempts: u32,
    places: Vec<PlaceResult>,
}

/// What became of a report at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceResult {
    /// The place, as the domain's record names it.
    pub place: String,
    /// Whether it is there, or in the queue.
    pub sent: bool,
    /// Why not.
    pub trouble: Option<String>,
}

/// A report that was sent, waits to be, or was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentReport {
    /// The day that it is about, `2026-11-21`.
    pub day: String,
    /// The domain that it is about.
    pub domain: Domain,
    /// Its id.
    pub report_id: String,
    /// When it was finished; when it will be tried, if it waits.
    pub at: Timestamp,
    /// Whether nothing more will happen.
    pub finished: bool,
    /// What became of it at each place that was tried.
    pub places: Vec<PlaceResult>,
    /// Sessions in it as the policy asks.
    pub successful: u64,
    /// Sessions in it that failed.
    pub failed: u64,
}

impl Sender {
    /// A sender that does nothing yet.
    pub fn new(parts: SenderParts) -> Self {
        Self(Arc::new(Inner { parts, agenda: Mutex::default() }))
    }

    /// Sends reports when their time comes. To be kept running.
    pub async fn run(&self) {
        loop {
            if let Err(error) = self.tick().await {
                tracing::warn!(%error, "TLS reports cannot go on for now");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Does what is due now.
    pub async fn tick(&self) -> Result<(), TablesError> {
        let now = self.0.parts.tally.now();
        let today = Day::of(now);
        if self.0.agenda().begun != Some(today) {
            // What was counted in the last second of a day is in the table before its orders are made.
            self.0.parts.tally.flush().await;
            let orders = self.0.begin(today, now).await?;
            let mut agenda = self.0.agenda();
            agenda.orders = orders;
            agenda.begun = Some(today);
        }
        let due = self.0.take_due(now);
        let mut trouble = Ok(());
        for some in due.chunks(TOGETHER) {
            let worked = join_all(some.iter().map(|(day, domain)| self.0.work(*day, domain, now))).await;
            for ((day, domain), result) in some.iter().zip(worked) {
                if let Err(error) = result {
                    self.0.agenda().orders.insert((now + FIRST_REST, *day, domain.clone()));
                    trouble = Err(error);
                }
            }
        }
        trouble
    }

    /// What was sent and what waits, oldest first.
    pub async fn reports(&self, domain: Option<&Domain>, limit: usize) -> Result<Vec<SentReport>, TablesError> {
        let mut found = self.0.rows(SENT, domain, limit).await?;
        found.truncate(limit);
        let waiting = self.0.rows(ORDER, domain, limit - found.len()).await?;
        found.extend(waiting);
        Ok(found)
    }
}

const ORDER: &str = "order/";
const SENT: &str = "sent/";

fn key(prefix: &str, day: Day, domain: &Domain) -> String {
    format!("{prefix}{day}/{domain}")
}

fn place_of(prefix: &str, key: &str) -> Option<(Day, Domain)> {
    let (day, domain) = key.strip_prefix(prefix)?.split_once('/')?;
    Some((day.parse().ok()?, Domain::parse(domain).ok()?))
}

impl Inner {
    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_due(&self, now: Timestamp) -> Vec<(Day, Domain)> {
        let mut agenda = self.agenda();
        let mut due = Vec::new();
        while agenda.orders.first().is_some_and(|(when, ..)| *when <= now) {
            due.extend(agenda.orders.pop_first().map(|(_, day, domain)| (day, domain)));
        }
        due
    }

    /// The agenda: orders that lie there, and new ones for what was counted until today.
    async fn begin(&self, today: Day, now: Timestamp) -> Result<BTreeSet<(Timestamp, Day, Domain)>, TablesError> {
        let mut agenda = BTreeSet::new();
        let mut known = BTreeSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.parts.tables.scan(Table::TlsSessions, ORDER, after.as_deref(), PAGE, now).await?;
            let Some((last, ..)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value, _) in &page {
                let order: Option<Order> = postcard::from_bytes(value).ok();
                if let (Some((day, domain)), Some(order)) = (place_of(ORDER, key), order) {
                    known.insert((day, domain.clone()));
                    agenda.insert((order.due, day, domain));
                }
            }
        }
        for day in (1..=DAYS).map(|back| today.back(back)).filter(|day| *day < today) {
            let mut after: Option<Domain> = None;
            loop {
                let domains = self.parts.tally.domains(day, after.as_ref()).await?;
                let Some(last) = domains.last() else { break };
                after = Some(last.clone());
                for domain in domains.into_iter().filter(|domain| !known.contains(&(day, domain.clone()))) {
                    let order = self.order(day, now);
                    let due = order.due;
                    self.save(day, &domain, &order).await?;
                    agenda.insert((due, day, domain));
                }
            }
        }
        Ok(agenda)
    }

    fn order(&self, day: Day, now: Timestamp) -> Order {
        let randomness = &self.parts.randomness;
        let (high, low) = (randomness.next_u64(), randomness.next_u64() & 0xffff);
        let report_id = format!("{day}.{high:016x}{low:04x}@{}", self.parts.submitter.host);
        let planned = day.end() + EARLIEST + (SPREAD - EARLIEST).mul_f64(randomness.unit());
        let due = if now < planned { planned } else { now + LATE_SPREAD.mul_f64(randomness.unit()) };
        Order { report_id, due, began: None, attempts: 0, places: Vec::new() }
    }

    async fn save(&self, day: Day, domain: &Domain, order: &Order) -> Result<(), TablesError> {
        let expires = day.end() + GIVE_UP * 4;
        let value = postcard::to_stdvec(order).unwrap_or_default();
        self.parts.tables.put(Table::TlsSessions, &key(ORDER, day, domain), value, Some(expires)).await
    }

    /// Makes one report and brings it to where it is not yet.
    async fn work(&self, day: Day, domain: &Domain, now: Timestamp) -> Result<(), TablesError> {
        let value = self.parts.tables.get(Table::TlsSessions, &key(ORDER, day, domain), now).await?;
        let Some(mut order) = value.and_then(|value| postcard::from_bytes::<Order>(&value).ok()) else {
            return Ok(());
        };
        order.began.get_or_insert(now);
        order.attempts += 1;
        let texts = names::texts(&*self.parts.resolver, "_smtp._tls", domain).await;
        let record = match texts {
            Ok(texts) => ReportRecord::find(texts.iter().map(String::as_str)).ok(),
            Err(LookupError::NoRecords | LookupError::NoSuchDomain) => None,
            Err(error) => {
                tracing::debug!(%domain, %error, "the TLS-RPT record cannot be looked up");
                return self.later(day, domain, order, now).await;
            }
        };
        let policies = self.parts.tally.results(day, domain).await?;
        let Some(record) = record.filter(|_| !policies.is_empty()) else {
            // Nobody wants to know, or nothing is left to tell.
            return self.forget(day, domain).await;
        };
        let composed = Composed::new(&self.parts.submitter, domain, day, &order.report_id, policies);
        let composed = match composed {
            Ok(composed) => composed,
            Err(error) => {
                tracing::error!(%domain, %error, "a TLS report cannot be made");
                return self.forget(day, domain).await;
            }
        };
        let mut places = Vec::new();
        for place in &record.places {
            let there = order.places.iter().find(|result| result.sent && result.place == place.to_string());
            places.push(match there {
                Some(result) => result.clone(),
                None => self.bring(&composed, place, now).await,
            });
        }
        let totals = composed.report().totals();
        let waits = places.iter().any(|place| !place.sent);
        let report_id = order.report_id.clone();
        order.places = places;
        let over = order.began.is_some_and(|began| now.since(began) >= GIVE_UP);
        if waits && !over {
            return self.later(day, domain, order, now).await;
        }
        tracing::info!(%domain, %day, report = report_id, complete = !waits, "TLS report sent");
        for place in order.places.iter().filter(|place| !place.sent) {
            let by = if place.place.starts_with("mailto:") { "mail" } else { "https" };
            self.parts.metrics.sent.get_or_create(&Sent { by, outcome: SendEnd::Failed }).inc();
        }
        let sent = SentReport {
            day: day.to_string(),
            domain: domain.clone(),
            report_id,
            at: now,
            finished: true,
            places: order.places,
            successful: totals.total_successful_session_count,
            failed: totals.total_failure_session_count,
        };
        let value = postcard::to_stdvec(&sent).unwrap_or_default();
        self.parts.tables.put(Table::TlsSessions, &key(SENT, day, domain), value, Some(now + KNOWN)).await?;
        self.forget(day, domain).await
    }

    async fn bring(&self, composed: &Composed<'_>, place: &ReportPlace, now: Timestamp) -> PlaceResult {
        let (by, brought) = match place {
            ReportPlace::Mail(to) => ("mail", self.parts.post.post(composed.mail(to, now)).await),
            ReportPlace::Https(url) => {
                let posted = self.parts.https.post(url.clone(), MEDIA_TYPE, composed.gzip().to_vec()).await;
                ("https", posted.map_err(|error| error.to_string()))
            }
        };
        let outcome = if brought.is_ok() { SendEnd::Sent } else { SendEnd::Deferred };
        self.parts.metrics.sent.get_or_create(&Sent { by, outcome }).inc();
        if let Err(why) = &brought {
            tracing::warn!(%place, why, "a TLS report could not be sent");
        }
        PlaceResult { place: place.to_string(), sent: brought.is_ok(), trouble: brought.err() }
    }

    /// Once more, after a rest; or never, if it was tried for a day.
    async fn later(&self, day: Day, domain: &Domain, mut order: Order, now: Timestamp) -> Result<(), TablesError> {
        if order.began.is_some_and(|began| now.since(began) >= GIVE_UP) {
            tracing::warn!(%domain, %day, "a TLS report is given up");
            return self.forget(day, domain).await;
        }
        let rest = FIRST_REST.saturating_mul(1 << order.attempts.saturating_sub(1).min(4));
        order.due = now + rest.mul_f64(0.9 + 0.2 * self.parts.randomness.unit());
        self.save(day, domain, &order).await?;
        self.agenda().orders.insert((order.due, day, domain.clone()));
        Ok(())
    }

    /// The order last: as long as it is there, the report may be made again.
    async fn forget(&self, day: Day, domain: &Domain) -> Result<(), TablesError> {
        self.parts.tally.forget(day, domain).await?;
        self.parts.tables.remove(Table::TlsSessions, &key(ORDER, day, domain)).await?;
        Ok(())
    }

    async fn rows(&self, prefix: &str, of: Option<&Domain>, limit: usize) -> Result<Vec<SentReport>, TablesError> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        while found.len() < limit {
            let now = self.parts.tally.now();
            let page = self.parts.tables.scan(Table::TlsSessions, prefix, after.as_deref(), PAGE, now).await?;
            let Some((last, ..)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value, _) in &page {
                let row = if prefix == SENT { postcard::from_bytes(value).ok() } else { waiting(key, value) };
                found.extend(row.filter(|row: &SentReport| of.is_none_or(|domain| row.domain == *domain)));
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

/// An order as people see it.
fn waiting(key: &str, value: &[u8]) -> Option<SentReport> {
    let (day, domain) = place_of(ORDER, key)?;
    let order: Order = postcard::from_bytes(value).ok()?;
    Some(SentReport {
        day: day.to_string(),
        domain,
        report_id: order.report_id,
        at: order.due,
        finished: false,
        places: order.places,
        successful: 0,
        failed: 0,
    })
}
