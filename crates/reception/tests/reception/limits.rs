//! What bounds clients.

use std::time::Duration;

use crate::testing::{Client, Server, listener, settings, until};

#[tokio::test]
async fn connections_are_limited_in_total() {
    let mut settings = settings();
    settings.connections.total = 2;
    let server = Server::start(settings);
    let first = server.connect().await.greeted().await;
    let _second = server.connect().await.greeted().await;
    let mut third = server.connect().await;
    third.expect("421 4.3.2 ").await;
    third.expect_end().await;
    assert_eq!(server.count(|m| &m.connections_refused, "total"), 1);
    drop(first);
    until(|| server.metrics.sessions.get() == 1).await;
    server.connect().await.greeted().await;
}

#[tokio::test]
async fn connections_are_limited_per_address_and_network() {
    let mut settings = settings();
    settings.connections.per_address = 1;
    settings.connections.per_ipv4_network = 2;
    let server = Server::start(settings);
    let at = server.address();
    let _one = Client::connect_from("127.0.0.1", at).await.greeted().await;
    Client::connect_from("127.0.0.1", at).await.expect("421 4.7.0 too many connections from your address").await;
    let _two = Client::connect_from("127.0.0.2", at).await.greeted().await;
    Client::connect_from("127.0.0.3", at).await.expect("421 4.7.0 too many connections from your network").await;
    let _elsewhere = Client::connect_from("127.0.1.1", at).await.greeted().await;
    assert_eq!(server.count(|m| &m.connections_refused, "address"), 1);
    assert_eq!(server.count(|m| &m.connections_refused, "ipv4_network"), 1);
}

#[tokio::test]
async fn behind_a_proxy_the_clients_are_counted() {
    let mut settings = settings();
    settings.connections.per_address = 1;
    settings.connections.per_ipv6_network = 2;
    settings.listeners[0].proxy_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    let server = Server::start(settings);
    let mut open = Vec::new();
    for (client_address, expected) in [
        ("2001:db8::1", "220 "),
        ("2001:db8::1", "421 4.7.0 "),
        ("2001:db8::2", "220 "),
        ("2001:db8::3", "421 4.7.0 "),
        ("2001:db8:0:1::3", "220 "),
    ] {
        let mut client = server.connect().await;
        client.say(format!("PROXY TCP6 {client_address} 2001:db8::ff 4711 25\r\n")).await;
        client.expect(expected).await;
        open.push(client);
    }
    assert_eq!(server.count(|m| &m.connections_refused, "ipv6_network"), 1);
}

#[tokio::test]
async fn for_clients_that_may_relay_only_the_total_counts() {
    let mut settings = settings();
    settings.connections.per_address = 1;
    settings.listeners[0].relay.networks = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    let server = Server::start(settings);
    let _one = server.connect().await.greeted().await;
    let _two = server.connect().await.greeted().await;
}

#[tokio::test]
async fn content_waits_for_memory() {
    let mut settings = settings();
    settings.in_flight = 20 << 10;
    let server = Server::start(settings);
    let mut first = server.connect().await.greeted().await.in_data().await;
    let mut second = server.connect().await.greeted().await;
    second.say("MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n").await;
    until(|| server.metrics.in_flight_waits.get() == 1).await;
    assert!(!second.has_input());
    first.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
    second.expect("250 ").await;
    second.expect("250 ").await;
    second.expect("354 ").await;
    second.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
}

#[tokio::test]
async fn content_is_refused_when_memory_stays_short() {
    let mut settings = settings();
    settings.in_flight = 20 << 10;
    settings.patience = Duration::from_millis(20);
    let server = Server::start(settings);
    let mut first = server.connect().await.greeted().await.in_data().await;
    let mut second = server.connect().await.greeted().await;
    second.ask("MAIL FROM:<>", "250 ").await;
    second.ask("RCPT TO:<b@example.org>", "250 ").await;
    second.ask("DATA", "452 4.3.1 ").await;
    assert_eq!(server.count(|m| &m.messages_refused, "in_flight"), 1);
    first.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
    second.ask("RSET", "250 ").await;
    second.in_data().await;
}

#[tokio::test]
async fn a_message_that_outgrows_the_memory_is_refused_at_its_end() {
    let mut settings = settings();
    settings.in_flight = 256 << 10;
    settings.patience = Duration::from_millis(20);
    let mut server = Server::start(settings);
    let mut sitting = server.connect().await.greeted().await.in_data().await;
    let mut growing = server.connect().await.greeted().await.in_data().await;
    growing.say(format!("Subject: big\r\n\r\n{}", "0123456789\r\n".repeat(10_000))).await;
    growing.ask(".", "452 4.3.1 ").await;
    sitting.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
    assert_eq!(server.arrived().await.content, "Subject: hi\r\n\r\n");
    assert!(server.nothing_arrived());
    // Now that it is alone, all that its network may have is its own.
    let mut growing = growing.in_data().await;
    growing.say(format!("Subject: big\r\n\r\n{}", "0123456789\r\n".repeat(10_000))).await;
    growing.ask(".", "250 2.0.0 ").await;
}

#[tokio::test]
async fn a_slow_client_is_cut() {
    let mut settings = settings();
    settings.listeners[0].session.limits.command_time = Duration::from_millis(30);
    settings.listeners[0].session.limits.content_idle = Duration::from_millis(30);
    let server = Server::start(settings);
    let mut client = server.connect().await;
    client.expect("220 ").await;
    client.say("EHL").await;
    client.expect("421 4.4.2 ").await;
    client.expect_end().await;
    let mut client = server.connect().await;
    client.expect("220 ").await;
    client.say("EHLO x.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n").await;
    until(|| server.metrics.sessions.get() == 0).await;
    assert_eq!(server.count(|m| &m.closed, "command_time"), 1);
    assert_eq!(server.metrics.in_flight_bytes.get(), 0);
}

#[tokio::test]
async fn content_that_stalls_is_cut() {
    let mut settings = settings();
    settings.listeners[0].session.limits.content_idle = Duration::from_millis(30);
    let server = Server::start(settings);
    let mut client = server.connect().await.greeted().await.in_data().await;
    client.say("Subject: hi\r\n\r\nand then").await;
    client.expect("421 4.4.2 ").await;
    client.expect_end().await;
    assert_eq!(server.count(|m| &m.closed, "content_idle"), 1);
    assert_eq!(server.metrics.in_flight_bytes.get(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let mut settings = settings();
    let limits = &mut settings.listeners[0].session.limits;
    limits.command_time = Duration::from_millis(200);
    limits.junk = u32::MAX;
    limits.commands = u32::MAX;
    let server = Server::start(settings);
    let mut client = server.connect().await.greeted().await;
    client.flood(&b"RSET\r\n".repeat(1000), 200 << 20).await;
    until(|| server.metrics.sessions.get() == 0).await;
    assert_eq!(server.count(|m| &m.closed, "disconnected"), 1);
}

#[tokio::test]
async fn errors_are_answered_ever_later() {
    let mut settings = settings();
    let mut slow = listener();
    slow.session.limits.errors = 3;
    slow.session.limits.errors_undelayed = 1;
    slow.session.limits.delay = Duration::from_millis(20);
    settings.listeners = vec![slow];
    let server = Server::start(settings);
    let mut client = server.connect().await.greeted().await;
    let begun = std::time::Instant::now();
    for _ in 0..3 {
        client.ask("NONSENSE", "500 ").await;
    }
    // The second waits for 20 ms, the third for 40 ms: a lower bound holds on any machine.
    assert!(begun.elapsed() >= Duration::from_millis(60));
    client.say("NONSENSE\r\n").await;
    client.expect("500 ").await;
    client.expect("421 4.7.0 ").await;
    client.expect_end().await;
    assert_eq!(server.count(|m| &m.closed, "errors"), 1);
}
