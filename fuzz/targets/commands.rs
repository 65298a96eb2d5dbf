//! The grammar of commands: verbs, MAIL, RCPT and BDAT arguments, xtext.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::Utf8;
use smtp::commands::{self, Verb};

fuzz_target!(|line: &[u8]| {
    let (_, argument) = Verb::take(line);
    let Ok(argument) = std::str::from_utf8(argument) else { return };
    let _ = commands::hello(argument);
    let _ = commands::bdat(argument);
    if let Ok((path, _)) = commands::mail(argument) {
        assert!(!path.to_string().contains(['\r', '\n', '\0']));
    }
    for utf8 in [Utf8::Allowed, Utf8::Refused] {
        if let Ok(recipient) = commands::rcpt(argument, utf8) {
            assert!(!recipient.path.to_string().contains(['\r', '\n', '\0']));
        }
    }
});
