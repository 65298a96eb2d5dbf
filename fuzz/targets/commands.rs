//! The grammar of commands: verbs, MAIL, RCPT, BDAT and AUTH arguments, xtext, base64.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::Utf8;
use smtp::commands::{self, Verb};
use smtp::sasl;

fuzz_target!(|line: &[u8]| {
    let (_, argument) = Verb::take(line);
    let Ok(argument) = std::str::from_utf8(argument) else { return };
    let _ = commands::hello(argument);
    let _ = commands::bdat(argument);
    if let Ok((mechanism, initial)) = sasl::auth(argument) {
        assert!(sasl::is_mechanism(&mechanism));
        if let Some(initial) = initial {
            assert_eq!(&*sasl::decode(sasl::encode(&initial).as_bytes()).expect("what we wrote"), &*initial);
        }
    }
    if let Ok((path, parameters)) = commands::mail(argument) {
        let mut written = path.to_string();
        parameters.write_to(&mut written);
        assert!(!written.contains(['\r', '\n', '\0']));
        let (_, again) = commands::mail(&format!("FROM:{written}")).expect("what we wrote");
        assert_eq!(again, parameters);
    }
    for utf8 in [Utf8::Allowed, Utf8::Refused] {
        if let Ok(recipient) = commands::rcpt(argument, utf8) {
            assert!(!recipient.path.to_string().contains(['\r', '\n', '\0']));
        }
    }
});
