//! Why a recipient may end without having been taken: a host refused it for good, the DNS said that its domain takes no
//! mail, or its time ran out. All of this is known from outside, so the process need not be believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mail::{MessageId, Timestamp};

use crate::ledger::{Ledger, Recipient, Told, Transaction, numbers};

/// For so long the queue may hold a domain to an answer that it got, and a little longer.
const REMEMBERED: Duration = Duration::from_secs(21);

/// What those outside know of ends that are no arrivals.
#[derive(Debug, Default)]
pub struct Reasons {
    /// When all mail of a domain was last refused: by its hosts, or by the DNS.
    domains: BTreeMap<String, Duration>,
    /// Addresses of senders to which a host refused a report.
    deaf: BTreeSet<String>,
    /// Reports that reached somebody, by their queue ids.
    reported: BTreeSet<String>,
    /// What the wall clock showed before each of its jumps, and how old the world was.
    jumps: Vec<(Duration, Timestamp)>,
    /// What it showed last.
    now: Timestamp,
}

impl Reasons {
    /// The wall clock shows this.
    pub fn is_now(&mut self, wall: Timestamp) {
        self.now = wall;
    }

    /// The wall clock shows this, and jumps.
    pub fn jumps(&mut self, age: Duration, wall: Timestamp) {
        self.jumps.push((age, wall));
    }

    /// A report has reached somebody. Its Message-ID begins with its queue id.
    pub fn reported(&mut self, message_id: &str) {
        let id = message_id.trim_start_matches('<').split('@').next().unwrap_or_default();
        self.reported.insert(id.to_owned());
    }

    /// Whether the report has reached somebody.
    pub fn has_arrived(&self, report: MessageId) -> bool {
        self.reported.contains(&report.to_string())
    }

    /// How old the world was when the clock last jumped.
    pub fn last_jump(&self) -> Option<Duration> {
        self.jumps.last().map(|(age, _)| *age)
    }

    /// The latest that the wall clock showed since the world was so old.
    fn latest_since(&self, age: Duration) -> Timestamp {
        let before = self.jumps.iter().filter(|(at, _)| *at >= age).map(|(_, wall)| *wall);
        before.fold(self.now, Timestamp::max)
    }
}

impl Ledger {
    /// Somebody in charge says that nothing goes to that domain.
    pub fn domain_refused(&mut self, domain: &str) {
        let age = self.age;
        self.reasons.domains.insert(domain.to_owned(), age);
    }

    /// A host refuses a recipient for good.
    pub fn recipient_refused(&mut self, address: &str) {
        match self.recipient(address) {
            Some(recipient) => recipient.refusals += 1,
            None => drop(self.reasons.deaf.insert(address.to_owned())),
        }
    }

    /// Whether a recipient was refused for good after its message was begun.
    pub fn is_refused(&self, transaction: &Transaction, recipient: &Recipient) -> bool {
        recipient.refusals > 0 || self.refused_since(&recipient.address, transaction.began)
    }

    /// Whether a recipient may have ended otherwise than by an arrival or an operator.
    pub fn is_doomed(&self, transaction: &Transaction, recipient: &Recipient) -> bool {
        let told = transaction.id.and_then(|id| self.told.get(&id));
        told.is_some_and(|told| self.is_aged(told)) || self.is_refused(transaction, recipient)
    }

    /// Whether there is a reason that a report is gone: it arrived, was refused, or became too old.
    pub fn report_has_end(&self, id: MessageId, told: &Told) -> bool {
        self.reasons.has_arrived(id)
            || self.is_aged(told)
            || told.recipients.iter().all(|state| {
                let refused =
                    self.reasons.deaf.contains(&state.address) || self.refused_since(&state.address, told.began);
                refused || state.may_be_removed
            })
    }

    /// Whether what is told as failed of a message that came then was refused by somebody.
    pub fn has_refusal(&self, address: &str, began: Duration) -> bool {
        let known = numbers(address).and_then(|(token, at)| {
            let transaction = self.transactions.get(token)?;
            Some((transaction, transaction.recipients.get(at)?))
        });
        match known {
            Some((transaction, recipient)) => self.is_refused(transaction, recipient),
            None => self.reasons.deaf.contains(address) || self.refused_since(address, began),
        }
    }

    fn refused_since(&self, address: &str, began: Duration) -> bool {
        let domain = address.split_once('@').map_or("", |(_, domain)| domain);
        self.reasons.domains.get(domain).is_some_and(|at| *at + REMEMBERED >= began)
    }

    /// Whether the wall clock was beyond its expiry since it is in the queue.
    pub fn is_aged(&self, told: &Told) -> bool {
        let retry = &self.policy.retry;
        let expire = if told.null { retry.expire_bounces } else { retry.expire };
        self.reasons.latest_since(told.began) >= told.received_at + expire
    }
}
