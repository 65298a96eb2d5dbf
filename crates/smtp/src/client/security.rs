//! What comes between the answer to EHLO and the first transaction: STARTTLS (RFC 3207) and AUTH (RFC 4954).
//!
//! The connection asks its driver, who knows the policy and has the keys, and waits. Nothing that the peer said in clear
//! is carried into TLS: what it offers is asked for again, and words that came behind its consent are the end. An account
//! is proven inside TLS only.

use std::time::Instant;

use bytes::BytesMut;
use mail::{EnhancedCode, Reply, TlsFacts, reply::MAX_TEXT};

use super::connection::{Closed, Connection, Event, Phase};
use super::greeting::Greeting;
use crate::extensions::Extensions;
use crate::reply::ReplyReader;
use crate::sasl::{self, Secret};

/// The most challenges of one exchange; no mechanism that we know has more than three.
const MAX_CHALLENGES: u32 = 16;

/// What a connection must have before it takes mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Whether STARTTLS is wanted.
    pub tls: Tls,
    /// Whether the driver has credentials to give.
    pub credentials: bool,
}

/// Whether STARTTLS is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// It is not asked for.
    #[default]
    Never,
    /// It is asked for; without it the driver may [go on in clear](Connection::go_on_in_clear).
    Opportunistic,
    /// It is asked for; without it the connection can only be closed.
    Required,
}

/// Why there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTls {
    /// The peer does not offer STARTTLS.
    NotOffered,
    /// It offers STARTTLS and refuses it.
    Refused(Reply),
}

impl NoTls {
    /// The reply to report: the peer's own where it gave one (then `true`), else one that says what happened.
    pub fn reply(&self) -> (Reply, bool) {
        match self {
            NoTls::Refused(reply) if !reply.is_positive() => (reply.clone(), true),
            NoTls::NotOffered | NoTls::Refused(_) => {
                (Reply::new(450, EnhancedCode::new(4, 7, 10), "the next host does not offer STARTTLS"), false)
            }
        }
    }
}

/// Why the peer does not know who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAuth {
    /// The line is in clear: what we would have to say is not for all to hear.
    InClear,
    /// The peer does not offer AUTH.
    NotOffered,
    /// The peer refused it.
    Refused(Reply),
    /// The driver gave up, or the peer's challenge was none.
    Cancelled,
}

impl NoAuth {
    /// The reply to report: the peer's own where it gave one (then `true`), else one that says what happened.
    pub fn reply(&self) -> (Reply, bool) {
        let local = |text| (Reply::new(454, EnhancedCode::new(4, 7, 0), text), false);
        match self {
            NoAuth::Refused(reply) => (reply.clone(), true),
            NoAuth::InClear => local("the next host wants authentication, and the line is not encrypted"),
            NoAuth::NotOffered => local("the next host does not offer AUTH"),
            NoAuth::Cancelled => local("authentication with the next host was cancelled"),
        }
    }
}

/// An exchange of AUTH.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    challenges: u32,
    /// Whether the driver owes an answer.
    asked: bool,
    cancelled: bool,
}

impl Connection {
    /// The same with these wishes.
    pub fn with_security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// TLS began with the connection (RFC 8314 §3.3). Tell before the greeting.
    pub fn secured_from_start(&mut self, facts: TlsFacts) {
        if matches!(self.phase, Phase::Greeting(Greeting::Banner)) {
            self.tls = Some(facts);
        }
    }

    /// The handshake after [`Event::StartTls`] is done. What was said in clear is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self, facts: TlsFacts, now: Instant) {
        if !matches!(self.phase, Phase::Handshake) {
            return;
        }
        self.tls = Some(facts);
        self.reader = ReplyReader::default();
        self.offered = Extensions::default();
        self.phase = Phase::Greeting(Greeting::introduce(self.protocol, &self.name, &mut self.output));
        self.restart_deadline(now);
    }

    /// After [`Event::NoTls`]: goes on without, unless TLS is [required](Tls::Required).
    pub fn go_on_in_clear(&mut self, now: Instant) {
        if let Phase::Undecided(Some(why)) = &self.phase {
            match self.security.tls {
                Tls::Required => self.close(Closed::NoTls(why.clone())),
                Tls::Never | Tls::Opportunistic => self.identify(),
            }
            self.restart_deadline(now);
        }
    }

    /// After [`Event::Authenticate`]: begins with this mechanism. An initial response is given where the mechanism has one.
    pub fn auth(&mut self, mechanism: &str, initial: Option<&[u8]>, now: Instant) {
        if !matches!(self.phase, Phase::Credentials) {
            return;
        }
        if !sasl::is_mechanism(mechanism) {
            return self.not_authenticated(NoAuth::Cancelled);
        }
        self.output.text(format!("AUTH {mechanism}").as_bytes());
        match initial {
            None => {}
            Some([]) => self.output.text(b" ="),
            Some(initial) => {
                self.output.text(b" ");
                self.output.text(sasl::encode(initial).as_bytes());
            }
        }
        self.output.text(b"\r\n");
        self.phase = Phase::Auth(Exchange::default());
        self.restart_deadline(now);
    }

    /// After [`Event::AuthChallenge`]: the answer to it.
    pub fn auth_response(&mut self, message: &[u8], now: Instant) {
        self.respond(sasl::encode(message).as_bytes(), now);
    }

    /// After [`Event::AuthChallenge`]: gives up; [`Event::AuthFailed`] follows when the peer has heard it.
    pub fn auth_abort(&mut self, now: Instant) {
        self.respond(b"*", now);
        self.cancel();
    }

    /// The facts of TLS, once the line is secured.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    /// Whether the peer has accepted our credentials.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// The peer has told what it offers.
    pub(super) fn introduced(&mut self, offered: Extensions) {
        self.offered = offered;
        if self.tls.is_some() || self.security.tls == Tls::Never {
            return self.identify();
        }
        if !self.offered.starttls {
            return self.without_tls(NoTls::NotOffered);
        }
        self.output.text(b"STARTTLS\r\n");
        self.phase = Phase::Greeting(Greeting::StartTls);
    }

    /// The reply to STARTTLS.
    pub(super) fn tls_replied(&mut self, reply: Reply) {
        match reply.code() {
            220 => self.phase = Phase::Handshake,
            _ => self.without_tls(NoTls::Refused(reply)),
        }
    }

    /// The peer has agreed to TLS; `input` is what it said behind that. Whoever sits on the line may have put it there,
    /// to be taken for words from inside TLS.
    pub(super) fn await_handshake(&mut self, input: &mut BytesMut) {
        if input.is_empty() {
            return self.events.push_back(Event::StartTls);
        }
        input.clear();
        self.close(Closed::Nonsense("words in clear behind the consent to STARTTLS".into()));
    }

    /// A reply inside an exchange of AUTH.
    pub(super) fn auth_replied(&mut self, reply: Reply, now: Instant) {
        let Phase::Auth(exchange) = &mut self.phase else { return };
        if exchange.asked || (reply.is_intermediate() && exchange.cancelled) {
            return self.close(Closed::Nonsense("a reply out of turn to AUTH".into()));
        }
        if reply.is_intermediate() {
            exchange.challenges += 1;
            exchange.asked = true;
            return match challenge(&reply).filter(|_| exchange.challenges <= MAX_CHALLENGES) {
                Some(message) => self.events.push_back(Event::AuthChallenge(message)),
                None => self.auth_abort(now),
            };
        }
        match (reply.is_positive(), exchange.cancelled) {
            (true, false) => {
                self.authenticated = true;
                self.ready();
            }
            (true, true) => self.close(Closed::Nonsense("a yes to an AUTH that was cancelled".into())),
            (false, true) => self.not_authenticated(NoAuth::Cancelled),
            (false, false) => self.not_authenticated(NoAuth::Refused(reply)),
        }
    }

    /// Whether the driver is to decide something.
    pub(super) fn awaits_driver(&self) -> bool {
        match &self.phase {
            Phase::Handshake | Phase::Undecided(_) | Phase::Credentials => true,
            Phase::Auth(exchange) => exchange.asked,
            _ => false,
        }
    }

    fn respond(&mut self, line: &[u8], now: Instant) {
        if let Phase::Auth(exchange) = &mut self.phase
            && std::mem::take(&mut exchange.asked)
        {
            self.output.text(line);
            self.output.text(b"\r\n");
            self.restart_deadline(now);
        }
    }

    fn cancel(&mut self) {
        if let Phase::Auth(exchange) = &mut self.phase {
            exchange.cancelled = true;
        }
    }

    fn without_tls(&mut self, why: NoTls) {
        self.phase = Phase::Undecided(Some(why.clone()));
        self.events.push_back(Event::NoTls(why));
    }

    /// The line is as it will be; who we are comes next, if that is to be told.
    fn identify(&mut self) {
        // RFC 8689 §2: it is offered inside TLS, or it is not offered.
        self.offered.require_tls &= self.tls.is_some();
        if !self.security.credentials {
            self.ready();
        } else if self.tls.is_none() {
            self.not_authenticated(NoAuth::InClear);
        } else if self.offered.auth.is_empty() {
            self.not_authenticated(NoAuth::NotOffered);
        } else {
            self.phase = Phase::Credentials;
            self.events.push_back(Event::Authenticate(self.offered.auth.clone()));
        }
    }

    fn not_authenticated(&mut self, why: NoAuth) {
        self.phase = Phase::Undecided(None);
        self.events.push_back(Event::AuthFailed(why));
    }

    fn ready(&mut self) {
        self.phase = Phase::Idle;
        self.events.push_back(Event::Ready);
    }
}

/// The message of a challenge; one that was cut, for it was longer than replies are kept, is none.
fn challenge(reply: &Reply) -> Option<Secret> {
    let mut lines = reply.lines();
    let only = lines.next().filter(|line| lines.len() == 0 && line.len() < MAX_TEXT)?;
    sasl::decode(only.as_bytes()).ok()
}
