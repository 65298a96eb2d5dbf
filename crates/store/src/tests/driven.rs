//! The face without threads: one seed, one trace; and what was acknowledged is there after any crash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mail::{Clock, Destination, MessageId, Randomness, Timestamp};

use crate::testing::{Disk, Driver, Fault, envelope};
use crate::{Delivery, Metrics, NewMessage, Options, Schedule, ScheduleClock, Store, Update};

/// Tokio's clock, which stands still until all tasks wait.
#[derive(Debug)]
struct Paused;

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn instant(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }
}

fn open(disk: &Disk, random: &Randomness) -> (Store, Driver) {
    let options = Options { segment_size: 64 << 10, inline_limit: 16 << 10, ..Options::small() };
    let disk = Arc::new(disk.clone());
    Store::open_driven(options, disk, Arc::new(Paused), random.clone(), Metrics::default()).expect("it opens")
}

fn delivery(n: u128) -> Delivery {
    Delivery::new(Destination::new(format!("mx:{}.example", n % 7)), [0], Timestamp::from_millis(n as u64))
}

fn body(n: u128) -> Bytes {
    let len = if n.is_multiple_of(9) { 40_000 } else { 700 + 31 * (n as usize % 50) };
    Bytes::from(vec![n as u8; len])
}

async fn commit(store: &Store, n: u128) -> bool {
    let Ok(mut content) = store.intake(None) else { return false };
    for piece in body(n).chunks(5000) {
        if content.write(Bytes::copy_from_slice(piece)).await.is_err() {
            return false;
        }
    }
    let (id, trace) = (MessageId::from_u128(n), Bytes::new());
    let message = NewMessage { id, envelope: envelope(id, 1).into(), trace, content, deliveries: vec![delivery(n)] };
    store.commit(message, Vec::new()).await.is_ok()
}

/// What is known of a message: whether it was acknowledged, whether its end is in line, whether its end was.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: bool,
    ending: bool,
    ended: bool,
}

type Ledger = Arc<Mutex<BTreeMap<u128, Known>>>;

async fn deliver(store: Store, ledger: Ledger, n: u128) {
    let note = |change: fn(&mut Known)| change(ledger.lock().unwrap().entry(n).or_default());
    note(|_| {});
    if !commit(&store, n).await {
        return;
    }
    note(|known| known.acknowledged = true);
    if let Ok(Some(content)) = store.content(MessageId::from_u128(n)).await
        && let Ok(content) = content.collect().await
    {
        assert_eq!(content, body(n));
    }
    if n.is_multiple_of(4) {
        return;
    }
    note(|known| known.ending = true);
    let state = Delivery { schedule: Schedule::Finished, ..delivery(n) };
    store.record(vec![Update::Delivery { id: MessageId::from_u128(n), number: 0, state }]).await;
    note(|known| known.ended = true);
}

/// Traffic until the power fails or the process crashes; the disk as the next process finds it.
async fn live(disk: Disk, random: &Randomness, ledger: &Ledger, first: u128) -> Disk {
    let (store, driver) = open(&disk, random);
    let cut = random.below(3) > 0;
    if cut {
        disk.cut_after(random.below(600) as u64);
    }
    if random.below(3) == 0 {
        disk.fail(Fault::Sync, random.below(4) as u32);
    }
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driver.run());
    for n in first..first + 60 {
        tasks.spawn(deliver(store.clone(), ledger.clone(), n));
        tokio::time::sleep(Duration::from_micros(random.below(3000) as u64)).await;
    }
    tokio::time::sleep(Duration::from_secs(random.below(20) as u64)).await;
    // All at once, wherever each is: this is the crash.
    drop(tasks);
    drop(store);
    disk.heal();
    if cut { disk.restart(random.next_u64()) } else { disk }
}

async fn check(disk: &Disk, random: &Randomness, ledger: &Ledger) {
    let (store, driver) = open(disk, random);
    let driving = tokio::spawn(driver.run());
    let ledger: BTreeMap<_, _> = ledger.lock().unwrap().clone();
    let mut present = 0;
    for (n, known) in ledger {
        let found = store.message(MessageId::from_u128(n)).await.unwrap();
        present += u64::from(found.is_some());
        if known.acknowledged && !known.ending {
            assert!(found.is_some(), "message {n} is lost");
        }
        if known.ended {
            assert!(found.is_none(), "message {n} is back");
        }
        if found.is_some() {
            let content = store.content(MessageId::from_u128(n)).await.unwrap().unwrap();
            assert_eq!(content.collect().await.unwrap(), body(n));
        }
    }
    assert_eq!(store.status().messages, present);
    let destinations = store.destinations().await.unwrap();
    assert!(destinations.is_sorted_by_key(|(destination, _)| destination.clone()));
    store.close().await;
    driving.await.expect("the driver ends when the store is closed");
}

/// Several lives with crashes of process and machine; the sum of what was written.
fn world(seed: u64) -> u32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let random = Randomness::seeded(seed);
        let mut disk = Disk::new(64 << 20, random.clone());
        let ledger = Ledger::default();
        for round in 0..6 {
            disk = live(disk, &random, &ledger, 1 + round * 100).await;
            check(&disk, &random, &ledger).await;
        }
        disk.trace()
    })
}

#[test]
fn acknowledged_mail_survives_crashes_and_one_seed_gives_one_trace() {
    for seed in 0..8 {
        assert_eq!(world(seed), world(seed), "seed {seed}");
    }
    assert_ne!(world(1), world(2));
}

#[tokio::test(start_paused = true)]
async fn a_crash_writes_nothing_more() {
    let random = Randomness::seeded(4);
    let disk = Disk::new(64 << 20, random.clone());
    let (store, driver) = open(&disk, &random);
    let driving = tokio::spawn(driver.run());
    assert!(commit(&store, 1).await);
    let state = Delivery { schedule: Schedule::Finished, ..delivery(1) };
    let ended = store.record(vec![Update::Delivery { id: MessageId::from_u128(1), number: 0, state }]);
    let (trace, disk_octets) = (disk.trace(), disk.written());
    driving.abort();
    assert!(driving.await.unwrap_err().is_cancelled());
    drop((store, ended));
    assert_eq!((disk.trace(), disk.written()), (trace, disk_octets));
    let (store, driver) = open(&disk, &random);
    assert!(store.message(MessageId::from_u128(1)).await.unwrap().is_some());
    // Closing must not wait for a driver that is gone.
    drop(driver);
    store.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_line_is_written_when_only_the_store_is_dropped() {
    let random = Randomness::seeded(5);
    let disk = Disk::new(64 << 20, random.clone());
    let (store, driver) = open(&disk, &random);
    let driving = tokio::spawn(driver.run());
    assert!(commit(&store, 1).await);
    let state = Delivery { schedule: Schedule::Finished, ..delivery(1) };
    let ended = store.record(vec![Update::Delivery { id: MessageId::from_u128(1), number: 0, state }]);
    drop(store);
    ended.await;
    driving.await.unwrap();
    let (store, _driver) = open(&disk.restart(9), &random);
    assert!(store.message(MessageId::from_u128(1)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_disk_without_power_changes_nothing() {
    let disk = Disk::new(1 << 20, Randomness::seeded(1));
    let files: &dyn crate::Files = &disk;
    let file = files.create("a", 4096).unwrap();
    file.write(&[std::io::IoSlice::new(b"one")], 0).unwrap();
    file.sync().unwrap();
    files.sync_names().unwrap();
    // Two more operations succeed, the third is in the middle of it when the power fails.
    disk.cut_after(2);
    file.write(&[std::io::IoSlice::new(b"two")], 0).unwrap();
    file.sync().unwrap();
    assert!(!disk.is_off());
    assert!(file.write(&[std::io::IoSlice::new(b"six")], 0).is_err());
    assert!(disk.is_off() && file.sync().is_err() && files.list().is_err());
    let again = disk.restart(7);
    assert!(!again.is_off() && disk.is_off());
    let octets = again.octets("a").unwrap();
    assert!(octets.starts_with(b"two") || octets.starts_with(b"six"));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_does_not_come_back_after_a_crash() {
    for seed in 0..20 {
        let random = Randomness::seeded(seed);
        let disk = Disk::new(64 << 20, random.clone());
        let (store, driver) = open(&disk, &random);
        let driving = tokio::spawn(driver.run());
        assert!(commit(&store, 1).await);
        disk.fail_at("segment", Fault::Sync, 1);
        assert!(!commit(&store, 2).await);
        driving.abort();
        drop(store);
        let (store, _driver) = open(&disk.restart(seed), &random);
        assert!(store.message(MessageId::from_u128(1)).await.unwrap().is_some());
        assert!(store.message(MessageId::from_u128(2)).await.unwrap().is_none(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_schedules_clock_is_in_the_log_before_what_is_due_by_it() {
    let hour = Duration::from_secs(3600);
    let shown = |seconds, lead| ScheduleClock { time: Paused.now() + Duration::from_secs(seconds), lead };
    for seed in 0..20 {
        let random = Randomness::seeded(seed);
        let disk = Disk::new(64 << 20, random.clone());
        let (store, driver) = open(&disk, &random);
        assert_eq!(store.schedule_clock(), None);
        tokio::spawn(driver.run());
        store.show_schedule_clock(shown(1, hour));
        assert!(commit(&store, 1).await);
        store.show_schedule_clock(shown(2, 3 * hour));
        // The power may fail anywhere before or behind the next commit.
        disk.cut_after(random.below(5) as u64);
        let committed = tokio::time::timeout(hour, commit(&store, 2)).await == Ok(true);
        let (store, _driver) = open(&disk.restart(seed), &random);
        let exists = store.message(MessageId::from_u128(2)).await.unwrap().is_some();
        let clock = store.schedule_clock().expect("the first message is there");
        assert!(
            clock == shown(2, 3 * hour) || clock == shown(1, hour) && !exists && !committed,
            "seed {seed}: {clock:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_lead_is_written_down_by_itself_and_survives_segments_and_the_index() {
    let random = Randomness::seeded(6);
    let disk = Disk::new(64 << 20, random.clone());
    let (store, driver) = open(&disk, &random);
    tokio::spawn(driver.run());
    let clock = ScheduleClock { time: Paused.now(), lead: Duration::from_secs(7) };
    store.show_schedule_clock(clock);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let disk = disk.restart(1);
    let (store, driver) = open(&disk, &random);
    assert_eq!(store.schedule_clock(), Some(clock), "nothing else was written");
    tokio::spawn(driver.run());
    let first = disk.names();
    for n in 1..200 {
        assert!(commit(&store, n).await);
        let state = Delivery { schedule: Schedule::Finished, ..delivery(n) };
        store.record(vec![Update::Delivery { id: MessageId::from_u128(n), number: 0, state }]).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let segments =
        |names: Vec<String>| names.into_iter().filter(|name| name.starts_with("segment-")).collect::<Vec<_>>();
    let (first, last) = (segments(first), segments(disk.names()));
    assert!(first.iter().all(|name| !last.contains(name)), "the first segments are freed");
    let cut = disk.restart(2);
    cut.replace("index.redb", b"broken".to_vec());
    let (again, _) = open(&cut, &random);
    assert_eq!(again.schedule_clock(), Some(clock));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_fails_is_tried_again_ever_less_often_and_made_soon_after_it_can_be() {
    let random = Randomness::seeded(8);
    let disk = Disk::new(64 << 20, random.clone());
    let (store, driver) = open(&disk, &random);
    tokio::spawn(driver.run());
    for n in 1..=80 {
        assert!(commit(&store, n).await);
    }
    disk.fail_at("index", Fault::Write, u32::MAX);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let before = disk.operations();
    // Of each message one step after the other: as many as want a checkpoint at once.
    for n in (1..=80).chain(1..=80) {
        let state = Delivery { attempts: 1, ..delivery(n) };
        store.record(vec![Update::Delivery { id: MessageId::from_u128(n), number: 0, state }]).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    let operations = disk.operations() - before;
    assert!((340..1000).contains(&operations), "{operations} operations in ten minutes, of which 320 are the log's");
    assert!(store.status().lag_messages >= 80);
    disk.heal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.status().lag_messages, 0);
    assert_eq!(store.message(MessageId::from_u128(1)).await.unwrap().unwrap().deliveries[0].attempts, 1);
    assert!(commit(&store, 81).await);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_cannot_be_mended_is_tried_again_ever_less_often() {
    let random = Randomness::seeded(9);
    let disk = Disk::new(64 << 20, random.clone());
    let (store, driver) = open(&disk, &random);
    tokio::spawn(driver.run());
    assert!(commit(&store, 1).await);
    // Neither can what is there be opened nor another one be made.
    disk.fail_at("index", Fault::Sync, u32::MAX);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!commit(&store, 2).await, "closed, for messages could not be read");
    let before = disk.operations();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let operations = disk.operations() - before;
    assert!((20..200).contains(&operations), "{operations} operations in ten minutes");
    disk.heal();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(commit(&store, 2).await);
    assert!(store.message(MessageId::from_u128(1)).await.unwrap().is_some());
}
