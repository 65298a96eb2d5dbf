//! The name servers that are asked, one after the other.
//!
//! hickory brings the wire: message codec, random ports and ids, the check that an answer belongs to its question,
//! repetition over UDP, TCP where an answer was cut. What an answer means and which server is asked next is decided here
//! and in [`answer`](crate::answer): hickory's own resolver takes a chain of aliases that is too long for "no records",
//! and asks no second server when the first one says SERVFAIL.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use crate::LookupError;
use crate::answer::Response;

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
}

/// The servers, and which of them answered last.
pub(crate) struct Upstream {
    servers: Vec<Server>,
    rounds: u32,
    first: AtomicUsize,
}

struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

impl Upstream {
    /// Reads the system's configuration where it is wanted; sends nothing.
    pub(crate) fn new(servers: &Servers, timeout: Duration, rounds: u32, parallel: usize) -> Result<Self, SetupError> {
        let configs = match servers {
            Servers::System => system()?,
            Servers::Listed(addresses) if addresses.is_empty() => return Err(SetupError::NoServers),
            Servers::Listed(addresses) => addresses.iter().copied().map(listed).collect(),
        };
        let servers: Result<_, NetError> =
            configs.into_iter().map(|config| Server::new(config, timeout, parallel)).collect();
        let servers = servers.map_err(|error| SetupError::System(io::Error::other(error)))?;
        Ok(Self { servers, rounds: rounds.max(1), first: AtomicUsize::new(0) })
    }

    /// Asks until a server answers yes or no. Everything else is temporary.
    ///
    /// The server that answered last is asked first, so that a dead one costs its time only once.
    pub(crate) async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Response, LookupError> {
        let (count, first) = (self.servers.len(), self.first.load(Ordering::Relaxed));
        let mut last = LookupError::temporary("there is no name server to ask");
        for turn in 0..count * self.rounds as usize {
            let at = (first + turn) % count;
            let server = &self.servers[at];
            match server.ask(name, record_type).await {
                Ok(response) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(why) => {
                    tracing::debug!(server = %server.address, %name, %record_type, %why, "name server gave no answer");
                    last = LookupError::temporary(format!("name server {}: {why}", server.address));
                }
            }
        }
        Err(last)
    }
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

    /// One question to one server, with the text of what went wrong.
    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Response, String> {
        let answer = match self.send(name, record_type, true).await {
            // RFC 6891 §7: a server that does not know EDNS answers so; most would still answer without it.
            Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::FormErr | ResponseCode::NotImp))) => {
                self.send(name, record_type, false).await
            }
            answer => answer,
        };
        match answer {
            Ok(message) => whole(message),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => empty(none),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(code.to_string()),
            Err(NetError::Timeout) => Err("no answer in time".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn send(&self, name: &Name, record_type: RecordType, edns: bool) -> Result<DnsResponse, NetError> {
        let mut options = DnsRequestOptions::default();
        options.use_edns = edns;
        let mut answers = self.pool.lookup(Query::query(name.clone(), record_type), options);
        answers.next().await.unwrap_or(Err(NetError::NoConnections))
    }
}

fn whole(message: DnsResponse) -> Result<Response, String> {
    let (code, negative_ttl) = (message.response_code, message.negative_ttl());
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Ok(Response { code, answers: message.into_message().answers, negative_ttl })
        }
        code => Err(code.to_string()),
    }
}

fn empty(none: NoRecords) -> Result<Response, String> {
    let code = none.response_code;
    // RFC 2308 §2.2: other servers' names without an SOA record are a referral, not a no.
    if code == ResponseCode::NoError && none.soa.is_none() && none.ns.is_some() {
        return Err("it refers to other servers instead of asking them (no recursion)".to_owned());
    }
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Ok(Response { code, answers: Vec::new(), negative_ttl: none.negative_ttl })
        }
        code => Err(code.to_string()),
    }
}
