//! Who we are to a smart host (RFC 4954): the credentials of a route, and the exchange that proves them.
//!
//! Secrets are read when a connection needs them, so that a file may be replaced while the server runs; they are wiped
//! after use and never printed.

mod exchange;
mod line;
mod secret;
mod token;

use std::fmt;
use std::time::Instant;

use mail::{EnhancedCode, Fault};
use secrecy::SecretString;

pub(crate) use exchange::Exchange;
pub use secret::{SecretError, SecretPlace};
pub use token::{ClientGrant, TokenSource};

use token::Tokens;

/// A mechanism that we speak as a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// SCRAM-SHA-256 bound to the TLS channel (RFC 7677, RFC 9266).
    ScramSha256Plus,
    /// SCRAM-SHA-256 (RFC 7677).
    ScramSha256,
    /// PLAIN (RFC 4616).
    Plain,
    /// LOGIN, which no standard knows.
    Login,
    /// OAUTHBEARER (RFC 7628).
    OAuthBearer,
    /// XOAUTH2, as Google and Microsoft have it.
    XOAuth2,
}

impl Mechanism {
    /// Those that prove a password, the best first.
    pub const OF_PASSWORDS: [Mechanism; 4] =
        [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];
    /// Those that carry a token, the best first.
    pub const OF_TOKENS: [Mechanism; 2] = [Mechanism::OAuthBearer, Mechanism::XOAuth2];

    /// By its name in EHLO.
    pub fn parse(name: &str) -> Option<Self> {
        let all = Self::OF_PASSWORDS.into_iter().chain(Self::OF_TOKENS);
        all.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// Its name in EHLO.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::OAuthBearer => "OAUTHBEARER",
            Mechanism::XOAuth2 => "XOAUTH2",
        }
    }
}

/// What proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A password.
    Password(SecretPlace),
    /// A token.
    Token(TokenSource),
}

/// How a route's credentials are configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialSettings {
    /// The name of the account.
    pub user: String,
    /// What proves it.
    pub proof: Proof,
    /// The mechanisms that may be used, in this order; all that fit the proof if there are none.
    pub mechanisms: Vec<Mechanism>,
    /// Whether the host may be told though its certificate was not verified. Never in clear.
    pub unverified: bool,
}

/// The credentials of a route.
pub struct Credentials {
    settings: CredentialSettings,
    tokens: Tokens,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// By how they are configured.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Credentials {}

impl Credentials {
    /// From the configuration.
    pub fn new(settings: CredentialSettings) -> Self {
        Self { settings, tokens: Tokens::default() }
    }

    /// What they were made from.
    pub fn settings(&self) -> &CredentialSettings {
        &self.settings
    }

    /// The mechanism for a host with this offer, on a line with or without channel binding.
    pub(crate) fn choose(&self, offered: &[String], can_bind: bool) -> Result<Mechanism, Fault> {
        let fitting: &[Mechanism] = match (&self.settings.mechanisms[..], &self.settings.proof) {
            ([], Proof::Password(_)) => &Mechanism::OF_PASSWORDS,
            ([], Proof::Token(_)) => &Mechanism::OF_TOKENS,
            (chosen, _) => chosen,
        };
        let is_offered = |mechanism: &Mechanism| offered.iter().any(|name| name.eq_ignore_ascii_case(mechanism.name()));
        let can = |mechanism: &Mechanism| can_bind || *mechanism != Mechanism::ScramSha256Plus;
        fitting.iter().copied().find(|mechanism| is_offered(mechanism) && can(mechanism)).ok_or_else(|| {
            let ours: Vec<_> = fitting.iter().map(|mechanism| mechanism.name()).collect();
            unproven(format!("it offers AUTH {}, but we could use {}", offered.join(" "), ours.join(", ")))
        })
    }

    /// The password or token of this moment.
    pub(crate) async fn secret(&self, now: Instant) -> Result<SecretString, Fault> {
        let secret = match &self.settings.proof {
            Proof::Password(place) => place.read().await,
            Proof::Token(source) => self.tokens.get(source, now).await,
        };
        secret.map_err(|error| unproven(error.to_string()))
    }

    /// The host refused them: what was remembered is not used again.
    pub(crate) fn refused(&self) {
        self.tokens.forget();
    }
}

/// We cannot or must not tell who we are. A mistake of ours, or of a moment: nothing bounces for it.
pub(crate) fn unproven(why: impl fmt::Display) -> Fault {
    Fault::local(454, EnhancedCode::new(4, 7, 0), format!("cannot authenticate: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(mechanisms: &[Mechanism], proof: Proof) -> Credentials {
        let settings =
            CredentialSettings { user: "ann".into(), proof, mechanisms: mechanisms.to_vec(), unverified: false };
        Credentials::new(settings)
    }

    fn offered(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_best_mechanism_of_those_that_fit_is_chosen() {
        let password = || Proof::Password(SecretPlace::Env("X".into()));
        let any = credentials(&[], password());
        let all = offered("login PLAIN XOAUTH2 SCRAM-SHA-256 SCRAM-SHA-256-PLUS");
        assert_eq!(any.choose(&all, true).unwrap(), Mechanism::ScramSha256Plus);
        assert_eq!(any.choose(&all, false).unwrap(), Mechanism::ScramSha256);
        assert_eq!(any.choose(&offered("LOGIN XOAUTH2"), true).unwrap(), Mechanism::Login);
        let fault = any.choose(&offered("XOAUTH2 GSSAPI"), true).unwrap_err();
        assert!(fault.is_transient() && fault.reply.text().contains("it offers AUTH XOAUTH2 GSSAPI"), "{fault}");
        let plain = credentials(&[Mechanism::Plain], password());
        assert_eq!(plain.choose(&all, true).unwrap(), Mechanism::Plain);
        let token = credentials(&[], Proof::Token(TokenSource::File("/nowhere".into())));
        assert_eq!(token.choose(&all, true).unwrap(), Mechanism::XOAuth2);
    }
}
