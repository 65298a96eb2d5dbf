//! Damage on disk: found, put away, told, and everything else goes on.

use std::sync::Arc;

use mail::{Destination, Randomness, SystemClock, Timestamp};

use super::engine::{commit, commit_together, content, disk, finish, id, ids, open, open_with, options, read, update};
use crate::engine::Engine;
use crate::error::ReadError;
use crate::files::Files;
use crate::frame::{FIRST_BATCH, HEADER, Header};
use crate::message::{Delivery, Update};
use crate::testing::{Disk, Fault};
use crate::{Metrics, Options};

fn quarantined(disk: &Disk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.starts_with("quarantine/")).collect()
}

/// Where a message's record is: file and offset.
fn place(engine: &Engine, n: u128) -> (String, usize) {
    let kept = engine.find(id(n)).unwrap().unwrap();
    (crate::segments::segment_name(kept.record.segment), kept.record.offset as usize)
}

fn filled(disk: &Disk, messages: u128) -> Engine {
    let engine = open(disk);
    for n in 1..=messages {
        assert!(commit(&engine, n, 2000).error.is_none());
    }
    engine
}

#[test]
fn damaged_content_is_put_away_and_the_message_stays_also_through_a_rebuild() {
    let disk = disk();
    let engine = filled(&disk, 5);
    let (file, offset) = place(&engine, 3);
    drop(engine);
    disk.corrupt(&file, offset + HEADER + 700, b"rotten");
    let engine = open_checkpointed(&disk);
    let parts = engine.content(id(3)).unwrap().unwrap().0;
    let crate::read::Part::Frame(log, at) = &parts[0] else { panic!("{parts:?}") };
    assert!(matches!(crate::read::read_body(log.as_ref(), *at), Err(crate::read::FrameError::Damaged(_))));
    engine.bury(id(3)).unwrap();
    assert_eq!(quarantined(&disk).len(), 1);
    assert_eq!(engine.quarantine.count(), 1);
    assert!(disk.octets(&quarantined(&disk)[0]).unwrap().windows(6).any(|octets| octets == b"rotten"));
    assert_eq!(read(&engine, 2), content(2, 2000));
    drop(engine);
    for rebuild in [false, true] {
        if rebuild {
            disk.remove("index.redb").unwrap();
        }
        let engine = open(&disk);
        assert_eq!(ids(&engine), [1, 2, 3, 4, 5]);
        assert!(matches!(engine.content(id(3)), Err(ReadError::Damaged(damaged)) if damaged == id(3)));
    }
}

/// Opens a store whose log is already damaged, but whose index covers the damage.
fn open_checkpointed(disk: &Disk) -> Engine {
    // The damage would be met by the replay: put it behind a checkpoint made from sound octets.
    let name = disk.names().into_iter().find(|name| name.starts_with("segment")).unwrap();
    let damaged = disk.octets(&name).unwrap();
    let place = damaged.windows(6).position(|octets| octets == b"rotten").unwrap();
    let header = (0..place).rev().find_map(|at| Header::decode(&damaged[at..])).unwrap();
    let sound = content(3, 2000);
    let body = header.at().end() as usize - sound.len();
    disk.corrupt(&name, place, &sound[place - body..place - body + 6]);
    let engine = open(disk);
    assert!(engine.checkpoint());
    disk.corrupt(&name, place, b"rotten");
    engine
}

#[test]
fn a_damaged_record_in_the_middle_costs_itself_only() {
    // In the payload, in the header, in the header's length.
    for place_in_frame in [HEADER + 100, 30, 4] {
        let disk = disk();
        let engine = filled(&disk, 30);
        let (file, offset) = place(&engine, 7);
        drop(engine);
        disk.corrupt(&file, offset + place_in_frame, &[0xa5; 3]);
        let engine = open(&disk.crash());
        let rest: Vec<u128> = (1..=30).filter(|n| *n != 7).collect();
        assert_eq!(ids(&engine), rest, "damage at {place_in_frame}");
        assert_eq!((quarantined(&disk).len(), engine.quarantine.count()), (1, 1));
    }
}

#[test]
fn a_torn_tail_is_no_damage() {
    let disk = disk();
    let engine = filled(&disk, 5);
    let (file, offset) = place(&engine, 5);
    drop(engine);
    disk.corrupt(&file, offset + HEADER + 100, &[0xa5; 3]);
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), [1, 2, 3, 4]);
    assert_eq!(engine.quarantine.count(), 0);
}

#[test]
fn of_a_torn_batch_only_what_comes_before_the_tear_counts() {
    let disk = disk();
    let engine = filled(&disk, 2);
    assert!(commit_together(&engine, 3..=6).error.is_none());
    let (file, offset) = place(&engine, 4);
    drop(engine);
    disk.corrupt(&file, offset + HEADER + 100, &[0xa5; 3]);
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), [1, 2, 3]);
    assert_eq!(engine.quarantine.count(), 0);
}

#[test]
fn damage_at_the_end_of_a_segment_that_has_a_successor_is_damage() {
    let disk = disk();
    let engine = filled(&disk, 40);
    let last = (1..=40).rfind(|n| place(&engine, *n).0 != place(&engine, 40).0).unwrap();
    let (file, offset) = place(&engine, last);
    drop(engine);
    disk.corrupt(&file, offset + HEADER + 100, &[0xa5; 3]);
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), (1..=40).filter(|n| *n != last).collect::<Vec<_>>());
    assert_eq!(engine.quarantine.count(), 1);
}

#[test]
fn one_damaged_copy_of_a_segment_header_costs_nothing_and_two_nothing_where_the_successor_knows() {
    for blocks in [vec![0], vec![4096], vec![0, 4096]] {
        let disk = disk();
        let engine = filled(&disk, 40);
        let (file, _) = place(&engine, 1);
        drop(engine);
        for block in &blocks {
            disk.corrupt(&file, *block, &[0; 60]);
        }
        assert_eq!(ids(&open(&disk.crash())), (1..=40).collect::<Vec<_>>(), "{blocks:?}");
    }
}

#[test]
fn the_last_segment_without_its_header_goes_to_quarantine_whole() {
    let disk = disk();
    let engine = filled(&disk, 40);
    let (file, _) = place(&engine, 40);
    let before = (1..=40).filter(|n| place(&engine, *n).0 != file).collect::<Vec<_>>();
    drop(engine);
    disk.corrupt(&file, 0, &[0; 60]);
    disk.corrupt(&file, 4096, &[0; 60]);
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), before);
    assert_eq!(quarantined(&disk), [format!("quarantine/{file}")]);
}

#[test]
fn what_a_sender_puts_into_content_is_never_taken_for_a_record() {
    let disk = disk();
    let engine = filled(&disk, 3);
    // A sender who knows all but the salt forges the record of message 2, and puts it where a search would find it.
    let (file, offset) = place(&engine, 2);
    let octets = disk.octets(&file).unwrap();
    let real = Header::decode(&octets[offset..]).unwrap();
    let forged = Header { salt: real.salt ^ 1, offset: real.offset + 500, base: FIRST_BATCH, sequence: 9, ..real };
    drop(engine);
    disk.corrupt(&file, offset + 500, &forged.encode());
    disk.corrupt(&file, offset, &[0; HEADER]);
    let engine = open(&disk.crash());
    assert_eq!(ids(&engine), [1, 3]);
}

#[test]
fn an_index_that_is_missing_broken_empty_or_cut_is_built_anew() {
    for trouble in ["missing", "broken", "empty", "cut"] {
        let disk = disk();
        let engine = filled(&disk, 30);
        engine.checkpoint();
        assert!(finish(&engine, 4).error.is_none());
        drop(engine);
        let index = disk.octets("index.redb").unwrap();
        match trouble {
            "missing" => disk.remove("index.redb").unwrap(),
            "broken" => disk.replace("index.redb", vec![0xff; index.len()]),
            "empty" => disk.replace("index.redb", Vec::new()),
            _ => disk.replace("index.redb", index[..index.len() / 2].to_vec()),
        }
        let engine = open(&disk);
        assert_eq!(ids(&engine), (1..=30).filter(|n| *n != 4).collect::<Vec<_>>(), "{trouble}");
        assert_eq!(read(&engine, 9), content(9, 2000));
    }
}

#[test]
fn a_stale_index_is_brought_up_to_date_or_built_anew() {
    // Few messages: the log still has all since the old index. Many: it does not.
    for more in [10, 300] {
        let disk = disk();
        let engine = filled(&disk, 10);
        engine.checkpoint();
        let stale = disk.octets("index.redb").unwrap();
        for n in 11..=10 + more {
            assert!(commit(&engine, n, 4000).error.is_none());
            assert!(finish(&engine, n - 5).error.is_none());
            if n % 10 == 0 {
                engine.checkpoint();
                engine.maintain(&|| true);
            }
        }
        let expected = ids(&engine);
        assert!(expected.len() == 10 && expected[5..] == [more + 6, more + 7, more + 8, more + 9, more + 10]);
        drop(engine);
        disk.replace("index.redb", stale);
        assert_eq!(ids(&open(&disk)), expected);
    }
}

#[test]
fn an_index_of_another_log_is_not_believed() {
    let (one, other) = (disk(), disk());
    for (disk, from) in [(&one, 1), (&other, 100)] {
        let engine = open(disk);
        for n in from..from + 10 {
            assert!(commit(&engine, n, 1000).error.is_none());
        }
        engine.checkpoint();
    }
    one.replace("index.redb", other.octets("index.redb").unwrap());
    assert_eq!(ids(&open(&one)), (1..=10).collect::<Vec<_>>());
}

#[test]
fn changes_wait_while_the_index_cannot_be_read_and_are_made_when_it_can() {
    let disk = disk();
    let engine = filled(&disk, 200);
    engine.checkpoint();
    drop(engine);
    let engine = open_with(&disk, Options { index_cache: 0, ..options() });
    disk.fail(Fault::Read, 1);
    let state = Delivery { attempts: 3, ..Delivery::new(Destination::new("mx:later.example"), [0], Timestamp::MAX) };
    let changed = update(&engine, Update::Delivery { id: id(7), number: 0, state: state.clone() });
    assert!(changed.error.is_none(), "the log takes the change whatever the index does");
    assert!(engine.trouble().is_some());
    assert!(!engine.checkpoint(), "no checkpoint may pass over the waiting change");
    // A second change of the same message waits behind the first.
    let last = Delivery { attempts: 4, ..state };
    assert!(update(&engine, Update::Delivery { id: id(7), number: 0, state: last.clone() }).error.is_none());
    engine.maintain(&|| true);
    assert!(engine.trouble().is_none());
    assert_eq!(engine.find(id(7)).unwrap().unwrap().message.deliveries[0], last);
    assert!(engine.checkpoint());
    assert_eq!(open(&disk.crash()).find(id(7)).unwrap().unwrap().message.deliveries, [last]);
}

#[test]
fn a_disk_that_does_not_read_at_the_start_costs_nothing() {
    for times in [4, 5, 6, 7, 12, 1000] {
        let disk = disk();
        drop(filled(&disk, 3));
        disk.fail_at("segment-", Fault::Read, times);
        let files = Arc::new(disk.clone());
        let opened = Engine::open(options(), files, Arc::new(SystemClock), Randomness::seeded(1), Metrics::default());
        // A start that fails can be repeated; mail that is thrown away can't.
        assert!(opened.is_ok() || times > 6, "{times}");
        drop(opened);
        disk.heal();
        assert_eq!(ids(&open(&disk)), [1, 2, 3], "after {times} failures");
    }
}

#[test]
fn an_index_that_breaks_while_in_use_is_built_anew_without_a_restart() {
    let disk = disk();
    let engine = filled(&disk, 40);
    engine.checkpoint();
    for n in 1..=5 {
        assert!(finish(&engine, n).error.is_none());
    }
    engine.checkpoint();
    drop(engine);
    let engine = open_with(&disk, Options { index_cache: 0, ..options() });
    assert!(commit(&engine, 41, 2000).error.is_none());
    let size = disk.octets("index.redb").unwrap().len();
    for block in (4096..size).step_by(4096) {
        disk.corrupt("index.redb", block, &[0xee; 4096]);
    }
    assert!(engine.find(id(20)).is_err());
    assert!(finish(&engine, 21).error.is_none());
    engine.maintain(&|| true);
    assert!(engine.trouble().is_none());
    assert_eq!(ids(&engine), (6..=41).filter(|n| *n != 21).collect::<Vec<_>>());
    assert!(engine.checkpoint());
    assert_eq!(ids(&open(&disk.crash())), (6..=41).filter(|n| *n != 21).collect::<Vec<_>>());
}

#[test]
fn an_index_built_anew_in_use_counts_what_the_log_freed_meanwhile() {
    let disk = disk();
    let options = Options { checkpoint_messages: 1000, checkpoint_bytes: 1 << 30, ..options() };
    let engine = open_with(&disk, options);
    assert!(commit_together(&engine, 1..=100).error.is_none());
    engine.checkpoint();
    for n in 1..=40 {
        assert!(finish(&engine, n).error.is_none());
    }
    engine.maintain(&|| true);
    engine.note_trouble(crate::IndexError::Broken("as if".into()));
    engine.maintain(&|| true);
    assert!(engine.checkpoint());
    assert_eq!(ids(&engine), (41..=100).collect::<Vec<_>>());
    assert_eq!(engine.destinations(None, usize::MAX).unwrap()[0].1.queued, 60);
}

#[test]
fn whatever_a_disk_made_of_the_index_no_panic_leaves_it_and_it_is_built_anew() {
    let mut anew = 0;
    for seed in 0..40 {
        let (disk, random) = (disk(), Randomness::seeded(seed));
        let engine = filled(&disk, 60);
        engine.checkpoint();
        let old = disk.octets("index.redb").unwrap();
        for n in 1..=30 {
            assert!(finish(&engine, n).error.is_none());
        }
        engine.checkpoint();
        drop(engine);
        let engine = open_with(&disk, Options { index_cache: 0, ..options() });
        // Some blocks are as they were before the last sync, which the disk only claimed; some are those of others.
        let blocks = disk.octets("index.redb").unwrap().len() / 4096;
        for block in (1..blocks).filter(|_| random.below(3) == 0) {
            let from = if random.below(2) == 0 { block } else { random.below(blocks) };
            let Some(octets) = old.get(from * 4096..(from + 1) * 4096) else { continue };
            disk.corrupt("index.redb", block * 4096, octets);
        }
        let rebuilds = engine.metrics.rebuilds.get();
        let everything = engine.due(&Destination::new("mx:example.org"), None, Timestamp::MAX, 100);
        let _ = (engine.find(id(45)), engine.page(None, 100), engine.destinations(None, 10), everything);
        for n in 31..=40 {
            assert!(finish(&engine, n).error.is_none());
        }
        assert!(commit_together(&engine, 61..=70).error.is_none());
        for _ in 0..8 {
            engine.checkpoint();
            engine.maintain(&|| true);
        }
        if engine.metrics.rebuilds.get() > rebuilds {
            anew += 1;
            assert!(engine.trouble().is_none(), "seed {seed}: {:?}", engine.trouble());
            // What it denied to know when it was finished may be back: delivered twice, never lost.
            let whole = |ids: Vec<u128>| ids.ends_with(&Vec::from_iter(41..=70)) && ids[0] > 30;
            assert!(whole(ids(&engine)), "seed {seed}");
            assert!(whole(ids(&open(&disk.crash()))), "seed {seed}");
        }
    }
    assert!(anew > 20, "only {anew} were noticed");
}

#[test]
fn compaction_passes_over_damage() {
    let disk = disk();
    let engine = filled(&disk, 20);
    engine.checkpoint();
    let (file, offset) = place(&engine, 2);
    disk.corrupt(&file, offset + HEADER + 100, &[0xa5; 3]);
    for n in 3..=20 {
        assert!(finish(&engine, n).error.is_none());
    }
    for n in 21..=200 {
        assert!(commit(&engine, n, 8000).error.is_none());
        assert!(finish(&engine, n).error.is_none());
    }
    engine.checkpoint();
    engine.maintain(&|| true);
    assert!(engine.metrics.moved.get() >= 2);
    assert_eq!(ids(&engine), [1, 2]);
    assert_eq!(read(&engine, 1), content(1, 2000));
    engine.memory.forget(id(2));
    assert!(matches!(engine.content(id(2)), Err(ReadError::Damaged(_))));
    // The segment itself is kept for people.
    assert!(quarantined(&disk).contains(&format!("quarantine/{file}")), "{:?}", quarantined(&disk));
}
