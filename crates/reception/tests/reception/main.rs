//! Receiving over real sockets.

mod ending;
mod gates;
mod limits;
mod messages;
mod refusals;
mod secure;
mod settings;
mod submission;
mod testing;
mod whole;
