//! The life of a connection: open it, pull work, report, say goodbye.

use std::sync::{Arc, PoisonError, RwLock};

use dns::Resolve;
use mail::{Assignment, AttemptReport, Clock, EnhancedCode, Fault, FaultSource, Randomness, Target};
use smtp::client::{Asks, Closed, Event, Transaction, Verdict};
use smtp::extensions::Extensions;
use store::Store;
use tracing::debug;

use crate::body::{Body, Conversions, Unfit};
use crate::dial::Dial;
use crate::hosts::{Candidate, Hosts};
use crate::job::Job;
use crate::line::Line;
use crate::metrics::Metrics;
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
    /// The counters.
    pub metrics: Metrics,
}

/// Runs connections; clones share everything.
#[derive(Clone)]
pub struct Deliverer(Arc<Inner>);

struct Inner {
    store: Store,
    resolver: Arc<dyn Resolve>,
    dial: Arc<dyn Dial>,
    settings: RwLock<Arc<Settings>>,
    clock: Arc<dyn Clock>,
    randomness: Randomness,
    metrics: Metrics,
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
        let mut line = match run.connect(&mut hosts).await {
            Ok(line) => line,
            Err(fault) => return work.unreachable(fault),
        };
        while line.used < run.share(&line) {
            let Some(assignment) = run.next(&mut work, &mut line).await else { break };
            let mut job = Job::new(assignment);
            run.carry(&mut job, &mut line, &mut hosts).await;
            let strayed = run.carry_elsewhere(&mut job, &mut line, &mut hosts).await;
            work.report(run.counted(job)).await;
            if line.closed().is_some() {
                return;
            }
            // The next message is for the first host again.
            if strayed {
                break;
            }
        }
        line.quit().await;
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
struct Run<'a> {
    inner: &'a Inner,
    settings: &'a Settings,
    target: &'a Target,
}

impl Run<'_> {
    fn hosts(&self) -> Hosts {
        Hosts::new(self.target, &self.inner.randomness)
    }

    /// The next assignment; meanwhile the peer is listened to, so that its goodbye is not mistaken for a failure later.
    async fn next<W: Work>(&self, work: &mut W, line: &mut Line) -> Option<Assignment> {
        let mut next = std::pin::pin!(work.next());
        tokio::select! {
            biased;
            assignment = &mut next => return assignment,
            () = line.listen() => self.inner.metrics.failed("idle"),
        }
        next.await
    }

    /// The first host that welcomes us, from where `hosts` stands; else the last fault.
    async fn connect(&self, hosts: &mut Hosts) -> Result<Line, Fault> {
        let mut fault = None;
        while let Some(candidate) = hosts.next(self.inner.resolver.as_ref(), &mut fault).await {
            match self.open(candidate).await {
                Ok(line) => {
                    self.inner.metrics.connections.inc();
                    return Ok(line);
                }
                Err(refused) => {
                    debug!(site = %self.target.lane.site, reply = %refused.reply, "host not reached");
                    fault = Some(refused);
                }
            }
        }
        Err(fault.unwrap_or_else(|| Fault::local(451, EnhancedCode::new(4, 4, 1), "no host is left to try")))
    }

    /// Connects to one address and waits for its welcome.
    async fn open(&self, candidate: Candidate) -> Result<Line, Fault> {
        let dial = self.inner.dial.dial(&candidate.endpoint, candidate.from);
        let stream = match tokio::time::timeout(self.settings.connect, dial).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unconnected(&candidate, &error.to_string())),
            Err(_) => return Err(self.unconnected(&candidate, "timed out")),
        };
        let mut line = Line::new(
            stream,
            candidate,
            self.target.protocol,
            self.target.source.ehlo.clone(),
            self.settings.timeouts,
            Arc::clone(&self.inner.clock),
            self.inner.metrics.clone(),
        );
        match line.event().await {
            Event::Ready => Ok(line),
            Event::Closed(closed) => {
                self.count(&closed);
                Err(line.fault(closed.reply()))
            }
            // Nothing else comes before a transaction begins without a wish for TLS or AUTH.
            _ => Err(self.unconnected(&line.candidate, "an answer out of order")),
        }
    }

    fn unconnected(&self, candidate: &Candidate, why: &str) -> Fault {
        self.inner.metrics.failed("connect");
        let text = format!("cannot connect to {} ({}): {why}", candidate.host, candidate.endpoint);
        Fault::local(421, EnhancedCode::new(4, 4, 1), text)
    }

    /// How many messages may go over this connection.
    fn share(&self, line: &Line) -> u32 {
        let offered = line.connection.offered().limits.and_then(|limits| limits.transactions);
        offered.unwrap_or(u32::MAX).clamp(1, self.settings.messages.max(1))
    }

    /// Offers other hosts what the one at hand can't take: exchanges of one domain may differ in what they offer, and the
    /// first need not decide for all (RFC 5321 §5.1). Whether another one was at hand in the end.
    async fn carry_elsewhere(&self, job: &mut Job, line: &mut Line, hosts: &mut Hosts) -> bool {
        let mut strayed = false;
        for _ in 0..OTHER_HOSTS {
            hosts.leave(&line.candidate.host);
            if !job.wants_other_host() || hosts.is_empty() {
                break;
            }
            // The lane was granted one connection.
            line.quit().await;
            strayed = true;
            let Ok(other) = self.connect(hosts).await else { break };
            *line = other;
            job.offer_again();
            self.carry(job, line, hosts).await;
        }
        job.settle_short();
        strayed
    }

    /// Tries one assignment: with as many transactions as its recipients need, on as many hosts as there are.
    async fn carry(&self, job: &mut Job, line: &mut Line, hosts: &mut Hosts) {
        let mut fault = None;
        // A connection that was used before may have grown stale: then its host deserves a fresh one.
        let mut may_be_stale = line.used > 0;
        if line.closed().is_some() {
            // The peer left while nothing was to be done, which says nothing about this message.
            *hosts = self.hosts();
            may_be_stale = false;
        }
        while !job.is_done() {
            if line.closed().is_none() && line.used >= self.share(line) {
                line.quit().await;
                *hosts = self.hosts();
                may_be_stale = false;
            }
            if line.closed().is_some() {
                match self.connect(hosts).await {
                    Ok(fresh) => *line = fresh,
                    Err(unreached) => {
                        job.connection_failed = true;
                        job.defer_rest(fault.as_ref().unwrap_or(&unreached));
                        break;
                    }
                }
            }
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
            asks: Asks::of(&job.assignment.envelope, self.inner.clock.now()),
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

    fn count(&self, closed: &Closed) {
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
