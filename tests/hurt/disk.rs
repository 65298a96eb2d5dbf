//! A disk without room.

use std::path::PathBuf;

use crate::SOON;
use crate::clients::{Ledger, closed_sink, metric, until_empty};
use crate::harness::{Postrider, Script, Setup, Sink, wait_for};
use crate::system::Mount;

/// More than the preallocated files of the log can take.
const MANY: usize = 200;

fn folder(setup: &Setup) -> PathBuf {
    setup.folder().join("queue")
}

/// Sends large messages until one is refused; with what words, if one was.
fn post_until_refused(ledger: &mut Ledger, server: &Postrider) -> Option<String> {
    let large = "all work and no play\r\n".repeat(5000);
    let post = |number| ledger.post(server.setup().address, &format!("large{number}"), &large).err();
    (0..MANY).find_map(post)
}

/// What the server says of why it takes no mail.
fn intake(server: &Postrider) -> String {
    server.command(&["status"]).good()
}

#[test]
fn little_free_space_stops_intake_and_nothing_else() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).floors("free_space = \"8MiB\"\nfree_inodes = 0").table(SOON);
    let Some(disk) = Mount::at(&folder(&setup), "size=64m") else { return };
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("there is room");

    let filler = disk.fill();
    let refused = wait_for("a refusal", || ledger.post(setup.address, &format!("n{}", ledger.len()), "hello").err());
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    server.wait("the reason", |line| line["event"] == "no room for a message" && line["reason"] == "space");
    assert!(metric(&server, "postrider_reception_messages_refused_total{reason=\"space\"}") >= 1.0);
    assert!(intake(&server).contains("closed: space"), "{}", intake(&server));

    sink.answer(Script::default());
    until_empty(&server);
    drop(filler);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    server.stop();
}

#[test]
fn a_disk_without_a_single_free_block_loses_nothing() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let Some(disk) = Mount::at(&folder(&setup), "size=32m") else { return };
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("there is room");

    let filler = disk.fill();
    let refused = post_until_refused(&mut ledger, &server).expect("a full disk takes no mail");
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    server.wait("the reason", |line| {
        line["reason"] == "space" || line["reason"] == "failing" || line["reason"] == "disk"
    });

    // What was acknowledged is delivered and its outcomes are kept, still without a free block.
    sink.answer(Script::default());
    until_empty(&server);
    drop(filler);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    server.stop();

    // Nor does anything come back that was delivered while the disk was full.
    restarted_without_echo(&setup, &sink);
}

#[test]
fn few_free_inodes_stop_intake_and_nothing_else() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).floors("free_space = \"0B\"\nfree_inodes = 20").table(SOON);
    let Some(disk) = Mount::at(&folder(&setup), "size=64m,nr_inodes=100") else { return };
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("there is room");

    let clutter = disk.clutter();
    let refused = wait_for("a refusal", || ledger.post(setup.address, &format!("n{}", ledger.len()), "hello").err());
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    server.wait("the reason", |line| line["event"] == "no room for a message" && line["reason"] == "inodes");
    assert!(intake(&server).contains("closed: inodes"), "{}", intake(&server));

    sink.answer(Script::default());
    until_empty(&server);
    drop(clutter);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    server.stop();
}

#[test]
fn a_disk_without_a_single_free_inode_loses_nothing() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let Some(disk) = Mount::at(&folder(&setup), "size=256m,nr_inodes=100") else { return };
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    let clutter = disk.clutter();
    let refused = post_until_refused(&mut ledger, &server).expect("no new file of the log can be made");
    assert!(refused.starts_with("452 4.3.1"), "{refused}");

    sink.answer(Script::default());
    until_empty(&server);
    drop(clutter);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    server.stop();
    restarted_without_echo(&setup, &sink);
}

/// Starts the server again; all that comes is what is sent now.
fn restarted_without_echo(setup: &Setup, sink: &Sink) {
    let server = Postrider::start(setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "restarted", "hello").expect("a good disk");
    ledger.settle(sink);
    until_empty(&server);
    assert!(sink.is_empty());
    server.stop();
}
