//! The room as a whole: listeners that come and go, sessions that outlive them, and the end.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use directory::Directory;
use futures_util::FutureExt;
use mail::{Clock, EnhancedCode, MessageIds, Observer, Reply};
use smtp::server::Config;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bans::BanSettings;
use crate::books::Books;
use crate::bound::{self, ReceptionError};
use crate::budget::Budget;
use crate::connections::{Connections, Full, Place};
use crate::driver::{self, Connection};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::relay::Client;
use crate::settings::{Listener, Role, Settings, Socket};
use crate::stream::Stream;
use crate::submission::Submission;
use crate::tls::Wire;

/// How long the accepting of connections pauses when the operating system has no more files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The most connections that are still accepted when a listener closes: about as many as wait in its line.
const LAST_ACCEPTED: usize = 1024;
/// How long sessions that were told to end may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What receiving needs from the rest of the house.
pub struct Parts {
    /// Takes the messages.
    pub intake: Arc<dyn Intake>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names for messages.
    pub ids: Arc<MessageIds>,
    /// Counters.
    pub metrics: Metrics,
    /// Who has accounts.
    pub directory: Directory,
    /// Listens to facts about clients and accounts.
    pub observer: Arc<dyn Observer>,
}

/// Takes connections at all listeners; clones share it.
///
/// ```text
/// new ─► bind ─► serve ─────────────► (drained)
///                  ▲ reconfigure        ▲ drain
/// ```
#[derive(Clone)]
pub struct Reception(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) intake: Arc<dyn Intake>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<MessageIds>,
    pub(crate) metrics: Metrics,
    pub(crate) directory: Directory,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) books: OnceLock<Books>,
    pub(crate) stage: watch::Sender<Stage>,
    connections: Connections,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Sessions begin and go on.
    Open,
    /// Sessions end as soon as no transaction is open.
    Draining,
    /// Sessions end now.
    Ended,
    /// Nobody waits for sessions any more.
    Over,
}

#[derive(Default)]
struct State {
    bounds: Vec<Bound>,
    serving: bool,
    budget: Option<(u64, Arc<Budget>)>,
}

/// A listener, with its socket if it is for us to accept connections. To drop it is to close it.
struct Bound {
    socket: Socket,
    local: SocketAddr,
    gate: watch::Sender<Arc<Gate>>,
    /// Until it is served.
    listener: Option<TcpListener>,
    accepting: Option<JoinHandle<()>>,
}

/// What a connection meets: the settings of its listener at the time it came.
pub(crate) struct Gate {
    pub(crate) listener: Listener,
    pub(crate) session: Arc<Config>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) patience: Duration,
    pub(crate) submission: Arc<Submission>,
    pub(crate) bans: Arc<BanSettings>,
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were open when it began.
    pub open: usize,
    /// Sessions of these that were cut in a transaction when the limit was reached. Nothing accepted is lost by that.
    pub cut: usize,
}

impl Reception {
    /// Listens nowhere yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { intake, clock, ids, metrics, directory, observer } = parts;
        let connections = Connections::new(Default::default());
        let stage = watch::Sender::new(Stage::Open);
        let books = OnceLock::new();
        let shared = Arc::new(Shared { intake, clock, ids, metrics, directory, observer, books, stage, connections });
        Self(Arc::new(Inner { shared, state: Mutex::default() }))
    }

    /// Opens all listeners, while the process may still bind low ports. Nothing is accepted before [`serve`](Self::serve).
    /// An error means that nothing was opened.
    pub fn bind(&self, settings: Settings) -> Result<(), ReceptionError> {
        self.put_in_force(settings)
    }

    /// Accepts connections until [`drain`](Self::drain) is over. Needs a Tokio runtime with time and I/O.
    pub async fn serve(&self) {
        {
            let mut state = self.state();
            state.serving = true;
            for bound in &mut state.bounds {
                bound.start(&self.0.shared);
            }
        }
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.shared.stage.subscribe().wait_for(|stage| *stage == Stage::Over).await;
    }

    /// Puts new settings in force: all of them, or, with an error, none. Sessions that are open keep the settings they
    /// began with. A listener whose address stays keeps its socket; new addresses are bound before vanished ones close, so
    /// an address that conflicts with a vanishing one (`0.0.0.0:25` for `192.0.2.1:25`) needs a restart. Once
    /// [`serve`](Self::serve) was called this needs its runtime.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), ReceptionError> {
        self.put_in_force(settings)
    }

    /// Takes a connection that somebody else accepted for a listener ([`Socket::Elsewhere`], or any other). `local` is our
    /// address as the client sees it. Needs a Tokio runtime with time.
    pub fn take<S: Stream>(
        &self,
        listener: &str,
        stream: S,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<(), ReceptionError> {
        let gate = {
            let state = self.state();
            state.bounds.iter().map(|bound| bound.gate.borrow().clone()).find(|gate| gate.listener.name == listener)
        };
        let gate = gate.ok_or_else(|| ReceptionError::NoListener { name: listener.to_owned() })?;
        self.0.shared.admit(gate, stream, peer, local);
        Ok(())
    }

    /// Where it listens, in the order of the settings; ports that were 0 are real ones here.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.state().bounds.iter().map(|bound| bound.local).collect()
    }

    /// Ends: closes all listeners, sends idle clients away with 421 4.3.2, lets open transactions finish for `limit`, then
    /// ends them with 421 too. A message whose commit is under way is still acknowledged. [`serve`](Self::serve) returns
    /// when this does.
    pub async fn drain(&self, limit: Duration) -> Drained {
        let shared = &self.0.shared;
        shared.advance(Stage::Draining);
        let bounds = std::mem::take(&mut self.state().bounds);
        let accepting: Vec<_> = bounds.into_iter().filter_map(|bound| bound.accepting).collect();
        for task in accepting {
            let _ = task.await;
        }
        let open = shared.connections.open();
        let mut cut = 0;
        if tokio::time::timeout(limit, shared.connections.all_gone()).await.is_err() {
            cut = shared.connections.open();
            tracing::info!(sessions = cut, "drain limit reached, ending sessions in the middle of a transaction");
            shared.advance(Stage::Ended);
            let _ = tokio::time::timeout(LAST_WORDS, shared.connections.all_gone()).await;
        }
        shared.advance(Stage::Over);
        Drained { open, cut }
    }

    fn put_in_force(&self, settings: Settings) -> Result<(), ReceptionError> {
        check(&settings)?;
        let mut state = self.state();
        if *self.0.shared.stage.borrow() != Stage::Open {
            return Err(ReceptionError::Drained);
        }
        let plan = Plan::make(&state.bounds, &settings.listeners)?;

        // From here on nothing can fail.
        self.0.shared.connections.limit(settings.connections.clone());
        let budget = state.budget(settings.in_flight, &self.0.shared.metrics);
        let mut old: Vec<_> = std::mem::take(&mut state.bounds).into_iter().map(Some).collect();
        let (submission, bans) = (Arc::new(settings.submission), Arc::new(settings.bans));
        for (listener, source) in settings.listeners.into_iter().zip(plan.0) {
            let gate = Arc::new(Gate {
                session: Arc::new(listener.session.clone()),
                listener,
                budget: budget.clone(),
                patience: settings.patience,
                submission: submission.clone(),
                bans: bans.clone(),
            });
            let mut bound = match source {
                Origin::Kept(at) => match old[at].take() {
                    Some(bound) => bound.with(gate),
                    None => continue,
                },
                Origin::Opened(listener, local) => Bound::new(listener, local, gate),
            };
            if state.serving {
                bound.start(&self.0.shared);
            }
            state.bounds.push(bound);
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cannot be right whatever the machine looks like.
fn check(settings: &Settings) -> Result<(), ReceptionError> {
    for (at, listener) in settings.listeners.iter().enumerate() {
        if settings.listeners[..at].iter().any(|other| other.name == listener.name) {
            return Err(ReceptionError::Name { name: listener.name.clone() });
        }
        let port = listener.socket.address().map_or(0, |address| address.port());
        if !bound::port_allows(listener.session.protocol, port) {
            let hostname = listener.session.hostname.clone();
            return Err(ReceptionError::LmtpPort { name: listener.name.clone(), hostname });
        }
    }
    Ok(())
}

/// Where each new listener's socket comes from.
struct Plan(Vec<Origin>);

enum Origin {
    /// The bound socket at this place.
    Kept(usize),
    /// A fresh one.
    Opened(Option<TcpListener>, SocketAddr),
}

impl Plan {
    fn make(bounds: &[Bound], listeners: &[Listener]) -> Result<Self, ReceptionError> {
        let mut free: Vec<bool> = vec![true; bounds.len()];
        let mut plan = Vec::with_capacity(listeners.len());
        for Listener { name, socket, .. } in listeners {
            if let Some(at) = (0..bounds.len()).find(|at| free[*at] && bounds[*at].socket.is_same(socket)) {
                free[at] = false;
                plan.push(Origin::Kept(at));
                continue;
            }
            let (listener, local) = bound::open(name, socket)?;
            plan.push(Origin::Opened(listener, local));
        }
        Ok(Self(plan))
    }
}

impl State {
    /// The budget in force, or a new one when its size changed: shares of the old one live on beside it until their
    /// transactions end.
    fn budget(&mut self, octets: u64, metrics: &Metrics) -> Arc<Budget> {
        match &self.budget {
            Some((size, budget)) if *size == octets => budget.clone(),
            _ => {
                let budget = Budget::new(octets, metrics.in_flight_bytes.clone(), metrics.in_flight_waits.clone());
                self.budget = Some((octets, budget.clone()));
                budget
            }
        }
    }
}

impl Gate {
    /// Whether connections from `address` count for that address and its network: not for the operator's own clients, and
    /// not for gateways, which will say for whom they speak.
    pub(crate) fn counts(&self, address: IpAddr) -> bool {
        !self.listener.relay.networks.contains(address) && !self.listener.xclient_from.contains(address)
    }

    /// What a client without account is, by its address.
    pub(crate) fn standing(&self, address: IpAddr) -> Client {
        match self.listener.role {
            Role::Relay | Role::Internal if self.listener.relay.networks.contains(address) => Client::Trusted,
            _ => Client::Stranger,
        }
    }

    /// The refusal for a client at `address` that has no business here. Gateways may come in and say for whom they speak.
    pub(crate) fn closed_to(&self, address: IpAddr) -> Option<Turned> {
        let stranger = self.listener.role == Role::Internal && self.standing(address) == Client::Stranger;
        let reply =
            || Reply::new(554, EnhancedCode::new(5, 7, 1), format!("{} may not send here", address.to_canonical()));
        (stranger && !self.listener.xclient_from.contains(address))
            .then(|| Turned { reason: "internal", reply: reply() })
    }

    /// Whether clients begin with a TLS handshake.
    pub(crate) fn is_implicit(&self) -> bool {
        self.listener.tls.as_ref().is_some_and(|tls| tls.implicit)
    }
}

impl Bound {
    fn new(listener: Option<TcpListener>, local: SocketAddr, gate: Arc<Gate>) -> Self {
        let socket = gate.listener.socket.clone();
        Self { socket, local, gate: watch::Sender::new(gate), listener, accepting: None }
    }

    fn with(self, gate: Arc<Gate>) -> Self {
        self.gate.send_replace(gate);
        self
    }

    fn start(&mut self, shared: &Arc<Shared>) {
        if let Some(listener) = self.listener.take() {
            let accept =
                Accept { shared: shared.clone(), gate: self.gate.subscribe(), local: self.local, starved: false };
            self.accepting = Some(tokio::spawn(accept.run(listener)));
        }
    }
}

impl Shared {
    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let later = to > *stage;
            *stage = to.max(*stage);
            later
        });
    }

    /// Begins a session, if the limits allow it.
    fn admit<S: Stream>(self: &Arc<Self>, gate: Arc<Gate>, stream: S, peer: SocketAddr, local: SocketAddr) {
        let peer = canonical(peer);
        self.metrics.connections.inc();
        let mut place = match self.connections.enter() {
            Ok(place) => place,
            Err(full) => return self.turn_away(&gate, &stream, peer, &full.into()),
        };
        // A proxy is no client: who is behind it will be judged.
        if !gate.listener.proxy_from.contains(peer.ip())
            && let Err(turned) = self.let_in(&gate, peer.ip(), &mut place)
        {
            return self.turn_away(&gate, &stream, peer, &turned);
        }
        tokio::spawn(driver::run(Connection {
            shared: self.clone(),
            gate,
            place,
            stream: Wire::Clear(stream),
            peer,
            local,
        }));
    }

    /// Judges a client whose address is known, and counts its connection.
    pub(crate) fn let_in(&self, gate: &Gate, address: IpAddr, place: &mut Place) -> Result<(), Turned> {
        if let Some(turned) = self.banned(gate, address).or_else(|| gate.closed_to(address)) {
            return Err(turned);
        }
        match gate.counts(address) {
            true => place.locate(address).map_err(Turned::from),
            false => Ok(()),
        }
    }

    /// The refusal of a banned client. Bans for failed logins count where there are logins; those by hand, everywhere.
    pub(crate) fn banned(&self, gate: &Gate, address: IpAddr) -> Option<Turned> {
        let ban = self.books().bans.on(address, self.clock.now())?;
        let logins = !gate.session.auth.mechanisms.is_empty() && !gate.bans.spared.contains(address);
        let counts = !ban.is_for_failures() || logins;
        counts.then(|| Turned { reason: "banned", reply: ban.reply(address) })
    }

    /// The reply that ends the session of a client whom an operator has banned.
    pub(crate) fn banned_by_hand(&self, address: IpAddr) -> Option<Reply> {
        let ban = self.books().bans.on(address, self.clock.now()).filter(|ban| !ban.is_for_failures())?;
        // RFC 5321 §3.8: only 421 ends a session that has begun.
        Some(Reply::new(421, EnhancedCode::new(4, 7, 1), ban.reply(address).text()))
    }

    pub(crate) fn books(&self) -> &Books {
        self.books.get_or_init(|| Books::in_memory(&self.metrics))
    }

    /// Says why and closes. The reply fits any fresh socket's buffer, so nobody waits. A client that waits for a TLS
    /// handshake would not understand it, and is told nothing.
    pub(crate) fn turn_away(&self, gate: &Gate, stream: &impl Stream, peer: SocketAddr, turned: &Turned) {
        let Turned { reason, reply } = turned;
        if !gate.is_implicit() {
            let mut line = Vec::new();
            reply.write_to(&mut line);
            let sent = stream.say(&line).unwrap_or(0);
            self.metrics.sent_bytes.inc_by(sent as u64);
        }
        self.metrics.connection_refused(reason);
        tracing::info!(%peer, reason, %reply, "connection refused");
    }
}

/// Why a connection is refused before its session.
pub(crate) struct Turned {
    /// A word for logs and metrics.
    pub(crate) reason: &'static str,
    pub(crate) reply: Reply,
}

impl From<Full> for Turned {
    fn from(full: Full) -> Self {
        Self { reason: full.word(), reply: full.reply() }
    }
}

/// Accepts the connections of one listener.
struct Accept {
    shared: Arc<Shared>,
    gate: watch::Receiver<Arc<Gate>>,
    local: SocketAddr,
    /// Whether the operating system gives no connections, which was logged.
    starved: bool,
}

impl Accept {
    /// Until the [`Bound`] is dropped.
    async fn run(mut self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(address = %self.local, %error, "cannot accept connections"),
        };
        tracing::info!(listener = self.gate.borrow().listener.name, address = %self.local, "listening");
        loop {
            tokio::select! {
                biased;
                // First: in a flood there is always somebody to accept.
                changed = self.gate.changed() => if changed.is_err() { break },
                accepted = listener.accept() => self.accepted(accepted).await,
            }
        }
        // Whoever was in the queue of the operating system has been told that there is a connection.
        for _ in 0..LAST_ACCEPTED {
            let Some(Ok(accepted)) = listener.accept().now_or_never() else { break };
            self.accepted(Ok(accepted)).await;
        }
        tracing::info!(address = %self.local, "no longer listening");
    }

    async fn accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, peer)) => {
                if std::mem::take(&mut self.starved) {
                    tracing::info!(address = %self.local, "accepting connections again");
                }
                self.admit(stream, peer);
            }
            // The client went before we came: nothing of ours is wrong (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                self.shared.metrics.accept_errors.inc();
                if !std::mem::replace(&mut self.starved, true) {
                    tracing::warn!(address = %self.local, %error, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        // Asked only where the listener does not know.
        let local = match self.local.ip().is_unspecified() {
            true => stream.local_addr().unwrap_or(self.local),
            false => self.local,
        };
        let gate = self.gate.borrow().clone();
        self.shared.admit(gate, stream, peer, local);
    }
}

/// An IPv4 client of a socket for both families, as a socket handed in may be, is an IPv4 client.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
