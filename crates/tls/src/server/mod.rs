//! The server half: who we are in a handshake, and on which terms.
//!
//! ```text
//! files, ACME, self-signed ──► Certificates ──► Identities ──► Acceptor (one per service) ──► a handshake
//!   (looked at again and again)   swaps them in    by SNI         versions, ALPN, tickets
//! ```
//!
//! What must always hold:
//!
//! - A connection keeps the certificate that it began with; a new one counts for new handshakes only.
//! - A new file that cannot be used changes nothing: the old certificate stays, and the log says so.
//! - A session is resumed by the service that began it, never by another: each [`Acceptor`] has ticket keys of its own.
//! - Private keys are never printed.

mod acceptor;
mod acme;
mod clients;
mod folder;
mod identities;
mod identity;
mod keeper;
mod peer;
mod self_signed;
#[cfg(test)]
mod testing;

pub use acceptor::{Acceptor, AcceptorSettings, Ask, Version};
pub use acme::{Acme, AcmeError, AcmeSettings, AcmeStatus, Challenge, Proofs};
pub use clients::{ClientCertificates, ClientRule, Grant, Shown};
pub(crate) use identities::ACME_TLS;
pub use identities::Identities;
pub use identity::{Identity, IdentityError, IdentityFacts};
pub use keeper::{CertificateMetrics, CertificateSettings, CertificateSource, Certificates, CertificatesError, Kept};
pub use peer::{Authorities, PeerCertificate};
pub use self_signed::{SelfSignedError, self_signed};
