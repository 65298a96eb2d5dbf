//! The driver of one connection: between the socket, the pure session, and the rooms below.
//!
//! Each turn settles what the session has to say and to ask, writes the replies of the whole batch at once, and waits: for
//! input, for the session's next deadline, or for the end of the server. An idle connection holds no large buffer.

mod login;
mod submit;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tls::Grant;
use bytes::{Buf, BytesMut};
use mail::{EnhancedCode, MessageId, Recipient, Reply};
use smtp::server::{Answer, Begin, CloseReason, Event, Finished, Peer, Refusal, Session, Source};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::connections::Place;
use crate::input::{Input, LARGE, MEDIUM, SLACK, SMALL};
use crate::intake::Refused;
use crate::metrics::{Handshake, Metrics, Reason};
use crate::proxy::{self, Header, ProxyError};
use crate::reception::{Gate, Shared, Stage, Turned, canonical};
use crate::relay::{Client, Verdict};
use crate::settings::ListenerTls;
use crate::stream::Stream;
use crate::submission::{Counted, Sent};
use crate::tls::Wire;
use crate::transfer::{Entrance, Transfer};
use login::Login;

/// How long and how much is read and thrown away after the last reply, so that the client gets to see it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_OCTETS: usize = 1 << 20;

/// A connection that has been admitted.
pub(crate) struct Connection<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) place: Place,
    pub(crate) stream: Wire<S>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Serves a connection until it is over.
pub(crate) async fn run<S: Stream>(mut connection: Connection<S>) {
    let _open = Open::new(connection.shared.metrics.clone(), connection.peer);
    let (mut input, mut source) = (Input::default(), Source::Connection);
    if connection.gate.listener.proxy_from.contains(connection.peer.ip()) {
        match connection.proxy_header(&mut input).await {
            Ok(header) => source = connection.proxied(header),
            Err(reason) => return connection.turn_away(&no_proxy(reason)),
        }
        if let Err(turned) = connection.shared.let_in(&connection.gate, connection.peer.ip(), &mut connection.place) {
            return connection.turn_away(&turned);
        }
    }
    if connection.gate.is_implicit() && !connection.secure(&mut input).await {
        return;
    }
    Driver::new(connection, input, source).run().await;
}

/// Counts a session while it is open, and one that panics.
struct Open {
    metrics: Metrics,
    peer: SocketAddr,
}

impl Open {
    fn new(metrics: Metrics, peer: SocketAddr) -> Self {
        metrics.sessions.inc();
        Self { metrics, peer }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.sessions.dec();
        if std::thread::panicking() {
            self.metrics.panics.inc();
            tracing::error!(peer = %self.peer, "a session panicked and was ended; this is an error in the program");
        }
    }
}

impl<S: Stream> Connection<S> {
    /// Reads the PROXY header; what stands behind it stays in `input`.
    async fn proxy_header(&self, input: &mut Input) -> Result<Header, &'static str> {
        let reading = async {
            loop {
                match proxy::take(&mut input.bytes) {
                    Ok(Some(header)) => return Ok(header),
                    Ok(None) => {}
                    Err(error) => return Err(error.word()),
                }
                match input.read(&self.stream).await {
                    Ok(0) | Err(_) => return Err(ProxyError::Missing.word()),
                    Ok(octets) => self.shared.metrics.received_bytes.inc_by(octets as u64),
                };
            }
        };
        timeout(self.gate.listener.proxy_time, reading).await.unwrap_or(Err("proxy_time"))
    }

    fn proxied(&mut self, header: Header) -> Source {
        match header {
            Header::Proxied { client, server } => {
                tracing::debug!(proxy = %self.peer, peer = %client, "connection by a proxy");
                self.peer = canonical(client);
                self.local = server;
                Source::Connection
            }
            // A health check, or a client that the proxy knows nothing of: it has no rights by the proxy's address.
            Header::Own => Source::Unknown,
        }
    }

    fn turn_away(&self, turned: &Turned) {
        self.shared.turn_away(&self.gate, &self.stream, self.peer, turned);
    }

    /// The handshake of a listener where it comes first. What was read behind a PROXY header belongs to it.
    async fn secure(&mut self, input: &mut Input) -> bool {
        let early = std::mem::take(&mut input.bytes);
        secure(&self.shared, &self.gate, &mut self.stream, self.peer, early).await
    }
}

fn no_proxy(reason: &'static str) -> Turned {
    Turned { reason, reply: Reply::new(554, EnhancedCode::new(5, 7, 0), "a PROXY header must come first from here") }
}

/// Makes the handshake of a connection in clear; tells whether that went well.
async fn secure<S: Stream>(
    shared: &Shared,
    gate: &Gate,
    stream: &mut Wire<S>,
    peer: SocketAddr,
    early: BytesMut,
) -> bool {
    let Some(ListenerTls { acceptor, handshake_time, .. }) = &gate.listener.tls else { return false };
    let mut stage = shared.stage.subscribe();
    let made = tokio::select! {
        made = stream.secure(acceptor.config(), early, *handshake_time) => made,
        _ = stage.wait_for(|stage| *stage >= Stage::Ended) => return false,
    };
    if let Err(error) = made {
        shared.metrics.tls_failures.get_or_create(&Reason { reason: error.word() }).inc();
        let listener = &gate.listener.name;
        tracing::info!(listener, %peer, reason = error.word(), %error, "TLS handshake failed");
        return false;
    }
    if let Some(inside) = stream.inside()
        && let Some(facts) = inside.facts()
    {
        let kind = if inside.is_resumed() { "resumed" } else { "full" };
        let handshake = Handshake { version: facts.version.as_str(), kind };
        shared.metrics.tls_handshakes.get_or_create(&handshake).inc();
        tracing::debug!(%peer, tls = %facts, kind, "TLS");
    }
    true
}

/// The driver of one session.
struct Driver<S> {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    place: Place,
    stream: Wire<S>,
    session: Session,
    input: Input,
    transfer: Option<Transfer>,
    /// The client is told to begin its handshake, or will be.
    starting_tls: bool,
    /// What the client's certificate is good for.
    grant: Grant,
    login: Login,
    stage: watch::Receiver<Stage>,
}

/// Why the driver stopped waiting.
enum Woken {
    Input(io::Result<usize>),
    Deadline,
    Stage(Stage),
    Dawdling,
}

impl<S: Stream> Driver<S> {
    fn new(connection: Connection<S>, input: Input, source: Source) -> Self {
        let Connection { shared, gate, place, stream, peer, local } = connection;
        tracing::debug!(listener = gate.listener.name, %peer, "connected");
        let mut who = Peer { source, ..Peer::new(peer, local) };
        who.may_xclient = gate.listener.xclient_from.contains(peer.ip());
        let session = Session::new(gate.session.clone(), who, shared.clock.instant());
        let stage = shared.stage.subscribe();
        Self {
            shared,
            gate,
            place,
            stream,
            session,
            input,
            transfer: None,
            starting_tls: false,
            grant: Grant::default(),
            login: Login::default(),
            stage,
        }
    }

    /// Tells the session that the line is secured, if it is, and whom it knows by that.
    async fn secured(&mut self) {
        let Some(inside) = self.stream.inside() else { return };
        if let Some(facts) = inside.facts() {
            self.session.secured(facts, self.now());
        }
        self.session.tell_time(self.now(), self.shared.clock.now());
        if let (Some(certificate), Some(tls)) = (inside.peer_certificate(), &self.gate.listener.tls) {
            self.grant = tls.clients.judge(&certificate).cloned().unwrap_or_default();
            let Grant { relay, account } = &self.grant;
            tracing::debug!(peer = %self.peer(), names = ?certificate.names, relay, account, "client certificate");
        }
        Box::pin(self.meet()).await;
    }

    /// The handshake after STARTTLS.
    async fn start_tls(&mut self) {
        self.starting_tls = false;
        let peer = self.peer();
        match secure(&self.shared, &self.gate, &mut self.stream, peer, BytesMut::new()).await {
            true => self.secured().await,
            false => self.session.handshake_failed(),
        }
    }

    async fn run(&mut self) {
        let stage = *self.stage.borrow_and_update();
        self.heed(stage);
        self.secured().await;
        self.hear_early_talk().await;
        loop {
            self.feed();
            if let Some(reason) = self.settle().await {
                return self.end(reason).await;
            }
            // What came behind STARTTLS in clear is the session's to refuse, and never part of the handshake.
            if self.starting_tls && !self.input.is_empty() {
                continue;
            }
            if self.flush().await.is_err() {
                self.session.disconnected();
                continue;
            }
            // There is no deadline from the moment that 220 is out.
            if self.starting_tls && self.session.deadline().is_none() {
                self.start_tls().await;
                continue;
            }
            if self.session.wants_input() && !self.input.is_empty() {
                continue;
            }
            match self.wait().await {
                Woken::Input(Ok(octets)) if octets > 0 => {
                    self.shared.metrics.received_bytes.inc_by(octets as u64);
                    if self.transfer.is_some() && self.input.is_full() {
                        self.input.next = LARGE;
                    }
                }
                Woken::Input(_) => self.session.disconnected(),
                Woken::Deadline => self.session.expire(self.now()),
                Woken::Stage(stage) => self.heed(stage),
                Woken::Dawdling => self.make_way(),
            }
        }
    }

    fn now(&self) -> Instant {
        self.shared.clock.instant()
    }

    fn peer(&self) -> SocketAddr {
        self.session.peer().address
    }

    /// Input before the greeting counts against the client only if it is seen before the greeting goes out, so it is
    /// looked for.
    async fn hear_early_talk(&mut self) {
        if self.input.is_empty() && self.stream.has_input() {
            let _ = self.input.read(&self.stream).await;
        }
    }

    fn feed(&mut self) {
        if !self.input.is_empty() {
            let now = self.now();
            self.session.receive(&mut self.input.bytes, now);
        }
    }

    /// Handles events until the session waits; tells why it closed if it did.
    async fn settle(&mut self) -> Option<CloseReason> {
        while let Some(event) = self.session.next_event(self.now()) {
            let answer = match event {
                Event::Content(piece) => {
                    if let Some(transfer) = &mut self.transfer {
                        transfer.write(self.input.keepable(piece)).await;
                    }
                    continue;
                }
                Event::Hello(hello) => {
                    tracing::debug!(peer = %self.peer(), helo = hello.name, "greeted");
                    continue;
                }
                Event::Abort { .. } => {
                    self.take_transfer();
                    continue;
                }
                Event::Refused(refusal) => {
                    self.session_refused(refusal);
                    continue;
                }
                Event::Close(reason) => return Some(reason),
                Event::StartTls => {
                    match self.gate.listener.tls {
                        Some(_) => self.starting_tls = true,
                        None => self.session.tls_unavailable(self.now()),
                    }
                    continue;
                }
                Event::AuthCancelled => {
                    self.login.cancel();
                    continue;
                }
                Event::Authenticated(_) => {
                    self.authenticated();
                    continue;
                }
                Event::Auth { mechanism, initial } => Box::pin(self.auth(&mechanism, initial.as_deref())).await,
                Event::AuthResponse(response) => Box::pin(self.auth_step(Some(&response))).await,
                Event::Xclient(peer) => self.xclient(&peer),
                Event::Mail(sender) => self.sender(&sender).await,
                Event::Recipient(recipient) => self.recipient(&recipient).await,
                Event::Begin(begin) => self.begin(begin).await,
                Event::End(finished) => Answer::Reply(self.finish(*finished).await),
            };
            self.session.answer(answer, self.now());
        }
        None
    }

    fn session_refused(&self, refusal: Refusal) {
        self.shared.metrics.refused(refusal.label());
        let listener = &self.gate.listener.name;
        tracing::info!(listener, peer = %self.peer(), reason = refusal.label(), reply = refusal.line(), "refused");
    }

    /// The client speaks for another from here on, and counts for it.
    fn xclient(&mut self, peer: &Peer) -> Answer {
        tracing::debug!(gateway = %self.peer(), peer = %peer.address, "session by XCLIENT");
        self.login.forget();
        self.grant = Grant::default();
        self.place.unlocate();
        match self.shared.let_in(&self.gate, peer.address.ip(), &mut self.place) {
            Ok(()) => Answer::Accept,
            Err(Turned { reason, reply }) => {
                self.shared.metrics.connection_refused("xclient_limit");
                tracing::info!(peer = %peer.address, reason, %reply, "connection refused");
                Answer::Reply(reply)
            }
        }
    }

    /// Relay control.
    fn relayed(&self, recipient: &Recipient) -> Answer {
        let peer = self.peer();
        let client = match self.session.peer().source {
            _ if self.grant.relay || self.login.account().is_some() => Client::Trusted,
            Source::Unknown => Client::Stranger,
            Source::Connection | Source::Told => self.gate.standing(peer.ip()),
        };
        let verdict = self.gate.listener.relay.judge(client, &recipient.path);
        let Some(reply) = verdict.refusal(peer.ip()) else { return Answer::Accept };
        let reason = if verdict == Verdict::HiddenRoute { "hidden_route" } else { "relay_denied" };
        self.shared.metrics.refused(reason);
        let listener = &self.gate.listener.name;
        tracing::info!(listener, %peer, recipient = %recipient.path, reason, %reply, "refused");
        Answer::Reply(reply)
    }

    /// Content may come when there is memory and room for it.
    async fn begin(&mut self, begin: Begin) -> Answer {
        // Boxed, so that idle connections do not pay for its size.
        let beginning = Box::pin(Transfer::begin(
            &self.gate,
            &*self.shared.intake,
            self.peer().ip(),
            begin.expected,
            self.scrutiny(),
        ));
        match beginning.await {
            Ok(transfer) => {
                self.transfer = Some(transfer);
                self.input.next = begin.expected.map_or(MEDIUM, |size| {
                    // Dots and the end of the content want a little more than was announced.
                    usize::try_from(size).unwrap_or(LARGE).saturating_add(SLACK).clamp(SMALL, LARGE)
                });
                Answer::Accept
            }
            Err(refused) => {
                self.shared.metrics.message_refused(refused.reason);
                let (peer, reply) = (self.peer(), &refused.reply);
                tracing::info!(%peer, reason = refused.reason, %reply, "no room for a message");
                Answer::Reply(refused.reply)
            }
        }
    }

    /// Takes responsibility for a message. Whether the client still is there to hear of it makes no difference.
    async fn finish(&mut self, finished: Finished) -> Reply {
        let Some(transfer) = self.take_transfer() else {
            return Reply::new(451, EnhancedCode::new(4, 3, 0), "internal error, try again");
        };
        let (peer, size, helo) = (self.peer(), transfer.received(), finished.hello.name.clone());
        let sender = finished.transaction.sender.path.to_string();
        let recipients = finished.transaction.recipients.len();
        let accepted = Box::pin(self.accept(transfer, finished)).await;
        let metrics = &self.shared.metrics;
        match accepted {
            Ok(id) => {
                metrics.messages.inc();
                metrics.recipients.inc_by(recipients as u64);
                metrics.content_bytes.inc_by(size);
                tracing::debug!(message = %id, %peer, helo, sender, recipients, size, "message accepted");
                Reply::new(250, EnhancedCode::new(2, 0, 0), format!("{id} queued"))
            }
            Err(Refused { reply, reason, .. }) => {
                match reply.is_permanent() {
                    true => metrics.refused(reason),
                    false => metrics.message_refused(reason),
                }
                let account = self.session.account();
                tracing::info!(%peer, account, sender, recipients, size, reason, %reply, "message refused");
                reply
            }
        }
    }

    async fn accept(&mut self, mut transfer: Transfer, finished: Finished) -> Result<MessageId, Refused> {
        transfer.complete().await?;
        let sent = Sent::message(finished.transaction.recipients.len());
        let counted = self.count(sent).await?;
        let Shared { clock, ids, .. } = &*self.shared;
        let now = clock.now();
        let entrance = Entrance { listener: &self.gate.listener, peer: self.peer() };
        let envelope = entrance.envelope(finished, ids.next(now), now);
        let trace = entrance.trace(&envelope, self.hides_client(), &transfer.missing());
        let hold = counted.as_ref().and_then(Counted::hold);
        if hold.is_some() {
            self.shared.metrics.messages_held.inc();
        }
        let accepted = transfer.submit(envelope, trace, hold).await;
        if accepted.is_err() && counted.is_some() {
            self.take_back(sent).await;
        }
        accepted
    }

    /// The transfer is over; commands come next.
    fn take_transfer(&mut self) -> Option<Transfer> {
        self.input.next = SMALL;
        self.transfer.take()
    }

    /// Writes what the session says. A client that does not read is given the time of one command for the whole batch.
    async fn flush(&mut self) -> io::Result<()> {
        let mut output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        self.shared.metrics.sent_bytes.inc_by(output.len() as u64);
        let writing = async {
            while !output.is_empty() {
                match self.stream.try_write(&output) {
                    Ok(octets) => output.advance(octets),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                    Err(error) => return Err(error),
                }
            }
            while let Err(error) = self.stream.try_flush() {
                match error.kind() {
                    io::ErrorKind::WouldBlock => self.stream.writable().await?,
                    _ => return Err(error),
                }
            }
            Ok(())
        };
        timeout(self.gate.session.limits.command_time, writing).await?
    }

    /// Waits for something to do, without a buffer until there is input.
    async fn wait(&mut self) -> Woken {
        let left = self.session.deadline().map(|at| at.saturating_duration_since(self.now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Woken::Deadline;
        }
        tokio::select! {
            biased;
            changed = self.stage.changed() => match changed {
                Ok(()) => Woken::Stage(*self.stage.borrow_and_update()),
                Err(_) => Woken::Stage(Stage::Over),
            },
            read = self.input.read(&self.stream), if self.session.wants_input() => Woken::Input(read),
            () = tokio::time::sleep(left.unwrap_or(Duration::MAX)), if left.is_some() => Woken::Deadline,
            () = dawdling(&mut self.transfer), if self.transfer.is_some() => Woken::Dawdling,
        }
    }

    /// Others wait for the memory of this slow message.
    fn make_way(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.make_way();
            tracing::info!(peer = %self.session.peer().address, "a slow message makes way for others");
        }
    }

    /// The server ends.
    fn heed(&mut self, stage: Stage) {
        match stage {
            Stage::Open => {}
            Stage::Draining => self.session.drain(),
            Stage::Ended | Stage::Over => {
                let reply = Reply::new(421, EnhancedCode::new(4, 3, 2), "the server shuts down, come back later");
                self.session.refuse(&reply);
            }
        }
    }

    /// Writes the last reply, and sees to it that the client can read it: a socket that is closed with unread input is
    /// reset, and the reply may be lost with it.
    async fn end(&mut self, reason: CloseReason) {
        self.shared.metrics.closed(reason.label());
        tracing::debug!(peer = %self.peer(), reason = reason.label(), "closed");
        self.take_transfer();
        if self.flush().await.is_err() {
            return;
        }
        if matches!(reason, CloseReason::Quit | CloseReason::Disconnected) {
            if let Some(inside) = self.stream.inside() {
                // TLS wants its end announced (RFC 8446 §6.1); whether it is heard makes no difference.
                let _ = inside.finish();
            }
            return;
        }
        if self.stream.finish().is_err() {
            return;
        }
        let void = async {
            let mut octets = 0;
            while octets < LINGER_OCTETS {
                self.input.bytes.clear();
                match self.input.read(&self.stream).await {
                    Ok(0) | Err(_) => break,
                    Ok(more) => octets += more,
                }
            }
        };
        let _ = timeout(LINGER, void).await;
    }
}

async fn dawdling(transfer: &mut Option<Transfer>) {
    match transfer {
        Some(transfer) => transfer.dawdles().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<T, F>(_: impl Fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_costs_a_few_kilobytes() {
        let size = size(run::<tokio::net::TcpStream>);
        assert!(size <= 4096, "the task of a connection has {size} octets");
    }
}
