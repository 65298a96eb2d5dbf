//! A whole session from foreign bytes, cut at foreign places: it always comes to rest and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "driver.rs"]
mod driver;

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (lmtp, pieces) = input;
    driver::run(lmtp, pieces.iter().map(Vec::as_slice));
});
