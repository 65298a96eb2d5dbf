//! What the store costs: writers that commit messages at once, each message delivered a moment later.
//!
//! `cargo run --release -p store --example throughput -- [FOLDER] [SECONDS] [WRITERS] [OCTETS]`: 64 writers of 10 KiB for
//! 10 seconds by default. Prints messages per second, CPU time per message, what a commit waits, and what was written and
//! synced for it. Octets are counted where the store hands them to the file system: Linux's own count per process
//! (`/proc/self/io`) takes a whole folio of the page cache for each part of one that is written, and so shows up to half
//! more than reaches the disk when segments are used again.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{
    BodyKind, Destination, Envelope, ForwardPath, MessageIds, Notify, Randomness, Recipient, ReversePath, SystemClock,
    Timestamp,
};
use store::{Delivery, File, Files, Metrics, NewMessage, Options, RealFiles, Schedule, Space, Store, Update};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "throughput-store".into());
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (seconds, writers, octets) = (number(10), number(64), number(10 << 10));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    runtime.block_on(run(&folder, Duration::from_secs(seconds), writers, octets as usize));
}

async fn run(folder: &str, length: Duration, writers: u64, octets: usize) {
    let files = Arc::new(Counted { files: RealFiles::open(folder).expect("a folder"), sums: Arc::default() });
    let sums = files.sums.clone();
    let randomness = Randomness::from_system();
    let store = Store::open(Options::default(), files, Arc::new(SystemClock), randomness.clone(), Metrics::default())
        .expect("a store");
    let ids = Arc::new(MessageIds::new(randomness));
    let (begun, cpu, accounted) = (Instant::now(), cpu(), accounted());
    let (written, synced) = sums.get();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, ids) = (store.clone(), ids.clone());
            tokio::spawn(async move {
                let body = Bytes::from(vec![b'x'; octets]);
                let mut waited = Vec::new();
                while begun.elapsed() < length {
                    let asked = Instant::now();
                    let id = ids.next(Timestamp::from_millis(asked.duration_since(begun).as_millis() as u64));
                    commit(&store, id, body.clone()).await;
                    waited.push(asked.elapsed());
                    let store = store.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        let state = Delivery { schedule: Schedule::Finished, ..delivery() };
                        store.record(vec![Update::Delivery { id, number: 0, state }]).await;
                    });
                }
                waited
            })
        })
        .collect();
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
    println!("commit ms         p50 {:.2}, p99 {:.2}", at(50), at(99));
    println!(
        "written/stored    {:.3} ({:.2} as accounted by Linux)",
        (now.0 - written) as f64 / stored,
        (self::accounted() - accounted) as f64 / stored
    );
    println!("syncs/message     {:.4}", (now.1 - synced) as f64 / count);
    println!("{:?}", store.status());
    store.close().await;
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

/// Real files, and what is asked of them.
#[derive(Debug)]
struct Counted<T: ?Sized> {
    sums: Arc<Sums>,
    files: Arc<T>,
}

#[derive(Debug, Default)]
struct Sums {
    written: AtomicU64,
    synced: AtomicU64,
}

impl Sums {
    fn get(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.synced.load(Ordering::Relaxed))
    }
}

impl<T: ?Sized> Counted<T> {
    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(Counted { sums: self.sums.clone(), files: file })
    }
}

impl Files for Counted<RealFiles> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.files.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.files.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.sums.synced.fetch_add(1, Ordering::Relaxed);
        self.files.sync_names()
    }

    fn space(&self) -> io::Result<Space> {
        self.files.space()
    }
}

impl File for Counted<dyn File> {
    fn size(&self) -> io::Result<u64> {
        self.files.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.read(buffer, offset)
    }

    fn write(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let octets: usize = slices.iter().map(|slice| slice.len()).sum();
        self.sums.written.fetch_add(octets as u64, Ordering::Relaxed);
        self.files.write(slices, offset)
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        self.files.resize(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sums.synced.fetch_add(1, Ordering::Relaxed);
        self.files.sync()
    }
}
