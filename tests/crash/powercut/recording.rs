//! Several lives of the real server under strace and under load, written down so that each cut can be tried again.
//!
//! A life ends by `kill -9`, after which the next begins with what the system still holds in memory; the last ends in good
//! order. In some lives nothing leaves, so that there is a queue. In every other life syncs are slow, in those between some
//! fail.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mail::Randomness;
use serde_json::{Value, json};

use crate::harness::{Postrider, Script, Setup, Sink, binary};
use crate::letters::{Arrival, Sent, busy, late, refused};
use crate::load::{Load, Manner};
use crate::powercut::disk::{Entry, Image};
use crate::powercut::history::{History, is_ours};
use crate::powercut::trace::CALLS;

/// A folder with everything that a run left.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
}

/// What clients sent and what the sink took.
#[derive(Debug)]
pub struct Ledger {
    /// Messages that were acknowledged to a client that could read it.
    pub sent: Vec<Sent>,
    /// Everything that arrived at the sink, whether or not the server could read the reply.
    pub arrived: Vec<Arrival>,
    /// What the store did beside.
    pub work: Work,
}

/// What the store does beside the commits, over all lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Checkpoints of the index.
    pub checkpoints: u64,
    /// Messages that compaction copied.
    pub compacted: u64,
}

impl Work {
    /// Adds what a server has done so far, by its metrics.
    fn add(&mut self, server: &Postrider) {
        let text = server.command(&["metrics"]).good();
        let value = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        self.checkpoints += value("postrider_store_checkpoint_seconds_count");
        self.compacted += value("postrider_store_compacted_messages_total");
    }
}

impl Recording {
    /// One that is there.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// Makes a new one, of so many lives of about so long.
    pub fn make(folder: &Path, seed: u64, lives: u32, length: Duration) -> Self {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).expect("a folder for the recording");
        let recording = Self::at(folder);
        let randomness = Randomness::seeded(seed);
        let sink = Sink::start();
        let times = "[retry]\nfirst = \"1s\"\nmost = \"1s\"\n[delivery]\nrest_first = \"1s\"\nrest_most = \"1s\"";
        let setup = busy(Setup::to(&sink).table(times));
        let manner = Manner { clients: 4, pause: Duration::from_millis(5) };
        let load = Load::start(setup.address, seed, manner);
        let (mut load, mut sent, mut arrived) = (Some(load), Vec::new(), Vec::new());
        let mut work = Work::default();
        for life in 1..=lives {
            let greeting = (life % 3 == 2).then(|| "421 4.3.2 not now".to_owned());
            sink.answer(Script { greeting, recipient: vec![refused(), late()], ..Script::default() });
            let syncs = if life % 2 == 1 { Syncs::Slow } else { Syncs::Failing };
            let command = traced(&setup, &recording.trace(life), syncs);
            let mut server = Postrider::run(command, &setup);
            server.event("ready");
            let moment = length / 2 + length.mul_f64(randomness.unit());
            take(&sink, moment, &mut arrived);
            if life == lives {
                sent = load.take().map(Load::stop).unwrap_or_default();
            }
            work.add(&server);
            end(&mut server, life == lives);
            take(&sink, Duration::from_millis(50), &mut arrived);
            recording.keep_image(life, &image_of(setup.folder()));
        }
        recording.keep_ledger(setup.folder(), seed, lives, &Ledger { sent, arrived, work });
        recording
    }

    /// Reads it: what happened, and the ledger.
    pub fn read(&self, early_replies: bool) -> Result<(History, Ledger), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        let text = std::fs::read(self.folder.join("ledger.json")).map_err(failed)?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let all = |name: &str| value[name].as_array().cloned().unwrap_or_default();
        let ledger = Ledger {
            sent: all("sent").iter().filter_map(Sent::from_json).collect(),
            arrived: all("arrived").iter().filter_map(Arrival::from_json).collect(),
            work: Work {
                checkpoints: value["checkpoints"].as_u64().unwrap_or(0),
                compacted: value["compacted"].as_u64().unwrap_or(0),
            },
        };
        let root = value["root"].as_str().ok_or("the ledger does not say where the folder was")?;
        let mut history = History::new(Path::new(root), early_replies);
        let lives = value["lives"].as_u64().and_then(|lives| u32::try_from(lives).ok());
        for life in 1..=lives.unwrap_or(0) {
            let text = std::fs::read(self.trace(life)).map_err(failed)?;
            history.live(&text, &image_of(&self.folder.join(format!("life-{life}"))))?;
        }
        Ok((history, ledger))
    }

    fn trace(&self, life: u32) -> PathBuf {
        self.folder.join(format!("life-{life}.trace"))
    }

    /// The seed that it was made with.
    pub fn seed(&self) -> Option<u64> {
        let text = std::fs::read(self.folder.join("ledger.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["seed"].as_u64()
    }

    fn keep_image(&self, life: u32, image: &Image) {
        write_image(&self.folder.join(format!("life-{life}")), image).expect("the recording is written");
    }

    fn keep_ledger(&self, root: &Path, seed: u64, lives: u32, ledger: &Ledger) {
        let sent: Vec<Value> = ledger.sent.iter().map(Sent::to_json).collect();
        let arrived: Vec<Value> = ledger.arrived.iter().map(Arrival::to_json).collect();
        let Work { checkpoints, compacted } = ledger.work;
        let value = json!({
            "root": root, "seed": seed, "lives": lives, "checkpoints": checkpoints, "compacted": compacted,
            "sent": sent, "arrived": arrived,
        });
        std::fs::write(self.folder.join("ledger.json"), value.to_string()).expect("the recording is written");
    }
}

/// What is done to the syncs of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// Nothing.
    Plain,
    /// They take so long that a kill mostly finds something written and not synced.
    Slow,
    /// Some give EIO.
    Failing,
}

/// The server, with every call that matters written into a file.
pub fn traced(setup: &Setup, trace: &Path, syncs: Syncs) -> Command {
    setup.write();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--seccomp-bpf", "-xx", "-s", "67108864", "-o"]);
    command.arg(trace).arg("-e").arg(format!("trace={CALLS}"));
    match syncs {
        Syncs::Plain => {}
        Syncs::Slow => drop(command.args(["-e", "inject=fdatasync:delay_enter=8000"])),
        Syncs::Failing => drop(command.args(["-e", "inject=fdatasync:error=EIO:when=30+8"])),
    }
    command.arg(binary()).arg("serve").arg("--config").arg(setup.config()).stdin(Stdio::null());
    command
}

/// Whether calls can be recorded here; if not, why.
pub fn strace() -> Result<(), String> {
    let tried = Command::new("strace").args(["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]).output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("strace is not permitted: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("strace is not installed: {error}")),
    }
}

/// The files of a folder.
pub fn image_of(folder: &Path) -> Image {
    let mut image = Image::new();
    gather(folder, Path::new(""), &mut image).expect("our own folder");
    image
}

fn gather(root: &Path, inside: &Path, image: &mut Image) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root.join(inside))? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        let kind = entry.file_type()?;
        if !is_ours(&path) {
            continue;
        }
        if kind.is_dir() {
            gather(root, &path, image)?;
            image.insert(path, Entry::Folder);
        } else if kind.is_file() {
            image.insert(path.clone(), Entry::File(std::fs::read(root.join(&path))?));
        }
    }
    Ok(())
}

/// Writes files into a folder that is made for them.
pub fn write_image(folder: &Path, image: &Image) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (path, entry) in image {
        match entry {
            Entry::Folder => std::fs::create_dir_all(folder.join(path))?,
            Entry::File(octets) => {
                let path = folder.join(path);
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::write(path, octets)?;
            }
        }
    }
    Ok(())
}

/// Ends the server behind strace, which ends with it.
pub fn end(server: &mut Postrider, gently: bool) {
    let path = format!("/proc/{0}/task/{0}/children", server.pid());
    let children = std::fs::read_to_string(path).expect("strace runs");
    let signal = if gently { "-TERM" } else { "-KILL" };
    let status = Command::new("kill").arg(signal).args(children.split_whitespace()).status();
    assert!(status.expect("kill runs").success(), "the server lives");
    server.wait_exit();
}

/// Takes what arrives within this time.
fn take(sink: &Sink, time: Duration, arrived: &mut Vec<Arrival>) {
    let end = Instant::now() + time;
    while let Some(mail) = sink.next_within(end.saturating_duration_since(Instant::now())) {
        arrived.push(Arrival::of(mail));
        if Instant::now() > end {
            return;
        }
    }
}
