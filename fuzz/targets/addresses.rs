//! Addresses and paths: whatever is taken prints as something that is taken again and holds no line end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::{Domain, Host, Mailbox, Utf8, path};

fuzz_target!(|text: &str| {
    for utf8 in [Utf8::Allowed, Utf8::Refused] {
        if let Ok(mailbox) = Mailbox::parse(text, utf8) {
            let printed = mailbox.to_string();
            assert!(!printed.contains(['\r', '\n', '\0']) && printed.len() <= 254);
            assert_eq!(Mailbox::parse(&printed, utf8).as_ref(), Ok(&mailbox));
        }
        if let Ok((forward, rest)) = path::take_forward(text, utf8) {
            assert!(text.ends_with(rest));
            let printed = forward.to_string();
            assert_eq!(path::take_forward(&printed, utf8), Ok((forward, "")));
        }
        if let Ok((reverse, _)) = path::take_reverse(text, utf8) {
            let printed = reverse.to_string();
            assert_eq!(path::take_reverse(&printed, utf8), Ok((reverse, "")));
        }
    }
    if let Ok(domain) = Domain::parse(text) {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain));
        let _ = domain.to_unicode();
    }
    let _ = Host::parse(text);
});
