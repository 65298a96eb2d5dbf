//! What becomes of a delivery: from the outcomes of an attempt, or a reason why there was none, to its next state.
//!
//! Pure decisions. A recipient that ends gets its final status and, where the sender is owed a report, becomes part of
//! a delivery of its own under `notice:…`, so that a report is scheduled, survives a crash and is told apart like any
//! other work. What is left is scheduled again, put on hold, or finished.

use std::time::Duration;

use feedback::Action;
use mail::{
    Act, ByMode, DeliverBy, Destination, EnhancedCode, Envelope, Fault, FaultSource, ForwardPath, Notify, Outcome,
    Protocol, Randomness, ReversePath, Timestamp,
};
use shaping::{NextAttempt, Purpose, RetrySchedule};
use store::{Delivery, DeliveryRecipient, Notice, RecipientStatus, Schedule, Update};

use crate::scheduler::{Key, Order, OrderKind};

/// The destinations under which reports that are owed are scheduled start with this.
const NOTICES: &str = "notice:";

/// What the decisions rest on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) retry: &'a RetrySchedule,
    pub(crate) protocol: Protocol,
    /// By the wall clock, as all times here.
    pub(crate) now: Timestamp,
    /// By how much the schedule is ahead of it.
    pub(crate) lead: Duration,
    /// Whether age may end a delivery or worry its sender now.
    pub(crate) may_expire: bool,
    /// No new attempt before this time.
    pub(crate) not_before: Timestamp,
}

/// What happened to a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening<'a> {
    /// An attempt, with these outcomes by place in the envelope.
    Attempt(&'a [(u32, Outcome)]),
    /// What counts as an attempt for all its recipients: their hosts can't be found or reached.
    Fault(&'a Fault),
}

/// The decision.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// What the delivery becomes: at least one.
    pub(crate) into: Vec<Delivery>,
    /// What is told about each recipient.
    pub(crate) tidings: Vec<Tiding>,
    /// Whether the sender is to be told of the delay now; it is the first delivery's.
    pub(crate) tell_delay: bool,
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub(crate) struct Tiding {
    pub(crate) recipient: ForwardPath,
    pub(crate) outcome: Outcome,
    pub(crate) attempts: u32,
    pub(crate) next: Option<Timestamp>,
}

/// Decides what becomes of a delivery.
pub(crate) fn decide(
    envelope: &Envelope,
    before: &Delivery,
    happening: Happening<'_>,
    order: Option<&Order>,
    at: &Circumstances<'_>,
    randomness: &Randomness,
) -> Verdict {
    let mut delivery = before.clone();
    let outcomes = outcomes_of(&mut delivery, happening);
    let removal = order.filter(|order| order.kind == OrderKind::Remove);
    let next = at.retry.next(delivery.attempts, envelope.begins_at(), purpose(envelope), at.now, randomness);
    let due = match next {
        _ if at.may_expire && is_over(envelope, at.now) => Timestamp::MAX,
        // A rest that lasts beyond the expiry must not make the sender wait for the news.
        NextAttempt::At(due) => due
            .max(at.not_before.min(at.retry.expires(envelope.begins_at(), purpose(envelope))))
            .min(delivery.deadline(envelope).filter(|deadline| *deadline > at.now).unwrap_or(Timestamp::MAX)),
        NextAttempt::Expired if at.may_expire => Timestamp::MAX,
        NextAttempt::Expired => (at.now + at.retry.intervals.after(delivery.attempts)).max(at.not_before),
    };
    let expired = due == Timestamp::MAX;
    let mut tidings = Vec::with_capacity(outcomes.len());
    for (index, outcome) in outcomes {
        let outcome = match (removal, outcome) {
            (Some(order), Outcome::Deferred(_)) if order.recipients.contains(&index) => {
                Outcome::Removed(order.act.clone())
            }
            (_, Outcome::Deferred(fault)) if expired && is_over(envelope, at.now) => {
                Outcome::Expired(Some(late(Some(&fault), true)))
            }
            (_, Outcome::Deferred(fault)) if expired => Outcome::Expired(Some(fault)),
            (_, outcome) => outcome,
        };
        if let Outcome::Deferred(fault) | Outcome::Failed(fault) | Outcome::Expired(Some(fault)) = &outcome {
            delivery.last = Some(fault.clone());
        }
        let Some(recipient) = envelope.recipients.get(index as usize) else { continue };
        let next = (!outcome.is_final()).then_some(due);
        let attempts = delivery.attempts;
        tidings.push(Tiding { recipient: recipient.path.clone(), outcome: outcome.clone(), attempts, next });
        end(&mut delivery, envelope, index, outcome, at.protocol);
    }
    delivery.schedule = Schedule::At(due + at.lead);
    let hold = order.filter(|order| order.kind == OrderKind::Hold);
    let tell_delay = at.may_expire && hold.is_none() && wants_delay_notice(envelope, &delivery, at);
    let mut into = part(delivery, at.now);
    if let Some(Order { act, recipients, .. }) = hold {
        let held = |part| reschedule(part, recipients, Schedule::Held(act.clone()));
        into = into.into_iter().flat_map(held).collect();
    }
    Verdict { into, tidings, tell_delay }
}

/// Decides about a delivery that was not attempted when its sender's limit of time was over (RFC 2852 §4.1.3): it goes
/// back, or its delay is told and it is tried on.
pub(crate) fn overdue(
    envelope: &Envelope,
    before: &Delivery,
    order: Option<&Order>,
    at: &Circumstances<'_>,
) -> Verdict {
    let mut delivery = before.clone();
    let mut tidings = Vec::new();
    let over = is_over(envelope, at.now);
    let pending: Vec<u32> = delivery.recipients.iter().filter(|r| is_pending(r)).map(|r| r.index).collect();
    for index in pending.into_iter().filter(|_| over) {
        let Some(recipient) = envelope.recipients.get(index as usize) else { continue };
        let outcome = match order.filter(|order| order.kind == OrderKind::Remove && order.recipients.contains(&index)) {
            Some(order) => Outcome::Removed(order.act.clone()),
            None => Outcome::Expired(Some(late(before.last.as_ref(), true))),
        };
        let attempts = delivery.attempts;
        tidings.push(Tiding { recipient: recipient.path.clone(), outcome: outcome.clone(), attempts, next: None });
        end(&mut delivery, envelope, index, outcome, at.protocol);
    }
    let hold = order.filter(|order| order.kind == OrderKind::Hold);
    let tell_delay = hold.is_none() && wants_delay_notice(envelope, &delivery, at);
    // Where nobody wants to hear of it, it is as good as told.
    delivery.delay_told |= !over && hold.is_none() && !tell_delay && is_late(envelope, at.now);
    let mut into = part(delivery, at.now);
    if let Some(Order { act, recipients, .. }) = hold {
        let held = |part| reschedule(part, recipients, Schedule::Held(act.clone()));
        into = into.into_iter().flat_map(held).collect();
    }
    Verdict { into, tidings, tell_delay }
}

/// Whether a message is to go back, for its sender's limit of time is over.
pub(crate) fn is_over(envelope: &Envelope, now: Timestamp) -> bool {
    envelope.deliver_by.is_some_and(|limit| limit.mode == ByMode::Return && limit.by <= now)
}

/// Whether its sender is to hear that a message was not delivered in time.
pub(crate) fn is_late(envelope: &Envelope, now: Timestamp) -> bool {
    envelope.deliver_by.is_some_and(|limit| limit.mode == ByMode::Notify && limit.by <= now)
}

/// What to say of a message that was not delivered in time, with what went wrong last.
pub(crate) fn late(last: Option<&Fault>, is_final: bool) -> Fault {
    let (code, class) = if is_final { (554, 5) } else { (451, 4) };
    let told = last.map_or_else(String::new, |last| format!("; the last attempt: {last}"));
    let text = format!("not delivered within the time that the sender set{told}");
    Fault::local(code, EnhancedCode::new(class, 4, 7), text)
}

/// Takes recipients out of a delivery for good, by an operator's act; nobody is told.
pub(crate) fn remove(mut delivery: Delivery, recipients: &[u32], act: &Act) -> Vec<Delivery> {
    for recipient in delivery.recipients.iter_mut().filter(|recipient| recipients.contains(&recipient.index)) {
        if is_pending(recipient) {
            recipient.status =
                RecipientStatus::Final { outcome: Outcome::Removed(act.clone()), notice: Notice::NotOwed };
        }
    }
    part(delivery, act.at)
}

/// Gives recipients of a delivery another schedule; the others stay as they are.
pub(crate) fn reschedule(delivery: Delivery, recipients: &[u32], schedule: Schedule) -> Vec<Delivery> {
    let chosen = |r: &DeliveryRecipient| is_pending(r) && recipients.contains(&r.index);
    if delivery.recipients.iter().filter(|r| is_pending(r)).all(chosen) {
        let pending = delivery.recipients.iter().any(is_pending);
        return vec![if pending { Delivery { schedule, ..delivery } } else { delivery }];
    }
    let (taken, kept): (Vec<_>, Vec<_>) = delivery.recipients.iter().cloned().partition(chosen);
    if taken.is_empty() {
        return vec![delivery];
    }
    let taken = Delivery { recipients: taken, schedule, ..delivery.clone() };
    vec![Delivery { recipients: kept, ..delivery }, taken]
}

/// The one update that makes a delivery what it becomes.
pub(crate) fn update((id, number): Key, mut into: Vec<Delivery>) -> Update {
    match into.len() {
        1 => Update::Delivery { id, number, state: into.remove(0) },
        _ => Update::Split { id, number, into },
    }
}

/// Where and when deliveries are looked at next.
pub(crate) fn scheduled(into: &[Delivery]) -> Vec<(Destination, Timestamp)> {
    let due = |delivery: &Delivery| match delivery.when() {
        Schedule::At(due) => Some((delivery.destination.clone(), due)),
        Schedule::Held(_) | Schedule::Finished => None,
    };
    into.iter().filter_map(due).collect()
}

/// All reports of a delivery that are owed are told, and with that the delivery is finished.
pub(crate) fn told(mut delivery: Delivery) -> Delivery {
    for recipient in &mut delivery.recipients {
        if let RecipientStatus::Final { notice: notice @ Notice::Owed, .. } = &mut recipient.status {
            *notice = Notice::Told;
        }
    }
    if !delivery.recipients.iter().any(is_pending) {
        delivery.schedule = Schedule::Finished;
    }
    delivery
}

/// What the sender of a message is: someone to tell, or nobody.
pub(crate) fn purpose(envelope: &Envelope) -> Purpose {
    match envelope.reverse_path {
        ReversePath::Null => Purpose::Bounce,
        ReversePath::Mailbox(_) => Purpose::Mail,
    }
}

/// Whether a destination is not a place for mail but for reports that are owed.
pub(crate) fn is_notice(destination: &Destination) -> bool {
    destination.as_str().starts_with(NOTICES)
}

/// Where the mail went that a report is owed about; any other destination is itself.
pub(crate) fn origin(destination: &Destination) -> Destination {
    destination.as_str().strip_prefix(NOTICES).map_or_else(|| destination.clone(), Destination::new)
}

/// Whether a recipient is still to be delivered.
pub(crate) fn is_pending(recipient: &DeliveryRecipient) -> bool {
    recipient.status == RecipientStatus::Pending
}

/// Whether the sender wants to be told that a recipient has to wait.
pub(crate) fn wants_delay(envelope: &Envelope, recipient: &DeliveryRecipient, now: Timestamp) -> bool {
    let Some(asked) = envelope.recipients.get(recipient.index as usize) else { return false };
    // RFC 2852 §4.1.3: who sets a limit of time asks to hear of it.
    let asks = feedback::owes(asked.notify, Action::Delayed) || is_late(envelope, now);
    envelope.reverse_path != ReversePath::Null && is_pending(recipient) && asks && asked.notify != Notify::Never
}

/// The outcome of each recipient that was pending; one of which nothing was said is deferred.
fn outcomes_of(delivery: &mut Delivery, happening: Happening<'_>) -> Vec<(u32, Outcome)> {
    delivery.attempts = delivery.attempts.saturating_add(1);
    let outcome = |index| match happening {
        // A host that refuses the connection for good says nothing about any message: only what we found counts so.
        Happening::Fault(fault) if fault.is_permanent() && fault.by == FaultSource::Local => {
            Outcome::Failed(fault.clone())
        }
        Happening::Fault(fault) => Outcome::Deferred(fault.clone()),
        Happening::Attempt(outcomes) => {
            let told = outcomes.iter().find(|(told, _)| *told == index).map(|(_, outcome)| outcome.clone());
            told.unwrap_or_else(|| Outcome::Deferred(silence()))
        }
    };
    let pending = delivery.recipients.iter().filter(|recipient| is_pending(recipient));
    pending.map(|recipient| (recipient.index, outcome(recipient.index))).collect()
}

fn silence() -> Fault {
    Fault::local(451, EnhancedCode::new(4, 3, 0), "the attempt ended without an outcome")
}

/// Notes the outcome of a recipient, if it is final.
fn end(delivery: &mut Delivery, envelope: &Envelope, index: u32, outcome: Outcome, protocol: Protocol) {
    let (Some(place), Some(recipient)) = (
        delivery.recipients.iter_mut().find(|recipient| recipient.index == index),
        envelope.recipients.get(index as usize),
    ) else {
        return;
    };
    if outcome.is_final() {
        let owed = feedback::owed(envelope, recipient.notify, &outcome, protocol);
        let notice = if owed.is_some() { Notice::Owed } else { Notice::NotOwed };
        place.status = RecipientStatus::Final { outcome, notice };
    }
}

/// Separates the recipients whose reports are owed; what has neither pending recipients nor owed reports is finished.
fn part(mut delivery: Delivery, now: Timestamp) -> Vec<Delivery> {
    let owes = delivery.owes_notice();
    let notices = Destination::new(format!("{NOTICES}{}", origin(&delivery.destination)));
    if !delivery.recipients.iter().any(is_pending) {
        delivery.schedule = if owes { Schedule::At(now) } else { Schedule::Finished };
        delivery.destination = if owes { notices } else { delivery.destination };
        return vec![delivery];
    }
    if !owes {
        return vec![delivery];
    }
    let owed = |r: &DeliveryRecipient| matches!(r.status, RecipientStatus::Final { notice: Notice::Owed, .. });
    let (owing, rest) = delivery.recipients.iter().cloned().partition(owed);
    let apart = Delivery { destination: notices, recipients: owing, schedule: Schedule::At(now), ..delivery.clone() };
    vec![Delivery { recipients: rest, ..delivery }, apart]
}

fn wants_delay_notice(envelope: &Envelope, delivery: &Delivery, at: &Circumstances<'_>) -> bool {
    let due = match envelope.deliver_by {
        // Instead of our own, for it is told once.
        Some(DeliverBy { mode: ByMode::Notify, by, .. }) => Some(by),
        _ => at.retry.delay_notice_at(envelope.begins_at(), purpose(envelope)),
    };
    let wants = |recipient: &DeliveryRecipient| wants_delay(envelope, recipient, at.now);
    due.is_some_and(|due| at.now >= due) && !delivery.delay_told && delivery.recipients.iter().any(wants)
}

#[cfg(test)]
mod tests;
