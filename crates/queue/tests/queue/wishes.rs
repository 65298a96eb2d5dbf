//! What senders ask for: later, in time, sooner than others, over TLS.

use std::time::Duration;

use mail::{Act, ByMode, Clock, DeliverBy, Event, MessageId, Outcome, TlsDemand};
use queue::{Action, Selection, State};

use crate::house::{Does, HOUR, House, MINUTE};

const SENDER: &str = "s@sender.example";

async fn limited(house: &House, after: Duration, mode: ByMode) -> MessageId {
    let mut envelope = house.envelope(SENDER, &["a@example.org"]);
    envelope.deliver_by = Some(DeliverBy { by: envelope.received_at + after, mode, trace: false });
    house.submit(envelope).await
}

/// The text of the report that the sender got.
async fn report(house: &House) -> String {
    house.until(|peers| peers.attempts_for(SENDER) == 1).await;
    let report = house.peers.attempts().into_iter().find(|attempt| attempt.recipient == SENDER).unwrap();
    let content = house.store.content(report.message).await.unwrap().unwrap().collect().await.unwrap();
    String::from_utf8(content.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_to_leave_later_waits_over_restarts_and_its_age_counts_from_then() {
    let mut house = House::new(|_| ()).await;
    house.start();
    let mut envelope = house.envelope(SENDER, &["a@example.org"]);
    let release = envelope.received_at + 200 * HOUR;
    envelope.release_at = Some(release);
    house.peers.set("a@example.org", Does::Defer);
    let id = house.submit(envelope).await;
    house.advance(100 * HOUR).await;
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.advance(99 * HOUR).await;
    let shown = house.queue.show(id).await.unwrap().unwrap();
    assert_eq!((shown.release_at, shown.deliveries[0].state), (Some(release), State::Scheduled));
    house.queue.act(Action::Retry, &Selection::everything(), "root", "now").await.unwrap();
    assert_eq!(house.peers.attempts().len(), 0, "a retry does not change what the sender wants");
    house.advance(HOUR + MINUTE).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    assert!(house.peers.attempts()[0].at >= release);
    house.peers.set("a@example.org", Does::Accept);
    house.advance(5 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.outcomes("expired"), 0, "it is older than any mail may be, but not since its release");
}

#[tokio::test(start_paused = true)]
async fn what_is_released_from_hold_still_waits_for_the_time_that_its_sender_set() {
    let mut house = House::new(|_| ()).await;
    house.start();
    let mut envelope = house.envelope(SENDER, &["a@example.org"]);
    let release = envelope.received_at + HOUR;
    envelope.release_at = Some(release);
    let id = house.submit(envelope).await;
    house.queue.act(Action::Hold, &Selection::message(id), "root", "wait").await.unwrap();
    house.queue.act(Action::Release, &Selection::message(id), "root", "go").await.unwrap();
    house.advance(50 * MINUTE).await;
    assert_eq!(house.peers.attempts().len(), 0);
    house.advance(11 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert!(house.peers.attempts()[0].at >= release);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_go_back_goes_back_at_the_time_without_another_attempt() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = limited(&house, 7 * MINUTE, ByMode::Return).await;
    let shown = house.queue.show(id).await.unwrap().unwrap();
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    assert_eq!(shown.deliver_by, Some(shown.received_at + 7 * MINUTE));
    house.peers.set(SENDER, Does::Hang);
    house.advance(8 * MINUTE).await;
    let text = report(&house).await;
    for part in ["Action: failed", "Status: 5.4.7", "within the time that the sender set", "The time within which"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(house.peers.attempts_for("a@example.org"), 2, "at once and after five minutes");
    assert_eq!(house.peers.outcomes("expired"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_go_back_does_so_also_if_it_never_got_its_turn() {
    let mut house = House::new(|settings| settings.limits.per_site = 1).await;
    house.start();
    house.peers.set("b@example.org", Does::Hang);
    // The report must still be there when it is read.
    house.peers.set(SENDER, Does::Hang);
    house.send(SENDER, &["b@example.org"]).await;
    house.until(|peers| peers.attempts_for("b@example.org") == 1).await;
    limited(&house, 7 * MINUTE, ByMode::Return).await;
    house.advance(8 * MINUTE).await;
    house.until(|peers| peers.outcomes("expired") == 1).await;
    assert_eq!(house.peers.attempts_for("a@example.org"), 0);
    let text = report(&house).await;
    assert!(text.contains("Status: 5.4.7"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_hear_of_a_delay_hears_of_it_once_at_the_time_and_it_goes_on() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    house.peers.set(SENDER, Does::Hang);
    let id = limited(&house, 7 * MINUTE, ByMode::Notify).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.advance(6 * MINUTE).await;
    assert_eq!(house.peers.reports("delayed"), 0);
    house.advance(2 * MINUTE).await;
    let text = report(&house).await;
    for part in ["Action: delayed", "Status: 4.4.7", "451 4.2.1"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    house.advance(10 * HOUR).await;
    assert_eq!(house.peers.reports("delayed"), 1);
    house.peers.set("a@example.org", Does::Accept);
    house.advance(5 * HOUR).await;
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_urgent_overtakes_what_waits_for_the_same_lane() {
    let mut house = House::new(|settings| settings.limits.per_site = 1).await;
    house.start();
    house.peers.set("first@example.org", Does::Hang);
    house.send(SENDER, &["first@example.org"]).await;
    house.until(|peers| peers.attempts_for("first@example.org") == 1).await;
    for (to, priority) in [("low@example.org", -4), ("plain@example.org", 0), ("urgent@example.org", 6)] {
        let mut envelope = house.envelope(SENDER, &[to]);
        envelope.priority = priority;
        house.submit(envelope).await;
    }
    house.peers.set("first@example.org", Does::Accept);
    house.until(|peers| peers.outcomes("delivered") == 4).await;
    let order: Vec<_> = house.peers.attempts().into_iter().map(|attempt| attempt.recipient).collect();
    assert_eq!(order, ["first@example.org", "urgent@example.org", "plain@example.org", "low@example.org"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_on_arrival_is_held_from_the_first_moment_on() {
    let mut house = House::new(|_| ()).await;
    house.start();
    let envelope = house.envelope(SENDER, &["a@example.org"]);
    let act = Act { author: "spike".into(), reason: "100 times as much as usual".into(), at: house.clock.now() };
    let content = house.store.intake(None).unwrap();
    let id = house.queue.submit_held(envelope, "Received: by test\r\n".into(), content, act.clone()).await.unwrap();
    let shown = house.queue.show(id).await.unwrap().unwrap();
    assert_eq!(shown.deliveries[0].held, Some(act));
    assert!(house.peers.events().iter().any(|event| matches!(event, Event::Held { message, .. } if *message == id)));
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.advance(24 * HOUR).await;
    assert!(house.peers.attempts().is_empty());
    house.queue.act(Action::Release, &Selection::everything(), "root", "it is real").await.unwrap();
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_report_about_what_required_tls_requires_it_too_and_returns_the_header_alone() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Refuse);
    house.peers.set(SENDER, Does::Hang);
    let mut envelope = house.envelope(SENDER, &["a@example.org"]);
    (envelope.tls, envelope.ret, envelope.priority) = (TlsDemand::Required, Some(mail::Ret::Full), 3);
    house.submit(envelope).await;
    let text = report(&house).await;
    assert!(text.contains("Subject: the subject") && !text.contains("the text"), "{text}");
    let report = house.peers.attempts().into_iter().find(|attempt| attempt.recipient == SENDER).unwrap();
    let stored = house.store.message(report.message).await.unwrap().unwrap();
    assert_eq!((stored.envelope.tls, stored.envelope.priority), (TlsDemand::Required, 3));
    let failed = |event: &Event| matches!(event, Event::Attempted { outcome: Outcome::Failed(_), .. });
    assert!(house.peers.events().iter().any(failed));
}
