//! Runs the transcripts of `tests/dialogues` against the session without I/O, as written and octet by octet.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mail::{
    Domain, EnhancedCode, Protocol, Recipient, Reply, ReversePath, Timestamp, TlsFacts, TlsVersion, TransferProtocol,
    Verified,
};
use smtp::server::{
    Answer, CloseReason, Config, Endings, Event, Finished, Limits, Peer, Session, TlsOffer, Transaction,
};

use crate::accounts::Accounts;
use crate::script::{self, Script, Setting, Step};

#[test]
fn every_dialogue_goes_as_written() {
    let scripts = scripts();
    assert!(scripts.len() > 20, "the transcripts are missing");
    for script in &scripts {
        Run::new(script, usize::MAX).play(script);
    }
}

#[test]
fn every_dialogue_goes_the_same_octet_by_octet() {
    for script in scripts().iter().filter(|script| !script.settings.contains(&Setting::Segments)) {
        Run::new(script, 1).play(script);
    }
}

#[test]
fn patterns() {
    assert!(script::matches("250 2.0.0 {id} queued", "250 2.0.0 01ARZ queued"));
    assert!(script::matches("250-{host}", "250-mx.example.org"));
    assert!(!script::matches("250-{host}", "250-"));
    assert!(!script::matches("250 {any} ok", "250 nothing"));
    assert!(!script::matches("250 ok", "250 ok "));
}

fn scripts() -> Vec<Script> {
    script::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/dialogues"))
}

/// A session and its scripted driver.
struct Run {
    session: Session,
    refusals: Vec<(String, String, Reply)>,
    accounts: Accounts,
    /// Whether the session waits for the handshake.
    handshake: bool,
    now: Instant,
    /// The most octets that arrive at once.
    cut: usize,
    /// Sent, not yet received.
    wire: Vec<u8>,
    /// Said, not yet expected.
    said: Vec<u8>,
    /// The lines that `S~` took last.
    taken: Vec<String>,
    content: Vec<u8>,
    finished: Option<(Transaction, Vec<u8>, TransferProtocol)>,
    aborted: bool,
    closed: Option<CloseReason>,
    place: String,
}

impl Run {
    fn new(script: &Script, cut: usize) -> Self {
        let mut config = Config::new(Domain::parse("mx.example.org").unwrap());
        let mut peer = Peer::new("192.0.2.7:40000".parse().unwrap(), "192.0.2.1:25".parse().unwrap());
        let (mut refusals, mut accounts) = (Vec::new(), Accounts::default());
        for setting in &script.settings {
            match setting {
                Setting::Lmtp => config.protocol = Protocol::Lmtp,
                Setting::Repair => config.endings = Endings::Repair,
                Setting::Xclient => peer.may_xclient = true,
                Setting::Segments => {}
                Setting::Tls(how) => config.tls = tls(how),
                Setting::Auth(mechanisms) => config.auth.mechanisms.clone_from(mechanisms),
                Setting::AuthRequired => config.auth.required = true,
                Setting::Account(name, password) => accounts.add(name, password),
                Setting::Offer(key, value) => offer(&mut config, key, *value),
                Setting::Limit(key, value) => set_limit(&mut config.limits, key, *value),
                Setting::Refuse { what, whom, reply: line } => {
                    refusals.push((what.clone(), whom.clone(), reply(line)));
                }
            }
        }
        let now = Instant::now();
        let handshake = config.tls == TlsOffer::Implicit;
        let mut session = Session::new(Arc::new(config), peer, now);
        // 2026-11-21T09:30:00Z
        session.tell_time(now, Timestamp::from_millis(1_795_253_400_000));
        Self {
            session,
            refusals,
            accounts,
            handshake,
            now,
            cut,
            wire: Vec::new(),
            said: Vec::new(),
            taken: Vec::new(),
            content: Vec::new(),
            finished: None,
            aborted: false,
            closed: None,
            place: String::new(),
        }
    }

    fn play(mut self, script: &Script) {
        for (line, step) in &script.steps {
            self.place = format!("{}.smtp:{line}", script.name);
            self.step(step);
        }
        self.deliver();
        assert_eq!(self.said.escape_ascii().to_string(), "", "{}: said and not expected", self.place);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(octets) => return self.wire.extend_from_slice(octets),
            Step::Tls => self.handshake(),
            _ => {}
        }
        self.deliver();
        let place = &self.place;
        match step {
            Step::Send(_) | Step::Tls | Step::Boundary => {}
            Step::Expect(pattern) => {
                let line = self.line();
                assert!(script::matches(pattern, &line), "{}: expected {pattern:?}, got {line:?}", self.place);
            }
            Step::Until(pattern) => self.until(pattern),
            Step::Offers(words) => assert!(script::offers(&self.taken, words), "{place}: {:#?}", self.taken),
            Step::Lacks(word) => assert!(script::lacks(&self.taken, word), "{place}: {:#?}", self.taken),
            Step::Silence => assert_eq!(self.said.escape_ascii().to_string(), "", "{place}: no silence"),
            Step::Close(reason) => {
                let closed = self.closed.unwrap_or_else(|| panic!("{place}: still open"));
                assert!(reason.as_deref().is_none_or(|reason| reason == closed.label()), "{place}: {closed:?}");
            }
            Step::Time(span) => self.pass(*span),
            Step::Eof => {
                match std::mem::take(&mut self.handshake) {
                    true => self.session.handshake_failed(),
                    false => self.session.disconnected(),
                }
                self.drive();
            }
            Step::With(protocol) => {
                let (_, _, got) = self.finished.as_ref().unwrap_or_else(|| panic!("{place}: no message"));
                assert_eq!(got.as_str(), protocol, "{place}");
            }
            Step::Content(content) => {
                let (_, got, _) = self.finished.as_ref().unwrap_or_else(|| panic!("{place}: no message"));
                assert_eq!(got.escape_ascii().to_string(), content.escape_ascii().to_string(), "{place}");
            }
            Step::Recipients(recipients) => {
                let (transaction, _, _) = self.finished.as_ref().unwrap_or_else(|| panic!("{place}: no message"));
                assert_eq!(&transaction.recipients.iter().map(address).collect::<Vec<_>>(), recipients, "{place}");
            }
            Step::Abort => assert!(std::mem::take(&mut self.aborted), "{place}: nothing was dropped"),
        }
    }

    fn until(&mut self, pattern: &str) {
        self.taken.clear();
        while self.taken.last().is_none_or(|line| !script::matches(pattern, line)) {
            let line = self.line();
            self.taken.push(line);
        }
    }

    fn handshake(&mut self) {
        self.deliver();
        assert_eq!(self.said.escape_ascii().to_string(), "", "{}: said in clear and not expected", self.place);
        assert!(std::mem::take(&mut self.handshake), "{}: no handshake is due", self.place);
        let cipher = "TLS_AES_256_GCM_SHA384".to_owned();
        self.session.secured(TlsFacts { version: TlsVersion::V1_3, cipher, verified: Verified::No }, self.now);
        self.drive();
    }

    /// Lets the session have what was sent, as far as it wants it.
    fn deliver(&mut self) {
        if self.handshake && !self.wire.is_empty() {
            // Commands are no ClientHello.
            self.wire.clear();
            self.handshake = false;
            self.session.handshake_failed();
        }
        while !self.wire.is_empty() && (self.session.wants_input() || self.session.is_closed()) {
            let cut = self.cut.min(self.wire.len());
            let mut piece = BytesMut::from(&self.wire[..cut]);
            self.session.receive(&mut piece, self.now);
            self.wire.drain(..cut - piece.len());
            self.drive();
        }
        self.drive();
    }

    fn drive(&mut self) {
        if self.handshake {
            return;
        }
        while let Some(event) = self.session.next_event(self.now) {
            assert_eq!(self.closed, None, "{}: an event behind the last one: {event:?}", self.place);
            if let Some(answer) = self.take(event) {
                self.session.answer(answer, self.now);
            }
        }
        self.said.extend_from_slice(&self.session.take_output());
    }

    fn take(&mut self, event: Event) -> Option<Answer> {
        match event {
            Event::Mail(sender) => {
                let whom = match &sender.path {
                    ReversePath::Null => String::new(),
                    ReversePath::Mailbox(mailbox) => mailbox.to_string(),
                };
                Some(self.answer("mail", &whom))
            }
            Event::Recipient(recipient) => Some(self.answer("rcpt", &address(&recipient))),
            Event::Begin(_) => {
                self.content.clear();
                Some(self.answer("begin", "*"))
            }
            Event::Xclient(_) => Some(self.answer("xclient", "*")),
            Event::End(finished) => Some(self.finish(*finished)),
            Event::Content(piece) => {
                assert!(!piece.is_empty());
                self.content.extend_from_slice(&piece);
                None
            }
            Event::Abort { .. } => {
                self.aborted = true;
                None
            }
            Event::Close(reason) => {
                self.closed = Some(reason);
                None
            }
            Event::Auth { mechanism, initial } => Some(self.accounts.begin(&mechanism, initial.as_deref())),
            Event::AuthResponse(message) => Some(self.accounts.step(&message)),
            Event::AuthCancelled => {
                self.accounts.cancel();
                None
            }
            Event::Authenticated(account) => {
                assert_eq!(self.session.account(), Some(account.as_str()), "{}", self.place);
                None
            }
            Event::StartTls => {
                self.starts_tls();
                None
            }
            Event::Hello(_) | Event::Refused(_) => None,
        }
    }

    fn finish(&mut self, finished: Finished) -> Answer {
        let content = std::mem::take(&mut self.content);
        assert_eq!(finished.content.size, content.len() as u64, "{}", self.place);
        let replies =
            finished.transaction.recipients.iter().map(|recipient| match self.answer("end", &address(recipient)) {
                Answer::Reply(reply) => reply,
                _ => Reply::new(250, EnhancedCode::new(2, 0, 0), "queued"),
            });
        let answer = Answer::Each(replies.collect());
        self.finished = Some((finished.transaction, content, finished.protocol));
        answer
    }

    fn starts_tls(&mut self) {
        match self.refusals.iter().any(|(on, _, _)| on == "tls") {
            true => self.session.tls_unavailable(self.now),
            false => {
                self.said.extend_from_slice(&self.session.take_output());
                self.handshake = true;
            }
        }
    }

    fn answer(&self, what: &str, whom: &str) -> Answer {
        let refusal = self.refusals.iter().find(|(on, of, _)| on == what && (of == "*" || of == whom));
        refusal.map_or(Answer::Accept, |(_, _, reply)| Answer::Reply(reply.clone()))
    }

    /// Lets time pass, and the session act on each of its deadlines in between.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..1000 {
            let Some(deadline) = self.session.deadline().filter(|deadline| *deadline <= end) else { break };
            self.now = self.now.max(deadline);
            self.session.expire(self.now);
            self.deliver();
        }
        self.now = end;
        self.deliver();
    }

    fn line(&mut self) -> String {
        let end = self.said.windows(2).position(|pair| pair == b"\r\n");
        let end = end.unwrap_or_else(|| panic!("{}: nothing was said", self.place));
        let line: Vec<u8> = self.said.drain(..end + 2).take(end).collect();
        String::from_utf8(line).unwrap()
    }
}

fn tls(how: &str) -> TlsOffer {
    match how {
        "offered" => TlsOffer::StartTls,
        "required" => TlsOffer::Required,
        _ => TlsOffer::Implicit,
    }
}

fn offer(config: &mut Config, key: &str, value: u64) {
    let span = Some(Duration::from_secs(value));
    match key {
        "future_release" => config.future_release = span,
        "deliver_by" => config.deliver_by = span,
        "priority" => config.mt_priority = value > 0,
        _ => panic!("nothing to offer is called {key}"),
    }
}

fn address(recipient: &Recipient) -> String {
    recipient.path.to_string().trim_matches(['<', '>']).to_owned()
}

fn reply(line: &str) -> Reply {
    let (code, text) = line.split_once(' ').unwrap();
    let (enhanced, text) = EnhancedCode::take(text).unwrap();
    Reply::new(code.parse().unwrap(), enhanced, text)
}

fn set_limit(limits: &mut Limits, key: &str, value: u64) {
    let seconds = Duration::from_secs(value);
    match key {
        "message" => limits.message = value,
        "header" => limits.header = value,
        "line" => limits.line = value as usize,
        "hops" => limits.hops = value as u32,
        "recipients" => limits.recipients = value as u32,
        "transactions" => limits.transactions = value as u32,
        "command_line" => limits.command_line = value as usize,
        "commands" => limits.commands = value as u32,
        "errors" => limits.errors = value as u32,
        "errors_undelayed" => limits.errors_undelayed = value as u32,
        "junk" => limits.junk = value as u32,
        "discard" => limits.discard = value,
        "rate" => limits.rate = value as u32,
        "greeting_pause" => limits.greeting_pause = seconds,
        "command_time" => limits.command_time = seconds,
        "content_idle" => limits.content_idle = seconds,
        "content_time" => limits.content_time = seconds,
        "rate_grace" => limits.rate_grace = seconds,
        "session_time" => limits.session_time = seconds,
        _ => panic!("no limit is called {key}"),
    }
}
