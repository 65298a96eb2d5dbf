use std::io::IoSlice;
use std::sync::Arc;

use mail::{Randomness, Timestamp};

use super::*;
use crate::testing::{Disk, Fault};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn later(seconds: u64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + 1000 * seconds)
}

fn disk() -> Disk {
    Disk::new(1 << 30, Randomness::seeded(1))
}

async fn text(tables: &Tables, table: Table, key: &str) -> Option<String> {
    let value = tables.get(table, key, NOW).await.expect("reads");
    value.map(|value| String::from_utf8(value).expect("text"))
}

#[tokio::test]
async fn what_was_put_is_there_after_the_process_was_killed() {
    let disk = disk();
    let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
    tables.put(Table::Bans, "192.0.2.1", b"one".to_vec(), Some(later(60))).await.unwrap();
    tables.put(Table::Acme, "account", b"two".to_vec(), None).await.unwrap();
    assert!(tables.remove(Table::Acme, "nothing").await.is_ok_and(|was_there| !was_there));
    let again = disk.restart(7);
    drop(tables);
    let tables = Tables::open_on(Arc::new(again)).unwrap();
    assert_eq!(text(&tables, Table::Bans, "192.0.2.1").await.as_deref(), Some("one"));
    assert_eq!(text(&tables, Table::Acme, "account").await.as_deref(), Some("two"));
    assert_eq!(text(&tables, Table::Bans, "account").await, None);
}

#[tokio::test]
async fn whenever_power_fails_what_was_answered_stays_and_nothing_is_half_there() {
    for operations in 1..60u64 {
        let disk = disk();
        let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
        disk.cut_after(operations);
        let mut answered = 0;
        for count in 1..=8u32 {
            let step = tables.update(Table::AccountUse, "a", NOW, move |_| Some((count.to_string().into(), None)));
            let both = tables.put(Table::AccountUse, "b", count.to_string().into(), None);
            match tokio::join!(step, both) {
                (Ok(_), Ok(())) => answered = count,
                _ => break,
            }
        }
        let again = disk.restart(operations);
        drop(tables);
        let tables = Tables::open_on(Arc::new(again.clone())).unwrap();
        assert!(!has_quarantine(&again), "a power cut is no damage");
        for key in ["a", "b"] {
            let found = text(&tables, Table::AccountUse, key).await.map_or(0, |count| count.parse::<u32>().unwrap());
            assert!(found == answered || found == answered + 1, "{operations}: {key} {found} after {answered}");
        }
    }
}

#[tokio::test]
async fn power_that_fails_while_the_file_is_made_is_no_damage() {
    let mut unmade = 0;
    for (operations, seed) in (1..60u64).flat_map(|operations| (0..8).map(move |seed| (operations, seed))) {
        let disk = disk();
        disk.cut_after(operations);
        let answered = match Tables::open_on(Arc::new(disk.clone())) {
            Ok(tables) => tables.put(Table::Bans, "a", b"x".to_vec(), None).await.is_ok(),
            Err(_) => {
                unmade += 1;
                false
            }
        };
        let again = disk.restart(seed);
        let tables = Tables::open_on(Arc::new(again.clone())).expect("opens");
        assert!(!has_quarantine(&again), "after {operations} with {seed}");
        let found = text(&tables, Table::Bans, "a").await;
        assert!(!answered || found.as_deref() == Some("x"), "after {operations} with {seed}: {found:?}");
    }
    assert!(unmade > 40, "only {unmade} cuts came before the file was made");
}

#[tokio::test]
async fn what_a_start_finds_survives_even_if_the_sync_of_it_had_failed() {
    let mut shown = 0;
    for (seed, sync) in (0..60u64).flat_map(|seed| (0..2).map(move |sync| (seed, sync))) {
        let disk = Disk::new(1 << 30, Randomness::seeded(seed));
        let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
        tables.put(Table::Bans, "a", b"1".to_vec(), None).await.unwrap();
        disk.fail_after(book::NAME, Fault::Sync, sync);
        tables.put(Table::Bans, "a", b"2".to_vec(), None).await.expect_err("its sync fails");
        // Killed at once; the system shows what it took for written.
        drop(tables);
        let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
        let found = text(&tables, Table::Bans, "a").await;
        shown += usize::from(found.as_deref() == Some("2"));
        disk.cut_after(seed % 12);
        let mut answered = 0;
        for count in 1..=4u32 {
            match tables.put(Table::Bans, "b", count.to_string().into(), None).await {
                Ok(()) => answered = count,
                Err(_) => break,
            }
        }
        drop(tables);
        let again = disk.restart(seed);
        let tables = Tables::open_on(Arc::new(again.clone())).unwrap();
        assert!(!has_quarantine(&again), "seed {seed}, sync {sync}");
        assert_eq!(text(&tables, Table::Bans, "a").await, found, "seed {seed}, sync {sync}");
        let last = text(&tables, Table::Bans, "b").await.map_or(0, |count| count.parse::<u32>().unwrap());
        assert!(last == answered || last == answered + 1, "seed {seed}, sync {sync}: {last} after {answered}");
    }
    assert!(shown > 0, "no start was shown what was not durable");
}

fn has_quarantine(disk: &Disk) -> bool {
    disk.names().iter().any(|name| name.starts_with("quarantine/"))
}

#[tokio::test]
async fn real_files_are_locked_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::open(folder.path()).unwrap();
    tables.put_soon(Table::TlsSessions, "example.org", b"3".to_vec(), None);
    assert_eq!(
        text(&tables, Table::TlsSessions, "example.org").await.as_deref(),
        Some("3"),
        "seen before it is durable"
    );
    assert!(matches!(Tables::open(folder.path()), Err(TablesError::Open(why)) if why.contains("in use")));
    let clone = tables.clone();
    tables.close().await;
    assert!(clone.get(Table::TlsSessions, "example.org", NOW).await.is_err());
    let tables = Tables::open(folder.path()).expect("closed, though there is another clone");
    assert_eq!(text(&tables, Table::TlsSessions, "example.org").await.as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_many_never_lose_one_another() {
    for tables in [Tables::in_memory(), Tables::open_on(Arc::new(disk())).unwrap()] {
        let count = |found: Option<Vec<u8>>| found.map_or(0, |octets| octets.len());
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let tables = tables.clone();
                tokio::spawn(async move {
                    let more = move |found| Some((vec![0; count(found) + 1], None));
                    tables.update(Table::AuthFailures, "ann", NOW, more).await.unwrap()
                })
            })
            .collect();
        let mut seen = Vec::new();
        for task in tasks {
            seen.push(count(task.await.unwrap()));
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=50).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_update_sees_what_was_put_before_it_and_can_remove() {
    let tables = Tables::in_memory();
    tables.put_soon(Table::Bans, "a", b"x".to_vec(), Some(later(10)));
    let (tell, told) = tokio::sync::oneshot::channel();
    let gone = tables.update(Table::Bans, "a", NOW, move |found| {
        tell.send(found).unwrap();
        None
    });
    assert_eq!(gone.await.unwrap(), None);
    assert_eq!(told.await.unwrap(), Some(b"x".to_vec()));
    assert_eq!(text(&tables, Table::Bans, "a").await, None);
    let panics = tables.update(Table::Bans, "a", NOW, |_| panic!("on purpose"));
    assert_eq!(panics.await, Err(TablesError::NotMade));
    tables.put(Table::Bans, "a", b"y".to_vec(), None).await.unwrap();
    assert!(tables.remove(Table::Bans, "a").await.unwrap());
}

#[tokio::test]
async fn expired_records_are_seen_by_nobody_and_swept() {
    let disk = disk();
    let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
    tables.put(Table::Bans, "short", b"x".to_vec(), Some(later(10))).await.unwrap();
    tables.put(Table::Bans, "long", b"y".to_vec(), Some(later(100_000))).await.unwrap();
    assert_eq!(tables.get(Table::Bans, "short", later(9)).await.unwrap(), Some(b"x".to_vec()));
    assert_eq!(tables.get(Table::Bans, "short", later(10)).await.unwrap(), None);
    let anew = tables.update(Table::Bans, "short", later(10), |found| found.map(|value| (value, None)));
    assert_eq!(anew.await.unwrap(), None, "an update is not shown what expired");
    tables.put(Table::Bans, "short", b"x".to_vec(), Some(later(10))).await.unwrap();
    // A minute later any change sweeps.
    tables.get(Table::Bans, "long", later(100)).await.unwrap();
    tables.put(Table::Acme, "other", Vec::new(), None).await.unwrap();
    let all = tables.scan(Table::Bans, "", None, 10, Timestamp::from_millis(0)).await.unwrap();
    assert_eq!(all, [("long".to_owned(), b"y".to_vec(), Some(later(100_000)))]);
}

#[tokio::test]
async fn scans_go_through_a_prefix_in_pages_and_see_what_waits() {
    let tables = Tables::open_on(Arc::new(disk())).unwrap();
    for key in ["a/1", "b/1", "b/3", "b/4", "c/1"] {
        tables.put(Table::AppPasswords, key, key.into(), None).await.unwrap();
    }
    tables.put_soon(Table::AppPasswords, "b/2", b"soon".to_vec(), None);
    tables.put_soon(Table::AppPasswords, "b/4", b"new".to_vec(), None);
    tables.put_soon(Table::AppPasswords, "b/3", b"gone".to_vec(), Some(NOW));
    let keys = |page: Vec<(String, Vec<u8>, Option<Timestamp>)>| -> Vec<String> {
        page.into_iter().map(|(key, value, _)| format!("{key}={}", String::from_utf8(value).unwrap())).collect()
    };
    let first = tables.scan(Table::AppPasswords, "b/", None, 2, NOW).await.unwrap();
    assert_eq!(keys(first), ["b/1=b/1", "b/2=soon"]);
    let second = tables.scan(Table::AppPasswords, "b/", Some("b/2"), 2, NOW).await.unwrap();
    assert_eq!(keys(second), ["b/4=new"]);
    assert_eq!(tables.scan(Table::AppPasswords, "b/", Some("a/9"), 9, NOW).await.unwrap().len(), 3);
    assert_eq!(tables.scan(Table::AppPasswords, "", None, 9, NOW).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_full_table_lets_go_what_expires_next_and_otherwise_refuses() {
    let tables = Tables::in_memory();
    let most = Table::Acme.most();
    for n in 0..most {
        tables.put(Table::Acme, &format!("{n:09}"), Vec::new(), Some(later(1000 + n))).await.unwrap();
    }
    tables.put(Table::Acme, "new", Vec::new(), None).await.unwrap();
    assert_eq!(text(&tables, Table::Acme, "000000000").await, None);
    assert_eq!(text(&tables, Table::Acme, "000000001").await.as_deref(), Some(""));
    for n in 0..most - 1 {
        tables.put(Table::Acme, &format!("kept {n}"), Vec::new(), None).await.unwrap();
    }
    let refused = tables.put(Table::Acme, "one more", Vec::new(), None).await;
    assert_eq!(refused, Err(TablesError::Full(Table::Acme)));
    tables.put(Table::Acme, "new", b"changed".to_vec(), None).await.expect("not one more");
    let large = tables.put(Table::Bans, "k", vec![0; 5000], None).await;
    assert!(matches!(large, Err(TablesError::TooLarge { octets: 5001, .. })), "{large:?}");
}

#[tokio::test]
async fn a_broken_file_is_set_aside_and_begun_anew() {
    let disk = disk();
    let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
    tables.put(Table::Bans, "a", b"x".to_vec(), None).await.unwrap();
    tables.close().await;
    let file = disk.open(book::NAME).unwrap();
    file.write(&[IoSlice::new(&[0x5a; 4096])], 0).unwrap();
    file.sync().unwrap();
    let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
    assert!(has_quarantine(&disk));
    assert_eq!(text(&tables, Table::Bans, "a").await, None);
    tables.put(Table::Bans, "a", b"y".to_vec(), None).await.unwrap();
    assert_eq!(text(&tables, Table::Bans, "a").await.as_deref(), Some("y"));
}

#[tokio::test]
async fn a_failing_disk_is_an_error_until_it_works_again_and_what_is_put_soon_survives_it() {
    let disk = disk();
    let tables = Tables::open_on(Arc::new(disk.clone())).unwrap();
    tables.put(Table::Bans, "a", b"1".to_vec(), None).await.unwrap();
    for fault in [Fault::Sync, Fault::Write] {
        disk.fail_at(book::NAME, fault, 1);
        tables.put_soon(Table::Bans, "soon", b"later".to_vec(), None);
        let failed = tables.put(Table::Bans, "a", b"2".to_vec(), None).await;
        assert!(matches!(failed, Err(TablesError::Disk(_))), "{fault:?}: {failed:?}");
        assert_eq!(text(&tables, Table::Bans, "soon").await.as_deref(), Some("later"));
        tables.put(Table::Bans, "b", b"3".to_vec(), None).await.expect("the disk works again");
    }
    tables.close().await;
    let tables = Tables::open_on(Arc::new(disk.restart(3))).unwrap();
    assert_eq!(text(&tables, Table::Bans, "soon").await.as_deref(), Some("later"));
    assert_eq!(text(&tables, Table::Bans, "b").await.as_deref(), Some("3"));
}
