//! What the commands do, and what the driver's answers lead to.

use std::time::Instant;

use mail::{AddressError, EnhancedCode, Reply, Utf8};

use super::event::{Abort, Answer, Event, Sender, Transaction};
use super::peer::{Dialect, Hello};
use super::reason::{CloseReason, Refusal};
use super::session::{Mailing, Phase, Question, Session};
use super::xclient;
use crate::commands::{self, ArgumentError, Verb};
use crate::extensions::{Extensions, OfferedLimits, SizeOffer};
use crate::params::ParameterError;

impl Session {
    /// Runs one command line.
    pub(super) fn command(&mut self, line: &[u8], now: Instant) {
        let (verb, argument) = Verb::take(line);
        if verb == Some(Verb::StartTls) && self.may_start_tls() && !self.input.is_empty() {
            return self.injected();
        }
        if !self.may_stand_here(verb) {
            return self.close_with(Refusal::Pipelining, CloseReason::Pipelining);
        }
        if self.tally.command(&self.config.limits) {
            return self.close_with(Refusal::Commands, CloseReason::Commands);
        }
        let Some(verb) = verb else { return self.refuse_for(Refusal::UnknownCommand, now) };
        if self.needs_tls_first(verb) {
            return self.refuse_for(Refusal::TlsFirst, now);
        }
        let Ok(argument) = std::str::from_utf8(argument) else {
            return match verb {
                Verb::Bdat => self.close_with(Refusal::ChunkSize, CloseReason::ChunkSize),
                _ => self.refuse_for(Refusal::Argument, now),
            };
        };
        match verb {
            Verb::Mail => self.mail(argument, now),
            Verb::Rcpt => self.rcpt(argument, now),
            Verb::Data => self.data(argument, now),
            Verb::Bdat => self.bdat(argument),
            Verb::Quit => self.quit(argument, now),
            _ => self.other(verb, argument, now),
        }
    }

    /// RFC 2920 §3.1: what may be followed by more before it is answered. BDAT brings its chunk along in any case.
    fn may_stand_here(&self, verb: Option<Verb>) -> bool {
        self.input.is_empty() || verb == Some(Verb::Bdat) || (self.pipelines() && verb.is_some_and(Verb::may_lead))
    }

    /// The commands that bring no mail on its way.
    fn other(&mut self, verb: Verb, argument: &str, now: Instant) {
        if self.tally.junk(&self.config.limits) {
            return self.close_with(Refusal::Junk, CloseReason::Junk);
        }
        match verb {
            Verb::Ehlo => self.greeted(Dialect::Esmtp, argument, now),
            Verb::Helo => self.greeted(Dialect::Smtp, argument, now),
            Verb::Lhlo => self.greeted(Dialect::Lmtp, argument, now),
            Verb::Rset if argument.is_empty() => {
                self.abort(Abort::Client);
                self.output.say("250 2.0.0 forgotten");
            }
            Verb::Noop => self.output.say("250 2.0.0 ok"),
            // RFC 5321 §7.3: VRFY tells nothing that could be harvested.
            Verb::Vrfy if !argument.is_empty() => self.output.say("252 2.5.2 not verified; send the mail and see"),
            Verb::Help => {
                self.output.say("214-2.0.0 MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT STARTTLS AUTH");
                self.output.say("214 2.0.0 This is Postrider; RFC 5321 explains the rest");
            }
            Verb::StartTls => self.start_tls(argument, now),
            Verb::Auth => self.auth(argument, now),
            Verb::Xclient => self.xclient(argument, now),
            Verb::NotOffered => self.refuse_for(Refusal::NotImplemented, now),
            _ => self.refuse_for(Refusal::Argument, now),
        }
    }

    fn greeted(&mut self, dialect: Dialect, argument: &str, now: Instant) {
        if self.is_lmtp() != (dialect == Dialect::Lmtp) {
            let refusal = if self.is_lmtp() { Refusal::HelloOfLmtp } else { Refusal::HelloOfSmtp };
            return self.refuse_for(refusal, now);
        }
        let Ok(name) = commands::hello(argument) else { return self.refuse_for(Refusal::HelloName, now) };
        // RFC 5321 §4.1.4: a new EHLO clears the state as RSET does.
        self.abort(Abort::Client);
        let name = self.peer.hello.clone().unwrap_or_else(|| name.to_owned());
        let hello = Hello { name, dialect };
        self.events.push_back(Event::Hello(hello.clone()));
        self.hello = Some(hello);
        let hostname = self.config.hostname.as_str();
        match dialect {
            Dialect::Smtp => self.output.say(&format!("250 {hostname}")),
            Dialect::Esmtp | Dialect::Lmtp => self.output.offer(hostname, &self.offered(now)),
        }
    }

    fn offered(&self, now: Instant) -> Extensions {
        let limits = &self.config.limits;
        let mut offered = Extensions {
            pipelining: true,
            size: Some(SizeOffer::Limit(limits.message)),
            eight_bit_mime: true,
            utf8: true,
            enhanced_status_codes: true,
            dsn: true,
            chunking: true,
            binary_mime: true,
            limits: Some(OfferedLimits {
                transactions: Some(limits.transactions),
                recipients: Some(limits.recipients),
                domains: None,
            }),
            xclient: self.peer.may_xclient,
            ..Extensions::default()
        };
        self.offer_security(&mut offered, now);
        offered
    }

    fn mail(&mut self, argument: &str, now: Instant) {
        let Some(hello) = &self.hello else { return self.refuse_for(Refusal::HelloFirst, now) };
        let plain = hello.dialect == Dialect::Smtp;
        match self.mailing {
            Mailing::None => {}
            Mailing::Open(_) => return self.refuse_for(Refusal::NestedMail, now),
            Mailing::Content(_) => return self.refuse_for(Refusal::ChunksBegun, now),
        }
        if self.lacks_account() {
            return self.refuse_for(Refusal::AuthFirst, now);
        }
        let (path, mut parameters) = match commands::mail(argument) {
            Ok(read) => read,
            Err(error) => {
                return self.refuse_for(argument_refusal(error, Refusal::ReversePath, Refusal::SenderNeedsUtf8), now);
            }
        };
        if plain && parameters != Default::default() {
            return self.refuse_for(Refusal::ParameterWithoutEhlo, now);
        }
        if let Err(refusal) = self.requests(&mut parameters, now) {
            return self.refuse_for(refusal, now);
        }
        // RFC 1870 §6.1: what is declared too big need not be sent.
        if parameters.size.is_some_and(|size| size > self.limits().message) {
            return self.refuse_for(Refusal::MessageSize, now);
        }
        if self.tally.transaction(&self.config.limits) {
            return self.close_with(Refusal::Transactions, CloseReason::Transactions);
        }
        let sender = Sender { path, parameters };
        self.ask(Question::Mail(sender.clone()), Event::Mail(sender));
    }

    fn rcpt(&mut self, argument: &str, now: Instant) {
        let transaction = match &self.mailing {
            Mailing::None => return self.refuse_for(self.first_things_first(), now),
            Mailing::Content(_) => return self.refuse_for(Refusal::ChunksBegun, now),
            Mailing::Open(transaction) => transaction,
        };
        let utf8 = if transaction.sender.parameters.utf8 { Utf8::Allowed } else { Utf8::Refused };
        let full = transaction.recipients.len() >= self.limits().recipients as usize;
        let recipient = match commands::rcpt(argument, utf8) {
            Ok(recipient) => recipient,
            Err(error) => {
                return self
                    .refuse_for(argument_refusal(error, Refusal::ForwardPath, Refusal::RecipientNeedsUtf8), now);
            }
        };
        if !self.pipelines() && (recipient.orcpt.is_some() || recipient.notify != Default::default()) {
            return self.refuse_for(Refusal::ParameterWithoutEhlo, now);
        }
        // RFC 5321 §4.5.3.1.10: transient, so that the client sends to the rest in a transaction of their own.
        if full {
            return self.refuse_for(Refusal::TooManyRecipients, now);
        }
        self.ask(Question::Recipient(recipient.clone()), Event::Recipient(recipient));
    }

    fn quit(&mut self, argument: &str, now: Instant) {
        if !argument.is_empty() {
            return self.refuse_for(Refusal::Argument, now);
        }
        self.output.say("221 2.0.0 goodbye");
        self.abort(Abort::Client);
        self.close(CloseReason::Quit);
    }

    fn xclient(&mut self, argument: &str, now: Instant) {
        if !self.peer.may_xclient {
            return self.refuse_for(Refusal::Xclient, now);
        }
        if !matches!(self.mailing, Mailing::None) {
            return self.refuse_for(Refusal::XclientInTransaction, now);
        }
        match xclient::apply(&self.peer, argument) {
            Ok(peer) => self.ask(Question::Xclient(Box::new(peer.clone())), Event::Xclient(Box::new(peer))),
            Err(refusal) => self.refuse_for(refusal, now),
        }
    }

    /// What is missing before a transaction.
    pub(super) fn first_things_first(&self) -> Refusal {
        match self.hello {
            _ if self.lacks_tls() => Refusal::TlsFirst,
            None => Refusal::HelloFirst,
            Some(_) if self.lacks_account() => Refusal::AuthFirst,
            Some(_) => Refusal::MailFirst,
        }
    }

    /// Does what an answer allows. The phase is [`Phase::Command`] already.
    pub(super) fn answered(&mut self, question: Question, answer: Answer, now: Instant) {
        let question = match question {
            Question::End(replies) => return self.committed(replies, answer, now),
            Question::Auth => return self.auth_answered(answer, now),
            question => question,
        };
        let (yes, reply) = verdict(answer);
        match question {
            Question::Begin(start) => self.begin(start, reply.filter(|_| !yes), now),
            Question::Xclient(peer) if yes => {
                self.peer = *peer;
                self.hello = None;
                self.speaks_for_another();
                self.greet();
            }
            Question::Xclient(_) => {
                reply.iter().for_each(|reply| self.output.reply(reply));
                self.close(CloseReason::Refused);
            }
            Question::Mail(sender) if yes => {
                self.mailing = Mailing::Open(Transaction { sender, recipients: Vec::new() });
                self.positive(reply, "250 2.1.0 sender ok");
            }
            Question::Recipient(recipient) if yes => {
                if let Mailing::Open(transaction) = &mut self.mailing {
                    transaction.recipients.push(recipient);
                }
                self.positive(reply, "250 2.1.5 recipient ok");
            }
            Question::Mail(_) | Question::Recipient(_) | Question::Auth | Question::End(_) => {
                reply.iter().for_each(|reply| self.negative(reply, now));
            }
        }
    }

    fn positive(&mut self, reply: Option<Reply>, line: &str) {
        match reply {
            Some(reply) => self.output.reply(&reply),
            None => self.output.say(line),
        }
    }

    /// Leaves the phase of the answer for one that reads.
    pub(super) fn read(&mut self, phase: Phase) {
        self.timer.content();
        self.phase = phase;
    }
}

/// Whether the answer is yes, and in which words. A no always has words.
fn verdict(answer: Answer) -> (bool, Option<Reply>) {
    match answer {
        Answer::Accept => (true, None),
        Answer::Reply(reply) => (reply.is_positive() || reply.is_intermediate(), Some(reply)),
        Answer::Each(replies) => match replies.into_iter().next() {
            Some(reply) => verdict(Answer::Reply(reply)),
            None => (true, None),
        },
        Answer::Challenge(_) | Answer::Authenticated { .. } => {
            (false, Some(Reply::new(451, EnhancedCode::new(4, 3, 0), "internal error, try again")))
        }
    }
}

fn argument_refusal(error: ArgumentError, path: Refusal, utf8: Refusal) -> Refusal {
    match error {
        ArgumentError::Syntax => Refusal::Argument,
        ArgumentError::Path(AddressError::NeedsUtf8) => utf8,
        ArgumentError::Path(_) => path,
        ArgumentError::Parameter(ParameterError::Unknown) => Refusal::UnknownParameter,
        ArgumentError::Parameter(ParameterError::Malformed) => Refusal::Parameter,
    }
}
