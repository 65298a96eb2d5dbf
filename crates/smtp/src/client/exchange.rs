//! One transaction on its way: from MAIL to the reply to the content.

use std::collections::VecDeque;

use bytes::Bytes;
use mail::{BodyKind, Protocol, Reply};

use super::content::{DotStuffing, LineEnds};
use super::output::Output;
use super::transaction::{Lost, Transaction, Unfit, Verdict};
use crate::extensions::Extensions;

/// The state of a transaction. A value that every end consumes.
#[derive(Debug)]
pub(super) struct Exchange {
    transaction: Transaction,
    offered: Extensions,
    protocol: Protocol,
    /// Commands that are still to be sent.
    plan: VecDeque<Command>,
    /// Commands whose replies are still to come, in the order in which they were sent.
    awaited: VecDeque<Command>,
    refused: Option<Reply>,
    fates: Vec<Fate>,
    content: Content,
    /// Whether the peer may hold a half-done transaction, which RSET ends.
    unfinished: bool,
}

/// A command, or what else has a reply of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Rset,
    Mail,
    /// The recipient at this place of the transaction.
    Rcpt(usize),
    Data,
    /// The whole content; in LMTP one reply for each recipient that was accepted, for this one.
    Content(Option<usize>),
    /// A dot after a DATA that should have been refused.
    LoneDot,
}

/// How it stands with one recipient.
#[derive(Clone, Debug)]
enum Fate {
    Undecided,
    Welcome,
    Decided(Verdict),
}

/// How it stands with the content.
#[derive(Debug)]
enum Content {
    NotYet,
    Dots(DotStuffing),
    Chunk { line_ends: Option<LineEnds>, left: u64 },
    Complete,
}

/// What follows from a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More replies are awaited.
    Wait,
    /// The content is wanted.
    SendContent,
    /// The transaction is over.
    Done,
    /// The peer answered what no server may answer here: the conversation is out of step.
    Unexpected(&'static str),
    /// The content was refused before it was complete: the verdicts stand, but nothing more can be said.
    CutShort,
}

impl Exchange {
    /// Plans the commands. `reset`: the one before left the peer in the middle of a transaction.
    pub(super) fn new(transaction: Transaction, offered: Extensions, protocol: Protocol, reset: bool) -> Self {
        let recipients = transaction.recipients.len();
        let mut plan: VecDeque<Command> = reset.then_some(Command::Rset).into_iter().collect();
        plan.push_back(Command::Mail);
        plan.extend((0..recipients).map(Command::Rcpt));
        if offered.pipelining && !offered.chunking {
            plan.push_back(Command::Data);
        }
        let fates = vec![Fate::Undecided; recipients];
        let awaited = VecDeque::with_capacity(plan.len());
        let content = Content::NotYet;
        Self { transaction, offered, protocol, plan, awaited, refused: None, fates, content, unfinished: false }
    }

    /// Sends what may be sent now: everything with PIPELINING (RFC 2920 §3.1), else one command.
    pub(super) fn send(&mut self, output: &mut Output) {
        while self.offered.pipelining || self.awaited.is_empty() {
            let Some(command) = self.plan.pop_front() else { return };
            match command {
                Command::Rset => output.text(b"RSET\r\n"),
                Command::Mail => output.text(self.transaction.mail_command(&self.offered).as_bytes()),
                Command::Rcpt(at) => match self.transaction.recipient(at) {
                    Some(recipient) => {
                        output.text(self.transaction.recipient_command(recipient, &self.offered).as_bytes());
                    }
                    None => continue,
                },
                Command::Data => output.text(b"DATA\r\n"),
                Command::LoneDot => output.text(b".\r\n"),
                Command::Content(_) => {}
            }
            self.awaited.push_back(command);
        }
    }

    /// What the next reply belongs to.
    pub(super) fn awaited(&self) -> Option<Command> {
        self.awaited.front().copied()
    }

    /// Whether content is being sent and not complete.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.content, Content::Dots(_) | Content::Chunk { .. })
    }

    /// Octets of the content as announced.
    pub(super) fn size(&self) -> u64 {
        self.transaction.size
    }

    /// Whether RSET must come before the next transaction.
    pub(super) fn needs_reset(&self) -> bool {
        self.unfinished
    }

    /// Takes the reply to the oldest command that awaits one.
    pub(super) fn reply(&mut self, reply: Reply, output: &mut Output) -> Step {
        let Some(command) = self.awaited.pop_front() else {
            return Step::Unexpected("a reply that nothing had asked for");
        };
        let step = match command {
            Command::Rset if reply.is_positive() => Step::Wait,
            Command::Rset => Step::Unexpected("a refusal of RSET"),
            Command::Mail => self.mail_replied(reply),
            Command::Rcpt(at) => self.recipient_replied(at, reply),
            Command::Data => return self.data_replied(reply, output),
            Command::Content(recipient) => return self.content_replied(recipient, reply),
            Command::LoneDot => Step::Wait,
        };
        if step != Step::Wait {
            return step;
        }
        self.send(output);
        if self.awaited.is_empty() { self.group_ended(output) } else { Step::Wait }
    }

    fn mail_replied(&mut self, reply: Reply) -> Step {
        if reply.is_intermediate() {
            return Step::Unexpected("a reply of the 3yz kind to MAIL");
        }
        if reply.is_positive() {
            self.unfinished = true;
        } else {
            self.plan.clear();
            self.refused = Some(reply);
        }
        Step::Wait
    }

    fn recipient_replied(&mut self, at: usize, reply: Reply) -> Step {
        if reply.is_intermediate() {
            return Step::Unexpected("a reply of the 3yz kind to RCPT");
        }
        let others_are_welcome = self.is_anyone_welcome();
        if let Some(fate) = self.fates.get_mut(at) {
            *fate = if reply.is_positive() {
                Fate::Welcome
            } else if others_are_welcome && means_too_many(&reply) {
                Fate::Decided(Verdict::Surplus(reply))
            } else {
                Fate::Decided(Verdict::Refused(reply))
            };
        }
        Step::Wait
    }

    /// All commands sent so far are answered, and DATA was not among them, or it came to nothing.
    fn group_ended(&mut self, output: &mut Output) -> Step {
        if self.refused.is_some() || !self.is_anyone_welcome() || !matches!(self.content, Content::NotYet) {
            return Step::Done;
        }
        if self.offered.chunking {
            output.text(format!("BDAT {} LAST\r\n", self.transaction.size).as_bytes());
            let line_ends = (self.transaction.body != BodyKind::BinaryMime).then(LineEnds::default);
            self.content = Content::Chunk { line_ends, left: self.transaction.size };
            self.await_content();
            return Step::SendContent;
        }
        self.plan.push_back(Command::Data);
        self.send(output);
        Step::Wait
    }

    fn data_replied(&mut self, reply: Reply, output: &mut Output) -> Step {
        if reply.is_positive() {
            return Step::Unexpected("a reply of the 2yz kind to DATA");
        }
        let anyone = self.is_anyone_welcome();
        if !reply.is_intermediate() {
            self.decide_welcome(&Verdict::Refused(reply));
            return Step::Done;
        }
        match (self.refused.is_some(), anyone) {
            (false, true) => {
                self.content = Content::Dots(DotStuffing::default());
                self.await_content();
                Step::SendContent
            }
            // RFC 2920 §3.1: when DATA is let pass although no recipient was, a single dot ends it. LMTP leaves open how
            // many replies that dot gets, and after a refused MAIL an accepted RCPT could make it a message: then
            // nothing more is said.
            (_, false) if self.protocol == Protocol::Smtp => {
                self.unfinished = false;
                self.content = Content::Complete;
                self.plan.push_back(Command::LoneDot);
                self.send(output);
                Step::Wait
            }
            _ => Step::CutShort,
        }
    }

    /// Notes that the content has one reply, or in LMTP one for each recipient that was accepted (RFC 2033 §4.2).
    fn await_content(&mut self) {
        match self.protocol {
            Protocol::Smtp => self.awaited.push_back(Command::Content(None)),
            Protocol::Lmtp => {
                let welcome = self.fates.iter().enumerate().filter(|(_, fate)| matches!(fate, Fate::Welcome));
                self.awaited.extend(welcome.map(|(at, _)| Command::Content(Some(at))));
            }
        }
    }

    fn content_replied(&mut self, recipient: Option<usize>, reply: Reply) -> Step {
        let complete = matches!(self.content, Content::Complete);
        if reply.is_intermediate() || (reply.is_positive() && !complete) {
            return Step::Unexpected("a wrong reply to the content");
        }
        if !complete {
            self.decide_welcome(&Verdict::Refused(reply));
            return Step::CutShort;
        }
        // Once it has answered, the peer holds no transaction any more (RFC 5321 §4.1.1.4).
        self.unfinished = false;
        let verdict = if reply.is_positive() { Verdict::Accepted(reply) } else { Verdict::Refused(reply) };
        match recipient {
            None => self.decide_welcome(&verdict),
            Some(at) => {
                if let Some(fate) = self.fates.get_mut(at) {
                    *fate = Fate::Decided(verdict);
                }
            }
        }
        if self.awaited.is_empty() { Step::Done } else { Step::Wait }
    }

    /// Passes content on.
    pub(super) fn content(&mut self, piece: Bytes, output: &mut Output) -> Result<(), Unfit> {
        match &mut self.content {
            Content::Dots(stuffing) => stuffing.pass(piece, output),
            Content::Chunk { line_ends, left } => {
                *left = left.checked_sub(piece.len() as u64).ok_or(Unfit::Length)?;
                if line_ends.as_mut().is_some_and(|line_ends| !line_ends.pass(&piece)) {
                    return Err(Unfit::BareLineEnd);
                }
                output.slice(piece);
            }
            // The transaction is over for the peer; what it was given so far does not matter.
            Content::NotYet | Content::Complete => {}
        }
        Ok(())
    }

    /// The content is complete.
    pub(super) fn finish_content(&mut self, output: &mut Output) -> Result<(), Unfit> {
        match std::mem::replace(&mut self.content, Content::Complete) {
            Content::Dots(stuffing) => stuffing.finish(output),
            Content::Chunk { left: 1.., .. } => {
                self.content = Content::NotYet;
                return Err(Unfit::Length);
            }
            Content::Chunk { line_ends: Some(line_ends), .. } if !line_ends.finish() => {
                self.content = Content::NotYet;
                return Err(Unfit::BareLineEnd);
            }
            Content::Chunk { .. } | Content::Complete => {}
            Content::NotYet => self.content = Content::NotYet,
        }
        Ok(())
    }

    /// Forgets every refusal: the peer's replies turned out not to be in step with the commands, so nobody knows what was
    /// refused. PIPELINING was offered by servers that answer out of order.
    pub(super) fn doubt(&mut self) {
        self.refused = None;
        for fate in &mut self.fates {
            if matches!(fate, Fate::Decided(Verdict::Refused(_) | Verdict::Surplus(_))) {
                *fate = Fate::Undecided;
            }
        }
    }

    /// The verdicts, one per recipient; who has none lost the connection. `gone`: the peer said 421, so that it did not
    /// take the message over even if it had all of it.
    pub(super) fn into_verdicts(self, gone: bool) -> Vec<Verdict> {
        let maybe = matches!(self.content, Content::Complete) && !gone;
        let lost = Verdict::Lost(if maybe { Lost::MaybeTaken } else { Lost::NotTaken });
        let refused = self.refused.map(Verdict::Refused);
        let verdict = |fate| match (&refused, fate) {
            (Some(refused), _) => refused.clone(),
            (None, Fate::Decided(verdict)) => verdict,
            (None, Fate::Undecided | Fate::Welcome) => lost.clone(),
        };
        self.fates.into_iter().map(verdict).collect()
    }

    fn is_anyone_welcome(&self) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Fate::Welcome))
    }

    fn decide_welcome(&mut self, verdict: &Verdict) {
        for fate in self.fates.iter_mut().filter(|fate| matches!(fate, Fate::Welcome)) {
            *fate = Fate::Decided(verdict.clone());
        }
    }
}

/// 452 or 552 to RCPT: too many recipients, unless its enhanced code says otherwise (RFC 5321 §4.5.3.1.10).
fn means_too_many(reply: &Reply) -> bool {
    matches!(reply.code(), 452 | 552)
        && reply.enhanced().is_none_or(|enhanced| (enhanced.subject, enhanced.detail) == (5, 3))
}
