//! `./dev simulate`: runs seeds and tells which of them fail.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::{Counts, Kind, Options, Planted, Report, run, shrink};

/// Runs the rooms of Postrider in simulated worlds, each from a seed, and checks what must always hold.
#[derive(Parser)]
#[command(name = "simulate", bin_name = "./dev simulate")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed to run.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Runs this seed alone and tells its story.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Kinds of harm to leave out: kill, power, disk, dns, clock, hosts, senders, operators, routes, stops.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Kind>,
    /// The most messages of a world.
    #[arg(long)]
    messages: Option<usize>,
    /// The most pieces of harm of a world.
    #[arg(long)]
    harms: Option<usize>,
    /// Large worlds: thousands of senders, tens of domains, weeks.
    #[arg(long)]
    large: bool,
    /// Puts a fault in, to see that it is found: ack-before-sync, outcome-before-report, lost-schedule-entry, double-pop,
    /// retry-without-bound, report-for-null.
    #[arg(long)]
    planted: Option<Planted>,
    /// Worlds at a time; as many as there are processors if it is not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Tells the result as JSON, one line.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn options(&self, seed: u64) -> Options {
        Options {
            seed,
            without: self.without.iter().copied().collect(),
            messages: self.messages,
            harms: self.harms,
            large: self.large,
            planted: self.planted,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None => many(&arguments),
    }
}

fn one(arguments: &Arguments, seed: u64) -> ExitCode {
    let report = run(&arguments.options(seed), true);
    if arguments.json {
        println!("{}", json(&[&report], 1, Duration::ZERO));
    } else {
        report.lines.iter().for_each(|line| println!("{line}"));
        println!("{}", summary(&report.counts));
    }
    match &report.failure {
        Some(failure) => {
            eprintln!("seed {seed}: {}: {}", failure.invariant, failure.found);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// What the threads share.
struct Progress {
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    totals: Mutex<Counts>,
    failed: Mutex<Option<Report>>,
}

fn many(arguments: &Arguments) -> ExitCode {
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let end = arguments.from.saturating_add(arguments.seeds);
    let progress = Progress {
        next: AtomicU64::new(arguments.from),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        totals: Mutex::default(),
        failed: Mutex::default(),
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(|| work(arguments, end, &progress))).collect();
        let mut told = Instant::now();
        // A thread that panics ends too, and the scope tells.
        while working.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= Duration::from_secs(10) && !arguments.json {
                told = Instant::now();
                eprintln!("{}", rate(&progress, began));
            }
        }
    });
    let failed = progress.failed.lock().ok().and_then(|mut failed| failed.take());
    let done = progress.done.load(Ordering::Relaxed);
    if arguments.json {
        println!("{}", json(&failed.iter().collect::<Vec<_>>(), done, began.elapsed()));
    } else {
        println!("{}", rate(&progress, began));
        println!("{}", progress.totals.lock().map(|totals| summary(&totals)).unwrap_or_default());
    }
    let Some(failed) = failed else { return ExitCode::SUCCESS };
    if !arguments.json {
        tell(&failed);
    }
    ExitCode::FAILURE
}

fn work(arguments: &Arguments, end: u64, progress: &Progress) {
    while !progress.stop.load(Ordering::Relaxed) {
        let seed = progress.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let report = run(&arguments.options(seed), false);
        progress.done.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut totals) = progress.totals.lock() {
            totals.add(&report.counts);
        }
        if report.failure.is_some()
            && let Ok(mut failed) = progress.failed.lock()
        {
            progress.stop.store(true, Ordering::Relaxed);
            // With several threads the lowest seed that failed is told.
            if failed.as_ref().is_none_or(|other| seed < other.options.seed) {
                *failed = Some(report);
            }
        }
    }
}

fn tell(failed: &Report) {
    let Some(failure) = &failed.failure else { return };
    eprintln!("\nseed {} fails: {}: {}", failed.options.seed, failure.invariant, failure.found);
    eprintln!("looking for the shortest story that fails in the same way…");
    let shortest = shrink(failed);
    shortest.lines.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("\nthis story:  {}", shortest.options.command());
    eprintln!("as it was:   {}", failed.options.command());
}

fn rate(progress: &Progress, began: Instant) -> String {
    let (done, seconds) = (progress.done.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    format!("{done} seeds in {seconds:.0} s, {:.0} per minute", done as f64 / seconds.max(0.001) * 60.0)
}

fn summary(counts: &Counts) -> String {
    let Counts { accepted, arrived, by_lmtp, duplicates, reports, removed, deaths, stops, reloads, age } = counts;
    let days = age.as_secs_f64() / 86_400.0;
    format!(
        "{accepted} recipients acknowledged, {arrived} arrivals ({by_lmtp} by LMTP, {duplicates} duplicates in the window), \
         {reports} reports, {removed} removed, {deaths} deaths, {stops} ends in order, {reloads} reloads, {days:.1} days of \
         simulated time"
    )
}

fn json(failed: &[&Report], done: u64, took: Duration) -> serde_json::Value {
    let failures: Vec<serde_json::Value> = failed
        .iter()
        .filter_map(|report| {
            let failure = report.failure.as_ref()?;
            Some(serde_json::json!({
                "seed": report.options.seed,
                "invariant": failure.invariant,
                "found": failure.found,
                "replay": report.options.command(),
            }))
        })
        .collect();
    serde_json::json!({
        "seeds": done,
        "seconds": took.as_secs_f64(),
        "per_minute": done as f64 / took.as_secs_f64().max(0.001) * 60.0,
        "failures": failures,
    })
}
