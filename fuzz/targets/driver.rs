//! A driver that accepts everything, as the listener of an open relay would.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mail::{Domain, EnhancedCode, Protocol, Reply, TlsFacts, TlsVersion, Verified};
use smtp::server::{Answer, Config, Event, Peer, Session, TlsOffer};

/// Feeds the pieces to a session that offers STARTTLS and AUTH; gives the contents that it took.
pub fn run<'a>(lmtp: bool, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut config = Config::new(Domain::parse("mx.example.org").expect("a name"));
    if lmtp {
        config.protocol = Protocol::Lmtp;
    }
    config.tls = TlsOffer::StartTls;
    config.auth.mechanisms = vec!["PLAIN".into(), "LOGIN".into()];
    config.mt_priority = true;
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
            Event::StartTls => {
                let _ = session.take_output();
                let cipher = "TLS_AES_256_GCM_SHA384".into();
                session.secured(TlsFacts { version: TlsVersion::V1_3, cipher, verified: Verified::No }, now);
                assert!(session.hello().is_none() && session.account().is_none());
            }
            Event::Auth { initial: None, .. } => session.answer(Answer::Challenge(b"more".to_vec()), now),
            Event::Auth { initial: Some(message), .. } | Event::AuthResponse(message) => {
                let last = message.starts_with(b"last").then(Vec::new);
                session.answer(Answer::Authenticated { account: "joe".into(), last }, now);
                assert!(session.tls().is_some());
            }
            ref event if event.is_question() => session.answer(Answer::Accept, now),
            _ => {}
        }
    }
    let output = session.take_output();
    assert!(output.is_empty() || output.ends_with(b"\r\n"));
}
