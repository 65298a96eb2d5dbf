//! The real binary.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::{Client, PATIENCE, Setup};

/// A running server.
pub struct Postrider {
    child: Child,
    log: Mutex<Log>,
    setup: Setup,
}

/// What a command printed.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// The binary: the one that was built for these tests, or the one that `POSTRIDER_BIN` names.
pub fn binary() -> PathBuf {
    std::env::var_os("POSTRIDER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_postrider").into(), PathBuf::from)
}

/// Runs the binary to its end.
pub fn postrider(arguments: &[&str]) -> Output {
    let output = Command::new(binary())
        .args(arguments)
        .env("USER", "tester")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    Output {
        status: output.status,
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// What quickstart told in its stages, each a line of JSON, in one value.
pub fn told(out: &str) -> Value {
    let stages = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let mut told = serde_json::Map::new();
    stages.for_each(|stage| told.extend(stage.as_object().cloned().unwrap_or_default()));
    told.into()
}

impl Output {
    /// What it printed, if it went well.
    pub fn good(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }

    /// What it said on standard error, if it failed with this exit status.
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self.err
    }

    /// Its lines as JSON, if it went well.
    pub fn json(self) -> Vec<Value> {
        self.good().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

impl Postrider {
    /// Starts a server and waits until it takes mail.
    pub fn start(setup: &Setup) -> Self {
        let server = Self::launch(setup);
        server.wait("ready", |line| line["event"] == "ready");
        server
    }

    /// Starts a server without waiting for anything.
    pub fn launch(setup: &Setup) -> Self {
        setup.write();
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(setup.config()).stdin(Stdio::null());
        Self::run(command, setup)
    }

    /// Runs any command of the binary as a server; its standard error is the log.
    pub fn run(mut command: Command, setup: &Setup) -> Self {
        open_to_everybody(setup.folder(), 0o755);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log: Mutex::new(Log { lines, seen: Vec::new(), raw: Vec::new() }), setup: setup.clone() }
    }

    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A fresh connection to its listener.
    pub fn client(&self) -> Client {
        Client::connect(self.setup.address)
    }

    /// Waits for a line of the log, among those seen already too.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.wait(what, wanted)
    }

    /// Waits for an event by its name.
    pub fn event(&self, event: &str) -> Value {
        self.wait(event, |line| line["event"] == event)
    }

    /// The lines of an event that were seen so far, as the server wrote them.
    pub fn written(&self, event: &str) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = log.seen.iter().zip(&log.raw).filter(|(line, _)| line["event"] == event);
        lines.map(|(_, raw)| raw.clone()).collect()
    }

    /// Runs a command of the binary against it.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let config = self.setup.config();
        let mut all = vec!["--config", config.to_str().expect("a path of text")];
        all.extend(arguments);
        postrider(&all)
    }

    /// What is counted of TLS sessions with a domain: policy and result.
    pub fn tls_counts(&self, domain: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for counted in self.command(&["tlsrpt", "counts", "--domain", domain, "--json"]).json() {
            for result in counted["results"].as_array().into_iter().flatten() {
                let kind = result["policy"]["policy-type"].as_str().unwrap_or_default();
                if result["summary"]["total-successful-session-count"].as_u64() > Some(0) {
                    found.push((kind.to_owned(), "good".to_owned()));
                }
                for detail in result["failure-details"].as_array().into_iter().flatten() {
                    found.push((kind.to_owned(), detail["result-type"].as_str().unwrap_or_default().to_owned()));
                }
            }
        }
        found
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `HUP`, `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success(), "the server lives");
    }

    /// SIGTERM, and waits for a proper end.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait_exit();
        assert!(status.success(), "{status}\n{}", self.log_text());
    }

    /// SIGKILL: gone without a word, but for the log it had written.
    pub fn kill(mut self) -> Vec<Value> {
        let _ = self.child.kill();
        self.wait_exit();
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut log.seen)
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner);
        log.drain();
        self.child.wait().expect("the process ends")
    }

    /// All of the log so far.
    pub fn log_text(&mut self) -> String {
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner);
        log.seen.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Postrider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Log {
    lines: Receiver<String>,
    seen: Vec<Value>,
    /// The same as it was written, line by line.
    raw: Vec<String>,
}

impl Log {
    fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut at = 0;
        loop {
            while let Some(line) = self.seen.get(at) {
                if wanted(line) {
                    return line.clone();
                }
                at += 1;
            }
            if let Err(error) = self.next(deadline) {
                let seen: Vec<String> = self.seen.iter().map(ToString::to_string).collect();
                panic!("waited for {what}: {error}. The log:\n{}", seen.join("\n"));
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<(), std::sync::mpsc::RecvTimeoutError> {
        let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
        // What is not JSON was said before or beside the log.
        self.seen.push(serde_json::from_str(&line).unwrap_or_else(|_| Value::String(line.clone())));
        self.raw.push(line);
        Ok(())
    }

    /// Reads until the process has closed its standard error.
    fn drain(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.next(deadline).is_ok() {}
        assert!(Instant::now() < deadline, "the process does not end; its log: {:?}", self.seen);
    }
}

/// The server becomes another user when the test runs as root, and must get at what the test made.
pub fn open_to_everybody(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
}
