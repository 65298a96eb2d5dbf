//! All identities of the server, found by the name that a client asks for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::Identity;

/// The protocol by which a certificate authority asks for proof (RFC 8737 §3).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The identities in force; clones share them. New ones count from the next handshake on.
#[derive(Clone, Default)]
pub struct Identities(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: RwLock<Arc<Table>>,
    /// Proofs for a certificate authority, by the name to prove.
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

#[derive(Default)]
struct Table {
    identities: Vec<Identity>,
    /// Places in `identities`, by name; a wildcard stands under its name with the asterisk.
    by_name: HashMap<String, Vec<usize>>,
}

impl Identities {
    /// These identities. The first is for clients that name nobody, or somebody else. Several may have the same name, with
    /// keys of different kinds: a client gets the first that it understands.
    pub fn new(identities: Vec<Identity>) -> Self {
        let made = Self::default();
        made.replace(identities);
        made
    }

    /// Puts others in force.
    pub fn replace(&self, identities: Vec<Identity>) {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, identity) in identities.iter().enumerate() {
            for name in &identity.facts().names {
                by_name.entry(name.clone()).or_default().push(at);
            }
        }
        let table = Arc::new(Table { identities, by_name });
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Those in force, the default one first.
    pub fn all(&self) -> Vec<Identity> {
        self.table().identities.clone()
    }

    /// The one that a client gets which asks for `host`.
    pub fn find(&self, host: &str) -> Option<Identity> {
        let table = self.table();
        table.named(host).next().or(table.identities.first()).cloned()
    }

    /// Answers for `host` with this certificate to whoever asks by `acme-tls/1`.
    pub(crate) fn prove(&self, host: &str, proof: CertifiedKey) {
        self.challenges().insert(host.to_ascii_lowercase(), Arc::new(proof));
    }

    /// The proof has been seen.
    pub(crate) fn proven(&self, host: &str) {
        self.challenges().remove(&host.to_ascii_lowercase());
    }

    fn challenges(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        self.0.challenges.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// The identities for a host name.
    fn named(&self, host: &str) -> impl Iterator<Item = &Identity> {
        let host = host.to_ascii_lowercase();
        let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let places = self.by_name.get(&host).or_else(|| self.by_name.get(&wildcard?));
        places.into_iter().flatten().filter_map(|at| self.identities.get(*at))
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name();
        let is_proof = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS));
        if is_proof {
            let challenges = self.0.challenges.read().unwrap_or_else(PoisonError::into_inner);
            return challenges.get(&host?.to_ascii_lowercase()).cloned();
        }
        let table = self.table();
        let understood =
            |identity: &&Identity| identity.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = host.and_then(|host| table.named(host).find(understood));
        // RFC 6066 §3 lets a server go on with another name: senders that do not verify would lose encryption otherwise.
        let found = named.or_else(|| table.identities.iter().find(understood)).or(table.identities.first());
        found.map(|identity| Arc::clone(&identity.certified))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.table().identities).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing::Made;

    #[test]
    fn the_name_asked_for_decides() {
        let identities = Identities::new(
            [&["mx.example.org"][..], &["a.example", "*.wild.example"], &["x.wild.example"]]
                .map(|names| Made::new(names).identity())
                .into(),
        );
        for (asked, expected) in [
            ("a.example", "a.example"),
            ("A.Example", "a.example"),
            ("y.wild.example", "a.example"),
            ("x.wild.example", "x.wild.example"),
            ("z.y.wild.example", "mx.example.org"),
            ("elsewhere.example", "mx.example.org"),
        ] {
            assert_eq!(identities.find(asked).unwrap().facts().name(), expected, "{asked}");
        }
        identities.replace(vec![Made::new(&["new.example"]).identity()]);
        assert_eq!(identities.find("a.example").unwrap().facts().name(), "new.example");
        assert!(Identities::default().find("a.example").is_none());
    }
}
