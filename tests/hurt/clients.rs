//! Clients that take no for an answer, and the book of what they were promised.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::harness::{Client, Postrider, Script, Sink, wait_for};

/// A sink that sends everybody away, so that mail waits in the queue.
pub fn closed_sink() -> Sink {
    Sink::scripted(Script { greeting: Some("421 4.3.2 closed".into()), ..Script::default() })
}

/// The recipients of every message that was acknowledged.
#[derive(Default)]
pub struct Ledger(BTreeSet<String>);

impl Ledger {
    /// Sends a message over a connection of its own; the reply that refused it, if one did.
    pub fn post(&mut self, address: SocketAddr, to: &str, content: &str) -> Result<(), String> {
        let mut client = Client::open(address);
        greeted(&mut client)?;
        self.post_by(&mut client, to, content)
    }

    /// The same over an open connection.
    pub fn post_by(&mut self, client: &mut Client, to: &str, content: &str) -> Result<(), String> {
        let to = format!("{to}@example.net");
        ask(client, "MAIL FROM:<a@example.org>", '2')?;
        ask(client, &format!("RCPT TO:<{to}>"), '2')?;
        ask(client, "DATA", '3')?;
        ask(client, &format!("Subject: hi\r\n\r\n{content}\r\n."), '2')?;
        self.acknowledged(to);
        Ok(())
    }

    /// Notes a promise.
    pub fn acknowledged(&mut self, to: String) {
        assert!(self.0.insert(to), "each message has a recipient of its own");
    }

    /// Sends a message, which must be taken within the patience of a test.
    pub fn post_at_last(&mut self, address: SocketAddr, to: &str) {
        wait_for("service again", || self.post(address, to, "again").ok());
    }

    /// How many promises there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits until the sink has got everything, each message once and nothing else.
    pub fn settle(self, sink: &Sink) {
        let mut missing = self.0;
        while !missing.is_empty() {
            let to = sink.next().to;
            let one = to.first().filter(|_| to.len() == 1);
            assert!(one.is_some_and(|to| missing.remove(to)), "nobody was promised {to:?}, or it came twice");
        }
        assert!(sink.is_empty(), "more came than was promised");
    }

    /// Notes what another was promised.
    pub fn join(&mut self, other: Self) {
        other.0.into_iter().for_each(|to| self.acknowledged(to));
    }

    /// Waits until the sink has got everything, each message once, among what others sent.
    pub fn settle_among_others(self, sink: &Sink) {
        let mut missing = self.0.clone();
        while !missing.is_empty() {
            for to in sink.next().to {
                assert!(missing.remove(&to) || !self.0.contains(&to), "{to} got it twice");
            }
        }
    }
}

/// Reads the greeting and says EHLO.
pub fn greeted(client: &mut Client) -> Result<(), String> {
    let greeting = client.reply();
    if !greeting.starts_with("220") {
        return Err(greeting);
    }
    ask(client, "EHLO client.test", '2').map(drop)
}

/// Says a line; a reply of another class is an error.
pub fn ask(client: &mut Client, line: &str, class: char) -> Result<String, String> {
    client.write(format!("{line}\r\n").as_bytes());
    let reply = client.reply();
    if reply.starts_with(class) { Ok(reply) } else { Err(reply) }
}

/// A counter or gauge of the server by its name as it stands in the output, labels included.
pub fn metric(server: &Postrider, name: &str) -> f64 {
    found(server, name).unwrap_or_else(|| panic!("there is no metric {name}"))
}

/// The same for a counter that may have counted nothing yet: with labels it is not there before it has.
pub fn counted(server: &Postrider, name: &str) -> f64 {
    found(server, name).unwrap_or(0.0)
}

fn found(server: &Postrider, name: &str) -> Option<f64> {
    let text = server.command(&["metrics"]).good();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.trim().parse().expect("a number"))
}

/// Waits until nothing is left in the queue.
pub fn until_empty(server: &Postrider) {
    wait_for("an empty queue", || {
        let status = server.command(&["status", "--json"]).json().remove(0);
        (status["store"]["messages"].as_u64().expect("a count") == 0).then_some(())
    });
}
