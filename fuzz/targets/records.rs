//! Records of the store's log: damaged ones are told apart from whole ones, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    store::testing::decode_anything(bytes);
});
