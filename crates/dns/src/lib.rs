//! Look-ups in the domain name system: which hosts take the mail of a domain, at which addresses they are, and what else
//! a domain publishes about its mail (TLSA and TXT records), with whether DNSSEC vouches for it.
//!
//! [`Resolve`] is the seam: rooms above hold an `Arc<dyn Resolve>` and never know whether a name server or a table of a
//! test stands behind it. [`Resolver`] is the real one: it asks the system's or the configured recursive name servers,
//! follows aliases, keeps answers as long as their TTL says and not longer, and bounds everything that comes back in
//! count, size and time. [`exchanges`] turns a mail host into the hosts to try, by RFC 5321 §5.1 and RFC 7505, and
//! [`site`] names the set of them.
//!
//! What must always hold: only an answer that says so ("no such domain", "no such records") counts as a final no.
//! Whatever else goes wrong (SERVFAIL, silence, nonsense, endless aliases, a server that will not recurse) is temporary,
//! because a final no costs somebody a message. An answer counts as secure only if every record and every alias that led
//! to it is.

#![forbid(unsafe_code)]

mod answer;
mod dnssec;
mod exchange;
mod flight;
mod metrics;
mod resolver;
mod site;
#[cfg(feature = "testing")]
pub mod testing;
mod trim;
mod upstream;
mod validate;
mod wildcard;

use std::net::IpAddr;
use std::sync::Arc;

pub use futures_util::future::BoxFuture;
use mail::{Domain, EnhancedCode, Fault};

pub use dnssec::{Dnssec, Probe};
pub use exchange::{Exchange, MAX_EXCHANGES, NoExchange, Ourselves, exchanges, shuffle_equal};
pub use flight::Flights;
pub use metrics::Metrics;
pub use resolver::{Resolver, Settings};
pub use site::{MAX_SITE, site};
pub use upstream::{Servers, SetupError};

/// The most records of one kind that are kept of an answer: the most preferred MX records, the first addresses.
pub const MAX_RECORDS: usize = 200;
/// The most aliases (CNAME) followed for one look-up.
pub const MAX_ALIASES: usize = 12;

/// A look-up under way.
pub type LookUp<'a, T> = BoxFuture<'a, Result<Answer<T>, LookupError>>;

/// Something that answers for the domain name system.
///
/// Names are taken as they are, from the root; no search list is ever applied.
pub trait Resolve: Send + Sync + 'static {
    /// The MX records of a name. A name without any is [`LookupError::NoRecords`].
    fn mx<'a>(&'a self, name: &'a Domain) -> LookUp<'a, MxAnswer>;

    /// The IPv6 and IPv4 addresses of a name, at least one, in no particular order.
    ///
    /// If one of the two look-ups fails, what the other one found is the answer.
    fn addresses<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Result<Addresses, LookupError>>;

    /// The TLSA records (RFC 6698) of a name such as `_25._tcp.mx.example.org`, at least one.
    fn tlsa<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[TlsaRecord]>>;

    /// The TXT records of a name, at least one; the strings of each are joined without anything between them.
    fn txt<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Vec<u8>]>>;

    /// The names to which an address points back (PTR), at least one. The name of an address is made by [`reverse`].
    fn ptr<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Domain]>>;
}

/// The name under which the names of an address are found (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse(address: IpAddr) -> Domain {
    let name = match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    };
    // Digits and letters between single dots.
    Domain::parse(&name).expect("the name of an address is a domain name")
}

/// What was found, and whether DNSSEC vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was found.
    pub found: T,
    /// Whether it was validated, with every alias on the way (RFC 4035 §4.3: secure).
    pub secure: bool,
}

impl<T> Answer<T> {
    /// An answer that nobody vouches for.
    pub fn insecure(found: T) -> Self {
        Self { found, secure: false }
    }
}

/// The addresses of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv6 and IPv4, in no particular order.
    pub ips: Vec<IpAddr>,
    /// Whether all of them were validated, with every alias on the way.
    pub secure: bool,
    /// Where the name leads if it is an alias.
    pub alias: Option<Alias>,
}

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name at the end of the chain.
    pub to: Domain,
    /// Whether the first link of the chain was validated (RFC 7672 §2.2.2). Looked at only where the rest was not.
    pub secure: bool,
}

/// A TLSA record (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlsaRecord {
    /// What the association says about the certificate.
    pub usage: u8,
    /// Which part of a certificate is compared.
    pub selector: u8,
    /// How it is compared.
    pub matching: u8,
    /// What it is compared to.
    pub data: Arc<[u8]>,
}

impl std::fmt::Display for TlsaRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// What the MX records of a name say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MxAnswer {
    /// The domain takes no mail (RFC 7505: the only record is `0 .`).
    Null,
    /// These hosts take it, the lowest preference first, at most [`MAX_RECORDS`]. Empty if no record names a host.
    Hosts(Arc<[MxRecord]>),
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// The host.
    pub host: Domain,
}

/// Why a look-up gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN).
    #[error("the name does not exist")]
    NoSuchDomain,
    /// The name exists, but has no records of this kind.
    #[error("the name has no such records")]
    NoRecords,
    /// It could not be found out now.
    #[error("{why}")]
    Temporary {
        /// What happened, with the name server's address where one was asked.
        why: Arc<str>,
        /// Whether there is an answer that DNSSEC proves wrong.
        bogus: bool,
    },
}

impl LookupError {
    /// A temporary failure with its reason.
    pub fn temporary(why: impl AsRef<str>) -> Self {
        Self::Temporary { why: why.as_ref().into(), bogus: false }
    }

    /// There is an answer, but it is forged or its signatures are broken.
    pub fn bogus(why: impl AsRef<str>) -> Self {
        Self::Temporary { why: why.as_ref().into(), bogus: true }
    }

    /// Whether DNSSEC proves the answer wrong.
    pub fn is_bogus(&self) -> bool {
        matches!(self, Self::Temporary { bogus: true, .. })
    }

    /// Whether asking again may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary { .. })
    }

    /// The fault when the addresses of `host`, which should take the mail, can't be had: 5.4.4 (no address, RFC 3463
    /// §3.5) or 4.4.3 (name server trouble).
    pub fn fault(&self, host: &Domain) -> Fault {
        match self {
            Self::NoSuchDomain => {
                Fault::local(550, EnhancedCode::new(5, 4, 4), format!("the mail host {host} does not exist"))
            }
            Self::NoRecords => {
                Fault::local(550, EnhancedCode::new(5, 4, 4), format!("the mail host {host} has no address"))
            }
            Self::Temporary { why, .. } => Fault::local(
                451,
                EnhancedCode::new(4, 4, 3),
                format!("the addresses of the mail host {host} could not be looked up: {why}"),
            ),
        }
    }
}
