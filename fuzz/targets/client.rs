//! A server of any kind, up to the first transaction: its greeting, what it offers, STARTTLS and AUTH. The connection comes
//! to rest whatever it is told, says well-formed lines, and gives its credentials inside TLS only.
#![no_main]

use std::time::Instant;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mail::{Domain, Protocol, TlsFacts, TlsVersion, Verified};
use smtp::client::{Connection, Event, Security, Timeouts, Tls};

fuzz_target!(|input: (bool, bool, Vec<Vec<u8>>)| {
    let (lmtp, required, pieces) = input;
    let now = Instant::now();
    let protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
    let tls = if required { Tls::Required } else { Tls::Opportunistic };
    let name = Domain::parse("us.example").expect("a name");
    let mut connection =
        Connection::new(protocol, name, Timeouts::default(), now).with_security(Security { tls, credentials: true });
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(&piece);
        connection.receive(&mut input, now);
        let mut rounds = 0;
        while let Some(event) = connection.next_event() {
            rounds += 1;
            assert!(rounds < 100, "a connection comes to rest");
            follow(&mut connection, event, now);
        }
        let said = connection.take_output(now);
        assert!(said.is_empty() || said.ends_with(b"\r\n"));
        assert!(connection.tls().is_some() || !said.windows(7).any(|word| word == b"c2VjcmV"));
    }
});

fn follow(connection: &mut Connection, event: Event, now: Instant) {
    let cipher = "TLS_AES_256_GCM_SHA384".to_owned();
    match event {
        Event::StartTls => connection.secured(TlsFacts { version: TlsVersion::V1_3, cipher, verified: Verified::No }, now),
        Event::NoTls(_) => connection.go_on_in_clear(now),
        Event::Authenticate(mechanisms) => connection.auth(&mechanisms[0], Some(b"secret"), now),
        Event::AuthChallenge(message) if message.is_empty() => connection.auth_abort(now),
        Event::AuthChallenge(_) => connection.auth_response(b"secret", now),
        Event::AuthFailed(_) | Event::Ready => connection.quit(now),
        Event::SendContent | Event::Done(_) => panic!("there was no transaction"),
        Event::Closed(_) => assert!(connection.is_closed()),
    }
}
