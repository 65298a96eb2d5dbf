//! A disk that fails: EIO from the system calls that the store makes.

use crate::SOON;
use crate::clients::{Ledger, closed_sink, metric, until_empty};
use crate::harness::{Postrider, Script, Setup, Sink, wait_for};
use crate::system::Fault;

#[test]
fn a_sync_that_fails_acknowledges_nothing() {
    refuses_while_it_lasts("fdatasync,fsync");
}

#[test]
fn a_write_that_fails_acknowledges_nothing() {
    refuses_while_it_lasts("pwritev,pwrite64");
}

/// While these calls fail new mail is refused, and afterwards all is well.
fn refuses_while_it_lasts(calls: &str) {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("a good disk");

    let Some(fault) = Fault::inject(server.pid(), calls, "EIO") else { return };
    for number in 0..3 {
        let refused = ledger.post(setup.address, &format!("during{number}"), "hello").expect_err("a bad disk");
        assert!(refused.starts_with("452 4.3.1"), "{refused}");
    }
    server.wait("the failure", |line| line["level"] == "error" && line.to_string().contains("Input/output error"));
    assert!(metric(&server, "postrider_store_batch_failures_total") >= 1.0);
    // While nothing can be written down, a delivery is tried once at most: it comes when the disk is well again, and once.
    sink.answer(Script::default());
    drop(fault);
    ledger.post_at_last(setup.address, "after");
    ledger.settle(&sink);
    until_empty(&server);
    server.stop();

    // What was refused is not there, and what was delivered does not come back.
    let server = Postrider::start(&setup);
    let mut restarted = Ledger::default();
    restarted.post(setup.address, "restarted", "hello").expect("a good disk");
    restarted.settle(&sink);
    until_empty(&server);
    assert!(sink.is_empty());
}

#[test]
fn a_read_that_fails_puts_mail_off_until_it_works() {
    let sink = closed_sink();
    let setup = Setup::to(&sink).table(SOON);
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    // One that memory kept and forgot after the first attempt, and one that was never in memory as a whole.
    ledger.post(setup.address, "small", "hello").expect("a good disk");
    let large = "all work and no play\r\n".repeat(100_000);
    ledger.post(setup.address, "large", &large).expect("a good disk");
    server.event("deferred");

    let Some(fault) = Fault::inject(server.pid(), "pread64,preadv", "EIO") else { return };
    sink.answer(Script::default());
    server.wait("the failure", |line| line["level"] == "error" && line["event"] == "the store cannot read");
    // Mail is taken and delivered all the same as long as nothing must be read for it.
    ledger.post(setup.address, "during", "hello").expect("nothing is read to take mail");
    let arrived = sink.next();
    assert_eq!(arrived.to, ["during@example.net"]);
    drop(fault);

    let mut rest: Vec<String> = (0..2).flat_map(|_| sink.next().to).collect();
    rest.sort();
    assert_eq!(rest, ["large@example.net", "small@example.net"]);
    until_empty(&server);
    assert!(sink.is_empty());
    server.stop();
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nothing() {
    let sink = Sink::start();
    let setup = Setup::to(&sink).table(SOON);
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    let mut refused = 0;
    for round in 0..6 {
        let Some(fault) = Fault::inject(server.pid(), "fdatasync", "EIO:when=2+3") else { return };
        for number in 0..10 {
            match ledger.post(setup.address, &format!("r{round}n{number}"), "hello") {
                Ok(()) => {}
                Err(reply) => {
                    assert!(reply.starts_with("452 4.3.1"), "{reply}");
                    refused += 1;
                }
            }
        }
        drop(fault);
        wait_for("service again", || ledger.post(setup.address, &format!("r{round}ok"), "hello").ok());
    }
    assert!(refused > 0, "the disk never failed");
    ledger.settle(&sink);
    until_empty(&server);
    server.stop();
}
