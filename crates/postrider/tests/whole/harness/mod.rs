//! A house to test in: the real binary with a folder and addresses of its own, peers on both sides, no sleeps.
//!
//! ```no_run
//! let sink = Sink::start();                                  // who gets the mail
//! let server = Postrider::start(&Setup::to(&sink));          // the real binary, ready when this returns
//! server.client().send("a@example.org", &["b@example.net"], "Subject: hi\r\n\r\nhello\r\n");
//! let mail = sink.next();                                    // waits for it
//! server.stop();                                             // SIGTERM, and the exit status checked
//! ```
//!
//! Every wait ends at [`PATIENCE`] with a panic that shows the server's log. Every process is killed and reaped when its
//! owner is dropped, also when the test fails.
#![allow(dead_code, unused_imports, reason = "shared by several test programs, each of which uses a part")]
mod client;
mod line;
mod server;
mod setup;
mod sink;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

pub use client::Client;
pub use line::Line;
pub use server::{Output, Postrider, binary, open_to_everybody, postrider, told};
pub use setup::{Setup, is_root};
pub use sink::{Mail, Script, Sink};

/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A loopback address that no other test uses at the same time, so that fixed ports cannot collide.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    // 127.0.0.0/16 is left to programs that expect nobody else there.
    IpAddr::V4(Ipv4Addr::new(127, high.max(1), low, last.clamp(1, 254)))
}

/// An own address with a port that is free there.
pub fn own_socket() -> SocketAddr {
    SocketAddr::new(own_address(), 2525)
}

/// How often to look whether something has happened that nobody tells.
pub const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until there is something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(LOOK);
    }
}

/// The program, or a word about its absence.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skipped(&format!("{name} is not installed"));
    }
    found
}

/// Says that a test, or a part of it, could not be done here.
pub fn skipped(why: &str) {
    println!("skipped: {why}");
}
