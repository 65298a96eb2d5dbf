//! Clients that take their time, in every phase: each is ended by the limit that is meant for it, with a word, and holds up
//! nobody else.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::clients::{Ledger, counted};
use crate::harness::{Client, Line, PATIENCE, Postrider, Setup, Sink, wait_for};

/// Between two octets of a client that trickles.
const DRIP: Duration = Duration::from_millis(200);

/// A client that becomes slow.
struct Slow {
    /// How it begins; it waits for the reply to each.
    commands: &'static [&'static str],
    /// What it sends then, at once.
    first: &'static str,
    /// What it sends after that, again and again.
    drip: &'static str,
    /// The limit that ends it.
    limit: &'static str,
}

const EHLO: &[&str] = &["EHLO slow.test"];
const RCPT: &[&str] = &["EHLO slow.test", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>"];
const DATA: &[&str] = &["EHLO slow.test", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "DATA"];
const SUBJECT: &str = "Subject: slow\r\n\r\n";

/// A phase: the commands, what follows them, what trickles, and the limit.
const fn slow(commands: &'static [&'static str], first: &'static str, drip: &'static str, limit: &'static str) -> Slow {
    Slow { commands, first, drip, limit }
}

const PHASES: [Slow; 12] = [
    slow(&[], "", "", "command_time"),
    slow(&[], "EHLO slo", "", "command_time"),
    slow(&[], "", "x", "command_time"),
    slow(EHLO, "", "", "command_time"),
    slow(EHLO, "", "x", "command_time"),
    slow(RCPT, "", "", "command_time"),
    slow(DATA, SUBJECT, "", "content_idle"),
    slow(DATA, SUBJECT, "x", "rate"),
    slow(DATA, "Subject: slow\r\n\r\n.", "", "content_idle"),
    slow(RCPT, "BDAT 5000 LAST\r\nSubject: slow\r\n\r\n", "", "content_idle"),
    slow(RCPT, "BDAT 5000 LAST\r\nSubject: slow\r\n\r\n", "x", "rate"),
    slow(RCPT, "BDAT 17\r\nSubject: slow\r\n\r\n", "", "command_time"),
];

/// Short times for all of it.
pub const LIMITS: &str = "[limits]\ncommand_time = \"1s\"\ncontent_idle = \"1s\"\ncontent_rate = 100\n\
                      content_rate_grace = \"1s\"\nerror_delay = \"0s\"";

impl Slow {
    /// Does all it can to stay, and gives what it was told until the end.
    fn run(&self, address: SocketAddr) -> String {
        let stream = TcpStream::connect(address).expect("the server listens");
        let mut client = Client::over(stream.try_clone().expect("a socket"));
        client.expect(220);
        for command in self.commands {
            client.write(format!("{command}\r\n").as_bytes());
            assert!(client.reply().starts_with(['2', '3']), "{command} is a good command");
        }
        client.write(self.first.as_bytes());
        until_closed(Line::Clear(stream), self.drip.as_bytes())
    }
}

/// Sends this again and again; what it was told until the server closed.
pub fn until_closed(mut stream: Line, drip: &[u8]) -> String {
    stream.socket().set_read_timeout(Some(DRIP)).expect("a socket");
    let deadline = Instant::now() + PATIENCE;
    let (mut told, mut buffer) = (Vec::new(), [0; 4096]);
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return String::from_utf8_lossy(&told).into_owned(),
            Ok(octets) => told.extend_from_slice(&buffer[..octets]),
            // The server has closed and hears no more of what we drip.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let _ = stream.write(drip);
            }
            Err(_) => return String::from_utf8_lossy(&told).into_owned(),
        }
    }
    panic!("a slow client is never ended; it was told {}", String::from_utf8_lossy(&told));
}

fn closed(server: &Postrider, limit: &str) -> f64 {
    counted(server, &format!("postrider_reception_closed_total{{reason=\"{limit}\"}}"))
}

#[test]
fn each_phase_has_its_limit_and_nobody_else_waits() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink).table(LIMITS));
    let address = server.setup().address;
    let mut ledger = Ledger::default();
    std::thread::scope(|scope| {
        let slow = PHASES.each_ref().map(|phase| (phase, scope.spawn(|| phase.run(address))));
        for number in 0..20 {
            ledger.post(address, &format!("n{number}"), "hello").expect("others are slow, not this one");
        }
        for (Slow { commands, first, drip, .. }, thread) in slow {
            let told = thread.join().expect("a client");
            assert!(
                told.ends_with("421 4.4.2 waited too long for input\r\n"),
                "{commands:?}, {first:?}, {drip:?}: {told}"
            );
        }
    });
    ledger.settle(&sink);
    for limit in ["command_time", "content_idle", "rate"] {
        let phases = PHASES.iter().filter(|phase| phase.limit == limit).count();
        assert_eq!(closed(&server, limit), phases as f64, "{limit}");
    }
    server.stop();
}

#[test]
fn whoever_is_just_fast_enough_has_no_more_than_the_time_of_a_message_and_of_a_session() {
    let sink = Sink::start();
    let limits = "[limits]\ncontent_time = \"2s\"\nsession_time = \"3s\"\ncontent_rate = 1\njunk = 1000";
    let server = Postrider::start(&Setup::to(&sink).table(limits));
    let address = server.setup().address;
    std::thread::scope(|scope| {
        let content = scope.spawn(|| slow(DATA, SUBJECT, "more\r\n", "content_time").run(address));
        let session = slow(EHLO, "", "NOOP\r\n", "session_time").run(address);
        for told in [content.join().expect("a client"), session] {
            assert!(told.ends_with("421 4.4.2 waited too long for input\r\n"), "{told}");
        }
    });
    assert_eq!((closed(&server, "content_time"), closed(&server, "session_time")), (1.0, 1.0));
    server.stop();
}

#[test]
fn whoever_reads_no_replies_is_not_waited_for() {
    let sink = Sink::start();
    let limits = "[limits]\ncommand_time = \"1s\"\njunk = 1000000\ncommands = 1000000";
    let server = Postrider::start(&Setup::to(&sink).table(limits));
    let mut deaf = TcpStream::connect(server.setup().address).expect("the server listens");
    let mut client = Client::over(deaf.try_clone().expect("a socket"));
    client.expect(220);
    client.say("EHLO deaf.test", 250);
    // Replies for many times what the sockets hold: writing ends when the server has closed.
    deaf.set_write_timeout(Some(PATIENCE)).expect("a socket");
    let lines = "RSET\r\n".repeat(10_000);
    for _ in 0..1000 {
        if deaf.write_all(lines.as_bytes()).is_err() {
            break;
        }
    }
    wait_for("the end of the deaf client", || (closed(&server, "disconnected") == 1.0).then_some(()));
    let _ = deaf.shutdown(Shutdown::Both);
    server.client().send("a@example.org", &["b@example.net"], "Subject: hi\r\n\r\nhello\r\n");
    server.stop();
}
