//! Header sections and the conversion of 8-bit messages: what comes out is seven-bit with bounded lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::{downgrade, header};

fuzz_target!(|message: &[u8]| {
    let length = header::header_length(message);
    assert!(length <= message.len());
    for field in header::fields(message) {
        let _ = field.unfolded();
        assert!(!field.unfolded().contains(['\r', '\n']));
    }
    if let Ok(converted) = downgrade::downgrade(message) {
        assert!(converted.pieces().all(<[u8]>::is_ascii));
    }
});
