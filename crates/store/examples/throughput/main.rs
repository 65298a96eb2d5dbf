//! What the store costs: writers that commit messages at once, each message delivered a moment later.
//!
//! `cargo run --release -p store --example throughput -- [store|bare [FOLDER [SECONDS [WRITERS [OCTETS]]]]]`: 64 writers of
//! 10 KiB for 10 seconds by default, into the store or into bare segments. Prints messages per second, CPU time per
//! message, what a commit waits, and what was written and synced for it. Octets are counted where they are handed to the
//! file system: Linux's own count per process (`/proc/self/io`) takes a whole folio of the page cache for each part of one
//! that is written, and so shows up to half more than reaches the disk when segments are used again.

mod bare;
mod counted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{
    BodyKind, Destination, Envelope, ForwardPath, MessageIds, Notify, Randomness, Recipient, ReversePath, SystemClock,
    Timestamp,
};
use store::{Delivery, Metrics, NewMessage, Options, RealFiles, Schedule, Store, Update};

use crate::bare::Bare;
use crate::counted::{Counted, Sums};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "store".into());
    let folder = arguments.next().unwrap_or_else(|| "throughput-store".into());
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (seconds, writers, octets) = (number(10), number(64), number(10 << 10));
    let files = Arc::new(Counted { files: RealFiles::open(folder).expect("a folder"), sums: Arc::default() });
    let sums = files.sums.clone();
    let disk = match what.as_str() {
        "store" => Disk::store(files),
        "bare" => Disk::Bare(Bare::start(files)),
        other => panic!("store or bare, not {other}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    runtime.block_on(run(disk, &sums, Duration::from_secs(seconds), writers, octets as usize));
}

/// Where messages go.
#[derive(Clone)]
enum Disk {
    Store { store: Store, ids: Arc<MessageIds> },
    Bare(Bare),
}

impl Disk {
    fn store(files: Arc<Counted<RealFiles>>) -> Self {
        let randomness = Randomness::from_system();
        let store =
            Store::open(Options::default(), files, Arc::new(SystemClock), randomness.clone(), Metrics::default());
        Self::Store { store: store.expect("a store"), ids: Arc::new(MessageIds::new(randomness)) }
    }

    /// Returns when the message is durable.
    async fn put(&self, at: Timestamp, body: Bytes) {
        match self {
            Self::Bare(bare) => bare.put(body).await,
            Self::Store { store, ids } => {
                let id = ids.next(at);
                commit(store, id, body).await;
                let store = store.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let state = Delivery { schedule: Schedule::Finished, ..delivery() };
                    store.record(vec![Update::Delivery { id, number: 0, state }]).await;
                });
            }
        }
    }
}

async fn run(disk: Disk, sums: &Sums, length: Duration, writers: u64, octets: usize) {
    let (begun, cpu, accounted) = (Instant::now(), cpu(), accounted());
    let (written, synced) = sums.get();
    let writer = |_| {
        let disk = disk.clone();
        tokio::spawn(async move {
            let body = Bytes::from(vec![b'x'; octets]);
            let mut waited = Vec::new();
            while begun.elapsed() < length {
                let asked = Instant::now();
                disk.put(Timestamp::from_millis(begun.elapsed().as_millis() as u64), body.clone()).await;
                waited.push(asked.elapsed());
            }
            waited
        })
    };
    let tasks: Vec<_> = (0..writers).map(writer).collect();
    let mut waited = Vec::new();
    for task in tasks {
        waited.extend(task.await.expect("a writer"));
    }
    let elapsed = begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(300)).await;
    waited.sort_unstable();
    let count = waited.len() as f64;
    let stored = count * octets as f64;
    let at = |part: usize| waited.get(waited.len() * part / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1000.0);
    let now = sums.get();
    println!("messages/s        {:.0}", count / elapsed);
    println!("CPU ms/message    {:.4}", (self::cpu() - cpu) * 1000.0 / count);
    println!("commit ms p50     {:.2}", at(50));
    println!("commit ms p99     {:.2}", at(99));
    println!("written/stored    {:.3}", (now.0 - written) as f64 / stored);
    println!("accounted/stored  {:.2}", (self::accounted() - accounted) as f64 / stored);
    println!("syncs/message     {:.4}", (now.1 - synced) as f64 / count);
    if let Disk::Store { store, .. } = disk {
        println!("{:?}", store.status());
        store.close().await;
    }
}

async fn commit(store: &Store, id: mail::MessageId, body: Bytes) {
    let mut content = store.intake(Some(body.len() as u64)).expect("intake");
    content.write(body).await.expect("content");
    let recipient = ForwardPath::Mailbox("user@example.org".parse().expect("an address"));
    let recipients = [Recipient { path: recipient, notify: Notify::Default, orcpt: None }];
    let sender = ReversePath::Mailbox("sender@example.net".parse().expect("an address"));
    let envelope = Envelope { body: BodyKind::EightBitMime, ..Envelope::new(id, id.timestamp(), sender, recipients) };
    let trace =
        Bytes::from_static(b"Received: from client.example by server.example; Sat, 21 Nov 2026 09:30:00 +0000\r\n");
    let message = NewMessage { id, envelope: envelope.into(), trace, content, deliveries: vec![delivery()] };
    store.commit(message, Vec::new()).await.expect("a commit");
}

fn delivery() -> Delivery {
    Delivery::new(Destination::new("mx:example.org"), [0], Timestamp::from_millis(0))
}

/// Seconds of CPU time of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Linux counts 100 ticks a second wherever this runs.
    (ticks(11) + ticks(12)) / 100.0
}

/// Octets that this process had written to disks, as Linux accounts for them.
fn accounted() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}
