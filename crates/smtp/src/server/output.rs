//! Replies on their way out: collected, so that a group of commands is answered by one write, and held back for a
//! while when the peer makes mistakes.

use std::time::Instant;

use bytes::BytesMut;
use mail::Reply;

use crate::extensions::Extensions;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Output {
    buffer: BytesMut,
    held_until: Option<Instant>,
}

impl Output {
    /// One reply line of our own, without its line end.
    pub(super) fn say(&mut self, line: &str) {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// A reply of the driver.
    pub(super) fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.buffer);
    }

    /// The answer to EHLO or LHLO (RFC 5321 §4.1.1.1 `ehlo-ok-rsp`).
    pub(super) fn offer(&mut self, hostname: &str, extensions: &Extensions) {
        let mut line = hostname.to_owned();
        for keyword in extensions.keywords() {
            self.say(&format!("250-{line}"));
            line = keyword;
        }
        self.say(&format!("250 {line}"));
    }

    /// Nothing goes out and nothing is read before `instant`.
    pub(super) fn hold(&mut self, until: Option<Instant>) {
        self.held_until = until;
    }

    /// Until when everything is held back.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Lets go what was held until `now`.
    pub(super) fn release(&mut self, now: Instant) {
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
        }
    }

    /// Drops what has not been taken.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.held_until = None;
    }

    /// What may be written now.
    pub(super) fn take(&mut self) -> BytesMut {
        if self.held_until.is_some() { BytesMut::new() } else { self.buffer.split() }
    }
}
