//! What is told of a session.

use mail::{TlsFacts, TlsVersion, Verified};
use rustls::{CommonState, ProtocolVersion};

/// The facts of a session whose handshake is complete, of either side: a `ServerConnection` or `ClientConnection` is one.
pub fn session_facts(session: &CommonState, verified: Verified) -> Option<TlsFacts> {
    let version = match session.protocol_version()? {
        ProtocolVersion::TLSv1_3 => TlsVersion::V1_3,
        _ => TlsVersion::V1_2,
    };
    let suite = session.negotiated_cipher_suite()?.suite();
    let name = suite.as_str().unwrap_or("unknown");
    // IANA gives the suites of TLS 1.3 no name of their own.
    let cipher = name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"));
    Some(TlsFacts { version, cipher, verified })
}
