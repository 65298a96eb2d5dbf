//! What the store's answers cost at scale, on a folder that `backlog` made.
//!
//! `cargo run --release -p store --example scale -- FOLDER [MANY]`: the time until the store is open and takes a message,
//! then how long the questions of the queue take, then a hold, a release and the removal of what waits for `d0.example`,
//! while another task commits a message every ten milliseconds; with the process's resident memory after each step, and the
//! longest wait of such a commit during it. Changes the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{
    Act, Clock, Destination, Envelope, ForwardPath, MessageId, MessageIds, Randomness, Recipient, ReversePath,
    SystemClock, Timestamp,
};
use store::{Delivery, Due, Metrics, NewMessage, Options, RealFiles, Schedule, Store, Update};

/// Rows that are asked for at once.
const PAGE: usize = 1000;

struct Probe {
    store: Store,
    ids: MessageIds,
    longest: AtomicU64,
    ended: AtomicBool,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("scale FOLDER [MANY]");
    let many: usize = arguments.next().map_or(100_000, |text| text.parse().expect("a number"));
    let begun = Instant::now();
    let files = RealFiles::open(&folder).expect("a folder");
    let randomness = Randomness::from_system();
    let store = Store::open(Options::default(), files, Arc::new(SystemClock), randomness.clone(), Metrics::default())
        .expect("a store");
    let probe = Arc::new(Probe {
        store: store.clone(),
        ids: MessageIds::new(randomness),
        longest: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    });
    told(&probe, "open", begun, 0);
    probe.commit().await;
    told(&probe, "first commit", begun, 1);
    let probing = tokio::spawn(probe.clone().go_on());

    let begun = Instant::now();
    let destinations = store.destinations().await.expect("destinations");
    told(&probe, "destinations", begun, destinations.len());
    let begun = Instant::now();
    let first = store.page(None, PAGE).await.expect("a page");
    told(&probe, "first page", begun, first.len());
    let begun = Instant::now();
    told(&probe, "pages", begun, pages(&store, many).await);
    let begun = Instant::now();
    let mut due = 0;
    for (destination, _) in destinations.iter().take(many) {
        due += store.due(destination, None, Timestamp::MAX, 100).await.expect("what is due").len();
    }
    told(&probe, "due, each destination", begun, due);
    let destination = Destination::new("mx:d0.example");
    let begun = Instant::now();
    let all = of(&store, &destination).await;
    told(&probe, "one destination", begun, all.len());
    let act = Act { author: "me".into(), reason: "measure".into(), at: SystemClock.now() };
    for (word, schedule) in [
        ("hold", Schedule::Held(act)),
        ("release", Schedule::At(SystemClock.now() + Duration::from_secs(86_400))),
        ("remove", Schedule::Finished),
    ] {
        let begun = Instant::now();
        change(&store, &all, &schedule).await;
        told(&probe, word, begun, all.len());
    }
    let begun = Instant::now();
    probe.ended.store(true, Ordering::Relaxed);
    probing.await.expect("the probe");
    store.clone().close().await;
    told(&probe, "close", begun, 0);
    println!("{:?}", store.status());
}

async fn pages(store: &Store, many: usize) -> usize {
    let (mut after, mut seen) = (None, 0);
    while seen < many {
        let page = store.page(after, PAGE).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen += page.len();
    }
    seen
}

async fn of(store: &Store, destination: &Destination) -> Vec<Due> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = store.of_destination(destination, after, PAGE).await.expect("a page");
        let Some(last) = page.last() else { return all };
        after = Some(last.cursor());
        all.extend(page);
    }
}

/// As an operator's command does: each message is read, changed and recorded, a page at a time.
async fn change(store: &Store, all: &[Due], schedule: &Schedule) {
    for page in all.chunks(PAGE) {
        let mut updates = Vec::with_capacity(page.len());
        for due in page {
            let Some(message) = store.message(due.id).await.expect("a message") else { continue };
            let state = Delivery { schedule: schedule.clone(), ..message.deliveries[due.number as usize].clone() };
            updates.push(Update::Delivery { id: due.id, number: due.number, state });
        }
        store.record(updates).await;
    }
}

impl Probe {
    async fn go_on(self: Arc<Self>) {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while !self.ended.load(Ordering::Relaxed) {
            pace.tick().await;
            let begun = Instant::now();
            let id = self.commit().await;
            self.longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
            let state = Delivery { schedule: Schedule::Finished, ..delivery() };
            drop(self.store.record(vec![Update::Delivery { id, number: 0, state }]));
        }
    }

    async fn commit(&self) -> MessageId {
        let mut content = self.store.intake(Some(1000)).expect("intake");
        content.write(Bytes::from(vec![b'x'; 1000])).await.expect("content");
        let received_at = SystemClock.now();
        let id = self.ids.next(received_at);
        let recipient = ForwardPath::Mailbox("user@example.org".parse().expect("an address"));
        let envelope = Envelope::new(id, received_at, ReversePath::Null, vec![Recipient::new(recipient)]);
        let (envelope, trace) = (envelope.into(), Bytes::new());
        let message = NewMessage { id, envelope, trace, content, deliveries: vec![delivery()] };
        self.store.commit(message, Vec::new()).await.expect("a commit");
        id
    }
}

fn delivery() -> Delivery {
    Delivery::new(Destination::new("mx:example.org"), [0], SystemClock.now())
}

fn told(probe: &Probe, what: &str, begun: Instant, count: usize) {
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let longest = probe.longest.swap(0, Ordering::Relaxed) as f64 / 1000.0;
    let (resident, most) = memory();
    println!(
        "{what:24} {took:10.1} ms  {count:9} rows  resident {resident:4} MiB (most {most:4})  longest commit {longest:6.1} ms"
    );
}

/// Resident memory of this process in MiB, now and at most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let octets = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        octets.unwrap_or(0) / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}
