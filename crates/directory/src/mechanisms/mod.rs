//! The mechanisms: what their messages look like and what follows from them. None of them waits for anything here; who
//! the account is and whether the proof holds is asked by the exchange.
//!
//! They are our own and not those of `rsasl`, which serves as the client in tests: its servers ask for verifiers in
//! callbacks that cannot wait for a data base, its SCRAM tells unknown users from known ones by a new salt each time and
//! by `e=unknown-user`, reports a wrong proof as success of the step, and forgets the authorisation identity.

pub mod bearer;
pub mod plain;
pub mod scram;

use std::fmt;

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    /// SCRAM-SHA-256-PLUS: bound to the TLS connection (RFC 5802, RFC 7677, RFC 9266).
    ScramSha256Plus,
    /// SCRAM-SHA-256 (RFC 7677).
    ScramSha256,
    /// EXTERNAL: by the client's certificate (RFC 4422 appendix A).
    External,
    /// OAUTHBEARER: by a signed token (RFC 7628).
    OauthBearer,
    /// XOAUTH2: its forerunner, still the only one that many clients speak.
    Xoauth2,
    /// PLAIN: by the password itself (RFC 4616).
    Plain,
    /// LOGIN: the same in two steps (draft-murchison-sasl-login).
    Login,
}

impl Mechanism {
    /// All, the ones to be preferred first.
    pub const ALL: [Mechanism; 7] = [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::External,
        Mechanism::OauthBearer,
        Mechanism::Xoauth2,
        Mechanism::Plain,
        Mechanism::Login,
    ];

    /// Its registered name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::External => "EXTERNAL",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Xoauth2 => "XOAUTH2",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// The mechanism of that name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.as_str().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message that breaks its mechanism's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;
