//! Name service for tests: a real server with scripted answers, and a [`Resolve`](crate::Resolve) without any network.
//!
//! ```
//! use dns::testing::{DnsServer, Fixed};
//!
//! let server = DnsServer::start();
//! server.mx("example.org", 10, "mx.example.org").host("mx.example.org", "127.0.0.1");
//!
//! let fixed = Fixed::default();
//! fixed.null_mx("example.net").temporary("example.com");
//! ```
//!
//! Names and addresses are texts here; a broken one panics, as a broken test should.

mod fixed;
mod server;
mod zone;

pub use crate::answer::Kind;
pub use fixed::Fixed;
pub use server::DnsServer;
pub use zone::{Behaviour, Transport};
