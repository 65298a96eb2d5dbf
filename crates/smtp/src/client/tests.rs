//! Dialogues: what the client says to servers of every kind, and what it makes of their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mail::{
    BodyKind, Domain, Envelope, ForwardPath, Mailbox, MessageId, Notify, NotifyOn, OriginalRecipient, Protocol,
    Recipient, Ret, ReversePath, Timestamp, Utf8,
};

use super::*;

mod security;

/// `S:` lines go to the client, `C:` lines must come from it. Each dialogue is held twice: with the server's bytes in
/// one piece per line, and octet by octet.
struct Dialogue<'a> {
    protocol: Protocol,
    transactions: Vec<Transaction>,
    content: &'a [u8],
    script: &'a str,
}

const HELLO: &str = "S: 220 mx.example ESMTP\nC: EHLO us.example\n";
const PIPELINING: &str = "S: 250-mx.example\nS: 250 PIPELINING\n";

impl<'a> Dialogue<'a> {
    fn new(transaction: Transaction, script: &'a str) -> Self {
        Self { protocol: Protocol::Smtp, transactions: vec![transaction], content: b"Subject: x\r\n\r\n.\r\n", script }
    }

    /// The events but [`Event::Ready`] and [`Event::SendContent`].
    fn events(self) -> Vec<Event> {
        let whole = self.hold(usize::MAX);
        assert_eq!(self.hold(1), whole, "octet by octet");
        whole
    }

    /// The verdicts of all transactions, in words.
    fn verdicts(self) -> Vec<String> {
        let done = self.events().into_iter().filter_map(|event| match event {
            Event::Done(verdicts) => Some(verdicts),
            _ => None,
        });
        done.flatten().map(|verdict| word(&verdict)).collect()
    }

    fn closed(self) -> Option<Closed> {
        self.events().into_iter().find_map(|event| match event {
            Event::Closed(closed) => Some(closed),
            _ => None,
        })
    }

    fn hold(&self, step: usize) -> Vec<Event> {
        let now = Instant::now();
        let name = Domain::parse("us.example").unwrap();
        let mut connection = Connection::new(self.protocol, name, Timeouts::default(), now);
        let mut waiting = self.transactions.iter();
        let (mut input, mut said, mut events) = (BytesMut::new(), BytesMut::new(), Vec::new());
        for line in self.script.lines() {
            if let Some(expected) = line.strip_prefix("C: ") {
                let line = take_line(&mut said);
                assert_eq!(line.as_deref(), Some(expected), "in\n{}", self.script);
                continue;
            }
            assert!(said.is_empty(), "{said:?} is not in\n{}", self.script);
            match line.strip_prefix("S: ") {
                Some(reply) => {
                    let reply = format!("{reply}\r\n");
                    for piece in reply.as_bytes().chunks(step.min(reply.len())) {
                        input.extend_from_slice(piece);
                        connection.receive(&mut input, now);
                    }
                }
                None if line == "cut" => connection.lost(),
                None if line == "quit" => connection.quit(now),
                None if line == "late" => {
                    let deadline = connection.deadline().expect("something is awaited");
                    connection.expire(deadline - Duration::from_millis(1));
                    assert!(!connection.is_closed());
                    connection.expire(deadline);
                }
                None => panic!("what is {line:?}?"),
            }
            self.follow(&mut connection, &mut waiting, &mut events, now);
            let output = connection.take_output(now);
            said.extend_from_slice(&output);
        }
        assert!(said.is_empty(), "{said:?} is left over from\n{}", self.script);
        events
    }

    fn follow<'b>(
        &self,
        connection: &mut Connection,
        waiting: &mut impl Iterator<Item = &'b Transaction>,
        events: &mut Vec<Event>,
        now: Instant,
    ) {
        while let Some(event) = connection.next_event() {
            match &event {
                Event::Ready => {}
                Event::SendContent => {
                    connection.content(Bytes::copy_from_slice(self.content));
                    connection.finish_content(now);
                    continue;
                }
                Event::Done(_) | Event::Closed(_) => events.push(event.clone()),
                other => panic!("{other:?} without a wish for it"),
            }
            if connection.is_idle()
                && let Some(transaction) = waiting.next()
            {
                connection.begin(transaction.clone(), now).unwrap();
            }
        }
    }
}

fn take_line(said: &mut BytesMut) -> Option<String> {
    let end = said.windows(2).position(|pair| pair == b"\r\n")?;
    let line = said.split_to(end + 2);
    Some(String::from_utf8_lossy(&line[..end]).into_owned())
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted(reply) => format!("accepted {}", reply.code()),
        Verdict::Refused(reply) => format!("refused {}", reply.code()),
        Verdict::Surplus(reply) => format!("surplus {}", reply.code()),
        Verdict::Lost(lost) => format!("{lost:?}"),
    }
}

fn envelope(recipients: &[&str]) -> Envelope {
    let mailbox = |text: &&str| Mailbox::parse(text, Utf8::Allowed).unwrap();
    Envelope::new(
        MessageId::from_u128(1),
        Timestamp::from_millis(1),
        ReversePath::Mailbox(mailbox(&"s@us.example")),
        recipients.iter().map(mailbox).map(Recipient::from),
    )
}

fn transaction(recipients: &[&str]) -> Transaction {
    of(envelope(recipients))
}

fn of(envelope: Envelope) -> Transaction {
    Transaction {
        recipients: (0..envelope.recipients.len() as u32).collect(),
        size: 17,
        body: envelope.body,
        utf8: envelope.utf8,
        asks: Asks::default(),
        envelope: Arc::new(envelope),
    }
}

fn script(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn one_command_at_a_time_without_pipelining() {
    let script = script(&[
        HELLO,
        "S: 250 mx.example\nC: MAIL FROM:<s@us.example>\nS: 250 ok\nC: RCPT TO:<a@x.example>\nS: 250 ok\n",
        "C: RCPT TO:<b@x.example>\nS: 550 5.1.1 no\nC: DATA\nS: 354 go\n",
        "C: Subject: x\nC: \nC: ..\nC: .\nS: 250 queued\nquit\nC: QUIT\nS: 221 bye\n",
    ]);
    let dialogue = Dialogue::new(transaction(&["a@x.example", "b@x.example"]), &script);
    assert_eq!(dialogue.verdicts(), ["accepted 250", "refused 550"]);
}

#[test]
fn everything_up_to_data_in_one_group_with_pipelining() {
    let script = script(&[
        HELLO,
        PIPELINING,
        "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: RCPT TO:<b@x.example>\nC: DATA\n",
        "S: 250 ok\nS: 450 later\nS: 250 ok\nS: 354 go\nC: Subject: x\nC: \nC: ..\nC: .\nS: 250 queued\n",
    ]);
    let dialogue = Dialogue::new(transaction(&["a@x.example", "b@x.example"]), &script);
    assert_eq!(dialogue.verdicts(), ["refused 450", "accepted 250"]);
}

#[test]
fn helo_where_ehlo_is_not_known() {
    let script = script(&[
        HELLO,
        "S: 502 what\nC: HELO us.example\nS: 250 mx.example\nC: MAIL FROM:<s@us.example>\nS: 250 ok\n",
        "C: RCPT TO:<a@x.example>\nS: 251 will forward\nC: DATA\nS: 354 go\nC: Subject: x\nC: \nC: ..\nC: .\nS: 250 ok\n",
    ]);
    assert_eq!(Dialogue::new(transaction(&["a@x.example"]), &script).verdicts(), ["accepted 250"]);
}

#[test]
fn hosts_that_do_not_want_us() {
    for (script, code) in [
        ("S: 554 go away\n", 554),
        ("S: 421 busy\n", 421),
        ("S: 450 busy\n", 450),
        ("S: 220 mx\nC: EHLO us.example\nS: 421 busy\n", 421),
        ("S: 220 mx\nC: EHLO us.example\nS: 450 busy\n", 450),
        ("S: 220 mx\nC: EHLO us.example\nS: 500 what\nC: HELO us.example\nS: 550 no\n", 550),
    ] {
        let closed = Dialogue::new(transaction(&["a@x.example"]), script).closed().unwrap();
        let (reply, by_peer) = closed.reply();
        assert_eq!((reply.code(), by_peer), (code, true), "{script}");
    }
}

#[test]
fn peers_that_do_not_speak_the_protocol() {
    for script in [
        "S: hello\n",
        "S: 220 mx\nC: EHLO us.example\nS: 250 mx\nC: MAIL FROM:<s@us.example>\nS: 354 go\n",
        "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING\n\
         C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\n",
        // Out of order: as smtp-sink of Postfix answers with `-W mail:1`. That refuses nothing.
        "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING\n\
         C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: DATA\n\
         S: 503 need MAIL\nS: 503 need RCPT\nS: 250 ok\n",
        "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING\n\
         C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: DATA\n\
         S: 250 ok\nS: 550 nobody\nS: 250 ok\n",
    ] {
        let dialogue = || Dialogue::new(transaction(&["a@x.example"]), script);
        let closed = dialogue().closed();
        assert!(matches!(&closed, Some(Closed::Nonsense(_))), "{closed:?} {script}");
        assert!(dialogue().verdicts().iter().all(|verdict| verdict == "NotTaken"), "{script}");
    }
    // Words without a question, between two transactions.
    let script = script(&[HELLO, "S: 250 mx\nS: 250 mx\n"]);
    let dialogue = Dialogue { transactions: Vec::new(), ..Dialogue::new(transaction(&[]), &script) };
    assert!(matches!(dialogue.closed(), Some(Closed::Nonsense(_))));
}

#[test]
fn no_content_when_every_recipient_is_refused() {
    let group = "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: DATA\n";
    // DATA refused as well: RSET goes in front of the next one.
    let refused = script(&[
        HELLO,
        PIPELINING,
        group,
        "S: 250 ok\nS: 550 no\nS: 503 no\nC: RSET\n",
        group,
        "S: 250 ok\nS: 250 ok\nS: 450 no\nS: 503 no\n",
    ]);
    let twice = vec![transaction(&["a@x.example"]), transaction(&["a@x.example"])];
    let dialogue = Dialogue { transactions: twice.clone(), ..Dialogue::new(transaction(&[]), &refused) };
    assert_eq!(dialogue.verdicts(), ["refused 550", "refused 450"]);
    // RFC 2920 §3.1: DATA passed, so a lone dot ends it; the reply to that says nothing about anybody.
    for end in ["S: 250 ok", "S: 554 no valid recipients"] {
        let passed = script(&[HELLO, PIPELINING, group, "S: 250 ok\nS: 550 no\nS: 354 go\nC: .\n", end, "\n", group]);
        let dialogue = Dialogue { transactions: twice.clone(), ..Dialogue::new(transaction(&[]), &passed) };
        assert_eq!(dialogue.verdicts(), ["refused 550"]);
    }
    // Without PIPELINING DATA is never said.
    let slow = script(&[
        HELLO,
        "S: 250 mx\nC: MAIL FROM:<s@us.example>\nS: 250 ok\nC: RCPT TO:<a@x.example>\nS: 550 no\n",
        "C: RSET\nS: 250 ok\nC: MAIL FROM:<s@us.example>\nS: 550 no\nC: MAIL FROM:<s@us.example>\n",
    ]);
    let thrice = vec![transaction(&["a@x.example"]); 3];
    let dialogue = Dialogue { transactions: thrice, ..Dialogue::new(transaction(&[]), &slow) };
    assert_eq!(dialogue.verdicts(), ["refused 550", "refused 550"]);
}

#[test]
fn a_refused_sender_refuses_every_recipient() {
    let group = "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: RCPT TO:<b@x.example>\nC: DATA\n";
    let script1 = script(&[HELLO, PIPELINING, group, "S: 550 no\nS: 503 no\nS: 503 no\nS: 503 no\n"]);
    let two = || transaction(&["a@x.example", "b@x.example"]);
    assert_eq!(Dialogue::new(two(), &script1).verdicts(), ["refused 550", "refused 550"]);
    // A server that takes recipients without a sender could make a message of the lone dot.
    let script2 = script(&[HELLO, PIPELINING, group, "S: 450 no\nS: 250 ok\nS: 250 ok\nS: 354 go\n"]);
    assert_eq!(Dialogue::new(two(), &script2).verdicts(), ["refused 450", "refused 450"]);
    assert_eq!(Dialogue::new(two(), &script2).closed(), Some(Closed::CutShort));
}

#[test]
fn too_many_recipients_are_for_the_next_transaction() {
    let group = "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: RCPT TO:<b@x.example>\nC: DATA\n";
    for (reply, verdict) in [
        ("452 4.5.3 too many", "surplus 452"),
        ("552 too many", "surplus 552"),
        ("452 4.2.2 mailbox full", "refused 452"),
        ("552 5.2.2 mailbox full", "refused 552"),
    ] {
        let script = script(&[
            HELLO,
            PIPELINING,
            group,
            "S: 250 ok\nS: 250 ok\nS: ",
            reply,
            "\nS: 354 go\nC: Subject: x\nC: \nC: ..\nC: .\nS: 250 ok\n",
        ]);
        let dialogue = Dialogue::new(transaction(&["a@x.example", "b@x.example"]), &script);
        assert_eq!(dialogue.verdicts(), ["accepted 250", verdict]);
    }
    // Where none was taken it is no surplus: trying at once would not help.
    let script = script(&[HELLO, PIPELINING, group, "S: 250 ok\nS: 452 no\nS: 452 no\nS: 503 no\n"]);
    let dialogue = Dialogue::new(transaction(&["a@x.example", "b@x.example"]), &script);
    assert_eq!(dialogue.verdicts(), ["refused 452", "refused 452"]);
}

#[test]
fn chunks_go_out_only_when_somebody_is_welcome() {
    let start =
        "S: 250-mx\nS: 250-PIPELINING\nS: 250 CHUNKING\nC: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\n";
    let taken = script(&[HELLO, start, "S: 250 ok\nS: 250 ok\nC: BDAT 17 LAST\nC: Subject: x\nC: \nC: .\nS: 250 ok\n"]);
    assert_eq!(Dialogue::new(transaction(&["a@x.example"]), &taken).verdicts(), ["accepted 250"]);
    let refused = script(&[HELLO, start, "S: 250 ok\nS: 450 no\n"]);
    assert_eq!(Dialogue::new(transaction(&["a@x.example"]), &refused).verdicts(), ["refused 450"]);
}

#[test]
fn a_chunk_is_never_completed_with_what_does_not_fit() {
    let start = script(&[
        HELLO,
        "S: 250-mx\nS: 250-PIPELINING\nS: 250 CHUNKING\nC: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\n",
        "S: 250 ok\nS: 250 ok\n",
    ]);
    for (content, unfit) in [
        (&b"too short"[..], Unfit::Length),
        (b"much too long to fit into it", Unfit::Length),
        (b"a bare LF is\nbad!", Unfit::BareLineEnd),
        (b"a bare CR is\rbad!", Unfit::BareLineEnd),
        (b"ends with a CR..\r", Unfit::BareLineEnd),
    ] {
        let dialogue = || Dialogue { content, ..Dialogue::new(transaction(&["a@x.example"]), &start) };
        assert_eq!(dialogue().closed(), Some(Closed::Unfit(unfit)), "{content:?}");
        assert_eq!(dialogue().verdicts(), ["NotTaken"]);
    }
}

#[test]
fn dsn_parameters_go_along_where_they_are_understood() {
    let mut envelope = envelope(&["a@x.example"]);
    envelope.ret = Some(Ret::Headers);
    envelope.envid = Some("id+1".into());
    envelope.recipients[0].notify = Notify::On(NotifyOn { success: true, failure: true, delay: false });
    envelope.recipients[0].orcpt = Some(OriginalRecipient { kind: "rfc822".into(), address: "first@y.example".into() });
    let with = script(&[
        HELLO,
        "S: 250-mx\nS: 250-SIZE 100\nS: 250-DSN\nS: 250 PIPELINING\n",
        "C: MAIL FROM:<s@us.example> SIZE=17 RET=HDRS ENVID=id+2B1\n",
        "C: RCPT TO:<a@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first@y.example\nC: DATA\n",
    ]);
    Dialogue::new(of(envelope.clone()), &with).events();
    let without = script(&[HELLO, PIPELINING, "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: DATA\n"]);
    Dialogue::new(of(envelope), &without).events();
}

#[test]
fn what_the_peer_cannot_take_is_not_begun() {
    let offered = |lines: &[&str]| {
        let mut offered = crate::extensions::Extensions::default();
        lines.iter().for_each(|line| offered.take(line));
        offered
    };
    let plain = transaction(&["a@x.example"]);
    assert_eq!(plain.check(&offered(&["SIZE 17"])), Ok(()));
    assert_eq!(plain.check(&offered(&["SIZE 0"])), Ok(()));
    assert_eq!(plain.check(&offered(&["SIZE 16"])), Err(Shortfall::Size { size: 17, limit: 16 }));
    let eight = Transaction { body: BodyKind::EightBitMime, ..plain.clone() };
    assert_eq!(eight.check(&offered(&["8BITMIME"])), Ok(()));
    assert_eq!(eight.check(&offered(&["CHUNKING"])), Err(Shortfall::EightBitMime));
    let binary = Transaction { body: BodyKind::BinaryMime, ..plain.clone() };
    assert_eq!(binary.check(&offered(&["BINARYMIME", "CHUNKING"])), Ok(()));
    assert_eq!(binary.check(&offered(&["BINARYMIME", "8BITMIME"])), Err(Shortfall::BinaryMime));
    let utf8 = Transaction { utf8: true, ..plain };
    assert_eq!(utf8.check(&offered(&["8BITMIME"])), Err(Shortfall::Utf8));
    let fault = Shortfall::Utf8.fault();
    assert!(fault.is_permanent() && fault.reply.to_string().starts_with("553 5.6.7 "));
}

#[test]
fn the_end_of_the_connection_at_every_place() {
    let lines = ["S: 250 ok\n", "S: 250 ok\n", "S: 550 no\n", "S: 354 go\nC: Subject: x\nC: \nC: ..\nC: .\n"];
    for end in ["cut\n", "late\n", "S: 421 bye\n", "S: rubbish\n"] {
        for said in 0..=lines.len() {
            let script = script(&[
                HELLO,
                PIPELINING,
                "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: RCPT TO:<b@x.example>\nC: DATA\n",
                &lines[..said].concat(),
                end,
            ]);
            let verdicts = Dialogue::new(transaction(&["a@x.example", "b@x.example"]), &script).verdicts();
            // Only an end without a word behind the dot leaves open whether the message was taken.
            let first = if said == 4 && !end.starts_with("S: 421") { "MaybeTaken" } else { "NotTaken" };
            let second = if said >= 3 { "refused 550" } else { "NotTaken" };
            assert_eq!(verdicts, [first, second], "{script}");
        }
    }
}

#[test]
fn a_refusal_before_the_content_is_complete_counts() {
    let now = Instant::now();
    let mut connection = ready(now, "250-mx\r\n250 PIPELINING\r\n");
    connection.begin(transaction(&["a@x.example"]), now).unwrap();
    connection.receive(&mut BytesMut::from("250 ok\r\n250 ok\r\n354 go\r\n"), now);
    assert_eq!(connection.next_event(), Some(Event::SendContent));
    connection.content(Bytes::from_static(b"Subject: much\r\n"));
    assert!(connection.wants_content());
    connection.receive(&mut BytesMut::from("552 5.3.4 too much\r\n"), now);
    assert!(!connection.wants_content() && connection.output().is_empty());
    let Some(Event::Done(verdicts)) = connection.next_event() else { panic!("not done") };
    assert_eq!(word(&verdicts[0]), "refused 552");
    assert_eq!(connection.next_event(), Some(Event::Closed(Closed::CutShort)));
}

#[test]
fn success_before_the_content_is_complete_is_not_believed() {
    let now = Instant::now();
    let mut connection = ready(now, "250-mx\r\n250 PIPELINING\r\n");
    connection.begin(transaction(&["a@x.example"]), now).unwrap();
    connection.receive(&mut BytesMut::from("250 ok\r\n250 ok\r\n354 go\r\n250 done\r\n"), now);
    assert_eq!(connection.next_event(), Some(Event::SendContent));
    let Some(Event::Done(verdicts)) = connection.next_event() else { panic!("not done") };
    assert_eq!(word(&verdicts[0]), "NotTaken");
}

#[test]
fn content_that_cannot_be_read_is_not_ended() {
    let now = Instant::now();
    let mut connection = ready(now, "250-mx\r\n250 PIPELINING\r\n");
    connection.begin(transaction(&["a@x.example"]), now).unwrap();
    connection.receive(&mut BytesMut::from("250 ok\r\n250 ok\r\n354 go\r\n"), now);
    connection.content(Bytes::from_static(b"Subject: half"));
    connection.abandon_content();
    assert!(connection.output().is_empty() && connection.is_closed());
}

#[test]
fn a_peer_that_takes_an_octet_now_and_then_does_not_hold_us_for_ever() {
    let mut now = Instant::now();
    let mut connection = ready(now, "250-mx\r\n250 PIPELINING\r\n");
    connection.begin(Transaction { size: 60 * 1024, ..transaction(&["a@x.example"]) }, now).unwrap();
    connection.take_output(now);
    connection.receive(&mut BytesMut::from("250 ok\r\n250 ok\r\n354 go\r\n"), now);
    connection.content(Bytes::from(vec![b'x'; 60 * 1024]));
    let start = now;
    for _ in 0..100 {
        now = connection.deadline().unwrap() - Duration::from_secs(1);
        connection.wrote(1, now);
        connection.expire(now + Duration::from_secs(1));
        if connection.is_closed() {
            // 60 s for 60 KiB at 1 KiB/s, and one block's time.
            assert_eq!(now + Duration::from_secs(1), start + Duration::from_secs(60 + 180));
            return;
        }
    }
    panic!("still open");
}

#[test]
fn lmtp_has_one_reply_for_each_recipient() {
    let group = "C: MAIL FROM:<s@us.example>\nC: RCPT TO:<a@x.example>\nC: RCPT TO:<b@x.example>\n\
                 C: RCPT TO:<c@x.example>\nC: DATA\n";
    let start = script(&["S: 220 x LMTP\nC: LHLO us.example\n", PIPELINING, group]);
    let three = || transaction(&["a@x.example", "b@x.example", "c@x.example"]);
    let go = "S: 250 ok\nS: 250 ok\nS: 550 no\nS: 250 ok\nS: 354 go\nC: Subject: x\nC: \nC: ..\nC: .\n";
    for (end, verdicts) in [
        ("S: 250 ok\nS: 452 full\n", ["accepted 250", "refused 550", "refused 452"]),
        ("S: 250 ok\ncut\n", ["accepted 250", "refused 550", "MaybeTaken"]),
        ("S: 250 ok\nS: 421 bye\n", ["accepted 250", "refused 550", "NotTaken"]),
        ("cut\n", ["MaybeTaken", "refused 550", "MaybeTaken"]),
    ] {
        let script = script(&[&start, go, end]);
        let dialogue = Dialogue { protocol: Protocol::Lmtp, ..Dialogue::new(three(), &script) };
        assert_eq!(dialogue.verdicts(), verdicts, "{end}");
    }
    // Nobody is welcome, but DATA passes: it is not known how many replies a dot would have.
    let none = script(&[&start, "S: 250 ok\nS: 550 no\nS: 550 no\nS: 550 no\nS: 354 go\n"]);
    let dialogue = || Dialogue { protocol: Protocol::Lmtp, ..Dialogue::new(three(), &none) };
    assert_eq!(dialogue().verdicts(), ["refused 550", "refused 550", "refused 550"]);
    assert_eq!(dialogue().closed(), Some(Closed::CutShort));
    // LMTP has no older greeting to fall back to.
    let script = "S: 220 x\nC: LHLO us.example\nS: 500 what\n";
    let dialogue = Dialogue { protocol: Protocol::Lmtp, ..Dialogue::new(three(), script) };
    assert!(matches!(dialogue.closed(), Some(Closed::Refused(_))));
}

#[test]
fn the_bare_postmaster_and_the_null_path() {
    let mut envelope = envelope(&[]);
    envelope.reverse_path = ReversePath::Null;
    envelope.recipients = vec![Recipient::new(ForwardPath::Postmaster)];
    let script = script(&[HELLO, PIPELINING, "C: MAIL FROM:<>\nC: RCPT TO:<postmaster>\nC: DATA\n"]);
    Dialogue::new(of(envelope), &script).events();
}

#[test]
fn quit_is_answered_or_given_up() {
    for end in ["S: 221 bye\n", "cut\n", "late\n", "S: 421 busy\n"] {
        let script = script(&[HELLO, PIPELINING, "quit\nC: QUIT\n", end]);
        let dialogue = Dialogue { transactions: Vec::new(), ..Dialogue::new(transaction(&[]), &script) };
        assert_eq!(dialogue.closed(), Some(Closed::Quit), "{end}");
    }
}

/// A connection whose greeting is behind it.
fn ready(now: Instant, offered: &str) -> Connection {
    let name = Domain::parse("us.example").unwrap();
    let mut connection = Connection::new(Protocol::Smtp, name, Timeouts::default(), now);
    connection.receive(&mut BytesMut::from(format!("220 mx\r\n{offered}").as_str()), now);
    assert_eq!(connection.next_event(), Some(Event::Ready));
    connection.take_output(now);
    connection
}
