//! Messages in, by SMTP and LMTP, and what is acknowledged when.

use mail::{BodyKind, Notify, Protocol, Ret, ReversePath, TransferProtocol};

use crate::testing::{Client, Server, listener, refused, settings, until};

#[tokio::test]
async fn a_pipelined_message_comes_in_with_its_trace() {
    let mut server = Server::start(settings());
    let mut client = server.connect().await.greeted().await;
    client
        .say("MAIL FROM:<a@client.example> SIZE=30 RET=HDRS ENVID=e+2B1\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
        .await;
    client.expect("250 ").await;
    client.expect("250 ").await;
    client.expect("354 ").await;
    client.say("Subject: hi\r\n\r\n..dot\r\n.\r\n").await;
    let reply = client.expect("250 2.0.0 ").await;
    let arrived = server.arrived().await;
    assert_eq!(reply, format!("250 2.0.0 {} queued\r\n", arrived.envelope.id));
    assert_eq!(arrived.content, "Subject: hi\r\n\r\n.dot\r\n");
    assert_eq!(arrived.envelope.reverse_path.to_string(), "<a@client.example>");
    assert_eq!((arrived.envelope.ret, arrived.envelope.envid.as_deref()), (Some(Ret::Headers), Some("e+1")));
    assert_eq!(arrived.envelope.origin.listener, "mx");
    assert_eq!(arrived.envelope.origin.protocol, TransferProtocol::Esmtp);
    let expected = format!(
        "Received: from client.example ([127.0.0.1])\r\n\tby mx.example.org with ESMTP\r\n\tid {}\r\n\tfor \
         <b@example.org>;\r\n\t",
        arrived.envelope.id
    );
    assert!(arrived.trace.starts_with(&expected), "{}", arrived.trace);
    client.ask("QUIT", "221 ").await;
    client.expect_end().await;
    until(|| server.metrics.sessions.get() == 0).await;
    assert_eq!((server.metrics.messages.get(), server.metrics.recipients.get()), (1, 1));
    assert_eq!(server.metrics.content_bytes.get(), arrived.content.len() as u64);
    assert_eq!(server.metrics.in_flight_bytes.get(), 0);
    assert_eq!(server.count(|m| &m.closed, "quit"), 1);
}

#[tokio::test]
async fn chunks_and_several_messages_in_one_session() {
    let mut server = Server::start(settings());
    let mut client = server.connect().await.greeted().await;
    for round in 0..3 {
        client.say("MAIL FROM:<>\r\nRCPT TO:<b@example.org> NOTIFY=NEVER\r\nRCPT TO:<c@x.example.org>\r\n").await;
        client.say(format!("BDAT 8\r\nX: {round}\r\n\r\nBDAT 4 LAST\r\nhi\r\n")).await;
        for _ in 0..4 {
            client.expect("250 ").await;
        }
        client.expect("250 2.0.0 ").await;
        let arrived = server.arrived().await;
        assert_eq!(arrived.content, format!("X: {round}\r\n\r\nhi\r\n"));
        assert_eq!(arrived.envelope.reverse_path, ReversePath::Null);
        assert_eq!(arrived.envelope.recipients[0].notify, Notify::Never);
        assert!(!arrived.trace.contains("for <"), "{}", arrived.trace);
    }
}

#[tokio::test]
async fn what_the_content_holds_counts_more_than_what_was_said() {
    let mut server = Server::start(settings());
    let mut client = server.connect().await.greeted().await.in_data().await;
    client.say("Subject: hi\r\n\r\nbücher\r\n.\r\n").await;
    client.expect("250 ").await;
    assert_eq!(server.arrived().await.envelope.body, BodyKind::EightBitMime);
}

#[tokio::test]
async fn a_large_message_comes_in_whole() {
    let mut server = Server::start(settings());
    let mut client = server.connect().await.greeted().await.in_data().await;
    let line = format!("{}\r\n", "x".repeat(70));
    let content = format!("Subject: big\r\n\r\n{}", line.repeat(50_000));
    client.say(&content).await;
    client.say(".\r\n").await;
    client.expect("250 ").await;
    assert!(server.arrived().await.content == content);
}

#[tokio::test]
async fn lmtp_answers_for_each_recipient() {
    let mut settings = settings();
    settings.listeners[0].session.protocol = Protocol::Lmtp;
    let mut server = Server::start(settings);
    let mut client = server.connect().await;
    client.expect("220 ").await;
    client.ask("EHLO client.example", "500 ").await;
    client.ask("LHLO client.example", "250-").await;
    client
        .say(
            "MAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n",
        )
        .await;
    for code in ["250 ", "250 ", "550 5.7.1", "250 ", "354 "] {
        client.expect(code).await;
    }
    client.say("Subject: hi\r\n\r\n.\r\n").await;
    let replies = (client.expect("250 2.0.0 ").await, client.expect("250 2.0.0 ").await);
    let arrived = server.arrived().await;
    assert_eq!(arrived.envelope.recipients.len(), 2);
    assert!(replies.0 == replies.1 && replies.0.contains(&arrived.envelope.id.to_string()));
    assert!(arrived.trace.contains("with LMTP"));
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_safe() {
    let mut server = Server::start(settings());
    server.close_gate();
    let mut client = server.connect().await.greeted().await.in_data().await;
    client.say("Subject: hi\r\n\r\n.\r\n").await;
    server.submit_waits().await;
    assert!(!client.has_input() && server.nothing_arrived());
    server.inbox.gate.add_permits(1);
    client.expect("250 2.0.0").await;
}

#[tokio::test]
async fn a_client_that_goes_before_the_reply_has_delivered() {
    let mut server = Server::start(settings());
    server.close_gate();
    let mut client = server.connect().await.greeted().await.in_data().await;
    client.say("Subject: hi\r\n\r\n.\r\n").await;
    server.submit_waits().await;
    drop(client);
    server.inbox.gate.add_permits(1);
    assert_eq!(server.arrived().await.content, "Subject: hi\r\n\r\n");
    until(|| server.metrics.sessions.get() == 0).await;
    assert_eq!(server.metrics.messages.get(), 1);
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_leaves_nothing() {
    let mut server = Server::start(settings());
    let mut client = server.connect().await.greeted().await.in_data().await;
    client.say("Subject: hi\r\n\r\nhalf of").await;
    until(|| server.metrics.in_flight_bytes.get() > 0).await;
    drop(client);
    until(|| server.metrics.sessions.get() == 0).await;
    assert!(server.nothing_arrived());
    assert_eq!((server.metrics.messages.get(), server.metrics.in_flight_bytes.get()), (0, 0));
}

#[tokio::test]
async fn a_full_disk_refuses_for_now_and_service_resumes() {
    let server = Server::start(settings());
    let mut client = server.connect().await.greeted().await;
    *server.inbox.refusal.lock().unwrap() = Some(refused(false));
    client.ask("MAIL FROM:<>", "250 ").await;
    client.ask("RCPT TO:<b@example.org>", "250 ").await;
    client.ask("DATA", "452 4.3.1 disk full").await;
    *server.inbox.refusal.lock().unwrap() = None;
    *server.inbox.submit_refusal.lock().unwrap() = Some(refused(false));
    client.ask("RSET", "250 ").await;
    let mut client = client.in_data().await;
    client.ask("Subject: hi\r\n\r\n.", "452 4.3.1 disk full").await;
    *server.inbox.submit_refusal.lock().unwrap() = None;
    let mut client = client.in_data().await;
    client.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
    assert_eq!(server.count(|m| &m.messages_refused, "space"), 2);
    assert_eq!(server.metrics.messages.get(), 1);
}

#[tokio::test]
async fn memory_that_the_store_lacks_for_a_moment_is_waited_for() {
    let server = Server::start(settings());
    *server.inbox.refusal.lock().unwrap() = Some(refused(true));
    let mut client = server.connect().await.greeted().await;
    client.say("MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n").await;
    until(|| server.metrics.in_flight_bytes.get() > 0).await;
    *server.inbox.refusal.lock().unwrap() = None;
    client.expect("250 ").await;
    client.expect("250 ").await;
    client.expect("354 ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_at_a_time() {
    let mut settings = settings();
    settings.listeners = vec![listener()];
    settings.connections.per_address = 200;
    settings.connections.per_ipv4_network = 200;
    let mut server = Server::start(settings);
    let address = server.address();
    let body = "x".repeat(60) + "\r\n";
    let clients: Vec<_> = (0..200)
        .map(|number| {
            let content = format!("Subject: {number}\r\n\r\n{}.\r\n", body.repeat(160));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await.greeted().await.in_data().await;
                client.say(content).await;
                client.expect("250 2.0.0 ").await
            })
        })
        .collect();
    let mut replies = Vec::new();
    for client in clients {
        replies.push(client.await.unwrap());
    }
    for _ in 0..200 {
        let id = server.arrived().await.envelope.id.to_string();
        assert_eq!(replies.iter().filter(|reply| reply.contains(&id)).count(), 1);
    }
    assert_eq!(server.metrics.connections.get(), 200);
}

#[tokio::test]
async fn a_panic_ends_one_session_alone() {
    let server = Server::start(settings());
    let mut other = server.connect().await.greeted().await;
    let mut client = server.connect().await.greeted().await;
    server.inbox.panics.store(true, std::sync::atomic::Ordering::Relaxed);
    client.say("MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n").await;
    client.expect_end().await;
    server.inbox.panics.store(false, std::sync::atomic::Ordering::Relaxed);
    until(|| server.metrics.sessions.get() == 1).await;
    assert_eq!((server.metrics.panics.get(), server.metrics.in_flight_bytes.get()), (1, 0));
    other.ask("NOOP", "250 ").await;
    server.connect().await.greeted().await.in_data().await;
}
