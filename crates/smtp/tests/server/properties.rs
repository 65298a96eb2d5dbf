//! What holds for any input: nothing panics, every reply is well formed, transactions come and go in order, and it
//! does not matter into which pieces the network cuts what a client may send in one go.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mail::{Domain, EnhancedCode, Protocol, Reply, TlsFacts, TlsVersion, Verified};
use proptest::prelude::*;
use smtp::server::{Answer, AuthOffer, Config, Endings, Event, Limits, Peer, Session, TlsOffer};

/// What a whole conversation came to: replies, and events with the content in one piece.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    said: String,
    events: Vec<String>,
    /// What was dropped. When that is known depends on how much of the content is there to be looked at.
    dropped: Vec<String>,
}

/// What a listener is.
#[derive(Clone, Debug)]
struct Kind {
    protocol: Protocol,
    endings: Endings,
    tls: TlsOffer,
    /// Whether MAIL needs an account.
    auth: bool,
    answers: Vec<u8>,
}

struct Driver {
    session: Session,
    now: Instant,
    said: Vec<u8>,
    events: Vec<String>,
    dropped: Vec<String>,
    content: Vec<u8>,
    /// The next answers: yes, no for now, no for ever; in turn.
    answers: Vec<u8>,
    asked: usize,
    open: bool,
    closed: bool,
    kind: Kind,
}

impl Driver {
    fn new(kind: &Kind) -> Self {
        let limits = Limits {
            message: 300,
            header: 120,
            line: 60,
            hops: 2,
            recipients: 3,
            command_line: 80,
            errors: u32::MAX,
            errors_undelayed: u32::MAX - 1,
            ..Limits::default()
        };
        let auth = AuthOffer { mechanisms: vec!["PLAIN".into(), "LOGIN".into()], required: kind.auth };
        let config = Config {
            protocol: kind.protocol,
            endings: kind.endings,
            tls: kind.tls,
            auth,
            limits,
            ..Config::new(Domain::parse("mx.example.org").unwrap())
        };
        let mut peer = Peer::new("192.0.2.7:40000".parse().unwrap(), "192.0.2.1:25".parse().unwrap());
        peer.may_xclient = true;
        let now = Instant::now();
        let mut session = Session::new(Arc::new(config), peer, now);
        if kind.tls == TlsOffer::Implicit {
            session.secured(facts(), now);
        }
        let (said, events, dropped, content) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut driver = Self {
            session,
            now,
            said,
            events,
            dropped,
            content,
            answers: kind.answers.clone(),
            asked: 0,
            open: false,
            closed: false,
            kind: kind.clone(),
        };
        driver.drive();
        driver
    }

    fn send(&mut self, octets: &[u8], cut: usize) {
        for piece in octets.chunks(cut.max(1)) {
            let mut piece = BytesMut::from(piece);
            while !piece.is_empty() {
                self.session.receive(&mut piece, self.now);
                self.drive();
            }
        }
    }

    fn drive(&mut self) {
        while let Some(event) = self.session.next_event(self.now) {
            self.take(&event);
            if event.is_question() {
                let answer = self.answer(&event);
                self.session.answer(answer, self.now);
            } else if matches!(event, Event::StartTls) {
                self.said.extend_from_slice(&self.session.take_output());
                self.session.secured(facts(), self.now);
                assert!(self.session.hello().is_none() && self.session.account().is_none());
            }
        }
        self.said.extend_from_slice(&self.session.take_output());
    }

    fn take(&mut self, event: &Event) {
        assert!(!self.closed, "an event behind the last one: {event:?}");
        match event {
            Event::Begin(_) => {
                self.content.clear();
                self.open = true;
                self.events.push(format!("{event:?}"));
            }
            Event::Content(piece) => {
                assert!(self.open && !piece.is_empty());
                self.content.extend_from_slice(piece);
            }
            Event::End(finished) => {
                assert!(std::mem::take(&mut self.open));
                assert_eq!(finished.content.size, self.content.len() as u64);
                assert_eq!(finished.content.eight_bit, !self.content.is_ascii());
                assert!(!finished.transaction.recipients.is_empty());
                // Mail comes over the line that is demanded, and accounts are proven inside TLS only.
                assert!(finished.tls.is_some() || !matches!(self.kind.tls, TlsOffer::Required | TlsOffer::Implicit));
                assert!(finished.account.is_some() || !self.kind.auth);
                assert!(finished.account.is_none() || finished.tls.is_some());
                self.events.push(format!("{event:?} {}", self.content.escape_ascii()));
            }
            Event::Abort { transaction, .. } => {
                self.open = false;
                self.dropped.push(format!("{transaction:?}"));
            }
            Event::Close(_) => {
                assert!(!self.open, "closed without an end of the transaction");
                self.closed = true;
                self.events.push(format!("{event:?}"));
            }
            other => self.events.push(format!("{other:?}")),
        }
    }

    fn answer(&mut self, question: &Event) -> Answer {
        let kind = self.answers.get(self.asked % self.answers.len().max(1)).copied().unwrap_or(0);
        self.asked += 1;
        let each = matches!(question, Event::End(_));
        let auth = matches!(question, Event::Auth { .. } | Event::AuthResponse(_));
        let reply = match kind % 4 {
            0 if auth => return Answer::Authenticated { account: "joe".into(), last: (kind > 100).then(Vec::new) },
            1 if auth => return Answer::Challenge(b"more".to_vec()),
            0 | 1 => return Answer::Accept,
            2 => Reply::new(451, EnhancedCode::new(4, 3, 0), "later"),
            _ => Reply::new(550, EnhancedCode::new(5, 7, 1), "never"),
        };
        if each { Answer::Each(vec![reply]) } else { Answer::Reply(reply) }
    }

    fn story(mut self) -> Story {
        if !self.closed {
            self.session.disconnected();
            self.drive();
        }
        assert!(self.closed && self.session.next_event(self.now).is_none());
        let said = String::from_utf8(self.said).unwrap();
        assert!(said.is_empty() || said.ends_with("\r\n"));
        for line in said.split_terminator("\r\n") {
            let (code, rest) = line.split_at(3);
            assert!(code.parse::<u16>().is_ok_and(|code| (200..600).contains(&code)), "{line}");
            assert!(rest.starts_with([' ', '-']) && !rest.contains(char::is_control) && line.len() <= 510, "{line}");
        }
        Story { said, events: self.events, dropped: self.dropped }
    }
}

/// Commands that may stand anywhere in a group, chunks included.
fn leading() -> impl Strategy<Value = Vec<u8>> {
    let commands = prop_oneof![
        3 => "MAIL FROM:<[a-c@.\"]{0,6}>( SIZE=[0-9]{1,3}| BODY=(8BITMIME|BINARYMIME)| SMTPUTF8)?\r\n",
        3 => Just("MAIL FROM:<a@example.org>\r\n".to_owned()),
        3 => "RCPT TO:<[a-c]@example.org>( NOTIFY=(NEVER|SUCCESS))?\r\n",
        1 => Just("RSET\r\n".to_owned()),
    ];
    prop_oneof![3 => commands.prop_map(String::into_bytes), 1 => chunk()]
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    (content(), any::<bool>()).prop_map(|(content, last)| {
        let command = format!("BDAT {}{}\r\n", content.len(), if last { " LAST" } else { "" });
        [command.into_bytes(), content].concat()
    })
}

/// Content without a lone dot, which would end it.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => "([a-z: ][a-z.: ]{0,30})?\r\n".prop_map(String::into_bytes),
        2 => Just(b"Received: by x\r\n".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        2 => Just(b"..\xe4\r\n".to_vec()),
        1 => "[a-z]{50,90}\r\n".prop_map(String::into_bytes),
        1 => prop_oneof![Just(b"\n".to_vec()), Just(b"\r".to_vec()), Just(b"\0".to_vec()), Just(b"x\n.\r\n".to_vec())],
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

/// A group as RFC 2920 §3.1 allows it: what may lead, and one command that must be last.
fn group() -> impl Strategy<Value = Vec<u8>> {
    let last = prop_oneof![
        4 => Just("DATA\r\n".to_owned()),
        1 => Just("NOOP\r\n".to_owned()),
        1 => Just("EHLO again.example\r\n".to_owned()),
        1 => Just("BOGUS\r\n".to_owned()),
        2 => Just("STARTTLS\r\n".to_owned()),
        2 => "AUTH (PLAIN|LOGIN|CRAM-MD5)( AGEAYg==| =| x)?\r\n",
        1 => "VRFY [a-z]{1,70}\r\n",
    ];
    (proptest::collection::vec(leading(), 0..5), last)
        .prop_map(|(leading, last)| [leading.concat(), last.into_bytes()].concat())
}

fn facts() -> TlsFacts {
    TlsFacts { version: TlsVersion::V1_3, cipher: "TLS_AES_256_GCM_SHA384".into(), verified: Verified::No }
}

fn kind() -> impl Strategy<Value = Kind> {
    let protocol = prop_oneof![Just(Protocol::Smtp), Just(Protocol::Lmtp)];
    let endings = prop_oneof![Just(Endings::Strict), Just(Endings::Repair)];
    let tls =
        prop_oneof![Just(TlsOffer::None), Just(TlsOffer::StartTls), Just(TlsOffer::Required), Just(TlsOffer::Implicit)];
    let auth = proptest::bool::weighted(0.3);
    (protocol, endings, tls, auth, proptest::collection::vec(any::<u8>(), 0..6))
        .prop_map(|(protocol, endings, tls, auth, answers)| Kind { protocol, endings, tls, auth, answers })
}

/// A conversation as a client with manners has it: it greets again inside TLS, and waits where it must.
fn converse(driver: &mut Driver, groups: &[(Vec<u8>, Vec<u8>)], response: &str, cut: usize) {
    let hello = if driver.kind.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
    let hello = format!("{hello} client.example\r\n");
    driver.send(hello.as_bytes(), cut);
    for (group, content) in groups {
        driver.send(group, cut);
        for round in 0..6 {
            match driver.said.rsplit(|b| *b == b'\n').nth(1).and_then(|line| line.get(..3)) {
                Some(b"354") => {
                    driver.send(content, cut);
                    driver.send(b"\r\n.\r\n", cut);
                }
                Some(b"334") if round == 5 => driver.send(b"*\r\n", cut),
                Some(b"334") => driver.send(response.as_bytes(), cut),
                Some(b"220") => driver.send(hello.as_bytes(), cut),
                _ => break,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cut_changes_nothing(
        kind in kind(),
        groups in proptest::collection::vec((group(), content()), 1..6),
        response in "(AGEAYg==|\\*|x|)\r\n",
        cut in 1..50_usize,
    ) {
        let stories = [usize::MAX, cut, 1].map(|cut| {
            let mut driver = Driver::new(&kind);
            converse(&mut driver, &groups, &response, cut);
            driver.story()
        });
        prop_assert_eq!(&stories[0], &stories[1]);
        prop_assert_eq!(&stories[0], &stories[2]);
    }

    #[test]
    fn arbitrary_octets_are_survived(
        kind in kind(),
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                leading(),
                content(),
                group(),
                Just(b"EHLO x\r\n".to_vec()),
                Just(b"LHLO x\r\n".to_vec()),
                Just(b"XCLIENT ADDR=192.0.2.8\r\n".to_vec()),
                Just(b".\r\n".to_vec()),
                Just(b"*\r\n".to_vec()),
                Just(b"AGEAYg==\r\n".to_vec()),
            ],
            0..12,
        ),
        cut in 1..50_usize,
    ) {
        let mut driver = Driver::new(&kind);
        for piece in pieces {
            driver.send(&piece, cut);
        }
        driver.story();
    }
}
