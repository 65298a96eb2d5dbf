//! Who may come in, for whom, and in whose name.

use std::time::Duration;

use crate::testing::{Client, Server, settings, until};

fn behind_a_proxy() -> reception::Settings {
    let mut settings = settings();
    settings.listeners[0].proxy_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    settings
}

/// Version 2 for an IPv4 client.
fn binary_header(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client);
    header.extend([198, 51, 100, 1, 0x12, 0x67, 0, 25]);
    header
}

#[tokio::test]
async fn both_versions_of_the_proxy_protocol_name_the_client() {
    let mut server = Server::start(behind_a_proxy());
    let text = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n".to_vec();
    for (header, peer, name) in [
        (text, "[2001:db8::7]:4711", "([IPv6:2001:db8::7])"),
        (binary_header([203, 0, 113, 5]), "203.0.113.5:4711", "([203.0.113.5])"),
    ] {
        let mut client = server.connect().await;
        // The header comes in two pieces: its end is found all the same.
        client.say(&header[..9]).await;
        client.say(&header[9..]).await;
        let mut client = client.greeted().await.in_data().await;
        client.ask("Subject: hi\r\n\r\n.", "250 ").await;
        let arrived = server.arrived().await;
        assert_eq!(arrived.envelope.origin.peer, peer.parse().unwrap());
        assert!(arrived.trace.contains(name), "{}", arrived.trace);
    }
}

#[tokio::test]
async fn a_listed_proxy_must_send_its_header() {
    let server = Server::start(behind_a_proxy());
    for (input, reason) in [
        ("EHLO client.example\r\n", "proxy_missing"),
        ("PROXY TCP4 nonsense\r\n", "proxy_invalid"),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 25 and so on, until it is longer than any header of version one may be, which is 107",
            "proxy_invalid",
        ),
    ] {
        let mut client = server.connect().await;
        client.say(input).await;
        client.expect("554 5.7.0 ").await;
        client.expect_end().await;
        assert!(server.count(|m| &m.connections_refused, reason) > 0, "{reason}");
    }
}

#[tokio::test]
async fn a_listed_proxy_must_send_its_header_soon() {
    let mut settings = behind_a_proxy();
    settings.listeners[0].proxy_time = Duration::from_millis(20);
    let server = Server::start(settings);
    let mut client = server.connect().await;
    client.say("PROXY TCP4 ").await;
    client.expect("554 5.7.0 ").await;
    assert_eq!(server.count(|m| &m.connections_refused, "proxy_time"), 1);
}

#[tokio::test]
async fn a_proxy_that_is_not_listed_is_refused() {
    let mut server = Server::start(settings());
    let headers = [binary_header([203, 0, 113, 5]), b"PROXY TCP4 203.0.113.5 198.51.100.1 4711 25\r\n".to_vec()];
    for header in headers {
        let mut client = server.connect().await;
        client.expect("220 ").await;
        client.say(header).await;
        assert!(!client.reply().await.starts_with('2'));
        client.expect_end().await;
    }
    assert_eq!(server.count(|m| &m.closed, "proxy"), 2);
    // From another address than the listed one.
    let mut server_with_proxy = Server::start(behind_a_proxy());
    let mut client = Client::connect_from("127.0.0.2", server_with_proxy.address()).await;
    client.expect("220 ").await;
    client.ask("PROXY TCP4 203.0.113.5 198.51.100.1 4711 25", "554 5.7.0 ").await;
    client.expect_end().await;
    assert!(server.nothing_arrived() && server_with_proxy.nothing_arrived());
}

#[tokio::test]
async fn clients_behind_a_proxy_are_judged_by_their_own_address() {
    let mut settings = behind_a_proxy();
    settings.listeners[0].relay.networks = ["203.0.113.0/24".parse().unwrap()].into_iter().collect();
    let server = Server::start(settings);
    for (client_address, expected) in [([203, 0, 113, 5], "250 "), ([192, 0, 2, 5], "550 5.7.1 ")] {
        let mut client = server.connect().await;
        client.say(binary_header(client_address)).await;
        let mut client = client.greeted().await;
        client.ask("MAIL FROM:<a@b.example>", "250 ").await;
        client.ask("RCPT TO:<a@elsewhere.example>", expected).await;
    }
}

#[tokio::test]
async fn a_client_that_the_gateway_does_not_know_has_none_of_its_rights() {
    let mut settings = behind_a_proxy();
    settings.listeners[0].relay.networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
    let proxied = Server::start(settings.clone());
    settings.listeners[0].proxy_from = reception::Networks::default();
    settings.listeners[0].xclient_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    let told = Server::start(settings);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), local] {
        let mut client = proxied.connect().await;
        client.say(header).await;
        let mut client = client.greeted().await;
        client.ask("MAIL FROM:<a@b.example>", "250 ").await;
        client.ask("RCPT TO:<a@elsewhere.example>", "550 5.7.1 ").await;
        client.ask("RCPT TO:<a@example.org>", "250 ").await;
    }
    for (attributes, expected) in [
        ("ADDR=[UNAVAILABLE]", "550 5.7.1 "),
        ("NAME=behind.example", "550 5.7.1 "),
        ("ADDR=203.0.113.5", "550 5.7.1 "),
        ("ADDR=127.0.0.9", "250 "),
    ] {
        let mut client = told.connect().await.greeted().await;
        client.ask(&format!("XCLIENT {attributes}"), "220 ").await;
        client.ask("EHLO behind.example", "250-").await;
        client.ask("MAIL FROM:<a@b.example>", "250 ").await;
        client.ask("RCPT TO:<a@elsewhere.example>", expected).await;
    }
}

#[tokio::test]
async fn xclient_is_for_listed_peers() {
    let mut settings = settings();
    settings.listeners[0].xclient_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    settings.listeners[0].relay.networks = ["203.0.113.0/24".parse().unwrap()].into_iter().collect();
    let mut server = Server::start(settings);
    let mut client = server.connect().await.greeted().await;
    client.ask("XCLIENT ADDR=203.0.113.5 PORT=99 HELO=behind.example", "220 ").await;
    client.ask("EHLO ignored.example", "250-").await;
    client.ask("MAIL FROM:<a@b.example>", "250 ").await;
    client.ask("RCPT TO:<a@elsewhere.example>", "250 ").await;
    client.ask("DATA", "354 ").await;
    client.ask("Subject: hi\r\n\r\n.", "250 ").await;
    let arrived = server.arrived().await;
    assert_eq!(arrived.envelope.origin.peer, "203.0.113.5:99".parse().unwrap());
    assert!(arrived.trace.contains("from behind.example ([203.0.113.5])"), "{}", arrived.trace);

    let mut stranger = Client::connect_from("127.0.0.2", server.address()).await.greeted().await;
    stranger.ask("XCLIENT ADDR=203.0.113.5", "550 5.7.0 ").await;
    stranger.ask("MAIL FROM:<a@b.example>", "250 ").await;
    stranger.ask("RCPT TO:<a@elsewhere.example>", "550 5.7.1 ").await;
    assert_eq!(server.count(|m| &m.refused, "xclient"), 1);
}

#[tokio::test]
async fn a_client_named_by_xclient_counts_for_its_address() {
    let mut settings = settings();
    settings.listeners[0].xclient_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    settings.connections.per_address = 1;
    let server = Server::start(settings);
    let mut first = server.connect().await.greeted().await;
    first.ask("XCLIENT ADDR=203.0.113.5", "220 ").await;
    let mut second = server.connect().await.greeted().await;
    second.ask("XCLIENT ADDR=203.0.113.5", "421 4.7.0 ").await;
    second.expect_end().await;
    assert_eq!(server.count(|m| &m.connections_refused, "xclient_limit"), 1);
}

#[tokio::test]
async fn a_client_named_by_xclient_counts_no_longer_for_the_address_before() {
    let mut settings = settings();
    settings.listeners[0].xclient_from = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    settings.listeners[0].relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    settings.connections.per_address = 1;
    let server = Server::start(settings);
    let mut first = server.connect().await.greeted().await;
    first.ask("XCLIENT ADDR=203.0.113.5", "220 ").await;
    first.ask("XCLIENT ADDR=192.0.2.5", "220 ").await;
    let mut second = server.connect().await.greeted().await;
    second.ask("XCLIENT ADDR=203.0.113.5", "220 ").await;
}

#[tokio::test]
async fn nothing_gets_round_relay_control() {
    let mut server = Server::start(settings());
    let mut client = server.connect().await.greeted().await;
    client.ask("MAIL FROM:<a@example.org>", "250 ").await;
    for (recipient, expected) in [
        ("<a@elsewhere.example>", "550 5.7.1 "),
        ("<a%elsewhere.example@example.org>", "550 5.7.1 "),
        (r#"<"a@elsewhere.example"@example.org>"#, "550 5.7.1 "),
        ("<@example.org:a@elsewhere.example>", "550 5.7.1 "),
        // The fifth error and all further ones would be answered late.
        ("<@elsewhere.example:a@example.org>", "250 "),
        ("<postmaster>", "250 "),
        ("<a@sub.example.org>", "250 "),
    ] {
        client.ask(&format!("RCPT TO:{recipient}"), expected).await;
    }
    client.ask("DATA", "354 ").await;
    client.ask("Subject: hi\r\n\r\n.", "250 ").await;
    let recipients: Vec<_> =
        server.arrived().await.envelope.recipients.iter().map(|recipient| recipient.path.to_string()).collect();
    assert_eq!(recipients, ["<a@example.org>", "<postmaster@mx.example.org>", "<a@sub.example.org>"]);
    assert_eq!(server.count(|m| &m.refused, "relay_denied"), 2);
    assert_eq!(server.count(|m| &m.refused, "hidden_route"), 2);
}

#[tokio::test]
async fn our_networks_may_send_anywhere() {
    let mut settings = settings();
    settings.listeners[0].relay.networks = ["127.0.0.0/31".parse().unwrap()].into_iter().collect();
    let server = Server::start(settings);
    let mut client = server.connect().await.greeted().await;
    client.ask("MAIL FROM:<>", "250 ").await;
    client.ask("RCPT TO:<a%b@elsewhere.example>", "250 ").await;
    let mut stranger = Client::connect_from("127.0.0.2", server.address()).await.greeted().await;
    stranger.ask("MAIL FROM:<>", "250 ").await;
    let reply = stranger.ask("RCPT TO:<a@elsewhere.example>", "550 5.7.1 ").await;
    assert!(reply.contains("127.0.0.2 may not relay here"), "{reply}");
}

#[tokio::test]
async fn who_talks_before_the_greeting_is_sent_away() {
    let server = Server::bound(settings());
    let mut client = server.connect().await;
    client.say("EHLO client.example\r\n").await;
    server.serve();
    client.expect("554 5.5.0 ").await;
    client.expect_end().await;
    until(|| server.count(|m| &m.closed, "early_talk") == 1).await;
}

#[tokio::test]
async fn an_http_client_hears_nothing() {
    let server = Server::start(settings());
    let mut client = server.connect().await;
    client.expect("220 ").await;
    client.say("POST / HTTP/1.1\r\nHost: mx.example.org\r\n\r\n").await;
    client.expect_end().await;
    assert_eq!(server.count(|m| &m.closed, "http"), 1);
}

#[tokio::test]
async fn an_address_alone_submits_nothing() {
    let mut settings = settings();
    settings.listeners[0].role = reception::Role::Submission;
    settings.listeners[0].relay.networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
    let server = Server::start(settings);
    let mut client = server.connect().await.greeted().await;
    client.ask("MAIL FROM:<a@b.example>", "250 ").await;
    client.ask("RCPT TO:<a@elsewhere.example>", "550 5.7.1 ").await;
}

#[tokio::test]
async fn an_internal_listener_is_for_our_networks_only() {
    let mut settings = settings();
    settings.listeners[0].role = reception::Role::Internal;
    settings.listeners[0].relay.networks = ["127.0.0.2".parse().unwrap()].into_iter().collect();
    settings.listeners[0].xclient_from = ["127.0.0.3".parse().unwrap()].into_iter().collect();
    let server = Server::start(settings);
    let mut stranger = server.connect().await;
    stranger.expect("554 5.7.1 127.0.0.1 may not send here").await;
    stranger.expect_end().await;
    let mut friend = Client::connect_from("127.0.0.2", server.address()).await.greeted().await;
    friend.ask("MAIL FROM:<>", "250 ").await;
    friend.ask("RCPT TO:<a@elsewhere.example>", "250 ").await;
    let mut gateway = Client::connect_from("127.0.0.3", server.address()).await.greeted().await;
    gateway.ask("XCLIENT ADDR=127.0.0.2", "220 ").await;
    gateway.ask("XCLIENT ADDR=203.0.113.5", "554 5.7.1 ").await;
    gateway.expect_end().await;
    assert_eq!(server.count(|m| &m.connections_refused, "internal"), 1);
}
