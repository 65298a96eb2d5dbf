//! The trace field that we put in front of every message (RFC 5321 §4.4).

use std::fmt::Write;
use std::net::IpAddr;

use crate::address::Host;
use crate::domain::Domain;
use crate::envelope::{Envelope, TransferProtocol};
use crate::path::ForwardPath;

/// What a `Received` field says.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Our name.
    pub by: &'a Domain,
    /// The envelope of the message, its recipients included.
    pub envelope: &'a Envelope,
}

impl Received<'_> {
    /// The field with its line ends, ready to stand in front of the message.
    ///
    /// `for` is given only when there is one recipient: with more it would tell them of each other.
    pub fn to_field(self) -> String {
        let mut field = String::with_capacity(256);
        // Writing to a String cannot fail.
        let _ = self.write(&mut field);
        field
    }

    fn write(self, out: &mut String) -> std::fmt::Result {
        let envelope = self.envelope;
        let origin = &envelope.origin;
        if origin.protocol == TransferProtocol::Local {
            write!(out, "Received: by {}", self.by)?;
        } else {
            write!(
                out,
                "Received: from {} ({})",
                from_domain(&origin.helo, origin.peer.ip()),
                literal(origin.peer.ip())
            )?;
            write!(out, "\r\n\tby {}", self.by)?;
        }
        write!(out, " with {}", origin.protocol.as_str())?;
        write!(out, "\r\n\tid {}", envelope.id)?;
        if let [only] = envelope.recipients.as_slice() {
            let needs_utf8 = only.path.needs_utf8();
            match &only.path {
                // Header fields hold UTF-8 only where the transaction says so.
                _ if needs_utf8 && !envelope.utf8 => {}
                ForwardPath::Mailbox(mailbox) => write!(out, "\r\n\tfor <{mailbox}>")?,
                ForwardPath::Postmaster => write!(out, "\r\n\tfor <postmaster@{}>", self.by)?,
            }
        }
        write!(out, ";\r\n\t{}\r\n", envelope.received_at.rfc5322())
    }
}

/// What the client called itself if that is a domain or a literal, otherwise its address.
fn from_domain(helo: &str, peer: IpAddr) -> String {
    match Host::parse(helo) {
        Ok(host) => host.to_string(),
        Err(_) => literal(peer),
    }
}

fn literal(address: IpAddr) -> String {
    Host::Literal(address.to_canonical()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Origin, Recipient};
    use crate::id::MessageId;
    use crate::path::ReversePath;
    use crate::time::Timestamp;

    fn envelope(helo: &str, recipients: &[&str]) -> Envelope {
        let recipients = recipients.iter().map(|r| Recipient::from(r.parse::<crate::Mailbox>().unwrap()));
        let received_at = Timestamp::from_millis(1_795_253_400_000);
        Envelope {
            origin: Origin {
                peer: "192.0.2.7:1234".parse().unwrap(),
                helo: helo.into(),
                protocol: TransferProtocol::Esmtp,
                listener: "mx".into(),
                tls: None,
            },
            ..Envelope::new(MessageId::from_u128(1), received_at, ReversePath::Null, recipients)
        }
    }

    #[test]
    fn one_recipient_is_named() {
        let by = Domain::parse("mx.example.org").unwrap();
        let field = Received { by: &by, envelope: &envelope("client.example", &["a@example.org"]) }.to_field();
        assert_eq!(
            field,
            "Received: from client.example ([192.0.2.7])\r\n\tby mx.example.org with ESMTP\r\n\tid \
             00000000000000000000000001\r\n\tfor <a@example.org>;\r\n\tSat, 21 Nov 2026 09:30:00 +0000\r\n"
        );
    }

    #[test]
    fn several_recipients_are_not_told_of_each_other() {
        let by = Domain::parse("mx.example.org").unwrap();
        let field = Received { by: &by, envelope: &envelope("x", &["a@e.org", "b@e.org"]) }.to_field();
        assert!(!field.contains("for <") && !field.contains("a@e.org"));
    }

    #[test]
    fn a_name_that_is_none_is_replaced_by_the_address() {
        let by = Domain::parse("mx.example.org").unwrap();
        let field = Received { by: &by, envelope: &envelope("(evil)\t; x", &["a@e.org"]) }.to_field();
        assert!(field.starts_with("Received: from [192.0.2.7] ([192.0.2.7])\r\n"));
    }
}
