//! Clients that others wrote: swaks, curl, and Postfix's smtp-source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ledger::Ledger;
use crate::harness::Setup;
use crate::letters::{Kind, Sent, tool_body};
use crate::options;

/// Set by `./dev crash`.
const FULL_LENGTH: &str = "POSTRIDER_CRASH_KILLS";
/// Whose mail that of `smtp-source` is, for whom, and how long.
const SOURCE: &str = "source@example.org";
const SOURCE_TO: &str = "source@example.net";
const SOURCE_SIZE: usize = 4096;

/// swaks and curl, each sending one message after the other.
pub struct Tools {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sent>>>,
}

/// Makes the command that sends a message.
type Sender = fn(&Sent, &Setup) -> Command;

impl Tools {
    /// Starts those that are installed.
    pub fn start(setup: &Setup) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let tools: [(&str, Sender); 2] = [("swaks", swaks), ("curl", curl)];
        let installed = tools.into_iter().filter(|(name, _)| is_installed(name));
        let threads = installed.map(|(name, sender)| {
            let (over, setup) = (Arc::clone(&over), setup.clone());
            std::thread::spawn(move || send_until(&over, name, sender, &setup))
        });
        Self { threads: threads.collect(), over }
    }

    /// Ends them; gives everything that was acknowledged.
    pub fn stop(self) -> Vec<Sent> {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect()
    }
}

/// Which of them, and of `smtp-source`, got nothing through.
pub fn silent(ledger: &Ledger) -> Vec<&'static str> {
    let sent = |name: &&str| ledger.sent.iter().any(|message| message.token.starts_with(*name));
    ["swaks", "curl", "smtp-source"].into_iter().filter(|name| !sent(name)).collect()
}

/// The messages of `smtp-source` that were acknowledged under these queue ids.
pub fn of_source(ids: Vec<String>) -> impl Iterator<Item = Sent> {
    ids.into_iter().map(|id| {
        let recipients = vec![SOURCE_TO.to_owned()];
        Sent { token: "smtp-source".to_owned(), id: Some(id), recipients, size: SOURCE_SIZE }
    })
}

fn send_until(over: &AtomicBool, name: &str, sender: Sender, setup: &Setup) -> Vec<Sent> {
    let (mut sent, mut count) = (Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let token = format!("{name}{count}");
        let recipients = [Kind::Taken, Kind::Late, Kind::Refused].map(|kind| kind.address(&token)).to_vec();
        let message = Sent { token, id: None, recipients, size: 0 };
        let mut command = sender(&message, setup);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            sent.push(message);
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    sent
}

fn swaks(message: &Sent, setup: &Setup) -> Command {
    let mut command = Command::new("swaks");
    command.args(["--server", &setup.address.ip().to_string(), "--port", &setup.address.port().to_string()]);
    command.args(["--timeout", "10", "--ehlo", "swaks.test", "--header", "X-Tool: swaks"]);
    command.args(["--from", &message.sender(), "--to", &message.recipients.join(",")]);
    command.args(["--body", &tool_body(&message.token)]);
    command
}

fn curl(message: &Sent, setup: &Setup) -> Command {
    let file = setup.folder().join("curl");
    let content = format!("Subject: {0}\r\nX-Tool: curl\r\n\r\n{1}\r\n", message.token, tool_body(&message.token));
    std::fs::write(&file, content).expect("a file of ours");
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "10", "--url", &format!("smtp://{}/curl.test", setup.address)]);
    command.args(["--mail-from", &message.sender()]);
    for recipient in &message.recipients {
        command.args(["--mail-rcpt", recipient]);
    }
    command.arg("--upload-file").arg(file);
    command
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if !found {
        options::skip(FULL_LENGTH, &format!("{name} is not installed"));
    }
    found
}

/// Postfix's load generator, in one of its two ways of connecting; it dies with the server.
pub struct Source(Option<Child>);

impl Source {
    /// Starts it, if it is there.
    pub fn start(address: SocketAddr) -> Self {
        static TURN: AtomicU64 = AtomicU64::new(0);
        let Some(program) = smtp_source() else { return Self(None) };
        let mut command = Command::new(&program);
        if TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            command.arg("-d");
        }
        command.args(["-s", "4", "-m", "400", "-l", &SOURCE_SIZE.to_string(), "-f", SOURCE, "-t", SOURCE_TO]);
        command.arg(format!("inet:{}:{}", address.ip(), address.port()));
        if let Some(libraries) = program.ancestors().nth(3).map(|root| root.join("usr/lib/postfix")) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.ok())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program where `./dev test` unpacks it.
fn smtp_source() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/postfix");
    let root = std::env::var_os("POSTRIDER_TEST_POSTFIX").map_or(here, PathBuf::from);
    let program = Some(root.join("usr/sbin/smtp-source")).filter(|program| program.exists());
    if program.is_none() {
        options::skip(FULL_LENGTH, "smtp-source of Postfix is not there");
    }
    program
}
