//! A server that takes mail: what arrives is there to be looked at, and what it answers is up to the test.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{PATIENCE, own_address, wait_for};

/// A running sink. It listens until it dies or the process ends.
pub struct Sink {
    address: SocketAddr,
    mails: Mutex<Receiver<Mail>>,
    script: Arc<Mutex<Script>>,
    memory: Arc<Memory>,
}

/// What all sessions of a sink share.
#[derive(Default)]
struct Memory {
    /// Of the last message.
    number: AtomicU64,
    /// Recipients that were put off once.
    heard: Mutex<HashSet<String>>,
    /// Lives of the peer that are over.
    lives: AtomicU64,
    /// Numbers of the messages of which the last reply was written in full.
    answered: Mutex<HashSet<u64>>,
    /// Whether it is gone.
    dead: AtomicBool,
    /// Messages of which the content is there and the reply is still to be said.
    asked: AtomicU64,
    /// Its connections by their peers, so that they can be cut.
    open: Mutex<HashMap<SocketAddr, TcpStream>>,
}

/// One message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Stands in the reply that took it: `250 2.0.0 taken 17`.
    pub number: u64,
    /// How many lives of the peer were over when it connected.
    pub life: u64,
    /// What stood in MAIL FROM, brackets off.
    pub from: String,
    /// What stood in the accepted RCPT TO, brackets off.
    pub to: Vec<String>,
    /// The content, dots unstuffed.
    pub content: String,
    /// The same octet for octet, whatever they are.
    pub raw: Vec<u8>,
}

/// What the sink answers instead of yes.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Instead of the greeting.
    pub greeting: Option<String>,
    /// To RCPT with an address that contains this text.
    pub recipient: Vec<(String, String)>,
    /// To RCPT with an address that contains this text, the first time that the address is heard.
    pub first: Option<(String, String)>,
    /// To the end of the content.
    pub end: Option<String>,
    /// Takes the content and then says nothing until this is taken back.
    pub silent_at_end: bool,
}

impl Sink {
    /// Takes everything.
    pub fn start() -> Self {
        Self::scripted(Script::default())
    }

    /// Answers by the script.
    pub fn scripted(script: Script) -> Self {
        Self::at(own_address(), script)
    }

    /// Listens at this address, at a free port.
    pub fn at(address: IpAddr, script: Script) -> Self {
        Self::on((address, 0).into(), script)
    }

    /// Listens at this address and port.
    pub fn on(socket: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(socket).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (sender, mails) = channel();
        let script = Arc::new(Mutex::new(script));
        let memory = Arc::new(Memory::default());
        let (shared, known) = (Arc::clone(&script), Arc::clone(&memory));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if known.dead.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(peer), Ok(handle)) = (stream.peer_addr(), stream.try_clone()) else { continue };
                known.open().insert(peer, handle);
                let (sender, script, memory) = (sender.clone(), Arc::clone(&shared), Arc::clone(&known));
                std::thread::spawn(move || {
                    let session =
                        Session { reader: BufReader::new(stream), sender, script, memory: Arc::clone(&memory) };
                    // A peer that goes away in the middle is part of the tests.
                    let _ = session.run();
                    memory.open().remove(&peer);
                });
            }
        });
        Self { address, mails: Mutex::new(mails), script, memory }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it answers from now on.
    pub fn answer(&self, script: Script) {
        *self.script.lock().expect("no test panics with it") = script;
    }

    /// The peer has been killed: whatever connects from now on is of its next life.
    pub fn end_life(&self) {
        self.memory.lives.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether somebody has sent a message in full and waits for what becomes of it.
    pub fn is_asked(&self) -> bool {
        self.memory.asked.load(Ordering::SeqCst) > 0
    }

    /// Is gone, with all of its connections; returns when nobody listens at its address any more.
    pub fn die(self) {
        self.memory.dead.store(true, Ordering::SeqCst);
        // The last one that it accepts: it wakes the listener.
        let _ = TcpStream::connect(self.address);
        wait_for("nobody to listen", || TcpStream::connect(self.address).is_err().then_some(()));
        for (_, stream) in self.memory.open().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether the reply that took the message of this number was written in full.
    pub fn has_answered(&self, number: u64) -> bool {
        self.memory.answered.lock().expect("no test panics with it").contains(&number)
    }

    /// The next message; waits for it.
    pub fn next(&self) -> Mail {
        self.mails.lock().expect("no test panics with it").recv_timeout(PATIENCE).expect("a message arrives in time")
    }

    /// The next message, if it arrives within this time.
    pub fn next_within(&self, time: Duration) -> Option<Mail> {
        self.mails.lock().expect("no test panics with it").recv_timeout(time).ok()
    }

    /// Whether nothing more has arrived.
    pub fn is_empty(&self) -> bool {
        self.mails.lock().expect("no test panics with it").try_recv().is_err()
    }
}

impl Memory {
    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, TcpStream>> {
        self.open.lock().expect("no test panics with it")
    }
}

impl Mail {
    /// The value of the first header field with this name, if it stands on one line.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.content.split("\r\n\r\n").next()?;
        head.split("\r\n").find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// What stands behind the header.
    pub fn body(&self) -> &str {
        self.content.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }
}

/// Counts a message that waits for its reply.
struct Asked(Arc<Memory>);

impl Asked {
    fn more(memory: Arc<Memory>) -> Self {
        memory.asked.fetch_add(1, Ordering::SeqCst);
        Self(memory)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Session {
    reader: BufReader<TcpStream>,
    sender: Sender<Mail>,
    script: Arc<Mutex<Script>>,
    memory: Arc<Memory>,
}

impl Session {
    fn run(mut self) -> std::io::Result<()> {
        // Nobody sends mail before the greeting, so all that comes is of this life.
        let life = self.memory.lives.load(Ordering::SeqCst);
        let greeting = self.script().greeting.unwrap_or_else(|| "220 sink.test".to_owned());
        self.say(&greeting)?;
        if !greeting.starts_with("220") {
            return Ok(());
        }
        let (mut from, mut to) = (String::new(), Vec::new());
        while let Some(line) = self.line()? {
            let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "LHLO" => {
                    self.say("250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")?
                }
                "MAIL" => {
                    (from, to) = (in_brackets(&line), Vec::new());
                    self.say("250 2.1.0 ok")?;
                }
                "RCPT" => {
                    let recipient = in_brackets(&line);
                    match self.objection(&recipient) {
                        Some(reply) => self.say(&reply)?,
                        None => {
                            to.push(recipient);
                            self.say("250 2.1.5 ok")?;
                        }
                    }
                }
                "DATA" if to.is_empty() => self.say("554 5.5.1 no recipients")?,
                "DATA" => {
                    self.say("354 go on")?;
                    let Some(raw) = self.content()? else { return Ok(()) };
                    let content = String::from_utf8_lossy(&raw).into_owned();
                    let number = self.memory.number.fetch_add(1, Ordering::Relaxed) + 1;
                    let mail = Mail { number, life, from: from.clone(), to: std::mem::take(&mut to), content, raw };
                    self.end(mail)?;
                }
                "QUIT" => return self.say("221 2.0.0 bye"),
                "RSET" | "NOOP" => self.say("250 2.0.0 ok")?,
                _ => self.say("500 5.5.2 what")?,
            }
        }
        Ok(())
    }

    fn end(&mut self, mail: Mail) -> std::io::Result<()> {
        let asked = Asked::more(Arc::clone(&self.memory));
        while self.script().silent_at_end {
            // The peer may hang up, which ends the wait.
            self.reader.get_ref().set_read_timeout(Some(Duration::from_millis(20)))?;
            if matches!(self.reader.fill_buf(), Ok([])) {
                return Ok(());
            }
        }
        drop(asked);
        self.reader.get_ref().set_read_timeout(None)?;
        match self.script().end {
            Some(reply) => self.say(&reply),
            None => {
                // Whoever waits for the mail may act on it before the reply is out; that is part of the game.
                let number = mail.number;
                let _ = self.sender.send(mail);
                self.say(&format!("250 2.0.0 taken {number}"))?;
                self.memory.answered.lock().expect("no test panics with it").insert(number);
                Ok(())
            }
        }
    }

    /// What the script has against a recipient.
    fn objection(&self, recipient: &str) -> Option<String> {
        let script = self.script();
        if let Some((_, reply)) = script.recipient.iter().find(|(text, _)| recipient.contains(text)) {
            return Some(reply.clone());
        }
        let (_, reply) = script.first.filter(|(text, _)| recipient.contains(text))?;
        let news = self.memory.heard.lock().expect("no test panics with it").insert(recipient.to_owned());
        news.then_some(reply)
    }

    fn script(&self) -> Script {
        self.script.lock().expect("no test panics with it").clone()
    }

    fn say(&mut self, reply: &str) -> std::io::Result<()> {
        self.reader.get_mut().write_all(format!("{reply}\r\n").as_bytes())
    }

    fn line(&mut self) -> std::io::Result<Option<String>> {
        let line = self.octets()?;
        Ok(line.map(|line| String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned()))
    }

    /// A line with its end.
    fn octets(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line)?;
        Ok((read > 0).then_some(line))
    }

    fn content(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut content = Vec::new();
        while let Some(line) = self.octets()? {
            if line == b".\r\n" {
                return Ok(Some(content));
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        Ok(None)
    }
}

fn in_brackets(line: &str) -> String {
    let inner = line.split_once('<').map_or("", |(_, rest)| rest);
    inner.split_once('>').map_or("", |(path, _)| path).to_owned()
}
