//! Programs of others on both sides. One that is not installed is reported as skipped, by name.

mod acme;
mod authority;
mod clients;
mod corpus;
mod dane;
mod dovecot;
mod house;
mod name_servers;
mod names;
mod postfix;
mod proofs;
mod quickstart;
mod relays;
mod secure;
mod sinks;
mod smart_hosts;
mod submitters;
mod testssl;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{LOOK, PATIENCE, Setup, skipped, tool, wait_for};

/// Short waits, so that a second attempt is seen.
const SOON: &str =
    "[retry]\nintervals = [\"1s\"]\njitter = 0\n[delivery]\nrest_first = \"500ms\"\nrest_most = \"500ms\"";

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a client to its end, which must be a good one; gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the client runs");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    format!("{out}{err}")
}

/// A server of others; it ends with its owner.
struct Peer(Child);

impl Peer {
    /// Starts it and waits until it takes connections.
    fn listening(command: &mut Command, address: SocketAddr) -> Self {
        let mut peer = Self::spawn(command.stderr(Stdio::null()));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = peer.0.try_wait().expect("our own child");
            assert!(ended.is_none() && Instant::now() < deadline, "{command:?} does not listen: {ended:?}");
            std::thread::sleep(LOOK);
        }
        peer
    }

    /// Starts it and waits until it has said this on its standard error.
    fn saying(command: &mut Command, ready: &str) -> Self {
        let mut peer = Self::spawn(command.stderr(Stdio::piped()));
        let lines = BufReader::new(peer.0.stderr.take().expect("a pipe")).lines();
        let (sender, told) = std::sync::mpsc::channel();
        // The pipe is read to its end, so that the peer never waits for it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains(ready)) {
            match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(error) => panic!("{command:?} does not get ready: {error}; it said {said:#?}"),
            }
        }
        peer
    }

    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("the peer starts"))
    }
}

impl Drop for Peer {
    /// Asks it to end, so that it ends its own children, and makes it end if it does not.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder below that of the setup, which everybody may write to: some peers become another user.
fn folder_in(setup: &Setup, name: &str) -> PathBuf {
    let folder = setup.folder().join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    crate::harness::open_to_everybody(setup.folder(), 0o755);
    crate::harness::open_to_everybody(&folder, 0o777);
    folder
}

/// The content of a message behind the one trace field that we put in front; panics if it is not there.
fn behind_trace(raw: &[u8]) -> &[u8] {
    assert!(raw.starts_with(b"Received: from "), "{}", String::from_utf8_lossy(raw));
    let ends = (0..raw.len().saturating_sub(1)).filter(|at| raw[*at..].starts_with(b"\r\n"));
    let end = ends.map(|at| at + 2).find(|at| !matches!(raw.get(*at), Some(b' ' | b'\t')));
    &raw[end.expect("a field has an end")..]
}
