//! The whole binary, hurt: `kill -9` under load, and power cuts at any moment of what it writes.

#[path = "../../crates/postrider/tests/whole/harness/mod.rs"]
mod harness;
mod kill;
mod letters;
mod load;
mod options;
mod powercut;
