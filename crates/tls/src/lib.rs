//! Transport security: certificates and server configurations on one side, policies (DANE, MTA-STS, configured ones) and
//! verification on the other, and reports about both (TLS-RPT).

#![forbid(unsafe_code)]

pub mod mtasts;
pub mod report;
mod tags;
