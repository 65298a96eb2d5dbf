//! No more file descriptors.

use std::process::{Command, Stdio};

use crate::SOON;
use crate::clients::{Ledger, closed_sink, metric};
use crate::harness::{Client, Postrider, Script, Setup, binary, wait_for};
use crate::system::{limit_files, open_files};

#[test]
fn clients_wait_while_files_are_out_and_nothing_bounces() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("there are files");

    if !limit_files(server.pid(), open_files(server.pid()) + 4) {
        return;
    }
    let mut idle: Vec<Client> = (0..12).map(|_| Client::open(setup.address)).collect();
    let log = server.wait("the reason", |line| line["event"] == "cannot accept a connection");
    assert!(log["error"].as_str().is_some_and(|error| error.contains("Too many open files")), "{log}");
    // The mail of the queue cannot leave now; it must wait, and not bounce.
    sink.answer(Script::default());
    server.wait("a deferral", |line| line["event"] == "deferred" && line.to_string().contains("Too many open files"));

    // The clients that wait for their greeting get it as soon as others go.
    let mut waiting = idle.split_off(11);
    drop(idle);
    for client in &mut waiting {
        client.expect(220);
        client.say("EHLO client.test", 250);
        ledger.post_by(client, "after", "hello").expect("there are files again");
    }
    ledger.settle(&sink);
    server.event("accepting connections again");
    server.stop();
}

#[test]
fn the_log_goes_on_when_no_new_file_can_be_opened() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let server = Postrider::start(&setup);
    let mut client = server.client();
    let mut ledger = Ledger::default();
    if !limit_files(server.pid(), open_files(server.pid())) {
        return;
    }
    // Enough for several files of the log, over the one connection that there is.
    let large = "all work and no play\r\n".repeat(5000);
    let mut refused = None;
    for number in 0..100 {
        if let Err(reply) = ledger.post_by(&mut client, &format!("n{number}"), &large) {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("no new file of the log can be opened");
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    let told = server.event("the store's disk fails: no new mail until it works again");
    assert!(told.to_string().contains("Too many open files"), "{told}");
    assert!(limit_files(server.pid(), 1000));
    wait_for("service again", || {
        ledger.post_by(&mut client, "after", "hello").ok().or_else(|| {
            client.say("RSET", 250);
            None
        })
    });
    sink.answer(Script::default());
    ledger.settle(&sink);
    server.stop();
}

#[test]
fn clients_never_take_the_files_that_the_log_and_deliveries_need() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    setup.write();
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -n 200; exec \"$0\" serve --config \"$1\"").arg(binary()).arg(setup.config());
    command.stdin(Stdio::null());
    let server = Postrider::run(command, &setup);
    let warned = server.wait("a warning", |line| line["allowed"] == 200 && line["level"] == "warn");
    let most = warned["clients"].as_u64().expect("how many there may be");
    server.event("ready");

    let mut ledger = Ledger::default();
    let mut first = server.client();
    let crowd: Vec<String> =
        (0..most + 20).map(|_| Client::open(setup.address)).collect::<Vec<_>>().iter_mut().map(Client::reply).collect();
    let refused = crowd.iter().filter(|greeting| greeting.starts_with("421 4.3.2")).count();
    assert_eq!(refused, 21, "all beyond {most}, the first client counted");
    ledger.post_by(&mut first, "one", "hello").expect("who is in is served");
    sink.answer(Script::default());
    ledger.settle(&sink);
    assert_eq!(metric(&server, "postrider_reception_accept_errors_total"), 0.0);
    server.stop();
}
