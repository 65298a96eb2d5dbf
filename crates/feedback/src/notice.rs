//! Who is told what: the `NOTIFY` parameter against what happened (RFC 3461 §5.2).

use mail::{DeliverBy, Envelope, Notify, Outcome, Protocol};

/// What a report says about a recipient (RFC 3464 §2.3.3). Ordered by how much it matters to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It will never be delivered.
    Failed,
    /// Not yet; attempts go on.
    Delayed,
    /// Given to a host that will not report by itself.
    Relayed,
    /// In the recipient's mailbox.
    Delivered,
}

impl Action {
    /// The word of the `Action` field.
    pub fn word(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
            Action::Delivered => "delivered",
        }
    }

    /// What an outcome is to a sender who wants to be told everything; `None` where somebody else tells, or nobody.
    pub fn of(outcome: &Outcome, protocol: Protocol, limit: Option<DeliverBy>) -> Option<Action> {
        match outcome {
            _ if tells_relay(outcome, protocol, limit) => Some(Action::Relayed),
            // RFC 3461 §5.2.2: a host that offers DSN takes the duty to report over.
            Outcome::Delivered(delivered) if delivered.dsn => None,
            // RFC 2033 §4.2: an LMTP server answers for the mailbox, anything else may pass the message on.
            Outcome::Delivered(_) if protocol == Protocol::Lmtp => Some(Action::Delivered),
            Outcome::Delivered(_) => Some(Action::Relayed),
            Outcome::Deferred(_) => Some(Action::Delayed),
            Outcome::Failed(_) | Outcome::Expired(_) => Some(Action::Failed),
            Outcome::Removed(_) => None,
        }
    }
}

/// Whether a sender with this `NOTIFY` is to be told: failures and delays by default (RFC 3461 §4.1).
pub fn owes(notify: Notify, action: Action) -> bool {
    match (notify, action) {
        (Notify::Never, _) => false,
        (Notify::Default, _) => matches!(action, Action::Failed | Action::Delayed),
        (Notify::On(on), Action::Failed) => on.failure,
        (Notify::On(on), Action::Delayed) => on.delay,
        (Notify::On(on), Action::Relayed | Action::Delivered) => on.success,
    }
}

/// The report that an outcome owes, all rules together: never to `<>` (RFC 5321 §4.5.5), by [`Action::of`], [`owes`].
///
/// For a deferred recipient it is what is owed once the delay is long enough.
pub fn owed(original: &Envelope, notify: Notify, outcome: &Outcome, protocol: Protocol) -> Option<Action> {
    original.reverse_path.mailbox()?;
    let limit = original.deliver_by;
    let asked = |action: &Action| owes(notify, *action) || tells_relay(outcome, protocol, limit);
    Action::of(outcome, protocol, limit).filter(asked).filter(|_| notify != Notify::Never)
}

/// RFC 2852 §4.1.4: the sender hears that the message went on to a host that knows nothing of its limit of time, and, if
/// asked for, of every relay.
fn tells_relay(outcome: &Outcome, protocol: Protocol, limit: Option<DeliverBy>) -> bool {
    match (outcome, limit) {
        (Outcome::Delivered(delivered), Some(limit)) if protocol == Protocol::Smtp => {
            limit.trace || !delivered.deliver_by
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Act, ByMode, Delivered, EnhancedCode, Fault, MessageId, NotifyOn, Reply, ReversePath, Timestamp};

    const ALL: [Action; 4] = [Action::Failed, Action::Delayed, Action::Relayed, Action::Delivered];

    fn told(notify: Notify) -> Vec<&'static str> {
        ALL.into_iter().filter(|action| owes(notify, *action)).map(Action::word).collect()
    }

    fn from(sender: ReversePath) -> Envelope {
        Envelope::new(MessageId::from_u128(1), Timestamp::default(), sender, [])
    }

    #[test]
    fn notify_decides_what_is_told() {
        let on = |success, failure, delay| Notify::On(NotifyOn { success, failure, delay });
        assert_eq!(told(Notify::Default), ["failed", "delayed"]);
        assert!(told(Notify::Never).is_empty());
        assert_eq!(told(on(true, false, false)), ["relayed", "delivered"]);
        assert_eq!(told(on(false, true, false)), ["failed"]);
        assert_eq!(told(on(false, false, true)), ["delayed"]);
    }

    #[test]
    fn success_is_told_by_whoever_is_last_to_know() {
        let everything = Notify::On(NotifyOn { success: true, failure: true, delay: true });
        let sender = from(ReversePath::Mailbox("a@example.org".parse().unwrap()));
        let delivered = |dsn| {
            let reply = Reply::new(250, None, "ok");
            Outcome::Delivered(Delivered { host: "mx".into(), address: None, reply, dsn, deliver_by: false, tls: None })
        };
        let owed = |outcome: &Outcome, protocol| owed(&sender, everything, outcome, protocol);
        assert_eq!(owed(&delivered(true), Protocol::Smtp), None);
        assert_eq!(owed(&delivered(false), Protocol::Smtp), Some(Action::Relayed));
        assert_eq!(owed(&delivered(false), Protocol::Lmtp), Some(Action::Delivered));
        assert_eq!(owed(&delivered(true), Protocol::Lmtp), None);
    }

    #[test]
    fn a_relay_is_told_to_who_set_a_limit_of_time_that_is_not_kept_or_who_wants_to_trace_it() {
        let mut envelope = from(ReversePath::Mailbox("a@example.org".parse().unwrap()));
        let delivered = |deliver_by| {
            let reply = Reply::new(250, None, "ok");
            Outcome::Delivered(Delivered { host: "mx".into(), address: None, reply, dsn: true, deliver_by, tls: None })
        };
        let mut told = |trace, deliver_by, notify, protocol| {
            envelope.deliver_by = Some(DeliverBy { by: Timestamp::default(), mode: ByMode::Notify, trace });
            owed(&envelope, notify, &delivered(deliver_by), protocol)
        };
        assert_eq!(told(false, true, Notify::Default, Protocol::Smtp), None);
        assert_eq!(told(false, false, Notify::Default, Protocol::Smtp), Some(Action::Relayed));
        assert_eq!(told(true, true, Notify::Default, Protocol::Smtp), Some(Action::Relayed));
        assert_eq!(told(true, true, Notify::Never, Protocol::Smtp), None);
        assert_eq!(told(true, false, Notify::Default, Protocol::Lmtp), None, "it has arrived");
    }

    #[test]
    fn nobody_is_told_of_a_removal_and_the_null_path_of_nothing() {
        let sender = from(ReversePath::Mailbox("a@example.org".parse().unwrap()));
        let act = Act { author: "root".into(), reason: "spam".into(), at: Timestamp::from_millis(0) };
        assert_eq!(owed(&sender, Notify::Default, &Outcome::Removed(act), Protocol::Smtp), None);
        let failed = Outcome::Failed(Fault::local(550, EnhancedCode::new(5, 1, 1), "no"));
        assert_eq!(owed(&sender, Notify::Default, &failed, Protocol::Smtp), Some(Action::Failed));
        assert_eq!(owed(&sender, Notify::Default, &Outcome::Expired(None), Protocol::Smtp), Some(Action::Failed));
        assert_eq!(owed(&from(ReversePath::Null), Notify::Default, &failed, Protocol::Smtp), None);
    }
}
