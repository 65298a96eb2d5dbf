//! Answers about TLS reports.

use serde::Serialize;
use tls::report::Wanted;

use super::ReportRequest;
use super::server::{Answer, Refusal};
use crate::server::Reporting;

/// Reports that are read together for a list.
const PAGE: usize = 50;
/// The most domains and days that a list holds at once.
const MOST_LISTED: usize = 10_000;

/// Answers one request.
pub async fn answer(reporting: &Reporting, request: ReportRequest, answer: &mut Answer) -> Result<(), Refusal> {
    match request {
        ReportRequest::Received { wanted, limit } => received(reporting, &wanted, limit, answer).await,
        ReportRequest::Show { id } => {
            let shown = reporting.archive.show(id).await.map_err(Refusal::new)?;
            answer.item(&shown.ok_or_else(|| Refusal::new(format!("there is no report {id}")))?).await
        }
        ReportRequest::Summary { wanted } => {
            all(&reporting.archive.summary(&wanted).await.map_err(Refusal::new)?, answer).await
        }
        ReportRequest::Sent { domain, limit } => {
            let sent = reporting.sender.reports(domain.as_ref(), limit.min(MOST_LISTED)).await;
            all(&sent.map_err(Refusal::new)?, answer).await
        }
        ReportRequest::Counted { domain, limit } => {
            let counted = reporting.tally.counted(domain.as_ref(), limit.min(MOST_LISTED)).await;
            all(&counted.map_err(Refusal::new)?, answer).await
        }
    }
}

async fn received(reporting: &Reporting, wanted: &Wanted, limit: usize, answer: &mut Answer) -> Result<(), Refusal> {
    let (mut left, mut after) = (limit, None);
    while left > 0 {
        let page = reporting.archive.list(wanted, after, left.min(PAGE)).await.map_err(Refusal::new)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        left -= page.len();
        all(&page, answer).await?;
    }
    Ok(())
}

async fn all(items: &[impl Serialize], answer: &mut Answer) -> Result<(), Refusal> {
    for item in items {
        answer.item(item).await?;
    }
    Ok(())
}
