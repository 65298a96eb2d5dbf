//! What a host must prove, and by which rule.

use std::fmt;
use std::sync::Arc;

use dns::{LookupError, MxAnswer};
use mail::{CertificateName, Domain, FoundBy, Host, TlsDemand, TlsLevel, Verified};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::dane::{self, DaneProof, Undecided};
use super::failure::{Refusal, TlsFailure};
use super::{Client, judge};
use crate::mtasts::{Mode, StsPolicy};
use crate::report::{Failure, FailureType, PolicyApplied};

/// What a policy depends on.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What the route demands.
    pub level: &'a TlsLevel,
    /// What the message demands.
    pub demand: TlsDemand,
    /// Whether TLS begins with the connection.
    pub implicit: bool,
    /// How the host was found.
    pub found: &'a FoundBy,
    /// The host.
    pub host: &'a Host,
    /// Its port.
    pub port: u16,
}

/// What a line to one host must be.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What is demanded.
    pub demand: Demand,
    /// The rule that demands it.
    pub basis: Basis,
    /// Whose recipients' domain is told of the session, and by which policy it is judged.
    pub applied: Option<(Domain, PolicyApplied)>,
    /// A policy that is only tried out (RFC 8461 §5, `testing`): what it would have demanded.
    pub tried: Option<Result<Proof, TlsFailure>>,
    /// Whether the host is known by more than unsigned DNS. If not, what it proves is not told as verified (RFC 7672 §2.2.1).
    vouched: bool,
    host: Host,
    roots: Arc<RootCertStore>,
}

/// Whether TLS, and what it must prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Demand {
    /// In clear.
    Clear,
    /// By TLS if that works, else in clear.
    May,
    /// By TLS, with this proof.
    Must(Proof),
}

/// What a certificate must prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Nothing: the line is encrypted.
    Nothing,
    /// One of these names, by an authority that we trust.
    Names(Vec<CertificateName>),
    /// The address of a host without a name, by an authority that we trust.
    Address(std::net::IpAddr),
    /// One of these digests of the certificate or its key.
    Fingerprints(Vec<[u8; 32]>),
    /// What TLSA records say.
    Dane(DaneProof),
}

/// The rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// The configuration of the route.
    Route,
    /// The message's REQUIRETLS.
    RequireTls,
    /// TLSA records.
    Dane,
    /// The policy of the recipients' domain.
    MtaSts,
    /// Nobody demands anything.
    Opportunistic,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Basis::Route => "the route",
            Basis::RequireTls => "REQUIRETLS",
            Basis::Dane => "DANE",
            Basis::MtaSts => "MTA-STS",
            Basis::Opportunistic => "nobody",
        })
    }
}

impl Client {
    /// What the host must prove; an error if it must not be used.
    pub async fn policy(&self, ask: &Ask<'_>) -> Result<Policy, Refusal> {
        let required = ask.demand == TlsDemand::Required;
        let by_route = |demand| Ok(self.plain(ask, demand, Basis::Route));
        match ask.level {
            TlsLevel::None if required => Err(Refusal::required("REQUIRETLS demands TLS, and the route forbids it")),
            TlsLevel::None => by_route(Demand::Clear),
            TlsLevel::Opportunistic | TlsLevel::Encrypt if required => self.published(ask).await,
            TlsLevel::Opportunistic if !ask.implicit => by_route(Demand::May),
            TlsLevel::Opportunistic | TlsLevel::Encrypt => by_route(Demand::Must(Proof::Nothing)),
            TlsLevel::Verify(names) if names.is_empty() => by_route(Demand::Must(Proof::of_host(ask.host))),
            TlsLevel::Verify(names) => by_route(Demand::Must(Proof::Names(names.clone()))),
            TlsLevel::Fingerprint(digests) => by_route(Demand::Must(Proof::Fingerprints(digests.clone()))),
            TlsLevel::Dane | TlsLevel::DaneOnly => self.published(ask).await,
        }
    }

    /// What the domain publishes: DANE, else MTA-STS, else nothing is demanded but by the message.
    async fn published(&self, ask: &Ask<'_>) -> Result<Policy, Refusal> {
        let required = ask.demand == TlsDemand::Required;
        let only_dane = *ask.level == TlsLevel::DaneOnly;
        // RFC 8689 §4.2.2: the sender would rather have it delivered. What the operator demands is not the sender's to lift.
        // Nobody is told: TLS reports go so, and must not call forth others.
        if ask.demand == TlsDemand::NotRequired && !only_dane {
            return Ok(Policy { applied: None, ..self.opportunistic(ask, PolicyApplied::NoPolicyFound) });
        }
        let Host::Domain(host) = ask.host else { return self.without_name(ask) };
        if let Some(proof) = self.discover(ask, host).await? {
            return self.by_dane(ask, host, proof).await;
        }
        if only_dane {
            let text = format!("{host} has no TLSA record that DNSSEC vouches for; the route demands DANE");
            let failure = Failure::new(FailureType::DaneRequired, "no secure TLSA record");
            return Err(self.told(ask, Refusal::later(text), PolicyApplied::NoPolicyFound, failure));
        }
        let policy = self.sts(ask).await;
        match &policy {
            Some(policy) if !policy.allows(host) && (policy.mode == Mode::Enforce || required) => {
                Err(self.unlisted(ask, host, policy))
            }
            Some(policy) if policy.mode == Mode::Enforce || (required && policy.mode == Mode::Testing) => {
                let basis = if required { Basis::RequireTls } else { Basis::MtaSts };
                let applied = PolicyApplied::Sts(Some(Arc::clone(policy)));
                Ok(self.with(ask, Demand::Must(Proof::of_host(ask.host)), basis, applied, true))
            }
            _ if required => self.by_name(ask, host).await,
            Some(policy) if policy.mode == Mode::Testing => {
                let mut tested = self.opportunistic(ask, PolicyApplied::Sts(Some(Arc::clone(policy))));
                tested.tried = Some(match policy.allows(host) {
                    true => Ok(Proof::of_host(ask.host)),
                    false => Err(TlsFailure::new(FailureType::CertificateHostMismatch, UNLISTED)),
                });
                Ok(tested)
            }
            _ => Ok(self.opportunistic(ask, PolicyApplied::NoPolicyFound)),
        }
    }

    /// The host has TLSA records. Those of one found by unsigned MX records count, too, but say nothing about the
    /// recipients' domain (RFC 7672 §2.2.1), unless its MTA-STS policy lists the host.
    async fn by_dane(&self, ask: &Ask<'_>, host: &Domain, mut proof: DaneProof) -> Result<Policy, Refusal> {
        let signed = self.is_signed(ask, host).await?;
        let policy = if signed { None } else { self.sts(ask).await };
        let enforced = policy.as_ref().filter(|policy| policy.mode == Mode::Enforce);
        if let Some(policy) = enforced
            && !policy.allows(host)
        {
            return Err(self.unlisted(ask, host, policy));
        }
        let vouched = signed || policy.is_some_and(|policy| policy.mode != Mode::None && policy.allows(host));
        let required = ask.demand == TlsDemand::Required;
        if required && !vouched {
            return Err(unvouched(host));
        }
        proof.names = [Some(&proof.base), Some(host), domain(ask.found).filter(|_| signed)]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        proof.names.dedup();
        let applied = PolicyApplied::Tlsa { base: proof.base.clone(), records: proof.texts() };
        let basis = if required { Basis::RequireTls } else { Basis::Dane };
        let demand = match proof.is_usable() {
            true => Proof::Dane(proof),
            false if required => Proof::of_host(ask.host),
            // RFC 7672 §2.2: encrypted, and not verified.
            false => Proof::Nothing,
        };
        Ok(self.with(ask, Demand::Must(demand), basis, applied, vouched))
    }

    /// REQUIRETLS without any published policy: the host's name must come from a place that cannot be forged, and its
    /// certificate must be for it (RFC 8689 §4.2.1).
    async fn by_name(&self, ask: &Ask<'_>, host: &Domain) -> Result<Policy, Refusal> {
        if !self.is_signed(ask, host).await? {
            return Err(unvouched(host));
        }
        let demand = Demand::Must(Proof::of_host(ask.host));
        Ok(self.with(ask, demand, Basis::RequireTls, PolicyApplied::NoPolicyFound, true))
    }

    /// A host without a name has neither records nor a policy.
    fn without_name(&self, ask: &Ask<'_>) -> Result<Policy, Refusal> {
        if *ask.level == TlsLevel::DaneOnly {
            return Err(Refusal::later(format!("{} has no name and so no DANE; the route demands it", ask.host)));
        }
        if ask.demand == TlsDemand::Required {
            return Ok(self.plain(ask, Demand::Must(Proof::of_host(ask.host)), Basis::RequireTls));
        }
        Ok(self.opportunistic(ask, PolicyApplied::NoPolicyFound))
    }

    async fn discover(&self, ask: &Ask<'_>, host: &Domain) -> Result<Option<DaneProof>, Refusal> {
        dane::discover(self.0.resolver.as_ref(), host, ask.port)
            .await
            .map_err(|undecided| self.undecided(ask, &undecided))
    }

    /// Whether the host's name is the configuration's or comes from signed MX records.
    async fn is_signed(&self, ask: &Ask<'_>, host: &Domain) -> Result<bool, Refusal> {
        let Some(domain) = domain(ask.found) else { return Ok(true) };
        match self.0.resolver.mx(domain).await {
            Ok(answer) => Ok(answer.secure && names_host(&answer.found, host)),
            Err(error @ LookupError::Temporary { .. }) => {
                Err(self.undecided(ask, &Undecided { name: domain.clone(), error }))
            }
            // RFC 5321 §5.1: the domain is its own host.
            Err(LookupError::NoRecords | LookupError::NoSuchDomain) => Ok(domain == host),
        }
    }

    async fn sts(&self, ask: &Ask<'_>) -> Option<Arc<StsPolicy>> {
        match ask.found {
            FoundBy::Recipients(domain) => self.0.policies.policy(domain).await,
            FoundBy::Configuration | FoundBy::Exchanges(_) => None,
        }
    }

    /// RFC 7672 §2.1: without an answer, or with a forged one, the host must not be used now.
    fn undecided(&self, ask: &Ask<'_>, undecided: &Undecided) -> Refusal {
        let Undecided { name, error } = undecided;
        let text = format!("whether {} has DANE cannot be found out: the look-up of {name} failed: {error}", ask.host);
        let reason = if error.is_bogus() { "bogus answer" } else { "look-up failed" };
        self.told(ask, Refusal::later(text), PolicyApplied::NoPolicyFound, Failure::new(undecided.kind(), reason))
    }

    fn unlisted(&self, ask: &Ask<'_>, host: &Domain, policy: &Arc<StsPolicy>) -> Refusal {
        let text = format!("{host} is not among the hosts that the domain's MTA-STS policy lists");
        let refusal = match ask.demand {
            TlsDemand::Required => Refusal::required(text),
            _ => Refusal::later(text),
        };
        let failure = Failure::new(FailureType::CertificateHostMismatch, UNLISTED);
        self.told(ask, refusal, PolicyApplied::Sts(Some(Arc::clone(policy))), failure)
    }

    fn told(&self, ask: &Ask<'_>, refusal: Refusal, policy: PolicyApplied, failure: Failure) -> Refusal {
        match ask.found {
            FoundBy::Recipients(_) => refusal.reported(policy, failure),
            FoundBy::Configuration | FoundBy::Exchanges(_) => refusal,
        }
    }

    fn opportunistic(&self, ask: &Ask<'_>, applied: PolicyApplied) -> Policy {
        let demand = if ask.implicit { Demand::Must(Proof::Nothing) } else { Demand::May };
        self.with(ask, demand, Basis::Opportunistic, applied, true)
    }

    /// A policy of which nobody is told: that of a route.
    fn plain(&self, ask: &Ask<'_>, demand: Demand, basis: Basis) -> Policy {
        let (host, roots) = (ask.host.clone(), Arc::clone(&self.0.roots));
        Policy { demand, basis, applied: None, tried: None, vouched: true, host, roots }
    }

    fn with(&self, ask: &Ask<'_>, demand: Demand, basis: Basis, applied: PolicyApplied, vouched: bool) -> Policy {
        let told = match ask.found {
            FoundBy::Recipients(domain) => Some((domain.clone(), applied)),
            FoundBy::Configuration | FoundBy::Exchanges(_) => None,
        };
        Policy { applied: told, vouched, ..self.plain(ask, demand, basis) }
    }
}

impl Policy {
    /// Whether it may be in clear, and so after TLS has failed, too.
    pub fn allows_clear(&self) -> bool {
        !matches!(self.demand, Demand::Must(_))
    }

    /// Whether a chain of certificates, the server's own first, proves what is demanded; if so, how.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Verified, TlsFailure> {
        let verified = match &self.demand {
            Demand::Must(proof) if *proof != Proof::Nothing => proof.judge(chain, &self.roots, now)?,
            // Nothing is demanded; what the certificate proves all the same is told.
            _ => Proof::of_host(&self.host).judge(chain, &self.roots, now).unwrap_or(Verified::No),
        };
        Ok(if self.vouched { verified } else { Verified::No })
    }

    /// What a policy that is only tried out would have said.
    pub fn trial(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsFailure> {
        match &self.tried {
            None => Ok(()),
            Some(Ok(proof)) => proof.judge(chain, &self.roots, now).map(|_| ()),
            Some(Err(failure)) => Err(failure.clone()),
        }
    }

    /// What the handshake must prove.
    pub(super) fn proof(&self) -> Proof {
        match &self.demand {
            Demand::Must(proof) => proof.clone(),
            Demand::Clear | Demand::May => Proof::Nothing,
        }
    }

    /// The name to ask for (SNI): the TLSA base domain (RFC 7672 §8.1), else the host's (RFC 8461 §4.1). Names that TLS
    /// cannot say are left out by asking for an address.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        let name = match (&self.demand, &self.host) {
            (Demand::Must(Proof::Dane(proof)), _) => judge::server_name(&proof.base),
            (_, Host::Domain(name)) => judge::server_name(name),
            (_, Host::Literal(address)) => Some(ServerName::IpAddress((*address).into())),
        };
        name.unwrap_or(ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into()))
    }

    /// The host, as caches know it.
    pub(super) fn host_text(&self) -> String {
        self.host.to_string()
    }
}

impl Proof {
    /// By an authority, for the host's own name or address.
    fn of_host(host: &Host) -> Self {
        match host {
            Host::Domain(name) => Proof::Names(vec![CertificateName::Exact(name.clone())]),
            Host::Literal(address) => Proof::Address(*address),
        }
    }

    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<Verified, TlsFailure> {
        let no_certificate = || TlsFailure::new(FailureType::CertificateNotTrusted, "the host shows no certificate");
        if *self == Proof::Nothing {
            return Ok(Verified::No);
        }
        let (own, issuers) = chain.split_first().ok_or_else(no_certificate)?;
        match self {
            Proof::Nothing => Ok(Verified::No),
            Proof::Names(names) => judge::by_authority(own, issuers, roots, names, now).map(|()| Verified::WebPki),
            Proof::Address(address) => {
                let address = ServerName::IpAddress((*address).into());
                judge::by_address(own, issuers, roots, &address, now).map(|()| Verified::WebPki)
            }
            Proof::Fingerprints(digests) => judge::by_fingerprint(own, digests).map(|()| Verified::Fingerprint),
            Proof::Dane(proof) => proof.judge(chain, now),
        }
    }
}

/// The reason that is reported for a host that no pattern of the policy matches.
const UNLISTED: &str = "host not listed by the policy";

/// Whose exchanges the host is one of.
fn domain(found: &FoundBy) -> Option<&Domain> {
    match found {
        FoundBy::Configuration => None,
        FoundBy::Exchanges(domain) | FoundBy::Recipients(domain) => Some(domain),
    }
}

fn names_host(answer: &MxAnswer, host: &Domain) -> bool {
    match answer {
        MxAnswer::Null => false,
        MxAnswer::Hosts(hosts) => hosts.iter().any(|mx| mx.host == *host),
    }
}

fn unvouched(host: &Domain) -> Refusal {
    Refusal::required(format!("neither DNSSEC nor MTA-STS vouches for {host}; REQUIRETLS demands it"))
}
