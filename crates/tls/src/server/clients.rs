//! What a client's certificate is good for.

use std::sync::Arc;

use super::peer::{Authorities, PeerCertificate};

/// The rules of a service, in order; clones share them.
#[derive(Clone, Debug, Default)]
pub struct ClientCertificates(Arc<Vec<ClientRule>>);

/// A certificate, and what it is good for.
#[derive(Clone, Debug)]
pub struct ClientRule {
    /// What must be shown.
    pub shown: Shown,
    /// What it is good for.
    pub grant: Grant,
}

/// By what a certificate is known.
#[derive(Clone, Debug)]
pub enum Shown {
    /// It is this very one: its SHA-256.
    Certificate([u8; 32]),
    /// Its key is this one, whoever signed it: the SHA-256 of the public key.
    Key([u8; 32]),
    /// It is for this DNS name or mail address (in lower case), and an authority says so.
    Name(String, Authorities),
}

/// What a certificate is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Mail to everywhere is taken.
    pub relay: bool,
    /// The client is this account.
    pub account: Option<String>,
}

impl ClientCertificates {
    /// These rules; the first that fits counts.
    pub fn new(rules: Vec<ClientRule>) -> Self {
        Self(Arc::new(rules))
    }

    /// Whether there are none, so that nobody need be asked for a certificate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What this certificate is good for.
    pub fn judge(&self, certificate: &PeerCertificate) -> Option<&Grant> {
        let fits = |rule: &&ClientRule| match &rule.shown {
            Shown::Certificate(sha256) => *sha256 == certificate.sha256,
            Shown::Key(sha256) => *sha256 == certificate.spki_sha256,
            Shown::Name(name, authorities) => certificate.names.contains(name) && authorities.vouch_for(certificate),
        };
        self.0.iter().find(fits).map(|rule| &rule.grant)
    }
}
