//! The asynchronous face, with its threads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::{Destination, MessageId, Randomness, SystemClock, Timestamp};

use crate::testing::{Disk, Fault, envelope};
use crate::{
    CommitError, Delivery, Files, IntakeError, Metrics, NewMessage, Options, RealFiles, Schedule, Store, Update,
};

fn open(files: Arc<dyn Files>, options: Options) -> Store {
    Store::open(options, files, Arc::new(SystemClock), Randomness::from_system(), Metrics::default()).unwrap()
}

fn disk() -> Disk {
    Disk::new(256 << 20, Randomness::seeded(3))
}

fn delivery(n: u128) -> Delivery {
    Delivery::new(Destination::new("mx:example.org"), [0], Timestamp::from_millis(n as u64))
}

fn finished(n: u128) -> Update {
    let state = Delivery { schedule: Schedule::Finished, ..delivery(n) };
    Update::Delivery { id: MessageId::from_u128(n), number: 0, state }
}

async fn commit(store: &Store, n: u128, pieces: &[Bytes]) -> Result<(), CommitError> {
    let mut content = store.intake(None)?;
    for piece in pieces {
        content.write(piece.clone()).await?;
    }
    let id = MessageId::from_u128(n);
    let trace = Bytes::from_static(b"Received: by us\r\n");
    let message = NewMessage { id, envelope: envelope(id, 1).into(), trace, content, deliveries: vec![delivery(n)] };
    store.commit(message, Vec::new()).await.map(drop)
}

/// Content on its way in, as soon as the store takes any.
async fn intake(store: &Store) -> crate::Incoming {
    let open = async {
        loop {
            match store.intake(None) {
                Ok(content) => return content,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), open).await.expect("intake opens again")
}

async fn read(store: &Store, n: u128) -> Bytes {
    let content = store.content(MessageId::from_u128(n)).await.unwrap().unwrap();
    let len = content.len();
    let octets = content.collect().await.unwrap();
    assert_eq!(octets.len() as u64, len);
    octets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commit_deliver_and_read_at_once_and_all_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(RealFiles::open(folder.path()).unwrap(), Options::small());
    let tasks: Vec<_> = (0..32u128)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for turn in 0..20 {
                    let n = task * 100 + turn + 1;
                    commit(&store, n, &[Bytes::from(vec![n as u8; 3000])]).await.unwrap();
                    assert_eq!(read(&store, n).await.len(), 3017);
                    if turn % 2 == 0 {
                        store.record(vec![finished(n)]).await;
                        assert!(store.message(MessageId::from_u128(n)).await.unwrap().is_none());
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.status().messages, 320);
    store.close().await;
    let store = open(RealFiles::open(folder.path()).unwrap(), Options::small());
    let status = store.status();
    assert_eq!((status.messages, status.deliveries, status.lag_messages, status.closed), (320, 320, 0, None));
    let counters = store.destinations().await.unwrap();
    assert_eq!(counters.len(), 1);
    assert_eq!((counters[0].1.queued, counters[0].1.earliest_due), (320, Some(Timestamp::from_millis(2))));
    assert_eq!(read(&store, 2).await.len(), 3017);
}

#[tokio::test]
async fn a_store_belongs_to_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let first = RealFiles::open(folder.path()).unwrap();
    assert!(matches!(RealFiles::open(folder.path()), Err(crate::OpenError::InUse(_))));
    drop(first);
    assert!(RealFiles::open(folder.path()).is_ok());
}

#[tokio::test]
async fn large_content_streams_in_and_out_with_little_memory() {
    let store = open(Arc::new(disk()), Options::small());
    let mut content = store.intake(Some(5_000_000)).unwrap();
    let mut expected = b"Received: by us\r\n".to_vec();
    for n in 0..5000u32 {
        let piece: Vec<u8> = (0..1000u32).map(|at| (at * n) as u8).collect();
        expected.extend_from_slice(&piece);
        content.write(piece.into()).await.unwrap();
        let memory = store.status().content_memory;
        assert!(memory <= 64 << 10, "{memory} octets in memory after {n} pieces");
    }
    assert_eq!(content.len(), 5_000_000);
    let id = MessageId::from_u128(1);
    let trace = Bytes::from_static(b"Received: by us\r\n");
    let message = NewMessage { id, envelope: envelope(id, 1).into(), trace, content, deliveries: vec![delivery(1)] };
    let stored = store.commit(message, Vec::new()).await.unwrap();
    assert_eq!(stored.size, expected.len() as u64);
    assert_eq!(store.status().content_memory, 0);
    let mut content = store.content(id).await.unwrap().unwrap();
    let mut found = Vec::new();
    while let Some(piece) = content.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 64 << 10);
        found.extend_from_slice(&piece);
    }
    assert!(found == expected);
}

#[tokio::test]
async fn abandoned_content_gives_everything_back() {
    let store = open(Arc::new(disk()), Options::small());
    let mut content = store.intake(Some(1 << 20)).unwrap();
    for _ in 0..200 {
        content.write(Bytes::from(vec![1; 5000])).await.unwrap();
    }
    drop(content);
    let status = store.status();
    assert_eq!((status.content_memory, status.messages, status.live_bytes), (0, 0, 0));
    store.close().await;
}

#[tokio::test]
async fn memory_for_content_is_one_budget() {
    let options = Options { content_memory: 100 << 10, inline_limit: 32 << 10, ..Options::small() };
    let store = open(Arc::new(disk()), options);
    let held: Vec<_> = (0..6).map(|_| store.intake(Some(1 << 20)).unwrap()).collect();
    assert_eq!(store.intake(Some(1 << 20)).unwrap_err(), IntakeError::Memory);
    drop(held);
    // Committed content gives way, and is read from disk.
    for n in 1..=20 {
        commit(&store, n, &[Bytes::from(vec![n as u8; 20_000])]).await.unwrap();
        assert!(store.status().content_memory <= 100 << 10);
    }
    for n in 1..=20 {
        assert!(read(&store, n).await[17..].iter().all(|octet| *octet == n as u8));
    }
}

#[tokio::test]
async fn content_under_pressure_goes_to_disk_early() {
    let options = Options { content_memory: 128 << 10, inline_limit: 32 << 10, ..Options::small() };
    let store = open(Arc::new(disk()), options);
    // Unannounced, so that each reserves less than it brings.
    let mut arriving: Vec<_> = (0..4).map(|_| store.intake(Some(1)).unwrap()).collect();
    for _ in 0..15 {
        for content in &mut arriving {
            content.write(Bytes::from(vec![7; 10_000])).await.unwrap();
        }
    }
    let memory = store.status().content_memory;
    assert!(memory <= 4 * (40 << 10), "{memory}");
}

#[tokio::test]
async fn changes_outlive_a_failing_disk_in_their_order_while_mail_is_refused() {
    let disk = disk();
    let store = open(Arc::new(disk.clone()), Options::small());
    for n in 1..=2 {
        commit(&store, n, &[Bytes::from_static(b"content")]).await.unwrap();
    }
    disk.fail_at("segment", Fault::Sync, 3);
    let first = store.record(vec![Update::Delivery {
        id: MessageId::from_u128(1),
        number: 0,
        state: Delivery { attempts: 1, ..delivery(1) },
    }]);
    let second = store.record(vec![
        Update::Delivery { id: MessageId::from_u128(1), number: 0, state: Delivery { attempts: 2, ..delivery(1) } },
        finished(2),
    ]);
    first.await;
    second.await;
    let message = store.message(MessageId::from_u128(1)).await.unwrap().unwrap();
    assert_eq!(message.deliveries[0].attempts, 2);
    assert!(store.message(MessageId::from_u128(2)).await.unwrap().is_none());
    drop(intake(&store).await);
    commit(&store, 3, &[Bytes::from_static(b"content")]).await.unwrap();
    drop(store);
    let store = open(Arc::new(disk.crash()), Options::small());
    assert_eq!(store.message(MessageId::from_u128(1)).await.unwrap(), Some(message));
    assert_eq!(store.status().messages, 2);
}

#[tokio::test]
async fn a_commit_on_a_failing_disk_is_an_error_with_a_reply_and_intake_opens_again_by_itself() {
    let disk = disk();
    let store = open(Arc::new(disk.clone()), Options::small());
    let mut content = store.intake(None).unwrap();
    content.write(Bytes::from_static(b"content")).await.unwrap();
    disk.fail_at("segment", Fault::Sync, 2);
    let id = MessageId::from_u128(1);
    let message = NewMessage {
        id,
        envelope: envelope(id, 1).into(),
        trace: Bytes::new(),
        content,
        deliveries: vec![delivery(1)],
    };
    let error = store.commit(message, Vec::new()).await.unwrap_err();
    assert_eq!(error.reply().code(), 452);
    assert!(store.message(id).await.unwrap().is_none());
    assert_eq!(store.intake(None).unwrap_err(), IntakeError::Failing);
    assert_eq!(store.status().closed, Some("failing"));
    // Nobody writes anything; the store itself finds out.
    drop(intake(&store).await);
    commit(&store, 1, &[Bytes::from_static(b"content")]).await.unwrap();
}

#[tokio::test]
async fn a_report_and_what_it_settles_are_one_change() {
    let disk = disk();
    let store = open(Arc::new(disk.clone()), Options::small());
    commit(&store, 1, &[Bytes::from_static(b"content")]).await.unwrap();
    disk.fail_at("segment", Fault::Sync, 1);
    let id = MessageId::from_u128(2);
    let report = |content| NewMessage {
        id,
        envelope: envelope(id, 1).into(),
        trace: Bytes::new(),
        content,
        deliveries: vec![delivery(2)],
    };
    let content = store.intake(None).unwrap();
    assert!(store.commit(report(content), vec![finished(1)]).await.is_err());
    assert!(store.message(MessageId::from_u128(1)).await.unwrap().is_some());
    let content = intake(&store).await;
    store.commit(report(content), vec![finished(1)]).await.unwrap();
    drop(store);
    let store = open(Arc::new(disk.crash()), Options::small());
    assert!(store.message(MessageId::from_u128(1)).await.unwrap().is_none());
    assert!(store.message(id).await.unwrap().is_some());
}

#[tokio::test]
async fn an_id_is_used_once() {
    let store = open(Arc::new(disk()), Options::small());
    commit(&store, 1, &[Bytes::from_static(b"one")]).await.unwrap();
    let again = commit(&store, 1, &[Bytes::from_static(b"two")]).await;
    assert!(matches!(again, Err(CommitError::Exists(_))));
    assert_eq!(read(&store, 1).await, "Received: by us\r\none");
}

#[tokio::test]
async fn a_closed_store_takes_nothing() {
    let store = open(Arc::new(disk()), Options::small());
    let content = store.intake(None).unwrap();
    store.clone().close().await;
    assert_eq!(store.intake(None).unwrap_err(), IntakeError::Closing);
    let id = MessageId::from_u128(1);
    let message = NewMessage {
        id,
        envelope: envelope(id, 1).into(),
        trace: Bytes::new(),
        content,
        deliveries: vec![delivery(1)],
    };
    assert_eq!(store.commit(message, Vec::new()).await.unwrap_err().reply().code(), 421);
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let store =
        Store::open(Options::small(), Arc::new(disk()), Arc::new(SystemClock), Randomness::from_system(), metrics)
            .unwrap();
    let text = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    commit(&store, 1, &[Bytes::from_static(b"one")]).await.unwrap();
    store.refresh_metrics();
    assert!(text().contains("postrider_store_messages 1\n"), "{}", text());
    store.record(vec![finished(1)]).await;
    store.close().await;
    let text = text();
    assert!(text.contains("postrider_store_commits_total 1\n"), "{text}");
    assert!(text.contains("postrider_store_updates_total 1\n"), "{text}");
}
