//! The name servers that are asked, one after the other.
//!
//! hickory brings the wire: message codec, random ports and ids, the check that an answer belongs to its question,
//! repetition over UDP, TCP where an answer was cut. What an answer means and which server is asked next is decided here
//! and in [`answer`](crate::answer): hickory's own resolver takes a chain of aliases that is too long for "no records",
//! and asks no second server when the first one says SERVFAIL.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use mail::Clock;

use crate::answer::Response;
use crate::validate::{Doubt, Validator};
use crate::{Dnssec, LookupError, Settings};

/// Which recursive name servers to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Servers {
    /// Those of the system's configuration (`/etc/resolv.conf`). Only their addresses are taken from it.
    #[default]
    System,
    /// These, in this order.
    Listed(Vec<SocketAddr>),
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The system's configuration can't be used.
    #[error(
        "the system names no usable name server: {0}; correct /etc/resolv.conf or list name servers in the configuration"
    )]
    System(io::Error),
    /// The list is empty.
    #[error("the list of name servers is empty; list at least one, or leave it out to use the system's")]
    NoServers,
    /// A server whose word on DNSSEC was to be taken is somewhere else.
    #[error(
        "the name server {0} is not at a loopback address: on the way from there anybody could claim that an answer is \
         secure; run a validating resolver (unbound, knot-resolver) on this machine, or leave `dnssec = \"trust\"` out"
    )]
    Remote(SocketAddr),
    /// The keys that answers are to be validated with can't be used.
    #[error("the trust anchors in {file} can't be used: {why}")]
    Anchors {
        /// Where they are.
        file: PathBuf,
        /// What is wrong with them.
        why: String,
    },
}

/// The servers, and which of them answered last.
pub(crate) struct Upstream {
    servers: Vec<Server>,
    rounds: u32,
    first: AtomicUsize,
    /// Whether the servers' word on DNSSEC is taken.
    believes: bool,
    /// Proves what they say, if we do that ourselves.
    validator: Option<Validator>,
}

struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

impl Upstream {
    /// Reads the system's configuration where it is wanted; sends nothing.
    pub(crate) fn new(settings: &Settings, parallel: usize, clock: &Arc<dyn Clock>) -> Result<Self, SetupError> {
        let configs = match &settings.servers {
            Servers::System => system()?,
            Servers::Listed(addresses) if addresses.is_empty() => return Err(SetupError::NoServers),
            Servers::Listed(addresses) => addresses.iter().copied().map(listed).collect(),
        };
        let servers: Result<_, NetError> =
            configs.into_iter().map(|config| Server::new(config, settings.timeout, parallel)).collect();
        let servers: Vec<Server> = servers.map_err(|error| SetupError::System(io::Error::other(error)))?;
        let addresses = servers.iter().map(|server| server.address);
        let believes = settings.dnssec.believes(addresses).map_err(SetupError::Remote)?;
        let validator = match settings.dnssec {
            Dnssec::Validate => Some(validator(settings, clock)?),
            Dnssec::Auto | Dnssec::Off | Dnssec::Trust => None,
        };
        Ok(Self { servers, rounds: settings.attempts.max(1), first: AtomicUsize::new(0), believes, validator })
    }

    /// Whether an answer can be secure at all.
    pub(crate) fn secures(&self) -> bool {
        self.believes || self.validates()
    }

    /// Whether answers are validated here.
    pub(crate) fn validates(&self) -> bool {
        self.validator.is_some()
    }

    /// Asks until a server answers yes or no. Everything else is temporary.
    ///
    /// The server that answered last is asked first, so that a dead one costs its time only once.
    pub(crate) async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Response, LookupError> {
        let validator = self.validator.as_ref().filter(|validator| !validator.leaves_out(name));
        let (count, first) = (self.servers.len(), self.first.load(Ordering::Relaxed));
        let (mut last, mut worst) = (LookupError::temporary("there is no name server to ask"), None);
        for turn in 0..count * self.rounds as usize {
            let at = (first + turn) % count;
            let server = &self.servers[at];
            let answer = match validator {
                Some(validator) => server.prove(validator, name, record_type).await,
                None => server.ask(name, record_type).await,
            };
            match answer {
                Ok(mut response) => {
                    self.first.store(at, Ordering::Relaxed);
                    response.secure &= self.secures();
                    return Ok(response);
                }
                Err(why) => {
                    tracing::debug!(server = %server.address, %name, %record_type, %why, "name server gave no answer");
                    last = LookupError::temporary(format!("name server {}: {why}", server.address));
                    if matches!(why, Trouble::Bogus | Trouble::Code(ResponseCode::ServFail)) {
                        worst = Some((server, why));
                    }
                }
            }
        }
        Err(match worst {
            Some((server, Trouble::Bogus)) => server.forged(),
            Some((server, _)) if self.believes && server.doubts(name, record_type).await => server.forged(),
            _ => last,
        })
    }
}

fn validator(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Validator, SetupError> {
    let file = settings.trust_anchors.as_deref();
    Validator::new(file, &settings.unsigned, Arc::clone(clock))
        .map_err(|why| SetupError::Anchors { file: file.map(PathBuf::from).unwrap_or_default(), why })
}

/// The system's servers. The host file, search list and options of the system are left alone: the names of mail hosts
/// are meant as the DNS has them (RFC 5321 §2.3.5).
fn system() -> Result<Vec<NameServerConfig>, SetupError> {
    let (config, _) = hickory_resolver::system_conf::read_system_conf()
        .map_err(|error| SetupError::System(io::Error::other(error)))?;
    Ok(config.name_servers().to_vec())
}

fn listed(address: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut config.connections {
        connection.port = address.port();
    }
    config
}

impl Server {
    fn new(config: NameServerConfig, timeout: Duration, parallel: usize) -> Result<Self, NetError> {
        let port = config.connections.first().map_or(53, |connection| connection.port);
        let address = SocketAddr::new(config.ip, port);
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        options.max_active_requests = parallel;
        // Nothing is loaded for TLS: it is not compiled in.
        let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
        Ok(Self { address, pool: NameServerPool::from_config([config], context, TokioRuntimeProvider::default()) })
    }

    /// One question to one server.
    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Response, Trouble> {
        let answer = match self.send(name, record_type, Ask::Extended).await {
            // RFC 6891 §7: a server that does not know EDNS answers so; most would still answer without it.
            Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::FormErr | ResponseCode::NotImp))) => {
                self.send(name, record_type, Ask::Plain).await
            }
            answer => answer,
        };
        match answer {
            Ok(message) => whole(message),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => empty(none),
            Err(error) => Err(error.into()),
        }
    }

    /// One question to one server, whose answer is proven.
    async fn prove(&self, validator: &Validator, name: &Name, record_type: RecordType) -> Result<Response, Trouble> {
        match validator.ask(&self.pool, name, record_type).await {
            Ok(response) => Ok(response),
            Err(Doubt::Bogus) => {
                validator.forget(name);
                Err(Trouble::Bogus)
            }
            Err(Doubt::Net(error)) => Err(error.into()),
        }
    }

    fn forged(&self) -> LookupError {
        LookupError::bogus(format!("name server {}: {}", self.address, Trouble::Bogus))
    }

    /// Whether a server that gave no answer has one that it holds for forged (RFC 4035 §3.2.2: CD asks for it as it is).
    async fn doubts(&self, name: &Name, record_type: RecordType) -> bool {
        match self.send(name, record_type, Ask::Unchecked).await {
            Ok(message) => matches!(message.response_code, ResponseCode::NoError | ResponseCode::NXDomain),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => true,
            Err(_) => false,
        }
    }

    async fn send(&self, name: &Name, record_type: RecordType, ask: Ask) -> Result<DnsResponse, NetError> {
        let mut options = DnsRequestOptions::default();
        options.use_edns = ask != Ask::Plain;
        let mut request = DnsRequest::from_query(Query::query(name.clone(), record_type), options);
        // RFC 6840 §5.7: asks for the AD bit without all the signatures.
        request.metadata.authentic_data = true;
        request.metadata.checking_disabled = ask == Ask::Unchecked;
        let mut answers = self.pool.send(request);
        answers.next().await.unwrap_or(Err(NetError::NoConnections))
    }
}

/// How a question is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// With EDNS.
    Extended,
    /// Without.
    Plain,
    /// With EDNS, for an answer that was not validated.
    Unchecked,
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It says so.
    #[error("{0}")]
    Code(ResponseCode),
    /// It gave one, which is forged, or whose zone is signed wrongly.
    #[error("the answer is bogus (DNSSEC)")]
    Bogus,
    /// In words.
    #[error("{0}")]
    Other(String),
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Code(code),
            NetError::Timeout => Self::Other("no answer in time".to_owned()),
            error => Self::Other(error.to_string()),
        }
    }
}

fn whole(message: DnsResponse) -> Result<Response, Trouble> {
    let (code, negative_ttl) = (message.response_code, message.negative_ttl());
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let secure = message.authentic_data;
            Ok(Response { code, answers: message.into_message().answers, secure, negative_ttl })
        }
        code => Err(Trouble::Code(code)),
    }
}

fn empty(none: NoRecords) -> Result<Response, Trouble> {
    let code = none.response_code;
    // RFC 2308 §2.2: other servers' names without an SOA record are a referral, not a no.
    if code == ResponseCode::NoError && none.soa.is_none() && none.ns.is_some() {
        let why = "it refers to other servers instead of asking them (no recursion)";
        return Err(Trouble::Other(why.to_owned()));
    }
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Ok(Response { code, answers: Vec::new(), secure: false, negative_ttl: none.negative_ttl })
        }
        code => Err(Trouble::Code(code)),
    }
}
