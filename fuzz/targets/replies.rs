//! Replies of foreign servers: bounded, and free of control characters.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtp::reply::ReplyReader;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let mut reader = ReplyReader::default();
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(&piece);
        loop {
            match reader.next(&mut input) {
                Ok(Some(reply)) => {
                    assert!((200..600).contains(&reply.code()));
                    assert!(!reply.to_string().contains(char::is_control));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
