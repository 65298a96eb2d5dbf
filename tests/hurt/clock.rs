//! A wall clock that jumps, by libfaketime: the monotonic clock goes on as it does on a real machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::clients::{Ledger, closed_sink};
use crate::harness::{Postrider, Script, Setup, Sink, binary, skipped};

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock of a server.
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right; nothing if libfaketime is not installed.
    fn new(setup: &Setup) -> Option<Self> {
        let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let library = places.iter().map(|place| Path::new(place).join(LIBRARY)).find(|file| file.is_file());
        if library.is_none() {
            skipped("libfaketime is not installed");
        }
        let clock = Self { library: library?, file: setup.folder().join("clock") };
        clock.set("+0");
        Some(clock)
    }

    /// Sets it: `-1h`, `+31d` against the real one.
    fn set(&self, offset: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, offset).expect("our own file");
        std::fs::rename(new, &self.file).expect("our own file");
    }

    /// A server that lives by this clock.
    fn start(&self, setup: &Setup) -> Postrider {
        setup.write();
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(setup.config()).stdin(Stdio::null());
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        let server = Postrider::run(command, setup);
        server.event("ready");
        server
    }
}

/// Two seconds between attempts.
const RETRY: &str = "[retry]\nintervals = [\"2s\"]\njitter = 0\nexpire = \"5d\"\n\
                     [delivery]\nrest_first = \"500ms\"\nrest_most = \"500ms\"";

/// A server on a right clock, with a message that was put off once because the sink is closed. Another sink is open.
fn with_mail_put_off(sink: &Sink, open: &Sink) -> Option<(Clock, Postrider, Ledger)> {
    let setup = Setup::new().route("open.test", &open.address().to_string());
    let setup = setup.route("*", &sink.address().to_string()).table(RETRY);
    let clock = Clock::new(&setup)?;
    let server = clock.start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("a good clock");
    server.event("deferred");
    Some((clock, server, ledger))
}

/// A client is served and its mail delivered, whatever the clock says; once, and at once.
fn served(server: &Postrider, open: &Sink) {
    let id = server.client().send("a@example.org", &["b@open.test"], "Subject: hi\r\n\r\nhello\r\n");
    assert_eq!(open.next().to, ["b@open.test"]);
    let delivered = server.wait("the delivery", |line| line["event"] == "delivered" && line["message"] == *id);
    assert_eq!(delivered["attempts"], 1, "{delivered}");
    server.wait("its end", |line| line["event"] == "finished" && line["message"] == *id);
    assert!(open.is_empty());
}

#[test]
fn a_clock_set_back_by_an_hour_stalls_nothing() {
    let (sink, open) = (closed_sink(), Sink::start());
    let Some((clock, server, mut ledger)) = with_mail_put_off(&sink, &open) else { return };

    clock.set("-1h");
    let told = server.event("the wall clock went back; attempts come when they would have come");
    assert!(told["seconds"].as_u64().is_some_and(|seconds| (3590..3610).contains(&seconds)), "{told}");
    ledger.post(server.setup().address, "after", "hello").expect("the clock is no reason to refuse");
    served(&server, &open);
    sink.answer(Script::default());
    ledger.settle(&sink);
    server.stop();
}

#[test]
fn a_clock_that_jumps_ahead_by_a_month_expires_nothing_at_once() {
    let (sink, open) = (closed_sink(), Sink::start());
    let Some((clock, mut server, mut ledger)) = with_mail_put_off(&sink, &open) else { return };

    clock.set("+31d");
    let told = server.event("the wall clock jumped ahead; nothing expires for an hour");
    assert!(told["seconds"].as_u64().is_some_and(|seconds| seconds > 30 * 86_400), "{told}");
    // A further attempt after the jump did not end it, though it is a month old by now.
    let month = 30 * 86_400_000;
    server.wait("an attempt after the jump", |line| {
        line["event"] == "deferred" && line["age_ms"].as_u64().is_some_and(|age| age > month)
    });
    // Meanwhile clients are served: what comes and leaves, and what must wait.
    served(&server, &open);
    ledger.post(server.setup().address, "meanwhile", "hello").expect("the clock is no reason to refuse");
    // Set right again it goes on as if nothing had been, for mail that is from the future by now too.
    clock.set("+0");
    server.event("the wall clock went back; attempts come when they would have come");
    served(&server, &open);
    ledger.post(server.setup().address, "after", "hello").expect("the clock is no reason to refuse");
    sink.answer(Script::default());
    ledger.settle(&sink);
    server.signal("TERM");
    assert!(server.wait_exit().success());
    assert!(!server.log_text().contains("\"event\":\"expired\""), "{}", server.log_text());
}

#[test]
fn a_month_that_has_really_passed_expires_and_tells_the_sender() {
    let sink = closed_sink();
    let reports = Sink::start();
    let setup = Setup::new().route("example.org", &reports.address().to_string());
    let setup = setup.route("*", &sink.address().to_string()).table(RETRY);
    let Some(clock) = Clock::new(&setup) else { return };
    let server = clock.start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "before", "hello").expect("a good clock");
    server.event("deferred");
    server.stop();

    // The machine was off for a month: the next attempt is the last.
    clock.set("+31d");
    let server = clock.start(&setup);
    server.event("expired");
    let report = reports.next();
    assert_eq!((report.from.as_str(), report.to.as_slice()), ("", ["a@example.org".to_owned()].as_slice()));
    server.stop();
}
