//! Policies and reports about TLS, wired: whose policies count, what is counted, what is sent and what comes in.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use dns::Resolve;
use futures_util::future::BoxFuture;
use mail::{
    Assignment, AttemptReport, Clock, Delivered, EnhancedCode, Envelope, Fault, MessageId, MessageIds, Notify, Outcome,
    Randomness, Recipient, Reply, ReversePath, TlsDemand,
};
use prometheus_client::registry::Registry;
use queue::{Grant, Queue};
use store::{Store, Tables, TablesError};
use tls::mtasts::{NoPolicies, PolicyCache, StsPolicies};
use tls::report::{
    Archive, MAX_MAIL, NoReports, Post, ReceivedKind, ReportMail, Sender, SenderParts, SessionReports, Tally,
};
use tls::{Https, RootCertStore};
use tokio::sync::Semaphore;
use tracing::info;

use super::ServeError;
use super::rooms::Tasks;
use crate::config::{Configuration, Loaded};

/// Report mails that are looked into at a time; each may take some tens of MiB.
const LOOKED_INTO: usize = 2;

/// What the server knows of TLS with others.
#[derive(Clone)]
pub struct Reporting {
    /// The policies of others, if they are followed.
    cache: Option<PolicyCache>,
    /// What is counted, if reports are sent.
    pub tally: Tally,
    /// What is sent.
    pub sender: Sender,
    /// What others sent.
    pub archive: Archive,
    sends: bool,
    intake: Arc<Intake>,
}

/// What the policies and reports are made from.
pub struct Parts<'a> {
    /// The configuration at the start.
    pub configuration: &'a Configuration,
    /// Where records are kept.
    pub tables: &'a Tables,
    /// For all look-ups.
    pub resolver: &'a Arc<dyn Resolve>,
    /// Time.
    pub clock: &'a Arc<dyn Clock>,
    /// For ids and times.
    pub randomness: &'a Randomness,
    /// Whom to believe.
    pub roots: &'a Arc<RootCertStore>,
    /// For the counters.
    pub registry: &'a mut Registry,
}

impl Reporting {
    /// Policies and counts; nothing runs yet.
    pub fn open(parts: Parts<'_>, door: &Arc<OutgoingReports>) -> Result<Self, ServeError> {
        let Parts { configuration, tables, resolver, clock, randomness, roots, registry } = parts;
        let https = Https::new(Arc::clone(resolver), Arc::clone(roots), None)?;
        let metrics = tls::report::Metrics::register(registry);
        let tally = Tally::new(tables.clone(), Arc::clone(clock), metrics.clone());
        let sends = configuration.tls_reports.send;
        let policy_metrics = tls::mtasts::Metrics::register(registry);
        let cache = configuration.mta_sts.follow.then(|| {
            PolicyCache::new(tls::mtasts::Parts {
                resolver: Arc::clone(resolver),
                https: https.clone(),
                tables: tables.clone(),
                reports: sessions(sends, &tally),
                clock: Arc::clone(clock),
                metrics: policy_metrics,
            })
        });
        let sender = Sender::new(SenderParts {
            tally: tally.clone(),
            resolver: Arc::clone(resolver),
            https,
            post: Arc::clone(door) as Arc<dyn Post>,
            tables: tables.clone(),
            submitter: configuration.submitter(),
            randomness: randomness.clone(),
            metrics: metrics.clone(),
        });
        let archive = Archive::new(tables.clone(), Arc::clone(clock), metrics);
        let intake = Arc::new(Intake { places: Semaphore::new(LOOKED_INTO) });
        Ok(Self { cache, tally, sender, archive, sends, intake })
    }

    /// The policies that delivery follows.
    pub fn policies(&self) -> Arc<dyn StsPolicies> {
        match &self.cache {
            Some(cache) => Arc::new(cache.clone()),
            None => Arc::new(NoPolicies),
        }
    }

    /// Who hears of delivery's sessions.
    pub fn sessions(&self) -> Arc<dyn SessionReports> {
        sessions(self.sends, &self.tally)
    }

    /// Sets it in motion.
    pub fn start(&self, tasks: &mut Tasks) {
        if let Some(cache) = self.cache.clone() {
            tasks.watch("the MTA-STS policies", async move { cache.run().await });
        }
        if self.sends {
            let (tally, sender) = (self.tally.clone(), self.sender.clone());
            tasks.watch("the counts of TLS sessions", async move { tally.run().await });
            tasks.watch("TLS reports", async move { sender.run().await });
        }
    }

    /// Serves a grant of the queue for the address that reports come to.
    pub async fn serve(&self, mut grant: Grant, store: &Store, loaded: &RwLock<Arc<Loaded>>) {
        while let Some(assignment) = grant.next().await {
            let keep = loaded.read().unwrap_or_else(PoisonError::into_inner).configuration.tls_reports.keep.0;
            let outcome = self.intake.take(&self.archive, store, &assignment, keep).await;
            let outcomes = assignment.recipients.iter().map(|recipient| (*recipient, outcome.clone())).collect();
            let Assignment { id, delivery, .. } = assignment;
            grant.report(AttemptReport { id, delivery, outcomes, connection_failed: false }).await;
        }
    }
}

/// Whether a grant is for mail that this server serves itself.
pub fn is_inside(grant: &Grant) -> bool {
    let target = grant.target();
    target.hosts.is_empty() && target.lane.site.as_str().starts_with("inside:")
}

fn sessions(sends: bool, tally: &Tally) -> Arc<dyn SessionReports> {
    if sends { Arc::new(tally.clone()) } else { Arc::new(NoReports) }
}

/// Where reports come in.
struct Intake {
    places: Semaphore,
}

impl Intake {
    /// Looks into a mail and keeps what it finds. Only then it leaves the queue.
    async fn take(
        &self,
        archive: &Archive,
        store: &Store,
        assignment: &Assignment,
        keep: std::time::Duration,
    ) -> Outcome {
        // The places are never closed; were they, the mail would merely not wait.
        let _place = self.places.acquire().await.ok();
        let sender = assignment.envelope.reverse_path.mailbox().map(ToString::to_string).unwrap_or_default();
        let mail = match read(store, assignment.id).await {
            Ok(mail) => mail,
            Err(why) => return later(&why),
        };
        match archive.receive(assignment.id, sender, mail, keep).await {
            Ok(kind @ ReceivedKind::Other) => {
                info!(message = %assignment.id, ?kind, "mail for TLS reports");
                refused(
                    550,
                    EnhancedCode::new(5, 7, 1),
                    "this address takes TLS reports (RFC 8460), and finds none in the mail",
                )
            }
            Ok(kind) => {
                info!(message = %assignment.id, ?kind, "mail for TLS reports");
                Outcome::Delivered(Delivered {
                    host: "TLS reports".to_owned(),
                    address: None,
                    reply: Reply::new(250, EnhancedCode::new(2, 0, 0), "Kept as a TLS report"),
                    dsn: false,
                    deliver_by: false,
                    tls: None,
                })
            }
            Err(TablesError::TooLarge { .. }) => {
                refused(552, EnhancedCode::new(5, 3, 4), "the TLS report is too large to be kept")
            }
            Err(error) => later(&error.to_string()),
        }
    }
}

fn refused(code: u16, status: EnhancedCode, why: &str) -> Outcome {
    Outcome::Failed(Fault::local(code, status, why))
}

fn later(why: &str) -> Outcome {
    let text = format!("the report cannot be kept now: {why}");
    Outcome::Deferred(Fault::local(451, EnhancedCode::new(4, 3, 0), text))
}

/// The first part of a message's content, as far as it is looked into.
async fn read(store: &Store, id: MessageId) -> Result<Bytes, String> {
    let content = store.content(id).await.map_err(|error| error.to_string())?;
    let mut content = content.ok_or_else(|| "it is not in the store".to_owned())?;
    let mut read = BytesMut::new();
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(|error| error.to_string())?;
        let room = MAX_MAIL - read.len();
        read.extend_from_slice(&piece[..piece.len().min(room)]);
        if read.len() == MAX_MAIL {
            break;
        }
    }
    Ok(read.freeze())
}

/// Puts our reports into the queue. The one place where a report becomes a message: what signs mail of ours signs here.
pub struct OutgoingReports {
    queue: Queue,
    ids: MessageIds,
    clock: Arc<dyn Clock>,
}

impl OutgoingReports {
    /// Into this queue.
    pub fn new(queue: Queue, clock: Arc<dyn Clock>, randomness: Randomness) -> Self {
        Self { queue, ids: MessageIds::new(randomness), clock }
    }

    async fn submit(&self, mail: ReportMail) -> Result<(), queue::SubmitError> {
        let now = self.clock.now();
        // Nobody waits for the report of a report.
        let recipient = Recipient { notify: Notify::Never, ..Recipient::from(mail.to) };
        let envelope = Envelope::new(self.ids.next(now), now, ReversePath::Mailbox(mail.from), [recipient]);
        let envelope = Envelope { tls: TlsDemand::NotRequired, ..envelope };
        let mut content = self.queue.intake(Some(mail.content.len() as u64))?;
        content.write(mail.content).await?;
        self.queue.submit(envelope, Bytes::new(), content).await?;
        Ok(())
    }
}

impl Post for OutgoingReports {
    fn post(&self, mail: ReportMail) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.submit(mail).await.map_err(|error| error.to_string()) })
    }
}
