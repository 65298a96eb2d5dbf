//! The resolver: memory in front, one flight per question, name servers behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hickory_resolver::proto::rr::{Name, RecordType};
use mail::{Clock, Domain};
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::answer::{self, Kind, Records, Step};
use crate::flight::Flights;
use crate::metrics::{End, Metrics};
use crate::upstream::{Servers, SetupError, Upstream};
use crate::{Addresses, Alias, Answer, Dnssec, LookUp, LookupError, MAX_ALIASES, MxAnswer, Probe, Resolve, TlsaRecord};

/// How to look names up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whom to ask.
    pub servers: Servers,
    /// Whose word on DNSSEC is taken. That of servers at loopback addresses.
    pub dnssec: Dnssec,
    /// The file with the keys (DNSKEY records) of the root zone for [`Dnssec::Validate`]. Those that are built in.
    pub trust_anchors: Option<PathBuf>,
    /// Zones that [`Dnssec::Validate`] leaves out, because they exist here alone. None.
    pub unsigned: Vec<Domain>,
    /// How long to wait for one server's answer to one question, repetitions included. 5 s.
    pub timeout: Duration,
    /// How often to go through the list of servers. 2; at least 1.
    pub attempts: u32,
    /// How long a look-up may take with everything: the wait for a free place, all servers, all aliases. 30 s.
    pub total: Duration,
    /// How many look-ups may be under way; more wait. 256; at least 1.
    pub parallel: usize,
    /// Octets of memory for answers, about. 8 MiB; 0 keeps none.
    pub cache_memory: u64,
    /// Answers are kept as long as their TTL says, but not longer than this. A day.
    pub positive_max_ttl: Duration,
    /// "No such name" and "no such records" are kept as long as their zone says (RFC 2308), but not longer than this.
    /// 15 minutes.
    pub negative_max_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Servers::System,
            dnssec: Dnssec::Auto,
            trust_anchors: None,
            unsigned: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            total: Duration::from_secs(30),
            parallel: 256,
            cache_memory: 8 << 20,
            positive_max_ttl: Duration::from_secs(24 * 60 * 60),
            negative_max_ttl: Duration::from_secs(15 * 60),
        }
    }
}

/// Looks names up in the DNS. Cheap to clone; clones share their memory.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    upstream: Upstream,
    places: Semaphore,
    cache: Cache<Question, Kept>,
    flights: Flights<Question, Found>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

type Found = Result<Known, LookupError>;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    records: Records,
    secure: bool,
    /// Where its aliases lead, if that is a host name.
    alias: Option<Domain>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    name: Domain,
    kind: Kind,
}

#[derive(Clone)]
struct Kept {
    answer: Found,
    until: Instant,
}

impl Resolver {
    /// A resolver with an empty memory. It reads the system's configuration if that is wanted and sends nothing yet.
    ///
    /// Look-ups must run on a tokio runtime with I/O and time.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, metrics: Metrics) -> Result<Self, SetupError> {
        let parallel = settings.parallel.clamp(1, Semaphore::MAX_PERMITS);
        let upstream = Upstream::new(&settings, parallel, &clock)?;
        let cache = Cache::builder().max_capacity(settings.cache_memory).weigher(weight).build();
        Ok(Self(Arc::new(Inner {
            upstream,
            places: Semaphore::new(parallel),
            cache,
            flights: Flights::new(),
            settings,
            clock,
            metrics,
        })))
    }

    /// Asks whether answers can be secure: the root zone is signed, and every resolver knows its SOA record.
    pub async fn probe(&self) -> Probe {
        let upstream = &self.0.upstream;
        if !upstream.secures() {
            return Probe::Off;
        }
        match upstream.ask(&Name::root(), RecordType::SOA).await {
            Ok(response) if response.secure && upstream.validates() => Probe::ValidatesHere,
            Ok(response) if response.secure => Probe::Validates,
            Ok(_) => Probe::DoesNotValidate,
            Err(error) if error.is_bogus() => Probe::Fails(error),
            Err(error) => Probe::Unknown(error),
        }
    }

    async fn look_up(&self, name: &Domain, kind: Kind) -> Found {
        let question = Question { name: name.clone(), kind };
        if let Some(answer) = special(&question) {
            return answer;
        }
        if let Some(answer) = self.0.kept(&question) {
            self.0.metrics.cached.inc();
            return answer;
        }
        let inner = self.0.clone();
        self.0.flights.join(question.clone(), || inner.fly(question).boxed()).await
    }
}

impl Resolve for Resolver {
    fn mx<'a>(&'a self, name: &'a Domain) -> LookUp<'a, MxAnswer> {
        async move {
            match self.look_up(name, Kind::Mx).await? {
                Known { records: Records::Mx(found), secure, .. } => Ok(Answer { found, secure }),
                _ => Err(LookupError::NoRecords),
            }
        }
        .boxed()
    }

    fn addresses<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Result<Addresses, LookupError>> {
        async move {
            let (v6, v4) = tokio::join!(self.look_up(name, Kind::Aaaa), self.look_up(name, Kind::A));
            let mut addresses = both(v6, v4)?;
            if let Some(alias) = &mut addresses.alias
                && self.0.upstream.secures()
                && !addresses.secure
            {
                let link = self.look_up(name, Kind::Cname).await;
                alias.secure = link.is_ok_and(|known| known.secure);
            }
            Ok(addresses)
        }
        .boxed()
    }

    fn tlsa<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[TlsaRecord]>> {
        async move {
            match self.look_up(name, Kind::Tlsa).await? {
                Known { records: Records::Tlsa(found), secure, .. } => Ok(Answer { found, secure }),
                _ => Err(LookupError::NoRecords),
            }
        }
        .boxed()
    }

    fn txt<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Vec<u8>]>> {
        async move {
            match self.look_up(name, Kind::Txt).await? {
                Known { records: Records::Txt(found), secure, .. } => Ok(Answer { found, secure }),
                _ => Err(LookupError::NoRecords),
            }
        }
        .boxed()
    }

    fn ptr<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Domain]>> {
        async move {
            match self.look_up(name, Kind::Ptr).await? {
                Known { records: Records::Names(found), secure, .. } if !found.is_empty() => {
                    Ok(Answer { found, secure })
                }
                _ => Err(LookupError::NoRecords),
            }
        }
        .boxed()
    }
}

/// The addresses of both families. What one family has counts whatever happened to the other; a no needs both.
fn both(v6: Found, v4: Found) -> Result<Addresses, LookupError> {
    let mut all = Addresses { secure: true, ..Addresses::default() };
    let mut errors = Vec::new();
    for answer in [v6, v4] {
        match answer {
            Ok(Known { records: Records::Addresses(ips), secure, alias }) => {
                all.ips.extend_from_slice(&ips);
                all.secure &= secure;
                all.alias = alias.map(|to| Alias { to, secure }).or(all.alias);
            }
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    if !all.ips.is_empty() {
        return Ok(all);
    }
    let temporary = errors.iter().find(|error| error.is_temporary());
    Err(match temporary {
        Some(error) => error.clone(),
        // Servers that say NXDOMAIN for one kind only are wrong about the name.
        None if errors.contains(&LookupError::NoRecords) => LookupError::NoRecords,
        None => LookupError::NoSuchDomain,
    })
}

/// Names that no name server may be asked for (RFC 6761 §6.3, §6.4; RFC 7686 §2).
fn special(question: &Question) -> Option<Found> {
    let last = question.name.labels().next_back()?;
    let here = |ip: IpAddr| Known { records: Records::Addresses([ip].into()), secure: false, alias: None };
    match (last, question.kind) {
        ("localhost", Kind::A) => Some(Ok(here(Ipv4Addr::LOCALHOST.into()))),
        ("localhost", Kind::Aaaa) => Some(Ok(here(Ipv6Addr::LOCALHOST.into()))),
        ("localhost", _) => Some(Err(LookupError::NoRecords)),
        ("invalid" | "onion", _) => Some(Err(LookupError::NoSuchDomain)),
        _ => None,
    }
}

impl Inner {
    fn kept(&self, question: &Question) -> Option<Found> {
        let kept = self.cache.get(question)?;
        if self.clock.instant() < kept.until { Some(kept.answer) } else { None }
    }

    /// One look-up from the wait for a place to the entry in the memory.
    async fn fly(self: Arc<Self>, question: Question) -> Found {
        let asked = tokio::time::timeout(self.settings.total, self.ask(&question)).await;
        let (answer, ttl) = asked.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", self.settings.total.as_secs());
            (Err(LookupError::temporary(why)), None)
        });
        let (end, most) = match &answer {
            Ok(_) => (End::Found, self.settings.positive_max_ttl),
            Err(LookupError::Temporary { .. }) => (End::Failed, Duration::ZERO),
            Err(_) => (End::Nothing, self.settings.negative_max_ttl),
        };
        self.metrics.ended(end);
        let ttl = Duration::from_secs(ttl.unwrap_or(0).into()).min(most);
        if !ttl.is_zero() {
            self.cache.insert(question, Kept { answer: answer.clone(), until: self.clock.instant() + ttl });
        }
        answer
    }

    /// The answer and its TTL in seconds, if it may be kept at all.
    async fn ask(&self, question: &Question) -> (Found, Option<u32>) {
        let _running = Running::new(&self.metrics);
        // The places are never closed; were they, the look-up would merely not wait.
        let _place = self.places.acquire().await.ok();
        let Ok(mut name) = Name::from_ascii(format!("{}.", question.name)) else {
            return (Err(LookupError::NoSuchDomain), None);
        };
        let asked = name.clone();
        let (mut lowest, mut aliases, mut secure) = (u32::MAX, 0, true);
        while aliases <= MAX_ALIASES {
            let response = match self.upstream.ask(&name, question.kind.record_type()).await {
                Ok(response) => response,
                Err(error) => return (Err(error), None),
            };
            secure &= response.secure;
            match answer::read(&response, &name, question.kind) {
                Step::Found { records, ttl, at } => {
                    let alias = if at == asked { None } else { Domain::parse(&at.to_ascii()).ok() };
                    return (Ok(Known { records, secure, alias }), Some(ttl.min(lowest)));
                }
                Step::Nothing { error, ttl } => return (Err(error), ttl.map(|ttl| ttl.min(lowest))),
                Step::Astray { why } => return (Err(LookupError::temporary(why)), None),
                Step::Alias { to, ttl, followed } => {
                    (name, lowest, aliases) = (to, lowest.min(ttl), aliases + followed);
                }
            }
        }
        (Err(LookupError::temporary("too many aliases (CNAME) in a row")), None)
    }
}

/// Counts a look-up as running, also when it is given up.
struct Running<'a>(&'a Metrics);

impl<'a> Running<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.running.inc();
        Self(metrics)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.dec();
    }
}

/// About how much memory an answer takes.
fn weight(question: &Question, kept: &Kept) -> u32 {
    const ENTRY: usize = 400;
    const RECORD: usize = 32;
    let records = match kept.answer.as_ref().map(|known| &known.records) {
        Ok(Records::Mx(MxAnswer::Hosts(hosts))) => hosts.iter().map(|mx| RECORD + mx.host.as_str().len()).sum(),
        Ok(Records::Addresses(addresses)) => addresses.len() * size_of::<IpAddr>(),
        Ok(Records::Tlsa(records)) => records.iter().map(|record| RECORD + record.data.len()).sum(),
        Ok(Records::Names(names)) => names.iter().map(|name| RECORD + name.as_str().len()).sum(),
        Ok(Records::Txt(texts)) => texts.iter().map(|text| RECORD + text.len()).sum(),
        Ok(Records::Mx(MxAnswer::Null) | Records::Alias) | Err(_) => 0,
    };
    let alias = kept.answer.as_ref().ok().and_then(|known| known.alias.as_ref());
    let alias = alias.map_or(0, |alias| alias.as_str().len());
    u32::try_from(ENTRY + question.name.as_str().len() + alias + records).unwrap_or(u32::MAX)
}
