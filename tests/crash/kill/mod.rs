//! `kill -9` at random moments under load: what was acknowledged arrives, whole, for each of its recipients.
//!
//! Clients of ours write down each message when they have read its 250, swaks and curl when they end well, and for
//! `smtp-source` of Postfix a wire between it and the server notes each 250 that passes. One sink takes everything, one puts every
//! recipient off once, one refuses: then the sender must be told. The moments fall into the start, into the work of a
//! moment after it, and into full load; the store is set up so that checkpoints, new segments and compaction are always
//! near. A seed repeats the choices of a run; the moments are as exact as the machine is.

mod copies;
mod ledger;
mod relay;
mod tools;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mail::Randomness;

use crate::harness::{Postrider, Script, Setup, Sink};
use crate::letters::{Kind, busy};
use crate::load::{Load, Manner};
use crate::options;
use ledger::Ledger;
use relay::Relay;
use tools::{Source, Tools};

/// Kills of the short version.
const KILLS: u64 = 10;
/// After so many every client must have got something through.
const MANY_KILLS: u64 = 50;
/// How long the queue may stay as it is when the load is over.
const STANDSTILL: Duration = Duration::from_secs(30);

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let seed = options::seed("POSTRIDER_CRASH_SEED");
    let kills = options::number("POSTRIDER_CRASH_KILLS").unwrap_or(KILLS);
    let (begun, randomness) = (Instant::now(), Randomness::seeded(seed));
    let sinks = Sinks::start();
    let setup = sinks.setup();
    let mut ledger = Ledger::default();
    let load = Load::start(setup.address, seed, Manner { clients: 4, pause: Duration::ZERO });
    let (tools, relay) = (Tools::start(&setup), Relay::start(setup.address));
    for round in 1..=kills {
        // In some lives nothing leaves, so that there is a queue to take up in the next.
        sinks.open(round % 5 > 1);
        one_life(&setup, &sinks, relay.address(), &mut ledger, &randomness);
        if round % 10 == 0 {
            eprintln!("{round} of {kills} kills, {} s: {}", begun.elapsed().as_secs(), ledger.so_far());
        }
    }
    ledger.sent.extend(load.stop());
    ledger.sent.extend(tools.stop());
    ledger.sent.extend(tools::of_source(relay.stop()));
    sinks.open(true);
    let server = Postrider::start(&setup);
    ledger.taken_up = messages(&server);
    ledger.left = drained(&server, &sinks, &mut ledger);
    server.stop();
    ledger.collect(&sinks, Duration::ZERO);

    let missing = ledger.missing();
    eprintln!("{kills} kills in {} s: {}", begun.elapsed().as_secs(), ledger.describe(missing.len()));
    options::report("POSTRIDER_CRASH_JSON", &ledger.to_json(kills, seed, begun.elapsed(), missing.len()));
    assert_eq!(missing, Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert_eq!(ledger.broken, Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert_eq!(ledger.beyond_the_window, Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert_eq!(ledger.unexcused(&sinks), Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert_eq!(ledger.told_anew(), Vec::<String>::new(), "POSTRIDER_CRASH_SEED={seed}");
    assert!(ledger.left.is_empty(), "messages do not leave: {:?}", ledger.left);
    assert!(ledger.sent.len() > 100, "the load was no load: {} messages", ledger.sent.len());
    let silent = tools::silent(&ledger);
    assert!(kills < MANY_KILLS || silent.is_empty(), "nothing got through from {silent:?}");
}

/// From the start to the kill.
fn one_life(setup: &Setup, sinks: &Sinks, relay: SocketAddr, ledger: &mut Ledger, randomness: &Randomness) {
    let server = Postrider::launch(setup);
    let moment = match randomness.below(4) {
        // It still reads the log, or makes the files it needs.
        0 => randomness.below(40),
        // It has just begun with what was left.
        1 => {
            server.event("ready");
            randomness.below(50)
        }
        _ => {
            server.event("ready");
            randomness.below(1200)
        }
    };
    let source = Source::start(relay);
    ledger.collect(sinks, Duration::from_millis(moment as u64));
    let log = server.kill();
    sinks.end_life();
    drop(source);
    // What the server could still read a reply about was told to us before that reply.
    ledger.collect(sinks, Duration::ZERO);
    ledger.end_life(&log);
}

/// One sink for each kind of recipient.
struct Sinks {
    taken: Sink,
    late: Sink,
    refused: Sink,
}

impl Sinks {
    fn start() -> Self {
        Self { taken: Sink::start(), late: Sink::start(), refused: Sink::start() }
    }

    fn setup(&self) -> Setup {
        let times = "[retry]\nfirst = \"1s\"\nmost = \"1s\"\n[delivery]\nrest_first = \"1s\"\nrest_most = \"1s\"";
        let setup = busy(Setup::new().table(times));
        let setup = setup.route(&Kind::Late.domain(), &self.late.address().to_string());
        let setup = setup.route(&Kind::Refused.domain(), &self.refused.address().to_string());
        setup.route("*", &self.taken.address().to_string())
    }

    /// Lets mail in, or nothing at all.
    fn open(&self, open: bool) {
        let greeting = (!open).then(|| "421 4.3.2 not now".to_owned());
        let closed = Script { greeting, ..Script::default() };
        self.taken.answer(closed.clone());
        self.late
            .answer(Script { first: Some((Kind::Late.word().into(), "451 4.7.1 once more".into())), ..closed.clone() });
        self.refused.answer(Script { recipient: vec![crate::letters::refused()], ..closed });
    }

    /// The server has been killed.
    fn end_life(&self) {
        self.all().into_iter().for_each(Sink::end_life);
    }

    fn all(&self) -> [&Sink; 3] {
        [&self.taken, &self.late, &self.refused]
    }
}

/// Waits until the queue is empty; gives the ids of what is still there if nothing leaves any more.
fn drained(server: &Postrider, sinks: &Sinks, ledger: &mut Ledger) -> HashSet<String> {
    let (mut left, mut moved) = (u64::MAX, Instant::now());
    while left > 0 && moved.elapsed() < STANDSTILL {
        let now = messages(server);
        if now < left {
            (left, moved) = (now, Instant::now());
        }
        ledger.collect(sinks, Duration::from_millis(100));
    }
    let listed = server.command(&["queue", "list", "--json", "--limit", "1000000"]).json();
    if let Some(first) = listed.first() {
        eprintln!("{} messages do not leave: {first}", listed.len());
    }
    listed.iter().filter_map(|message| message["id"].as_str().map(str::to_owned)).collect()
}

/// How many messages are in the queue.
fn messages(server: &Postrider) -> u64 {
    let status = server.command(&["status", "--json"]).json();
    status[0]["store"]["messages"].as_u64().expect("a count")
}
