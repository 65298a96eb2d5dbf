//! What a driver sees and does that no transcript shows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mail::{
    BodyKind, Domain, EnhancedCode, Notify, Protocol, Reply, Ret, TlsFacts, TlsVersion, TransferProtocol, Verified,
};
use smtp::server::{
    Abort, Answer, AuthOffer, Begin, CloseReason, Config, ContentFacts, Dialect, Event, Finished, Hello, Limits, Peer,
    Refusal, Session, TlsOffer,
};

const SECOND: Duration = Duration::from_secs(1);

/// A session with a clock, whose events are looked at one by one.
struct Bench {
    session: Session,
    now: Instant,
}

impl Bench {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let peer = Peer::new("192.0.2.7:40000".parse().unwrap(), "192.0.2.1:25".parse().unwrap());
        Self { session: Session::new(Arc::new(config), peer, now), now }
    }

    /// Greeted, behind EHLO, with nothing left to write.
    fn ready() -> Self {
        let mut bench = Self::new(config());
        assert_eq!(bench.said(), "220 mx.example.org ESMTP Postrider\r\n");
        assert!(matches!(bench.send("EHLO client.example\r\n"), Some(Event::Hello(_))));
        assert!(bench.next().is_none());
        bench.said();
        bench
    }

    /// Behind MAIL and RCPT.
    fn with_recipient() -> Self {
        let mut bench = Self::ready();
        assert!(matches!(bench.send("MAIL FROM:<a@example.org> SIZE=7\r\n"), Some(Event::Mail(_))));
        bench.answer(Answer::Accept);
        assert!(matches!(bench.send("RCPT TO:<b@example.org>\r\n"), Some(Event::Recipient(_))));
        bench.answer(Answer::Accept);
        bench.said();
        bench
    }

    fn send(&mut self, text: &str) -> Option<Event> {
        self.session.receive(&mut text.as_bytes().into(), self.now);
        self.next()
    }

    fn next(&mut self) -> Option<Event> {
        self.session.next_event(self.now)
    }

    fn answer(&mut self, answer: Answer) -> Option<Event> {
        self.session.answer(answer, self.now);
        self.next()
    }

    fn said(&mut self) -> String {
        String::from_utf8(self.session.take_output().to_vec()).unwrap()
    }
}

fn config() -> Config {
    Config::new(Domain::parse("mx.example.org").unwrap())
}

fn no(code: u16) -> Reply {
    Reply::new(code, EnhancedCode::new((code / 100) as u8, 7, 0), "no")
}

#[test]
fn a_transaction_is_told_whole() {
    let mut bench = Bench::ready();
    let mail = bench.send("MAIL FROM:<a@example.org> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+20y\r\n");
    let Some(Event::Mail(sender)) = mail else { panic!("{mail:?}") };
    assert_eq!(sender.path.to_string(), "<a@example.org>");
    let parameters = sender.parameters;
    assert_eq!((parameters.size, parameters.body, parameters.utf8), (Some(10), BodyKind::EightBitMime, true));
    assert_eq!((parameters.ret, parameters.envid.as_deref()), (Some(Ret::Headers), Some("x y")));
    bench.answer(Answer::Accept);
    let Some(Event::Recipient(recipient)) = bench.send("RCPT TO:<b@example.org> NOTIFY=NEVER\r\n") else { panic!() };
    assert_eq!(recipient.notify, Notify::Never);
    bench.answer(Answer::Accept);
    assert_eq!(bench.session.transaction().unwrap().recipients, std::slice::from_ref(&recipient));
    let Some(Event::Begin(begin)) = bench.send("DATA\r\n") else { panic!() };
    assert_eq!(begin, Begin { expected: Some(10), recipients: 1 });
    bench.answer(Answer::Accept);
    let Some(Event::Content(first)) = bench.send("Received: x\r\n\r\n..\u{e4}\r\n.\r\n") else { panic!() };
    let Some(Event::Content(second)) = bench.next() else { panic!() };
    assert_eq!((&first[..], &second[..]), (&b"Received: x\r\n\r\n"[..], ".ä\r\n".as_bytes()));
    let Some(Event::End(finished)) = bench.next() else { panic!() };
    let expected = Finished {
        transaction: finished.transaction.clone(),
        content: ContentFacts {
            size: 20,
            header: 15,
            hops: 1,
            eight_bit: true,
            eight_bit_header: false,
            tls_optional: false,
        },
        hello: Hello { name: "client.example".into(), dialect: Dialect::Esmtp },
        protocol: TransferProtocol::Utf8Smtp,
        tls: None,
        account: None,
    };
    assert_eq!(*finished, expected);
    assert_eq!(finished.transaction.recipients, [recipient]);
    bench.said();
    assert!(bench.answer(Answer::Reply(Reply::new(250, EnhancedCode::new(2, 0, 0), "01ABC queued"))).is_none());
    assert_eq!(bench.said(), "250 2.0.0 01ABC queued\r\n");
    assert!(bench.session.transaction().is_none());
}

#[test]
fn content_is_a_slice_of_what_was_read() {
    let mut bench = Bench::with_recipient();
    bench.send("DATA\r\n");
    bench.answer(Answer::Accept);
    let mut read = BytesMut::from("one\r\ntwo\r\n.\r\n");
    let place = read.as_ptr();
    bench.session.receive(&mut read, bench.now);
    let Some(Event::Content(piece)) = bench.next() else { panic!() };
    assert_eq!((&piece[..], piece.as_ptr()), (&b"one\r\ntwo\r\n"[..], place));
}

#[test]
fn what_comes_while_354_is_pending_is_not_content() {
    let mut bench = Bench::with_recipient();
    assert!(matches!(bench.send("DATA\r\n"), Some(Event::Begin(_))));
    assert!(!bench.session.wants_input());
    assert!(bench.send("QUIT\r\n").is_none());
    assert!(matches!(bench.answer(Answer::Accept), Some(Event::Refused(Refusal::Pipelining))));
    assert!(matches!(bench.next(), Some(Event::Abort { why: Abort::Close(CloseReason::Pipelining), .. })));
    assert!(matches!(bench.next(), Some(Event::Close(CloseReason::Pipelining))));
    assert!(bench.said().starts_with("554 5.5.0 "));
}

#[test]
fn a_refused_connection_hears_why_instead_of_the_greeting() {
    let mut bench = Bench::new(config());
    bench.session.refuse(&no(554));
    assert_eq!(bench.said(), "554 5.7.0 no\r\n");
    assert!(matches!(bench.next(), Some(Event::Close(CloseReason::Refused))));
    assert!(bench.next().is_none());
    assert!(bench.session.is_closed());
}

#[test]
fn no_timer_runs_during_a_question() {
    let mut bench = Bench::with_recipient();
    assert!(matches!(bench.send("DATA\r\n"), Some(Event::Begin(_))));
    assert_eq!(bench.session.deadline(), None);
    bench.now += 100_000 * SECOND;
    bench.session.expire(bench.now);
    assert!(!bench.session.is_closed());
    bench.answer(Answer::Accept);
    assert!(bench.said().starts_with("354 "));
}

#[test]
fn time_that_the_driver_takes_is_not_the_peers() {
    let limits = Limits { rate: 10, rate_grace: 5 * SECOND, content_idle: 60 * SECOND, ..Limits::default() };
    let mut bench = Bench::new(Config { limits: Limits { session_time: 1_000_000 * SECOND, ..limits }, ..config() });
    bench.said();
    bench.send("EHLO x\r\n");
    bench.send("MAIL FROM:<>\r\n");
    bench.answer(Answer::Accept);
    bench.send("RCPT TO:<b@example.org>\r\n");
    bench.answer(Answer::Accept);
    bench.send("DATA\r\n");
    bench.answer(Answer::Accept);
    assert!(matches!(bench.send("0123456789"), Some(Event::Content(_))));
    // The driver is busy writing the piece for an hour, and only then asks for more.
    bench.now += 3600 * SECOND;
    assert!(bench.next().is_none());
    assert_eq!(bench.session.deadline(), Some(bench.now + 6 * SECOND));
}

#[test]
fn a_drained_session_finishes_its_transaction() {
    let mut bench = Bench::with_recipient();
    bench.session.drain();
    assert!(bench.next().is_none());
    bench.send("DATA\r\n");
    bench.answer(Answer::Accept);
    bench.said();
    assert!(matches!(bench.send(".\r\n"), Some(Event::End(_))));
    assert!(matches!(bench.answer(Answer::Accept), Some(Event::Refused(Refusal::Shutdown))));
    assert!(matches!(bench.next(), Some(Event::Close(CloseReason::Shutdown))));
    assert_eq!(bench.said().lines().map(|line| &line[..9]).collect::<Vec<_>>(), ["250 2.0.0", "421 4.3.2"]);
}

#[test]
fn an_idle_session_is_drained_at_once() {
    for mut bench in [Bench::ready(), Bench::new(config())] {
        bench.session.drain();
        assert!(matches!(bench.next(), Some(Event::Refused(Refusal::Shutdown))));
        assert!(matches!(bench.next(), Some(Event::Close(CloseReason::Shutdown))));
        assert!(bench.said().starts_with("421 4.3.2 "));
    }
}

#[test]
fn a_peer_that_is_gone_leaves_no_transaction() {
    let mut bench = Bench::with_recipient();
    bench.session.disconnected();
    let Some(Event::Abort { transaction, why }) = bench.next() else { panic!() };
    assert_eq!((transaction.recipients.len(), why), (1, Abort::Close(CloseReason::Disconnected)));
    assert!(matches!(bench.next(), Some(Event::Close(CloseReason::Disconnected))));
    assert!(bench.next().is_none());
    // What it still had on the way is of no interest.
    assert!(bench.send("QUIT\r\n").is_none());
}

#[test]
fn missing_answers_under_lmtp_are_not_acceptance() {
    let mut bench = Bench::new(Config { protocol: Protocol::Lmtp, ..config() });
    bench.said();
    bench.send("LHLO x\r\n");
    bench.next();
    bench.send("MAIL FROM:<>\r\n");
    bench.answer(Answer::Accept);
    for to in ["RCPT TO:<a@b>\r\n", "RCPT TO:<c@d>\r\n"] {
        bench.send(to);
        bench.answer(Answer::Accept);
    }
    bench.send("DATA\r\n");
    bench.answer(Answer::Accept);
    bench.said();
    assert!(matches!(bench.send(".\r\n"), Some(Event::End(_))));
    bench.answer(Answer::Each(vec![Reply::new(250, EnhancedCode::new(2, 1, 5), "in")]));
    assert_eq!(bench.said(), "250 2.1.5 in\r\n451 4.3.0 not taken, try again\r\n");
}

#[test]
fn an_answer_without_a_question_does_nothing() {
    let mut bench = Bench::ready();
    assert!(bench.answer(Answer::Reply(no(550))).is_none());
    assert_eq!(bench.said(), "");
}

#[test]
fn xclient_changes_the_peer_and_the_trace() {
    let mut bench = Bench::new(config());
    let mut peer = bench.session.peer().clone();
    peer.may_xclient = true;
    bench.session = Session::new(Arc::new(config()), peer, bench.now);
    bench.said();
    let asked = bench.send("XCLIENT ADDR=192.0.2.99 PORT=7 HELO=real.example PROTO=SMTP\r\n");
    let Some(Event::Xclient(peer)) = asked else { panic!("{asked:?}") };
    assert_eq!(peer.address, "192.0.2.99:7".parse().unwrap());
    assert_ne!(bench.session.peer().address, peer.address);
    bench.answer(Answer::Accept);
    assert_eq!(bench.session.peer().address, peer.address);
    let Some(Event::Hello(hello)) = bench.send("EHLO proxy.example\r\n") else { panic!() };
    assert_eq!(hello.name, "real.example");
}

#[test]
fn the_session_takes_no_more_than_it_may_hold() {
    let mut bench = Bench::with_recipient();
    assert!(matches!(bench.send("DATA\r\n"), Some(Event::Begin(_))));
    let mut flood = BytesMut::from(&vec![b'x'; 200_000][..]);
    bench.session.receive(&mut flood, bench.now);
    assert_eq!(flood.len(), 200_000 - 64 * 1024);
    bench.session.receive(&mut flood, bench.now);
    assert_eq!(flood.len(), 200_000 - 64 * 1024);
}

#[test]
fn passwords_are_not_printed() {
    let offer = AuthOffer { mechanisms: vec!["PLAIN".into()], required: true };
    let mut bench = Bench::new(Config { tls: TlsOffer::Implicit, auth: offer, ..config() });
    bench.session.secured(facts(), bench.now);
    bench.said();
    bench.send("EHLO client.example\r\n");
    bench.next();
    // Half a line, as it stands in the input; then the whole.
    assert!(bench.send("AUTH PLAIN AGpvZQBvcGVu").is_none());
    assert!(!format!("{:?}", bench.session).contains("AGpvZQBvcGVu"));
    let asked = bench.send("c2VzYW1l\r\n");
    let Some(Event::Auth { mechanism, initial: Some(initial) }) = &asked else { panic!("{asked:?}") };
    assert_eq!((mechanism.as_str(), &initial[..]), ("PLAIN", &b"\0joe\0opensesame"[..]));
    assert!(!format!("{asked:?}").contains("opensesame") && !format!("{asked:?}").contains("111"));
}

#[test]
fn what_the_driver_read_behind_starttls_is_not_part_of_the_handshake() {
    let mut bench = Bench::new(Config { tls: TlsOffer::StartTls, ..config() });
    bench.said();
    bench.send("EHLO client.example\r\n");
    bench.next();
    bench.said();
    assert!(matches!(bench.send("STARTTLS\r\n"), Some(Event::StartTls)));
    assert!(!bench.session.wants_input() && bench.session.deadline().is_none());
    // It came in a read of its own, before 220 was out.
    assert!(matches!(bench.send("EHLO evil.example\r\n"), Some(Event::Refused(Refusal::InjectedBeforeTls))));
    assert!(matches!(bench.next(), Some(Event::Close(CloseReason::InjectedBeforeTls))));
    assert!(bench.said().starts_with("554 5.5.0 "));
    bench.session.secured(facts(), bench.now);
    assert!(bench.session.tls().is_none() && bench.session.is_closed());
}

#[test]
fn an_account_by_certificate_is_known_at_once_and_makes_way_for_auth() {
    let offer = AuthOffer { mechanisms: vec!["PLAIN".into()], required: true };
    let mut bench = Bench::new(Config { tls: TlsOffer::Implicit, auth: offer, mt_priority: true, ..config() });
    bench.session.secured(facts(), bench.now);
    bench.session.set_account("certified".into());
    bench.said();
    bench.send("EHLO client.example\r\n");
    bench.next();
    let offered = bench.said();
    assert!(offered.contains("AUTH PLAIN") && offered.contains("MT-PRIORITY"), "{offered}");
    assert!(matches!(bench.send("MAIL FROM:<a@example.org> MT-PRIORITY=3\r\n"), Some(Event::Mail(_))));
    bench.answer(Answer::Accept);
    bench.send("RSET\r\n");
    assert!(matches!(bench.next(), None | Some(Event::Abort { .. })));
    bench.said();
    assert!(matches!(bench.send("AUTH PLAIN =\r\n"), Some(Event::Auth { .. })));
    let proven = bench.answer(Answer::Authenticated { account: "joe".into(), last: None });
    assert!(matches!(proven, Some(Event::Authenticated(account)) if account == "joe"));
    assert_eq!(bench.session.account(), Some("joe"));
}

#[test]
fn a_yes_that_names_nobody_proves_nothing() {
    for answer in [Answer::Accept, Answer::Reply(Reply::new(235, EnhancedCode::new(2, 7, 0), "welcome"))] {
        let offer = AuthOffer { mechanisms: vec!["PLAIN".into()], required: true };
        let mut bench = Bench::new(Config { tls: TlsOffer::Implicit, auth: offer, ..config() });
        bench.session.secured(facts(), bench.now);
        bench.said();
        bench.send("EHLO client.example\r\n");
        bench.next();
        bench.said();
        assert!(matches!(bench.send("AUTH PLAIN =\r\n"), Some(Event::Auth { .. })));
        bench.answer(answer);
        assert!(bench.said().starts_with("454 4.7.0 ") && bench.session.account().is_none());
    }
}

#[test]
fn a_server_that_shuts_down_does_not_wait_for_the_next_message_of_an_exchange() {
    let offer = AuthOffer { mechanisms: vec!["LOGIN".into()], required: true };
    let mut bench = Bench::new(Config { tls: TlsOffer::Implicit, auth: offer, ..config() });
    bench.session.secured(facts(), bench.now);
    bench.said();
    bench.send("EHLO client.example\r\n");
    bench.next();
    assert!(matches!(bench.send("AUTH LOGIN\r\n"), Some(Event::Auth { .. })));
    bench.answer(Answer::Challenge(b"Username:".to_vec()));
    bench.session.drain();
    assert!(matches!(bench.next(), Some(Event::Refused(Refusal::Shutdown))));
    assert!(matches!(bench.next(), Some(Event::Close(CloseReason::Shutdown))));
}

fn facts() -> TlsFacts {
    TlsFacts { version: TlsVersion::V1_3, cipher: "TLS_AES_256_GCM_SHA384".into(), verified: Verified::No }
}
