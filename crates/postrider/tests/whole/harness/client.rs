//! A client that speaks plain SMTP and shows every byte it gets.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// A connection to a server.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects; the greeting is still to be read.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        Self::over(stream)
    }

    /// Speaks over this connection; the greeting is still to be read.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        // Replies are short and clients can be many.
        Self { reader: BufReader::with_capacity(1024, stream) }
    }

    /// Connects, reads the greeting and says EHLO.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        client.expect(220);
        client.say("EHLO client.test", 250);
        client
    }

    /// Sends a line and reads the reply, which must have this code.
    pub fn say(&mut self, line: &str, code: u16) -> String {
        self.write(format!("{line}\r\n").as_bytes());
        self.expect(code)
    }

    /// Sends octets as they are.
    pub fn write(&mut self, octets: &[u8]) {
        self.reader.get_mut().write_all(octets).expect("the connection stands");
    }

    /// Reads a reply, which must have this code.
    pub fn expect(&mut self, code: u16) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(&code.to_string()), "expected {code}, got {reply}");
        reply
    }

    /// Reads a reply with all its lines.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            let read = self.reader.read_line(&mut reply).expect("a reply in time");
            if read == 0 || reply.as_bytes().get(start + 3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// Sends one message, dots stuffed, and returns its queue id.
    pub fn send(&mut self, from: &str, to: &[&str], content: &str) -> String {
        id_in(&self.deliver(from, to, content.as_bytes()))
    }

    /// Sends one message of any octets, dots stuffed, and returns the reply to its end, which must be good.
    pub fn deliver(&mut self, from: &str, to: &[&str], content: &[u8]) -> String {
        self.transmit(from, to, content);
        self.expect(250)
    }

    /// Sends one message of any octets, dots stuffed; the reply to its end is still to be read.
    pub fn transmit(&mut self, from: &str, to: &[&str], content: &[u8]) {
        self.say(&format!("MAIL FROM:<{from}>"), 250);
        for recipient in to {
            self.say(&format!("RCPT TO:<{recipient}>"), 250);
        }
        self.say("DATA", 354);
        let mut stuffed = Vec::with_capacity(content.len());
        for line in content.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        self.write(&stuffed);
    }
}

/// The queue id in the reply to a message.
pub fn id_in(reply: &str) -> String {
    let is_id = |word: &&str| word.len() == 26 && word.chars().all(|c| c.is_ascii_alphanumeric());
    reply.split_whitespace().find(is_id).unwrap_or_else(|| panic!("no queue id in {reply}")).to_owned()
}
