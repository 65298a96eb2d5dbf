//! The limits over connections: in total, per address, per network.
//!
//! Every open connection holds a [`Place`], which gives back what it counts for when it is dropped. The maps hold an entry
//! only for who is connected, so the total bounds them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::{EnhancedCode, Reply};
use tokio::sync::watch;

use crate::network::Network;
use crate::settings::ConnectionLimits;

/// Bits of the networks that are counted.
const IPV4_PREFIX: u8 = 24;
const IPV6_PREFIX: u8 = 64;

/// The network that a client counts for.
pub(crate) fn network_of(address: IpAddr) -> Network {
    let address = address.to_canonical();
    Network::around(address, if address.is_ipv4() { IPV4_PREFIX } else { IPV6_PREFIX })
}

/// Counts the connections of all listeners; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    places: Mutex<Places>,
    open: watch::Sender<usize>,
}

#[derive(Debug)]
struct Places {
    limits: ConnectionLimits,
    addresses: HashMap<IpAddr, usize>,
    networks: HashMap<Network, usize>,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Connections,
    /// What it counts for beside the total.
    located: Option<IpAddr>,
}

/// The limit that a connection would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Total,
    Address,
    Ipv4Network,
    Ipv6Network,
}

impl Connections {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        let places = Places { limits, addresses: HashMap::new(), networks: HashMap::new() };
        Self(Arc::new(Counts { places: Mutex::new(places), open: watch::Sender::new(0) }))
    }

    /// New limits count for new connections; nobody is sent away.
    pub(crate) fn limit(&self, limits: ConnectionLimits) {
        self.places().limits = limits;
    }

    /// A place for a connection whose client is not known yet: only the total counts.
    pub(crate) fn enter(&self) -> Result<Place, Full> {
        let total = self.places().limits.total;
        let entered = self.0.open.send_if_modified(|open| {
            let room = *open < total;
            *open += usize::from(room);
            room
        });
        if entered { Ok(Place { connections: self.clone(), located: None }) } else { Err(Full::Total) }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        *self.0.open.borrow()
    }

    /// Returns once none is open.
    pub(crate) async fn all_gone(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.open.subscribe().wait_for(|open| *open == 0).await;
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // Counts are changed in steps that cannot panic half-way.
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts the connection for the client at `address`, and no longer for where it was before. If there is no room, it
    /// counts for nobody.
    pub(crate) fn locate(&mut self, address: IpAddr) -> Result<(), Full> {
        self.unlocate();
        let address = address.to_canonical();
        self.connections.places().enter(address)?;
        self.located = Some(address);
        Ok(())
    }

    /// Counts the connection for the total alone.
    pub(crate) fn unlocate(&mut self) {
        if let Some(before) = self.located.take() {
            self.connections.places().leave(before);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unlocate();
        self.connections.0.open.send_modify(|open| *open -= 1);
    }
}

impl Places {
    fn enter(&mut self, address: IpAddr) -> Result<(), Full> {
        let (network, network_limit, full) = match address {
            IpAddr::V4(_) => (Network::around(address, IPV4_PREFIX), self.limits.per_ipv4_network, Full::Ipv4Network),
            IpAddr::V6(_) => (Network::around(address, IPV6_PREFIX), self.limits.per_ipv6_network, Full::Ipv6Network),
        };
        if count(&self.addresses, &address) >= self.limits.per_address {
            return Err(Full::Address);
        }
        if count(&self.networks, &network) >= network_limit {
            return Err(full);
        }
        *self.addresses.entry(address).or_default() += 1;
        *self.networks.entry(network).or_default() += 1;
        Ok(())
    }

    fn leave(&mut self, address: IpAddr) {
        let prefix = if address.is_ipv4() { IPV4_PREFIX } else { IPV6_PREFIX };
        less(&mut self.addresses, address);
        less(&mut self.networks, Network::around(address, prefix));
    }
}

fn count<K: Eq + Hash>(map: &HashMap<K, usize>, key: &K) -> usize {
    map.get(key).copied().unwrap_or(0)
}

fn less<K: Eq + Hash>(map: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = map.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            map.remove(&key);
        }
    }
}

impl Full {
    /// A word for logs and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Full::Total => "total",
            Full::Address => "address",
            Full::Ipv4Network => "ipv4_network",
            Full::Ipv6Network => "ipv6_network",
        }
    }

    pub(crate) fn reply(self) -> Reply {
        let (enhanced, text) = match self {
            Full::Total => (EnhancedCode::new(4, 3, 2), "too many connections, try again later"),
            Full::Address => (EnhancedCode::new(4, 7, 0), "too many connections from your address, try again later"),
            Full::Ipv4Network | Full::Ipv6Network => {
                (EnhancedCode::new(4, 7, 0), "too many connections from your network, try again later")
            }
        };
        Reply::new(421, enhanced, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: usize, per_network: usize) -> Connections {
        Connections::new(ConnectionLimits {
            total,
            per_address,
            per_ipv4_network: per_network,
            per_ipv6_network: per_network,
        })
    }

    fn place(connections: &Connections, address: &str) -> Result<Place, Full> {
        let mut place = connections.enter()?;
        place.locate(address.parse().unwrap())?;
        Ok(place)
    }

    fn entries(connections: &Connections) -> (usize, usize) {
        let places = connections.places();
        (places.addresses.len(), places.networks.len())
    }

    #[test]
    fn each_limit_holds_and_places_come_back() {
        let all = connections(4, 1, 2);
        let one = place(&all, "192.0.2.1").unwrap();
        assert_eq!(place(&all, "192.0.2.1").unwrap_err(), Full::Address);
        assert_eq!(place(&all, "::ffff:192.0.2.1").unwrap_err(), Full::Address);
        let _two = place(&all, "192.0.2.2").unwrap();
        assert_eq!(place(&all, "192.0.2.3").unwrap_err(), Full::Ipv4Network);
        let _three = place(&all, "2001:db8::1").unwrap();
        let _four = place(&all, "2001:db8::2").unwrap();
        assert_eq!(place(&all, "2001:db8:1::1").unwrap_err(), Full::Total);
        drop(one);
        assert_eq!(place(&all, "2001:db8::3").unwrap_err(), Full::Ipv6Network);
        let _again = place(&all, "192.0.2.1").unwrap();
        assert_eq!(all.open(), 4);
    }

    #[test]
    fn the_maps_hold_only_who_is_connected() {
        let all = connections(10, 10, 10);
        let mut moving = place(&all, "192.0.2.1").unwrap();
        for last in 2..200 {
            moving.locate(IpAddr::from([192, 0, 2, last])).unwrap();
        }
        assert_eq!(entries(&all), (1, 1));
        drop(moving);
        assert_eq!((entries(&all), all.open()), ((0, 0), 0));
    }

    #[test]
    fn whoever_finds_no_room_counts_for_nobody() {
        let all = connections(10, 1, 10);
        let _sitting = place(&all, "192.0.2.1").unwrap();
        let mut moving = place(&all, "192.0.2.2").unwrap();
        assert_eq!(moving.locate("192.0.2.1".parse().unwrap()), Err(Full::Address));
        let _other = place(&all, "192.0.2.2").unwrap();
    }

    #[test]
    fn new_limits_send_nobody_away() {
        let all = connections(2, 2, 2);
        let places = [place(&all, "192.0.2.1").unwrap(), place(&all, "192.0.2.1").unwrap()];
        all.limit(ConnectionLimits { total: 1, ..ConnectionLimits::default() });
        assert_eq!(place(&all, "192.0.2.9").unwrap_err(), Full::Total);
        drop(places);
        let _place = place(&all, "192.0.2.9").unwrap();
    }
}
