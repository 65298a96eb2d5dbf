//! Who is at the other end, and what it called itself.

use std::net::SocketAddr;

use mail::{Domain, TransferProtocol};

/// The other end of a connection, as the socket, a PROXY header or XCLIENT tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, or that of a gateway which speaks for it: `source` tells.
    pub address: SocketAddr,
    /// Where the address comes from.
    pub source: Source,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Its name by a trusted source (XCLIENT), if known.
    pub name: Option<Domain>,
    /// Whether it may use XCLIENT.
    pub may_xclient: bool,
    /// What XCLIENT said instead of the greeting to come; the greeting's own words then do not count.
    pub hello: Option<String>,
    /// What XCLIENT said about the dialect of the client behind it.
    pub dialect: Option<Dialect>,
}

impl Peer {
    /// A peer of which only the addresses are known and that may not use XCLIENT.
    pub fn new(address: SocketAddr, local: SocketAddr) -> Self {
        Self { address, source: Source::Connection, local, name: None, may_xclient: false, hello: None, dialect: None }
    }
}

/// Where the address of a peer comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The connection, or the proxy that made it: it is the peer's own.
    #[default]
    Connection,
    /// The peer speaks for a client, whose address it tells (XCLIENT).
    Told,
    /// A gateway speaks for a client and does not know its address; there is only the gateway's, which says nothing of the
    /// client.
    Unknown,
}

/// What the client said to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name it gave: printable ASCII without spaces, at most 255 octets, not proven to be a domain.
    pub name: String,
    /// The command it used.
    pub dialect: Dialect,
}

/// The command that opened the dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// HELO: no extensions, no pipelining.
    Smtp,
    /// EHLO.
    Esmtp,
    /// LHLO.
    Lmtp,
}

impl Dialect {
    /// The `with` of the trace field (RFC 3848, RFC 6531 §4.3). HELO has no names for what came with later extensions.
    pub fn transfer_protocol(self, utf8: bool, tls: bool, auth: bool) -> TransferProtocol {
        use TransferProtocol::*;
        let [plain, secured, authenticated, both] = match (self, utf8) {
            (Dialect::Smtp, _) => [Smtp; 4],
            (Dialect::Esmtp, false) => [Esmtp, Esmtps, Esmtpa, Esmtpsa],
            (Dialect::Esmtp, true) => [Utf8Smtp, Utf8Smtps, Utf8Smtpa, Utf8Smtpsa],
            (Dialect::Lmtp, false) => [Lmtp, Lmtps, Lmtpa, Lmtpsa],
            (Dialect::Lmtp, true) => [Utf8Lmtp, Utf8Lmtps, Utf8Lmtpa, Utf8Lmtpsa],
        };
        match (tls, auth) {
            (false, false) => plain,
            (true, false) => secured,
            (false, true) => authenticated,
            (true, true) => both,
        }
    }
}
