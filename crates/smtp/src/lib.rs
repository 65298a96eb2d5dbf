//! SMTP and LMTP without I/O: grammar, sessions, transactions, content codecs.
//!
//! Bytes and instants go in, events and bytes come out; nothing here touches a socket or a clock. [`server`] is the
//! side that receives, [`client`] the side that sends; the modules beside it are the grammar that both sides share.

#![forbid(unsafe_code)]

pub mod client;
pub mod commands;
pub mod extensions;
pub mod params;
pub mod reply;
pub mod sasl;
pub mod server;
pub mod xtext;
