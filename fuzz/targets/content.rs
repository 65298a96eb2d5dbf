//! DATA and BDAT: only CRLF.CRLF ends DATA, and what is taken holds no bare line end and no NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "driver.rs"]
mod driver;

fuzz_target!(|input: (bool, Vec<u8>, u16)| {
    let (chunked, content, cut) = input;
    let mut wire = Vec::new();
    if chunked {
        wire.extend_from_slice(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
        wire.extend_from_slice(&content);
    } else {
        wire.extend_from_slice(&content);
        wire.extend_from_slice(b"\r\n.\r\n");
    }
    let (first, second) = wire.split_at(usize::from(cut) % (wire.len() + 1));
    let mut pieces: Vec<&[u8]> =
        vec![b"EHLO c.example\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n"];
    if !chunked {
        pieces.push(b"DATA\r\n");
    }
    pieces.extend([first, second]);
    for taken in driver::run(false, pieces.into_iter()) {
        assert!(!taken.contains(&0));
        for (at, byte) in taken.iter().enumerate() {
            match byte {
                b'\n' => assert!(at > 0 && taken[at - 1] == b'\r', "a bare LF was taken"),
                b'\r' => assert_eq!(taken.get(at + 1), Some(&b'\n'), "a bare CR was taken"),
                _ => {}
            }
        }
    }
});
