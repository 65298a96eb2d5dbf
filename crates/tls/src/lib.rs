//! Transport security: certificates and server configurations on one side, policies (DANE, MTA-STS, configured ones) and
//! verification on the other, and reports about both (TLS-RPT).

#![forbid(unsafe_code)]

pub mod client;
mod facts;
mod https;
pub mod mtasts;
mod names;
pub mod report;
mod roots;
mod server;
mod tags;
pub mod web;

pub use facts::session_facts;
pub use https::{Https, HttpsError};
pub use roots::{RootsError, roots};
pub use rustls::RootCertStore;
pub use server::{
    Acceptor, AcceptorSettings, Acme, AcmeError, AcmeSettings, AcmeStatus, Ask, Authorities, CertificateMetrics,
    CertificateSettings, CertificateSource, Certificates, CertificatesError, Challenge, ClientCertificates, ClientRule,
    Grant, Identities, Identity, IdentityError, IdentityFacts, Kept, PeerCertificate, Proofs, SelfSignedError, Shown,
    Version, self_signed,
};
