//! A driver that accepts everything, as the listener of an open relay would.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mail::{Domain, EnhancedCode, Protocol, Reply};
use smtp::server::{Answer, Config, Event, Peer, Session};

/// Feeds the pieces to a session; gives the contents that it took.
pub fn run<'a>(lmtp: bool, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut config = Config::new(Domain::parse("mx.example.org").expect("a name"));
    if lmtp {
        config.protocol = Protocol::Lmtp;
    }
    let here = ([127, 0, 0, 1], 25).into();
    let now = Instant::now();
    let mut session = Session::new(Arc::new(config), Peer::new(here, here), now);
    let (mut taken, mut current) = (Vec::new(), Vec::new());
    drain(&mut session, now, &mut current, &mut taken);
    for piece in pieces {
        let mut input = BytesMut::from(piece);
        let mut left = usize::MAX;
        while !input.is_empty() && input.len() < left && !session.is_closed() {
            left = input.len();
            session.receive(&mut input, now);
            drain(&mut session, now, &mut current, &mut taken);
        }
    }
    session.disconnected();
    drain(&mut session, now, &mut current, &mut taken);
    taken
}

fn drain(session: &mut Session, now: Instant, current: &mut Vec<u8>, taken: &mut Vec<Vec<u8>>) {
    let mut rounds = 0u32;
    while let Some(event) = session.next_event(now) {
        rounds += 1;
        assert!(rounds < 10_000_000, "a session comes to rest");
        let ok = Reply::new(250, EnhancedCode::new(2, 0, 0), "ok");
        match event {
            Event::Content(bytes) => current.extend_from_slice(&bytes),
            Event::Abort { .. } => current.clear(),
            Event::End(finished) => {
                taken.push(std::mem::take(current));
                session.answer(Answer::Each(vec![ok; finished.transaction.recipients.len()]), now);
            }
            ref event if event.is_question() => session.answer(Answer::Accept, now),
            _ => {}
        }
    }
    let output = session.take_output();
    assert!(output.is_empty() || output.ends_with(b"\r\n"));
}
