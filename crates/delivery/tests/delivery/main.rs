//! Delivery against servers on loopback that behave well and badly, with content from a real store.

mod auth;
mod content;
mod failures;
mod house;
mod peer;
mod reuse;
mod tls_levels;
