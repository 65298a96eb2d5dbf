//! What operators do: hold, release, retry now, remove; and look first.
//!
//! A command walks through the queue in pages (see `walk`). Of each page it takes what it is about, so that nothing
//! else works on it meanwhile, reads its state anew, changes it, and waits until that is durable. A delivery that is
//! being attempted can't be taken: word is left for it, which counts once the outcome is known. So that a crash does
//! not undo the command, such a delivery is recorded as held until then; what its attempt brings replaces that.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mail::{Act, Destination, Event, MessageId, Outcome, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Delivery, ReadError, Schedule, StoredMessage, Update};

use crate::queue::{Core, Inner, Queue};
use crate::scheduler::{Claim, Key, Now, Order, OrderKind};
use crate::selection::Selection;
use crate::settle::{Taken, Telling};
use crate::summary::ListPage;
use crate::verdict;
use crate::walk::{Found, PAGE, Purpose, Target, Walk};

/// Messages looked at for one piece of a list.
const LIST_SCAN: usize = 4096;
/// How often a delivery that is just being changed is waited for, and how long each time.
const PATIENCE: (usize, Duration) = (40, Duration::from_millis(250));
/// Changed messages that the store's index does not have yet, beyond which a command waits.
const LAG: u64 = 16_384;
/// How often it waits for that after each page, and how long each time.
const FOLLOW: (usize, Duration) = (50, Duration::from_millis(20));

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Do not try until released.
    Hold,
    /// Try again, beginning now.
    Release,
    /// Try now what waits for its next attempt; a resting lane is woken.
    Retry,
    /// Take out of the queue for good; nobody is told.
    Remove,
}

/// How far a command came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// Messages with recipients that were meant.
    pub messages: u64,
    /// Recipients that were meant.
    pub recipients: u64,
    /// Of these, those that were changed.
    pub changed: u64,
    /// Of these, those that are being attempted: changed if the attempt leaves them in the queue.
    pub in_flight: u64,
    /// Those that could not be taken because they were being changed all the time.
    pub busy: u64,
}

/// Why a command was not carried out, or not to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// It must say what it is about.
    #[error("nothing is selected; give a condition, or say that you mean everything")]
    NothingSelected,
    /// It must say who and why.
    #[error("an author and a reason are needed")]
    NoReason,
    /// The server ends.
    #[error("the server is stopping")]
    Stopped,
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Queue {
    /// Carries out a command; durable when it returns. What was changed before an error stays changed.
    pub async fn act(
        &self,
        action: Action,
        selection: &Selection,
        author: &str,
        reason: &str,
    ) -> Result<Acted, ControlError> {
        self.act_telling(action, selection, author, reason, |_| ()).await
    }

    /// As [`Self::act`]; tells how far it came, page by page.
    pub async fn act_telling(
        &self,
        action: Action,
        selection: &Selection,
        author: &str,
        reason: &str,
        tell: impl Fn(Acted) + Send + 'static,
    ) -> Result<Acted, ControlError> {
        if author.trim().is_empty() || reason.trim().is_empty() {
            return Err(ControlError::NoReason);
        }
        let act = Act { author: author.to_owned(), reason: reason.to_owned(), at: self.0.clock.now() };
        let (inner, selection) = (self.0.clone(), selection.clone());
        let command = async move {
            let mut walk = Walk::new(&inner, &selection, Purpose::Act(action, act.at)).await?;
            if let (Action::Retry, Some(domain)) = (action, &selection.domain) {
                // What is due already is not met.
                inner.core(|core, _| core.scheduler.rouse(&Destination::new(format!("mx:{domain}"))));
            }
            let (mut acted, mut words) = (Acted::default(), BTreeSet::new());
            while let Some(page) = walk.next().await? {
                let command = Command { inner: &inner, action, act: &act, selection: &selection };
                command.on_page(page, &mut acted, &mut words).await?;
                inner.let_store_follow().await;
                tell(acted);
            }
            Ok(acted)
        };
        // On its own, because what is taken must be given back also when nobody waits for the result any more.
        match tokio::spawn(command).await {
            Ok(acted) => acted,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ControlError::Stopped),
            },
        }
    }

    /// What a command would be about; changes nothing.
    pub async fn count(&self, selection: &Selection) -> Result<Acted, ControlError> {
        let mut walk = Walk::new(&self.0, selection, Purpose::Count).await?;
        let mut counted = Acted::default();
        while let Some(page) = walk.next().await? {
            counted.meant(&page);
        }
        Ok(counted)
    }

    /// A piece of the list of what is selected, by time of acceptance, from behind `after`. May hold fewer messages
    /// than `limit`, even none, and still have a next piece.
    pub async fn list(
        &self,
        selection: &Selection,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<ListPage, ControlError> {
        let mut walk = Walk::new(&self.0, selection, Purpose::List(after)).await?;
        let mut messages = Vec::new();
        let mut seen = 0;
        while seen < LIST_SCAN {
            let Some(page) = walk.next().await? else { return Ok(ListPage { messages, next: None }) };
            seen += PAGE;
            for found in page {
                if messages.len() >= limit.max(1) {
                    let next = messages.last().map(|message: &crate::MessageSummary| message.id);
                    return Ok(ListPage { messages, next });
                }
                let wanted = |number| found.targets.iter().any(|target| target.key.1 == number);
                messages.push(self.0.summarise(&found.stored, wanted));
            }
        }
        Ok(ListPage { messages, next: walk.after() })
    }
}

impl Inner {
    /// Waits for the store's index if a command is faster: what changed stays in memory until the index has it. Not for
    /// long, for the index may be out of order.
    async fn let_store_follow(&self) {
        for _ in 0..FOLLOW.0 {
            if self.store.status().lag_messages <= LAG {
                return;
            }
            tokio::time::sleep(FOLLOW.1).await;
        }
    }
}

/// A command on its way through the queue.
struct Command<'a> {
    inner: &'a Arc<Inner>,
    action: Action,
    act: &'a Act,
    selection: &'a Selection,
}

/// What a command does to a delivery.
enum Change {
    /// Nothing; where and when it is looked at next.
    Nothing(Vec<(Destination, Timestamp)>),
    /// The deliveries that it becomes, and the recipients for whom that makes a difference.
    Into(Vec<Delivery>, Vec<u32>),
}

/// A delivery whose change is to be recorded.
struct Changed {
    taken: Taken,
    stored: Arc<StoredMessage>,
    into: Vec<Delivery>,
    recipients: Vec<u32>,
    telling: Telling,
}

impl Acted {
    /// Counts what of a page is meant.
    fn meant(&mut self, page: &[Found]) {
        self.messages += page.len() as u64;
        let recipients = page.iter().flat_map(|found| &found.targets).map(|target| target.recipients.len() as u64);
        self.recipients += recipients.sum::<u64>();
    }
}

impl Command<'_> {
    /// `words`: the deliveries for which the command left word. They may be met again, and are left out then.
    async fn on_page(
        &self,
        mut page: Vec<Found>,
        acted: &mut Acted,
        words: &mut BTreeSet<Key>,
    ) -> Result<(), ControlError> {
        page.iter_mut().for_each(|found| found.targets.retain(|target| !words.contains(&target.key)));
        page.retain(|found| !found.targets.is_empty());
        acted.meant(&page);
        let mut targets: Vec<Target> = page.into_iter().flat_map(|found| found.targets).collect();
        for _ in 0..PATIENCE.0 {
            let settled = self.inner.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            targets = self.on_targets(targets, acted, words).await?;
            if targets.is_empty() {
                return Ok(());
            }
            let _ = tokio::time::timeout(PATIENCE.1, settled).await;
        }
        acted.busy += targets.iter().map(|target| target.recipients.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Takes and changes what it can; gives back what somebody else is changing.
    async fn on_targets(
        &self,
        targets: Vec<Target>,
        acted: &mut Acted,
        words: &mut BTreeSet<Key>,
    ) -> Result<Vec<Target>, ControlError> {
        let (mut taken, mut busy) = (Vec::new(), Vec::new());
        for target in targets {
            match self.inner.core(|core, now| self.take(core, &target, now)) {
                Grip::Taken => taken.push(Taken::new(self.inner, target.key)),
                Grip::Ordered => {
                    words.insert(target.key);
                    acted.in_flight += target.recipients.len() as u64;
                }
                Grip::Busy => busy.push(target),
            }
        }
        let ids = taken.iter().map(|taken| taken.key.0).collect();
        let stored = self.inner.store.messages(ids).await?;
        let stored: HashMap<MessageId, Arc<StoredMessage>> = stored.into_iter().map(|one| (one.id, one)).collect();
        let mut changes = Vec::new();
        for taken in taken {
            match stored.get(&taken.key.0).map(|stored| self.change(taken.key, stored)) {
                Some(Change::Into(into, recipients)) => {
                    let stored = stored[&taken.key.0].clone();
                    let telling = Telling::new(self.inner, stored.id);
                    changes.push(Changed { taken, stored, into, recipients, telling });
                }
                Some(Change::Nothing(scheduled)) => taken.settled(&scheduled),
                None => taken.settled(&[]),
            }
        }
        acted.changed += changes.iter().map(|change| change.recipients.len() as u64).sum::<u64>();
        self.carry_out(changes).await;
        Ok(busy)
    }

    /// Takes a delivery, or leaves word for it if it is being attempted.
    fn take(&self, core: &mut Core, target: &Target, now: Now) -> Grip {
        match core.scheduler.claim(target.key, &target.destination, now) {
            Claim::Taken => Grip::Taken,
            Claim::Busy | Claim::Full => Grip::Busy,
            Claim::Flying => self.leave_word(core, target),
        }
    }

    /// The record is queued under the same lock as the word is left, so that the attempt's outcome comes after it.
    fn leave_word(&self, core: &mut Core, target: &Target) -> Grip {
        let Some((stored, before)) = core.scheduler.in_flight(target.key) else { return Grip::Busy };
        let Some(delivery) = stored.deliveries.get(target.key.1 as usize) else { return Grip::Busy };
        let kind = match self.action {
            Action::Hold => Some(OrderKind::Hold),
            Action::Remove => Some(OrderKind::Remove),
            Action::Release => None,
            Action::Retry => return Grip::Ordered,
        };
        if kind.is_none() && before.is_none() {
            return Grip::Ordered;
        }
        let recipients = target.recipients.clone();
        let order = kind.map(|kind| Order { kind, act: self.act.clone(), recipients });
        let schedule = if order.is_some() { Schedule::Held(self.act.clone()) } else { delivery.schedule.clone() };
        let (id, number) = target.key;
        let state = Delivery { schedule, ..delivery.clone() };
        core.scheduler.order(target.key, order);
        self.inner.keep_books(self.inner.store.record(vec![Update::Delivery { id, number, state }]));
        Grip::Ordered
    }

    /// What becomes of a delivery that was taken.
    fn change(&self, (_, number): Key, stored: &StoredMessage) -> Change {
        let Some(delivery) = stored.deliveries.get(number as usize).cloned() else {
            return Change::Nothing(Vec::new());
        };
        let recipients = self.selection.recipients(&stored.envelope, &delivery, false);
        let release = stored.envelope.begins_at();
        let unchanged = verdict::scheduled(std::slice::from_ref(&delivery));
        let into = match (self.action, delivery.when()) {
            _ if recipients.is_empty() => return Change::Nothing(unchanged),
            (Action::Remove, Schedule::At(_) | Schedule::Held(_)) => verdict::remove(delivery, &recipients, self.act),
            (Action::Hold, Schedule::At(_)) => {
                verdict::reschedule(delivery, &recipients, Schedule::Held(self.act.clone()))
            }
            // The sender's own time is not for a command about attempts to change.
            (Action::Retry, Schedule::At(_)) if release > self.act.at => return Change::Nothing(unchanged),
            (Action::Release, Schedule::Held(_)) => {
                let lead = self.inner.core(|_, now| now.lead);
                let at = if release > self.act.at { release + lead } else { self.act.at };
                verdict::reschedule(delivery, &recipients, Schedule::At(at))
            }
            (Action::Retry, Schedule::At(_)) => {
                // Not later than the command: what it changes must lie where its walk has been.
                verdict::reschedule(delivery, &recipients, Schedule::At(self.act.at))
            }
            _ => return Change::Nothing(unchanged),
        };
        Change::Into(into, recipients)
    }

    async fn carry_out(&self, changes: Vec<Changed>) {
        if changes.is_empty() {
            return;
        }
        let updates = changes.iter().map(|change| verdict::update(change.taken.key, change.into.clone())).collect();
        self.inner.store.record(updates).await;
        for change in changes {
            self.tell(&change);
            let scheduled = verdict::scheduled(&change.into);
            if matches!(self.action, Action::Retry | Action::Release) {
                self.inner.core(|core, _| {
                    scheduled.iter().for_each(|(destination, _)| core.scheduler.rouse(destination));
                });
            }
            change.taken.settled(&scheduled);
            self.inner.tell_end(&change.stored, &change.into, change.telling).await;
        }
    }

    fn tell(&self, change: &Changed) {
        let (message, act) = (change.stored.id, self.act.clone());
        let event = match self.action {
            Action::Hold => Event::Held { message, act },
            Action::Release => Event::Released { message, act },
            Action::Retry => Event::Retried { message, act },
            Action::Remove => return self.tell_removal(change),
        };
        self.inner.observer.observe(&event);
    }

    fn tell_removal(&self, change: &Changed) {
        let attempts = change.into.first().map_or(0, |delivery| delivery.attempts);
        let paths = change.recipients.iter().filter_map(|at| change.stored.envelope.recipients.get(*at as usize));
        for recipient in paths {
            self.inner.metrics.outcome("removed");
            self.inner.observer.observe(&Event::Attempted {
                message: change.stored.id,
                recipient: recipient.path.clone(),
                lane: None,
                outcome: Outcome::Removed(self.act.clone()),
                attempts,
                next: None,
                age: self.act.at.since(change.stored.envelope.received_at),
            });
        }
    }
}

enum Grip {
    Taken,
    Ordered,
    Busy,
}
