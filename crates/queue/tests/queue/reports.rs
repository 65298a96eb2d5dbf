//! What senders are told, and how often.

use mail::{Destination, EnhancedCode, Event, Fault, MessageId, Notify, NotifyOn, Outcome};
use store::{Delivery, DeliveryRecipient, NewMessage, Notice, RecipientStatus, Schedule};

use crate::house::{Does, HOUR, House, MINUTE};

const SENDER: &str = "s@sender.example";

fn asks(success: bool, failure: bool, delay: bool) -> Notify {
    Notify::On(NotifyOn { success, failure, delay })
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_once_with_what_the_server_said() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Refuse);
    house.peers.set(SENDER, Does::Hang);
    let id = house.send(SENDER, &["a@example.org", "b@example.org"]).await;
    house.until(|peers| peers.attempts_for(SENDER) == 1).await;
    let report = house.peers.attempts().into_iter().find(|attempt| attempt.recipient == SENDER).unwrap();
    assert!(report.from_null);
    let content = house.store.content(report.message).await.unwrap().unwrap().collect().await.unwrap();
    let text = String::from_utf8(content.to_vec()).unwrap();
    for part in ["Action: failed", "a@example.org", "550 5.1.1 no such user", "Subject: the subject", "the text"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(!text.contains("b@example.org"), "the other recipient got it");
    house.peers.set(SENDER, Does::Accept);
    house.until_empty().await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!((house.peers.reports("failed"), house.peers.attempts_for(SENDER)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_who_does_not_want_it_or_is_nobody() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Refuse);
    house.send_notify(SENDER, "a@example.org", Notify::Never).await;
    house.send_notify(SENDER, "a@example.org", asks(true, false, true)).await;
    house.send("", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("failed") == 3).await;
    house.until_empty().await;
    assert_eq!(house.peers.attempts_for(SENDER), 0);
}

#[tokio::test(start_paused = true)]
async fn success_is_reported_when_asked_and_nobody_else_does() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.send_notify(SENDER, "a@example.org", asks(true, false, false)).await;
    house.until(|peers| peers.reports("relayed") == 1).await;
    house.peers.set("b@example.org", Does::AcceptDsn);
    house.send_notify(SENDER, "b@example.org", asks(true, false, false)).await;
    house.send(SENDER, &["c@example.org"]).await;
    house.until(|peers| peers.outcomes("delivered") == 4).await;
    house.until_empty().await;
    assert_eq!(house.peers.attempts_for(SENDER), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_reported_once_and_the_end_too() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    house.send(SENDER, &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.advance(3 * HOUR).await;
    assert_eq!(house.peers.reports("delayed"), 0, "three hours are no delay worth a word");
    for _ in 0..40 {
        if house.peers.outcomes("expired") == 1 {
            break;
        }
        let before = house.peers.attempts_for("a@example.org");
        house.advance(4 * HOUR).await;
        house.until(|peers| peers.attempts_for("a@example.org") > before).await;
        house.until(|peers| peers.outcomes("deferred") + peers.outcomes("expired") > before).await;
    }
    house.until(|peers| peers.reports("failed") == 1).await;
    house.until_empty().await;
    assert_eq!((house.peers.reports("delayed"), house.peers.attempts_for(SENDER)), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_bounce_that_cannot_be_delivered_ends_in_silence() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Refuse);
    house.peers.set(SENDER, Does::Refuse);
    house.send(SENDER, &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("failed") == 2).await;
    house.until_empty().await;
    assert_eq!(house.peers.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn names_that_do_not_exist_fail_and_trouble_defers() {
    let mut house = House::new(|_| ()).await;
    house.dns.null_mx("null.example").temporary("trouble.example");
    house.start();
    let to = ["a@nowhere.example", "b@null.example", "c@trouble.example"];
    house.send(SENDER, &to).await;
    house.until(|peers| peers.outcomes("failed") == 2 && peers.outcomes("deferred") == 1).await;
    let said = |word: &str| {
        let mut said = Vec::new();
        for event in house.peers.events() {
            if let Event::Attempted { outcome: Outcome::Failed(fault) | Outcome::Deferred(fault), recipient, .. } =
                event
            {
                said.push((recipient.to_string(), fault.reply.status().to_string()));
            }
        }
        said.into_iter().find(|(recipient, _)| recipient.contains(word)).map(|(_, status)| status)
    };
    assert_eq!(said("nowhere").as_deref(), Some("5.1.2"));
    assert_eq!(said("null").as_deref(), Some("5.1.10"));
    assert_eq!(said("trouble").as_deref(), Some("4.4.3"));
    house.until(|peers| peers.attempts_for(SENDER) == 2).await;
    house.dns.forget("trouble.example").mx("trouble.example", 10, "mx.example.net");
    house.advance(5 * MINUTE + MINUTE).await;
    house.until(|peers| peers.outcomes("delivered") == 3).await;
}

/// As after a crash between the outcome and its report.
#[tokio::test(start_paused = true)]
async fn a_report_that_was_owed_before_a_crash_is_made_after_it_once() {
    let house = House::new(|_| ()).await;
    let envelope = house.envelope(SENDER, &["a@example.org"]);
    let id: MessageId = envelope.id;
    let outcome = Outcome::Failed(Fault::local(550, EnhancedCode::new(5, 1, 1), "no such user"));
    let owes = Delivery {
        destination: Destination::new("notice:mx:example.org"),
        recipients: vec![DeliveryRecipient {
            index: 0,
            status: RecipientStatus::Final { outcome, notice: Notice::Owed },
        }],
        schedule: Schedule::At(envelope.received_at),
        attempts: 1,
        last: None,
        delay_told: false,
    };
    let mut content = house.store.intake(None).unwrap();
    content.write(bytes::Bytes::from_static(b"Subject: x\r\n\r\ny\r\n")).await.unwrap();
    let envelope = std::sync::Arc::new(envelope);
    let message = NewMessage { id, envelope, trace: bytes::Bytes::new(), content, deliveries: vec![owes] };
    house.store.commit(message, Vec::new()).await.unwrap();
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.until(|peers| peers.attempts_for(SENDER) == 1 && peers.finished(id) == 1).await;
    house.until_empty().await;
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.advance(MINUTE).await;
    assert_eq!((house.peers.reports("failed"), house.peers.attempts().len()), (1, 1));
}
