//! What the running server answers.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use directory::Directory;
use queue::{Acted, Action, DestinationSummary, Gauges, LaneSummary, Queue, Selection};
use reception::Reception;
use serde::{Deserialize, Serialize};
use store::Store;

use super::Request;
use super::server::{Answer, Refusal};
use crate::config::Loaded;
use crate::server::{Meters, Reporting};

/// How often a client is told how far its command came.
const PROGRESS: Duration = Duration::from_secs(1);
/// The most destinations and lanes that a summary lists.
const MOST_LISTED: usize = 10_000;
/// Messages that are read together for a list.
const PAGE: usize = 200;

/// What answers are made from.
pub struct Control {
    /// The store.
    pub store: Store,
    /// The queue.
    pub queue: Queue,
    /// Where mail comes in.
    pub reception: Reception,
    /// Who has accounts.
    pub directory: Directory,
    /// TLS reports.
    pub reporting: Reporting,
    /// The configuration in force.
    pub loaded: Arc<RwLock<Arc<Loaded>>>,
    /// All metrics.
    pub meters: Arc<Meters>,
    /// Certificates from an authority.
    pub acme: tls::Acme,
    /// When the server started.
    pub began: Instant,
}

/// How the server is.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    hostname: String,
    uptime_seconds: u64,
    /// Where it listens.
    listening: Vec<String>,
    /// The files of the configuration in force.
    configuration: Vec<String>,
    #[serde(flatten)]
    gauges: Gauges,
    store: store::Status,
}

/// What is known of a destination.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Known {
    /// Its counts; nothing if nothing waits for it.
    pub counts: Option<DestinationSummary>,
    /// The lanes that serve it.
    pub lanes: Vec<LaneSummary>,
}

impl Control {
    /// Answers one request.
    pub async fn answer(&self, request: Request, answer: &mut Answer) -> Result<(), Refusal> {
        match request {
            Request::Status => answer.item(&self.status().await?).await,
            Request::Metrics => {
                self.store.refresh_metrics();
                answer.item(&self.meters.to_text().map_err(Refusal::new)?).await
            }
            Request::Summary { limit } => {
                let summary = self.queue.summary(limit.min(MOST_LISTED)).await;
                answer.item(&summary.map_err(Refusal::new)?).await
            }
            Request::Destination { name } => answer.item(&self.destination(&name).await?).await,
            Request::List { selection, limit } => self.list(&selection, limit, answer).await,
            Request::Show { id } => {
                let shown = self.queue.show(id).await.map_err(Refusal::new)?;
                answer.item(&shown.ok_or_else(|| not_queued(id))?).await
            }
            Request::Content { id } => self.content(id, answer).await,
            Request::Count { selection } => {
                answer.item(&self.queue.count(&selection).await.map_err(Refusal::new)?).await
            }
            Request::LastUses { account } => {
                answer.item(&self.directory.last_uses(&account).await.map_err(Refusal::new)?).await
            }
            Request::Acme { renew } => {
                if renew {
                    self.acme.renew_now();
                }
                answer.item(&self.acme.status()).await
            }
            Request::Bans
            | Request::Ban { .. }
            | Request::LiftBan { .. }
            | Request::AccountUses { .. }
            | Request::ReleaseAccount { .. } => self.about_clients(request, answer).await,
            Request::Reports { request } => super::reports::answer(&self.reporting, request, answer).await,
            Request::Act { action, selection, author, reason } => {
                self.act(action, &selection, &author, &reason, answer).await
            }
        }
    }

    async fn status(&self) -> Result<Status, Refusal> {
        let gauges = self.queue.gauges();
        let loaded = Arc::clone(&self.loaded.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        Ok(Status {
            version: env!("CARGO_PKG_VERSION"),
            hostname: loaded.configuration.hostname.to_string(),
            uptime_seconds: self.began.elapsed().as_secs(),
            listening: self.reception.local_addresses().iter().map(ToString::to_string).collect(),
            configuration: loaded.places.sources().paths().map(|path| path.display().to_string()).collect(),
            gauges,
            store: self.store.status(),
        })
    }

    async fn destination(&self, name: &mail::Destination) -> Result<Known, Refusal> {
        let (counts, lane) = self.queue.destination(name).await.map_err(Refusal::new)?;
        Ok(Known { counts, lanes: lane.into_iter().collect() })
    }

    /// Acts, and tells the client now and then how far that came. If the client leaves, the act goes on.
    pub(super) async fn act(
        &self,
        action: Action,
        selection: &Selection,
        author: &str,
        reason: &str,
        answer: &mut Answer,
    ) -> Result<(), Refusal> {
        let (tell, mut told) = tokio::sync::watch::channel(Acted::default());
        let tell = move |acted| {
            tell.send_replace(acted);
        };
        let mut acting = std::pin::pin!(self.queue.act_telling(action, selection, author, reason, tell));
        let acted = loop {
            match tokio::time::timeout(PROGRESS, &mut acting).await {
                Ok(acted) => break acted.map_err(Refusal::new)?,
                Err(_) => {
                    let acted = *told.borrow_and_update();
                    answer.progress(&acted).await?;
                }
            }
        };
        answer.item(&acted).await
    }

    async fn list(&self, selection: &Selection, limit: usize, answer: &mut Answer) -> Result<(), Refusal> {
        let (mut left, mut after) = (limit, None);
        while left > 0 {
            let page = self.queue.list(selection, after, left.min(PAGE)).await.map_err(Refusal::new)?;
            for message in page.messages.iter().take(left) {
                answer.item(message).await?;
            }
            left = left.saturating_sub(page.messages.len());
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(())
    }

    async fn content(&self, id: mail::MessageId, answer: &mut Answer) -> Result<(), Refusal> {
        let content = self.store.content(id).await.map_err(Refusal::new)?;
        let mut content = content.ok_or_else(|| not_queued(id))?;
        while let Some(piece) = content.next().await {
            answer.bytes(&piece.map_err(Refusal::new)?).await?;
        }
        Ok(())
    }
}

fn not_queued(id: mail::MessageId) -> Refusal {
    Refusal::new(format!("message {id} is not in the queue"))
}
