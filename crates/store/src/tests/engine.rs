//! The engine's rules of failure and of limits.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use mail::{Destination, MessageId, Randomness, SystemClock, Timestamp};

use crate::engine::{Engine, Entry};
use crate::error::{IntakeError, ReadError};
use crate::files::Files;
use crate::log::{Need, Written};
use crate::message::{Delivery, Schedule, StoredMessage, Update};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::record::{ContentPlace, Payload, Record};
use crate::segments::segment_name;
use crate::testing::{Disk, Fault, envelope};

pub(super) fn options() -> Options {
    Options { segment_size: 64 << 10, inline_limit: 16 << 10, ..Options::small() }
}

pub(super) fn disk() -> Disk {
    Disk::new(64 << 20, Randomness::seeded(7))
}

pub(super) fn open_with(disk: &Disk, options: Options) -> Engine {
    let disk = Arc::new(disk.clone());
    Engine::open(options, disk, Arc::new(SystemClock), Randomness::from_system(), Metrics::default()).unwrap()
}

pub(super) fn open(disk: &Disk) -> Engine {
    open_with(disk, options())
}

pub(super) fn id(n: u128) -> MessageId {
    MessageId::from_u128(n)
}

pub(super) fn content(n: u128, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u128 * 7 + n) as u8).collect()
}

pub(super) fn commit(engine: &Engine, n: u128, size: usize) -> Written {
    engine.append(&[message(n, size)], Need::May)
}

/// Commits messages in one batch.
pub(super) fn commit_together(engine: &Engine, numbers: impl Iterator<Item = u128>) -> Written {
    let entries: Vec<_> = numbers.map(|n| message(n, 2000)).collect();
    engine.append(&entries, Need::May)
}

fn message(n: u128, size: usize) -> Entry {
    let due = Timestamp::from_millis(n as u64);
    let message = StoredMessage {
        id: id(n),
        envelope: envelope(id(n), 1).into(),
        size: size as u64,
        deliveries: vec![Delivery::new(Destination::new("mx:example.org"), [0], due)],
    };
    let record =
        Record::Message { message: message.into(), content: ContentPlace::Here, moved: false, settles: Vec::new() };
    let payload = Payload::new(&record, vec![Bytes::from(content(n, size))]).unwrap();
    Entry { record, payload }
}

pub(super) fn finish(engine: &Engine, n: u128) -> Written {
    let mut state = Delivery::new(Destination::new("mx:example.org"), [0], Timestamp::default());
    state.schedule = Schedule::Finished;
    update(engine, Update::Delivery { id: id(n), number: 0, state })
}

pub(super) fn update(engine: &Engine, update: Update) -> Written {
    let record = Record::Updates(vec![update]);
    let payload = Payload::new(&record, Vec::new()).unwrap();
    engine.append(&[Entry { record, payload }], Need::Must)
}

pub(super) fn ids(engine: &Engine) -> Vec<u128> {
    engine.page(None, 10_000).unwrap().iter().map(|message| message.id.as_u128()).collect()
}

pub(super) fn read(engine: &Engine, n: u128) -> Vec<u8> {
    engine.memory.forget(id(n));
    super::simulation::octets(engine.content(id(n)).unwrap().unwrap().0)
}

#[test]
fn a_failed_sync_fails_the_commit_and_nothing_of_it_comes_back() {
    for fault in [Fault::Sync, Fault::Write] {
        for seed in 0..20 {
            let disk = Disk::new(64 << 20, Randomness::seeded(seed));
            let engine = open(&disk);
            assert!(commit(&engine, 1, 3000).error.is_none());
            disk.fail(fault, 1);
            assert!(commit(&engine, 2, 3000).error.is_some());
            assert_eq!(ids(&engine), [1]);
            assert_eq!(engine.admit(0), Err(IntakeError::Failing));
            assert!(commit(&engine, 3, 3000).error.is_none());
            assert_eq!(engine.admit(0), Ok(()));
            // From now on it is on record that the log before ended behind message 1.
            let engine = open(&disk.crash());
            assert_eq!(ids(&engine), [1, 3]);
            assert_eq!(read(&engine, 3), content(3, 3000));
        }
    }
}

#[test]
fn what_a_start_believes_survives_the_next_power_cut() {
    for seed in 0..20 {
        let disk = Disk::new(64 << 20, Randomness::seeded(seed));
        let segment = || {
            let name = disk.names().into_iter().find(|name| name.starts_with("segment-")).expect("a segment");
            (disk.octets(&name).expect("its octets"), name)
        };
        let engine = open(&disk);
        assert!(commit(&engine, 1, 3000).error.is_none());
        let (synced, name) = segment();
        assert!(commit(&engine, 2, 3000).error.is_none());
        let (written, _) = segment();
        drop(engine);
        // As if the process had been killed after the write of message 2 and before its sync.
        disk.replace(&name, synced);
        disk.open(&name).unwrap().write(&[IoSlice::new(&written)], 0).unwrap();
        assert_eq!(ids(&open(&disk)), [1, 2]);
        assert_eq!(ids(&open(&disk.crash())), [1, 2]);
    }
}

#[test]
fn what_a_start_believes_survives_even_if_its_sync_had_failed() {
    for seed in 0..40 {
        let disk = Disk::new(64 << 20, Randomness::seeded(seed));
        let engine = open(&disk);
        assert!(commit(&engine, 1, 3000).error.is_none());
        disk.fail(Fault::Sync, 1);
        assert!(commit(&engine, 9, 3000).error.is_some());
        // Killed before the log could say that it is void, as the next batch would have.
        drop(engine);
        let engine = open(&disk);
        assert_eq!(ids(&engine), [1, 9], "the system still shows it");
        drop(engine);
        let engine = open(&disk.crash());
        assert_eq!(ids(&engine), [1, 9]);
        assert_eq!(read(&engine, 9), content(9, 3000));
    }
}

#[test]
fn an_index_whose_sync_had_failed_before_the_process_died_is_whole_after_the_next_power_cut() {
    let mut shown = 0;
    for (seed, sync) in (0..40u64).flat_map(|seed| (0..2).map(move |sync| (seed, sync))) {
        let disk = Disk::new(64 << 20, Randomness::seeded(seed));
        let engine = open(&disk);
        assert!(commit_together(&engine, 1..=20).error.is_none());
        assert!(engine.checkpoint());
        let covered = engine.state().checkpoint;
        for n in 1..=9 {
            assert!(finish(&engine, n).error.is_none());
        }
        disk.fail_after("index", Fault::Sync, sync);
        assert!(!engine.checkpoint());
        drop(engine);
        let engine = open(&disk);
        shown += usize::from(engine.state().checkpoint != covered);
        assert_eq!(ids(&engine), (10..=20).collect::<Vec<_>>());
        disk.cut_after(seed % 12);
        let finished = (10..=15).take_while(|n| finish(&engine, *n).error.is_none()).count();
        engine.checkpoint();
        drop(engine);
        let engine = open(&disk.restart(seed));
        assert_eq!(engine.metrics.rebuilds.get(), 0, "seed {seed}, sync {sync}");
        let left = ids(&engine);
        // Of the one whose record broke off nobody was told anything.
        let first = 10 + finished as u128;
        assert!(left == Vec::from_iter(first..=20) || left == Vec::from_iter(first + 1..=20), "seed {seed}: {left:?}");
        for n in left {
            assert_eq!(read(&engine, n), content(n, 2000));
        }
    }
    assert!(shown > 0, "no start was shown what was not durable");
}

#[test]
fn a_full_disk_stops_mail_but_not_the_books_and_mail_comes_back_with_the_space() {
    let disk = disk();
    let engine = open(&disk);
    engine.maintain(&|| true);
    disk.set_capacity(disk.used());
    let mut committed = Vec::new();
    for n in 1..1000 {
        if commit(&engine, n, 4000).error.is_some() {
            break;
        }
        committed.push(n);
    }
    assert!(!committed.is_empty() && committed.len() < 100, "{} messages on a full disk", committed.len());
    assert_eq!(engine.admit(0), Err(IntakeError::Failing));
    for n in &committed {
        assert!(finish(&engine, *n).error.is_none(), "the reserve is for what became of message {n}");
    }
    assert_eq!(ids(&engine), []);
    disk.set_capacity(64 << 20);
    assert!(commit(&engine, 5000, 4000).error.is_none());
    assert_eq!(engine.admit(0), Ok(()));
    assert_eq!(ids(&open(&disk.crash())), [5000]);
}

#[test]
fn space_that_was_promised_to_one_is_not_promised_to_another() {
    let disk = disk();
    let engine = open_with(&disk, Options { floor_bytes: 1 << 20, floor_inodes: 10, ..options() });
    engine.maintain(&|| true);
    disk.set_capacity(disk.used() + (3 << 20));
    std::thread::sleep(std::time::Duration::from_millis(260));
    assert_eq!(engine.admit(1 << 20), Ok(()));
    assert_eq!(engine.admit((1 << 20) + 1), Err(IntakeError::Space));
    engine.release(1 << 20);
    assert_eq!(engine.admit((1 << 20) + 1), Ok(()));
}

#[test]
fn few_inodes_stop_mail() {
    let disk = disk();
    let engine = open_with(&disk, Options { floor_inodes: 10, ..options() });
    disk.set_inodes(9);
    assert_eq!(engine.admit(0), Err(IntakeError::Inodes));
    assert_eq!(engine.admit(0).unwrap_err().reply().to_string(), IntakeError::Space.reply().to_string());
    assert_eq!(IntakeError::Inodes.reply().code(), 452);
}

#[test]
fn an_index_that_cannot_be_written_stops_mail_when_it_lags_and_not_before() {
    let disk = disk();
    let engine = open_with(&disk, Options { checkpoint_messages: 4, lag_messages: 8, ..options() });
    disk.fail(Fault::Sync, 0);
    for n in 1..=8 {
        assert_eq!(engine.admit(0), Ok(()), "before message {n}");
        assert!(commit(&engine, n, 100).error.is_none());
    }
    assert_eq!(engine.admit(0), Err(IntakeError::Lag));
    engine.maintain(&|| true);
    assert_eq!(engine.admit(0), Ok(()));
}

#[test]
fn a_message_delivered_between_two_checkpoints_leaves_no_trace_in_memory_or_index() {
    let disk = disk();
    let engine = open(&disk);
    engine.checkpoint();
    for n in 1..=50 {
        assert!(commit(&engine, n, 1000).error.is_none());
        assert!(finish(&engine, n).error.is_none());
    }
    assert_eq!(engine.state().lag(), 0);
    assert_eq!(engine.memory.used(), 0);
    assert!(engine.checkpoint());
    assert_eq!(ids(&engine), []);
    assert_eq!(engine.destinations(None, usize::MAX).unwrap(), []);
}

#[test]
fn a_failed_checkpoint_is_made_up_for() {
    let disk = disk();
    let engine = open(&disk);
    for n in 1..=20 {
        assert!(commit(&engine, n, 1000).error.is_none());
    }
    disk.fail(Fault::Sync, 1);
    assert!(!engine.checkpoint());
    assert!(finish(&engine, 3).error.is_none());
    let rest: Vec<u128> = (1..=20).filter(|n| *n != 3).collect();
    engine.maintain(&|| true);
    assert!(engine.trouble().is_none());
    assert!(engine.checkpoint());
    assert_eq!(ids(&engine), rest);
    assert_eq!(engine.state().lag(), 0);
    assert_eq!(ids(&open(&disk.crash())), rest);
}

#[test]
fn recycled_segments_are_used_again_and_their_old_records_are_not_read() {
    let disk = disk();
    let engine = open(&disk);
    for n in 1..=300 {
        assert!(commit(&engine, n, 8000).error.is_none());
        assert!(finish(&engine, n).error.is_none());
        if n % 20 == 0 {
            engine.maintain(&|| true);
            engine.checkpoint();
        }
    }
    assert!(commit(&engine, 1000, 8000).error.is_none());
    // 3 MB went through; the disk holds the index and a few segments.
    let logs = disk.names().iter().filter(|name| name.starts_with("segment") || name.starts_with("spare")).count();
    assert!(logs < 30, "{:?}", disk.names());
    drop(engine);
    let disk = disk.crash();
    disk.remove("index.redb").unwrap();
    assert_eq!(ids(&open(&disk)), [1000]);
}

#[test]
fn segments_freed_since_the_last_checkpoint_are_no_reason_to_build_the_index_anew() {
    let disk = disk();
    let engine = open(&disk);
    for n in 1..=40 {
        assert!(commit(&engine, n, 8000).error.is_none());
    }
    engine.checkpoint();
    for n in 1..=39 {
        assert!(finish(&engine, n).error.is_none());
    }
    engine.checkpoint();
    assert!(commit(&engine, 41, 100).error.is_none());
    let oldest = engine.state().segments.oldest().unwrap().0;
    engine.maintain(&|| true);
    assert!(engine.state().segments.oldest().unwrap().0 > oldest);
    assert_ne!(engine.state().checkpoint, engine.state().position, "the freed segments are still in the checkpoint");
    drop(engine);
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), [40, 41]);
    assert_eq!(engine.metrics.rebuilds.get(), 0);
}

#[test]
fn a_folder_that_could_not_be_synced_does_not_stop_the_freeing_of_segments() {
    for (times, reserve) in (1..=8).flat_map(|times| [(times, 0), (times, 8)]) {
        let disk = disk();
        let engine = open_with(&disk, Options { reserve, ..options() });
        for n in 1..=40 {
            assert!(commit(&engine, n, 8000).error.is_none());
        }
        for n in 1..=39 {
            assert!(finish(&engine, n).error.is_none());
        }
        assert!(commit(&engine, 41, 100).error.is_none());
        engine.checkpoint();
        disk.fail(Fault::Names, times);
        for _ in 0..10 {
            engine.maintain(&|| true);
        }
        let state = engine.state();
        assert!(state.segments.oldest().unwrap().0 > 4, "{times} failures");
        assert!(state.segments.numbers().all(|number| disk.names().contains(&segment_name(number))));
    }
}

#[test]
fn nobody_sees_a_message_as_it_was_before_a_change_that_is_durable() {
    let disk = disk();
    let engine = open(&disk);
    assert!((1..=200).all(|n| commit(&engine, n, 300).error.is_none()));
    engine.checkpoint();
    drop(engine);
    let engine = open_with(&disk, Options { index_cache: 0, ..options() });
    disk.fail(Fault::Read, 1);
    assert!(finish(&engine, 1).error.is_none());
    assert!(engine.find(id(1)).is_err(), "it is not as the index says, and nothing else is known");
    engine.maintain(&|| true);
    assert!(engine.find(id(1)).unwrap().is_none());
}

#[test]
fn a_segment_with_chunks_is_kept_from_the_first_chunk_on_until_the_message_is_gone() {
    let disk = disk();
    let engine = open(&disk);
    let payload = Payload::new(&Record::Chunk, vec![Bytes::from_static(b"a chunk")]).unwrap();
    let chunk = engine.append(&[Entry { record: Record::Chunk, payload }], Need::May).placed[0];
    let pass = |from: u128| {
        for n in from..from + 30 {
            assert!(commit(&engine, n, 8000).error.is_none());
            assert!(finish(&engine, n).error.is_none());
        }
        engine.checkpoint();
        engine.maintain(&|| true);
    };
    pass(100);
    assert!(engine.state().segments.contains(chunk.segment), "it is pinned");
    let mut entry = message(1, 0);
    if let Record::Message { content, .. } = &mut entry.record {
        *content = ContentPlace::Chunks(vec![chunk]);
    }
    entry.payload = Payload::new(&entry.record, Vec::new()).unwrap();
    assert!(engine.append(&[entry], Need::May).error.is_none());
    engine.unpin(&[chunk]);
    engine.maintain(&|| true);
    assert_eq!(read(&engine, 1), b"a chunk");
    pass(200);
    assert_eq!(read(&engine, 1), b"a chunk");
    assert!(finish(&engine, 1).error.is_none());
    pass(300);
    assert!(!engine.state().segments.contains(chunk.segment));
}

#[test]
fn a_file_that_cannot_be_written_is_given_up_for_another() {
    let disk = disk();
    let engine = open(&disk);
    for _ in 0..20 {
        disk.fail(Fault::Sync, 1);
        assert!(commit(&engine, 1, 1000).error.is_some());
        engine.maintain(&|| true);
    }
    let logs = disk.names().iter().filter(|name| name.starts_with("segment")).count();
    assert!(logs <= 1, "{:?}", disk.names());
    assert!(commit(&engine, 2, 1000).error.is_none());
    assert_eq!(ids(&open(&disk.crash())), [2]);
}

#[test]
fn the_segment_that_is_being_written_stays_though_nothing_in_it_lives() {
    let disk = disk();
    let engine = open(&disk);
    for n in 1..=3 {
        assert!(commit(&engine, n, 100).error.is_none());
        assert!(finish(&engine, n).error.is_none());
        assert!(engine.checkpoint());
        engine.maintain(&|| true);
    }
    assert!(commit(&engine, 100, 100).error.is_none());
    assert_eq!(ids(&open(&disk.crash())), [100]);
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let disk = disk();
    let engine = open(&disk);
    assert!(commit(&engine, 1, 100).error.is_none());
    assert!(commit(&engine, 2, 300_000).error.is_none());
    assert!(commit(&engine, 3, 100).error.is_none());
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), [1, 2, 3]);
    assert_eq!(read(&engine, 2), content(2, 300_000));
}

#[test]
fn what_compaction_moves_does_not_pile_up_in_memory() {
    let disk = disk();
    let engine = open_with(&disk, Options { segment_size: 512 << 10, checkpoint_messages: 16, ..options() });
    for n in 1..=100 {
        assert!(commit(&engine, n, 100).error.is_none());
    }
    for n in 101..=400 {
        assert!(commit(&engine, n, 8000).error.is_none());
        assert!(finish(&engine, n).error.is_none());
    }
    assert!(engine.checkpoint());
    let most = std::cell::Cell::new(0);
    engine.maintain(&|| {
        most.set(most.get().max(engine.state().lag()));
        true
    });
    assert_eq!(engine.metrics.moved.get(), 100);
    assert!(most.get() <= 16 + 2, "{} messages waited for a checkpoint", most.get());
    assert_eq!(ids(&engine), (1..=100).collect::<Vec<_>>());
    assert_eq!(ids(&open(&disk.crash())), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_question_that_the_index_outruns_is_an_error_and_not_half_an_answer() {
    let engine = open(&disk());
    let asked = std::cell::Cell::new(0);
    let outrun = |_: &crate::index::Snapshot| {
        asked.set(asked.get() + 1);
        commit(&engine, asked.get(), 100);
        assert!(engine.checkpoint());
        Ok(())
    };
    assert!(matches!(engine.with_snapshot(outrun, |_, ()| ()), Err(ReadError::Disk(_))));
    assert!(asked.get() > 1, "it is asked again a few times");
    assert_eq!(ids(&engine).len() as u128, asked.get());
}
