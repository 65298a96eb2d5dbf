//! The life of a connection: open it, pull work, report, say goodbye.

use std::sync::{Arc, PoisonError, RwLock};

use dns::Resolve;
use mail::{Assignment, AttemptReport, Clock, EnhancedCode, Fault, FaultSource, Protocol, Randomness, Target};
use smtp::client::{Asks, Closed, Connection, Event, RequireTls, Security, Transaction, Verdict};
use smtp::extensions::Extensions;
use store::Store;
use tls::report::SessionReports;
use tracing::debug;

use crate::body::{Body, Conversions, Unfit};
use crate::dial::{Dial, Stream};
use crate::hosts::{Candidate, Hosts};
use crate::job::Job;
use crate::line::Line;
use crate::metrics::Metrics;
use crate::secure::{Unopened, Want};
use crate::settings::Settings;
use crate::work::Work;

/// How many other hosts are asked for what one can't take for want of an extension or of size.
const OTHER_HOSTS: usize = 2;
/// Octets of content that may wait to be written before more is read.
const AHEAD: usize = 64 << 10;

/// What a deliverer works with.
pub struct Parts {
    /// Where content is read from.
    pub store: Store,
    /// For the addresses of hosts.
    pub resolver: Arc<dyn Resolve>,
    /// Opens connections.
    pub dial: Arc<dyn Dial>,
    /// The limits.
    pub settings: Settings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For the order of equal hosts.
    pub randomness: Randomness,
    /// Secures lines.
    pub tls: tls::client::Client,
    /// Hears of every TLS session.
    pub reports: Arc<dyn SessionReports>,
    /// The counters.
    pub metrics: Metrics,
}

/// Runs connections; clones share everything.
#[derive(Clone)]
pub struct Deliverer(Arc<Inner>);

pub(crate) struct Inner {
    store: Store,
    resolver: Arc<dyn Resolve>,
    pub(crate) dial: Arc<dyn Dial>,
    settings: RwLock<Arc<Settings>>,
    pub(crate) clock: Arc<dyn Clock>,
    randomness: Randomness,
    pub(crate) tls: tls::client::Client,
    pub(crate) reports: Arc<dyn SessionReports>,
    pub(crate) metrics: Metrics,
    conversions: Conversions,
}

impl Deliverer {
    /// From its parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            store: parts.store,
            resolver: parts.resolver,
            dial: parts.dial,
            settings: RwLock::new(Arc::new(parts.settings)),
            clock: parts.clock,
            randomness: parts.randomness,
            tls: parts.tls,
            reports: parts.reports,
            metrics: parts.metrics,
            conversions: Conversions::default(),
        }))
    }

    /// New settings for connections that begin from now on.
    pub fn reconfigure(&self, settings: Settings) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Opens a connection, pulls deliveries until there are none or the connection has carried its share, and closes it.
    ///
    /// Not to be cancelled while an assignment is under way: whoever handed the work out must then take it back.
    pub async fn run<W: Work>(&self, mut work: W) {
        let settings = Arc::clone(&self.0.settings.read().unwrap_or_else(PoisonError::into_inner));
        let target = work.target().clone();
        let run = Run { inner: &self.0, settings: &settings, target: &target };
        let mut hosts = run.hosts();
        let (mut hopeless, want) = (Hopeless::default(), Want::of_lane(&target));
        let mut line = match run.connect(&mut hosts, &want).await {
            Ok(line) => Some(line),
            Err(Unopened::Unreached(fault)) => return work.unreachable(fault),
            // Each message hears of that by itself: another domain's, or another sender's, may demand less.
            Err(Unopened::Insecure(fault) | Unopened::Barred(fault)) => {
                hopeless.add(want, fault);
                None
            }
        };
        for _ in 0..settings.messages.max(1) {
            if line.as_ref().is_some_and(|line| line.used >= run.share(line)) {
                break;
            }
            let Some(assignment) = run.next(&mut work, &mut line).await else { break };
            let mut job = Job::new(assignment);
            run.carry(&mut job, &mut line, &mut hosts, &mut hopeless).await;
            let strayed = run.carry_elsewhere(&mut job, &mut line, &mut hosts).await;
            work.report(run.counted(job)).await;
            if line.as_ref().is_some_and(|line| line.closed().is_some()) {
                return;
            }
            // The next message is for the first host again.
            if strayed {
                break;
            }
        }
        if let Some(line) = &mut line {
            line.quit().await;
        }
    }
}

/// Mail of this run for which no host is secure enough, and why: the next message of the kind need not try them all.
#[derive(Default)]
struct Hopeless(Vec<(Want, Fault)>);

/// The most kinds of mail that are remembered as hopeless.
const MOST_HOPELESS: usize = 20;

impl Hopeless {
    fn get(&self, want: &Want) -> Option<&Fault> {
        self.0.iter().find(|(kind, _)| kind == want).map(|(_, fault)| fault)
    }

    fn add(&mut self, want: Want, fault: Fault) {
        if self.0.len() < MOST_HOPELESS {
            self.0.push((want, fault));
        }
    }
}

/// How a transaction left the connection.
enum End {
    /// Open. At least one recipient more is decided.
    Open,
    /// Over, but all was said before. At least one recipient more is decided.
    Left,
    /// Over, for a reason that lies with the peer or the network: who is still pending may try another host.
    Lost(Fault),
    /// Over, because the content could not be given. It would go the same way with any host.
    Unfit(Fault),
}

/// One call of [`Deliverer::run`].
pub(crate) struct Run<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) settings: &'a Settings,
    pub(crate) target: &'a Target,
}

impl Run<'_> {
    fn hosts(&self) -> Hosts {
        Hosts::new(self.target, &self.inner.randomness)
    }

    /// The next assignment; meanwhile the peer is listened to, so that its goodbye is not mistaken for a failure later.
    async fn next<W: Work>(&self, work: &mut W, line: &mut Option<Line>) -> Option<Assignment> {
        let Some(line) = line else { return work.next().await };
        let mut next = std::pin::pin!(work.next());
        tokio::select! {
            biased;
            assignment = &mut next => return assignment,
            () = line.listen() => self.inner.metrics.failed("idle"),
        }
        next.await
    }

    /// The first host that welcomes us on a line good enough for this mail, from where `hosts` stands; else why there is none.
    async fn connect(&self, hosts: &mut Hosts, want: &Want) -> Result<Line, Unopened> {
        let (mut fault, mut insecure) = (None, None);
        while let Some(candidate) = hosts.next(self.inner.resolver.as_ref(), &mut fault).await {
            match self.open(&candidate, want).await {
                Ok(line) => {
                    self.inner.metrics.connections.inc();
                    return Ok(line);
                }
                Err(Unopened::Unreached(refused)) => {
                    debug!(site = %self.target.lane.site, reply = %refused.reply, "host not reached");
                    fault = Some(refused);
                }
                Err(Unopened::Insecure(refused)) => {
                    debug!(site = %self.target.lane.site, reply = %refused.reply, "host not secure");
                    insecure = Some(refused);
                }
                Err(Unopened::Barred(refused)) => {
                    debug!(site = %self.target.lane.site, reply = %refused.reply, "host not to be used");
                    hosts.leave(&candidate.host);
                    insecure = Some(refused);
                }
            }
        }
        let nobody = || Fault::local(451, EnhancedCode::new(4, 4, 1), "no host is left to try");
        Err(match (insecure, fault) {
            // A host that is only away may prove more when it is back.
            (Some(insecure), Some(fault)) if insecure.is_permanent() && fault.is_transient() => {
                Unopened::Insecure(fault)
            }
            (Some(insecure), _) => Unopened::Insecure(insecure),
            (None, fault) => Unopened::Unreached(fault.unwrap_or_else(nobody)),
        })
    }

    /// A new line to an address.
    pub(crate) fn line(&self, stream: Box<dyn Stream>, candidate: &Candidate, want: &Want, security: Security) -> Line {
        let (clock, metrics) = (Arc::clone(&self.inner.clock), self.inner.metrics.clone());
        let (ehlo, timeouts) = (self.target.source.ehlo.clone(), self.settings.timeouts);
        let connection = Connection::new(self.target.protocol, ehlo, timeouts, clock.instant()).with_security(security);
        Line::new(stream, connection, candidate.clone(), want.clone(), clock, metrics)
    }

    /// How many messages may go over this connection.
    fn share(&self, line: &Line) -> u32 {
        let offered = line.connection.offered().limits.and_then(|limits| limits.transactions);
        offered.unwrap_or(u32::MAX).clamp(1, self.settings.messages.max(1))
    }

    /// Offers other hosts what the one at hand can't take: exchanges of one domain may differ in what they offer, and the
    /// first need not decide for all (RFC 5321 §5.1). Whether another one was at hand in the end.
    async fn carry_elsewhere(&self, job: &mut Job, slot: &mut Option<Line>, hosts: &mut Hosts) -> bool {
        let mut strayed = false;
        for _ in 0..OTHER_HOSTS {
            let Some(line) = slot else { break };
            hosts.leave(&line.candidate.host);
            if !job.wants_other_host() || hosts.is_empty() {
                break;
            }
            // The lane was granted one connection.
            line.quit().await;
            strayed = true;
            let Ok(other) = self.connect(hosts, &Want::of_job(self.target, job)).await else { break };
            *slot = Some(other);
            job.offer_again();
            self.carry(job, slot, hosts, &mut Hopeless::default()).await;
        }
        job.settle_short();
        strayed
    }

    /// Tries one assignment: with as many transactions as its recipients need, on as many hosts as there are.
    async fn carry(&self, job: &mut Job, slot: &mut Option<Line>, hosts: &mut Hosts, hopeless: &mut Hopeless) {
        let want = Want::of_job(self.target, job);
        let mut fault = None;
        // A connection that was used before may have grown stale: then its host deserves a fresh one.
        let mut may_be_stale = slot.as_ref().is_some_and(|line| line.used > 0);
        if slot.as_ref().is_none_or(|line| line.closed().is_some()) {
            // The peer left while nothing was to be done, which says nothing about this message.
            *hosts = self.hosts();
            may_be_stale = false;
        }
        while !job.is_done() {
            if !self.keeps(slot, &want).await {
                *hosts = self.hosts();
                may_be_stale = false;
            }
            if let Some(lost) = slot.as_mut().filter(|line| line.closed().is_some()) {
                // The lane was granted one connection.
                lost.hang_up();
            }
            let line = match slot {
                Some(line) if line.closed().is_none() => line,
                _ => match self.connect_unless_hopeless(hosts, &want, hopeless).await {
                    Ok(fresh) => slot.insert(fresh),
                    Err(Unopened::Insecure(insecure) | Unopened::Barred(insecure)) => {
                        return job.settle_rest(fault.as_ref().unwrap_or(&insecure));
                    }
                    Err(Unopened::Unreached(unreached)) => {
                        job.connection_failed = true;
                        return job.defer_rest(fault.as_ref().unwrap_or(&unreached));
                    }
                },
            };
            match self.transact(job, line).await {
                End::Open => {}
                End::Left => *hosts = self.hosts(),
                End::Lost(lost) => {
                    debug!(message = %job.assignment.id, reply = %lost.reply, "connection lost");
                    let stale = std::mem::take(&mut may_be_stale) && !job.is_done();
                    if stale {
                        *hosts = self.hosts();
                    }
                    // A connection may end between two messages; only if the peer says 421 it wants less of us.
                    job.connection_failed |= !stale || lost.by != FaultSource::Local;
                    fault = Some(lost);
                }
                End::Unfit(fault) => job.settle_rest(&fault),
            }
        }
    }

    /// Ends a line that has carried its share, or that is not good enough for this mail. Whether it is still to be used.
    async fn keeps(&self, slot: &mut Option<Line>, want: &Want) -> bool {
        let Some(line) = slot.as_mut().filter(|line| line.closed().is_none()) else { return true };
        if line.used < self.share(line) && self.suits(line, want).await {
            return true;
        }
        line.quit().await;
        false
    }

    async fn connect_unless_hopeless(
        &self,
        hosts: &mut Hosts,
        want: &Want,
        hopeless: &mut Hopeless,
    ) -> Result<Line, Unopened> {
        if let Some(fault) = hopeless.get(want) {
            return Err(Unopened::Insecure(fault.clone()));
        }
        let connected = self.connect(hosts, want).await;
        if let Err(Unopened::Insecure(fault)) = &connected {
            hopeless.add(want.clone(), fault.clone());
        }
        connected
    }

    /// One transaction.
    async fn transact(&self, job: &mut Job, line: &mut Line) -> End {
        let offered = line.connection.offered().clone();
        if !offered.utf8 {
            job.lacks_utf8();
        }
        let recipients = self.recipients(job, &offered);
        if recipients.is_empty() {
            return End::Open;
        }
        let mut body = match self.body(job, &offered).await {
            Ok(body) => body,
            Err(Unfit::Here(fault)) => {
                job.all_fall_short(&fault);
                return End::Open;
            }
            Err(Unfit::Unreadable(fault)) => {
                job.settle_rest(&fault);
                return End::Open;
            }
        };
        let transaction = Transaction {
            envelope: Arc::clone(&job.assignment.envelope),
            recipients: recipients.clone(),
            size: body.size,
            body: body.kind,
            utf8: body.utf8 || job.needs_utf8(&recipients),
            asks: self.asks(job),
        };
        if let Err(shortfall) = line.connection.begin(transaction, self.inner.clock.instant()) {
            job.falls_short(&recipients, &shortfall.fault());
            return End::Open;
        }
        line.used += 1;
        self.inner.metrics.messages.inc();
        let mut unreadable = None;
        let verdicts = loop {
            match line.event().await {
                Event::SendContent => unreadable = self.send(&mut body, line).await.err(),
                Event::Done(verdicts) => break verdicts,
                // The verdicts come before the end.
                Event::Closed(_) => break Vec::new(),
                // What comes before the first transaction is behind us.
                _ => {}
            }
        };
        self.conclude(job, &recipients, verdicts, line, unreadable).await
    }

    /// What a transaction's verdicts mean for its recipients, and for the connection.
    async fn conclude(
        &self,
        job: &mut Job,
        recipients: &[u32],
        verdicts: Vec<Verdict>,
        line: &mut Line,
        unreadable: Option<Fault>,
    ) -> End {
        let before = job.pending();
        if !line.connection.is_closed() {
            job.settle(recipients, verdicts, line, None);
            if job.pending() == before {
                // Cannot be; but if it were, it would go on for ever.
                job.defer_rest(&Fault::local(451, EnhancedCode::new(4, 5, 0), "the transaction had no result"));
            }
            return End::Open;
        }
        let closed = line.closing().await;
        self.count(&closed);
        let fault = line.fault(closed.reply());
        let complete = !verdicts.is_empty() && !verdicts.iter().any(|verdict| matches!(verdict, Verdict::Lost(_)));
        job.settle(recipients, verdicts, line, Some(&fault));
        match closed {
            // It said all it had to say about this message first.
            Closed::GoneAway(_) | Closed::Cut(_) if complete => End::Left,
            Closed::Unfit(_) => End::Unfit(unreadable.unwrap_or(fault)),
            _ => End::Lost(fault),
        }
    }

    /// What is asked of the peer beside delivery.
    fn asks(&self, job: &Job) -> Asks {
        let envelope = &job.assignment.envelope;
        let mut asks = Asks::of(envelope, self.inner.clock.now());
        if self.target.protocol == Protocol::Lmtp {
            asks.require_tls = RequireTls::No;
        }
        asks
    }

    /// Those of the next transaction, by our limits and the peer's.
    fn recipients(&self, job: &Job, offered: &Extensions) -> Vec<u32> {
        let limits = offered.limits.unwrap_or_default();
        let most = limits.recipients.unwrap_or(u32::MAX).min(self.settings.recipients);
        job.next_recipients(most as usize, limits.domains.unwrap_or(u32::MAX) as usize)
    }

    /// The content, made fit for the peer.
    async fn body(&self, job: &Job, offered: &Extensions) -> Result<Body, Unfit> {
        let opened = Body::open(&self.inner.store, &job.assignment.envelope).await;
        let mut body = opened.map_err(Unfit::Unreadable)?;
        body.fit(offered, &self.inner.conversions, self.settings.convert).await?;
        self.inner.metrics.conversions.inc_by(u64::from(body.converted));
        Ok(body)
    }

    /// Gives the content, piece by piece, until it is complete or no longer wanted.
    async fn send(&self, body: &mut Body, line: &mut Line) -> Result<(), Fault> {
        while line.connection.wants_content() {
            match body.next().await {
                Some(Ok(piece)) => line.connection.content(piece),
                Some(Err(fault)) => {
                    line.connection.abandon_content();
                    return Err(fault);
                }
                None => line.connection.finish_content(self.inner.clock.instant()),
            }
            line.drain(AHEAD).await;
        }
        Ok(())
    }

    pub(crate) fn count(&self, closed: &Closed) {
        self.inner.metrics.failed(match closed {
            Closed::Quit => return,
            Closed::Refused(_) => "refused",
            Closed::NoTls(_) => "no_tls",
            Closed::GoneAway(_) => "away",
            Closed::Cut(_) => "cut",
            Closed::TimedOut(_) => "time",
            Closed::Nonsense(_) | Closed::CutShort => "protocol",
            Closed::Unfit(_) => "content",
        });
    }

    /// The report of a job, counted.
    fn counted(&self, job: Job) -> AttemptReport {
        let report = job.into_report();
        for (_, outcome) in &report.outcomes {
            self.inner.metrics.recipient(outcome.word());
        }
        report
    }
}
