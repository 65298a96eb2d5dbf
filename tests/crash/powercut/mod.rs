//! Power cuts: what the real server wrote and synced is recorded call by call; then, for cuts at any moment and for
//! everything that a disk may have made of what was not synced, the folder is rebuilt, the server started on it, and the
//! ledger of that very moment compared. `docs/internals/crash.md` says how, and what is taken for granted.

mod cut;
mod disk;
mod fate;
mod history;
mod recording;
mod trace;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::options;
use cut::{Bench, Finding, Plan};
use fate::Belief;
use recording::{Recording, Work};

/// Cuts of the short version.
const CUTS: u64 = 40;
/// Cuts that are tried before a planted fault is asked after, and how often so many.
const BATCH: u64 = 4;
const BATCHES: u64 = 12;

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    if let Err(why) = recording::strace() {
        return options::skip("POSTRIDER_POWERCUT_CUTS", &why);
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = options::path("POSTRIDER_POWERCUT_FOLDER").unwrap_or_else(|| temporary.path().to_path_buf());
    let one = options::number("POSTRIDER_POWERCUT_CUT");
    let cuts = options::number("POSTRIDER_POWERCUT_CUTS").unwrap_or(CUTS);
    let (recording, seed) = match one {
        Some(_) => {
            let recording = Recording::at(&folder.join("recording"));
            let seed = recording.seed().expect("a recording of an earlier run");
            (recording, options::number("POSTRIDER_POWERCUT_SEED").unwrap_or(seed))
        }
        None => {
            let seed = options::seed("POSTRIDER_POWERCUT_SEED");
            (made(&folder.join("recording"), seed, cuts), seed)
        }
    };
    let (history, ledger) = recording.read(false).expect("a recording that explains what is on the disk");
    let plan = Plan::new(history, ledger, seed, Belief::All, 4);
    let totals = run(&plan, one.map_or(0..cuts, |cut| cut..cut + 1));
    totals.tell(&plan);
    for (number, _) in totals.wrong.iter().take(3).filter(|_| folder != temporary.path()) {
        let image = plan.image(&plan.cut(*number));
        let kept = cut::keep(&image, &folder.join(format!("cut-{number}")));
        eprintln!("cut {number} is kept in {} ({} octets)", kept.display(), cut::size(&image));
    }
    assert!(totals.wrong.is_empty(), "{:#?}\nPOSTRIDER_POWERCUT_SEED={seed}", totals.wrong);
    assert!(plan.ledger.work.checkpoints > 0 && plan.history.disk.names_changed() > 10, "the store had nothing to do");
    // A slow machine does not come to so many syncs in a short life.
    assert!(cuts <= CUTS || plan.history.disk.failed_syncs() > 0, "no sync failed");
    assert!(one.is_some() || totals.recipients > cuts, "hardly anything was acknowledged: {}", totals.recipients);
}

#[test]
fn a_server_that_would_not_sync_is_found_out() {
    if let Err(why) = recording::strace() {
        return options::skip("POSTRIDER_POWERCUT_CUTS", &why);
    }
    let seed = options::seed("POSTRIDER_POWERCUT_SEED");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let recording = made(temporary.path(), seed, 0);
    for belief in [Belief::NoFileSyncs, Belief::NoNameSyncs, Belief::EarlyReplies] {
        let (history, ledger) = recording.read(belief == Belief::EarlyReplies).expect("a good recording");
        let plan = Plan::new(history, ledger, seed, belief, 4);
        // Not every moment is one at which it would show.
        let first = (0..BATCHES).find_map(|batch| {
            let totals = run(&plan, batch * BATCH..(batch + 1) * BATCH);
            let mut wrong =
                totals.wrong.into_iter().filter(|(_, wrong)| wrong.iter().any(|one| one.starts_with("lost: ")));
            wrong.next().map(|(number, _)| number)
        });
        eprintln!("{belief:?}: the first cut with a loss is {first:?}");
        assert!(first.is_some(), "{belief:?} goes unnoticed");
    }
}

/// Records as much as so many cuts deserve.
fn made(folder: &Path, seed: u64, cuts: u64) -> Recording {
    let (lives, length) = if cuts > 200 { (5, Duration::from_secs(3)) } else { (3, Duration::from_millis(1200)) };
    Recording::make(folder, seed, lives, length)
}

/// What a run of cuts has shown.
#[derive(Debug, Default)]
struct Totals {
    cuts: u64,
    drained: u64,
    again: u64,
    recipients: u64,
    queued: u64,
    delivered: u64,
    told: u64,
    twice: u64,
    /// Why, and how often.
    rebuilt: BTreeMap<String, u64>,
    starts: Vec<u64>,
    wrong: Vec<(u64, Vec<String>)>,
    time: Duration,
}

/// Tries cuts, as many at a time as the machine has processors.
fn run(plan: &Plan, numbers: Range<u64>) -> Totals {
    let (next, begun) = (AtomicU64::new(numbers.start), Instant::now());
    let totals = Mutex::new(Totals::default());
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let bench = Bench::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let finding = attempt(plan, &bench, number);
                    let mut totals = totals.lock().expect("no worker panics with it");
                    totals.add(number, finding);
                    if totals.cuts.is_multiple_of(100) {
                        let (cuts, wrong) = (totals.cuts, totals.wrong.len());
                        eprintln!("{cuts} of {} cuts, {wrong} bad, {} s", numbers.end, begun.elapsed().as_secs());
                    }
                }
            });
        }
    });
    let mut totals = totals.into_inner().expect("no worker panics with it");
    totals.time = begun.elapsed();
    totals
}

fn attempt(plan: &Plan, bench: &Bench, number: u64) -> Finding {
    let cut = plan.cut(number);
    // A server that does not start makes the harness panic; that is a finding too.
    let mut finding = catch_unwind(AssertUnwindSafe(|| bench.attempt(plan, &cut))).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        Finding { wrong: vec![format!("the server does not do its work: {why}")], ..Finding::default() }
    });
    if !finding.wrong.is_empty() {
        finding.wrong.insert(0, format!("cut {number} at line {}: {}", cut.moment, cut.fate.describe()));
        finding.wrong.truncate(8);
        if plan.belief == Belief::All {
            eprintln!("{:#?}", finding.wrong);
        }
    }
    finding
}

impl Totals {
    fn add(&mut self, number: u64, finding: Finding) {
        self.cuts += 1;
        self.drained += u64::from(finding.drained);
        self.recipients += finding.recipients;
        self.queued += finding.queued;
        self.delivered += finding.delivered;
        self.told += finding.told;
        self.twice += finding.twice;
        for why in finding.rebuilt.into_iter().chain(finding.rebuilt_again) {
            *self.rebuilt.entry(why).or_default() += 1;
        }
        self.again += finding.again;
        self.starts.push(finding.start);
        if !finding.wrong.is_empty() {
            self.wrong.push((number, finding.wrong));
        }
    }

    fn tell(&self, plan: &Plan) {
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let median = starts.get(starts.len() / 2).copied().unwrap_or(0);
        let most = starts.last().copied().unwrap_or(0);
        let messages = plan.history.acknowledged.len();
        let rebuilds: u64 = self.rebuilt.values().sum();
        let Work { checkpoints, compacted } = plan.ledger.work;
        eprintln!(
            "recorded: {} lines, {messages} messages acknowledged, {checkpoints} checkpoints, {compacted} messages \
             compacted, {} changes of names, {} failed syncs",
            plan.history.end,
            plan.history.disk.names_changed(),
            plan.history.disk.failed_syncs(),
        );
        eprintln!(
            "{} cuts: {} recipients looked for, {} in the queue, {} delivered, {} told to the sender, {} to arrive twice; \
             {} cuts delivered to the end; the power went once more during the start {} times; the index was built anew \
             {rebuilds} times {:?}; start {median} ms in the median, {most} ms at most; {} cuts bad; \
             {} s",
            self.cuts,
            self.recipients,
            self.queued,
            self.delivered,
            self.told,
            self.twice,
            self.drained,
            self.again,
            self.rebuilt,
            self.wrong.len(),
            self.time.as_secs(),
        );
        let totals = json!({
            "cuts": self.cuts, "seed": plan.seed, "lines": plan.history.end, "messages": messages,
            "recipients": self.recipients, "queued": self.queued, "delivered": self.delivered, "told": self.told,
            "twice": self.twice, "drained": self.drained, "cut_again": self.again,
            "index_rebuilds": rebuilds, "checkpoints": checkpoints, "compacted": compacted,
            "start_ms": { "median": median, "most": most }, "bad": self.wrong, "seconds": self.time.as_secs(),
        });
        options::report("POSTRIDER_POWERCUT_JSON", &totals);
    }
}
