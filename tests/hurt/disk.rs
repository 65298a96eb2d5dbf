//! A disk without room.

use std::path::PathBuf;

use crate::SOON;
use crate::clients::{Ledger, closed_sink, metric, until_empty};
use crate::harness::{Postrider, Script, Setup, Sink, wait_for};
use crate::system::{Filler, Mount};

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
    below_a_floor("free_space = \"8MiB\"\nfree_inodes = 0", "size=64m", Mount::fill, "space");
}

#[test]
fn few_free_inodes_stop_intake_and_nothing_else() {
    below_a_floor("free_space = \"0B\"\nfree_inodes = 20", "size=64m,nr_inodes=100", Mount::clutter, "inodes");
}

/// A disk with these options that has less free than the floors ask, for this reason.
fn below_a_floor(floors: &'static str, options: &str, use_up: fn(&Mount) -> Filler, reason: &str) {
    let sink = closed_sink();
    let setup = Setup::to(&sink).floors(floors).table(SOON);
    let Some(disk) = Mount::at(&folder(&setup), options) else { return };
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("there is room");

    let used_up = use_up(&disk);
    let refused = wait_for("a refusal", || ledger.post(setup.address, &format!("n{}", ledger.len()), "hello").err());
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    server.wait("the reason", |line| line["event"] == "no room for a message" && line["reason"] == reason);
    let refusals = format!("postrider_reception_messages_refused_total{{reason=\"{reason}\"}}");
    assert!(metric(&server, &refusals) >= 1.0);
    assert!(intake(&server).contains(&format!("closed: {reason}")), "{}", intake(&server));

    sink.answer(Script::default());
    until_empty(&server);
    drop(used_up);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    server.stop();
}

#[test]
fn a_disk_without_a_single_free_block_loses_nothing() {
    nothing_left("size=32m", Mount::fill);
}

#[test]
fn a_disk_without_a_single_free_inode_loses_nothing() {
    nothing_left("size=256m,nr_inodes=100", Mount::clutter);
}

/// A disk with these options of which all is used up, without a floor that would stop intake before.
fn nothing_left(options: &str, use_up: fn(&Mount) -> Filler) {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let Some(disk) = Mount::at(&folder(&setup), options) else { return };
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("there is room");

    let used_up = use_up(&disk);
    let refused = post_until_refused(&mut ledger, &server).expect("a full disk takes no mail");
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    // The first write that fails is that of a message; those who come later are told at once.
    server.event("the store's disk fails: no new mail until it works again");
    server.wait("the reason", |line| {
        (line["event"] == "message refused" && line["reason"] == "disk")
            || (line["event"] == "no room for a message" && line["reason"] == "failing")
    });

    // What was acknowledged is delivered and its outcomes are kept, still without a free block or inode.
    sink.answer(Script::default());
    until_empty(&server);
    drop(used_up);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    server.stop();

    // Nor does anything come back that was delivered while the disk was full.
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
