//! `kill -9` at random moments under load: what was acknowledged arrives, whole, for each of its recipients.
//!
//! Clients of ours write down each message when they have read its 250, and `smtp-source` of Postfix, if it is there,
//! adds load that the server's own log accounts for. Some messages are long enough to be streamed to disk, some have
//! recipients that the sink refuses, whose senders must then be told, some wait for a second attempt until the end.
//! `POSTRIDER_CRASH_SEED` repeats the choices of a run; the moments are as exact as the machine is.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mail::Randomness;
use serde_json::Value;

use crate::harness::{Mail, PATIENCE, Postrider, Script, Setup, Sink};

const KILLS: u32 = 10;
/// Half of them connect anew for each message.
const CLIENTS: u64 = 4;
/// How long the queue may take to become empty when the load is over.
const DRAIN: Duration = Duration::from_secs(40);

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let seed = seed();
    println!("POSTRIDER_CRASH_SEED={seed}");
    let randomness = Randomness::seeded(seed);
    let sink = Sink::start();
    let times = "[retry]\nfirst = \"1s\"\nmost = \"1s\"\n[delivery]\nrest_first = \"1s\"\nrest_most = \"1s\"";
    let setup = Setup::to(&sink).table(times).store("checkpoint = \"500ms\"");
    let mut arrived = Arrived::default();
    let load = Load::start(setup.address, seed);
    let mut accepted = HashMap::new();
    for round in 0..KILLS {
        // In some lives nothing leaves, so that there is a queue to take up in the next.
        let greeting = (round % 4 > 1).then(|| "421 4.3.2 not now".to_owned());
        sink.answer(Script { greeting, recipient: vec![refused(), late()], ..Script::default() });
        let server = Postrider::start(&setup);
        let source = Source::start(setup.address);
        arrived.collect(&sink, Duration::from_millis(moment(&randomness, round)));
        accepted.extend(accepted_in(&server.kill()));
        drop(source);
    }
    let sent = load.stop();
    sink.answer(Script { recipient: vec![refused()], ..Script::default() });
    let server = Postrider::start(&setup);
    let taken_up = messages(&server);
    let queued = drained(&server, &sink, &mut arrived);

    let lost = arrived.missing(&sent, &accepted, &queued);
    println!(
        "{KILLS} kills: {} messages acknowledged to clients, {} accepted by the log, {taken_up} taken up at the end; {} \
         messages arrived for {} recipients, {} of them more than once; {} reports arrived; {} messages still queued; {} \
         lost",
        sent.len(),
        accepted.len(),
        arrived.ids.len(),
        arrived.recipients.len(),
        arrived.recipients.values().filter(|count| **count > 1).count(),
        arrived.reports.len(),
        queued.len(),
        lost.len(),
    );
    assert_eq!(lost, Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert_eq!(arrived.broken, Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert!(queued.is_empty(), "{} messages do not leave", queued.len());
    assert!(sent.len() > 100, "the load was no load: {} messages", sent.len());
    assert!(sent.iter().any(|message| message.size > 1 << 20), "no long message was acknowledged");
    server.stop();
}

fn refused() -> (String, String) {
    ("refused.".to_owned(), "550 5.1.1 no such person".to_owned())
}

fn late() -> (String, String) {
    ("late.".to_owned(), "451 4.2.0 not yet".to_owned())
}

fn seed() -> u64 {
    let given = std::env::var("POSTRIDER_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Milliseconds from the start to the kill: sometimes at once, while the queue of the last life is taken up.
fn moment(randomness: &Randomness, round: u32) -> u64 {
    let most = if round % 3 == 2 { 100 } else { 1500 };
    randomness.below(most) as u64
}

/// The messages that a server said it took responsibility for, with their senders. Reports are its own.
fn accepted_in(log: &[Value]) -> impl Iterator<Item = (String, String)> {
    let accepted = log.iter().filter(|line| line["event"] == "accepted" && line["sender"] != "<>");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    accepted.filter_map(move |line| text(&line["message"]).zip(text(&line["sender"])))
}

/// Waits until the queue is empty; gives the ids of what is still there if it does not become so.
fn drained(server: &Postrider, sink: &Sink, arrived: &mut Arrived) -> HashSet<String> {
    let deadline = Instant::now() + DRAIN;
    loop {
        arrived.collect(sink, Duration::from_millis(200));
        if messages(server) == 0 {
            // The sink tells of a message before it answers, so all there is has been sent to us by now.
            arrived.collect(sink, Duration::from_millis(200));
            return HashSet::new();
        }
        if Instant::now() > deadline {
            let left = server.command(&["queue", "list", "--json", "--limit", "1000000"]).json();
            let summary = server.command(&["queue", "summary", "--json"]).json();
            println!("not empty after {DRAIN:?}: {summary:?}, and first {:?}", left.first());
            return left.iter().filter_map(|message| message["id"].as_str().map(str::to_owned)).collect();
        }
    }
}

/// How many messages are in the queue.
fn messages(server: &Postrider) -> u64 {
    let status = server.command(&["status", "--json"]).json();
    status[0]["store"]["messages"].as_u64().expect("a count")
}

/// One acknowledged message.
#[derive(Debug)]
struct Sent {
    token: String,
    id: String,
    recipients: Vec<String>,
    size: usize,
}

impl Sent {
    /// The address that reports go to.
    fn sender(&self) -> String {
        format!("sender.{}@example.org", self.token)
    }

    /// The content; its size and its token decide about every octet.
    fn content(&self) -> Vec<u8> {
        let mut content = format!("Subject: {}\r\nX-Size: {}\r\n\r\n", self.token, self.size).into_bytes();
        while content.len() < self.size {
            content.extend_from_slice(format!("{} {:010}\r\n", self.token, content.len()).as_bytes());
        }
        content
    }
}

/// What the sink got.
#[derive(Default)]
struct Arrived {
    /// How often, by recipient.
    recipients: HashMap<String, u32>,
    /// Queue ids by the trace.
    ids: HashSet<String>,
    /// To whom reports went.
    reports: HashSet<String>,
    /// Messages that are not as they were sent.
    broken: Vec<String>,
}

impl Arrived {
    /// Takes what arrives within this time.
    fn collect(&mut self, sink: &Sink, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match sink.next_within(left) {
                Some(mail) => self.take(&mail),
                None => return,
            }
            if left.is_zero() {
                return;
            }
        }
    }

    fn take(&mut self, mail: &Mail) {
        if mail.from.is_empty() {
            self.reports.extend(mail.to.iter().cloned());
            return;
        }
        self.ids.extend(trace_id(&mail.content));
        if let Some(token) = mail.from.strip_prefix("sender.").and_then(|rest| rest.strip_suffix("@example.org")) {
            let size = field(&mail.content, "X-Size: ").and_then(|size| size.parse().ok()).unwrap_or(0);
            let sent = Sent { token: token.to_owned(), id: String::new(), recipients: Vec::new(), size };
            let expected = sent.content();
            if !mail.content.as_bytes().ends_with(&expected) {
                self.broken.push(format!("{token}, {size} octets"));
            }
        }
        for recipient in &mail.to {
            *self.recipients.entry(recipient.clone()).or_default() += 1;
        }
    }

    /// What should have arrived and has not, and is not queued either.
    fn missing(&self, sent: &[Sent], accepted: &HashMap<String, String>, queued: &HashSet<String>) -> Vec<String> {
        let mut missing = Vec::new();
        for message in sent.iter().filter(|message| !queued.contains(&message.id)) {
            for recipient in &message.recipients {
                let there = match recipient.starts_with("refused.") {
                    true => self.reports.contains(&message.sender()),
                    false => self.recipients.contains_key(recipient),
                };
                if !there {
                    missing.push(format!("{} ({} octets) for {recipient}", message.id, message.size));
                }
            }
        }
        // A message of which no recipient was taken leaves no trace but its report.
        let seen = |id: &String, sender: &String| self.ids.contains(id) || self.reports.contains(sender);
        let unseen = accepted.iter().filter(|(id, sender)| !seen(id, sender) && !queued.contains(*id));
        missing.extend(unseen.map(|(id, sender)| format!("{id} from {sender} by the log")));
        missing
    }
}

fn field<'a>(content: &'a str, name: &str) -> Option<&'a str> {
    content.split("\r\n").take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(name))
}

/// The queue id in the Received field on top.
fn trace_id(content: &str) -> Option<String> {
    let is_id = |word: &&str| word.len() == 26 && word.chars().all(|c| c.is_ascii_alphanumeric());
    let top = content.get(..content.len().min(1000)).unwrap_or(content);
    top.split([' ', '\t', ';', '\r', '\n']).find(is_id).map(str::to_owned)
}

/// Clients that send as fast as they are served, whatever happens to the server.
struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Sent>>>,
}

impl Load {
    fn start(address: SocketAddr, seed: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|number| {
            let over = Arc::clone(&over);
            let randomness = Randomness::seeded(seed.wrapping_add(number + 1));
            std::thread::spawn(move || send_until(&over, address, number, &randomness))
        });
        Self { clients: clients.collect(), over }
    }

    /// Everything that was acknowledged.
    fn stop(self) -> Vec<Sent> {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    }
}

fn send_until(over: &AtomicBool, address: SocketAddr, number: u64, randomness: &Randomness) -> Vec<Sent> {
    let (mut sent, mut connection) = (Vec::new(), None);
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let mut message = choose(number, count, randomness);
        let open = connection.take().map_or_else(|| Connection::open(address), Ok);
        let outcome = open.and_then(|mut open| open.send(&message).map(|id| (open, id)));
        match outcome {
            Ok((open, id)) => {
                message.id = id;
                sent.push(message);
                connection = number.is_multiple_of(2).then_some(open);
            }
            // The server is gone for now; connecting again in a tight loop would only take its processor away.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    sent
}

/// A message by chance: mostly short ones, some over a mebibyte, one to three recipients of all kinds.
fn choose(number: u64, count: u64, randomness: &Randomness) -> Sent {
    let token = format!("c{number}n{count}");
    let size = match randomness.below(40) {
        0 => (1 << 20) + randomness.below(1 << 20),
        _ => 200 + randomness.below(16 << 10),
    };
    let recipients = (0..=randomness.below(3)).map(|place| {
        let kind = match randomness.below(20) {
            0 => "refused",
            1 => "late",
            _ => "taken",
        };
        format!("{kind}.{token}r{place}@example.net")
    });
    Sent { recipients: recipients.collect(), token, id: String::new(), size }
}

/// A client's connection; every failure ends it.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut connection = Self(BufReader::new(stream));
        connection.expect("220")?;
        connection.say(b"EHLO client.test\r\n")?;
        connection.expect("250")?;
        Ok(connection)
    }

    /// Sends a message; its id if it was acknowledged.
    fn send(&mut self, message: &Sent) -> Result<String> {
        let mut commands = format!("MAIL FROM:<{}>\r\n", message.sender());
        for recipient in &message.recipients {
            commands.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        commands.push_str("DATA\r\n");
        self.say(commands.as_bytes())?;
        for _ in 0..=message.recipients.len() {
            self.expect("250")?;
        }
        self.expect("354")?;
        self.say(&message.content())?;
        self.say(b".\r\n")?;
        let reply = self.expect("250")?;
        let id = reply.split(' ').nth(2).map(|id| id.trim_end().to_owned());
        id.filter(|id| id.len() == 26).ok_or_else(|| Error::other(reply))
    }

    fn say(&mut self, octets: &[u8]) -> Result<()> {
        self.0.get_mut().write_all(octets)
    }

    /// The last line of a reply, which must have this code and be whole.
    fn expect(&mut self, code: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            if !line.starts_with(code) || !line.ends_with("\r\n") {
                return Err(Error::other(line));
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(line);
            }
        }
    }
}

/// Postfix's load generator, in one of its two ways of connecting; it dies with the server.
struct Source(Option<Child>);

impl Source {
    fn start(address: SocketAddr) -> Self {
        static TURN: AtomicU64 = AtomicU64::new(0);
        let Some(program) = smtp_source() else { return Self(None) };
        let mut command = Command::new(&program);
        if TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            command.arg("-d");
        }
        command.args(["-s", "4", "-m", "400", "-l", "4096", "-f", "source@example.org", "-t", "source@example.net"]);
        command.arg(format!("inet:{}:{}", address.ip(), address.port()));
        if let Some(libraries) = program.ancestors().nth(3).map(|root| root.join("usr/lib/postfix")) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.ok())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program where `./dev test` unpacks it.
fn smtp_source() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/postfix");
    let root = std::env::var_os("POSTRIDER_TEST_POSTFIX").map_or(here, PathBuf::from);
    Some(root.join("usr/sbin/smtp-source")).filter(|program| program.exists())
}
