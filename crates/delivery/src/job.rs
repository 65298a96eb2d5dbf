//! One assignment while it is tried: who is still to be told what.

use std::collections::{BTreeMap, HashSet};

use mail::{Assignment, AttemptReport, Delivered, Domain, EnhancedCode, Fault, Outcome, Recipient};
use smtp::client::{Lost, Shortfall, Verdict};

use crate::line::Line;

/// An assignment and what became of its recipients so far.
pub(crate) struct Job {
    pub assignment: Assignment,
    /// In the order of the assignment. `pending`, `short` and `outcomes` are disjoint and together all of its recipients.
    pending: Vec<u32>,
    outcomes: BTreeMap<u32, Outcome>,
    /// Those whom the host at hand can't take, and what it lacks; another may.
    short: Vec<(u32, Fault)>,
    /// Whether a connection broke on the way.
    pub connection_failed: bool,
}

impl Job {
    pub fn new(assignment: Assignment) -> Self {
        let (pending, short, outcomes) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut job = Self { pending, short, outcomes, connection_failed: false, assignment };
        for &place in &job.assignment.recipients {
            if job.recipient(place).is_some() {
                job.pending.push(place);
            } else {
                let fault = Fault::local(451, EnhancedCode::new(4, 3, 5), "the envelope does not have this recipient");
                job.outcomes.insert(place, Outcome::Deferred(fault));
            }
        }
        job
    }

    /// Whether nothing is left to be said to the host at hand.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether there are recipients that only another host can take.
    pub fn wants_other_host(&self) -> bool {
        self.pending.is_empty() && !self.short.is_empty()
    }

    /// How many recipients have none.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The recipients of the next transaction: at most `most`, of at most `domains` domains (RFC 9422 §4).
    pub fn next_recipients(&self, most: usize, domains: usize) -> Vec<u32> {
        let mut seen: HashSet<Option<&Domain>> = HashSet::new();
        let fits = |place: &&u32| {
            let domain = self.recipient(**place).and_then(|recipient| recipient.path.domain());
            seen.contains(&domain) || (seen.len() < domains.max(1) && seen.insert(domain))
        };
        self.pending.iter().filter(fits).take(most.max(1)).copied().collect()
    }

    /// Whether the sender's address or one of these recipients' needs SMTPUTF8.
    pub fn needs_utf8(&self, recipients: &[u32]) -> bool {
        let needs = |&place: &u32| self.recipient(place).is_some_and(|recipient| recipient.path.needs_utf8());
        self.assignment.envelope.reverse_path.needs_utf8() || recipients.iter().any(needs)
    }

    /// The peer does not offer SMTPUTF8: it can't take whoever's address needs it, and none if the sender's does
    /// (RFC 6531 §3.5).
    pub fn lacks_utf8(&mut self) {
        let need: Vec<u32> = self.pending.iter().copied().filter(|&place| self.needs_utf8(&[place])).collect();
        if !need.is_empty() {
            self.falls_short(&need, &Shortfall::Utf8.fault());
        }
    }

    /// The host at hand lacks what these need.
    pub fn falls_short(&mut self, recipients: &[u32], fault: &Fault) {
        self.pending.retain(|pending| !recipients.contains(pending));
        self.short.extend(recipients.iter().map(|recipient| (*recipient, fault.clone())));
    }

    /// The host at hand lacks what all need that are still pending.
    pub fn all_fall_short(&mut self, fault: &Fault) {
        self.falls_short(&self.pending.clone(), fault);
    }

    /// Another host is at hand: it is offered what the last one could not take.
    pub fn offer_again(&mut self) {
        self.pending.extend(self.short.drain(..).map(|(recipient, _)| recipient));
    }

    /// There is no other host: what the last one lacked decides.
    pub fn settle_short(&mut self) {
        for (recipient, fault) in std::mem::take(&mut self.short) {
            self.decide(recipient, fault.into_outcome());
        }
    }

    /// Takes the verdicts of a transaction with these recipients, in their order. What is lost or surplus stays pending.
    /// `fault`: why the connection ended, if it did.
    pub fn settle(&mut self, recipients: &[u32], verdicts: Vec<Verdict>, line: &Line, fault: Option<&Fault>) {
        for (&recipient, verdict) in recipients.iter().zip(verdicts) {
            match verdict {
                Verdict::Accepted(reply) => {
                    let candidate = &line.candidate;
                    let (host, address) = (candidate.host.clone(), candidate.endpoint.ip());
                    let offered = line.connection.offered();
                    let (dsn, deliver_by) = (offered.dsn, offered.deliver_by.is_some());
                    self.decide(
                        recipient,
                        Outcome::Delivered(Delivered { host, address, reply, dsn, deliver_by, tls: line.facts() }),
                    );
                }
                Verdict::Refused(reply) => self.decide(recipient, line.fault((reply, true)).into_outcome()),
                Verdict::Lost(Lost::MaybeTaken) => {
                    if let Some(fault) = fault {
                        self.decide(recipient, Outcome::Deferred(fault.clone()));
                    }
                }
                Verdict::Surplus(_) | Verdict::Lost(Lost::NotTaken) => {}
            }
        }
    }

    /// The same for all that are still pending: deferred or failed, as the fault is.
    pub fn settle_rest(&mut self, fault: &Fault) {
        for recipient in self.pending.clone() {
            self.decide(recipient, fault.clone().into_outcome());
        }
    }

    /// Deferred are all that are still pending: a fault of connections says nothing about a message, even if the reply is
    /// of the 5yz kind.
    pub fn defer_rest(&mut self, fault: &Fault) {
        for recipient in std::mem::take(&mut self.pending) {
            self.outcomes.insert(recipient, Outcome::Deferred(fault.clone()));
        }
    }

    /// One outcome for each recipient.
    pub fn into_report(self) -> AttemptReport {
        AttemptReport {
            id: self.assignment.id,
            delivery: self.assignment.delivery,
            outcomes: self.outcomes.into_iter().collect(),
            connection_failed: self.connection_failed,
        }
    }

    fn recipient(&self, place: u32) -> Option<&Recipient> {
        self.assignment.envelope.recipients.get(place as usize)
    }

    fn decide(&mut self, recipient: u32, outcome: Outcome) {
        self.pending.retain(|pending| *pending != recipient);
        self.outcomes.insert(recipient, outcome);
    }
}
