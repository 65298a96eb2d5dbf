//! Clients that send as fast as they are served, whatever happens to the server.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mail::Randomness;

use crate::harness::PATIENCE;
use crate::letters::{Sent, is_id};

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How many there are. Half of them connect anew for each message.
    pub clients: u64,
    /// The wait between two messages.
    pub pause: Duration,
}

/// Running clients.
pub struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Sent>>>,
}

impl Load {
    /// Starts them.
    pub fn start(address: SocketAddr, seed: u64, manner: Manner) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..manner.clients).map(|number| {
            let over = Arc::clone(&over);
            let randomness = Randomness::seeded(seed.wrapping_add(number + 1));
            std::thread::spawn(move || send_until(&over, address, number, manner, &randomness))
        });
        Self { clients: clients.collect(), over }
    }

    /// Ends them; gives everything that was acknowledged.
    pub fn stop(self) -> Vec<Sent> {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    }
}

fn send_until(
    over: &AtomicBool,
    address: SocketAddr,
    number: u64,
    manner: Manner,
    randomness: &Randomness,
) -> Vec<Sent> {
    let (mut sent, mut connection) = (Vec::new(), None);
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let mut message = Sent::by_chance(format!("c{number}n{count}"), randomness);
        let open = connection.take().map_or_else(|| Connection::open(address), Ok);
        match open.and_then(|mut open| open.send(&message).map(|id| (open, id))) {
            Ok((open, id)) => {
                message.id = Some(id);
                sent.push(message);
                connection = number.is_multiple_of(2).then_some(open);
                std::thread::sleep(manner.pause);
            }
            // The server is gone for now; connecting again in a tight loop would only take its processor away.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    sent
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
        id.filter(|id| is_id(id)).ok_or_else(|| Error::other(reply))
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
