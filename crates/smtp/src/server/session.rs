//! The session: what its driver calls, and the loop that turns input into events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mail::{Recipient, Reply};

use super::early;
use super::event::{Abort, Answer, Event, Sender, Transaction};
use super::limits::{Config, Limits};
use super::line::{Line, LineReader};
use super::output::Output;
use super::peer::{Dialect, Hello, Peer};
use super::reason::{CloseReason, Refusal};
use super::security::Security;
use super::tally::{Patience, Tally};
use super::timer::Timer;
use super::transfer::{Start, Swallow, Transfer};

/// One SMTP or LMTP connection, seen from the server.
pub struct Session {
    pub(super) config: Arc<Config>,
    pub(super) peer: Peer,
    pub(super) hello: Option<Hello>,
    pub(super) phase: Phase,
    pub(super) mailing: Mailing,
    pub(super) input: BytesMut,
    pub(super) output: Output,
    pub(super) events: VecDeque<Event>,
    pub(super) timer: Timer,
    pub(super) tally: Tally,
    pub(super) security: Security,
    pub(super) lines: LineReader,
    draining: bool,
}

/// Without the input, which may be a password.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (&self.peer, &self.hello, &self.phase, &self.security);
        f.debug_tuple("Session").field(&shown).finish_non_exhaustive()
    }
}

/// What the session does next.
#[derive(Debug)]
pub(super) enum Phase {
    /// The greeting has not been taken; it becomes due at the instant, if there is one.
    Greeting(Option<Instant>),
    /// Reads command lines.
    Command,
    /// Waits for an answer.
    Asked(Question),
    /// Will say that TLS may start.
    StartTls,
    /// Has said so, and waits for the driver.
    Handshake,
    /// Reads the client's answer to a challenge; to the last one, if this account is proven already.
    Response(Option<String>),
    /// Reads the content of DATA.
    Data,
    /// Reads a chunk of BDAT.
    Chunk { left: u64, last: bool },
    /// Reads octets that were announced and are not wanted.
    Swallow(Swallow),
    /// Over.
    Closed,
}

/// What was asked, and what a yes needs.
#[derive(Debug)]
pub(super) enum Question {
    Xclient(Box<Peer>),
    Mail(Sender),
    Recipient(Recipient),
    Begin(Start),
    Auth,
    /// With how many replies there must be.
    End(usize),
}

/// The transaction, if there is one.
#[derive(Debug)]
pub(super) enum Mailing {
    None,
    /// MAIL was accepted.
    Open(Transaction),
    /// Content has begun.
    Content(Box<Transfer>),
}

/// Whether the loop goes on.
pub(super) enum Step {
    Again,
    Wait,
    Emit(Event),
}

impl Session {
    /// A session with a peer that has just connected. The greeting is due at once or after the configured pause; what
    /// arrives before it was taken by [`take_output`](Self::take_output) came too early.
    pub fn new(config: Arc<Config>, peer: Peer, now: Instant) -> Self {
        let pause = config.limits.greeting_pause;
        let mut session = Self {
            phase: Phase::Greeting(now.checked_add(pause).filter(|_| !pause.is_zero())),
            config,
            peer,
            hello: None,
            mailing: Mailing::None,
            input: BytesMut::new(),
            output: Output::default(),
            events: VecDeque::new(),
            timer: Timer::new(now),
            tally: Tally::default(),
            security: Security::default(),
            lines: LineReader::default(),
            draining: false,
        };
        if matches!(session.phase, Phase::Greeting(None)) {
            session.greet();
        }
        session
    }

    /// The peer, as XCLIENT may have changed it.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the client said to begin with.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The open transaction, until its end hands it out.
    pub fn transaction(&self) -> Option<&Transaction> {
        match &self.mailing {
            Mailing::None => None,
            Mailing::Open(transaction) => Some(transaction),
            Mailing::Content(transfer) => transfer.transaction(),
        }
    }

    /// Moves in as much of `input` as the session may hold. Without copying if it holds nothing or what follows
    /// directly in the same buffer.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) {
        match self.phase {
            Phase::Closed => return input.clear(),
            Phase::StartTls | Phase::Handshake if !input.is_empty() => {
                input.clear();
                return self.injected();
            }
            _ => {}
        }
        let taken = input.len().min(self.capacity().saturating_sub(self.input.len()));
        if taken == 0 {
            return;
        }
        self.timer.input(taken, now);
        let piece = input.split_to(taken);
        if self.input.is_empty() {
            self.input = piece;
        } else {
            self.input.unsplit(piece);
        }
        if matches!(self.phase, Phase::Greeting(_)) {
            self.early();
        }
    }

    /// The next event. `None`: the session needs input, an answer or time; output may be waiting.
    pub fn next_event(&mut self, now: Instant) -> Option<Event> {
        self.output.release(now);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.output.held_until().is_some() {
                return None;
            }
            let step = match &mut self.phase {
                Phase::Greeting(_) => Step::Wait,
                Phase::Command => self.read_command(now),
                Phase::Data => self.read_data(now),
                Phase::Chunk { .. } => self.read_chunk(now),
                Phase::Swallow(_) => self.swallow(now),
                Phase::Response(_) => self.read_response(now),
                Phase::Asked(_) | Phase::StartTls | Phase::Handshake | Phase::Closed => return None,
            };
            match step {
                Step::Again => {}
                Step::Emit(event) => return Some(event),
                Step::Wait => {
                    // An idle session must not hold on to the buffer of its last message.
                    if self.input.is_empty() && self.input.capacity() > 0 {
                        self.input = BytesMut::new();
                    }
                    self.timer.wait(now);
                    return None;
                }
            }
        }
    }

    /// Answers the question that [`next_event`](Self::next_event) gave last. Without a question it does nothing.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Asked(question) => {
                self.timer.command();
                self.answered(question, answer, now);
            }
            other => self.phase = other,
        }
    }

    /// What is to be written and flushed now.
    pub fn take_output(&mut self) -> BytesMut {
        match self.phase {
            Phase::Greeting(None) => self.phase = Phase::Command,
            Phase::StartTls => {
                self.output.say("220 2.0.0 ready for TLS");
                self.phase = Phase::Handshake;
            }
            _ => {}
        }
        self.output.take()
    }

    /// Whether the session takes input. While it does not, leave it in the socket: that slows the peer down.
    pub fn wants_input(&self) -> bool {
        let reads = !matches!(self.phase, Phase::Asked(_) | Phase::StartTls | Phase::Handshake | Phase::Closed);
        reads && self.output.held_until().is_none() && self.events.is_empty() && self.input.len() < self.capacity()
    }

    /// When [`expire`](Self::expire) is to be called unless something happens before; `None` during a question and a
    /// handshake.
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(held) = self.output.held_until() {
            return Some(held);
        }
        match self.phase {
            Phase::Greeting(Some(due)) => Some(due),
            Phase::Asked(_) | Phase::StartTls | Phase::Handshake | Phase::Closed => None,
            _ => self.timer.deadline(&self.config.limits).map(|(at, _)| at),
        }
    }

    /// Lets go what was held back until `now`, greets, or ends the session because its peer was too slow.
    pub fn expire(&mut self, now: Instant) {
        if self.output.held_until().is_some() {
            return self.output.release(now);
        }
        match self.phase {
            Phase::Asked(_) | Phase::StartTls | Phase::Handshake | Phase::Closed => {}
            Phase::Greeting(Some(due)) => {
                if due <= now {
                    self.phase = Phase::Greeting(None);
                    self.greet();
                }
            }
            _ => {
                if let Some((_, reason)) = self.timer.deadline(&self.config.limits).filter(|(at, _)| *at <= now) {
                    // RFC 5321 §3.8: 421 before the connection is closed by the server.
                    self.close_with(Refusal::Timeout, reason);
                }
            }
        }
    }

    /// The peer has closed the connection, or it broke. A question stays open: answer it, or drop the session.
    pub fn disconnected(&mut self) {
        if !matches!(self.phase, Phase::Closed) {
            self.output.clear();
            self.close(CloseReason::Disconnected);
        }
    }

    /// Ends the session with this reply; before the greeting was taken, instead of it (RFC 5321 §3.1).
    pub fn refuse(&mut self, reply: &Reply) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        if matches!(self.phase, Phase::Greeting(_)) {
            self.output.clear();
        }
        self.output.reply(reply);
        self.close(CloseReason::Refused);
    }

    /// The server shuts down: the session ends as soon as no transaction is open.
    pub fn drain(&mut self) {
        self.draining = true;
        match self.phase {
            Phase::Greeting(_) => {
                self.output.clear();
                self.close_with(Refusal::Shutdown, CloseReason::Shutdown);
            }
            Phase::Command | Phase::Response(_) if matches!(self.mailing, Mailing::None) => {
                self.close_with(Refusal::Shutdown, CloseReason::Shutdown);
            }
            _ => {}
        }
    }

    /// Whether the session is over; what [`take_output`](Self::take_output) still gives is to be written.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn read_command(&mut self, now: Instant) -> Step {
        if self.draining && matches!(self.mailing, Mailing::None) {
            self.close_with(Refusal::Shutdown, CloseReason::Shutdown);
            return Step::Again;
        }
        if self.stranger() {
            return Step::Again;
        }
        let config = &self.config;
        match self.lines.take(&mut self.input, &config.limits, config.endings) {
            Line::Partial => return Step::Wait,
            Line::Command(line) => {
                self.timer.command();
                self.command(&line, now);
            }
            Line::Overlong => {
                self.timer.command();
                self.refuse_for(Refusal::CommandLine, now);
            }
            Line::OverlongAuth => {
                self.timer.command();
                self.refuse_for(Refusal::AuthLine, now);
            }
            Line::Endless => {
                self.close_with(Refusal::CommandLine, CloseReason::Discard);
            }
            Line::Fault(fault) => {
                let (refusal, reason) = fault.reasons();
                self.close_with(refusal, reason);
            }
        }
        Step::Again
    }

    /// Sends away what does not speak SMTP.
    fn stranger(&mut self) -> bool {
        match early::stranger(&self.input) {
            None => return false,
            Some(CloseReason::Proxy) => self.close_with(Refusal::Proxy, CloseReason::Proxy),
            // No word to an HTTP or TLS client: it would not understand, and a browser might show it.
            Some(reason) => self.close(reason),
        }
        true
    }

    /// Something came before the greeting.
    fn early(&mut self) {
        self.output.clear();
        if !self.stranger() {
            self.close_with(Refusal::EarlyTalk, CloseReason::EarlyTalk);
        }
    }

    pub(super) fn greet(&mut self) {
        // RFC 5321 §4.2: the name, and ESMTP for old clients that look for it.
        let protocol = match self.config.protocol {
            mail::Protocol::Smtp => "ESMTP",
            mail::Protocol::Lmtp => "LMTP",
        };
        let greeting = format!("220 {} {protocol} Postrider", self.config.hostname);
        self.output.say(&greeting);
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Whether the client may send commands in groups: only after EHLO or LHLO has told it so.
    pub(super) fn pipelines(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.dialect != Dialect::Smtp)
    }

    pub(super) fn is_lmtp(&self) -> bool {
        self.config.protocol == mail::Protocol::Lmtp
    }

    pub(super) fn ask(&mut self, question: Question, event: Event) {
        self.phase = Phase::Asked(question);
        self.events.push_back(event);
    }

    /// Refuses a command, and goes on.
    pub(super) fn refuse_for(&mut self, refusal: Refusal, now: Instant) {
        self.refuse_times(refusal, 1, now);
    }

    /// Refuses a command with as many replies as it has recipients (RFC 2033 §4.2).
    pub(super) fn refuse_times(&mut self, refusal: Refusal, times: usize, now: Instant) {
        self.events.push_back(Event::Refused(refusal));
        for _ in 0..times {
            self.output.say(refusal.line());
        }
        if refusal.line().starts_with('5') {
            self.error(now);
        }
    }

    /// Says no in the driver's words. 421 closes (RFC 5321 §3.8).
    pub(super) fn negative(&mut self, reply: &Reply, now: Instant) {
        self.output.reply(reply);
        self.consequences(reply, now);
    }

    /// What a negative reply, which is written already, leads to.
    pub(super) fn consequences(&mut self, reply: &Reply, now: Instant) {
        if reply.code() == 421 {
            self.close(CloseReason::Refused);
        } else if reply.is_permanent() {
            self.error(now);
        }
    }

    fn error(&mut self, now: Instant) {
        match self.tally.error(&self.config.limits) {
            Patience::Delay(delay) if delay.is_zero() => {}
            Patience::Delay(delay) => {
                self.output.hold(now.checked_add(delay));
                self.timer.pause(now);
            }
            Patience::Over => self.close_with(Refusal::Errors, CloseReason::Errors),
        }
    }

    /// Drops the transaction, if there is one.
    pub(super) fn abort(&mut self, why: Abort) {
        let transaction = match std::mem::replace(&mut self.mailing, Mailing::None) {
            Mailing::None => None,
            Mailing::Open(transaction) => Some(transaction),
            Mailing::Content(transfer) => transfer.into_transaction(),
        };
        if let Some(transaction) = transaction {
            self.events.push_back(Event::Abort { transaction: Box::new(transaction), why });
        }
    }

    /// Ends the session with the reply of a refusal. Where one reply per recipient is due, each gets it.
    pub(super) fn close_with(&mut self, refusal: Refusal, reason: CloseReason) {
        self.events.push_back(Event::Refused(refusal));
        for _ in 0..self.replies_due() {
            self.output.say(refusal.line());
        }
        self.close(reason);
    }

    /// Ends the session.
    pub(super) fn close(&mut self, reason: CloseReason) {
        self.abort(Abort::Close(reason));
        self.phase = Phase::Closed;
        self.input = BytesMut::new();
        self.output.hold(None);
        self.events.push_back(Event::Close(reason));
    }

    /// The buffer for input; the longest command line fits.
    fn capacity(&self) -> usize {
        let limits = &self.config.limits;
        limits.input.max(Limits::LEAST_INPUT).max(limits.command_line.saturating_add(1))
    }
}
