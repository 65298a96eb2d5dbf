//! The XCLIENT command, as Postfix defines it: a trusted client says for whom it speaks.
//!
//! Values are xtext. `[UNAVAILABLE]` and `[TEMPUNAVAIL]` say that a value is not known. LOGIN is not taken, and not
//! announced: who the client is, is proven by AUTH.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mail::Domain;

use super::peer::{Dialect, Peer, Source};
use super::reason::Refusal;
use crate::{commands, xtext};

/// The peer that `argument` describes, by what `peer` was so far.
pub(super) fn apply(peer: &Peer, argument: &str) -> Result<Peer, Refusal> {
    let mut peer = peer.clone();
    if peer.source == Source::Connection {
        peer.source = Source::Unknown;
    }
    let mut words = argument.split(' ').filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err(Refusal::XclientAttribute);
    }
    for word in words {
        let (name, value) = word.split_once('=').ok_or(Refusal::XclientAttribute)?;
        let value = xtext::decode(value).map_err(|_| Refusal::XclientAttribute)?;
        let known = !matches!(value.to_ascii_uppercase().as_str(), "[UNAVAILABLE]" | "[TEMPUNAVAIL]");
        set(&mut peer, name, known.then_some(value.as_str())).ok_or(Refusal::XclientAttribute)?;
    }
    Ok(peer)
}

/// Sets one attribute; `None` if it is not known or its value is none.
fn set(peer: &mut Peer, name: &str, value: Option<&str>) -> Option<()> {
    match (name.to_ascii_uppercase().as_str(), value) {
        ("NAME", None) => peer.name = None,
        ("NAME", Some(name)) => peer.name = Some(Domain::parse(name).ok()?),
        // The one that we see stays, and is not the client's.
        ("ADDR", None) => peer.source = Source::Unknown,
        ("PORT" | "DESTADDR" | "DESTPORT" | "PROTO", None) => {}
        ("ADDR", Some(text)) => (peer.address, peer.source) = (with_ip(peer.address, text)?, Source::Told),
        ("DESTADDR", Some(text)) => peer.local = with_ip(peer.local, text)?,
        ("PORT", Some(port)) => peer.address.set_port(port.parse().ok()?),
        ("DESTPORT", Some(port)) => peer.local.set_port(port.parse().ok()?),
        ("HELO", None) => peer.hello = None,
        ("HELO", Some(name)) => peer.hello = Some(commands::hello(name).ok()?.to_owned()),
        ("PROTO", Some(protocol)) => {
            peer.dialect = Some(match protocol.to_ascii_uppercase().as_str() {
                "SMTP" => Dialect::Smtp,
                "ESMTP" => Dialect::Esmtp,
                _ => return None,
            });
        }
        _ => return None,
    }
    Some(())
}

/// `192.0.2.1`, `IPV6:2001:db8::1`, or an IPv6 address without the tag.
fn with_ip(address: SocketAddr, text: &str) -> Option<SocketAddr> {
    const TAG: usize = "IPV6:".len();
    let ip = match text.get(..TAG) {
        Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => IpAddr::V6(text.get(TAG..)?.parse::<Ipv6Addr>().ok()?),
        _ => text.parse().ok()?,
    };
    Some(SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new("127.0.0.1:5000".parse().unwrap(), "127.0.0.1:25".parse().unwrap())
    }

    #[test]
    fn all_attributes() {
        let argument =
            "NAME=a.example ADDR=IPV6:2001:db8::1 PORT=1234 proto=SMTP HELO=b+2Dc DESTADDR=192.0.2.1 DESTPORT=26";
        let peer = apply(&peer(), argument).unwrap();
        assert_eq!(peer.address, "[2001:db8::1]:1234".parse().unwrap());
        assert_eq!(peer.local, "192.0.2.1:26".parse().unwrap());
        assert_eq!(peer.name.unwrap().as_str(), "a.example");
        assert_eq!((peer.hello.as_deref(), peer.dialect), (Some("b-c"), Some(Dialect::Smtp)));
    }

    #[test]
    fn what_is_unavailable_is_forgotten() {
        let named = apply(&peer(), "NAME=a.example HELO=x").unwrap();
        let unknown = Peer { source: Source::Unknown, ..peer() };
        assert_eq!(apply(&named, "NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL] HELO=[unavailable]").unwrap(), unknown);
    }

    #[test]
    fn the_address_of_a_gateway_is_nobody_elses() {
        let source = |peer: &Peer, argument: &str| apply(peer, argument).unwrap().source;
        assert_eq!(source(&peer(), "NAME=a.example"), Source::Unknown);
        let told = apply(&peer(), "ADDR=192.0.2.9").unwrap();
        assert_eq!(told.source, Source::Told);
        assert_eq!(source(&told, "NAME=a.example"), Source::Told);
        assert_eq!(source(&told, "ADDR=[UNAVAILABLE]"), Source::Unknown);
    }

    #[test]
    fn bad_attributes_are_refused() {
        for bad in ["", "NAME", "ADDR=x", "ADDR=IPV6:1.2.3.4", "PORT=99999", "PROTO=HTTP", "LOGIN=root", "HELO=a+20b"] {
            assert_eq!(apply(&peer(), bad), Err(Refusal::XclientAttribute), "{bad}");
        }
    }
}
