//! MTA-STS policies and TLS reports against a real HTTPS server on loopback.

mod corpus;
mod house;
mod matrix;
mod reports;
mod web;
