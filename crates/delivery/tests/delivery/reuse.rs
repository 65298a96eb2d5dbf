//! Several messages over one connection, several transactions for one message.

use std::sync::Arc;

use delivery::Reason;
use mail::Protocol;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Semaphore;

use crate::house::{CONTENT, House, target};
use crate::peer::{BYE, HELLO, Peer, TAKES};

fn script(parts: &[&str]) -> String {
    parts.concat()
}

/// The condition comes true by what other tasks do.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

async fn messages(count: usize) -> House {
    let mut house = House::new();
    for _ in 0..count {
        house.queue(1, CONTENT.as_bytes(), |_| ()).await;
    }
    house
}

#[tokio::test]
async fn one_connection_carries_what_there_is() {
    let mut house = messages(3).await;
    let peer = Peer::start(&[&script(&[HELLO, TAKES, TAKES, TAKES, BYE])]).await;
    let story = house.run(vec![peer.host(10)]).await;
    assert_eq!(story.told(), ["0 delivered 250 taken"; 3]);
    assert_eq!(peer.contents().await.len(), 3);
    assert_eq!(house.metrics.connections.get(), 1);
}

#[tokio::test]
async fn a_connection_carries_its_share_and_no_more() {
    let mut house = messages(3).await;
    house.settings.messages = 2;
    let peer = Peer::start(&[&script(&[HELLO, TAKES, TAKES, BYE])]).await;
    assert_eq!(house.run(vec![peer.host(10)]).await.told().len(), 2);
    peer.contents().await;
    // MAILMAX of the peer counts as well.
    let mut house = messages(3).await;
    let hello = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250-LIMITS MAILMAX=1\nS 250 PIPELINING\n";
    let peer = Peer::start(&[&script(&[hello, TAKES, BYE])]).await;
    assert_eq!(house.run(vec![peer.host(10)]).await.told().len(), 1);
    peer.contents().await;
}

#[tokio::test]
async fn a_message_goes_on_over_fresh_connections_where_one_may_carry_one_transaction_only() {
    let mut house = House::plain(2).await;
    let hello = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250-LIMITS MAILMAX=1 RCPTMAX=1\nS 250 PIPELINING\n";
    let second = TAKES.replace("<0@", "<1@");
    let peer = Peer::start(&[&script(&[hello, TAKES, BYE]), &script(&[hello, &second, BYE])]).await;
    let story = house.run(vec![peer.host(10)]).await;
    assert_eq!(story.told(), ["0 delivered 250 taken", "1 delivered 250 taken"]);
    assert!(!story.is_connection_blamed());
    peer.contents().await;
}

#[tokio::test]
async fn many_recipients_take_several_transactions() {
    let mut house = House::plain(3).await;
    house.settings.recipients = 2;
    let peer = Peer::start(&[&script(&[
        HELLO,
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC RCPT TO:<1@x.example>\nC DATA\n",
        "S 250 ok\nS 250 ok\nS 550 no\nS 354 go\ncontent\nS 250 one\n",
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<2@x.example>\nC DATA\n",
        "S 250 ok\nS 250 ok\nS 354 go\ncontent\nS 250 two\n",
        BYE,
    ])])
    .await;
    let story = house.run(vec![peer.host(10)]).await;
    assert_eq!(story.reports.len(), 1);
    assert_eq!(
        story.told(),
        ["0 delivered 250 one", "1 failed [127.0.0.1] [127.0.0.1] said: 550 no", "2 delivered 250 two"]
    );
    peer.contents().await;
}

#[tokio::test]
async fn the_limits_of_the_peer_are_kept() {
    let mut house = House::new();
    let recipients = ["0@x.example", "1@y.example", "2@x.example", "3@z.example"];
    house
        .queue(4, CONTENT.as_bytes(), |envelope| {
            envelope.recipients = recipients.iter().map(|text| crate::house::recipient(text)).collect();
        })
        .await;
    let peer = Peer::start(&[&script(&[
        "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250-LIMITS RCPTDOMAINMAX=2 RCPTMAX=100\nS 250 PIPELINING\n",
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC RCPT TO:<1@y.example>\nC RCPT TO:<2@x.example>\nC DATA\n",
        "S 250 ok\nS 250 ok\nS 250 ok\nS 250 ok\nS 354 go\ncontent\nS 250 one\n",
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<3@z.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\ncontent\nS 250 two\n",
        BYE,
    ])])
    .await;
    let told = house.run(vec![peer.host(10)]).await.told();
    assert_eq!(told, ["0 delivered 250 one", "1 delivered 250 one", "2 delivered 250 one", "3 delivered 250 two"]);
    peer.contents().await;
}

#[tokio::test]
async fn recipients_that_are_too_many_for_the_peer_go_in_the_next_transaction() {
    let mut house = House::plain(2).await;
    let peer = Peer::start(&[&script(&[
        HELLO,
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC RCPT TO:<1@x.example>\nC DATA\n",
        "S 250 ok\nS 250 ok\nS 452 4.5.3 too many\nS 354 go\ncontent\nS 250 one\n",
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<1@x.example>\nC DATA\nS 250 ok\nS 452 4.5.3 too many\nS 503 no\n",
        BYE,
    ])])
    .await;
    let told = house.run(vec![peer.host(10)]).await.told();
    // Alone it is not too many: that would go on for ever.
    assert_eq!(told, ["0 delivered 250 one", "1 deferred [127.0.0.1] [127.0.0.1] said: 452 4.5.3 too many"]);
}

#[tokio::test]
async fn a_connection_that_the_peer_ended_between_two_messages_costs_nothing() {
    for end in ["wait\ncut\n", "wait\nS 421 idle\n"] {
        let mut house = messages(2).await;
        let gate = Arc::new(Semaphore::new(0));
        let first = script(&[HELLO, TAKES, end]);
        let peer = Peer::start(&[&first, &script(&[HELLO, TAKES, BYE])]).await;
        let metrics = house.metrics.clone();
        let count = |family: &Family<Reason, Counter>, reason| family.get_or_create(&Reason { reason }).get();
        let second = async {
            until(|| count(&metrics.recipients, "delivered") == 1).await;
            peer.go_on();
            until(|| count(&metrics.failures, "idle") == 1).await;
            gate.add_permits(2);
        };
        let (story, ()) = tokio::join!(house.run_slowly(target(vec![peer.host(10)]), Some(Arc::clone(&gate))), second);
        assert_eq!(story.told(), ["0 delivered 250 taken"; 2], "{end}");
        assert!(!story.is_connection_blamed(), "{end}");
        peer.contents().await;
    }
}

#[tokio::test]
async fn a_goodbye_right_behind_the_last_word_costs_nothing() {
    let mut house = messages(1).await;
    let peer = Peer::start(&[&script(&[HELLO, &TAKES.replace("250 taken", "250 taken|421 enough")])]).await;
    let story = house.run(vec![peer.host(10)]).await;
    assert_eq!(story.only(), "0 delivered 250 taken");
    assert!(!story.is_connection_blamed());
    peer.contents().await;
}

#[tokio::test]
async fn a_greeting_that_refuses_fails_no_message() {
    let mut house = messages(2).await;
    let peer = Peer::start(&[&script(&[HELLO, TAKES, "C MAIL FROM:<s@us.example>\ncut\n"]), "S 554 no\n"]).await;
    let told = house.run(vec![peer.host(10)]).await.told();
    assert!(told[1].starts_with("0 deferred 421 4.4.2 "), "{told:?}");
    peer.contents().await;
    // The connection had ended before: only the greeting is there to be told.
    let mut house = messages(2).await;
    let gate = Arc::new(Semaphore::new(0));
    let peer = Peer::start(&[&script(&[HELLO, TAKES]), "S 554 no\n"]).await;
    let metrics = house.metrics.clone();
    let second = async {
        until(|| metrics.failures.get_or_create(&Reason { reason: "idle" }).get() == 1).await;
        gate.add_permits(2);
    };
    let (story, ()) = tokio::join!(house.run_slowly(target(vec![peer.host(10)]), Some(Arc::clone(&gate))), second);
    assert_eq!(story.told()[1], "0 deferred [127.0.0.1] [127.0.0.1] said: 554 no");
    peer.contents().await;
}

#[tokio::test]
async fn a_connection_that_breaks_when_it_is_used_again_is_made_anew_to_the_same_host() {
    let mut house = messages(2).await;
    let first = script(&[HELLO, TAKES, "C MAIL FROM:<s@us.example>\ncut\n"]);
    let peer = Peer::start(&[&first, &script(&[HELLO, TAKES, BYE])]).await;
    let story = house.run(vec![peer.host(10)]).await;
    assert_eq!(story.told(), ["0 delivered 250 taken"; 2]);
    assert!(!story.is_connection_blamed());
    // But not again and again.
    let mut house = messages(2).await;
    let broken = script(&[HELLO, "C MAIL FROM:<s@us.example>\ncut\n"]);
    let peer = Peer::start(&[&first, &broken, &script(&[HELLO, TAKES, BYE])]).await;
    let told = house.run(vec![peer.host(10)]).await.told();
    assert!(told[1].starts_with("0 deferred 421 4.4.2 "), "{told:?}");
}

#[tokio::test]
async fn lmtp_tells_for_each_recipient() {
    let mut house = House::plain(3).await;
    let peer = Peer::start(&["S 220 lmtp\nC LHLO us.example\nS 250-lmtp\nS 250 PIPELINING\n\
        C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC RCPT TO:<1@x.example>\nC RCPT TO:<2@x.example>\nC DATA\n\
        S 250 ok\nS 250 ok\nS 550 no\nS 250 ok\nS 354 go\ncontent\nS 250 there\nS 452 4.2.2 full\nC QUIT\nS 221 bye\n"])
    .await;
    let mut target = target(vec![peer.host(10)]);
    target.protocol = Protocol::Lmtp;
    let told = house.run_target(target).await.told();
    assert_eq!(
        told,
        [
            "0 delivered 250 there",
            "1 failed [127.0.0.1] [127.0.0.1] said: 550 no",
            "2 deferred [127.0.0.1] [127.0.0.1] said: 452 4.2.2 full",
        ]
    );
    peer.contents().await;
}

#[tokio::test]
async fn lmtp_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lmtp");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut house = House::plain(1).await;
    let mut target = target(vec![mail::TargetHost::Unix { path }]);
    target.protocol = Protocol::Lmtp;
    let serve = async {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        stream.write_all(b"220 lmtp\r\n").await.unwrap();
        let mut line = String::new();
        while stream.read_line(&mut line).await.unwrap() > 0 {
            let reply: &[u8] = match line.as_str() {
                "DATA\r\n" => b"354 go\r\n",
                ".\r\n" | "LHLO us.example\r\n" => b"250 fine\r\n",
                "QUIT\r\n" => b"221 bye\r\n",
                line if line.starts_with("MAIL") || line.starts_with("RCPT") => b"250 ok\r\n",
                _ => b"",
            };
            stream.write_all(reply).await.unwrap();
            line.clear();
        }
    };
    let (story, ()) = tokio::join!(house.run_target(target), serve);
    assert_eq!(story.only(), "0 delivered 250 fine");
}
