use mail::{Delivered, Mailbox, MessageId, Notify, NotifyOn, Recipient, Reply, Utf8};
use proptest::prelude::*;
use shaping::{Intervals, Jitter};
use std::time::Duration;

use super::*;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn envelope(sender: &str, notify: &[Notify]) -> Envelope {
    let mailbox = |text: &str| Mailbox::parse(text, Utf8::Refused).unwrap();
    let recipients = (0..).zip(notify).map(|(number, notify)| Recipient {
        path: ForwardPath::Mailbox(mailbox(&format!("r{number}@example.org"))),
        notify: *notify,
        orcpt: None,
    });
    Envelope::new(
        MessageId::from_u128(1),
        START,
        if sender.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(mailbox(sender)) },
        recipients,
    )
}

fn delivery(envelope: &Envelope) -> Delivery {
    Delivery::new(Destination::new("mx:example.org"), 0..envelope.recipients.len() as u32, START)
}

fn exact() -> RetrySchedule {
    RetrySchedule { jitter: Jitter::NONE, ..RetrySchedule::default() }
}

fn at(retry: &RetrySchedule, after: Duration) -> Circumstances<'_> {
    Circumstances {
        retry,
        protocol: Protocol::Smtp,
        now: START + after,
        lead: Duration::ZERO,
        may_expire: true,
        not_before: Timestamp::default(),
    }
}

fn temporary() -> Fault {
    Fault::local(451, EnhancedCode::new(4, 3, 0), "later")
}

fn permanent() -> Fault {
    Fault::local(550, EnhancedCode::new(5, 1, 1), "no such user")
}

fn delivered(dsn: bool) -> Outcome {
    Outcome::Delivered(Delivered {
        host: "mx".into(),
        address: None,
        reply: Reply::new(250, None, "ok"),
        dsn,
        deliver_by: false,
        tls: None,
    })
}

fn attempt(envelope: &Envelope, before: &Delivery, outcomes: &[(u32, Outcome)], after: Duration) -> Verdict {
    let retry = exact();
    let happening = Happening::Attempt(outcomes);
    decide(envelope, before, happening, None, &at(&retry, after), &Randomness::seeded(1))
}

fn owed(verdict: &Verdict) -> Vec<u32> {
    let owed = |r: &&DeliveryRecipient| matches!(r.status, RecipientStatus::Final { notice: Notice::Owed, .. });
    verdict.into.iter().flat_map(|delivery| delivery.recipients.iter().filter(owed).map(|r| r.index)).collect()
}

#[test]
fn attempts_follow_the_schedule_until_the_end() {
    let envelope = envelope("a@example.net", &[Notify::Default]);
    let mut state = delivery(&envelope);
    let mut now = Duration::ZERO;
    let mut waits = Vec::new();
    loop {
        let verdict = attempt(&envelope, &state, &[(0, Outcome::Deferred(temporary()))], now);
        state = verdict.into.into_iter().next().unwrap();
        let Schedule::At(due) = state.schedule else { panic!("neither held nor finished") };
        if is_notice(&state.destination) {
            break;
        }
        waits.push(due.since(START + now).as_secs() / 60);
        now = due.since(START);
    }
    assert_eq!(waits[..8], [5, 10, 20, 40, 80, 160, 240, 240]);
    assert_eq!(now, 120 * HOUR, "the last attempt is made when five days are over");
    assert_eq!(
        state.recipients[0].status,
        RecipientStatus::Final { outcome: Outcome::Expired(Some(temporary())), notice: Notice::Owed }
    );
}

#[test]
fn a_limit_of_time_is_an_end_or_a_time_to_tell() {
    let mut envelope = envelope("a@example.net", &[Notify::Default, Notify::Never]);
    let outcomes = [(0, Outcome::Deferred(temporary())), (1, Outcome::Deferred(temporary()))];
    let limit = |mode| Some(DeliverBy { by: START + HOUR, mode, trace: false });
    envelope.deliver_by = limit(ByMode::Return);
    let early = attempt(&envelope, &delivery(&envelope), &outcomes, HOUR - Duration::from_secs(60));
    assert_eq!(early.into[0].schedule, Schedule::At(START + HOUR), "not later than that");
    let over = attempt(&envelope, &delivery(&envelope), &outcomes, HOUR);
    assert_eq!(owed(&over), [0]);
    assert!(over.tidings.iter().all(|tiding| matches!(tiding.outcome, Outcome::Expired(Some(_)))));
    let retry = exact();
    let unsure = Circumstances { may_expire: false, ..at(&retry, HOUR) };
    let happening = Happening::Attempt(&outcomes);
    let kept = decide(&envelope, &delivery(&envelope), happening, None, &unsure, &Randomness::seeded(1));
    assert!(kept.tidings.iter().all(|tiding| !tiding.outcome.is_final()), "the clock may have jumped");
    let without = overdue(&envelope, &delivery(&envelope), None, &at(&retry, HOUR));
    assert_eq!((owed(&without), without.tidings[0].attempts), (vec![0], 0));
    envelope.deliver_by = limit(ByMode::Notify);
    let late = attempt(&envelope, &delivery(&envelope), &outcomes, HOUR);
    assert!(late.tell_delay && late.tidings.iter().all(|tiding| !tiding.outcome.is_final()));
    envelope.recipients.iter_mut().for_each(|recipient| recipient.notify = Notify::Never);
    let silent = overdue(&envelope, &delivery(&envelope), None, &at(&retry, HOUR));
    assert!(!silent.tell_delay && silent.into[0].delay_told, "or it would be looked at again and again");
}

#[test]
fn bounces_end_after_two_days_and_tell_nobody() {
    let envelope = envelope("", &[Notify::Default]);
    let outcome = [(0, Outcome::Deferred(temporary()))];
    let verdict = attempt(&envelope, &delivery(&envelope), &outcome, 48 * HOUR);
    assert_eq!(verdict.into[0].schedule, Schedule::Finished);
    assert!(owed(&verdict).is_empty() && !verdict.tell_delay);
}

#[test]
fn each_recipient_has_its_own_fate() {
    let envelope = envelope("a@example.net", &[Notify::Default; 4]);
    let outcomes = [
        (0, delivered(false)),
        (1, Outcome::Failed(permanent())),
        (2, Outcome::Deferred(temporary())),
        (3, Outcome::Failed(permanent())),
    ];
    let verdict = attempt(&envelope, &delivery(&envelope), &outcomes, HOUR);
    let [goes_on, owes] = verdict.into.as_slice() else { panic!("one goes on, one owes") };
    assert_eq!(goes_on.schedule, Schedule::At(START + HOUR + Duration::from_secs(300)));
    assert_eq!(goes_on.recipients.iter().map(|r| r.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(owes.destination.as_str(), "notice:mx:example.org");
    assert_eq!(owes.schedule, Schedule::At(START + HOUR));
    assert_eq!(owed(&verdict), [1, 3]);
    assert_eq!(origin(&owes.destination), goes_on.destination);
    assert_eq!(verdict.tidings.len(), 4);
}

#[test]
fn the_sender_decides_what_is_told() {
    let on = |success, failure, delay| Notify::On(NotifyOn { success, failure, delay });
    let notify = [Notify::Default, Notify::Never, on(true, false, false), on(false, true, false)];
    let envelope = envelope("a@example.net", &notify);
    let all = |outcome: Outcome| (0..4).map(|index| (index, outcome.clone())).collect::<Vec<_>>();
    let told = |outcome| owed(&attempt(&envelope, &delivery(&envelope), &all(outcome), HOUR));
    assert_eq!(told(Outcome::Failed(permanent())), [0, 3]);
    assert_eq!(told(delivered(false)), [2], "relayed to a host that does not report");
    assert_eq!(told(delivered(true)), Vec::<u32>::new(), "the next host reports");
}

#[test]
fn a_delay_is_told_once_after_four_hours_to_who_wants_it() {
    let deferred = [(0, Outcome::Deferred(temporary()))];
    let tells = |notify, after, state: &dyn Fn(Delivery) -> Delivery| {
        let envelope = envelope("a@example.net", &[notify]);
        attempt(&envelope, &state(delivery(&envelope)), &deferred, after).tell_delay
    };
    assert!(!tells(Notify::Default, 3 * HOUR, &|d| d));
    assert!(tells(Notify::Default, 4 * HOUR, &|d| d));
    assert!(!tells(Notify::Default, 4 * HOUR, &|d| Delivery { delay_told: true, ..d }));
    assert!(!tells(Notify::Never, 4 * HOUR, &|d| d));
    let failure = Notify::On(NotifyOn { failure: true, ..NotifyOn::default() });
    assert!(!tells(failure, 4 * HOUR, &|d| d));
}

#[test]
fn a_resting_lane_puts_off_to_its_end_at_least() {
    let envelope = envelope("a@example.net", &[Notify::Default]);
    let retry = exact();
    let circumstances = Circumstances { not_before: START + 2 * HOUR, ..at(&retry, HOUR) };
    let happening = Happening::Fault(&temporary());
    let verdict = decide(&envelope, &delivery(&envelope), happening, None, &circumstances, &Randomness::seeded(1));
    assert_eq!(verdict.into[0].schedule, Schedule::At(START + 2 * HOUR));
    assert_eq!((verdict.into[0].attempts, verdict.into[0].last.clone()), (1, Some(temporary())));
}

#[test]
fn a_rest_beyond_the_expiry_does_not_put_off_the_news() {
    let envelope = envelope("a@example.net", &[Notify::Default]);
    let retry = exact();
    let expires = retry.expires(START, shaping::Purpose::Mail);
    let circumstances = Circumstances { not_before: expires + HOUR, ..at(&retry, HOUR) };
    let happening = Happening::Fault(&temporary());
    let verdict = decide(&envelope, &delivery(&envelope), happening, None, &circumstances, &Randomness::seeded(1));
    assert_eq!(verdict.into[0].schedule, Schedule::At(expires));
}

#[test]
fn a_greeting_that_refuses_bounces_nothing_but_names_without_addresses_do() {
    let envelope = envelope("a@example.net", &[Notify::Default]);
    let retry = exact();
    let becomes = |fault: &Fault| {
        let happening = Happening::Fault(fault);
        let randomness = Randomness::seeded(1);
        let verdict = decide(&envelope, &delivery(&envelope), happening, None, &at(&retry, HOUR), &randomness);
        verdict.tidings[0].outcome.word()
    };
    let greeting = Fault {
        reply: Reply::new(554, None, "go away"),
        by: FaultSource::Peer { host: "mx.example.org".into(), address: None },
    };
    assert_eq!(becomes(&greeting), "deferred");
    assert_eq!(becomes(&permanent()), "failed");
}

#[test]
fn a_clock_under_suspicion_ends_nothing() {
    let envelope = envelope("a@example.net", &[Notify::Default]);
    let retry = exact();
    let circumstances = Circumstances { may_expire: false, ..at(&retry, 1000 * HOUR) };
    let happening = Happening::Attempt(&[(0, Outcome::Deferred(temporary()))]);
    let verdict = decide(&envelope, &delivery(&envelope), happening, None, &circumstances, &Randomness::seeded(1));
    assert_eq!(verdict.into[0].schedule, Schedule::At(START + 1000 * HOUR + Duration::from_secs(300)));
    assert!(!verdict.tell_delay, "nor does it worry anybody");
}

#[test]
fn an_order_counts_when_the_attempt_is_over() {
    let envelope = envelope("a@example.net", &[Notify::Default; 3]);
    let act = Act { author: "root".into(), reason: "test".into(), at: START };
    let outcomes = [(0, delivered(false)), (1, Outcome::Deferred(temporary())), (2, Outcome::Deferred(temporary()))];
    let retry = exact();
    let with = |kind| {
        let order = Order { kind, act: act.clone(), recipients: vec![0, 1] };
        let happening = Happening::Attempt(&outcomes);
        let randomness = Randomness::seeded(1);
        decide(&envelope, &delivery(&envelope), happening, Some(&order), &at(&retry, HOUR), &randomness)
    };
    let removed = with(OrderKind::Remove);
    let status = |index: usize| removed.into[0].recipients[index].status.clone();
    assert!(matches!(status(0), RecipientStatus::Final { outcome: Outcome::Delivered(_), .. }), "it was faster");
    assert!(matches!(status(1), RecipientStatus::Final { outcome: Outcome::Removed(_), notice: Notice::NotOwed }));
    assert_eq!(status(2), RecipientStatus::Pending);
    let held = with(OrderKind::Hold);
    let [goes_on, held] = held.into.as_slice() else { panic!("one goes on, one is held") };
    assert_eq!(held.schedule, Schedule::Held(act.clone()));
    assert_eq!(held.recipients.iter().map(|r| r.index).collect::<Vec<_>>(), [1]);
    assert!(matches!(goes_on.schedule, Schedule::At(_)));
}

#[test]
fn a_report_told_finishes_its_delivery() {
    let envelope = envelope("a@example.net", &[Notify::Default]);
    let verdict = attempt(&envelope, &delivery(&envelope), &[(0, Outcome::Failed(permanent()))], HOUR);
    let [owes] = verdict.into.as_slice() else { panic!("one delivery") };
    assert!(owes.owes_notice() && is_notice(&owes.destination));
    let told = told(owes.clone());
    assert_eq!(told.schedule, Schedule::Finished);
    assert!(!told.owes_notice());
}

proptest! {
    /// Whatever happens, every recipient stays in exactly one delivery, what is pending is scheduled or held, what is
    /// owed is scheduled, and only what is over is finished.
    #[test]
    fn no_recipient_gets_lost(
        fates in proptest::collection::vec((0u8..6, any::<bool>()), 1..12),
        order in proptest::option::of((any::<bool>(), proptest::collection::vec(0u32..12, 0..6))),
        hours in 0u32..200,
        null in any::<bool>(),
        intervals in proptest::collection::vec(1u64..100_000, 1..4),
    ) {
        let notify: Vec<Notify> = fates.iter().map(|(_, wants)| if *wants {
            Notify::On(NotifyOn { success: true, failure: true, delay: true })
        } else {
            Notify::Never
        }).collect();
        let envelope = envelope(if null { "" } else { "a@example.net" }, &notify);
        let outcomes: Vec<(u32, Outcome)> = (0..).zip(&fates).filter_map(|(index, (fate, _))| Some((index, match fate {
            0 => delivered(false),
            1 => delivered(true),
            2 => Outcome::Failed(permanent()),
            3 | 4 => Outcome::Deferred(temporary()),
            _ => return None,
        }))).collect();
        let act = Act { author: "root".into(), reason: "test".into(), at: START };
        let order = order.map(|(hold, recipients)| {
            let kind = if hold { OrderKind::Hold } else { OrderKind::Remove };
            Order { kind, act: act.clone(), recipients }
        });
        let intervals: Vec<Duration> = intervals.into_iter().map(Duration::from_secs).collect();
        let retry = RetrySchedule { intervals: Intervals::listed(intervals).unwrap(), ..RetrySchedule::default() };
        let circumstances = at(&retry, hours * HOUR);
        let randomness = Randomness::seeded(3);
        let happening = Happening::Attempt(&outcomes);
        let verdict = decide(&envelope, &delivery(&envelope), happening, order.as_ref(), &circumstances, &randomness);
        let mut all: Vec<u32> = verdict.into.iter().flat_map(|d| d.recipients.iter().map(|r| r.index)).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..envelope.recipients.len() as u32).collect::<Vec<_>>());
        for part in &verdict.into {
            let pending = part.recipients.iter().any(is_pending);
            match &part.schedule {
                Schedule::Finished => prop_assert!(!pending && !part.owes_notice()),
                Schedule::Held(_) => prop_assert!(pending && order.is_some()),
                Schedule::At(due) => {
                    prop_assert!(pending != part.owes_notice());
                    prop_assert_eq!(is_notice(&part.destination), !pending);
                    prop_assert!(*due >= circumstances.now && *due < Timestamp::MAX);
                }
            }
            prop_assert!(!(null && part.owes_notice()), "nobody tells <>");
        }
    }
}
