//! The ledger: what each party of the world knows of every message, and what must hold between them.
//!
//! It is written by those outside of the process (senders: what was acknowledged; hosts: what they took; whoever gets a
//! report) and at the process's seams (facts told to the observer, attempts handed to connections, commands). No fact of
//! the process counts that it could only have told after its death. `audit` holds the ledger against the store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mail::{Envelope, Event, MessageId, Outcome, ReversePath, Timestamp};

use crate::counts::Counts;
use crate::plan::{Addressee, Mailing, Plan, Policy, Sender};
use crate::reasons::Reasons;
use crate::times::{Deferral, RECORDED, Rests};
use crate::trace::Trace;

/// A message once as a sender gave it; the same mailing given again is another one.
#[derive(Debug)]
pub struct Transaction {
    /// Which mailing.
    pub mailing: usize,
    /// The address that reports go to; none for `<>`.
    pub from: Option<String>,
    /// To whom.
    pub recipients: Vec<Recipient>,
    /// How far the sender came.
    pub stage: Stage,
    /// Its name in the queue, once somebody told.
    pub id: Option<MessageId>,
    /// How old the world was when it began.
    pub began: Duration,
    /// What the clocks showed then.
    pub moment: Moment,
}

/// How far a sender came with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its end was not sent.
    Begun,
    /// Its end was sent; nothing was heard.
    Ended,
    /// 250.
    Acknowledged,
    /// Some other reply.
    Refused,
}

/// A recipient of a transaction.
#[derive(Debug)]
pub struct Recipient {
    /// Its address, which no other recipient of the world has.
    pub address: String,
    /// `NOTIFY`.
    pub notify: Option<&'static str>,
    /// Whether RCPT was answered with 250.
    pub taken: bool,
    /// When its host took responsibility.
    pub arrivals: Vec<Arrival>,
    /// How often its host refused it for good.
    pub refusals: u32,
    /// Reports about it that reached the sender: the action, and the report's own name.
    pub reports: BTreeSet<(String, String)>,
}

/// A host took a recipient's message.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// In which life of the process.
    pub life: u32,
    /// When the process had read all of the reply, if it did.
    pub heard: Option<Duration>,
    /// Whether the host took over the duty to report: it offers DSN, and was told what the sender wants.
    pub promised: bool,
}

impl Recipient {
    /// When the process, in that life, had read that a host took the message.
    pub fn heard_in(&self, life: u32) -> Option<Duration> {
        self.arrivals.iter().filter(|arrival| arrival.life == life).find_map(|arrival| arrival.heard)
    }
}

/// What the process told of a message.
#[derive(Debug)]
pub struct Told {
    /// Which transaction, unless it is a report.
    pub token: Option<usize>,
    /// Whether it is from `<>`.
    pub null: bool,
    pub(crate) received_at: Timestamp,
    /// How old the world was when the message, or the one that a report is about, was begun.
    pub(crate) began: Duration,
    /// Its recipients, by place in the envelope.
    pub recipients: Vec<State>,
    /// Reports about it: their names and actions.
    pub reports: Vec<(MessageId, &'static str)>,
    /// Whether the store no longer has it though not everything of its end was told: a crash came between.
    pub gone: bool,
}

/// What the process told of one recipient.
#[derive(Debug)]
pub struct State {
    /// Its address.
    pub address: String,
    /// The final outcome, once it is told.
    pub end: Option<&'static str>,
    /// Whether a command holds it.
    pub hold: Hold,
    /// Whether an operator may have removed it.
    pub may_be_removed: bool,
    /// Whether it is with a connection.
    pub flying: bool,
    /// When the next attempt is due, as it was told, and how often the wall clock had jumped by then.
    pub next: Option<(Timestamp, u64)>,
    /// When an attempt failed after which its sender must hear of the delay, as nothing was in the way.
    pub delay_owed: Option<Duration>,
    /// When its present attempt ended, for the bounds of the next one.
    pub landed: Option<(Timestamp, u64)>,
}

/// Whether something is on hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No.
    No,
    /// A command was not over, or came upon an attempt.
    Perhaps,
    /// Yes.
    Firm,
}

/// Something that must hold did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What must hold.
    pub invariant: &'static str,
    /// What was found.
    pub found: String,
    /// How old the world was.
    pub age: Duration,
}

/// See the module's description.
#[derive(Debug)]
pub struct Ledger {
    /// All transactions; the place is the number in the addresses.
    pub transactions: Vec<Transaction>,
    /// All messages that the process told of.
    pub told: BTreeMap<MessageId, Told>,
    /// The first thing that did not hold.
    pub failure: Option<Failure>,
    /// The story.
    pub trace: Trace,
    /// For the closing lines.
    pub counts: Counts,
    /// Who refused what, and how late it ever was.
    pub reasons: Reasons,
    pub(crate) policy: Policy,
    pub(crate) rests: Rests,
    /// When something was last in the way of deliveries: harm, an operator, or a start.
    pub troubled: Duration,
    /// The time, as of the last note.
    pub age: Duration,
    /// When the disk was last full, or about to fail.
    pub disk_hurt: Duration,
    /// Which life it is.
    pub life: u32,
    /// Whether an operator's command is being carried out: beyond its window the queue holds what that takes in hand.
    pub commanded: bool,
    /// When the last command was over.
    pub acted: Option<Duration>,
    /// Whether an operator is removing everything, also what comes meanwhile.
    pub removes_all: bool,
    /// Whether an operator ever wanted something to be tried at once.
    pub may_be_retried: bool,
    /// Whether the world came to its end, and all was settled.
    pub closed: bool,
    /// Lives that ended in an orderly way, with everything written down.
    pub(crate) orderly: BTreeSet<u32>,
}

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// How often that has jumped.
    pub jumps: u64,
}

/// Beyond the bounds of the policy: the time that a decision takes to become a fact.
pub(crate) const SLACK: Duration = Duration::from_secs(1);
/// For so long a commit may take.
const COMMIT: Duration = Duration::from_secs(30);

impl Ledger {
    /// Nothing has happened yet.
    pub fn new(plan: &Plan, keeps_text: bool) -> Self {
        Self {
            transactions: Vec::new(),
            told: BTreeMap::new(),
            failure: None,
            trace: Trace::new(keeps_text),
            counts: Counts::default(),
            reasons: Reasons::default(),
            policy: plan.policy.clone(),
            rests: Rests::new(plan),
            troubled: Duration::ZERO,
            age: Duration::ZERO,
            disk_hurt: Duration::ZERO,
            life: 0,
            commanded: false,
            acted: None,
            removes_all: false,
            may_be_retried: false,
            closed: false,
            orderly: BTreeSet::new(),
        }
    }

    /// A sender begins a mailing. Gives the number of the transaction.
    pub fn begin(&mut self, place: usize, mailing: &Mailing, sender: &Sender, moment: Moment) -> usize {
        let token = self.transactions.len();
        let letter = if mailing.deaf { 'x' } else { 's' };
        let recipient = |(at, to): (usize, &Addressee)| Recipient {
            address: format!("{}{token}-{at}@{}", to.fate.letter(), to.domain),
            notify: to.notify,
            taken: false,
            arrivals: Vec::new(),
            refusals: 0,
            reports: BTreeSet::new(),
        };
        self.transactions.push(Transaction {
            mailing: place,
            from: (!mailing.null).then(|| format!("{letter}{token}@{}", sender.domain)),
            recipients: mailing.recipients.iter().enumerate().map(recipient).collect(),
            stage: Stage::Begun,
            id: None,
            began: self.age,
            moment,
        });
        token
    }

    /// The sender was told that its message is in the queue.
    pub fn acknowledged(&mut self, token: usize, id: Option<MessageId>) {
        let Some(id) = id else { return self.fail("250 names the message", format!("t{token}: no id in the reply")) };
        let transaction = &mut self.transactions[token];
        transaction.stage = Stage::Acknowledged;
        let taken = transaction.recipients.iter().filter(|recipient| recipient.taken).count();
        self.counts.accepted += taken as u64;
        match transaction.id {
            Some(known) if known != id => {
                self.fail("250 names the message", format!("t{token}: the reply says {id}, the queue {known}"));
            }
            _ => transaction.id = Some(id),
        }
    }

    /// The recipient that an address is, if it is one.
    pub fn recipient(&mut self, address: &str) -> Option<&mut Recipient> {
        let (token, at) = numbers(address)?;
        let recipient = self.transactions.get_mut(token)?.recipients.get_mut(at)?;
        (recipient.address == address).then_some(recipient)
    }

    /// A host takes responsibility for a message to that address.
    pub fn arrived(&mut self, address: &str, began: Duration, promised: bool) {
        self.counts.arrived += 1;
        let life = self.life;
        let end = self.state_of(address).and_then(|state| state.end);
        let Some((token, at)) = numbers(address) else { return };
        let Some(transaction) = self.transactions.get_mut(token) else {
            return self.fail("nobody gets what was not sent", format!("a host got mail for {address}"));
        };
        let stage = transaction.stage;
        let Some(recipient) = transaction.recipients.get_mut(at) else {
            return self.fail("nobody gets what was not sent", format!("a host got mail for {address}"));
        };
        let heard = recipient.arrivals.iter().any(|arrival| {
            // Another attempt after the reply to this one was read has no excuse, but that the process died meanwhile.
            (arrival.life == life || self.orderly.contains(&arrival.life))
                && arrival.heard.is_some_and(|heard| began > heard)
        });
        self.counts.duplicates += u64::from(!recipient.arrivals.is_empty());
        recipient.arrivals.push(Arrival { life, heard: None, promised });
        let taken = recipient.taken;
        if stage == Stage::Begun {
            self.fail("what was not completed is not sent", format!("t{token} was not ended, and {address} got it"));
        } else if !taken {
            self.fail("what was refused is not sent", format!("{address} was refused, and got mail"));
        } else if let Some(end) = end {
            self.fail("nothing is attempted after the end", format!("{address} got mail after it was {end}"));
        } else if heard {
            self.fail("duplicates only in the window", format!("{address} got mail again, though its 250 was read"));
        }
    }

    /// The process has read all of the replies to the last message for these addresses.
    pub fn heard(&mut self, addresses: &[String]) {
        let age = self.age;
        for address in addresses {
            if let Some(arrival) = self.recipient(address).and_then(|recipient| recipient.arrivals.last_mut()) {
                arrival.heard.get_or_insert(age);
            }
        }
    }

    /// A report reached the sender of a transaction. `about` are addresses and actions.
    pub fn reported(&mut self, to: &str, name: &str, about: &[(String, String)]) {
        self.counts.reports += 1;
        self.reasons.reported(name);
        let from = sender_number(to).and_then(|token| self.transactions.get(token)).and_then(|it| it.from.clone());
        if from.as_deref() != Some(to) {
            return self.fail("a report goes to the sender", format!("{to} got one, but sent nothing by that name"));
        }
        for (address, action) in about {
            let end = self.state_of(address).and_then(|state| state.end);
            let life = self.life;
            let Some(recipient) = self.recipient(address) else {
                self.fail("a report is about a recipient", format!("{to} was told of {address}"));
                continue;
            };
            recipient.reports.insert((action.clone(), name.to_owned()));
            let wanted = wants(recipient.notify, action);
            let heard = recipient.heard_in(life).is_some();
            let twice = recipient.reports.iter().filter(|(other, _)| other == action).count() > 1;
            if !wanted {
                self.fail("NOTIFY is heeded", format!("{to} was told that {address} is {action}"));
            } else if twice && action != "delayed" {
                self.fail("a sender is told once", format!("{to} was told twice that {address} is {action}"));
            } else if action == "failed" && (end == Some("delivered") || heard) {
                self.fail("no failure is told of what was delivered", format!("{to} was told so of {address}"));
            } else if action == "failed" && end == Some("removed") {
                self.fail("nobody is told of a removal", format!("{to} was told of {address}"));
            }
        }
    }

    /// A fact of the process.
    pub fn observe(&mut self, event: &Event, now: Moment) {
        self.reasons.is_now(now.wall);
        match event {
            Event::Accepted { message, envelope, .. } => self.accepted(*message, envelope, now),
            Event::Attempted { .. } => self.attempted(event, now),
            Event::Reported { message, report, action, .. } => {
                let Some(told) = self.told.get_mut(message) else { return };
                told.reports.push((*report, action));
                if told.null {
                    let what = if told.token.is_none() { "a report" } else { "a message from <>" };
                    self.fail("never a report about a report or to <>", format!("{report} is about {message}, {what}"));
                }
            }
            Event::Retried { message, .. } if !self.may_be_retried => {
                self.fail("nothing is retried without a command", format!("{message} was"));
            }
            Event::Retried { message, .. } | Event::Released { message, .. } => self.roused(*message),
            Event::LaneBackedOff { site, until, .. } => self.rests.begin(site, *until, now.wall),
            _ => {}
        }
    }

    fn accepted(&mut self, id: MessageId, envelope: &Envelope, now: Moment) {
        let first = envelope.recipients.first().and_then(|recipient| recipient.path.mailbox());
        let address = first.map(ToString::to_string).unwrap_or_default();
        let token = self.recipient(&address).is_some().then(|| numbers(&address)).flatten().map(|(token, _)| token);
        if let Some(transaction) = token.and_then(|token| self.transactions.get_mut(token)) {
            transaction.id = Some(id);
            if transaction.stage == Stage::Begun {
                self.fail("what was not completed is not sent", format!("{id} is in the queue, but was not ended"));
            }
        }
        // Age counts from here, and the process may not make it up.
        let began = token.map_or(now, |token| self.transactions[token].moment);
        let received = envelope.received_at;
        // A report is dated when it is written, and durable a little later.
        let leapt = token.is_none() && self.reasons.last_jump().is_some_and(|at| at + COMMIT >= self.age);
        if !leapt && began.jumps == now.jumps && (received + SLACK < began.wall || received > now.wall + SLACK) {
            self.fail("mail is dated by the clock", format!("{id} says {received}, and came by {}", now.wall));
        }
        self.follow(id, token, envelope);
    }

    /// Takes note of a message that is in the queue.
    pub fn follow(&mut self, id: MessageId, token: Option<usize>, envelope: &Envelope) {
        let state = |recipient: &mail::Recipient| State {
            address: recipient.path.mailbox().map(ToString::to_string).unwrap_or_default(),
            end: None,
            hold: Hold::No,
            may_be_removed: self.removes_all,
            flying: false,
            next: None,
            delay_owed: None,
            landed: None,
        };
        // A report came after the message that it is about was begun.
        let to = envelope.recipients.first().and_then(|recipient| recipient.path.mailbox());
        let about = to.and_then(|to| sender_number(&to.to_string()));
        let began = token.or(about).and_then(|token| self.transactions.get(token)).map(|transaction| transaction.began);
        let from = token.and_then(|token| self.transactions.get(token)).map(|transaction| transaction.from.is_none());
        let told = Told {
            token,
            null: from.unwrap_or(envelope.reverse_path == ReversePath::Null),
            received_at: envelope.received_at,
            began: began.unwrap_or(self.age),
            recipients: envelope.recipients.iter().map(state).collect(),
            reports: Vec::new(),
            gone: false,
        };
        self.told.entry(id).or_insert(told);
    }

    fn attempted(&mut self, event: &Event, now: Moment) {
        let Event::Attempted { message: id, recipient, outcome, attempts, next, age, .. } = event else { return };
        let Some(address) = recipient.mailbox().map(ToString::to_string) else { return };
        let address = &address;
        let life = self.life;
        let recipient = self.recipient(address);
        let heard = recipient.as_ref().and_then(|recipient| recipient.heard_in(life));
        let arrived = recipient.map(|recipient| recipient.arrivals.len());
        let late = heard.is_some_and(|heard| self.is_late(heard));
        let delays = self.tells_delays();
        let Some(told) = self.told.get_mut(id) else {
            return self.fail("what is told of was accepted", format!("an attempt of {id}, which nobody accepted"));
        };
        let (null, received_at) = (told.null, told.received_at);
        let delayed = delays.is_some_and(|after| !null && now.wall >= received_at + after);
        let age_of_world = self.age;
        let Some(state) = told.recipients.iter_mut().find(|state| state.address == *address) else { return };
        if let Some(end) = state.end {
            return self.fail("an end is told once", format!("{id} for {address}: {} after {end}", outcome.word()));
        }
        let landed = state.landed.take();
        if outcome.is_final() {
            state.end = Some(outcome.word());
        } else {
            if state.hold == Hold::No && delayed {
                state.delay_owed.get_or_insert(age_of_world);
            }
            // That was decided at the landing, and may be told much later, when a disk was full.
            let jumps = landed.map_or(now.jumps, |(_, jumps)| jumps);
            state.next = next.map(|next| (next, jumps));
        }
        let may_be_removed = state.may_be_removed;
        let expire = if null { self.policy.retry.expire_bounces } else { self.policy.retry.expire };
        let aged = self.told.get(id).is_some_and(|told| self.is_aged(told));
        let began = self.told.get(id).map_or(Duration::ZERO, |told| told.began);
        match outcome {
            Outcome::Delivered(_) if arrived == Some(0) => {
                self.fail("what is told as delivered arrived", format!("{address}, which no host took"));
            }
            Outcome::Delivered(_) if late => {
                self.fail("an outcome is recorded in time", format!("{address} was taken long since"));
            }
            Outcome::Failed(_) | Outcome::Deferred(_) | Outcome::Expired(_) | Outcome::Removed(_)
                if heard.is_some() =>
            {
                let word = outcome.word();
                self.fail("what was taken is told as delivered", format!("{address} was taken, and told as {word}"));
            }
            Outcome::Failed(_) if !self.has_refusal(address, began) => {
                self.fail("what is told as failed was refused", format!("{address}, which nobody refused"));
            }
            Outcome::Expired(_) if !aged => {
                let found = format!("{address}, received at {received_at}, after {age:?} of {expire:?}");
                self.fail("nothing expires early", found);
            }
            Outcome::Removed(_) if !may_be_removed => {
                self.fail("nothing is removed without a command", address.clone());
            }
            Outcome::Removed(_) => self.counts.removed += 1,
            Outcome::Deferred(_) => {
                let Some(next) = *next else {
                    return self.fail("what is deferred has a next attempt", format!("{address} has none"));
                };
                let expiry = received_at + expire;
                self.in_bounds(&Deferral { address, attempts: *attempts, expiry, next, landed }, now);
            }
            _ => {}
        }
    }

    /// An attempt was under way when an operator wanted another: it comes at once, whatever the first said.
    fn roused(&mut self, id: MessageId) {
        if let Some(told) = self.told.get_mut(&id) {
            told.recipients.iter_mut().for_each(|state| state.next = None);
        }
    }

    /// A connection gets a delivery.
    pub fn takes_off(&mut self, id: MessageId, places: &[u32], now: Moment) {
        // A clock that went back may have been told of before a start and be unknown after it: the audit sees the schedule.
        let latest = (now.jumps == 0 && self.is_quiet()).then(|| now.wall - self.patience());
        let Some(told) = self.told.get_mut(&id) else {
            return self.fail("what is attempted was accepted", format!("{id} is attempted, which nobody accepted"));
        };
        let mut wrong = None;
        for place in places {
            let Some(state) = told.recipients.get_mut(*place as usize) else { continue };
            let address = &state.address;
            if state.flying {
                wrong = Some(("a delivery is with one connection", format!("{address} is with two")));
            } else if let Some(end) = state.end {
                wrong = Some(("nothing is attempted after the end", format!("{address}, which was {end}")));
            } else if state.hold == Hold::Firm {
                wrong = Some(("nothing on hold is attempted", address.clone()));
            } else if let Some((next, jumps)) = state.next
                && jumps == now.jumps
                && now.wall + SLACK < next
            {
                wrong = Some(("nothing is attempted before its time", format!("{address} is due only at {next}")));
            } else if let Some((next, _)) = state.next
                && latest.is_some_and(|latest| next < latest)
            {
                wrong = Some(("what is due is attempted in time", format!("{address} was due at {next}")));
            }
            state.flying = true;
        }
        if let Some((invariant, found)) = wrong {
            self.fail(invariant, found);
        }
    }

    /// A connection has told the outcome of a delivery, or ended without.
    pub fn lands(&mut self, id: MessageId, places: &[u32], told_of: bool, now: Moment) {
        let Some(told) = self.told.get_mut(&id) else { return };
        for place in places {
            if let Some(state) = told.recipients.get_mut(*place as usize) {
                state.flying = false;
                state.landed = told_of.then_some((now.wall, now.jumps));
            }
        }
    }

    /// The process is gone: nothing of it flies.
    pub fn died(&mut self) {
        self.counts.deaths += u64::from(!self.orderly.contains(&self.life));
        (self.commanded, self.removes_all) = (false, false);
        self.rests.clear();
        let age = self.age;
        for state in self.told.values_mut().flat_map(|told| &mut told.recipients) {
            state.flying = false;
            state.landed = None;
            // Perhaps the report did not come to pass, and the next attempt made it needless.
            state.delay_owed = state.delay_owed.filter(|owed| *owed + RECORDED < age);
        }
    }

    /// The state of the recipient of a transaction, as the process told.
    pub fn state_of(&mut self, address: &str) -> Option<&mut State> {
        let (token, at) = numbers(address)?;
        let transaction = self.transactions.get(token)?;
        (transaction.recipients.get(at)?.address == address).then_some(())?;
        let told = self.told.get_mut(&transaction.id?)?;
        told.recipients.iter_mut().find(|state| state.address == address)
    }

    /// Takes note of the first thing that does not hold.
    pub fn fail(&mut self, invariant: &'static str, found: String) {
        let age = self.age;
        self.trace.note(age, format_args!("VIOLATED: {invariant}: {found}"));
        self.failure.get_or_insert(Failure { invariant, found, age });
    }
}

/// Whether a sender that said so wants to be told.
pub fn wants(notify: Option<&str>, action: &str) -> bool {
    match (notify, action) {
        (None, "failed" | "delayed") => true,
        (Some("NEVER") | None, _) => false,
        (Some(words), "failed") => words.contains("FAILURE"),
        (Some(words), "delayed") => words.contains("DELAY"),
        (Some(words), _) => words.contains("SUCCESS"),
    }
}

/// The number in the address of a sender.
fn sender_number(address: &str) -> Option<usize> {
    address.split('@').next()?.get(1..)?.parse().ok()
}

/// The numbers in the address of a recipient.
pub fn numbers(address: &str) -> Option<(usize, usize)> {
    let (token, at) = address.split('@').next()?.get(1..)?.split_once('-')?;
    Some((token.parse().ok()?, at.parse().ok()?))
}
