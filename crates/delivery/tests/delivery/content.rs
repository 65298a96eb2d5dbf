//! Content of all sizes and kinds, and peers that can take it or not.

use mail::{BodyKind, Outcome};

use crate::house::{CONTENT, House};
use crate::peer::{BYE, HELLO, Peer, TAKES};

/// The client's words for one message to one recipient, with a parameter of MAIL.
fn taking(parameters: &str) -> String {
    TAKES.replace("<s@us.example>", &format!("<s@us.example>{parameters}"))
}

fn hello(offers: &[&str]) -> String {
    let offers: String = offers.iter().map(|offer| format!("S 250-{offer}\n")).collect();
    format!("S 220 mx\nC EHLO us.example\nS 250-mx\n{offers}S 250 PIPELINING\n")
}

async fn house(kind: BodyKind, content: &[u8]) -> House {
    let mut house = House::new();
    house.queue(1, content, |envelope| envelope.body = kind).await;
    house
}

#[tokio::test]
async fn large_content_arrives_whole() {
    let lines: String = (0..20_000).map(|at| format!(".{at} of a long message, with a dot in front\r\n")).collect();
    let content = format!("Subject: long\r\n\r\n{lines}");
    let mut house = house(BodyKind::SevenBit, content.as_bytes()).await;
    let peer = Peer::start(&[&[HELLO, TAKES, BYE].concat()]).await;
    assert_eq!(house.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    let wire = peer.contents().await.remove(0);
    let unstuffed = wire.strip_suffix(".\r\n").unwrap().replace("\r\n.", "\r\n");
    assert!(unstuffed == content, "the content was changed");
}

#[tokio::test]
async fn large_content_arrives_whole_by_bdat() {
    let lines: String = (0..40_000).map(|at| format!(".{at} of a long message\r\n")).collect();
    let content = format!("Subject: long\r\n\r\n{lines}no line end at the end");
    let mut house = house(BodyKind::SevenBit, content.as_bytes()).await;
    let size = content.len();
    let script = format!(
        "{}C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nS 250 ok\nS 250 ok\nC BDAT {size} LAST\noctets {size}\n\
         S 250 taken\n{BYE}",
        hello(&["CHUNKING"])
    );
    let peer = Peer::start(&[&script]).await;
    assert_eq!(house.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    assert!(peer.contents().await == [content], "the content was changed");
}

#[tokio::test]
async fn an_early_refusal_of_large_content_is_heard() {
    // More than the buffers of both sides hold, so that the rest would wait for ever for a peer that reads no more.
    let line = format!("{}\r\n", "x".repeat(900));
    let content = format!("Subject: long\r\n\r\n{}", line.repeat(20_000));
    let mut house = house(BodyKind::SevenBit, content.as_bytes()).await;
    let script = format!(
        "{HELLO}C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\n\
         C Subject: long\nS 552 5.3.4 that will be too much\ndeaf\n"
    );
    let peer = Peer::start(&[&script]).await;
    let only = house.run(vec![peer.host(10)]).await.only();
    assert_eq!(only, "0 failed [127.0.0.1] [127.0.0.1] said: 552 5.3.4 that will be too much");
}

#[tokio::test]
async fn content_that_is_too_large_for_the_peer_is_not_offered() {
    let mut house = house(BodyKind::SevenBit, CONTENT.as_bytes()).await;
    let peer = Peer::start(&[&(hello(&["SIZE 10"]) + BYE)]).await;
    let only = house.run(vec![peer.host(10)]).await.only();
    assert!(only.starts_with("0 failed 552 5.3.4 "), "{only}");
    peer.contents().await;
}

#[tokio::test]
async fn what_one_host_cannot_take_is_offered_to_the_next() {
    // The first takes the one without the long name; the second takes the other.
    let mut house = House::new();
    let two = |envelope: &mut mail::Envelope| {
        envelope.utf8 = true;
        envelope.recipients[1] = crate::house::recipient("jörg@x.example");
    };
    house.queue(2, CONTENT.as_bytes(), two).await;
    house.queue(1, CONTENT.as_bytes(), |_| ()).await;
    let first = Peer::start(&[&[HELLO, TAKES, BYE].concat()]).await;
    let second = TAKES.replace("<0@", "<jörg@").replace("250 taken", "250 taken by the second");
    let second = second.replace("<s@us.example>", "<s@us.example> SMTPUTF8");
    let second = Peer::start(&[&[&hello(&["SMTPUTF8", "8BITMIME"]), &*second, BYE].concat()]).await;
    let told = house.run(vec![first.host(10), second.host(20)]).await.told();
    assert_eq!(told, ["0 delivered 250 taken", "1 delivered 250 taken by the second"], "the connection ends with it");
    first.contents().await;
    second.contents().await;
}

#[tokio::test]
async fn a_message_fails_for_its_size_when_no_host_takes_it() {
    let mut small = house(BodyKind::SevenBit, CONTENT.as_bytes()).await;
    let script = hello(&["SIZE 10"]) + BYE;
    let (first, second) = (Peer::start(&[&script]).await, Peer::start(&[&script]).await);
    let only = small.run(vec![first.host(10), second.host(20)]).await.only();
    assert!(only.starts_with("0 failed 552 5.3.4 "), "{only}");
    first.contents().await;
    second.contents().await;
    // Another one that can't be reached does not keep the sender waiting.
    let mut lone = house(BodyKind::SevenBit, CONTENT.as_bytes()).await;
    let (first, closed) = (Peer::start(&[&script]).await, Peer::start(&[]).await);
    let unreachable = closed.host(20);
    closed.contents().await;
    let story = lone.run(vec![first.host(10), unreachable]).await;
    assert!(story.only().starts_with("0 failed 552 5.3.4 "), "{:?}", story.told());
    assert!(!story.is_connection_blamed());
}

#[tokio::test]
async fn eight_bits_are_announced_or_converted() {
    let content = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                   Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n";
    let mut able = house(BodyKind::EightBitMime, content.as_bytes()).await;
    let peer = Peer::start(&[&[&hello(&["8BITMIME"]), &taking(" BODY=8BITMIME"), BYE].concat()]).await;
    able.run(vec![peer.host(10)]).await.only();
    assert_eq!(peer.contents().await, [format!("{content}.\r\n")]);
    assert_eq!(able.metrics.conversions.get(), 0);

    let mut unable = house(BodyKind::EightBitMime, content.as_bytes()).await;
    let peer = Peer::start(&[&[HELLO, TAKES, BYE].concat()]).await;
    assert_eq!(unable.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    let converted = peer.contents().await.remove(0);
    assert!(converted.is_ascii() && converted.contains("Gr=C3=BC=C3=9Fe"), "{converted}");
    assert_eq!(unable.metrics.conversions.get(), 1);
}

#[tokio::test]
async fn what_cannot_be_converted_fails_with_the_reason() {
    let signed = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n\
                  --b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n\
                  --b\r\n\r\nsignature\r\n--b--\r\n";
    let mut signed = house(BodyKind::EightBitMime, signed.as_bytes()).await;
    let peer = Peer::start(&[&[HELLO, BYE].concat()]).await;
    let only = signed.run(vec![peer.host(10)]).await.only();
    assert!(only.starts_with("0 failed 554 5.6.3 the message is signed"), "{only}");
    // Too large to be held in memory.
    let mut large = house(BodyKind::EightBitMime, "Subject: x\r\n\r\nGrüße\r\n".as_bytes()).await;
    large.settings.convert = 10;
    let peer = Peer::start(&[&[HELLO, BYE].concat()]).await;
    let only = large.run(vec![peer.host(10)]).await.only();
    assert!(only.starts_with("0 failed 554 5.6.3 "), "{only}");
}

#[tokio::test]
async fn binary_content_goes_by_bdat_or_is_converted() {
    let content = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
                   Content-Transfer-Encoding: binary\r\n\r\na\nb\rc";
    let mut able = house(BodyKind::BinaryMime, content.as_bytes()).await;
    let size = content.len();
    let script = format!(
        "{}C MAIL FROM:<s@us.example> BODY=BINARYMIME\nC RCPT TO:<0@x.example>\nS 250 ok\nS 250 ok\n\
         C BDAT {size} LAST\noctets {size}\nS 250 taken\n{BYE}",
        hello(&["CHUNKING", "BINARYMIME", "8BITMIME"])
    );
    let peer = Peer::start(&[&script]).await;
    assert_eq!(able.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    assert_eq!(peer.contents().await, [content]);

    let mut unable = house(BodyKind::BinaryMime, content.as_bytes()).await;
    let peer = Peer::start(&[&[&hello(&["8BITMIME"]), TAKES, BYE].concat()]).await;
    assert_eq!(unable.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    assert!(peer.contents().await[0].contains("YQpiDWM="));
}

#[tokio::test]
async fn a_bare_line_end_never_leaves() {
    let content = b"Subject: x\r\n\r\na\nb\r\n";
    let mut house = house(BodyKind::SevenBit, content).await;
    let size = content.len();
    let start = format!(
        "{}C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nS 250 ok\nS 250 ok\nhang\n",
        hello(&["CHUNKING"])
    );
    let peer = Peer::start(&[&start]).await;
    let other = Peer::start(&["S 220 mx\nhang\n"]).await;
    let story = house.run(vec![peer.host(10), other.host(20)]).await;
    assert!(story.only().starts_with("0 failed 554 5.6.0 "), "{} of {size} octets", story.only());
    assert!(!story.is_connection_blamed());
    peer.contents().await;
}

#[tokio::test]
async fn smtputf8_is_needed_only_where_it_is_used() {
    // Asked for and not used: any peer will do.
    let mut plain = House::new();
    plain.queue(1, CONTENT.as_bytes(), |envelope| envelope.utf8 = true).await;
    let peer = Peer::start(&[&[HELLO, TAKES, BYE].concat()]).await;
    assert_eq!(plain.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
    // Used in the header.
    let mut header = House::new();
    header.queue(1, "Subject: Grüße\r\n\r\nx\r\n".as_bytes(), |envelope| envelope.utf8 = true).await;
    let peer = Peer::start(&[&[HELLO, BYE].concat()]).await;
    let only = header.run(vec![peer.host(10)]).await.only();
    assert!(only.starts_with("0 failed 553 5.6.7 "), "{only}");
    // Used in one recipient's address: the other gets the message.
    let mut mixed = House::new();
    let two = |envelope: &mut mail::Envelope| {
        envelope.utf8 = true;
        envelope.recipients[1] = crate::house::recipient("jörg@x.example");
    };
    mixed.queue(2, CONTENT.as_bytes(), two).await;
    let peer = Peer::start(&[&[HELLO, TAKES, BYE].concat()]).await;
    let told = mixed.run(vec![peer.host(10)]).await.told();
    assert_eq!(told[0], "0 delivered 250 taken");
    assert!(told[1].starts_with("1 failed 553 5.6.7 "), "{told:?}");
    // A peer that offers it is told.
    let mut able = House::new();
    able.queue(1, CONTENT.as_bytes(), |envelope| envelope.utf8 = true).await;
    let peer = Peer::start(&[&[&hello(&["SMTPUTF8", "8BITMIME"]), &taking(" SMTPUTF8"), BYE].concat()]).await;
    assert_eq!(able.run(vec![peer.host(10)]).await.only(), "0 delivered 250 taken");
}

#[tokio::test]
async fn the_duty_to_report_goes_over_with_dsn_only() {
    for (offers, duty) in [(&["DSN"][..], true), (&[][..], false)] {
        let mut house = House::plain(1).await;
        let peer = Peer::start(&[&[&hello(offers), TAKES, BYE].concat()]).await;
        let story = house.run(vec![peer.host(10)]).await;
        let Outcome::Delivered(delivered) = &story.reports[0].outcomes[0].1 else { panic!("not delivered") };
        assert_eq!(delivered.dsn, duty);
    }
}

#[tokio::test]
async fn a_message_that_is_not_in_the_store_any_more_is_deferred() {
    let mut house = House::new();
    house.queue(1, CONTENT.as_bytes(), |envelope| envelope.id = mail::MessageId::from_u128(77)).await;
    let peer = Peer::start(&[&[HELLO, BYE].concat()]).await;
    let only = house.run(vec![peer.host(10)]).await.only();
    assert!(only.starts_with("0 deferred 451 4.3.0 "), "{only}");
    peer.contents().await;
}
