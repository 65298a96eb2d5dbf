//! What an account asks for in a transaction, held against what it may.

use mail::{EnhancedCode, Event, Recipient, Reply};
use smtp::server::{Answer, Sender};
use store::TablesError;

use super::Driver;
use crate::intake::Refused;
use crate::settings::Role;
use crate::stream::Stream;
use crate::submission::{Counted, Scrutiny, Sent, over_limit};

impl<S: Stream> Driver<S> {
    /// May mail with this sender come in?
    pub(super) async fn sender(&mut self, sender: &Sender) -> Answer {
        if let Some(reply) = self.shut_out() {
            return Answer::Reply(reply);
        }
        if let Some(reply) = Box::pin(self.ask_again()).await {
            return Answer::Reply(reply);
        }
        let Some(account) = self.login.account().cloned() else { return Answer::Accept };
        if let Some(reply) = self.gate.submission.judge_sender(&account, &sender.path) {
            let reason = if sender.path.mailbox().is_some() { "send_as" } else { "null_sender" };
            return self.refuse_account(reason, reply);
        }
        Box::pin(self.room(Sent { messages: 1, recipients: 0 })).await
    }

    /// May mail go to this recipient?
    pub(super) async fn recipient(&mut self, recipient: &Recipient) -> Answer {
        let judged = self.relayed(recipient);
        if !matches!(judged, Answer::Accept) || self.login.account().is_none() {
            return judged;
        }
        let before = self.session.transaction().map_or(0, |transaction| transaction.recipients.len());
        Box::pin(self.room(Sent::message(before + 1))).await
    }

    /// Whether the account has so much room under its limits now.
    async fn room(&mut self, more: Sent) -> Answer {
        let Some(account) = self.login.account() else { return Answer::Accept };
        let limits = self.gate.submission.limits_of(account);
        let now = self.shared.clock.now();
        match self.shared.books().ledger.room(&account.name, more, &limits, now).await {
            Ok(Ok(())) => Answer::Accept,
            Ok(Err(over)) => self.refuse_account("account_limit", over_limit(&account.name, &over)),
            Err(error) => Answer::Reply(unreadable(&error)),
        }
    }

    /// How the header section of the message to come is treated.
    pub(super) fn scrutiny(&self) -> Option<Scrutiny> {
        let account = self.login.account()?.clone();
        let sender = self.session.transaction().and_then(|transaction| transaction.sender.path.mailbox().cloned());
        Some(Scrutiny { account, sender, mends: self.gate.listener.role == Role::Submission })
    }

    /// Whether our `Received` field leaves out where the client is.
    pub(super) fn hides_client(&self) -> bool {
        let general = self.gate.submission.hide_client;
        self.login.account().is_some_and(|account| account.hide_client.unwrap_or(general))
    }

    /// Counts a message of the account, just before it is accepted.
    pub(super) async fn count(&mut self, sent: Sent) -> Result<Option<Counted>, Refused> {
        let Some(account) = self.login.account() else { return Ok(None) };
        let submission = &self.gate.submission;
        let (limits, now) = (submission.limits_of(account), self.shared.clock.now());
        let ledger = &self.shared.books().ledger;
        match ledger.count(&account.name, sent, &limits, submission.spikes.as_ref(), now).await {
            Ok(Ok(counted)) => {
                if let (Some(spike), true) = (&counted.held, counted.begun) {
                    let (account, recipients, usual) = (account.name.clone(), spike.recipients, spike.usual);
                    self.shared.observer.observe(&Event::AccountHeld { account, recipients, usual });
                }
                Ok(Some(counted))
            }
            Ok(Err(over)) => Err(refused("account_limit", over_limit(&account.name, &over))),
            Err(error) => Err(refused("tables", unreadable(&error))),
        }
    }

    /// Takes a message back that was counted and not accepted.
    pub(super) async fn take_back(&mut self, sent: Sent) {
        if let Some(account) = self.login.account() {
            self.shared.books().ledger.take_back(&account.name, sent, self.shared.clock.now()).await;
        }
    }

    fn refuse_account(&self, reason: &'static str, reply: Reply) -> Answer {
        self.shared.metrics.refused(reason);
        let (listener, peer) = (&self.gate.listener.name, self.peer());
        let account = self.session.account();
        tracing::info!(listener, %peer, account, reason, %reply, "refused");
        Answer::Reply(reply)
    }
}

fn refused(reason: &'static str, reply: Reply) -> Refused {
    Refused { reply, reason, passing: false }
}

fn unreadable(error: &TablesError) -> Reply {
    tracing::error!(%error, "what the account has sent cannot be counted");
    Reply::new(451, EnhancedCode::new(4, 3, 0), "what you have sent cannot be counted now, try again later")
}
