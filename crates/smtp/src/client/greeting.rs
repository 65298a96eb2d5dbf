//! The start of a conversation: the peer's greeting, and what it offers in its answer to EHLO, LHLO or HELO.

use mail::{Domain, Protocol, Reply};

use super::output::Output;
use crate::extensions::Extensions;

/// Which reply is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The greeting.
    Banner,
    /// That to EHLO or LHLO.
    Ehlo,
    /// That to HELO.
    Helo,
    /// That to STARTTLS.
    StartTls,
}

/// What follows from a reply.
#[derive(Debug)]
pub(super) enum Step {
    /// Another command was sent.
    Wait(Greeting),
    /// The peer takes transactions, with these extensions.
    Ready(Box<Extensions>),
    /// The peer does not want us.
    Refused(Reply),
}

impl Greeting {
    /// Says EHLO or LHLO.
    pub(super) fn introduce(protocol: Protocol, name: &Domain, output: &mut Output) -> Self {
        let verb = if protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        output.text(format!("{verb} {}\r\n", name.as_str()).as_bytes());
        Greeting::Ehlo
    }

    /// Takes the reply.
    pub(super) fn reply(self, reply: Reply, protocol: Protocol, name: &Domain, output: &mut Output) -> Step {
        match (self, protocol) {
            (Greeting::Banner, _) if reply.is_positive() => Step::Wait(Self::introduce(protocol, name, output)),
            (Greeting::Ehlo, _) if reply.is_positive() => {
                let mut offered = Extensions::default();
                reply.lines().skip(1).for_each(|line| offered.take(line));
                Step::Ready(Box::new(offered))
            }
            // RFC 5321 §3.2: a server that does not know EHLO is asked by HELO. LMTP has nothing older.
            (Greeting::Ehlo, Protocol::Smtp) if reply.is_permanent() => {
                output.text(format!("HELO {}\r\n", name.as_str()).as_bytes());
                Step::Wait(Greeting::Helo)
            }
            (Greeting::Helo, _) if reply.is_positive() => Step::Ready(Box::default()),
            _ => Step::Refused(reply),
        }
    }
}
