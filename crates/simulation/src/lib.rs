//! The real rooms in a simulated world, run from a seed.
//!
//! `reception`, `smtp`, `queue`, `shaping`, `feedback`, `delivery` and the engine of `store` are what the binary is made
//! of. Around them everything is simulated: senders and hosts (written anew here, so that no misunderstanding is shared),
//! the network, the DNS, the disk, both clocks, chance and the operators. [`run`] plays a world from its seed: harm is
//! done to the process, it dies and is started again on the same disk, and while the world goes on a ledger of everything
//! that anybody outside knows is held against what the process tells and keeps. In the end harm ceases, and the queue
//! must become empty with everybody told what he is owed.
//!
//! The world runs on a Tokio runtime of one thread with its time paused, so that it leaps to the next thing that happens:
//! weeks pass in seconds. A life of the process is one runtime; its death stops it at any step (an operation of the disk,
//! of a connection, a look-up) and drops the runtime with every task in it, which no clean shutdown could be taken for.
//! Those outside keep what they know in the `World` and go on in the next runtime.
//!
//! Why not turmoil: all that it simulates (sockets and time) are parameters of our rooms already, and what matters most,
//! the disk that loses power at any operation, it does not have.
//!
//! What must always hold: a seed decides everything. Nothing here or in the rooms may ask the operating system for time
//! or chance, use threads, or let the order of a hash table decide. [`Report::hash`](run::Report) sums up all that
//! happened, and tests compare it between two runs.

#![forbid(unsafe_code)]

mod audit;
mod clock;
mod content;
mod counts;
mod disk;
mod harm;
mod host;
mod house;
mod ledger;
mod life;
mod network;
mod plan;
mod planted;
mod reasons;
mod resolver;
mod run;
mod scene;
mod sender;
mod shrink;
mod stop;
mod talk;
mod times;
mod trace;
mod watch;
mod ways;

pub use counts::Counts;
pub use harm::Kind;
pub use ledger::Failure;
pub use plan::Options;
pub use planted::Planted;
pub use run::{Report, run};
pub use shrink::shrink;
