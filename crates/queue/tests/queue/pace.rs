//! Who waits for whom: tenants, lanes, windows, connections.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::house::{Does, HOUR, House, MINUTE};

const SENDER: &str = "s@sender.example";

#[tokio::test(start_paused = true)]
async fn a_dead_lane_delays_no_other_and_costs_one_connection_per_rest() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("mx.example.org", Does::Dead);
    for _ in 0..30 {
        house.send(SENDER, &["a@example.org"]).await;
    }
    let id = house.send(SENDER, &["b@example.com"]).await;
    house.until(|peers| peers.finished(id) == 1 && peers.outcomes("deferred") == 30).await;
    let before = house.peers.connections.load(Ordering::SeqCst);
    assert!(before <= 3, "{before} connections");
    house.advance(5 * MINUTE + MINUTE).await;
    house.until(|peers| peers.outcomes("deferred") == 60).await;
    let after = house.peers.connections.load(Ordering::SeqCst);
    assert!(after <= before + 3, "{} connections for 30 retries", after - before);
    house.peers.set("mx.example.org", Does::Accept);
    house.advance(HOUR).await;
    house.until(|peers| peers.outcomes("delivered") == 31).await;
    house.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_much_mail_does_not_bury_another() {
    let mut house = House::new(|settings| settings.limits.per_site = 1).await;
    house.start();
    house.peers.set("mx.example.org", Does::Hang);
    for _ in 0..100 {
        let mut envelope = house.envelope(SENDER, &["bulk@example.org"]);
        envelope.tenant = Some("bulk".into());
        house.submit(envelope).await;
    }
    let mut envelope = house.envelope(SENDER, &["reset@example.org"]);
    envelope.tenant = Some("shop".into());
    house.submit(envelope).await;
    house.peers.set("mx.example.org", Does::Accept);
    house.until(|peers| peers.outcomes("delivered") == 101).await;
    let position = house.peers.attempts().iter().position(|attempt| attempt.recipient.starts_with("reset")).unwrap();
    assert!(position <= 16, "the password reset came after {position}");
    assert_eq!(house.peers.connections.load(Ordering::SeqCst), 1, "and one connection took them all");
}

#[tokio::test(start_paused = true)]
async fn memory_stays_bounded_and_everything_arrives() {
    let mut house = House::new(|settings| {
        settings.windows.total = 40;
        settings.windows.destination = 10;
        settings.windows.riders = 5;
    })
    .await;
    house.start();
    house.peers.set("mx.example.org", Does::Hang);
    for _ in 0..300 {
        house.send(SENDER, &["a@example.org"]).await;
    }
    assert!(house.queue.gauges().in_memory <= 40);
    let id = house.send(SENDER, &["b@example.com"]).await;
    house.until(|peers| peers.finished(id) == 1).await;
    house.peers.set("mx.example.org", Does::Accept);
    for _ in 0..200 {
        house.advance(Duration::from_secs(1)).await;
        assert!(house.queue.gauges().in_memory <= 40);
        if house.peers.outcomes("delivered") == 301 {
            break;
        }
    }
    house.until(|peers| peers.outcomes("delivered") == 301).await;
    assert_eq!(house.peers.attempts().len(), 301, "none was attempted twice");
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_a_little_for_more_work() {
    let mut house = House::new(|_| ()).await;
    house.start();
    for _ in 0..5 {
        let id = house.send(SENDER, &["a@example.org"]).await;
        house.until(|peers| peers.finished(id) == 1).await;
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert_eq!(house.peers.connections.load(Ordering::SeqCst), 1);
    house.advance(Duration::from_secs(5)).await;
    assert_eq!(house.queue.gauges().connections, 0, "but not for ever");
    let id = house.send(SENDER, &["a@example.org"]).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn domains_of_one_provider_share_a_lane_and_are_looked_up_once() {
    let mut house = House::new(|_| ()).await;
    house.dns.mx("one.example", 10, "mx.example.net").mx("two.example", 20, "mx.example.net");
    house.start();
    let id = house.send(SENDER, &["a@one.example", "b@two.example"]).await;
    house.until(|peers| peers.finished(id) == 1).await;
    for _ in 0..20 {
        house.send(SENDER, &["a@one.example"]).await;
    }
    house.until(|peers| peers.outcomes("delivered") == 22).await;
    assert!(house.peers.attempts().iter().all(|attempt| attempt.site == "mx.example.net"));
    assert_eq!(house.dns.asked("one.example"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_an_outcome_is_told_strands_nothing() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    house.peers.panic_at_next_attempt();
    let id = house.send(SENDER, &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.peers.set("a@example.org", Does::Accept);
    house.advance(6 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.attempts_for("a@example.org"), 2);
    assert_eq!(house.queue.gauges().aside, 0);
}
