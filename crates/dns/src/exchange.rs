//! From a mail host to the hosts to try: RFC 5321 §5.1 and RFC 7505.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use mail::{Domain, EnhancedCode, Fault, Host, Randomness};

use crate::{Addresses, LookupError, MxAnswer, MxRecord, Resolve};

/// The most hosts that [`exchanges`] gives.
pub const MAX_EXCHANGES: usize = 50;

/// How long the addresses of all mail hosts are looked up to see whether one is ours. A host whose addresses do not
/// arrive in this time is taken for another's: a loop through it ends at the hop limit.
const OWN_ADDRESS_TIME: Duration = Duration::from_secs(5);
/// How many mail hosts' addresses are looked up at a time for that.
const OWN_ADDRESS_PARALLEL: usize = 8;

/// A host that takes mail for a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exchange {
    /// Its name, or its address if the mail is for an address literal.
    pub host: Host,
    /// Lower is tried first; 0 where there is no MX record.
    pub preference: u16,
}

/// How to know ourselves among the hosts that take mail for a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ourselves {
    /// Names that MX records may call us by.
    pub names: HashSet<Domain>,
    /// Addresses that we take mail at from outside. If there are none, mail hosts are compared by name only, and their
    /// addresses are not looked up here.
    pub addresses: HashSet<IpAddr>,
}

impl Ourselves {
    fn is_named(&self, name: &Domain) -> bool {
        self.names.contains(name)
    }

    fn is_at(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|address| self.addresses.contains(&address.to_canonical()))
    }
}

/// Why there is no host to try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoExchange {
    /// The domain does not exist.
    #[error("the domain {0} does not exist")]
    NoSuchDomain(Domain),
    /// The domain declares that it takes no mail (RFC 7505).
    #[error("the domain {0} takes no mail (null MX)")]
    NullMx(Domain),
    /// The domain has neither MX nor address records.
    #[error("the domain {0} has neither MX nor address records")]
    NoMailHost(Domain),
    /// There are MX records, but none of them names a host that has an address.
    #[error("none of the mail hosts of {0} has an address")]
    NoAddress(Domain),
    /// The best mail host is this very server.
    #[error(
        "mail for {0} loops back to myself: its MX or address records say that this server is the last stop, \
         but no route here says what to do with it; add a route for {0} or correct its DNS"
    )]
    Loop(Host),
    /// It could not be found out now.
    #[error("the mail hosts of {domain} could not be looked up: {why}")]
    Temporary {
        /// The domain asked for.
        domain: Domain,
        /// What happened.
        why: std::sync::Arc<str>,
    },
}

impl NoExchange {
    /// Whether asking again may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary { .. })
    }

    /// The fault that every recipient behind the mail host gets.
    pub fn fault(&self) -> Fault {
        let (code, enhanced) = match self {
            Self::NoSuchDomain(_) | Self::NoMailHost(_) => (550, EnhancedCode::new(5, 1, 2)),
            // RFC 7505 §4.2
            Self::NullMx(_) => (556, EnhancedCode::new(5, 1, 10)),
            Self::NoAddress(_) => (550, EnhancedCode::new(5, 4, 4)),
            Self::Loop(_) => (554, EnhancedCode::new(5, 4, 6)),
            Self::Temporary { .. } => (451, EnhancedCode::new(4, 4, 3)),
        };
        Fault::local(code, enhanced, self.to_string())
    }
}

/// The hosts that take mail for `host`, the best first, at least one and at most [`MAX_EXCHANGES`].
///
/// Hosts of equal preference come in the order of their names, so that the same records give the same list;
/// [`shuffle_equal`] mixes them for an attempt. Where we stand in the list ourselves, hosts of our preference and worse
/// ones are left out.
pub async fn exchanges(resolve: &dyn Resolve, host: &Host, ours: &Ourselves) -> Result<Vec<Exchange>, NoExchange> {
    let domain = match host {
        Host::Literal(address) if ours.is_at(&[*address]) => return Err(NoExchange::Loop(host.clone())),
        Host::Literal(_) => return Ok(vec![Exchange { host: host.clone(), preference: 0 }]),
        Host::Domain(domain) => domain,
    };
    match resolve.mx(domain).await.map(|answer| answer.found) {
        Ok(MxAnswer::Null) => Err(NoExchange::NullMx(domain.clone())),
        Ok(MxAnswer::Hosts(records)) => by_mx(resolve, domain, &records, ours).await,
        // RFC 5321 §5.1: the address records count only if there is no MX record at all.
        Err(LookupError::NoRecords) => by_address(resolve, domain, ours).await,
        Err(LookupError::NoSuchDomain) => Err(NoExchange::NoSuchDomain(domain.clone())),
        Err(LookupError::Temporary { why, .. }) => Err(NoExchange::Temporary { domain: domain.clone(), why }),
    }
}

/// Mixes hosts of equal preference; the list must be sorted by preference (RFC 5321 §5.1: spread the load).
pub fn shuffle_equal(exchanges: &mut [Exchange], randomness: &Randomness) {
    for equal in exchanges.chunk_by_mut(|a, b| a.preference == b.preference) {
        randomness.shuffle(equal);
    }
}

/// The implicit MX: the domain itself, with preference 0.
async fn by_address(resolve: &dyn Resolve, domain: &Domain, ours: &Ourselves) -> Result<Vec<Exchange>, NoExchange> {
    let host = Host::Domain(domain.clone());
    match resolve.addresses(domain).await {
        Ok(addresses) if ours.is_named(domain) || ours.is_at(&addresses.ips) => Err(NoExchange::Loop(host)),
        Ok(_) => Ok(vec![Exchange { host, preference: 0 }]),
        Err(LookupError::Temporary { why, .. }) => Err(NoExchange::Temporary { domain: domain.clone(), why }),
        Err(LookupError::NoSuchDomain | LookupError::NoRecords) => Err(NoExchange::NoMailHost(domain.clone())),
    }
}

async fn by_mx(
    resolve: &dyn Resolve,
    domain: &Domain,
    records: &[MxRecord],
    ours: &Ourselves,
) -> Result<Vec<Exchange>, NoExchange> {
    let mut records = records.to_vec();
    records.sort_unstable();
    let mut seen = HashSet::new();
    records.retain(|record| seen.insert(record.host.clone()));
    if records.is_empty() {
        return Err(NoExchange::NoAddress(domain.clone()));
    }
    let by_name = records.iter().filter(|record| ours.is_named(&record.host)).map(|record| record.preference).min();
    if let Some(own) = by_name {
        records.retain(|record| record.preference < own);
    }
    records.truncate(MAX_EXCHANGES);
    if !ours.addresses.is_empty() {
        cut_by_address(resolve, domain, &mut records, ours).await?;
    }
    if records.is_empty() {
        return Err(NoExchange::Loop(Host::Domain(domain.clone())));
    }
    let exchange = |record: MxRecord| Exchange { host: Host::Domain(record.host), preference: record.preference };
    Ok(records.into_iter().map(exchange).collect())
}

/// Takes out what is not better than the best host that is ours by address. Hosts without an address stay, for a name
/// of the set that comes and goes would be another site, unless none has one.
async fn cut_by_address(
    resolve: &dyn Resolve,
    domain: &Domain,
    records: &mut Vec<MxRecord>,
    ours: &Ourselves,
) -> Result<(), NoExchange> {
    let look_up = |record: MxRecord| async move { (record.preference, resolve.addresses(&record.host).await) };
    let found: Vec<_> = stream::iter(records.clone())
        .map(look_up)
        .buffer_unordered(OWN_ADDRESS_PARALLEL)
        .take_until(Box::pin(tokio::time::sleep(OWN_ADDRESS_TIME)))
        .collect()
        .await;
    let is_dead = |found: &Result<_, LookupError>| found.as_ref().is_err_and(|error| !error.is_temporary());
    let dead = found.iter().filter(|(_, found)| is_dead(found)).count();
    if !records.is_empty() && dead == records.len() {
        return Err(NoExchange::NoAddress(domain.clone()));
    }
    let is_own = |found: &Result<Addresses, _>| found.as_ref().is_ok_and(|addresses| ours.is_at(&addresses.ips));
    let own = found.iter().filter(|(_, found)| is_own(found)).map(|(preference, _)| *preference).min();
    if let Some(own) = own {
        records.retain(|record| record.preference < own);
    }
    Ok(())
}
