//! Who is told what: the `NOTIFY` parameter against what happened (RFC 3461 §5.2).

use mail::{Notify, Outcome, Protocol, ReversePath};

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
    pub fn of(outcome: &Outcome, protocol: Protocol) -> Option<Action> {
        match outcome {
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
pub fn owed(reverse_path: &ReversePath, notify: Notify, outcome: &Outcome, protocol: Protocol) -> Option<Action> {
    reverse_path.mailbox()?;
    Action::of(outcome, protocol).filter(|action| owes(notify, *action))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Act, Delivered, EnhancedCode, Fault, NotifyOn, Reply, Timestamp};

    const ALL: [Action; 4] = [Action::Failed, Action::Delayed, Action::Relayed, Action::Delivered];

    fn told(notify: Notify) -> Vec<&'static str> {
        ALL.into_iter().filter(|action| owes(notify, *action)).map(Action::word).collect()
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
        let sender = ReversePath::Mailbox("a@example.org".parse().unwrap());
        let delivered = |dsn| {
            let reply = Reply::new(250, None, "ok");
            Outcome::Delivered(Delivered { host: "mx".into(), address: None, reply, dsn, tls: None })
        };
        let owed = |outcome: &Outcome, protocol| owed(&sender, everything, outcome, protocol);
        assert_eq!(owed(&delivered(true), Protocol::Smtp), None);
        assert_eq!(owed(&delivered(false), Protocol::Smtp), Some(Action::Relayed));
        assert_eq!(owed(&delivered(false), Protocol::Lmtp), Some(Action::Delivered));
        assert_eq!(owed(&delivered(true), Protocol::Lmtp), None);
    }

    #[test]
    fn nobody_is_told_of_a_removal_and_the_null_path_of_nothing() {
        let sender = ReversePath::Mailbox("a@example.org".parse().unwrap());
        let act = Act { author: "root".into(), reason: "spam".into(), at: Timestamp::from_millis(0) };
        assert_eq!(owed(&sender, Notify::Default, &Outcome::Removed(act), Protocol::Smtp), None);
        let failed = Outcome::Failed(Fault::local(550, EnhancedCode::new(5, 1, 1), "no"));
        assert_eq!(owed(&sender, Notify::Default, &failed, Protocol::Smtp), Some(Action::Failed));
        assert_eq!(owed(&sender, Notify::Default, &Outcome::Expired(None), Protocol::Smtp), Some(Action::Failed));
        assert_eq!(owed(&ReversePath::Null, Notify::Default, &failed, Protocol::Smtp), None);
    }
}
