//! Our own validation (RFC 4035 §5), for those who have no validating resolver on their machine.
//!
//! hickory brings the proofs: signatures, keys, digests of keys, denials. It is asked about answers that were
//! [trimmed](crate::trim) to what is evidence about their question, and each link of a chain of aliases is a question of
//! its own. The name servers are told not to validate (RFC 6840 §5.9), so that a forged answer is told from a failing
//! server.

use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use hickory_resolver::NameServerPool;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, DnsHandle, NetError, NoRecords};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_resolver::proto::serialize::txt::trust_anchor;
use mail::{Clock, Domain};
use moka::sync::Cache;

use crate::answer::Response;
use crate::trim::trim;
use crate::wildcard;

/// The most questions that one look-up may lead to.
const MAX_QUESTIONS: usize = 128;
/// Proofs that are kept while one look-up lasts, so that the key of a zone is proven once.
const PROOFS: usize = 256;
/// Octets of memory for the keys of zones, about.
const KEYS_MEMORY: u64 = 4 << 20;
/// How long they are kept at most.
const KEYS_TTL: Duration = Duration::from_secs(60 * 60);
/// How long the absence of keys is kept where its zone does not say.
const ABSENCE_TTL: u32 = 60;

type Pool = NameServerPool<TokioRuntimeProvider>;

/// Validates what name servers answer.
pub(crate) struct Validator {
    anchors: Arc<TrustAnchors>,
    /// Zones that are known to be unsigned, whatever those above them say (RFC 7646).
    unsigned: Vec<Name>,
    keys: Keys,
}

/// Why an answer was not validated.
pub(crate) enum Doubt {
    /// It is forged, or its zone is signed wrongly.
    Bogus,
    /// Something on the way to the proof was not answered.
    Net(NetError),
}

impl Validator {
    /// One that trusts the keys in the file, or those of the root zone that are built in.
    pub(crate) fn new(anchors: Option<&Path>, unsigned: &[Domain], clock: Arc<dyn Clock>) -> Result<Self, String> {
        let anchors = Arc::new(anchors.map_or_else(|| Ok(TrustAnchors::default()), read)?);
        let name = |domain: &Domain| Name::from_ascii(format!("{domain}.")).map_err(|error| error.to_string());
        let unsigned = unsigned.iter().map(name).collect::<Result<_, _>>()?;
        Ok(Self { anchors, unsigned, keys: Keys::new(clock) })
    }

    /// Whether the name is in a zone that is known to be unsigned.
    pub(crate) fn leaves_out(&self, name: &Name) -> bool {
        self.unsigned.iter().any(|zone| zone.zone_of(name))
    }

    /// Asks a server, and proves what it says.
    pub(crate) async fn ask(&self, pool: &Pool, name: &Name, wanted: RecordType) -> Result<Response, Doubt> {
        let evidence = Evidence {
            pool: pool.clone(),
            keys: self.keys.clone(),
            failed: Arc::default(),
            left: Arc::new(AtomicUsize::new(MAX_QUESTIONS)),
        };
        let failed = Arc::clone(&evidence.failed);
        let prover = DnssecDnsHandle::with_trust_anchor(evidence, Arc::clone(&self.anchors))
            .validation_cache_size(PROOFS)
            .negative_validation_ttl(Duration::ZERO..=Duration::ZERO);
        let mut options = DnsRequestOptions::default();
        options.use_edns = true;
        let query = Query::query(name.clone(), wanted);
        let answer = prover.send(DnsRequest::from_query(query, options)).next().await;
        let judged = match answer.unwrap_or(Err(NetError::NoConnections)) {
            Ok(message) => judge(message, name, Proof::Secure),
            Err(NetError::Dns(DnsError::Nsec { response, proof, .. })) => judge(*response, name, proof),
            Err(error) => return Err(Doubt::Net(error)),
        };
        judged.ok_or_else(|| match failed.load(Ordering::Relaxed) {
            true => Doubt::Net(NetError::from("the keys of its zone could not be looked up")),
            false => Doubt::Bogus,
        })
    }

    /// Forgets the keys that led to a bogus answer: one of them may be the forged one.
    pub(crate) fn forget(&self, name: &Name) {
        self.keys.forget(name);
    }
}

/// Keys of the root zone, as DNSKEY records.
fn read(file: &Path) -> Result<TrustAnchors, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let entries = trust_anchor::Parser::new(text.as_str()).parse().map_err(|error| error.to_string())?;
    let is_root = |entry: &trust_anchor::Entry| match entry {
        trust_anchor::Entry::DNSKEY(record) => record.name().is_root(),
        _ => false,
    };
    if entries.is_empty() || !entries.iter().all(is_root) {
        return Err("it must have DNSKEY records of the root zone, one a line, and no others".to_owned());
    }
    TrustAnchors::from_str(&text).map_err(|error| error.to_string())
}

/// What a proven answer says; nothing if some of it is bogus. `denial` is the proof that there are no such records.
fn judge(message: DnsResponse, name: &Name, denial: Proof) -> Option<Response> {
    let (code, negative_ttl) = (message.response_code, message.negative_ttl());
    let message = message.into_message();
    let (answers, authorities) = (message.answers, message.authorities);
    let worst = if answers.is_empty() {
        let denies = |record: &&Record| matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3);
        let is_proven = authorities.iter().filter(denies).any(|record| record.proof.is_secure());
        denial.min(if is_proven { Proof::Secure } else { Proof::Insecure })
    } else {
        let records = answers.iter().filter(|record| record.record_type() != RecordType::RRSIG);
        let proofs = records.map(|record| proof(record, &answers, name));
        // hickory's order: indeterminate, bogus, insecure, secure.
        proofs.chain(wildcard::proof(name, &answers, &authorities)).min().unwrap_or_default()
    };
    let secure = match worst {
        Proof::Secure => true,
        Proof::Insecure => false,
        Proof::Bogus | Proof::Indeterminate => return None,
    };
    Some(Response { code, answers, secure, negative_ttl })
}

/// The proof of a record. An alias that a server made of a DNAME record is as good as that (RFC 6672 §5.3.1).
fn proof(record: &Record, answers: &[Record], name: &Name) -> Proof {
    let RData::CNAME(target) = &record.data else { return record.proof };
    let made = |dname: &&Record| redirected(name, dname).is_some_and(|made| made == target.0);
    let dname = answers.iter().find(made);
    dname.map_or(record.proof, |dname| record.proof.max(dname.proof))
}

/// Where a DNAME record leads a name below its own.
fn redirected(name: &Name, dname: &Record) -> Option<Name> {
    let RData::Unknown { code: RecordType::DNAME, rdata } = &dname.data else { return None };
    if !dname.name.zone_of(name) || dname.name == *name {
        return None;
    }
    let target = Name::read(&mut BinDecoder::new(&rdata.anything)).ok()?;
    let labels = name.iter().count().checked_sub(dname.name.iter().count())?;
    Name::from_labels(name.iter().take(labels)).ok()?.append_domain(&target).ok()
}

/// Name servers, seen through what is evidence of their answers.
#[derive(Clone)]
struct Evidence {
    pool: Pool,
    keys: Keys,
    /// Whether a question was not answered.
    failed: Arc<AtomicBool>,
    /// How many questions may still be put.
    left: Arc<AtomicUsize>,
}

impl DnsHandle for Evidence {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, mut request: DnsRequest) -> Self::Response {
        let evidence = self.clone();
        // RFC 6840 §5.9: the answer as it is.
        request.metadata.checking_disabled = true;
        Box::pin(stream::once(async move {
            let answer = evidence.ask(request).await;
            if answer.is_err() {
                evidence.failed.store(true, Ordering::Relaxed);
            }
            answer
        }))
    }
}

impl Evidence {
    async fn ask(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let query = request.queries.first().ok_or("no question")?.clone();
        let (name, wanted) = (query.name().clone(), query.query_type());
        if let Some(kept) = self.keys.get(&name, wanted) {
            return Ok(kept);
        }
        let enough = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_err() {
            return Err(NetError::from("the proof takes too many questions"));
        }
        let mut answers = self.pool.send(request);
        let mut response = match answers.next().await.unwrap_or(Err(NetError::NoConnections)) {
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => denying(query, none)?,
            answer => answer?,
        };
        if !matches!(response.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(NetError::Dns(DnsError::ResponseCode(response.response_code)));
        }
        trim(&mut response, &name, wanted);
        self.keys.keep(&name, wanted, &response);
        Ok(response)
    }
}

/// An answer without records, as it was.
fn denying(query: Query, none: NoRecords) -> Result<DnsResponse, NetError> {
    // RFC 2308 §2.2: other servers' names without an SOA record are a referral, not a no.
    if none.response_code == ResponseCode::NoError && none.soa.is_none() && none.ns.is_some() {
        return Err(NetError::from("it refers to other servers instead of asking them (no recursion)"));
    }
    let mut message = Message::query();
    message.add_query(query);
    message.metadata.response_code = none.response_code;
    message.authorities = none.authorities.map(|records| records.to_vec()).unwrap_or_default();
    DnsResponse::from_message(message.into_response()).map_err(NetError::from)
}

/// The keys of zones and where zones begin, as they were answered, not proven: a proof that they take part in shows them
/// good or bad each time.
#[derive(Clone)]
struct Keys {
    kept: Cache<(Name, RecordType), Kept>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone)]
struct Kept {
    response: DnsResponse,
    until: Instant,
}

const KINDS: [RecordType; 3] = [RecordType::DNSKEY, RecordType::DS, RecordType::NS];

impl Keys {
    fn new(clock: Arc<dyn Clock>) -> Self {
        // The records take more memory than the octets that they came as.
        let weight = |_: &(Name, RecordType), kept: &Kept| {
            u32::try_from(1024 + 4 * kept.response.as_buffer().len()).unwrap_or(u32::MAX)
        };
        Self { kept: Cache::builder().max_capacity(KEYS_MEMORY).weigher(weight).build(), clock }
    }

    fn get(&self, name: &Name, wanted: RecordType) -> Option<DnsResponse> {
        if !KINDS.contains(&wanted) {
            return None;
        }
        let kept = self.kept.get(&(name.to_lowercase(), wanted))?;
        (self.clock.instant() < kept.until).then_some(kept.response)
    }

    fn keep(&self, name: &Name, wanted: RecordType, response: &DnsResponse) {
        let lowest = response.answers.iter().map(|record| record.ttl).min();
        let ttl = lowest.unwrap_or_else(|| response.negative_ttl().unwrap_or(ABSENCE_TTL));
        let ttl = Duration::from_secs(ttl.into()).min(KEYS_TTL);
        if KINDS.contains(&wanted) && !ttl.is_zero() {
            let kept = Kept { response: response.clone(), until: self.clock.instant() + ttl };
            self.kept.insert((name.to_lowercase(), wanted), kept);
        }
    }

    /// Forgets those of the name and of all above it.
    fn forget(&self, name: &Name) {
        let mut name = name.to_lowercase();
        loop {
            for kind in KINDS {
                self.kept.invalidate(&(name.clone(), kind));
            }
            if name.is_root() {
                return;
            }
            name = name.base_name();
        }
    }
}
