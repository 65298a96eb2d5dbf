//! What is not SMTP at all: other protocols that knock at this door, by accident or to smuggle commands in their bodies.

use super::reason::CloseReason;

/// Every method of HTTP, and the first line of HTTP/2. None of them is or will be a command of SMTP.
const HTTP_METHODS: &[&[u8]] =
    &[b"GET ", b"POST ", b"PUT ", b"HEAD ", b"CONNECT ", b"OPTIONS ", b"DELETE ", b"PATCH ", b"TRACE ", b"PRI * "];
/// The content type of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// The signature of a binary PROXY header.
const PROXY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Looks at what stands where a command should begin.
pub(super) fn stranger(input: &[u8]) -> Option<CloseReason> {
    match input.first()? {
        &TLS_HANDSHAKE => Some(CloseReason::Tls),
        b'P' if input.starts_with(b"PROXY ") => Some(CloseReason::Proxy),
        b'\r' if input.starts_with(PROXY_SIGNATURE) => Some(CloseReason::Proxy),
        _ if HTTP_METHODS.iter().any(|method| input.starts_with(method)) => Some(CloseReason::Http),
        _ => None,
    }
}
