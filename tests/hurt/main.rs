//! The server hurt: its disk, its clock, its network and its clients fail it, one at a time, and it must say so, lose
//! nothing, and come back by itself.
//!
//! Every test is one cause, and asks the same: what does a client see, what does the log say, what happens to the mail that
//! was acknowledged, and is mail taken again once the cause has ended. `docs/operations.md` has the answers as a table.

#[path = "../../crates/postrider/tests/whole/harness/mod.rs"]
mod harness;

mod clients;
mod clock;
mod content;
mod disk;
mod faults;
mod files;
mod flood;
mod handshakes;
mod load;
mod network;
mod slow;
mod system;

/// Short waits, so that what comes back by itself comes back soon.
const SOON: &str =
    "[retry]\nintervals = [\"1s\"]\njitter = 0\n[delivery]\nrest_first = \"500ms\"\nrest_most = \"500ms\"";
