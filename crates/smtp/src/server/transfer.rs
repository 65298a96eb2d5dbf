//! Content on its way in, by DATA (RFC 5321 §4.1.1.4) or BDAT (RFC 3030), up to its end and the driver's last word.

use std::time::Instant;

use bytes::{Buf, Bytes};
use mail::{BodyKind, EnhancedCode, Reply};

use super::content::{self, Decoder, Fault};
use super::event::{Abort, Answer, Begin, Event, Finished, Transaction};
use super::inspect::Inspector;
use super::limits::{Endings, Limits};
use super::reason::{CloseReason, Refusal};
use super::session::{Mailing, Phase, Question, Session, Step};
use crate::commands::{self, Chunk};

/// A transaction whose content comes in.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Gone once the content is refused: what still comes is thrown away.
    transaction: Option<Transaction>,
    /// How many recipients it has or had.
    recipients: usize,
    decoder: Decoder,
    inspector: Inspector,
    /// Octets that came after the refusal.
    discarded: u64,
}

/// How content begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Data,
    Chunk(Chunk),
}

/// Announced octets that nobody wants (RFC 3030 §2: they are taken and discarded before the reply).
#[derive(Debug)]
pub(super) struct Swallow {
    left: u64,
    /// How often the reply is due.
    times: usize,
    words: Words,
}

#[derive(Debug)]
enum Words {
    Ours(Refusal),
    Drivers(Reply),
}

impl Transfer {
    fn new(transaction: Transaction, endings: Endings, limits: &Limits) -> Self {
        let binary = transaction.sender.parameters.body == BodyKind::BinaryMime;
        Self {
            recipients: transaction.recipients.len(),
            transaction: Some(transaction),
            decoder: Decoder::new(endings, binary),
            inspector: Inspector::new(limits, binary),
            discarded: 0,
        }
    }

    pub(super) fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    pub(super) fn into_transaction(self) -> Option<Transaction> {
        self.transaction
    }
}

impl Session {
    pub(super) fn data(&mut self, argument: &str, now: Instant) {
        if !argument.is_empty() {
            return self.refuse_for(Refusal::Argument, now);
        }
        let transaction = match &self.mailing {
            Mailing::None => return self.refuse_for(self.first_things_first(), now),
            // RFC 3030 §2: DATA and BDAT do not mix in one transaction.
            Mailing::Content(_) => return self.refuse_for(Refusal::ChunksBegun, now),
            Mailing::Open(transaction) => transaction,
        };
        if transaction.recipients.is_empty() {
            return self.refuse_for(self.no_recipients(), now);
        }
        if transaction.sender.parameters.body == BodyKind::BinaryMime {
            return self.refuse_for(Refusal::BinaryByData, now);
        }
        let (expected, recipients) = (transaction.sender.parameters.size, transaction.recipients.len());
        self.ask(Question::Begin(Start::Data), Event::Begin(Begin { expected, recipients }));
    }

    pub(super) fn bdat(&mut self, argument: &str) {
        let Ok(chunk) = commands::bdat(argument) else {
            // Where the next command begins nobody knows now: to guess would run content as commands.
            return self.close_with(Refusal::ChunkSize, CloseReason::ChunkSize);
        };
        if let Some(refusal) = self.chunk_refusal(chunk) {
            let times = self.times(chunk.last);
            if refusal == Refusal::MessageSize {
                self.abort(Abort::Refused);
            }
            return self.swallow_chunk(chunk, times, Words::Ours(refusal));
        }
        match &self.mailing {
            Mailing::Open(transaction) => {
                let declared = transaction.sender.parameters.size.filter(|_| !chunk.last).unwrap_or(0);
                let begin =
                    Begin { expected: Some(chunk.size.max(declared)), recipients: transaction.recipients.len() };
                self.ask(Question::Begin(Start::Chunk(chunk)), Event::Begin(begin));
            }
            _ => self.read(Phase::Chunk { left: chunk.size, last: chunk.last }),
        }
    }

    /// Why a chunk cannot be taken before it is looked at.
    fn chunk_refusal(&self, chunk: Chunk) -> Option<Refusal> {
        if self.hello.is_some() && !self.pipelines() {
            return Some(Refusal::ChunkWithoutEhlo);
        }
        match &self.mailing {
            Mailing::None => Some(self.first_things_first()),
            Mailing::Open(transaction) if transaction.recipients.is_empty() => Some(self.no_recipients()),
            Mailing::Open(_) => (chunk.size > self.limits().message).then_some(Refusal::MessageSize),
            Mailing::Content(transfer) => transfer.inspector.exceeds(chunk.size).then_some(Refusal::MessageSize),
        }
    }

    /// The driver has said whether content may come. The phase is [`Phase::Command`].
    pub(super) fn begin(&mut self, start: Start, refused: Option<Reply>, now: Instant) {
        if let Some(reply) = refused {
            return match start {
                Start::Data => {
                    self.abort(Abort::Answer);
                    self.negative(&reply, now);
                }
                Start::Chunk(chunk) => {
                    let times = self.times(chunk.last);
                    self.abort(Abort::Answer);
                    self.swallow_chunk(chunk, times, Words::Drivers(reply));
                }
            };
        }
        // RFC 2920 §3.1: what was sent before 354 was not sent as content.
        if matches!(start, Start::Data) && !self.input.is_empty() {
            return self.close_with(Refusal::Pipelining, CloseReason::Pipelining);
        }
        if let Mailing::Open(transaction) = std::mem::replace(&mut self.mailing, Mailing::None) {
            let transfer = Transfer::new(transaction, self.config.endings, &self.config.limits);
            self.mailing = Mailing::Content(Box::new(transfer));
        }
        match start {
            Start::Data => {
                self.output.say("354 end the message with a dot on a line of its own");
                self.read(Phase::Data);
            }
            Start::Chunk(Chunk { size, last }) => self.read(Phase::Chunk { left: size, last }),
        }
    }

    pub(super) fn read_data(&mut self, now: Instant) -> Step {
        let Mailing::Content(transfer) = &mut self.mailing else {
            self.phase = Phase::Command;
            return Step::Again;
        };
        match transfer.decoder.dotted(&mut self.input, &mut transfer.inspector) {
            content::Step::More => Step::Wait,
            content::Step::Content(piece) => self.content(piece),
            content::Step::Fault(fault) => self.fault(fault),
            content::Step::End if !self.pipelines() && !self.input.is_empty() => {
                self.close_with(Refusal::Pipelining, CloseReason::Pipelining);
                Step::Again
            }
            content::Step::End => self.content_ends(now),
        }
    }

    pub(super) fn read_chunk(&mut self, now: Instant) -> Step {
        let (Mailing::Content(transfer), Phase::Chunk { left, last }) = (&mut self.mailing, &mut self.phase) else {
            self.phase = Phase::Command;
            return Step::Again;
        };
        if *left > 0 {
            let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
            if here == 0 {
                return Step::Wait;
            }
            *left -= here as u64;
            return match transfer.decoder.chunk(self.input.split_to(here), &mut transfer.inspector) {
                Ok(piece) => self.content(piece),
                Err(fault) => self.fault(fault),
            };
        }
        if *last {
            return match transfer.decoder.finish() {
                Ok(()) => self.content_ends(now),
                Err(fault) => self.fault(fault),
            };
        }
        if transfer.transaction.is_none() {
            return self.content_ends(now);
        }
        self.timer.command();
        self.phase = Phase::Command;
        self.output.say("250 2.0.0 chunk taken");
        Step::Again
    }

    /// Hands a piece on, or throws it away once the content is refused.
    fn content(&mut self, piece: Bytes) -> Step {
        let Mailing::Content(transfer) = &mut self.mailing else { return Step::Again };
        transfer.inspector.count(&piece);
        let Some(refusal) = transfer.inspector.verdict() else {
            return if piece.is_empty() { Step::Again } else { Step::Emit(Event::Content(piece)) };
        };
        transfer.discarded += piece.len() as u64;
        if let Some(transaction) = transfer.transaction.take() {
            let why = Abort::Refused;
            self.events.push_back(Event::Abort { transaction: Box::new(transaction), why });
        }
        if transfer.discarded > self.config.limits.discard {
            self.close_with(refusal, CloseReason::Discard);
        }
        Step::Again
    }

    /// All content is there, or a chunk of refused content is over.
    fn content_ends(&mut self, now: Instant) -> Step {
        let times = self.replies_due();
        self.timer.command();
        self.phase = Phase::Command;
        let Mailing::Content(transfer) = std::mem::replace(&mut self.mailing, Mailing::None) else {
            return Step::Again;
        };
        let content = transfer.inspector.facts();
        match (transfer.transaction, &self.hello, transfer.inspector.verdict()) {
            (Some(transaction), Some(hello), None) => {
                let dialect = self.peer.dialect.unwrap_or(hello.dialect);
                let protocol = dialect.transfer_protocol(
                    transaction.sender.parameters.utf8,
                    self.tls().is_some(),
                    self.is_authenticated(),
                );
                let finished = Finished {
                    transaction,
                    content,
                    hello: hello.clone(),
                    protocol,
                    tls: self.tls().cloned(),
                    account: self.account().map(str::to_owned),
                };
                self.ask(Question::End(times), Event::End(Box::new(finished)));
            }
            // The transaction is gone exactly when there is a verdict, and there is none without a greeting.
            (_, _, verdict) => self.refuse_times(verdict.unwrap_or(Refusal::MailFirst), times, now),
        }
        Step::Again
    }

    /// The driver has committed the message, or not.
    pub(super) fn committed(&mut self, replies: usize, answer: Answer, now: Instant) {
        let answers = match answer {
            Answer::Accept => {
                self.tally.forgive();
                return (0..replies).for_each(|_| self.output.say("250 2.0.0 accepted"));
            }
            Answer::Reply(reply) => vec![reply; replies],
            Answer::Each(mut answers) => {
                // A recipient without an answer must be tried again: nobody has taken it.
                let missing = || Reply::new(451, EnhancedCode::new(4, 3, 0), "not taken, try again");
                answers.resize_with(replies, missing);
                answers
            }
            Answer::Challenge(_) | Answer::Authenticated { .. } => {
                vec![Reply::new(451, EnhancedCode::new(4, 3, 0), "internal error, try again"); replies]
            }
        };
        answers.iter().for_each(|reply| self.output.reply(reply));
        if answers.iter().any(Reply::is_positive) {
            self.tally.forgive();
        }
        let closes = answers.iter().find(|reply| reply.code() == 421);
        if let Some(worst) = closes.or_else(|| answers.iter().find(|reply| reply.is_permanent())) {
            self.consequences(worst, now);
        }
    }

    pub(super) fn swallow(&mut self, now: Instant) -> Step {
        let Phase::Swallow(swallow) = &mut self.phase else { return Step::Again };
        let here = usize::try_from(swallow.left).unwrap_or(usize::MAX).min(self.input.len());
        self.input.advance(here);
        swallow.left -= here as u64;
        if swallow.left > 0 {
            return Step::Wait;
        }
        if let Phase::Swallow(Swallow { times, words, .. }) = std::mem::replace(&mut self.phase, Phase::Command) {
            self.timer.command();
            match words {
                Words::Ours(refusal) => self.refuse_times(refusal, times, now),
                Words::Drivers(reply) => {
                    (0..times).for_each(|_| self.output.reply(&reply));
                    self.consequences(&reply, now);
                }
            }
        }
        Step::Again
    }

    /// Throws a whole chunk away and says why afterwards; at once and for good if it is too much even for that.
    fn swallow_chunk(&mut self, chunk: Chunk, times: usize, words: Words) {
        if chunk.size > self.limits().discard {
            return match words {
                Words::Ours(refusal) => self.close_with(refusal, CloseReason::Discard),
                Words::Drivers(reply) => {
                    self.output.reply(&reply);
                    self.close(CloseReason::Discard);
                }
            };
        }
        self.read(Phase::Swallow(Swallow { left: chunk.size, times, words }));
    }

    fn fault(&mut self, fault: Fault) -> Step {
        let (refusal, reason) = fault.reasons();
        self.close_with(refusal, reason);
        Step::Again
    }

    fn no_recipients(&self) -> Refusal {
        if self.is_lmtp() { Refusal::NoRecipientsLmtp } else { Refusal::NoRecipients }
    }

    /// How many replies are due for what comes in now: one per recipient at the end of content under LMTP.
    pub(super) fn replies_due(&self) -> usize {
        match self.phase {
            Phase::Data | Phase::Chunk { last: true, .. } => self.times(true),
            _ => 1,
        }
    }

    fn times(&self, last: bool) -> usize {
        match &self.mailing {
            _ if !last || !self.is_lmtp() => 1,
            Mailing::Content(transfer) => transfer.recipients,
            Mailing::Open(transaction) => transaction.recipients.len().max(1),
            Mailing::None => 1,
        }
    }
}
