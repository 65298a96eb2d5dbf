//! Receiving over real sockets.

mod ending;
mod gates;
mod limits;
mod messages;
mod secure;
mod settings;
mod testing;
mod whole;
