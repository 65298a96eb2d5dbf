//! Transport security: certificates and server configurations on one side, policies (DANE, MTA-STS, configured ones) and
//! verification on the other, and reports about both (TLS-RPT).

#![forbid(unsafe_code)]

mod https;
pub mod mtasts;
mod names;
pub mod report;
mod roots;
mod tags;

pub use https::{Https, HttpsError};
pub use roots::{RootsError, roots};
