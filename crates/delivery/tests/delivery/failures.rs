//! Hosts that fail, in every way, and what becomes of the message.

use std::time::Duration;

use mail::TargetHost;
use tokio::net::TcpListener;

use crate::house::{House, target};
use crate::peer::{BYE, HELLO, Peer, TAKES};

/// The client's commands for one recipient.
const GROUP: &str = "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC DATA\n";

fn script(parts: &[&str]) -> String {
    parts.concat()
}

/// A port on which nobody listens.
async fn refused(preference: u16) -> TargetHost {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    TargetHost::Address { address: listener.local_addr().unwrap(), preference }
}

#[tokio::test]
async fn a_message_is_delivered() {
    let mut house = House::plain(1).await;
    let peer = Peer::start(&[&script(&[HELLO, TAKES, BYE])]).await;
    let story = house.run(vec![peer.host(10)]).await;
    assert_eq!(story.only(), "0 delivered 250 taken");
    assert!(!story.is_connection_blamed());
    assert_eq!(peer.contents().await, ["Subject: hello\r\n\r\n..dot\r\n.\r\n"]);
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_cannot_take_the_connection() {
    for bad in [
        "S 421 busy\n",
        "S 554 no\n",
        "S 450 later\n",
        "cut\n",
        "reset\n",
        "S nonsense\n",
        "S 220 mx\nC EHLO us.example\nS 421 no\n",
        "S 220 mx\nC EHLO us.example\nS 451 no\n",
        "S 220 mx\nC EHLO us.example\ncut\n",
    ] {
        let mut house = House::plain(1).await;
        let (first, second) = (Peer::start(&[bad]).await, Peer::start(&[&script(&[HELLO, TAKES, BYE])]).await);
        let story = house.run(vec![second.host(20), first.host(10)]).await;
        assert_eq!(story.only(), "0 delivered 250 taken", "{bad}");
        first.contents().await;
        second.contents().await;
    }
    let mut house = House::plain(1).await;
    let second = Peer::start(&[&script(&[HELLO, TAKES, BYE])]).await;
    assert_eq!(house.run(vec![refused(1).await, second.host(2)]).await.only(), "0 delivered 250 taken");
}

#[tokio::test]
async fn without_any_host_nothing_is_pulled() {
    let mut house = House::plain(1).await;
    let peer = Peer::start(&["S 554 5.7.1 we know you\n"]).await;
    let story = house.run(vec![refused(1).await, peer.host(2)]).await;
    assert!(story.reports.is_empty());
    assert!(story.unreachable.unwrap().to_string().ends_with("said: 554 5.7.1 we know you"));
    let story = House::plain(1).await.run(vec![refused(1).await]).await;
    let fault = story.unreachable.unwrap();
    assert!(fault.is_transient() && fault.reply.text().contains("cannot connect to [127.0.0.1]"), "{fault}");
    peer.contents().await;
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_breaks_before_it_has_the_message() {
    for bad in [
        "cut\n",
        "reset\n",
        "S 421 bye\n",
        "S 250 ok\ncut\n",
        "S 250 ok\nS 421 bye\n",
        "S 250 ok\nS 250 ok\nS what\n",
        "S 250 ok\nS 250 ok\nS 354 go\ncontent\nS 421 4.3.2 shutting down\n",
    ] {
        let mut house = House::plain(1).await;
        let first = Peer::start(&[&script(&[HELLO, GROUP, bad])]).await;
        let second = Peer::start(&[&script(&[HELLO, TAKES, BYE])]).await;
        let story = house.run(vec![first.host(10), second.host(20)]).await;
        assert_eq!(story.only(), "0 delivered 250 taken", "{bad}");
        assert!(story.is_connection_blamed(), "{bad}");
        second.contents().await;
    }
}

/// A lane is granted one connection: the host that is left sees it end before another one is asked.
#[tokio::test]
async fn one_connection_is_given_back_before_the_next_is_opened() {
    for bad in ["S 421 bye\nhang\n", "S 250 ok\nS 250 ok\nS what\nhang\n"] {
        let mut house = House::plain(1).await;
        let first = Peer::start(&[&script(&[HELLO, GROUP, bad])]).await;
        let second = Peer::start(&[&script(&["wait\n", HELLO, TAKES, BYE])]).await;
        let hosts = vec![first.host(10), second.host(20)];
        let (story, ()) = tokio::join!(house.run(hosts), async {
            first.contents().await;
            second.go_on();
        });
        assert_eq!(story.only(), "0 delivered 250 taken", "{bad}");
        second.contents().await;
    }
}

#[tokio::test]
async fn a_goodbye_is_heard_although_the_connection_was_reset_behind_it() {
    let content = format!("Subject: large\r\n\r\n{}", "some text\r\n".repeat(100_000));
    // Each reply in one write: what Nagle's algorithm still held back would go down with the reset.
    for (before, recipients) in [
        ("unread\nS 421 4.7.0 too many\n", 3),
        ("unread\nS 250 ok|421 4.7.0 too many\n", 3),
        ("unread\nS 250 ok|250 ok|421 4.7.0 too many\n", 3),
        // In the middle of the content.
        (
            "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nunread\nS 421 4.7.0 too many\n",
            1,
        ),
    ] {
        let mut house = House::new();
        house.queue(recipients, content.as_bytes(), |_| ()).await;
        let peer = Peer::start(&[&script(&[HELLO, before])]).await;
        let story = house.run(vec![peer.host(10)]).await;
        let said = |place: usize| format!("{place} deferred [127.0.0.1] [127.0.0.1] said: 421 4.7.0 too many");
        assert_eq!(story.told(), (0..recipients).map(said).collect::<Vec<_>>(), "{before}");
        assert!(story.is_connection_blamed());
        peer.contents().await;
    }
}

#[tokio::test]
async fn after_the_final_dot_the_message_waits_for_another_attempt() {
    for bad in ["cut\n", "reset\n", "S what\n"] {
        let mut house = House::plain(1).await;
        let start = "S 250 ok\nS 250 ok\nS 354 go\ncontent\n";
        let first = Peer::start(&[&script(&[HELLO, GROUP, start, bad])]).await;
        // The other host would take it, and the recipient might have it twice at once.
        let second = Peer::start(&["S 220 mx\nhang\n"]).await;
        let story = house.run(vec![first.host(10), second.host(20)]).await;
        let only = story.only();
        assert!(only.starts_with("0 deferred 4"), "{only}");
        assert!(story.is_connection_blamed());
        assert_eq!(house.metrics.connections.get(), 1, "{bad}");
    }
}

#[tokio::test]
async fn when_all_hosts_break_the_message_is_deferred_even_after_a_refusal_for_good() {
    let mut house = House::plain(1).await;
    let first = Peer::start(&[&script(&[HELLO, GROUP, "S 250 ok\nS 421 4.3.2 going down\n"])]).await;
    let second = Peer::start(&["S 554 no\n"]).await;
    let story = house.run(vec![first.host(10), second.host(20)]).await;
    assert_eq!(story.only(), "0 deferred [127.0.0.1] [127.0.0.1] said: 421 4.3.2 going down");
    assert!(story.is_connection_blamed());
}

#[tokio::test]
async fn refusals_speak_for_their_recipients_only() {
    let mut house = House::plain(3).await;
    let peer = Peer::start(&[&script(&[
        HELLO,
        "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC RCPT TO:<1@x.example>\nC RCPT TO:<2@x.example>\nC DATA\n",
        "S 250 ok\nS 550 5.1.1 nobody\nS 450 greylisted\nS 250 ok\nS 354 go\ncontent\nS 250 taken\n",
        BYE,
    ])])
    .await;
    let other = Peer::start(&["S 220 mx\nhang\n"]).await;
    let story = house.run(vec![peer.host(10), other.host(20)]).await;
    assert_eq!(
        story.told(),
        [
            "0 failed [127.0.0.1] [127.0.0.1] said: 550 5.1.1 nobody",
            "1 deferred [127.0.0.1] [127.0.0.1] said: 450 greylisted",
            "2 delivered 250 taken",
        ]
    );
    assert!(!story.is_connection_blamed());
    peer.contents().await;
}

#[tokio::test]
async fn slow_hosts_are_given_up() {
    let start = script(&[HELLO, GROUP]);
    let content = script(&[HELLO, GROUP, "S 250 ok\nS 250 ok\nS 354 go\ncontent\n"]);
    for (bad, says) in [
        ("", "while waiting for the greeting"),
        ("S 220-mx\n", "while waiting for the greeting"),
        ("S 220 mx\n", "EHLO"),
        (&start, "while waiting for the reply to MAIL"),
        (&content, "while waiting for the reply to the content"),
    ] {
        let mut house = House::plain(1).await;
        for timeout in [
            &mut house.settings.timeouts.greeting,
            &mut house.settings.timeouts.hello,
            &mut house.settings.timeouts.mail,
            &mut house.settings.timeouts.end,
        ] {
            *timeout = Duration::from_millis(100);
        }
        let peer = Peer::start(&[&format!("{bad}hang\n")]).await;
        let story = house.run(vec![peer.host(10)]).await;
        let told = match &story.unreachable {
            Some(fault) => format!("0 deferred {fault}"),
            None => story.only(),
        };
        assert!(told.starts_with("0 deferred 421 4.4.2 [127.0.0.1]") && told.contains(says), "{told}");
        peer.contents().await;
    }
}

#[tokio::test]
async fn a_host_that_does_not_even_connect_is_given_up() {
    let mut house = House::plain(1).await;
    house.settings.connect = Duration::from_millis(50);
    // The queue of connections that nobody accepts is full: nothing answers any more.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    for _ in 0..4 {
        let connect = tokio::net::TcpStream::connect(address);
        filling.push(tokio::time::timeout(Duration::from_millis(20), connect).await);
    }
    let story = house.run(vec![TargetHost::Address { address, preference: 1 }]).await;
    let fault = story.unreachable.unwrap();
    assert!(fault.reply.text().ends_with("timed out"), "{fault}");
}

#[tokio::test]
async fn names_are_looked_up_and_those_that_do_not_exist_are_told_apart() {
    let mut house = House::plain(1).await;
    let peer = Peer::start(&[&script(&[HELLO, TAKES, BYE])]).await;
    house.dns.host("mx.x.example", "127.0.0.1");
    let name = |name: &str, preference| TargetHost::Name {
        name: mail::Domain::parse(name).unwrap(),
        port: peer.address.port(),
        preference,
    };
    let story = house.run(vec![name("gone.x.example", 5), name("mx.x.example", 10)]).await;
    assert_eq!(story.only(), "0 delivered 250 taken");
    let mut house = House::plain(1).await;
    let fault = house.run(vec![name("gone.x.example", 5)]).await.unreachable.unwrap();
    assert!(fault.is_permanent() && fault.by == mail::FaultSource::Local, "{fault}");
    peer.contents().await;
}

#[tokio::test]
async fn the_source_address_is_the_one_that_was_chosen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut house = House::plain(1).await;
    let mut target = target(vec![TargetHost::Address { address, preference: 1 }]);
    target.source.ipv4 = Some("127.0.0.9".parse().unwrap());
    let (story, from) = tokio::join!(house.run_target(target), async {
        let (stream, from) = listener.accept().await.unwrap();
        drop(stream);
        from
    });
    assert_eq!(from.ip(), std::net::Ipv4Addr::new(127, 0, 0, 9));
    assert!(story.unreachable.is_some());
}

#[tokio::test]
async fn ipv6_is_spoken_too() {
    // Where the machine has no IPv6 there is nothing to show.
    if TcpListener::bind("[::1]:0").await.is_err() {
        return;
    }
    let mut house = House::plain(1).await;
    let peer = Peer::start_at("[::1]:0", &[&script(&[HELLO, TAKES, BYE])]).await;
    assert_eq!(house.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    peer.contents().await;
}
