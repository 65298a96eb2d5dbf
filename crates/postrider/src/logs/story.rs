//! Tells each message's story: one line per fact.

use mail::{Act, Event, FaultSource, ForwardPath, MessageId, Observer, Outcome, ReversePath};
use tracing::{info, warn};

/// Turns facts into log lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Story;

impl Observer for Story {
    fn observe(&self, event: &Event) {
        match event {
            Event::Accepted { message, envelope, size } => info!(
                target: "postrider",
                message = %message,
                sender = %sender(&envelope.reverse_path),
                recipients = envelope.recipients.len(),
                size,
                peer = %envelope.origin.peer.ip(),
                helo = envelope.origin.helo,
                listener = envelope.origin.listener,
                "accepted"
            ),
            Event::Attempted { .. } => attempted(event),
            Event::Reported { message, report, action, recipients } => {
                info!(target: "postrider", message = %message, report = %report, action, recipients, "reported");
            }
            Event::Held { message, act } => acted(*message, act, "held"),
            Event::Released { message, act } => acted(*message, act, "released"),
            Event::Retried { message, act } => acted(*message, act, "told to retry"),
            Event::Finished { message, age } => {
                info!(target: "postrider", message = %message, age_ms = millis(*age), "finished");
            }
            Event::Banned { network, until, author, reason } => {
                let until = until.map(tracing::field::display);
                warn!(target: "postrider", network, until, author, reason, "banned");
            }
            Event::BanLifted { network, act: Act { author, reason, .. } } => {
                info!(target: "postrider", network, author, reason, "ban lifted");
            }
            Event::AccountHeld { account, recipients, usual } => {
                warn!(target: "postrider", account, recipients, usual, "account held");
            }
            Event::AccountReleased { account, act: Act { author, reason, .. } } => {
                info!(target: "postrider", account, author, reason, "account released");
            }
            Event::LaneBackedOff { site, source, until, reason } => {
                warn!(target: "postrider", site = %site, source = &**source, until = %until, reason, "site rests");
            }
        }
    }
}

fn attempted(event: &Event) {
    let Event::Attempted { message, recipient: path, lane, outcome, attempts, next, age } = event else { return };
    let answer = Answer::of(outcome);
    info!(
        target: "postrider",
        message = %message,
        recipient = %recipient(path),
        site = lane.as_ref().map(|lane| lane.site.as_str()),
        source = lane.as_ref().map(|lane| &*lane.source),
        host = answer.host,
        address = answer.address.map(tracing::field::display),
        tls = answer.tls.map(tracing::field::display),
        verified = answer.tls.map(|tls| tls.verified.word()),
        reply = answer.reply.as_deref(),
        author = answer.author,
        attempts,
        next = next.map(tracing::field::display),
        age_ms = millis(*age),
        "{}",
        outcome.word()
    );
}

fn acted(message: MessageId, act: &Act, what: &str) {
    info!(target: "postrider", message = %message, author = act.author, reason = act.reason, "{what}");
}

/// What an outcome says about who answered what.
#[derive(Default)]
struct Answer<'a> {
    host: Option<&'a str>,
    address: Option<std::net::IpAddr>,
    tls: Option<&'a mail::TlsFacts>,
    reply: Option<String>,
    author: Option<&'a str>,
}

impl<'a> Answer<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Delivered(delivered) => Self {
                host: Some(&delivered.host),
                address: delivered.address,
                tls: delivered.tls.as_ref(),
                reply: Some(delivered.reply.to_string()),
                author: None,
            },
            Outcome::Deferred(fault) | Outcome::Failed(fault) | Outcome::Expired(Some(fault)) => {
                let reply = Some(fault.reply.to_string());
                match &fault.by {
                    FaultSource::Peer { host, address } => {
                        Self { host: Some(host), address: *address, reply, ..Self::default() }
                    }
                    FaultSource::Local => Self { reply, ..Self::default() },
                }
            }
            Outcome::Expired(None) => Self::default(),
            Outcome::Removed(act) => {
                Self { author: Some(&act.author), reply: Some(act.reason.clone()), ..Self::default() }
            }
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A sender for people: as it stands between brackets, or `<>`.
pub fn sender(path: &ReversePath) -> String {
    path.mailbox().map_or_else(|| "<>".to_owned(), ToString::to_string)
}

/// A recipient for people: as it stands between brackets.
pub fn recipient(path: &ForwardPath) -> String {
    path.mailbox().map_or_else(|| "postmaster".to_owned(), ToString::to_string)
}
