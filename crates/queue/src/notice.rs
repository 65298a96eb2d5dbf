//! Reports to senders: made from what is owed, and committed together with the note that they are told.
//!
//! A crash before the commit leaves the debt as it is, and the report is made after the restart; a crash after it
//! leaves the report in the queue and no debt. So a sender is told once.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use feedback::{Happened, Notice, Report, Returned};
use mail::{Envelope, Event, MessageId, Ret, Timestamp, header};
use store::{CommitError, Delivery, DeliveryRecipient, RecipientStatus, StoredMessage, Update};

use crate::queue::Inner;
use crate::scheduler::{Item, Key};
use crate::settings::Rules;
use crate::settle::{Taken, Telling};
use crate::verdict;

/// The most octets that are read to find the end of a header.
const MOST_HEADER: usize = 256 << 10;

impl Inner {
    /// Makes the report that a delivery owes. If that fails, the debt stays and it is tried again.
    pub(crate) async fn tell_owed(self: &Arc<Self>, taken: Taken, item: &Item, stored: &Arc<StoredMessage>) {
        let Some(delivery) = stored.deliveries.get(item.key.1 as usize) else { return taken.settled(&[]) };
        let rules = self.rules();
        let protocol = rules.protocol(&delivery.destination);
        let notices: Vec<Notice<'_>> = delivery
            .recipients
            .iter()
            .filter_map(|recipient| {
                let RecipientStatus::Final { outcome, notice: store::Notice::Owed } = &recipient.status else {
                    return None;
                };
                Some(Notice {
                    recipient: stored.envelope.recipients.get(recipient.index as usize)?,
                    happened: Happened::of(outcome, protocol, stored.envelope.deliver_by, Timestamp::MAX)?,
                    last_attempt: (delivery.attempts > 0).then_some(item.due),
                })
            })
            .collect();
        let into = verdict::told(delivery.clone());
        let telling = Telling::new(self, stored.id);
        match self.send(taken.key, stored, notices, into.clone(), &rules).await {
            Ok(()) => {
                let into = [into];
                taken.settled(&verdict::scheduled(&into));
                self.tell_end(stored, &into, telling).await;
            }
            Err(error) => {
                tracing::warn!(message = %stored.id, %error, "a report could not be written; trying again");
            }
        }
    }

    /// Tells the sender that the message is late. If that fails, false, it is tried after the next attempt.
    pub(crate) async fn tell_delay(
        self: &Arc<Self>,
        key: Key,
        stored: &Arc<StoredMessage>,
        delivery: &Delivery,
    ) -> bool {
        let rules = self.rules();
        let envelope = &stored.envelope;
        let until = rules.retry(&delivery.destination).expires(envelope.begins_at(), verdict::purpose(envelope));
        let now = self.clock.now();
        let wanted = |recipient: &&DeliveryRecipient| verdict::wants_delay(envelope, recipient, now);
        let late = verdict::is_late(envelope, now).then(|| verdict::late(delivery.last.as_ref(), false));
        let notices: Vec<Notice<'_>> = delivery
            .recipients
            .iter()
            .filter(wanted)
            .filter_map(|recipient| {
                Some(Notice {
                    recipient: envelope.recipients.get(recipient.index as usize)?,
                    happened: Happened::Delayed { fault: late.as_ref().or(delivery.last.as_ref()), until },
                    last_attempt: (delivery.attempts > 0).then_some(now),
                })
            })
            .collect();
        let into = Delivery { delay_told: true, ..delivery.clone() };
        if let Err(error) = self.send(key, stored, notices, into, &rules).await {
            tracing::warn!(message = %stored.id, %error, "a delay could not be reported; trying again later");
            return false;
        }
        true
    }

    /// Commits a report together with what the delivery becomes by it.
    async fn send(
        self: &Arc<Self>,
        (id, number): Key,
        stored: &StoredMessage,
        notices: Vec<Notice<'_>>,
        into: Delivery,
        rules: &Rules,
    ) -> Result<(), CommitError> {
        let settles = vec![Update::Delivery { id, number, state: into }];
        let actions = notices.iter().map(|notice| notice.happened.action());
        let limit = rules.settings.return_limit;
        let returned = self.returned(stored, feedback::returns(&stored.envelope, actions, stored.size, limit)).await;
        let now = self.clock.now();
        let recipients = notices.len();
        let report = Report {
            id: self.ids.next(now),
            now,
            reporting_mta: &rules.settings.hostname,
            original: &stored.envelope,
            notices,
            returned,
            return_limit: limit,
        };
        let action = report.action();
        let Ok(dsn) = feedback::build(&report, report.form()) else {
            // Nothing to tell, or nobody: the debt is void.
            self.store.record(settles).await;
            return Ok(());
        };
        let report = report.id;
        #[cfg(feature = "planted")]
        let settles = self.settle_first(settles).await;
        self.submit_report(dsn.envelope, dsn.content, settles).await?;
        if let Some(action) = action {
            self.metrics.report(action.word());
            self.observer.observe(&Event::Reported { message: id, report, action: action.word(), recipients });
        }
        Ok(())
    }

    /// The planted fault: what belongs into one change with the report goes before it.
    #[cfg(feature = "planted")]
    async fn settle_first(&self, settles: Vec<Update>) -> Vec<Update> {
        if self.planted.get() != Some(&crate::planted::Planted::OutcomeBeforeReport) {
            return settles;
        }
        self.store.record(settles).await;
        Vec::new()
    }

    async fn submit_report(
        &self,
        envelope: Envelope,
        content: Bytes,
        settles: Vec<Update>,
    ) -> Result<MessageId, CommitError> {
        let mut incoming = self.store.intake(Some(content.len() as u64))?;
        incoming.write(content).await?;
        let id = envelope.id;
        self.commit(Arc::new(envelope), Bytes::new(), incoming, settles, None).await?;
        Ok(id)
    }

    /// What a report gives back of the message. A report without it is better than none.
    async fn returned(&self, stored: &StoredMessage, ret: Ret) -> Returned {
        let content = match self.store.content(stored.id).await {
            Ok(Some(content)) => content,
            Ok(None) => return Returned::Nothing,
            Err(error) => {
                tracing::warn!(message = %stored.id, %error, "a report goes without the message");
                return Returned::Nothing;
            }
        };
        match ret {
            Ret::Full => match content.collect().await {
                Ok(octets) => Returned::Full(octets),
                Err(_) => Returned::Nothing,
            },
            Ret::Headers => beginning(content).await.map_or(Returned::Nothing, Returned::Headers),
        }
    }
}

/// The content up to where its header has ended.
async fn beginning(mut content: store::Content) -> Option<Bytes> {
    let mut octets = BytesMut::new();
    while octets.len() < MOST_HEADER {
        match content.next().await {
            Some(Ok(piece)) => octets.extend_from_slice(&piece),
            Some(Err(_)) => return None,
            None => break,
        }
        if header::header_length(&octets) < octets.len() {
            break;
        }
    }
    octets.truncate(MOST_HEADER);
    Some(octets.freeze())
}
