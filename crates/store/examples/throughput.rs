//! What the store costs: writers that commit messages at once, each message delivered a moment later.
//!
//! `cargo run --release -p store --example throughput -- [FOLDER] [SECONDS] [WRITERS] [OCTETS]`: 64 writers of 10 KiB for
//! 10 seconds by default. Prints messages per second, CPU time per message, the time a commit waits, and octets written to
//! the disk per octet stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{
    BodyKind, Destination, Envelope, ForwardPath, MessageIds, Notify, Origin, Randomness, Recipient, ReversePath,
    SystemClock, Timestamp,
};
use store::{Delivery, Metrics, NewMessage, Options, RealFiles, Schedule, Store, Update};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "throughput-store".into());
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (seconds, writers, octets) = (number(10), number(64), number(10 << 10));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    runtime.block_on(run(&folder, Duration::from_secs(seconds), writers, octets as usize));
}

async fn run(folder: &str, length: Duration, writers: u64, octets: usize) {
    let files = RealFiles::open(folder).expect("a folder");
    let randomness = Randomness::from_system();
    let store = Store::open(Options::default(), files, Arc::new(SystemClock), randomness.clone(), Metrics::default())
        .expect("a store");
    let ids = Arc::new(MessageIds::new(randomness));
    let waited = Arc::new(AtomicU64::new(0));
    let (begun, cpu, written) = (Instant::now(), cpu(), written());
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, ids, waited) = (store.clone(), ids.clone(), waited.clone());
            tokio::spawn(async move {
                let body = Bytes::from(vec![b'x'; octets]);
                let mut count = 0u64;
                while begun.elapsed() < length {
                    let asked = Instant::now();
                    let id = ids.next(Timestamp::from_millis(asked.duration_since(begun).as_millis() as u64));
                    commit(&store, id, body.clone()).await;
                    waited.fetch_add(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
                    count += 1;
                    let store = store.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        let state = Delivery { schedule: Schedule::Finished, ..delivery() };
                        store.record(vec![Update::Delivery { id, number: 0, state }]).await;
                    });
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("a writer");
    }
    let elapsed = begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("messages/s        {:.0}", count as f64 / elapsed);
    println!("CPU ms/message    {:.4}", (self::cpu() - cpu) * 1000.0 / count as f64);
    println!("ms per commit     {:.2}", waited.load(Ordering::Relaxed) as f64 / count as f64 / 1000.0);
    println!("disk/stored       {:.2}", (self::written() - written) as f64 / (count * octets as u64) as f64);
    println!("{:?}", store.status());
    store.close().await;
}

async fn commit(store: &Store, id: mail::MessageId, body: Bytes) {
    let mut content = store.intake(Some(body.len() as u64)).expect("intake");
    content.write(body).await.expect("content");
    let recipient = ForwardPath::Mailbox("user@example.org".parse().expect("an address"));
    let envelope = Envelope {
        id,
        received_at: id.timestamp(),
        reverse_path: ReversePath::Mailbox("sender@example.net".parse().expect("an address")),
        recipients: vec![Recipient { path: recipient, notify: Notify::Default, orcpt: None }],
        body: BodyKind::EightBitMime,
        utf8: false,
        ret: None,
        envid: None,
        origin: Origin::local(),
        tenant: None,
        campaign: None,
    };
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

/// Octets that this process had written to disks.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}
