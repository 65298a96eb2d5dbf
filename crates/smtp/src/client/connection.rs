//! A connection from the greeting to QUIT: one phase after the other, with a time limit for each reply.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mail::{Domain, EnhancedCode, Protocol, Reply, TlsFacts};

use super::exchange::{Command, Exchange, Step};
use super::greeting::{self, Greeting};
use super::output::Output;
use super::security::{self, NoAuth, NoTls, Security};
use super::transaction::{Shortfall, Transaction, Unfit, Verdict};
use crate::extensions::Extensions;
use crate::params::Submitter;
use crate::reply::{ReplyError, ReplyReader};
use crate::sasl::Secret;

/// How long the peer may take (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For its greeting.
    pub greeting: Duration,
    /// To answer EHLO, HELO, LHLO, STARTTLS, RSET and each line of AUTH, and for the handshake of TLS.
    pub hello: Duration,
    /// To answer MAIL.
    pub mail: Duration,
    /// To answer RCPT.
    pub recipient: Duration,
    /// To answer DATA.
    pub data: Duration,
    /// To take some more of the content.
    pub block: Duration,
    /// To answer the whole content.
    pub end: Duration,
    /// To answer QUIT, on which nothing depends any more.
    pub quit: Duration,
    /// The slowest at which the peer may take content, in octets per second, beside `block`: without it a peer could
    /// keep a connection for ever.
    pub slowest: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            greeting: minutes(5),
            hello: minutes(5),
            mail: minutes(5),
            recipient: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end: minutes(10),
            quit: Duration::from_secs(5),
            slowest: 1024,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer awaits the handshake of TLS. Do it, then tell [`Connection::secured`]; what was received in clear and
    /// not yet given to the connection must be given to it, never to the handshake.
    StartTls,
    /// There is no TLS. [Go on in clear](Connection::go_on_in_clear) if the policy allows it, or [quit](Connection::quit).
    NoTls(NoTls),
    /// The peer lets us prove who we are by these mechanisms: begin with [`Connection::auth`], or quit.
    Authenticate(Vec<String>),
    /// The peer's next message: answer with [`Connection::auth_response`] or [`Connection::auth_abort`].
    AuthChallenge(Secret),
    /// The peer does not know who we are: quit.
    AuthFailed(NoAuth),
    /// The peer takes a transaction now; see [`Connection::offered`]. Told once, after all that comes before.
    Ready,
    /// At least one recipient was accepted: give the content with [`Connection::content`].
    SendContent,
    /// The transaction is over, with a verdict for each of its recipients. The next may begin, unless [`Event::Closed`]
    /// follows.
    Done(Vec<Verdict>),
    /// The connection is over. Nothing follows.
    Closed(Closed),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// We said goodbye.
    Quit,
    /// The peer refused to talk to us: its greeting, or its reply to EHLO, HELO or LHLO.
    Refused(Reply),
    /// The peer said 421: it goes away (RFC 5321 §3.8).
    GoneAway(Reply),
    /// The peer ended the connection, or the network did.
    Cut(&'static str),
    /// There is no TLS, and without it nothing goes.
    NoTls(NoTls),
    /// The peer took too long.
    TimedOut(&'static str),
    /// The peer did not keep to the protocol.
    Nonsense(String),
    /// The peer refused the content before it had all of it, or let DATA pass without a recipient.
    CutShort,
    /// The content could not be given as announced. That is nobody's fault but ours.
    Unfit(Unfit),
}

impl Closed {
    /// The reply to report: the peer's own where it gave one (then `true`), else one that says what happened.
    pub fn reply(&self) -> (Reply, bool) {
        let local = |text: String| (Reply::new(421, EnhancedCode::new(4, 4, 2), text), false);
        match self {
            Closed::Refused(reply) | Closed::GoneAway(reply) => (reply.clone(), true),
            Closed::NoTls(why) => why.reply(),
            Closed::Quit => local("the connection was closed".into()),
            Closed::Cut(during) => local(format!("the connection was lost {during}")),
            Closed::TimedOut(during) => local(format!("timed out {during}")),
            Closed::CutShort => local("the conversation ended early".into()),
            Closed::Nonsense(what) => {
                let text = format!("the next host does not speak the protocol: {what}");
                (Reply::new(451, EnhancedCode::new(4, 5, 0), text), false)
            }
            Closed::Unfit(unfit) => (unfit.reply(), false),
        }
    }
}

/// The client's end of one connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) protocol: Protocol,
    pub(super) name: Domain,
    timeouts: Timeouts,
    pub(super) security: Security,
    pub(super) tls: Option<TlsFacts>,
    pub(super) authenticated: bool,
    pub(super) phase: Phase,
    pub(super) reader: ReplyReader,
    pub(super) output: Output,
    pub(super) events: VecDeque<Event>,
    pub(super) offered: Extensions,
    deadline: Option<Instant>,
    /// When the content must have been sent at the latest.
    content_deadline: Option<Instant>,
    /// Whether the transaction before was left half done.
    reset: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    Greeting(Greeting),
    /// The driver does the handshake of TLS.
    Handshake,
    /// The driver decides what to do without TLS, for this reason, or without AUTH.
    Undecided(Option<NoTls>),
    /// The driver chooses a mechanism.
    Credentials,
    Auth(security::Exchange),
    Idle,
    Exchange(Box<Exchange>),
    Quit,
    Closed,
}

impl Connection {
    /// A connection that was just made, without wishes for security. `name` is what we call ourselves; the peer speaks
    /// first.
    pub fn new(protocol: Protocol, name: Domain, timeouts: Timeouts, now: Instant) -> Self {
        Self {
            protocol,
            name,
            timeouts,
            security: Security::default(),
            tls: None,
            authenticated: false,
            phase: Phase::Greeting(Greeting::Banner),
            reader: ReplyReader::default(),
            output: Output::default(),
            events: VecDeque::new(),
            offered: Extensions::default(),
            deadline: Some(now + timeouts.greeting),
            content_deadline: None,
            reset: false,
        }
    }

    /// What the peer offers; meaningful after [`Event::Ready`].
    pub fn offered(&self) -> &Extensions {
        &self.offered
    }

    /// What is to be written now. Tell with [`Connection::wrote`] how much was.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Everything that is to be written, in one copy and as if it were written now: for transports that take one buffer.
    pub fn take_output(&mut self, now: Instant) -> Bytes {
        let output = self.output.take();
        self.wrote(0, now);
        output
    }

    /// Whether a transaction may begin.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether nothing more will happen.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// When to call [`Connection::expire`]; nothing while the peer owes nothing.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What happened next, if anything did.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes bytes of the peer; leaves less than one line in `input`.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) {
        while !self.is_closed() {
            if matches!(self.phase, Phase::Handshake) {
                return self.await_handshake(input);
            }
            match self.reader.next(input) {
                Ok(Some(reply)) => self.reply(reply, now),
                Ok(None) => return,
                Err(error) => return self.speaks_nonsense(&error),
            }
        }
        input.clear();
    }

    /// Begins a transaction; its recipients' verdicts come with [`Event::Done`]. Refused if the peer cannot take it, or
    /// if the connection is not [idle](Connection::is_idle): then the verdicts say that the connection was lost.
    pub fn begin(&mut self, mut transaction: Transaction, now: Instant) -> Result<(), Shortfall> {
        transaction.check(&self.offered)?;
        if self.authenticated {
            // RFC 4954 §5: a relay that has authenticated says so of each message that is not its own.
            transaction.asks.submitter = Some(Submitter::Unknown);
        }
        let mut exchange = Exchange::new(transaction, self.offered.clone(), self.protocol, self.reset);
        if !self.is_idle() {
            self.events.push_back(Event::Done(exchange.into_verdicts(true)));
            return Ok(());
        }
        self.reset = false;
        exchange.send(&mut self.output);
        self.phase = Phase::Exchange(Box::new(exchange));
        self.restart_deadline(now);
        Ok(())
    }

    /// Gives the next piece of the content. Give it only while [`Connection::wants_content`], and write what waits before
    /// giving more, so that memory stays bounded.
    pub fn content(&mut self, piece: Bytes) {
        if let Phase::Exchange(exchange) = &mut self.phase
            && let Err(unfit) = exchange.content(piece, &mut self.output)
        {
            self.close(Closed::Unfit(unfit));
        }
    }

    /// The content is complete.
    pub fn finish_content(&mut self, now: Instant) {
        if let Phase::Exchange(exchange) = &mut self.phase {
            match exchange.finish_content(&mut self.output) {
                Ok(()) => self.restart_deadline(now),
                Err(unfit) => self.close(Closed::Unfit(unfit)),
            }
        }
    }

    /// The content cannot be given to its end. The connection ends without one more octet, so that the peer does not
    /// take what it has for the whole.
    pub fn abandon_content(&mut self) {
        self.close(Closed::Unfit(Unfit::Unreadable));
    }

    /// Whether content is still wanted: a peer may refuse it before it is complete.
    pub fn wants_content(&self) -> bool {
        matches!(&self.phase, Phase::Exchange(exchange) if exchange.is_sending())
    }

    /// Says goodbye, if the peer listens.
    pub fn quit(&mut self, now: Instant) {
        match self.phase {
            Phase::Closed | Phase::Quit => {}
            Phase::Idle | Phase::Undecided(_) | Phase::Credentials => {
                self.output.text(b"QUIT\r\n");
                self.phase = Phase::Quit;
                self.deadline = Some(now + self.timeouts.quit);
            }
            Phase::Greeting(_) | Phase::Handshake | Phase::Auth(_) | Phase::Exchange(_) => self.close(Closed::Quit),
        }
    }

    /// `written` octets of the output are on their way.
    pub fn wrote(&mut self, written: usize, now: Instant) {
        self.output.advance(written);
        if matches!(&self.phase, Phase::Exchange(exchange) if exchange.awaited().is_some_and(is_content)) {
            self.restart_deadline(now);
        }
    }

    /// The peer ended the connection, or it broke. Give what was received before that first.
    pub fn lost(&mut self) {
        match self.phase {
            Phase::Closed => {}
            Phase::Quit => self.close(Closed::Quit),
            _ => self.close(Closed::Cut(self.during())),
        }
    }

    /// The deadline may have passed.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            match self.phase {
                Phase::Quit => self.close(Closed::Quit),
                _ => self.close(Closed::TimedOut(self.during())),
            }
        }
    }

    fn reply(&mut self, reply: Reply, now: Instant) {
        // RFC 5321 §3.8: 421 may come as the reply to any command, and unasked.
        if reply.code() == 421 && !matches!(self.phase, Phase::Quit) {
            return self.close(Closed::GoneAway(reply));
        }
        match &mut self.phase {
            Phase::Greeting(Greeting::StartTls) => self.tls_replied(reply),
            Phase::Greeting(greeting) => {
                let step = greeting.reply(reply, self.protocol, &self.name, &mut self.output);
                self.greeting_step(step);
            }
            Phase::Exchange(exchange) => {
                let step = exchange.reply(reply, &mut self.output);
                self.exchange_step(step, now);
            }
            Phase::Auth(_) => self.auth_replied(reply, now),
            Phase::Idle | Phase::Handshake | Phase::Undecided(_) | Phase::Credentials => {
                return self.close(Closed::Nonsense("a reply that nothing had asked for".into()));
            }
            Phase::Quit => return self.close(Closed::Quit),
            Phase::Closed => {}
        }
        self.restart_deadline(now);
    }

    fn greeting_step(&mut self, step: greeting::Step) {
        match step {
            greeting::Step::Wait(next) => self.phase = Phase::Greeting(next),
            greeting::Step::Ready(offered) => self.introduced(*offered),
            greeting::Step::Refused(reply) => self.close(Closed::Refused(reply)),
        }
    }

    fn exchange_step(&mut self, step: Step, now: Instant) {
        match step {
            Step::Wait => {}
            Step::SendContent => {
                self.content_deadline = self.slowest_end(now);
                self.events.push_back(Event::SendContent);
            }
            Step::Done => {
                if let Phase::Exchange(exchange) = std::mem::replace(&mut self.phase, Phase::Idle) {
                    self.reset = exchange.needs_reset();
                    self.events.push_back(Event::Done(exchange.into_verdicts(false)));
                }
            }
            Step::Unexpected(what) => {
                if let Phase::Exchange(exchange) = &mut self.phase {
                    exchange.doubt();
                }
                self.close(Closed::Nonsense(what.into()));
            }
            Step::CutShort => self.close(Closed::CutShort),
        }
    }

    fn speaks_nonsense(&mut self, error: &ReplyError) {
        self.close(Closed::Nonsense(error.to_string()));
    }

    /// The one way to the end: the transaction gets its verdicts, nothing more is said.
    pub(super) fn close(&mut self, why: Closed) {
        if let Phase::Exchange(exchange) = std::mem::replace(&mut self.phase, Phase::Closed) {
            let gone = matches!(why, Closed::GoneAway(_));
            self.events.push_back(Event::Done(exchange.into_verdicts(gone)));
        }
        self.output.clear();
        self.deadline = None;
        self.events.push_back(Event::Closed(why));
    }

    /// The time limit for what is awaited now.
    pub(super) fn restart_deadline(&mut self, now: Instant) {
        let timeouts = &self.timeouts;
        self.deadline = match &self.phase {
            Phase::Greeting(Greeting::Banner) => Some(now + timeouts.greeting),
            Phase::Greeting(_) | Phase::Handshake => Some(now + timeouts.hello),
            Phase::Auth(_) if !self.awaits_driver() => Some(now + timeouts.hello),
            Phase::Exchange(exchange) => exchange.awaited().map(|command| match command {
                Command::Rset => now + timeouts.hello,
                Command::Mail => now + timeouts.mail,
                Command::Rcpt(_) => now + timeouts.recipient,
                Command::Data => now + timeouts.data,
                Command::Content(_) if exchange.is_sending() || !self.output.is_empty() => {
                    let block = now + timeouts.block;
                    self.content_deadline.map_or(block, |latest| block.min(latest))
                }
                Command::Content(_) | Command::LoneDot => now + timeouts.end,
            }),
            Phase::Quit => self.deadline,
            Phase::Auth(_) | Phase::Undecided(_) | Phase::Credentials => None,
            Phase::Idle | Phase::Closed => None,
        };
    }

    /// When a peer at the slowest bearable pace has the content.
    fn slowest_end(&self, now: Instant) -> Option<Instant> {
        let Phase::Exchange(exchange) = &self.phase else { return None };
        let seconds = exchange.size() / self.timeouts.slowest.max(1);
        now.checked_add(self.timeouts.block)?.checked_add(Duration::from_secs(seconds))
    }

    /// What the peer was to do, for people.
    fn during(&self) -> &'static str {
        match &self.phase {
            Phase::Greeting(Greeting::Banner) => "while waiting for the greeting",
            Phase::Greeting(Greeting::StartTls) => "while waiting for the reply to STARTTLS",
            Phase::Greeting(_) => "while waiting for the reply to EHLO, LHLO or HELO",
            Phase::Handshake => "during the handshake of TLS",
            Phase::Auth(_) => "while waiting for the reply to AUTH",
            Phase::Exchange(exchange) => match exchange.awaited() {
                Some(Command::Rset) => "while waiting for the reply to RSET",
                Some(Command::Mail) | None => "while waiting for the reply to MAIL",
                Some(Command::Rcpt(_)) => "while waiting for the reply to RCPT",
                Some(Command::Data) => "while waiting for the reply to DATA",
                Some(Command::Content(_)) if exchange.is_sending() || !self.output.is_empty() => {
                    "while sending the content"
                }
                Some(Command::Content(_)) => {
                    "while waiting for the reply to the content; the message may be delivered twice"
                }
                Some(Command::LoneDot) => "while ending a transaction without recipients",
            },
            Phase::Undecided(_) | Phase::Credentials => "before the first message",
            Phase::Idle => "between two messages",
            Phase::Quit | Phase::Closed => "after QUIT",
        }
    }
}

fn is_content(command: Command) -> bool {
    matches!(command, Command::Content(_))
}
