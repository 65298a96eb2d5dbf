//! What `./dev crash` and `./dev powercut` say to the tests, in the environment. Without any of it they are short.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// A number.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A path.
pub fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Tells that something cannot be done here. The test is skipped for it, in whole or in part; not so at full length, which
/// this variable stands for: somebody asked for that, and must not take nothing for a good result.
pub fn skip(full_length: &str, why: &str) {
    assert!(std::env::var_os(full_length).is_none(), "{why}");
    println!("skipped: {why}");
}

/// The seed of a run, told so that it can be repeated.
pub fn seed(name: &str) -> u64 {
    let seed =
        number(name).unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    eprintln!("{name}={seed}");
    seed
}

/// Leaves the totals for the caller, if it asked for them.
pub fn report(name: &str, totals: &Value) {
    if let Some(path) = path(name) {
        std::fs::write(path, format!("{totals}\n")).expect("the totals are written");
    }
}
