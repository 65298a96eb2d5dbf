//! The ledger against the store: every recipient of every 250 is in exactly one place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mail::{Clock, MessageId, Timestamp};
use store::{Delivery, DeliveryRecipient, Notice, RecipientStatus, Schedule, Store, StoredMessage};

use crate::ledger::{Hold, Ledger, Recipient, Stage, State, Told, Transaction, wants};
use crate::scene::Scene;

/// More messages than any world has.
const ALL: usize = 1_000_000;

/// What an audit found in the store.
pub struct Found {
    /// Nothing is left.
    pub empty: bool,
    /// Messages with a delivery on hold.
    pub held: Vec<MessageId>,
}

/// Holds the ledger against the store as it is at this moment. Nothing if the process is dead.
pub async fn audit(scene: &Scene, store: &Store) -> Option<Found> {
    // Faults that are planned are for the process, not for those who look.
    let disk = scene.world.disk();
    disk.spare(true);
    let page = store.page(None, ALL).await;
    disk.spare(false);
    if scene.life.is_over() {
        return None;
    }
    let page = match page {
        Ok(page) => page,
        Err(error) => {
            // The index may be opened anew after a fault; with nothing wrong for long it must be there.
            let mut ledger = scene.ledger();
            if ledger.is_quiet() {
                ledger.fail("the store can be read", error.to_string());
            }
            return None;
        }
    };
    let is_held = |stored: &&Arc<StoredMessage>| {
        stored.deliveries.iter().any(|delivery| matches!(delivery.when(), Schedule::Held(_)))
    };
    let held = page.iter().filter(is_held).map(|stored| stored.id).collect();
    let found = Found { empty: page.is_empty(), held };
    let stored: BTreeMap<MessageId, Arc<StoredMessage>> = page.into_iter().map(|it| (it.id, it)).collect();
    let now = scene.clock.now();
    let mut ledger = scene.ledger();
    ledger.reasons.is_now(now);
    in_time(&mut ledger, &stored, now);
    Audit::new(&mut ledger, stored).run();
    Some(found)
}

/// What is due is attempted, or told of, when nothing is in its way.
fn in_time(ledger: &mut Ledger, stored: &BTreeMap<MessageId, Arc<StoredMessage>>, now: Timestamp) {
    if !ledger.is_quiet() {
        return;
    }
    let bound = ledger.patience();
    let late = stored.values().flat_map(|stored| stored.deliveries.iter().map(|delivery| (stored.id, delivery)));
    let late = late.filter_map(|(id, delivery)| {
        // The queue's own time may be ahead of the wall clock, and is never behind.
        let Schedule::At(due) = delivery.when() else { return None };
        let late = now.since(due);
        (late > bound && !ledger.flies(id, delivery)).then(|| format!("{id} to {} by {late:?}", delivery.destination))
    });
    let late: Vec<String> = late.collect();
    if let Some(found) = late.into_iter().next() {
        ledger.fail("what is due is attempted in time", found);
    }
}

/// After the end: nothing is queued any more, and everybody knows what became of his mail.
pub fn close(ledger: &mut Ledger) {
    ledger.closed = true;
    Audit::new(ledger, BTreeMap::new()).run();
    let (lost, lost_ends) = (lost(ledger, reports(ledger)), lost(ledger, reports_of_ends(ledger)));
    let mut failures = Vec::new();
    for transaction in ledger.transactions.iter().filter(|it| it.id.is_some()) {
        let Some(from) = &transaction.from else { continue };
        for recipient in transaction.recipients.iter().filter(|it| it.taken) {
            let heard = |words: &[&str]| recipient.reports.iter().any(|(told, _)| words.contains(&told.as_str()));
            if owes_delay(ledger, transaction, recipient) && !heard(DELAY) && !lost.contains(from.as_str()) {
                let found = format!("{} was late, and {from} never heard of it", recipient.address);
                failures.push(("every sender is told of a delay", found));
            }
            let Some(owed) = owed(ledger, transaction, recipient) else { continue };
            // A report that nobody takes is the end of it.
            if !heard(owed) && !lost_ends.contains(from.as_str()) {
                let found = format!("{} is {}, and {from} never heard of it", recipient.address, owed[0]);
                failures.push(("every sender is told what he is owed", found));
            }
            let promised = !recipient.arrivals.is_empty() && recipient.arrivals.iter().all(|it| it.promised);
            if promised && heard(SUCCESS) {
                let found = format!("{} went to a host that reports itself, and {from} was told", recipient.address);
                failures.push(("who reports is one", found));
            }
        }
    }
    for (invariant, found) in failures {
        ledger.fail(invariant, found);
    }
}

const DELAY: &[&str] = &["delayed"];
const FAILURE: &[&str] = &["failed"];
const SUCCESS: &[&str] = &["relayed", "delivered"];

/// What the sender of a recipient must have heard in the end: one of these words, if anything.
fn owed(ledger: &Ledger, transaction: &Transaction, recipient: &Recipient) -> Option<&'static [&'static str]> {
    let told = transaction.id.and_then(|id| ledger.told.get(&id));
    let state = told.and_then(|told| told.recipients.iter().find(|state| state.address == recipient.address));
    let end = state.and_then(|state| state.end);
    let failed = wants(recipient.notify, "failed").then_some(FAILURE);
    let promised = recipient.arrivals.iter().any(|it| it.promised);
    let succeeded = (wants(recipient.notify, "relayed") && !promised).then_some(SUCCESS);
    match end {
        Some("failed" | "expired") => failed,
        Some("delivered") => succeeded,
        Some(_) => None,
        // A crash kept the process from telling: then what those outside saw must be the end.
        None if state.is_some_and(|state| state.may_be_removed) => None,
        None if recipient.arrivals.is_empty() => failed,
        None if ledger.is_doomed(transaction, recipient) => None,
        None => succeeded,
    }
}

/// Whether the sender of a recipient must have heard that it is late.
fn owes_delay(ledger: &Ledger, transaction: &Transaction, recipient: &Recipient) -> bool {
    let told = transaction.id.and_then(|id| ledger.told.get(&id));
    let state = told.and_then(|told| told.recipients.iter().find(|state| state.address == recipient.address));
    wants(recipient.notify, "delayed") && state.is_some_and(|state| state.delay_owed.is_some())
}

/// Addresses to which one of these reports came to its end undelivered.
fn lost<'a>(ledger: &Ledger, reports: impl Iterator<Item = (&'a MessageId, &'a Told)>) -> BTreeSet<String> {
    let ended =
        |told: &Told| told.gone || told.recipients.iter().all(|state| state.end.is_some_and(|end| end != "delivered"));
    let lost = reports.filter(|(id, told)| ended(told) && !ledger.reasons.has_arrived(**id));
    lost.flat_map(|(_, told)| &told.recipients).map(|state| state.address.clone()).collect()
}

/// Addresses that reports go or went to which may tell of a failure.
fn reported_to(ledger: &Ledger) -> BTreeSet<String> {
    reports_of_ends(ledger).flat_map(|(_, told)| &told.recipients).map(|state| state.address.clone()).collect()
}

fn reports(ledger: &Ledger) -> impl Iterator<Item = (&MessageId, &Told)> {
    ledger.told.iter().filter(|(_, told)| told.token.is_none())
}

/// Reports that may tell of more than a delay.
fn reports_of_ends(ledger: &Ledger) -> impl Iterator<Item = (&MessageId, &Told)> {
    let about = ledger.told.values().flat_map(|told| &told.reports);
    let delays: BTreeSet<MessageId> = about.filter(|(_, action)| *action == "delayed").map(|(id, _)| *id).collect();
    reports(ledger).filter(move |(id, _)| !delays.contains(id))
}

struct Audit<'a> {
    ledger: &'a mut Ledger,
    stored: BTreeMap<MessageId, Arc<StoredMessage>>,
    /// See [`reported_to`].
    told_to: BTreeSet<String>,
}

impl<'a> Audit<'a> {
    fn new(ledger: &'a mut Ledger, stored: BTreeMap<MessageId, Arc<StoredMessage>>) -> Self {
        Self { ledger, stored, told_to: BTreeSet::new() }
    }

    fn run(&mut self) {
        self.follow();
        self.reports();
        self.told_to = reported_to(self.ledger);
        let mut failures = Vec::new();
        for token in 0..self.ledger.transactions.len() {
            failures.extend(self.transaction(token));
        }
        for (invariant, found) in failures {
            self.ledger.fail(invariant, found);
        }
    }

    /// Messages of which a crash kept the process from telling.
    fn follow(&mut self) {
        for (id, stored) in &self.stored {
            if !self.ledger.told.contains_key(id) {
                let address = stored.envelope.recipients.first().and_then(|it| it.path.mailbox());
                let address = address.map(ToString::to_string).unwrap_or_default();
                let known = self.ledger.recipient(&address).is_some();
                let token = crate::ledger::numbers(&address).filter(|_| known).map(|(token, _)| token);
                self.ledger.follow(*id, token, &stored.envelope);
                if let Some(transaction) = token.and_then(|token| self.ledger.transactions.get_mut(token)) {
                    transaction.id.get_or_insert(*id);
                }
            }
        }
    }

    /// Reports that are gone without a word were ended by an attempt just before a crash, and those outside know how.
    fn reports(&mut self) {
        let open = |told: &Told| told.recipients.iter().any(|state| state.end.is_none());
        let gone = |(id, told): &(&MessageId, &Told)| {
            told.token.is_none() && !told.gone && open(told) && !self.stored.contains_key(id)
        };
        let gone: Vec<MessageId> = self.ledger.told.iter().filter(gone).map(|(id, _)| *id).collect();
        for id in gone {
            if !self.ledger.report_has_end(id, &self.ledger.told[&id]) {
                self.ledger.fail("no report is lost", format!("{id} is nowhere, and its sender was not told"));
            }
            if let Some(told) = self.ledger.told.get_mut(&id) {
                told.gone = true;
            }
        }
    }

    fn transaction(&self, token: usize) -> Vec<(&'static str, String)> {
        let transaction = &self.ledger.transactions[token];
        let told = transaction.id.and_then(|id| self.ledger.told.get(&id));
        if told.is_none() && transaction.stage != Stage::Acknowledged {
            return Vec::new();
        }
        let stored = transaction.id.and_then(|id| self.stored.get(&id));
        let mut failures = Vec::new();
        if let (Some(stored), Some(told)) = (stored, told)
            && stored.envelope.received_at != told.received_at
        {
            let found = format!("{} was received at {}, and now says otherwise", stored.id, told.received_at);
            failures.push(("mail is dated by the clock", found));
        }
        for (at, recipient) in transaction.recipients.iter().enumerate().filter(|(_, it)| it.taken) {
            let state = told.and_then(|told| told.recipients.iter().find(|state| state.address == recipient.address));
            if state.is_some_and(|state| state.end.is_none()) {
                failures.extend(self.unrecorded(recipient));
            }
            let found = stored.and_then(|stored| find(stored, &recipient.address));
            failures.extend(match found {
                Some((delivery, at)) => in_store(&recipient.address, delivery, at, state),
                None => self.absent(token, at, state),
            });
        }
        failures
    }

    /// The window for duplicates ends soon after the process has read the reply to the content.
    fn unrecorded(&self, recipient: &Recipient) -> Option<(&'static str, String)> {
        let found = |heard| format!("{} was taken at {heard:?}, and nothing tells of it", recipient.address);
        if let Some(heard) = self.ledger.heard_in_order(recipient) {
            return Some(("an orderly end loses no outcome", found(heard)));
        }
        let heard = recipient.heard_in(self.ledger.life)?;
        self.ledger.is_late(heard).then(|| ("an outcome is recorded in time", found(heard)))
    }

    /// The store no longer has anything to do for a recipient: somebody must know why.
    fn absent(&self, token: usize, at: usize, state: Option<&State>) -> Option<(&'static str, String)> {
        let transaction = &self.ledger.transactions[token];
        let recipient = &transaction.recipients[at];
        if state.is_some_and(|state| state.end.is_some() || state.may_be_removed) {
            return None;
        }
        if !recipient.arrivals.is_empty() {
            return None;
        }
        let address = &recipient.address;
        if !self.ledger.is_doomed(transaction, recipient) {
            let found = format!("{address} is nowhere, and nobody took, refused or removed it");
            return Some(("no accepted recipient is lost", found));
        }
        let owed = transaction.from.is_some() && wants(recipient.notify, "failed");
        // A report is known, or under way; whether it is about this recipient is seen when all is done (`close`).
        let told = transaction.id.and_then(|id| self.ledger.told.get(&id));
        let reported = !recipient.reports.is_empty()
            || transaction.from.as_ref().is_some_and(|from| self.told_to.contains(from))
            || told.is_some_and(|told| told.reports.iter().any(|(_, action)| *action == "failed"));
        (owed && !reported)
            .then(|| ("no accepted recipient is lost", format!("{address} is nowhere, and nobody was told")))
    }
}

/// A recipient of a message, with the delivery that it is in.
fn find<'a>(stored: &'a StoredMessage, address: &str) -> Option<(&'a Delivery, &'a DeliveryRecipient)> {
    let place = stored
        .envelope
        .recipients
        .iter()
        .position(|recipient| recipient.path.mailbox().is_some_and(|mailbox| mailbox.to_string() == address))?;
    let deliveries = stored.deliveries.iter();
    deliveries
        .filter_map(|delivery| {
            Some((delivery, delivery.recipients.iter().find(|recipient| recipient.index as usize == place)?))
        })
        .next()
}

/// What the store says of a recipient against what was told of it.
fn in_store(
    address: &str,
    delivery: &Delivery,
    recipient: &DeliveryRecipient,
    state: Option<&State>,
) -> Option<(&'static str, String)> {
    let state = state?;
    match &recipient.status {
        RecipientStatus::Pending => {
            if let Some(end) = state.end {
                return Some(("what is told is durable", format!("{address} was told as {end}, and is queued")));
            }
            let held = matches!(delivery.when(), Schedule::Held(_));
            if delivery.when() == Schedule::Finished {
                return Some(("what is pending is scheduled", format!("{address} is pending and finished")));
            }
            (state.hold == Hold::Firm && !held)
                .then(|| ("a hold is durable", format!("{address} was held, and is scheduled")))
        }
        RecipientStatus::Final { outcome, notice } => {
            if let Some(end) = state.end.filter(|end| *end != outcome.word()) {
                let now = outcome.word();
                return Some(("a recipient has one end", format!("{address} was told as {end}, and is {now}")));
            }
            (*notice == Notice::Owed && delivery.when() == Schedule::Finished)
                .then(|| ("what is owed is scheduled", format!("a report about {address} is owed, and finished")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Moment;
    use crate::plan::{Addressee, Fate, Options, Plan};

    /// A message to two recipients that were refused; a report about it was made and arrived. It is about those of them.
    fn told_of(recipients: &[usize]) -> Option<&'static str> {
        let mut plan = Plan::new(&Options::seed(1));
        let mailing = &mut plan.mailings[0];
        (mailing.null, mailing.deaf) = (false, false);
        let addressee = Addressee { domain: "d0.example".into(), fate: Fate::Bad, notify: None };
        mailing.recipients = vec![addressee.clone(), addressee];
        let mut ledger = Ledger::new(&plan, false);
        let moment = Moment { wall: Timestamp::default(), jumps: 0 };
        let token = ledger.begin(0, &plan.mailings[0], &plan.senders[0], moment);
        let [id, report] = ids();
        let transaction = &mut ledger.transactions[token];
        transaction.recipients.iter_mut().for_each(|it| (it.taken, it.refusals) = (true, 1));
        let addresses: Vec<String> = transaction.recipients.iter().map(|it| it.address.clone()).collect();
        let from = transaction.from.clone().unwrap();
        ledger.acknowledged(token, Some(id));
        ledger.told.insert(id, told(Some(token), &addresses, None, vec![(report, "failed")]));
        ledger.told.insert(report, told(None, std::slice::from_ref(&from), Some("delivered"), Vec::new()));
        let about: Vec<_> = recipients.iter().map(|at| (addresses[*at].clone(), "failed".to_owned())).collect();
        ledger.reported(&from, "a report", &about);
        close(&mut ledger);
        ledger.failure.map(|failure| failure.invariant)
    }

    fn ids() -> [MessageId; 2] {
        let ids = mail::MessageIds::new(mail::Randomness::seeded(1));
        [(); 2].map(|()| ids.next(Timestamp::default()))
    }

    fn told(
        token: Option<usize>,
        to: &[String],
        end: Option<&'static str>,
        reports: Vec<(MessageId, &'static str)>,
    ) -> Told {
        let state = |address: &String| State {
            address: address.clone(),
            end,
            hold: Hold::No,
            may_be_removed: false,
            flying: false,
            next: None,
            delay_owed: None,
            landed: None,
        };
        let recipients = to.iter().map(state).collect();
        let (received_at, began) = (Timestamp::default(), Default::default());
        Told { token, null: token.is_none(), received_at, began, recipients, reports, gone: false }
    }

    #[test]
    fn a_report_about_one_recipient_is_none_about_another() {
        assert_eq!(told_of(&[0, 1]), None);
        assert_eq!(told_of(&[0]), Some("every sender is told what he is owed"));
        assert_eq!(told_of(&[]), Some("every sender is told what he is owed"));
    }
}
