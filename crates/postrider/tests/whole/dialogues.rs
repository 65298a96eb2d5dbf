//! The transcripts of `tests/dialogues` over real sockets, and what they leave in the queue.
//!
//! What needs a clock or a driver with a script of its own runs against the session without I/O only; so do limits
//! that are lower than the configuration takes, and mechanisms that there are only in transcripts. Nothing leaves the queue here, so that each message can be read back
//! from the disk octet by octet.

#[path = "../../../smtp/tests/server/script.rs"]
#[allow(dead_code, reason = "another test uses the rest of it")]
mod script;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::script::{Script, Setting, Step};
use crate::harness::{Line, PATIENCE, Postrider, Setup};

/// How long nothing is to be heard, and the longest time between segments that must not arrive together.
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn every_dialogue_goes_as_written_over_a_socket() {
    let scripts = script::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/dialogues"));
    let (mut groups, mut skipped) = (BTreeMap::<Needs, Vec<&Script>>::new(), Vec::new());
    for script in &scripts {
        match Needs::of(script) {
            Some(needs) => groups.entry(needs).or_default().push(script),
            None => skipped.push(script.name.as_str()),
        }
    }
    println!(
        "{} of {} dialogues left out, which need a clock, a scripted driver or tiny limits: {}",
        skipped.len(),
        scripts.len(),
        skipped.join(", ")
    );
    assert!(skipped.len() < scripts.len() / 3, "most dialogues can be had over a socket");
    for (needs, scripts) in &groups {
        let setup = needs.setup();
        needs.accounts.iter().for_each(|(name, password)| add_account(&setup, name, password));
        let server = Postrider::start(&setup);
        for script in scripts {
            Run::new(&server, script).play(script);
        }
    }
}

/// What the server must be told: keys of its listener and of its limits.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Needs {
    listener: Vec<String>,
    limits: BTreeMap<&'static str, String>,
    tls: Option<String>,
    auth: Option<&'static str>,
    mechanisms: Vec<String>,
    accounts: Vec<(String, String)>,
    submission: Vec<String>,
}

impl Needs {
    fn of(script: &Script) -> Option<Self> {
        let mut needs = Self::default();
        for setting in &script.settings {
            match setting {
                Setting::Segments => {}
                Setting::Lmtp => needs.listener.push("protocol = \"lmtp\"".to_owned()),
                Setting::Repair => needs.listener.push("endings = \"repair\"".to_owned()),
                Setting::Xclient => needs.listener.push("xclient = [\"127.0.0.0/8\"]".to_owned()),
                Setting::Limit(key, value) => needs.limit(key, *value)?,
                Setting::Tls(how) => needs.tls = Some(how.clone()),
                Setting::Auth(mechanisms) if mechanisms.iter().any(|name| name.starts_with("X-")) => return None,
                Setting::Auth(mechanisms) => {
                    needs.auth = needs.auth.or(Some("offered"));
                    needs.mechanisms.clone_from(mechanisms);
                }
                Setting::AuthRequired => needs.auth = Some("required"),
                Setting::Account(name, password) => needs.accounts.push((name.clone(), password.clone())),
                Setting::Offer(key, value) if key == "priority" => {
                    needs.submission.push(format!("priority = {}", *value > 0));
                }
                Setting::Offer(key, value) => needs.submission.push(format!("{key} = {}", quoted(*value, "s"))),
                Setting::Refuse { .. } => return None,
            }
        }
        if script.steps.iter().any(|(_, step)| matches!(step, Step::Time(_))) {
            return None;
        }
        // Who speaks first would race with the greeting.
        if matches!(script.steps.first(), Some((_, Step::Send(_)))) {
            needs.limits.insert("greeting_pause", quoted(20, "s"));
        }
        Some(needs)
    }

    /// A limit by its name in transcripts, if a configuration may have it.
    fn limit(&mut self, key: &str, value: u64) -> Option<()> {
        let (key, value) = match (key, value) {
            ("message", _) => {
                self.limits.entry("header_size").or_insert(quoted(value, "B"));
                ("message_size", quoted(value, "B"))
            }
            ("header", _) => ("header_size", quoted(value, "B")),
            ("discard", _) => ("discard", quoted(value, "B")),
            ("hops", 1..) => ("hops", value.to_string()),
            ("transactions", 1..) => ("messages", value.to_string()),
            ("recipients", 100..) => ("recipients", value.to_string()),
            ("commands", 10..) => ("commands", value.to_string()),
            ("errors", 1..) => ("errors", value.to_string()),
            ("errors_undelayed", _) => ("errors_undelayed", value.to_string()),
            ("junk", 1..) => ("junk", value.to_string()),
            ("rate", _) => ("content_rate", value.to_string()),
            ("rate_grace", _) => ("content_rate_grace", quoted(value, "s")),
            ("session_time", _) => ("session_time", quoted(value, "s")),
            _ => return None,
        };
        self.limits.insert(key, value);
        Some(())
    }

    fn setup(&self) -> Setup {
        // Nobody listens where mail goes.
        let mut setup = Setup::new().route("*", "127.0.0.1:1");
        for key in &self.listener {
            setup = setup.listener(key);
        }
        setup = setup.listener(&format!("tls = \"{}\"", self.tls.as_deref().unwrap_or("off")));
        if let Some(auth) = self.auth {
            setup = setup.listener(&format!("auth = \"{auth}\""));
            setup = setup.table(&format!("[accounts]\nmechanisms = {:?}", self.mechanisms));
            // Guesses are many here, and none of them is to be waited for.
            setup = setup.table("[bans]\nenabled = false\ndelay = \"0s\"");
            setup = setup.table(&format!("[submission]\n{}", self.submission.join("\n")));
        }
        let limits: Vec<String> = self.limits.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        setup.table(&format!("[limits]\n{}", limits.join("\n")))
    }
}

/// An account that may send in every name.
fn add_account(setup: &Setup, name: &str, password: &str) {
    setup.write();
    let mut command = Command::new(crate::harness::binary());
    command.arg("--config").arg(setup.config()).args(["account", "add", name, "--send-as", "*", "--password-stdin"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary runs");
    let typed = child.stdin.take().map(|mut stdin| stdin.write_all(format!("{password}\n").as_bytes()));
    typed.expect("its input").expect("it reads");
    assert!(child.wait().expect("it ends").success(), "no account {name}");
}

fn quoted(value: u64, unit: &str) -> String {
    format!("\"{value}{unit}\"")
}

/// Whether nothing waits to be read at the first end of a connection, as the kernel tells.
fn is_read(local: &str, remote: &str) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(local)
            && words.next() == Some(remote)
            && words.nth(1).is_some_and(|queues| queues.ends_with(":00000000"))
    })
}

/// An IPv4 address as the kernel's table has it.
fn in_proc(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => unreachable!("the tests speak IPv4 here"),
    }
}

/// A connection, and what was said over it.
struct Run<'s> {
    server: &'s Postrider,
    line: Option<Line>,
    address: SocketAddr,
    /// Written by the script, not yet sent.
    wire: Vec<u8>,
    /// Said by the server, not yet expected.
    said: Vec<u8>,
    /// The lines that `S~` took last.
    taken: Vec<String>,
    /// The queue id that was said last.
    id: Option<String>,
    place: String,
}

impl<'s> Run<'s> {
    fn new(server: &'s Postrider, script: &Script) -> Self {
        let stream = TcpStream::connect(server.setup().address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        let address = stream.local_addr().expect("a socket");
        let (wire, said, taken) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            server,
            line: Some(Line::Clear(stream)),
            address,
            wire,
            said,
            taken,
            id: None,
            place: script.name.clone(),
        }
    }

    fn play(mut self, script: &Script) {
        for (line, step) in &script.steps {
            self.place = format!("{}.smtp:{line}", script.name);
            self.step(step);
        }
        self.send();
        self.silence();
    }

    fn step(&mut self, step: &Step) {
        if let Step::Send(octets) = step {
            return self.wire.extend_from_slice(octets);
        }
        self.send();
        let place = self.place.clone();
        match step {
            Step::Send(_) | Step::Abort => {}
            Step::Tls => self.handshake(),
            Step::Until(pattern) => self.until(pattern),
            Step::Offers(words) => assert!(script::offers(&self.taken, words), "{place}: {:#?}", self.taken),
            Step::Lacks(word) => assert!(script::lacks(&self.taken, word), "{place}: {:#?}", self.taken),
            Step::With(protocol) => {
                let content = String::from_utf8_lossy(&self.show("--content")).into_owned();
                assert!(content.contains(&format!(" with {protocol}\r\n")), "{place}: {content}");
            }
            Step::Boundary => self.until_read(),
            Step::Expect(pattern) => {
                let line = self.reply_line();
                assert!(script::matches(pattern, &line), "{place}: expected {pattern:?}, got {line:?}");
                self.id = queue_id(&line).or(self.id.take());
            }
            Step::Silence => self.silence(),
            Step::Close(reason) => self.closed(reason.as_deref()),
            Step::Eof => self.line().finish(),
            Step::Content(expected) => {
                let content = self.show("--content");
                let content = behind_the_trace(&content).unwrap_or_else(|| panic!("{place}: no trace"));
                assert_eq!(content.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{place}");
            }
            Step::Recipients(expected) => {
                // RFC 5321 §4.1.1.3: a bare postmaster is ours.
                let ours = |to: &String| if to == "postmaster" { format!("{to}@mx.test") } else { to.clone() };
                let mut expected: Vec<String> = expected.iter().map(ours).collect();
                expected.sort();
                assert_eq!(self.recipients(), expected, "{place}");
            }
            Step::Time(_) => unreachable!("left out"),
        }
    }

    fn line(&mut self) -> &mut Line {
        self.line.as_mut().expect("a connection")
    }

    /// Goes inside TLS, whoever the server says it is.
    fn handshake(&mut self) {
        assert_eq!(self.said.escape_ascii().to_string(), "", "{}: said in clear and not expected", self.place);
        let secure = self.line.take().expect("a connection").secure("mx.test", PATIENCE);
        self.line = Some(secure.unwrap_or_else(|error| panic!("{}: {error}", self.place)));
    }

    fn until(&mut self, pattern: &str) {
        self.taken.clear();
        while self.taken.last().is_none_or(|line| !script::matches(pattern, line)) {
            let line = self.reply_line();
            self.taken.push(line);
        }
    }

    /// Sends what is waiting as one segment. A server that has hung up on us is what the next step is about.
    fn send(&mut self) {
        if !self.wire.is_empty() {
            let wire = std::mem::take(&mut self.wire);
            let _ = self.line().write(&wire);
        }
    }

    /// Until the server has read what was sent. One that does not want to read now is given the whole pause.
    fn until_read(&self) {
        let ends = (in_proc(self.server.setup().address), in_proc(self.address));
        let deadline = Instant::now() + PAUSE;
        while Instant::now() < deadline && !is_read(&ends.0, &ends.1) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn reply_line(&mut self) -> String {
        loop {
            if let Some(end) = self.said.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.said.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).expect("text");
            }
            let read = self.read(PATIENCE);
            assert!(read.is_some_and(|read| read > 0), "{}: {:?} instead of a line", self.place, self.said);
        }
    }

    fn silence(&mut self) {
        let read = self.read(PAUSE).unwrap_or(0);
        assert_eq!((read, self.said.escape_ascii().to_string()), (0, String::new()), "{}: no silence", self.place);
    }

    fn closed(&mut self, reason: Option<&str>) {
        if reason.is_none_or(|reason| reason == "tls_handshake") {
            // An alert, perhaps, in the language of TLS.
            while self.read(PATIENCE).is_some_and(|read| read > 0) {}
            self.said.clear();
        }
        assert_eq!(self.read(PATIENCE), Some(0), "{}: still open: {:?}", self.place, self.said);
        let Some(reason) = reason else { return };
        let address = self.address.to_string();
        let closed =
            self.server.wait("the end of the session", |line| line["event"] == "closed" && line["peer"] == *address);
        assert_eq!(closed["reason"], reason, "{}", self.place);
    }

    /// Reads more: how much there was, nothing if nothing came in time.
    fn read(&mut self, patience: Duration) -> Option<usize> {
        let mut buffer = [0; 4096];
        let line = self.line.as_mut().expect("a connection");
        line.socket().set_read_timeout(Some(patience)).expect("a socket");
        match line.read(&mut buffer) {
            Ok(read) => {
                self.said.extend_from_slice(&buffer[..read]);
                Some(read)
            }
            // Without close_notify too it is the end.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => Some(0),
            Err(_) => None,
        }
    }

    /// What the control socket gives for the last message.
    fn show(&self, what: &str) -> Vec<u8> {
        let id = self.id.as_deref().unwrap_or_else(|| panic!("{}: no message", self.place));
        let mut command = Command::new(crate::harness::binary());
        command.arg("--config").arg(self.server.setup().config()).args(["queue", "show", id, what]);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{}: {output:?}", self.place);
        output.stdout
    }

    fn recipients(&self) -> Vec<String> {
        let shown: Value = serde_json::from_slice(&self.show("--json")).expect("JSON");
        let deliveries = shown["deliveries"].as_array().expect("deliveries").iter();
        let recipients = deliveries.flat_map(|delivery| delivery["recipients"].as_array().expect("recipients"));
        let bare = |address: &str| address.trim_matches(['<', '>']).to_owned();
        let mut all: Vec<String> =
            recipients.map(|recipient| bare(recipient["address"].as_str().expect("an address"))).collect();
        all.sort();
        all
    }
}

fn queue_id(line: &str) -> Option<String> {
    let is_id = |word: &&str| word.len() == 26 && word.chars().all(|c| c.is_ascii_alphanumeric());
    line.split(' ').find(is_id).map(str::to_owned)
}

/// What follows the Received field that the server put in front.
fn behind_the_trace(content: &[u8]) -> Option<&[u8]> {
    let ends = |at: &usize| content[..*at].ends_with(b"\r\n") && !matches!(content.get(*at), Some(b' ' | b'\t'));
    content.starts_with(b"Received: ").then(|| (1..=content.len()).find(ends).map(|at| &content[at..]))?
}
