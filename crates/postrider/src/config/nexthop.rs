//! The text form of where a route leads.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use mail::Host;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::units::text_form;

/// The port of SMTP between servers.
const SMTP_PORT: u16 = 25;
/// The port of SMTP with TLS from the first octet on (RFC 8314 §3.3).
const SMTPS_PORT: u16 = 465;
/// The port of LMTP, by custom: none is registered.
const LMTP_PORT: u16 = 24;

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// `mx`: the mail exchanges of the recipient's domain.
    Mx,
    /// `relay.example.net:587` or `smtp://relay.example.net`: this host.
    Host(Host, u16),
    /// `smtps://relay.example.net`: this host, with TLS from the first octet on.
    SecureHost(Host, u16),
    /// `mx://example.net`: the mail exchanges of this domain.
    ExchangesOf(Host, u16),
    /// `lmtp://127.0.0.1:24`: a local store over TCP.
    Lmtp(Host, u16),
    /// `lmtp:/run/dovecot/lmtp`: a local store over a Unix socket.
    LmtpSocket(PathBuf),
    /// `listener:NAME`: another listener of this server.
    Listener(String),
}
text_form!(
    NextHop,
    "next-hop",
    "\"mx\", \"host:port\", \"smtps://host:port\", \"mx://domain\", \"lmtp://host:port\", \"lmtp:/path\" or \"listener:name\"",
    "relay.example.net:25"
);

impl FromStr for NextHop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "mx" {
            return Ok(NextHop::Mx);
        }
        if let Some(name) = text.strip_prefix("listener:") {
            return Ok(NextHop::Listener(name.to_owned()));
        }
        if let Some(path) = text.strip_prefix("lmtp:").filter(|rest| rest.starts_with('/') && !rest.starts_with("//")) {
            return Ok(NextHop::LmtpSocket(path.into()));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("smtp", text));
        let (make, port): (fn(Host, u16) -> Self, u16) = match scheme {
            "smtp" => (NextHop::Host, SMTP_PORT),
            "smtps" => (NextHop::SecureHost, SMTPS_PORT),
            "mx" => (NextHop::ExchangesOf, SMTP_PORT),
            "lmtp" => (NextHop::Lmtp, LMTP_PORT),
            _ => return Err(format!("`{scheme}` is none of smtp, smtps, mx and lmtp")),
        };
        let (host, port) = host_and_port(rest, port)?;
        if scheme == "mx" && host.domain().is_none() {
            return Err("an address has no mail exchanges; write smtp:// instead".to_owned());
        }
        Ok(make(host, port))
    }
}

/// `name`, `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port`.
fn host_and_port(text: &str, default: u16) -> Result<(Host, u16), String> {
    let bracketed = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        None => default,
        Some(port) => match port.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(format!("`{port}` is not a port (1 to 65535)")),
        },
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let literal = bare.parse().ok().map(Host::Literal);
    let named = || mail::Domain::parse(host).ok().map(Host::Domain);
    let host = literal.or_else(named).ok_or_else(|| format!("`{host}` is neither a host name nor an address"))?;
    Ok((host, port))
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |host: &Host| match host {
            Host::Literal(std::net::IpAddr::V6(address)) => format!("[{address}]"),
            Host::Literal(address) => address.to_string(),
            Host::Domain(domain) => domain.to_string(),
        };
        match self {
            NextHop::Mx => f.write_str("mx"),
            NextHop::Host(name, port) => write!(f, "{}:{port}", host(name)),
            NextHop::SecureHost(name, port) => write!(f, "smtps://{}:{port}", host(name)),
            NextHop::ExchangesOf(name, port) => write!(f, "mx://{}:{port}", host(name)),
            NextHop::Lmtp(name, port) => write!(f, "lmtp://{}:{port}", host(name)),
            NextHop::LmtpSocket(path) => write!(f, "lmtp:{}", path.display()),
            NextHop::Listener(name) => write!(f, "listener:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read_and_written() {
        for (text, shown) in [
            ("mx", "mx"),
            ("relay.example.net", "relay.example.net:25"),
            ("smtp://relay.example.net:587", "relay.example.net:587"),
            ("smtps://relay.example.net", "smtps://relay.example.net:465"),
            ("192.0.2.1:2525", "192.0.2.1:2525"),
            ("[2001:db8::1]:25", "[2001:db8::1]:25"),
            ("[2001:db8::1]", "[2001:db8::1]:25"),
            ("mx://example.net", "mx://example.net:25"),
            ("lmtp://127.0.0.1", "lmtp://127.0.0.1:24"),
            ("lmtp:/run/lmtp", "lmtp:/run/lmtp"),
            ("listener:inside", "listener:inside"),
        ] {
            let hop: NextHop = text.parse().unwrap();
            assert_eq!(hop.to_string(), shown);
            assert_eq!(shown.parse::<NextHop>().unwrap(), hop);
        }
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for bad in ["", "http://x", "host:0", "host:x", "a b", "mx://192.0.2.1", "2001:db8::1", "lmtp://"] {
            assert!(bad.parse::<NextHop>().is_err(), "{bad}");
        }
    }
}
