//! No more memory for content.

use crate::clients::{Ledger, ask, metric};
use crate::harness::{Client, Postrider, Setup, Sink, wait_for};

#[test]
fn too_much_content_in_flight_puts_clients_off_and_passes() {
    let sink = Sink::start();
    let setup = Setup::to(&sink).table("[connections]\nin_flight = \"2MiB\"\npatience = \"300ms\"");
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();

    // Eight messages of which the end is still to come hold all of it.
    let most = "all work and no play\r\n".repeat(14_000);
    let mut holders: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for (number, client) in holders.iter_mut().enumerate() {
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say(&format!("RCPT TO:<holder{number}@example.net>"), 250);
        client.say("DATA", 354);
        client.write(format!("Subject: hi\r\n\r\n{most}").as_bytes());
    }
    wait_for("memory in use", || {
        (metric(&server, "postrider_reception_in_flight_bytes") >= f64::from(2 << 20)).then_some(())
    });
    let mut other = server.client();
    let refused = ledger.post_by(&mut other, "during", "hello").expect_err("no memory is left");
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    server.wait("the reason", |line| line["event"] == "no room for a message" && line["reason"] == "in_flight");
    assert!(metric(&server, "postrider_reception_messages_refused_total{reason=\"in_flight\"}") >= 1.0);

    // Those who have their memory are not disturbed, and the same client is served once they are done.
    for (number, mut client) in holders.into_iter().enumerate() {
        ask(&mut client, ".", '2').expect("what has begun goes on");
        ledger.acknowledged(format!("holder{number}@example.net"));
    }
    other.say("RSET", 250);
    ledger.post_by(&mut other, "after", "hello").expect("there is memory again");
    ledger.settle(&sink);
    assert_eq!(metric(&server, "postrider_reception_in_flight_bytes"), 0.0);
    server.stop();
}
