//! A reception over an inbox instead of a queue, and a client that talks to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use directory::Directory;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mail::{
    Act, Domain, EnhancedCode, Envelope, Event, MessageId, MessageIds, Observer, Randomness, Reply, SystemClock,
};
use reception::{Draft, Drained, Intake, Listener, Metrics, Parts, Reception, Refused, Relay, Settings};
use smtp::server::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};

/// However slow the machine is, whatever a test waits for comes earlier.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message as the inbox got it.
pub struct Arrived {
    pub envelope: Envelope,
    pub hold: Option<Act>,
    pub trace: String,
    pub content: String,
}

/// Takes messages instead of the store and the queue.
pub struct Inbox {
    arrived: mpsc::UnboundedSender<Arrived>,
    /// What `begin` answers with; cleared to resume.
    pub refusal: Mutex<Option<Refused>>,
    /// What `submit` answers with.
    pub submit_refusal: Mutex<Option<Refused>>,
    /// One permit lets one submit pass.
    pub gate: Semaphore,
    /// Told when a submit waits at the gate.
    pub waiting: Semaphore,
    pub panics: AtomicBool,
}

/// A refusal of the store.
pub fn refused(passing: bool) -> Refused {
    let reply = Reply::new(452, EnhancedCode::new(4, 3, 1), "disk full");
    Refused { reply, reason: "space", passing }
}

pub struct InboxIntake(Arc<Inbox>);

impl Intake for InboxIntake {
    fn begin(&self, _: Option<u64>) -> Result<Box<dyn Draft>, Refused> {
        assert!(!self.0.panics.load(Ordering::Relaxed), "the inbox panics when told to");
        match &*self.0.refusal.lock().unwrap() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Box::new(InboxDraft { inbox: self.0.clone(), content: Vec::new() })),
        }
    }
}

struct InboxDraft {
    inbox: Arc<Inbox>,
    content: Vec<u8>,
}

impl Draft for InboxDraft {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), Refused>> {
        self.content.extend(&piece);
        async { Ok(()) }.boxed()
    }

    fn submit(
        self: Box<Self>,
        envelope: Envelope,
        trace: Bytes,
        hold: Option<Act>,
    ) -> BoxFuture<'static, Result<MessageId, Refused>> {
        async move {
            self.inbox.waiting.add_permits(1);
            self.inbox.gate.acquire().await.unwrap().forget();
            if let Some(refusal) = &*self.inbox.submit_refusal.lock().unwrap() {
                return Err(refusal.clone());
            }
            let id = envelope.id;
            let trace = String::from_utf8(trace.to_vec()).unwrap();
            let content = String::from_utf8(self.content).unwrap();
            self.inbox.arrived.send(Arrived { envelope, hold, trace, content }).unwrap();
            Ok(id)
        }
        .boxed()
    }
}

/// A reception that listens at loopback.
pub struct Server {
    pub reception: Reception,
    pub metrics: Metrics,
    pub inbox: Arc<Inbox>,
    pub facts: Facts,
    arrived: mpsc::UnboundedReceiver<Arrived>,
}

/// A listener that takes mail for `example.org` and `*.example.org`.
pub fn listener() -> Listener {
    let relay = Relay {
        domains: ["example.org", "*.example.org"].iter().map(|text| text.parse().unwrap()).collect(),
        ..Relay::default()
    };
    let session = Config::new(Domain::parse("mx.example.org").unwrap());
    Listener::new("mx", "127.0.0.1:0".parse().unwrap(), session, relay)
}

/// One such listener.
pub fn settings() -> Settings {
    Settings::new(vec![listener()])
}

/// Takes messages into `intake`.
pub fn bind(intake: Arc<dyn Intake>, metrics: Metrics, settings: Settings) -> Reception {
    let directory = Directory::new(directory::Metrics::default());
    bind_with(intake, metrics, settings, directory, Arc::new(()))
}

/// The same, for accounts, and with somebody who listens to facts.
pub fn bind_with(
    intake: Arc<dyn Intake>,
    metrics: Metrics,
    settings: Settings,
    directory: Directory,
    observer: Arc<dyn Observer>,
) -> Reception {
    let ids = Arc::new(MessageIds::new(Randomness::from_system()));
    let parts = Parts { intake, clock: Arc::new(SystemClock), ids, metrics, directory, observer };
    let reception = Reception::new(parts);
    reception.bind(settings).unwrap();
    reception
}

/// Keeps all facts.
#[derive(Clone, Default)]
pub struct Facts(Arc<Mutex<Vec<Event>>>);

impl Facts {
    pub fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Facts {
    fn observe(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Server {
    pub fn start(settings: Settings) -> Self {
        let server = Self::bound(settings);
        server.serve();
        server
    }

    /// Listening, but not accepting.
    pub fn bound(settings: Settings) -> Self {
        Self::bound_with(settings, Directory::new(directory::Metrics::default()))
    }

    /// For these accounts.
    pub fn start_with(settings: Settings, directory: Directory) -> Self {
        let server = Self::bound_with(settings, directory);
        server.serve();
        server
    }

    fn bound_with(settings: Settings, directory: Directory) -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        let inbox = Arc::new(Inbox {
            arrived: sender,
            refusal: Mutex::default(),
            submit_refusal: Mutex::default(),
            gate: Semaphore::new(1_000_000),
            waiting: Semaphore::new(0),
            panics: AtomicBool::new(false),
        });
        let metrics = Metrics::default();
        let (intake, facts) = (Arc::new(InboxIntake(inbox.clone())), Facts::default());
        let reception = bind_with(intake, metrics.clone(), settings, directory, Arc::new(facts.clone()));
        Self { reception, metrics, inbox, facts, arrived }
    }

    pub fn serve(&self) {
        let reception = self.reception.clone();
        tokio::spawn(async move { reception.serve().await });
    }

    pub fn address(&self) -> SocketAddr {
        self.reception.local_addresses()[0]
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// The next message in the inbox.
    pub async fn arrived(&mut self) -> Arrived {
        within(self.arrived.recv()).await.unwrap()
    }

    pub fn nothing_arrived(&mut self) -> bool {
        self.arrived.try_recv().is_err()
    }

    /// No submit passes until the test lets it.
    pub fn close_gate(&self) {
        self.inbox.gate.forget_permits(usize::MAX);
    }

    /// A submit has come to the gate.
    pub async fn submit_waits(&self) {
        within(self.inbox.waiting.acquire()).await.unwrap().forget();
    }

    pub fn count(&self, family: impl Fn(&Metrics) -> &Counts, reason: &'static str) -> u64 {
        family(&self.metrics).get_or_create(&reception::Reason { reason }).get()
    }

    pub async fn drain(&self, limit: Duration) -> Drained {
        within(self.reception.drain(limit)).await
    }
}

pub type Counts =
    prometheus_client::metrics::family::Family<reception::Reason, prometheus_client::metrics::counter::Counter>;

/// An SMTP client that fails the test when it waits too long.
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: within(TcpStream::connect(address)).await.unwrap(), read: Vec::new() }
    }

    /// From another address of this machine.
    pub async fn connect_from(from: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        Self { stream: within(socket.connect(address)).await.unwrap(), read: Vec::new() }
    }

    pub async fn say(&mut self, text: impl AsRef<[u8]>) {
        within(self.stream.write_all(text.as_ref())).await.unwrap();
    }

    /// The next reply, all of its lines.
    pub async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let line = self.line().await;
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// The next line, with its end; empty when the server has closed.
    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.read.split_off(end + 2);
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            if !matches!(within(self.stream.read_buf(&mut self.read)).await, Ok(octets) if octets > 0) {
                return String::new();
            }
        }
    }

    pub async fn expect(&mut self, start: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(start), "expected {start}, got {reply:?}");
        reply
    }

    pub async fn ask(&mut self, command: &str, expected: &str) -> String {
        self.say(format!("{command}\r\n")).await;
        self.expect(expected).await
    }

    /// Greeted, EHLO said.
    pub async fn greeted(mut self) -> Self {
        self.expect("220 ").await;
        self.ask("EHLO client.example", "250-").await;
        self
    }

    /// A transaction up to 354.
    pub async fn in_data(mut self) -> Self {
        self.ask("MAIL FROM:<a@client.example>", "250 ").await;
        self.ask("RCPT TO:<b@example.org>", "250 ").await;
        self.ask("DATA", "354 ").await;
        self
    }

    /// The connection, of which everything was read.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.read.is_empty(), "{:?}", self.read);
        self.stream
    }

    /// What else comes, up to the end.
    pub async fn rest(&mut self) -> String {
        while matches!(within(self.stream.read_buf(&mut self.read)).await, Ok(octets) if octets > 0) {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Whether the server has said something that was not read yet.
    pub fn has_input(&self) -> bool {
        !self.read.is_empty() || self.stream.try_read(&mut [0]).is_ok()
    }

    /// Nothing more comes.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.line().await, "");
    }

    /// Sends until the server takes no more, at most `octets`.
    pub async fn flood(&mut self, text: &[u8], octets: usize) {
        let mut sent = 0;
        while sent < octets && within(self.stream.write_all(text)).await.is_ok() {
            sent += text.len();
        }
    }
}

/// What must happen happens within the patience of the test.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this does not take so long")
}

/// Waits until it holds.
pub async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
