//! AUTH: between the session, which speaks it, and the directory, which knows who is who.
//!
//! Passwords are checked elsewhere; here only the task of this one connection waits. A reply that says no is delayed, a
//! yes never is.

use std::sync::Arc;
use std::time::Duration;

use directory::{Account, Admission, AuthFailure, CertificateAccount, ChannelFacts, Exchange, Step};
use mail::{EnhancedCode, Event, Reply};
use smtp::server::{Answer, Source};
use tokio::time::Instant;

use super::Driver;
use crate::bans::{Consequence, Guesser};
use crate::reception::Stage;
use crate::stream::Stream;
use crate::tls::SecureStream;

/// Failed exchanges of one session; at this number: 421 4.7.0.
const MOST_FAILURES: u32 = 5;
/// How often the directory is asked, at most, whether an account still would be let in.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Who the client is, and how it came to be known.
#[derive(Default)]
pub(super) struct Login {
    /// Boxed, so that idle connections do not pay for its size.
    exchange: Option<Box<Exchange>>,
    /// Who it will be once the session has said so.
    proven: Option<Admission>,
    known: Option<Known>,
    failures: u32,
}

/// Somebody who is in.
struct Known {
    admission: Admission,
    /// When the directory said so last.
    asked: std::time::Instant,
}

impl Login {
    /// The account of the client.
    pub(super) fn account(&self) -> Option<&Arc<Account>> {
        self.known.as_ref().map(|known| &known.admission.account)
    }

    /// Nobody is known any more: the line is a new one, or another client's.
    pub(super) fn forget(&mut self) {
        *self = Self { failures: self.failures, ..Self::default() };
    }

    /// The exchange is over without a verdict.
    pub(super) fn cancel(&mut self) {
        self.exchange = None;
        self.proven = None;
    }
}

impl<S: Stream> Driver<S> {
    /// The line is secured: what is offered on it depends on that, and a certificate may tell already who it is.
    pub(super) async fn meet(&mut self) {
        self.login.forget();
        let facts = self.channel();
        if !self.gate.session.auth.mechanisms.is_empty() {
            let mechanisms = self.shared.directory.mechanisms(&facts);
            self.session.offer_mechanisms(mechanisms.into_iter().map(str::to_owned).collect());
        }
        let Some(CertificateAccount { account: name }) = facts.certificate else { return };
        match self.shared.directory.by_certificate(&name).await {
            Ok(Some(admission)) => {
                self.session.set_account(admission.account.name.clone());
                self.told_who(admission, "certificate");
            }
            Ok(None) => {
                tracing::warn!(account = name, "a client's certificate stands for an account that there is not")
            }
            Err(error) => tracing::warn!(account = name, %error, "whose certificate it is cannot be found out"),
        }
    }

    fn channel(&self) -> ChannelFacts {
        ChannelFacts {
            peer: self.peer(),
            tls: self.session.tls().is_some(),
            tls_exporter: self.stream.inside().and_then(SecureStream::exporter),
            certificate: self.grant.account.clone().map(|account| CertificateAccount { account }),
        }
    }

    /// The client begins.
    pub(super) async fn auth(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Answer {
        let ip = self.peer().ip();
        if let Some(reply) = self.shut_out() {
            return Answer::Reply(reply);
        }
        // Whoever was banned meanwhile for what it tried on other connections has no further try on this one.
        if let Some(turned) = self.shared.banned(&self.gate, ip) {
            self.shared.metrics.connection_refused(turned.reason);
            return Answer::Reply(turned.reply);
        }
        match self.shared.directory.begin(mechanism, self.channel()) {
            Ok(exchange) => self.login.exchange = Some(Box::new(exchange)),
            Err(_) => return Answer::Reply(reply(504, 5, 5, 4, "this mechanism is not offered")),
        }
        self.auth_step(initial).await
    }

    /// The client said something in an exchange.
    pub(super) async fn auth_step(&mut self, input: Option<&[u8]>) -> Answer {
        let Some(mut exchange) = self.login.exchange.take() else {
            return Answer::Reply(reply(454, 4, 7, 0, "this exchange is over, begin anew"));
        };
        let since = Instant::now();
        // Boxed, as everything that is rare.
        match Box::pin(exchange.step(input)).await {
            // Counted now: whether it hears the refusal out is up to the client.
            Step::Challenge(challenge) if exchange.is_refused() => {
                match Box::pin(self.count_failure(&exchange, &AuthFailure::Credentials, since)).await {
                    Some(last) => Answer::Reply(last),
                    None => {
                        self.login.exchange = Some(exchange);
                        Answer::Challenge(challenge)
                    }
                }
            }
            Step::Challenge(challenge) => {
                self.login.exchange = Some(exchange);
                Answer::Challenge(challenge)
            }
            Step::Done { account, last } => {
                let name = account.name.clone();
                self.login.proven = exchange.admission().cloned();
                self.login.exchange = Some(exchange);
                Answer::Authenticated { account: name, last }
            }
            Step::Failed(failure) => Answer::Reply(Box::pin(self.auth_failed(&exchange, failure, since)).await),
        }
    }

    /// The session has told the client that it is in.
    pub(super) fn authenticated(&mut self) {
        let mechanism = self.login.exchange.take().map_or("", |exchange| exchange.mechanism().as_str());
        if let Some(admission) = self.login.proven.take() {
            self.told_who(admission, mechanism);
        }
    }

    fn told_who(&mut self, admission: Admission, mechanism: &str) {
        let (listener, address) = (&self.gate.listener.name, self.peer().ip());
        let tls = self.session.tls().map(tracing::field::display);
        let account = &admission.account.name;
        tracing::info!(listener, %address, account, mechanism, tls, "logged in");
        self.login.known = Some(Known { admission, asked: self.now() });
    }

    /// Whether the client's account still would be let in, by the rules of today; if not, the reply that ends the session:
    /// RFC 4954 §4 allows no second AUTH in it. What cannot be found out changes nothing for who is in.
    pub(super) async fn ask_again(&mut self) -> Option<Reply> {
        let now = self.now();
        let known =
            self.login.known.as_mut().filter(|known| now.saturating_duration_since(known.asked) >= ASK_AGAIN)?;
        known.asked = now;
        let failure = match self.shared.directory.still(&known.admission).await {
            Ok(account) => {
                known.admission.account = account;
                return None;
            }
            Err(failure) => failure,
        };
        let (listener, address, account) =
            (&self.gate.listener.name, self.session.peer().address.ip(), &known.admission.account.name);
        if let AuthFailure::Unavailable(error) = &failure {
            tracing::warn!(listener, %address, account, error, "whether an account is still good cannot be found out");
            return None;
        }
        tracing::info!(listener, %address, account, reason = failure.word(), "login ended");
        Some(reply(421, 4, 7, 0, &format!("{account} must log in again")))
    }

    /// The end of a session whose address an operator has banned since it began.
    pub(super) fn shut_out(&self) -> Option<Reply> {
        let (listener, address) = (&self.gate.listener.name, self.peer().ip());
        let reply = self.shared.banned_by_hand(address)?;
        self.shared.metrics.refused("banned");
        tracing::info!(listener, %address, reason = "banned", %reply, "refused");
        Some(reply)
    }

    /// Says no, after a while, and perhaps to the address as a whole.
    async fn auth_failed(&mut self, exchange: &Exchange, failure: AuthFailure, since: Instant) -> Reply {
        if let AuthFailure::Unavailable(error) = &failure {
            let (listener, address) = (&self.gate.listener.name, self.peer().ip());
            let (account, mechanism) = (exchange.tried(), exchange.mechanism().as_str());
            tracing::warn!(listener, %address, account, mechanism, error, "nobody can be let in now");
            return refusal(&failure);
        }
        if exchange.is_refused() {
            // It was counted when it was told why.
            return refusal(&failure);
        }
        self.count_failure(exchange, &failure, since).await.unwrap_or_else(|| refusal(&failure))
    }

    /// Counts a failed exchange and waits; the reply that ends the session if this was one too many. The wait begins with the
    /// client's message and not with the verdict: how long that took, which may depend on who was named, is not to be heard.
    async fn count_failure(&mut self, exchange: &Exchange, failure: &AuthFailure, since: Instant) -> Option<Reply> {
        let (listener, address) = (self.gate.listener.name.clone(), self.peer().ip());
        let (account, mechanism, reason) = (exchange.tried(), exchange.mechanism().as_str(), failure.word());
        self.login.failures += 1;
        if !matches!(failure, AuthFailure::Credentials | AuthFailure::Malformed) {
            // In other words than a guess, for those who ban by what the log says.
            tracing::info!(listener, %address, account, mechanism, reason, "login refused");
            return None;
        }
        let settings = &self.gate.bans;
        let guesser = match self.session.peer().source {
            Source::Unknown => Guesser::Behind(address),
            _ if settings.spared.contains(address) => Guesser::Spared,
            _ => Guesser::At(address),
        };
        match guesser {
            Guesser::At(_) => tracing::info!(listener, %address, account, mechanism, reason, "auth failed"),
            // In other words: whoever bans by the log must not ban a gateway, or a network that is ours.
            Guesser::Spared | Guesser::Behind(_) => {
                tracing::info!(listener, %address, account, mechanism, reason, "login failed");
            }
        }
        let account = exchange.counts_for();
        let now = self.shared.clock.now();
        let consequence = self.shared.books().bans.failed(settings, guesser, account, now).await;
        let Consequence { delay, ban } = consequence.unwrap_or_else(|error| {
            tracing::error!(%error, "failed logins cannot be counted");
            Consequence { delay: settings.delay_most, ban: None }
        });
        if let Some((network, ban)) = &ban {
            self.shared.observer.observe(&Event::Banned {
                network: network.to_string(),
                until: ban.until,
                author: None,
                reason: ban.reason.clone(),
            });
        }
        self.wait_unless_ended(since + delay).await;
        match ban {
            Some((_, ban)) => Some(ban.reply(address)),
            None if self.login.failures >= MOST_FAILURES => Some(reply(421, 4, 7, 0, "too many failed logins")),
            None => None,
        }
    }

    async fn wait_unless_ended(&mut self, until: Instant) {
        let mut stage = self.shared.stage.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            _ = stage.wait_for(|stage| *stage >= Stage::Ended) => {}
        }
    }
}

/// RFC 4954 §6, RFC 5248 §2.4.
fn refusal(failure: &AuthFailure) -> Reply {
    match failure {
        AuthFailure::Credentials => reply(535, 5, 7, 8, "these credentials are not right"),
        AuthFailure::Disabled => reply(535, 5, 7, 13, "this account is disabled"),
        AuthFailure::MustUpgrade => reply(534, 5, 7, 9, "use an app password, not the account's own"),
        AuthFailure::Malformed => reply(501, 5, 5, 2, "this is not how the mechanism goes"),
        AuthFailure::Unavailable(_) => reply(454, 4, 7, 0, "nobody can be let in now, try again later"),
    }
}

fn reply(code: u16, class: u8, subject: u16, detail: u16, text: &str) -> Reply {
    Reply::new(code, EnhancedCode::new(class, subject, detail), text)
}
