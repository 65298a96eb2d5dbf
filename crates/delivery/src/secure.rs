//! How a line gets as secure as it must be: the policy of each host, the handshake, and what is told of both.

use std::io;

use mail::{EnhancedCode, Envelope, Fault, FoundBy, Protocol, Target, TlsDemand};
use rustls_pki_types::UnixTime;
use smtp::client::{Event, NoTls, RequireTls, Security, Tls};
use tls::client::{Ask, Basis, Demand, Policy, Proof, Refusal, Secured, TlsFailure};
use tls::report::{Failure, FailureType, PolicyApplied, TlsSession};

use crate::dial::Stream;
use crate::hosts::Candidate;
use crate::job::Job;
use crate::line::Line;
use crate::run::Run;

/// Connections to one address before it is given up: large hello, small hello, in clear.
const MOST_DIALS: usize = 3;

/// For whose mail a line is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    found: FoundBy,
    demand: TlsDemand,
}

/// Why there is no line to an address.
pub(crate) enum Unopened {
    /// It cannot be reached or does not want us.
    Unreached(Fault),
    /// It is not as secure as it must be.
    Insecure(Fault),
    /// The host must not be used, at whatever address.
    Barred(Fault),
}

/// Whether the next try goes by TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Secured,
    Clear,
}

/// What one try has come to.
pub(crate) enum Attempt {
    Open(Box<Line>),
    Over(Unopened),
    /// Another one may do better.
    Again(Way),
}

impl Want {
    /// That of a lane before anything was pulled: its target names one of the domains that it serves.
    pub fn of_lane(target: &Target) -> Self {
        Self { found: target.tls.found.clone(), demand: TlsDemand::Default }
    }

    /// That of a message: its recipients have one domain if their exchanges are asked for.
    pub fn of_job(target: &Target, job: &Job) -> Self {
        let envelope = &job.assignment.envelope;
        let first = job.assignment.recipients.first().and_then(|&place| envelope.recipients.get(place as usize));
        let found = match (&target.tls.found, first.and_then(|recipient| recipient.path.domain())) {
            (FoundBy::Recipients(_), Some(domain)) => FoundBy::Recipients(domain.clone()),
            (found, _) => found.clone(),
        };
        Self { found, demand: demand(target, envelope) }
    }
}

/// What a message demands of the lines it goes over. LMTP is the last step into a store of ours, where no demand leads any
/// further. A report goes also where TLS proves nothing, or nobody would hear of the failure (RFC 8689 §4.2.1, §5).
fn demand(target: &Target, envelope: &Envelope) -> TlsDemand {
    let is_report = RequireTls::of(envelope) == RequireTls::WhereOffered;
    if target.protocol == Protocol::Lmtp || is_report { TlsDemand::Default } else { envelope.tls }
}

impl Run<'_> {
    /// Connects to one address, secures the line and waits for the host's welcome.
    pub(crate) async fn open(&self, candidate: &Candidate, want: &Want) -> Result<Line, Unopened> {
        let policy = match self.policy(candidate, want).await {
            Ok(policy) => policy,
            Err(refusal) => return Err(Unopened::Barred(self.refused(candidate, want, refusal))),
        };
        let mut way = self.first_way(candidate, policy.as_ref());
        let spared = policy.as_ref().filter(|policy| way == Way::Clear && policy.demand == Demand::May);
        for _ in 0..MOST_DIALS {
            match self.attempt(candidate, want, policy.as_ref(), way).await {
                Attempt::Open(line) => {
                    if let Some(policy) = spared {
                        let failure = Failure::new(FailureType::ValidationFailure, "TLS failed a short while ago");
                        self.tell(candidate, policy, Some(failure));
                    }
                    return Ok(*line);
                }
                Attempt::Over(unopened) => return Err(unopened),
                Attempt::Again(next) => way = next,
            }
        }
        Err(Unopened::Unreached(self.unconnected(candidate, "no way to speak with it was found")))
    }

    /// Whether an open line is good enough for other mail, too.
    pub(crate) async fn suits(&self, line: &mut Line, want: &Want) -> bool {
        if line.want == *want {
            return true;
        }
        let Ok(policy) = self.policy(&line.candidate, want).await else { return false };
        let verified = match (policy.as_ref().map(|policy| (policy, &policy.demand)), &line.secured) {
            (None | Some((_, Demand::Clear | Demand::May)), None) => None,
            (Some((_, Demand::Must(_))), None) => return false,
            (None, Some(_)) => return false,
            (Some((policy, _)), Some(secured)) => match policy.judge(&secured.chain, UnixTime::now()) {
                Ok(verified) => Some(verified),
                Err(_) => return false,
            },
        };
        if let (Some(secured), Some(verified)) = (&mut line.secured, verified) {
            secured.facts.verified = verified;
        }
        line.want = want.clone();
        true
    }

    /// What the host must prove. A Unix socket leads to nobody else.
    async fn policy(&self, candidate: &Candidate, want: &Want) -> Result<Option<Policy>, Refusal> {
        let (Some(host), Some(port)) = (&candidate.peer, candidate.endpoint.port()) else { return Ok(None) };
        let tls = &self.target.tls;
        let ask =
            Ask { level: &tls.level, demand: want.demand, implicit: tls.implicit, found: &want.found, host, port };
        self.inner.tls.policy(&ask).await.map(Some)
    }

    fn first_way(&self, candidate: &Candidate, policy: Option<&Policy>) -> Way {
        match policy.map(|policy| &policy.demand) {
            None | Some(Demand::Clear) => Way::Clear,
            Some(Demand::May) if self.inner.tls.went_without(&candidate.host) => Way::Clear,
            Some(Demand::May | Demand::Must(_)) => Way::Secured,
        }
    }

    /// One connection.
    async fn attempt(&self, candidate: &Candidate, want: &Want, policy: Option<&Policy>, way: Way) -> Attempt {
        let stream = match self.dial(candidate).await {
            Ok(stream) => stream,
            Err(fault) => return Attempt::Over(Unopened::Unreached(fault)),
        };
        let credentials = self.target.tls.credentials.is_some();
        let Some(policy) = policy.filter(|_| way == Way::Secured) else {
            let line = self.line(stream, candidate, want, Security { credentials, ..Security::default() });
            return self.greet(line, None).await;
        };
        if self.target.tls.implicit {
            return match self.handshake(stream, policy).await {
                Ok((stream, secured)) => {
                    self.tell_secured(candidate, policy, &secured);
                    let mut line = self.line(stream, candidate, want, Security { credentials, ..Security::default() });
                    line.connection.secured_from_start(secured.facts.clone());
                    line.secured = Some(secured);
                    self.greet(line, Some(policy)).await
                }
                Err(failure) => self.insecure(candidate, policy, &failure),
            };
        }
        let tls = if policy.allows_clear() { Tls::Opportunistic } else { Tls::Required };
        self.greet(self.line(stream, candidate, want, Security { tls, credentials }), Some(policy)).await
    }

    /// From the host's greeting to its readiness.
    async fn greet(&self, mut line: Line, policy: Option<&Policy>) -> Attempt {
        let mut exchange = None;
        loop {
            match (line.event().await, policy) {
                (Event::Authenticate(offered), _) => match self.authenticate(&mut line, &offered).await {
                    Ok(begun) => exchange = Some(begun),
                    Err(fault) => return self.unproven(line, fault).await,
                },
                (Event::AuthChallenge(challenge), _) => match self.answer(&mut line, exchange.as_mut(), &challenge) {
                    Ok(()) => {}
                    Err(fault) => return self.unproven(line, fault).await,
                },
                (Event::AuthFailed(why), _) => {
                    let fault = self.not_believed(&line, exchange.as_ref(), &why);
                    return self.unproven(line, fault).await;
                }
                (Event::Ready, _) => {
                    let word = line.secured.as_ref().map_or("clear", |secured| secured.facts.verified.word());
                    self.inner.metrics.line(word);
                    return Attempt::Open(Box::new(line));
                }
                (Event::StartTls, Some(policy)) => match self.handshake(line.take_stream(), policy).await {
                    Ok((stream, secured)) => {
                        self.tell_secured(&line.candidate, policy, &secured);
                        line.secure(stream, secured, self.inner.clock.instant());
                    }
                    Err(failure) => return self.insecure(&line.candidate.clone(), policy, &failure),
                },
                (Event::NoTls(why), Some(policy)) => {
                    let failure = not_offered(&why);
                    self.tell(&line.candidate, policy, Some(failure.for_report()));
                    if !policy.allows_clear() {
                        line.quit().await;
                        let fault = failure.fault(policy.basis, &line.candidate.host);
                        return Attempt::Over(Unopened::Insecure(fault));
                    }
                    line.connection.go_on_in_clear(self.inner.clock.instant());
                }
                (Event::Closed(closed), _) => {
                    self.count(&closed);
                    return Attempt::Over(Unopened::Unreached(line.fault(closed.reply())));
                }
                // Nothing else comes before a transaction begins.
                _ => {
                    let fault = self.unconnected(&line.candidate, "an answer out of order");
                    return Attempt::Over(Unopened::Unreached(fault));
                }
            }
        }
    }

    async fn handshake(
        &self,
        stream: Box<dyn Stream>,
        policy: &Policy,
    ) -> Result<(Box<dyn Stream>, Secured), TlsFailure> {
        let work = self.inner.tls.handshake(stream, policy);
        match tokio::time::timeout(self.settings.handshake, work).await {
            Ok(done) => done.map(|(stream, secured)| (Box::new(stream) as Box<dyn Stream>, secured)),
            Err(_) => {
                let failure = TlsFailure::new(FailureType::ValidationFailure, "the TLS handshake timed out");
                Err(TlsFailure { again: self.inner.tls.choked(policy), ..failure })
            }
        }
    }

    /// What follows from a handshake that came to nothing.
    fn insecure(&self, candidate: &Candidate, policy: &Policy, failure: &TlsFailure) -> Attempt {
        tracing::debug!(host = candidate.host, reason = failure.reason, again = failure.again, "no TLS");
        if failure.again {
            return Attempt::Again(Way::Secured);
        }
        self.tell(candidate, policy, Some(failure.for_report()));
        if policy.allows_clear() {
            self.inner.tls.goes_without(&candidate.host);
            return Attempt::Again(Way::Clear);
        }
        Attempt::Over(Unopened::Insecure(failure.fault(policy.basis, &candidate.host)))
    }

    fn tell_secured(&self, candidate: &Candidate, policy: &Policy, secured: &Secured) {
        let trial = policy.trial(&secured.chain, UnixTime::now()).err().map(|failure| failure.for_report());
        let unusable = policy.basis == Basis::Dane && policy.demand == Demand::Must(Proof::Nothing);
        let unusable = unusable.then(|| Failure::new(FailureType::TlsaInvalid, "no usable TLSA record"));
        self.tell(candidate, policy, trial.or(unusable));
    }

    fn tell(&self, candidate: &Candidate, policy: &Policy, failure: Option<Failure>) {
        match &policy.applied {
            Some((domain, applied)) => self.tell_domain(candidate, domain.clone(), applied.clone(), failure),
            None => self.count_failure(failure.as_ref()),
        }
    }

    /// Tells and counts why a host must not be used; gives the fault.
    fn refused(&self, candidate: &Candidate, want: &Want, refusal: Refusal) -> Fault {
        match (refusal.report.map(|report| *report), &want.found) {
            (Some((applied, failure)), FoundBy::Recipients(domain)) => {
                self.tell_domain(candidate, domain.clone(), applied, Some(failure));
            }
            (report, _) => self.count_failure(report.as_ref().map(|(_, failure)| failure)),
        }
        refusal.fault
    }

    fn tell_domain(
        &self,
        candidate: &Candidate,
        domain: mail::Domain,
        policy: PolicyApplied,
        failure: Option<Failure>,
    ) {
        self.count_failure(failure.as_ref());
        self.inner.reports.session(TlsSession {
            domain,
            policy,
            mx_host: candidate.peer.as_ref().and_then(|host| host.domain().cloned()),
            receiving_ip: candidate.endpoint.ip(),
            sending_ip: candidate.from,
            failure,
        });
    }

    fn count_failure(&self, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            self.inner.metrics.tls_failed(failure.kind.as_str());
        }
    }

    async fn dial(&self, candidate: &Candidate) -> Result<Box<dyn Stream>, Fault> {
        let dial = self.inner.dial.dial(&candidate.endpoint, candidate.from);
        match tokio::time::timeout(self.settings.connect, dial).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unconnected(candidate, &error.to_string())),
            Err(_) => Err(self.unconnected(candidate, &io::Error::from(io::ErrorKind::TimedOut).to_string())),
        }
    }

    fn unconnected(&self, candidate: &Candidate, why: &str) -> Fault {
        self.inner.metrics.failed("connect");
        let text = format!("cannot connect to {} ({}): {why}", candidate.host, candidate.endpoint);
        Fault::local(421, EnhancedCode::new(4, 4, 1), text)
    }
}

fn not_offered(why: &NoTls) -> TlsFailure {
    let reason = match why {
        NoTls::NotOffered => "it does not offer STARTTLS".to_owned(),
        NoTls::Refused(reply) => format!("it refuses STARTTLS: {reply}"),
    };
    TlsFailure::new(FailureType::StarttlsNotSupported, reason)
}
