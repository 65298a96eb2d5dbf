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
    /// Whether the client is named: its greeting and its address, where a person sits.
    pub client: bool,
    /// Whether the account is named that submitted it.
    pub account: bool,
}

impl<'a> Received<'a> {
    /// What is told when nothing is asked for: the client, no account.
    pub fn new(by: &'a Domain, envelope: &'a Envelope) -> Self {
        Self { by, envelope, client: true, account: false }
    }

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
        if origin.protocol == TransferProtocol::Local || !self.client {
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
        if let Some(account) = envelope.account.as_deref().filter(|_| self.account) {
            write!(out, "\r\n\t(authenticated as {})", comment(account, envelope.utf8))?;
        }
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
        if let Some(tls) = &origin.tls {
            // The clause of RFC 8314 §4.3 has the cipher alone.
            write!(out, "\r\n\ttls {} ({})", tls.cipher, tls.version.as_str())?;
        }
        write!(out, ";\r\n\t{}\r\n", envelope.received_at.rfc5322())
    }
}

/// The most characters of an account's name that are told.
const MAX_ACCOUNT: usize = 128;

/// Text that ends no comment and no line, within the seven bits that a header field has unless SMTPUTF8 was asked for.
fn comment(text: &str, utf8: bool) -> String {
    let plain = |c: char| !c.is_control() && !matches!(c, '(' | ')' | '\\') && (utf8 || c.is_ascii());
    text.chars().take(MAX_ACCOUNT).map(|c| if plain(c) { c } else { '?' }).collect()
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
    use crate::tls::{TlsFacts, TlsVersion, Verified};

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
        let field = Received::new(&by, &envelope("client.example", &["a@example.org"])).to_field();
        assert_eq!(
            field,
            "Received: from client.example ([192.0.2.7])\r\n\tby mx.example.org with ESMTP\r\n\tid \
             00000000000000000000000001\r\n\tfor <a@example.org>;\r\n\tSat, 21 Nov 2026 09:30:00 +0000\r\n"
        );
    }

    #[test]
    fn several_recipients_are_not_told_of_each_other() {
        let by = Domain::parse("mx.example.org").unwrap();
        let field = Received::new(&by, &envelope("x", &["a@e.org", "b@e.org"])).to_field();
        assert!(!field.contains("for <") && !field.contains("a@e.org"));
    }

    #[test]
    fn a_name_that_is_none_is_replaced_by_the_address() {
        let by = Domain::parse("mx.example.org").unwrap();
        let field = Received::new(&by, &envelope("(evil)\t; x", &["a@e.org"])).to_field();
        assert!(field.starts_with("Received: from [192.0.2.7] ([192.0.2.7])\r\n"));
    }

    #[test]
    fn tls_has_a_clause_behind_the_others() {
        let by = Domain::parse("mx.example.org").unwrap();
        let mut envelope = envelope("client.example", &["a@example.org"]);
        envelope.origin.protocol = TransferProtocol::Esmtps;
        let cipher = "TLS_AES_256_GCM_SHA384".into();
        envelope.origin.tls = Some(TlsFacts { version: TlsVersion::V1_3, cipher, verified: Verified::No });
        let field = Received::new(&by, &envelope).to_field();
        let expected = "\r\n\tby mx.example.org with ESMTPS\r\n\tid 00000000000000000000000001\r\n\tfor <a@example.org>\
                        \r\n\ttls TLS_AES_256_GCM_SHA384 (TLSv1.3);\r\n\t";
        assert!(field.contains(expected), "{field}");
    }

    #[test]
    fn a_client_is_hidden_and_an_account_told_when_asked() {
        let by = Domain::parse("mx.example.org").unwrap();
        let mut envelope = envelope("laptop.home.example", &["a@example.org"]);
        envelope.origin.protocol = TransferProtocol::Esmtpsa;
        envelope.account = Some("j\u{f6}rg (evil)\\\r\nX: y".into());
        assert!(!Received::new(&by, &envelope).to_field().contains("evil"));
        let field = Received { client: false, account: true, ..Received::new(&by, &envelope) }.to_field();
        let expected = "Received: by mx.example.org with ESMTPSA\r\n\t(authenticated as j?rg ?evil????X: y)\r\n\tid ";
        assert!(field.starts_with(expected), "{field}");
        assert!(!field.contains("laptop") && !field.contains("192.0.2.7"));
        envelope.utf8 = true;
        envelope.account = Some("j\u{f6}rg".into());
        let field = Received { account: true, ..Received::new(&by, &envelope) }.to_field();
        assert!(field.contains("\r\n\t(authenticated as j\u{f6}rg)\r\n"), "{field}");
    }
}
