//! Who is at the other end, and over what line: STARTTLS (RFC 3207) and AUTH (RFC 4954).
//!
//! What was learned in clear is not carried into TLS, and an account lasts as long as its session: STARTTLS, and XCLIENT,
//! by which the client speaks for somebody else, forget it. XCLIENT and STARTTLS exclude each other in this order, since
//! TLS would then lead to a proxy and not to the client that it spoke for; XCLIENT inside TLS is as good as any command.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use mail::{ByMode, Timestamp, TlsFacts};

use super::event::{Answer, Event};
use super::limits::TlsOffer;
use super::line::Line;
use super::peer::Dialect;
use super::reason::{CloseReason, Refusal};
use super::session::{Mailing, Phase, Question, Session, Step};
use crate::commands::Verb;
use crate::extensions::{Extensions, FutureReleaseOffer};
use crate::params::{DeliverBy, MailParameters, Release, Submitter};
use crate::sasl::{self, AuthError};

/// The longest time that parameters can say: nine digits of seconds.
const LONGEST: u32 = 999_999_999;

/// What is known of the line and the client beyond its address.
#[derive(Debug, Default)]
pub(super) struct Security {
    tls: Option<TlsFacts>,
    account: Option<Account>,
    /// Whether XCLIENT was heard in clear.
    spoken_for: bool,
    /// What time it was at an instant.
    clock: Option<(Instant, Timestamp)>,
    /// The mechanisms that can be had on this line, if they were told.
    mechanisms: Option<Vec<String>>,
}

#[derive(Debug)]
struct Account {
    name: String,
    /// Whether AUTH has proven it, not the certificate.
    by_auth: bool,
}

impl Session {
    /// The line is secured: by the handshake after [`Event::StartTls`], when everything from before is forgotten, or by
    /// that of implicit TLS, to be told before the greeting is taken. At any other time it does nothing.
    pub fn secured(&mut self, facts: TlsFacts, now: Instant) {
        match self.phase {
            Phase::Greeting(_) => {}
            Phase::Handshake => {
                // RFC 3207 §4.2: nothing that the client said in clear counts any more.
                self.hello = None;
                self.mailing = Mailing::None;
                self.input = BytesMut::new();
                self.security.account = None;
                self.timer.command();
                self.timer.wait(now);
                self.phase = Phase::Command;
            }
            _ => return,
        }
        self.security.tls = Some(facts);
    }

    /// TLS cannot be had now: instead of the handshake, and before [`take_output`](Session::take_output).
    pub fn tls_unavailable(&mut self, now: Instant) {
        if matches!(self.phase, Phase::StartTls) {
            self.phase = Phase::Command;
            self.refuse_for(Refusal::TlsUnavailable, now);
        }
    }

    /// The handshake failed, whichever it was: there is nothing more to say.
    pub fn handshake_failed(&mut self) {
        if matches!(self.phase, Phase::Greeting(_) | Phase::StartTls | Phase::Handshake) {
            self.output.clear();
            self.close(CloseReason::Handshake);
        }
    }

    /// The client is this account without AUTH, by its certificate. Tell after [`Session::secured`].
    pub fn set_account(&mut self, name: String) {
        self.security.account = Some(Account { name, by_auth: false });
    }

    /// Which mechanisms can be had on this line, in place of all that the listener has. Tell after [`Session::secured`].
    pub fn offer_mechanisms(&mut self, mechanisms: Vec<String>) {
        self.security.mechanisms = Some(mechanisms);
    }

    fn mechanisms(&self) -> &[String] {
        self.security.mechanisms.as_deref().unwrap_or(&self.config.auth.mechanisms)
    }

    /// What time it is, so that FUTURERELEASE can be offered.
    pub fn tell_time(&mut self, now: Instant, time: Timestamp) {
        self.security.clock = Some((now, time));
    }

    /// The facts of TLS, once the line is secured.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.security.tls.as_ref()
    }

    /// The account that the client is, if it is known.
    pub fn account(&self) -> Option<&str> {
        self.security.account.as_ref().map(|account| account.name.as_str())
    }

    /// Whether AUTH has proven the account.
    pub(super) fn is_authenticated(&self) -> bool {
        self.security.account.as_ref().is_some_and(|account| account.by_auth)
    }

    /// The client speaks for another from here on.
    pub(super) fn speaks_for_another(&mut self) {
        self.security.account = None;
        self.security.spoken_for |= self.security.tls.is_none();
    }

    /// Whether TLS must come before this command. A chunk says so by itself, for its octets must be taken.
    pub(super) fn needs_tls_first(&self, verb: Verb) -> bool {
        self.lacks_tls()
            && !matches!(verb, Verb::Ehlo | Verb::Lhlo | Verb::Noop | Verb::Quit | Verb::StartTls | Verb::Bdat)
    }

    pub(super) fn lacks_tls(&self) -> bool {
        self.security.tls.is_none() && matches!(self.config.tls, TlsOffer::Required | TlsOffer::Implicit)
    }

    /// Whether MAIL needs an account and there is none.
    pub(super) fn lacks_account(&self) -> bool {
        self.config.auth.required && self.security.account.is_none()
    }

    /// Adds what is offered only inside TLS, or only outside, or only to those who are known.
    pub(super) fn offer_security(&self, offered: &mut Extensions, now: Instant) {
        let inside = self.security.tls.is_some();
        offered.starttls = self.may_start_tls() && !inside && !self.security.spoken_for;
        offered.require_tls = inside;
        if inside && !self.is_authenticated() {
            offered.auth = self.mechanisms().to_vec();
        }
        // Where nobody sends mail without an account it is told before: clients do not say EHLO again after AUTH.
        if self.security.account.is_some() || (self.config.auth.required && !offered.auth.is_empty()) {
            offered.deliver_by = self.config.deliver_by.map(seconds);
            offered.future_release = self.future_release(now);
            offered.priority = self.config.mt_priority;
        }
    }

    /// Why parameters of MAIL cannot be granted, which otherwise are what they shall be.
    pub(super) fn requests(&self, parameters: &mut MailParameters, now: Instant) -> Result<(), Refusal> {
        let inside = self.security.tls.is_some();
        let known = self.security.account.is_some();
        let granted = (inside || !parameters.require_tls)
            && (parameters.submitter.is_none() || (inside && !self.config.auth.mechanisms.is_empty()))
            && (parameters.priority.is_none() || (known && self.config.mt_priority))
            && (parameters.deliver_by.is_none() || (known && self.config.deliver_by.is_some()))
            && (parameters.release.is_none() || (known && self.future_release(now).is_some()));
        if !granted {
            return Err(Refusal::UnknownParameter);
        }
        if let (Some(submitter), false) = (&mut parameters.submitter, known) {
            // RFC 4954 §5: who is not known is not believed.
            *submitter = Submitter::Unknown;
        }
        if let Some(DeliverBy { seconds: given, mode: ByMode::Return, .. }) = parameters.deliver_by
            && self.config.deliver_by.is_some_and(|least| i64::from(given) < i64::from(seconds(least)))
        {
            return Err(Refusal::DeliverByTime);
        }
        match (parameters.release, self.future_release(now)) {
            (Some(Release::For(wanted)), Some(offer)) if wanted > offer.longest => Err(Refusal::HoldTime),
            (Some(Release::Until(wanted)), Some(offer)) if wanted > offer.latest => Err(Refusal::HoldTime),
            _ => Ok(()),
        }
    }

    pub(super) fn start_tls(&mut self, argument: &str, now: Instant) {
        let refusal = if !argument.is_empty() {
            Refusal::Argument
        } else if self.security.tls.is_some() {
            Refusal::TlsActive
        } else if !self.may_start_tls() {
            Refusal::NotImplemented
        } else if !self.hello.as_ref().is_some_and(|hello| hello.dialect != Dialect::Smtp) {
            Refusal::HelloFirst
        } else if !matches!(self.mailing, Mailing::None) {
            Refusal::InTransaction
        } else if self.security.spoken_for {
            Refusal::TlsAfterXclient
        } else {
            self.phase = Phase::StartTls;
            return self.events.push_back(Event::StartTls);
        };
        self.refuse_for(refusal, now);
    }

    pub(super) fn may_start_tls(&self) -> bool {
        matches!(self.config.tls, TlsOffer::StartTls | TlsOffer::Required)
    }

    /// Ends the session of a client that sent more in clear after STARTTLS.
    pub(super) fn injected(&mut self) {
        self.close_with(Refusal::InjectedBeforeTls, CloseReason::InjectedBeforeTls);
    }

    pub(super) fn auth(&mut self, argument: &str, now: Instant) {
        let refusal = match sasl::auth(argument) {
            _ if self.config.auth.mechanisms.is_empty() => Refusal::NotImplemented,
            _ if self.security.tls.is_none() => Refusal::AuthNeedsTls,
            _ if !self.hello.as_ref().is_some_and(|hello| hello.dialect != Dialect::Smtp) => Refusal::HelloFirst,
            _ if self.is_authenticated() => Refusal::AuthTwice,
            _ if !matches!(self.mailing, Mailing::None) => Refusal::InTransaction,
            Err(AuthError::Syntax) => Refusal::Argument,
            Err(AuthError::Base64) => Refusal::AuthBase64,
            Ok((mechanism, _)) if !self.mechanisms().contains(&mechanism) => Refusal::AuthMechanism,
            Ok((mechanism, initial)) => return self.ask(Question::Auth, Event::Auth { mechanism, initial }),
        };
        self.refuse_for(refusal, now);
    }

    /// Reads the client's answer to a challenge.
    pub(super) fn read_response(&mut self, now: Instant) -> Step {
        let config = &self.config;
        match self.lines.take_response(&mut self.input, &config.limits, config.endings) {
            Line::Partial => return Step::Wait,
            // RFC 4954 §4: no line of an exchange may be followed by more before it is answered.
            Line::Command(_) if !self.input.is_empty() => {
                self.close_with(Refusal::Pipelining, CloseReason::Pipelining);
            }
            Line::Command(_) if self.tally.command(&self.config.limits) => {
                self.close_with(Refusal::Commands, CloseReason::Commands);
            }
            Line::Command(line) => self.response(&line, now),
            Line::Overlong | Line::OverlongAuth => self.end_exchange(Refusal::AuthLine, now),
            Line::Endless => self.close_with(Refusal::AuthLine, CloseReason::Discard),
            Line::Fault(fault) => {
                let (refusal, reason) = fault.reasons();
                self.close_with(refusal, reason);
            }
        }
        Step::Again
    }

    fn response(&mut self, line: &[u8], now: Instant) {
        if line == b"*" {
            return self.end_exchange(Refusal::AuthCancelled, now);
        }
        let Ok(message) = sasl::decode(line) else { return self.end_exchange(Refusal::AuthBase64, now) };
        let Phase::Response(proven) = std::mem::replace(&mut self.phase, Phase::Command) else { return };
        self.timer.command();
        match proven {
            None => self.ask(Question::Auth, Event::AuthResponse(message)),
            Some(account) if message.is_empty() => self.authenticated(account),
            Some(_) => self.end_exchange(Refusal::AuthSurplus, now),
        }
    }

    /// The driver has looked at what the client said.
    pub(super) fn auth_answered(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Challenge(message) => self.challenge(&message, None),
            Answer::Authenticated { account, last: None } => self.authenticated(account),
            Answer::Authenticated { account, last: Some(message) } => self.challenge(&message, Some(account)),
            Answer::Reply(reply) if reply.is_transient() || reply.is_permanent() => self.negative(&reply, now),
            // A yes that names nobody proves nothing.
            Answer::Accept | Answer::Reply(_) | Answer::Each(_) => self.refuse_for(Refusal::AuthUnavailable, now),
        }
    }

    fn challenge(&mut self, message: &[u8], proven: Option<String>) {
        self.output.say(&format!("334 {}", *sasl::encode(message)));
        self.phase = Phase::Response(proven);
    }

    fn authenticated(&mut self, account: String) {
        self.output.say("235 2.7.0 authenticated");
        self.events.push_back(Event::Authenticated(account.clone()));
        self.security.account = Some(Account { name: account, by_auth: true });
    }

    /// The exchange is over without a verdict.
    fn end_exchange(&mut self, refusal: Refusal, now: Instant) {
        self.timer.command();
        self.phase = Phase::Command;
        self.events.push_back(Event::AuthCancelled);
        self.refuse_for(refusal, now);
    }

    fn future_release(&self, now: Instant) -> Option<FutureReleaseOffer> {
        let (at, time) = self.security.clock?;
        let longest = self.config.future_release.map(seconds)?;
        let latest = time + now.saturating_duration_since(at) + Duration::from_secs(longest.into());
        Some(FutureReleaseOffer { longest, latest })
    }
}

fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(LONGEST).min(LONGEST)
}
