//! Who guesses passwords waits ever longer, then is refused at connect for ever longer.
//!
//! ```text
//! failed AUTH ──► level of the address ──┬─► delay of the reply (the greater of both levels)
//!             └─► level of the account ──┘
//!                     level of the address reaches `failures` ──► ban, twice as long as the last one
//! ```
//!
//! A level falls with time: `failures` in `window`. Accounts are never shut: who attacks one would shut its owner out. A
//! reply that lets somebody in is never delayed. Bans are kept in the tables and, for the look at connect, in memory.

mod level;
mod settings;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mail::{EnhancedCode, Reply, Timestamp};
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use store::{Table, Tables, TablesError};

use crate::network::Network;
use level::Level;

pub use settings::BanSettings;

/// Bans in force at a time, of those that nobody gave by hand; the ones that end first go first.
const MOST: usize = 100_000;
/// The longest name of an account that failures are counted for; longer ones count together by their beginning.
const LONGEST_NAME: usize = 256;

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Since when.
    pub since: Timestamp,
    /// Until when; without end if not set.
    pub until: Option<Timestamp>,
    /// How often the network was banned for failed AUTH.
    pub times: u32,
    /// Who gave it by hand.
    pub author: Option<String>,
    /// Why.
    pub reason: String,
}

/// Who failed to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guesser {
    /// Somebody at this address.
    At(IpAddr),
    /// Somebody who is neither delayed nor banned.
    Spared,
    /// Somebody behind the gateway at this address: delayed like its other clients, never banned with all of them.
    Behind(IpAddr),
}

/// What a failed AUTH leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Consequence {
    /// How long its reply is delayed.
    pub(crate) delay: Duration,
    /// The ban that it brought.
    pub(crate) ban: Option<(Network, Ban)>,
}

/// All bans and what leads to them.
#[derive(Debug)]
pub(crate) struct Bans {
    tables: Tables,
    in_force: RwLock<InForce>,
    gauge: Gauge,
}

/// The bans as connections are held against them.
#[derive(Debug, Default)]
struct InForce {
    bans: HashMap<Network, Arc<Ban>>,
    /// How many there are of each prefix length, by kind of address.
    prefixes: HashMap<(bool, u8), usize>,
}

/// The network that is banned for an address: itself, or what one customer has of IPv6.
pub(crate) fn culprit(address: IpAddr) -> Network {
    let address = address.to_canonical();
    Network::around(address, if address.is_ipv4() { 32 } else { 64 })
}

impl Bans {
    /// In these tables, with none in force.
    pub(crate) fn new(tables: Tables, gauge: Gauge) -> Self {
        Self { tables, in_force: RwLock::default(), gauge }
    }

    /// Reads the bans that are in force.
    pub(crate) async fn open(tables: Tables, gauge: Gauge, now: Timestamp) -> Result<Self, TablesError> {
        const PAGE: usize = 1000;
        let bans = Self::new(tables, gauge);
        let mut after: Option<String> = None;
        loop {
            let page = bans.tables.scan(Table::Bans, "", after.as_deref(), PAGE, now).await?;
            for (key, value, _) in &page {
                if let Some((network, ban)) = read(key, value).filter(|(_, ban)| ban.lasts(now)) {
                    bans.put_in_force(network, ban, now);
                }
            }
            after = page.last().map(|(key, ..)| key.clone());
            if page.len() < PAGE {
                return Ok(bans);
            }
        }
    }

    /// The ban that an address is under.
    pub(crate) fn on(&self, address: IpAddr, now: Timestamp) -> Option<Arc<Ban>> {
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        let address = address.to_canonical();
        let prefixes = in_force.prefixes.keys().filter(|(ipv4, _)| *ipv4 == address.is_ipv4());
        let found = prefixes.filter_map(|(_, prefix)| in_force.bans.get(&Network::around(address, *prefix)));
        // One by hand counts everywhere.
        found.filter(|ban| ban.lasts(now)).min_by_key(|ban| ban.is_for_failures()).cloned()
    }

    /// Counts a failed AUTH. Also those of the spared raise the level of the account, by which others are delayed.
    pub(crate) async fn failed(
        &self,
        settings: &BanSettings,
        guesser: Guesser,
        account: Option<&str>,
        now: Timestamp,
    ) -> Result<Consequence, TablesError> {
        let of_address = async {
            match guesser {
                Guesser::Spared => Ok(0),
                Guesser::At(address) => self.raise(&address_key(culprit(address)), settings, now).await,
                Guesser::Behind(gateway) => self.raise(&format!("behind:{}", culprit(gateway)), settings, now).await,
            }
        };
        let of_account = async {
            match account {
                Some(account) => self.raise(&account_key(account), settings, now).await,
                None => Ok(0),
            }
        };
        let (of_address, of_account) = futures_util::future::try_join(of_address, of_account).await?;
        let delay = match guesser {
            Guesser::Spared => Duration::ZERO,
            Guesser::At(_) | Guesser::Behind(_) => settings.delay(of_address.max(of_account)),
        };
        let ban = match guesser {
            Guesser::At(address) if settings.enabled && of_address >= settings.failures => {
                let network = culprit(address);
                Some((network, self.ban(network, settings, now).await?))
            }
            _ => None,
        };
        Ok(Consequence { delay, ban })
    }

    /// Bans by hand, in place of what ban there is.
    pub(crate) async fn add(&self, network: Network, ban: Ban, now: Timestamp) -> Result<(), TablesError> {
        self.tables.put(Table::Bans, &network.to_string(), write(&ban), ban.until).await?;
        self.put_in_force(network, ban, now);
        Ok(())
    }

    /// Ends a ban, and forgets how often there was one; whether there was any.
    pub(crate) async fn lift(&self, network: Network, now: Timestamp) -> Result<bool, TablesError> {
        self.tables.remove(Table::AuthFailures, &address_key(network)).await?;
        let known = self.tables.get(Table::Bans, &network.to_string(), now).await?;
        let lasts = known.and_then(|value| decode(&value)).is_some_and(|ban| ban.lasts(now));
        self.tables.remove(Table::Bans, &network.to_string()).await?;
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        in_force.remove(&network);
        self.gauge.set(in_force.bans.len() as i64);
        Ok(lasts)
    }

    /// The bans in force, those that end first at the beginning.
    pub(crate) fn list(&self, now: Timestamp) -> Vec<(Network, Arc<Ban>)> {
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        let lasting = in_force.bans.iter().filter(|(_, ban)| ban.lasts(now));
        let mut list: Vec<_> = lasting.map(|(network, ban)| (*network, Arc::clone(ban))).collect();
        list.sort_by_cached_key(|(network, ban)| (ban.end(), network.to_string()));
        list
    }

    /// One failure more; how many there are now.
    async fn raise(&self, key: &str, settings: &BanSettings, now: Timestamp) -> Result<u32, TablesError> {
        let (most, window) = (settings.failures, settings.window);
        let raise = move |found: Option<Vec<u8>>| {
            let level = found.and_then(|value| postcard::from_bytes::<Level>(&value).ok()).unwrap_or_default();
            let level = level.raised(most, window, now);
            Some((postcard::to_stdvec(&level).unwrap_or_default(), Some(now + window)))
        };
        let value = self.tables.update(Table::AuthFailures, key, now, raise).await?;
        let level = value.and_then(|value| postcard::from_bytes::<Level>(&value).ok());
        Ok(level.unwrap_or_default().count())
    }

    /// Bans a network for failed AUTH, for longer than before.
    async fn ban(&self, network: Network, settings: &BanSettings, now: Timestamp) -> Result<Ban, TablesError> {
        let (settings, key) = (settings.clone(), network.to_string());
        let ban = move |found: Option<Vec<u8>>| {
            let known = found.and_then(|value| decode(&value));
            let ban = settings.next(known, now);
            // It is remembered beyond its end, so that the next one is longer.
            let expires = ban.until.map(|until| until + settings.most);
            Some((write(&ban), expires))
        };
        let value = self.tables.update(Table::Bans, &key, now, ban).await?;
        self.tables.remove(Table::AuthFailures, &address_key(network)).await?;
        let Some(ban) = value.and_then(|value| decode(&value)) else { return Err(TablesError::NotMade) };
        self.put_in_force(network, ban.clone(), now);
        Ok(ban)
    }

    fn put_in_force(&self, network: Network, ban: Ban, now: Timestamp) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        in_force.insert(network, ban);
        if in_force.bans.len() > MOST {
            in_force.thin_out(now);
        }
        self.gauge.set(in_force.bans.len() as i64);
    }
}

impl InForce {
    fn insert(&mut self, network: Network, ban: Ban) {
        if self.bans.insert(network, Arc::new(ban)).is_none() {
            *self.prefixes.entry(network.kind()).or_default() += 1;
        }
    }

    fn remove(&mut self, network: &Network) {
        if self.bans.remove(network).is_some()
            && let Some(count) = self.prefixes.get_mut(&network.kind())
        {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&network.kind());
            }
        }
    }

    /// Lets go what has ended and, if that is little, a tenth of the rest: what ends first and was not given by hand.
    fn thin_out(&mut self, now: Timestamp) {
        let ended: Vec<Network> =
            self.bans.iter().filter(|(_, ban)| !ban.lasts(now)).map(|(network, _)| *network).collect();
        ended.iter().for_each(|network| self.remove(network));
        if self.bans.len() > MOST - MOST / 10 {
            let given = self.bans.iter().filter(|(_, ban)| ban.author.is_none());
            let mut by_end: Vec<(Timestamp, Network)> = given.map(|(network, ban)| (ban.end(), *network)).collect();
            by_end.sort_by_key(|(end, _)| *end);
            by_end.iter().take(MOST / 10).for_each(|(_, network)| self.remove(network));
        }
    }
}

impl Ban {
    /// Whether it is in force.
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.end() > now
    }

    fn end(&self) -> Timestamp {
        self.until.unwrap_or(Timestamp::MAX)
    }

    /// Whether it was given for failed AUTH, and counts where there is AUTH only.
    pub(crate) fn is_for_failures(&self) -> bool {
        self.author.is_none()
    }

    /// What a client at `address` is told.
    pub(crate) fn reply(&self, address: IpAddr) -> Reply {
        let address = address.to_canonical();
        match (self.is_for_failures(), self.until) {
            (true, Some(until)) => {
                let text = format!("too many failed logins from {address}, come back after {until}");
                Reply::new(421, EnhancedCode::new(4, 7, 0), text)
            }
            _ => Reply::new(554, EnhancedCode::new(5, 7, 1), format!("{address} is refused here")),
        }
    }
}

fn address_key(network: Network) -> String {
    format!("address:{network}")
}

fn account_key(account: &str) -> String {
    let end = account.char_indices().map(|(at, _)| at).find(|at| *at >= LONGEST_NAME).unwrap_or(account.len());
    format!("account:{}", &account[..end])
}

fn write(ban: &Ban) -> Vec<u8> {
    // Text and numbers can always be written.
    postcard::to_stdvec(ban).unwrap_or_default()
}

fn decode(value: &[u8]) -> Option<Ban> {
    postcard::from_bytes(value).ok()
}

fn read(key: &str, value: &[u8]) -> Option<(Network, Ban)> {
    let read = key.parse::<Network>().ok().zip(decode(value));
    if read.is_none() {
        tracing::warn!(network = key, "a ban cannot be read; it is ignored");
    }
    read
}

#[cfg(test)]
mod tests;
