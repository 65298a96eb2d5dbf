//! Networks in prefix form, for the lists of who may relay, and who may speak for others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `192.0.2.0/24`, `2001:db8::/32`; a single address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Several networks; an empty list contains nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// The text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// No address, or no proper prefix length behind the slash.
    #[error("a network is an IP address, perhaps with a prefix length: 192.0.2.0/24, 2001:db8::/32, 192.0.2.7")]
    Syntax,
    /// The prefix is longer than the address.
    #[error("the prefix length is at most {most} for this kind of address")]
    Prefix {
        /// 32 or 128.
        most: u8,
    },
    /// Bits behind the prefix are set: the author meant either one host or another prefix.
    #[error("the address has bits behind its prefix: write {meant}")]
    HostBits {
        /// The network that the text lies in.
        meant: Network,
    },
}

impl Network {
    /// The network of `prefix` bits around `address`; longer prefixes than the address has bits mean the address itself.
    /// IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Self { address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(), prefix }
            }
            IpAddr::V6(v6) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Self { address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(), prefix }
            }
        }
    }

    /// Whether it is of IPv4, and its prefix.
    pub(crate) fn kind(&self) -> (bool, u8) {
        (self.address.is_ipv4(), self.prefix)
    }

    /// Whether `address` lies in it. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Network::around(address, self.prefix) == *self
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Network::around(address, 128)
    }
}

impl Networks {
    /// Whether `address` lies in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork::Syntax)?;
        let Some(prefix) = prefix else { return Ok(address.into()) };
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidNetwork::Syntax);
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse::<u8>().ok().filter(|p| *p <= most).ok_or(InvalidNetwork::Prefix { most })?;
        // A prefix that cuts into the mapping cannot be kept when the address becomes IPv4.
        if address.is_ipv6() && address.to_canonical().is_ipv4() {
            let prefix = prefix.checked_sub(96).ok_or(InvalidNetwork::Syntax)?;
            return proper(address.to_canonical(), prefix);
        }
        proper(address, prefix)
    }
}

fn proper(address: IpAddr, prefix: u8) -> Result<Network, InvalidNetwork> {
    let network = Network::around(address, prefix);
    if network.address == address { Ok(network) } else { Err(InvalidNetwork::HostBits { meant: network }) }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        self.address.fmt(f)?;
        if self.prefix == whole { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn membership_goes_by_the_prefix() {
        for (net, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::ffff:192.0.2.0/120", "192.0.2.1", "192.0.3.1"),
        ] {
            assert!(network(net).contains(inside.parse().unwrap()), "{inside} in {net}");
            assert!(!network(net).contains(outside.parse().unwrap()), "{outside} not in {net}");
        }
        assert!(network("192.0.2.0/24").contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!Networks::default().contains("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_told_why() {
        let error = |text: &str| text.parse::<Network>().unwrap_err();
        for bad in ["", "example.org", "192.0.2.0/", "192.0.2.0/+8", "192.0.2/24", "192.0.2.0/24/8"] {
            assert_eq!(error(bad), InvalidNetwork::Syntax, "{bad}");
        }
        assert_eq!(error("192.0.2.0/33"), InvalidNetwork::Prefix { most: 32 });
        assert_eq!(error("::1/999"), InvalidNetwork::Prefix { most: 128 });
        assert!(error("192.0.2.7/24").to_string().ends_with("write 192.0.2.0/24"));
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(bits in any::<u128>(), prefix in 0u8..=128, v4 in any::<bool>()) {
            let address: IpAddr =
                if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() };
            let net = Network::around(address, prefix);
            prop_assert_eq!(net.to_string().parse::<Network>(), Ok(net));
            prop_assert!(net.contains(address));
        }
    }
}
