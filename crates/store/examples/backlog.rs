//! Makes a backlog: deferred deliveries of small messages, through the store's face, as fast as it takes them.
//!
//! `cargo run --release -p store --example backlog -- FOLDER MESSAGES DOMAINS DUE [FIRST]`: as many messages of about 500
//! octets, one recipient each, in turn for `d0.example` to `d(DOMAINS-1).example` (destinations `mx:dN.example`), tried once
//! and due at DUE (seconds since 1970; `+N` for N seconds from now). FIRST of them go to `d0.example` alone. A store that is
//! there already gets them in addition.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{
    Clock, Destination, EnhancedCode, Envelope, Fault, ForwardPath, MessageIds, Randomness, Recipient, ReversePath,
    SystemClock, Timestamp,
};
use store::{Delivery, IntakeError, Metrics, NewMessage, Options, RealFiles, Store};

const USAGE: &str = "backlog FOLDER MESSAGES DOMAINS DUE [FIRST]";
/// Commits that wait at once: as many share a sync.
const WRITERS: u64 = 1024;

struct Job {
    store: Store,
    ids: MessageIds,
    body: Bytes,
    messages: u64,
    domains: u64,
    due: Timestamp,
    first: u64,
    done: AtomicU64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, numbers @ ..] = arguments.as_slice() else { panic!("{USAGE}") };
    let number = |at: usize| numbers.get(at).map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{USAGE}")));
    let (Some(messages), Some(domains), Some(due)) = (number(0), number(1), numbers.get(2).and_then(|text| due(text)))
    else {
        panic!("{USAGE}")
    };
    let files = RealFiles::open(folder).expect("the folder can be used");
    let randomness = Randomness::from_system();
    let store = Store::open(Options::default(), files, Arc::new(SystemClock), randomness.clone(), Metrics::default())
        .expect("the store opens");
    let job = Arc::new(Job {
        store,
        ids: MessageIds::new(randomness),
        body: body(),
        messages,
        domains: domains.max(1),
        due,
        first: number(3).unwrap_or(0),
        done: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    runtime.block_on(run(job));
}

/// A time in seconds since 1970, or from now.
fn due(text: &str) -> Option<Timestamp> {
    match text.strip_prefix('+') {
        Some(seconds) => Some(SystemClock.now() + Duration::from_secs(seconds.parse().ok()?)),
        None => Some(Timestamp::from_millis(text.parse::<u64>().ok()?.saturating_mul(1000))),
    }
}

async fn run(job: Arc<Job>) {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let job = job.clone();
        tasks.spawn(async move {
            for number in (writer..job.messages).step_by(WRITERS as usize) {
                commit(&job, number).await;
                job.done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut told = tokio::time::interval(Duration::from_secs(2));
    let mut before = 0;
    while !tasks.is_empty() {
        tokio::select! {
            Some(task) = tasks.join_next() => task.expect("a writer"),
            _ = told.tick() => {
                let done = job.done.load(Ordering::Relaxed);
                let rate = (done - before) / 2;
                before = done;
                eprintln!("{done} of {} messages, {rate} a second", job.messages);
            }
        }
    }
    let rate = job.messages as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{} messages, {rate:.0} a second", job.messages);
    job.store.clone().close().await;
    eprintln!("{:?}", job.store.status());
}

async fn commit(job: &Job, number: u64) {
    let mut content = loop {
        match job.store.intake(Some(job.body.len() as u64)) {
            Ok(content) => break content,
            Err(IntakeError::Lag | IntakeError::Memory) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("the store takes nothing: {error}"),
        }
    };
    content.write(job.body.clone()).await.expect("content is taken");
    let domain = if number < job.first { 0 } else { number % job.domains };
    let received_at = SystemClock.now();
    let id = job.ids.next(received_at);
    let recipient = format!("user{}@d{domain}.example", number % 1000);
    let envelope = Envelope::new(
        id,
        received_at,
        ReversePath::Mailbox("sender@example.net".parse().expect("an address")),
        vec![Recipient::new(ForwardPath::Mailbox(recipient.parse().expect("an address")))],
    );
    let destination = Destination::new(format!("mx:d{domain}.example"));
    let fault = Fault::local(451, EnhancedCode::new(4, 4, 1), "No host could be reached");
    let delivery = Delivery { attempts: 1, last: Some(fault), ..Delivery::new(destination, [0], job.due) };
    let trace =
        Bytes::from_static(b"Received: from client.example by server.example; Sat, 21 Nov 2026 09:30:00 +0000\r\n");
    let message = NewMessage { id, envelope: envelope.into(), trace, content, deliveries: vec![delivery] };
    job.store.commit(message, Vec::new()).await.expect("a commit");
    // It was tried already: nothing of it belongs into memory.
    job.store.forget_content(id);
}

fn body() -> Bytes {
    let header = "From: sender@example.net\r\nTo: undisclosed-recipients:;\r\nSubject: backlog\r\n\r\n";
    let line = "This message waits for its host to come back. 0123456789\r\n";
    Bytes::from(format!("{header}{}", line.repeat(6)))
}
