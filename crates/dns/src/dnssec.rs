//! Who says whether an answer is secure.
//!
//! The AD bit of a resolver says so (RFC 4035 §3.2.3). Anybody between it and us could set the bit, so it is believed
//! only from resolvers at loopback addresses (RFC 7672 §2.1.1; Postfix does the same). Where there is none, answers are
//! [validated](crate::validate) here.

use std::net::{IpAddr, SocketAddr};

use crate::LookupError;

/// Whose word on DNSSEC is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dnssec {
    /// That of the name servers if all of them are at loopback addresses, else nobody's. A loopback server that does not
    /// validate never sets the bit; then nothing is secure.
    #[default]
    Auto,
    /// Nobody's: no answer is secure.
    Off,
    /// That of the name servers, which must all be at loopback addresses.
    Trust,
    /// Nobody's: answers are validated here, from the root zone down. The name servers, wherever they are, must hand on
    /// signatures.
    Validate,
}

/// What [`Resolver::probe`](crate::Resolver::probe) found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nobody's word is taken: [`Dnssec::Off`], or [`Dnssec::Auto`] and a server that is not at a loopback address.
    Off,
    /// The servers say of the root zone, which is signed, that it is secure.
    Validates,
    /// We validate, and the root zone proves to be secure.
    ValidatesHere,
    /// We validate, but the answer about the root zone is no good: no signed name can be looked up. The servers take the
    /// signatures out, the clock is wrong, or the trust anchors are.
    Fails(LookupError),
    /// The servers answer, but do not say that they validated: no answer is ever secure.
    DoesNotValidate,
    /// It could not be found out.
    Unknown(LookupError),
}

impl Dnssec {
    /// Whether the AD bit of servers at these addresses is believed; the first that must not be if it is asked for
    /// nevertheless.
    pub(crate) fn believes(self, servers: impl IntoIterator<Item = SocketAddr>) -> Result<bool, SocketAddr> {
        let remote = servers.into_iter().find(|server| !is_loopback(server.ip()));
        match (self, remote) {
            (Dnssec::Off | Dnssec::Validate, _) | (Dnssec::Auto, Some(_)) => Ok(false),
            (Dnssec::Auto | Dnssec::Trust, None) => Ok(true),
            (Dnssec::Trust, Some(remote)) => Err(remote),
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_servers_are_believed() {
        let addresses = |texts: &[&str]| Vec::from_iter(texts.iter().map(|text| text.parse::<SocketAddr>().unwrap()));
        let local = addresses(&["127.0.0.53:53", "[::1]:53", "[::ffff:127.0.0.1]:53"]);
        let mixed = addresses(&["127.0.0.1:53", "192.0.2.1:53"]);
        assert_eq!(Dnssec::Auto.believes(local.clone()), Ok(true));
        assert_eq!(Dnssec::Trust.believes(local.clone()), Ok(true));
        assert_eq!(Dnssec::Off.believes(local.clone()), Ok(false));
        assert_eq!(Dnssec::Validate.believes(local), Ok(false));
        assert_eq!(Dnssec::Auto.believes(mixed.clone()), Ok(false));
        assert_eq!(Dnssec::Trust.believes(mixed.clone()), Err(mixed[1]));
    }
}
