//! What hosts must prove, and whether they do: against servers of rustls on the loopback interface.

mod dane;
mod host;
mod lines;
mod policies;
