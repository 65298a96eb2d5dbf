//! The PROXY protocol, versions 1 and 2: a proxy tells who is behind it before the session begins.
//!
//! The header is framed here, bounded and exactly, so that not one octet behind it is taken; what it says is read by `ppp`.

use std::net::SocketAddr;

use bytes::BytesMut;
use ppp::{v1, v2};

/// The longest header of version 1 with its line end.
const TEXT_MOST: usize = 107;
/// Octets of version 2 before its variable part.
const BINARY_FIXED: usize = 16;
/// The longest header of version 2 that is taken: addresses and a certificate's worth of extensions.
const BINARY_MOST: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// The connection was proxied for this client, which connected to that address.
    Proxied { client: SocketAddr, server: SocketAddr },
    /// The proxy speaks for itself (health checks), or does not know.
    Own,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyError {
    /// Something else came first.
    Missing,
    /// It breaks the protocol, or is too long.
    Invalid,
}

impl ProxyError {
    /// A word for logs and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ProxyError::Missing => "proxy_missing",
            ProxyError::Invalid => "proxy_invalid",
        }
    }
}

/// Takes a header off the front of `input`; `None` while more octets are needed.
pub(crate) fn take(input: &mut BytesMut) -> Result<Option<Header>, ProxyError> {
    let length = match frame(input)? {
        Some(length) if length <= input.len() => length,
        _ => return Ok(None),
    };
    let bytes = input.split_to(length);
    if bytes.starts_with(v2::PROTOCOL_PREFIX) { binary(&bytes) } else { text(&bytes) }.map(Some)
}

/// How long the header is, once that can be seen.
fn frame(input: &[u8]) -> Result<Option<usize>, ProxyError> {
    let begins = |prefix: &[u8]| {
        let both = prefix.len().min(input.len());
        input[..both] == prefix[..both]
    };
    if begins(v2::PROTOCOL_PREFIX) {
        let Some(fixed) = input.get(..BINARY_FIXED) else { return Ok(None) };
        let length = BINARY_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        return if length <= BINARY_MOST { Ok(Some(length)) } else { Err(ProxyError::Invalid) };
    }
    if begins(b"PROXY ") {
        let head = &input[..input.len().min(TEXT_MOST)];
        let end = head.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2);
        return if end.is_none() && head.len() == TEXT_MOST { Err(ProxyError::Invalid) } else { Ok(end) };
    }
    Err(ProxyError::Missing)
}

fn text(bytes: &[u8]) -> Result<Header, ProxyError> {
    let header = v1::Header::try_from(bytes).map_err(|_| ProxyError::Invalid)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(ip) => Header::Proxied {
            client: (ip.source_address, ip.source_port).into(),
            server: (ip.destination_address, ip.destination_port).into(),
        },
        v1::Addresses::Tcp6(ip) => Header::Proxied {
            client: (ip.source_address, ip.source_port).into(),
            server: (ip.destination_address, ip.destination_port).into(),
        },
        v1::Addresses::Unknown => Header::Own,
    })
}

fn binary(bytes: &[u8]) -> Result<Header, ProxyError> {
    let header = v2::Header::try_from(bytes).map_err(|_| ProxyError::Invalid)?;
    match (header.command, header.protocol, header.addresses) {
        (v2::Command::Local, _, _) => Ok(Header::Own),
        // A receiver may take unspecified and unknown families for the proxy's own connection (section 2.2).
        (v2::Command::Proxy, v2::Protocol::Unspecified, _)
        | (v2::Command::Proxy, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Ok(Header::Own),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => Ok(Header::Proxied {
            client: (ip.source_address, ip.source_port).into(),
            server: (ip.destination_address, ip.destination_port).into(),
        }),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => Ok(Header::Proxied {
            client: (ip.source_address, ip.source_port).into(),
            server: (ip.destination_address, ip.destination_port).into(),
        }),
        // SMTP does not come by datagrams.
        (v2::Command::Proxy, v2::Protocol::Datagram, _) => Err(ProxyError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: &str = "192.0.2.7:4711";
    const SERVER: &str = "198.51.100.1:25";

    fn proxied(client: &str, server: &str) -> Header {
        Header::Proxied { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn v2_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn ipv4() -> Vec<u8> {
        [&[192, 0, 2, 7, 198, 51, 100, 1][..], &4711u16.to_be_bytes(), &25u16.to_be_bytes()].concat()
    }

    /// Octet by octet: nothing may come before the end, and nothing behind it may be taken.
    fn trickle(header: &[u8]) -> Result<Header, ProxyError> {
        let mut input = BytesMut::new();
        for (at, byte) in header.iter().enumerate() {
            input.extend([*byte]);
            if at + 1 == header.len() {
                input.extend(b"EHLO x\r\n");
            }
            if let Some(header) = take(&mut input)? {
                assert_eq!(&input[..], b"EHLO x\r\n");
                return Ok(header);
            }
        }
        panic!("no header in {header:?}");
    }

    #[test]
    fn both_versions_are_read_exactly() {
        assert_eq!(trickle(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n"), Ok(proxied(CLIENT, SERVER)));
        assert_eq!(
            trickle(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n"),
            Ok(proxied("[2001:db8::7]:4711", "[2001:db8::1]:25"))
        );
        assert_eq!(trickle(b"PROXY UNKNOWN\r\n"), Ok(Header::Own));
        assert_eq!(trickle(&v2_header(1, 0x11, &ipv4())), Ok(proxied(CLIENT, SERVER)));
        let with_extension = [&ipv4()[..], &[0x04, 0, 2, 0, 0]].concat();
        assert_eq!(trickle(&v2_header(1, 0x11, &with_extension)), Ok(proxied(CLIENT, SERVER)));
        assert_eq!(trickle(&v2_header(0, 0, &[])), Ok(Header::Own));
        assert_eq!(trickle(&v2_header(1, 0x31, &[0; 216])), Ok(Header::Own));
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let refused = |bytes: &[u8]| take(&mut BytesMut::from(bytes)).unwrap_err();
        assert_eq!(refused(b"EHLO x\r\n"), ProxyError::Missing);
        assert_eq!(refused(b"PROXIED"), ProxyError::Missing);
        assert_eq!(refused(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n"), ProxyError::Invalid);
        assert_eq!(refused(b"PROXY TCP4 192.0.2.777 198.51.100.1 1 25\r\n"), ProxyError::Invalid);
        assert_eq!(refused(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 99999\r\n"), ProxyError::Invalid);
        assert_eq!(refused(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat()), ProxyError::Invalid);
        assert_eq!(refused(&v2_header(1, 0x12, &ipv4())), ProxyError::Invalid);
        assert_eq!(refused(&v2_header(1, 0x11, &ipv4()[..8])), ProxyError::Invalid);
        assert_eq!(refused(&v2_header(1, 0x11, &[0; 5000])[..16]), ProxyError::Invalid);
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..3) {
            let mut input = BytesMut::from(match kind {
                0 => b"PROXY ".as_slice(),
                1 => v2::PROTOCOL_PREFIX,
                _ => b"",
            });
            input.extend(tail);
            let _ = take(&mut input);
        }
    }
}
