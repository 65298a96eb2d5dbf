//! The control socket: how the command line talks to the running server.
//!
//! A Unix socket in the folder of the store, for its owner (and root) only. A request is one line of JSON; the answer is
//! lines of JSON, each `{"item": …}`, and a last one that is `"end"` or `{"error": "…"}`. Long lists are sent as they are
//! read, so that neither side holds them. Content comes as `{"bytes": N}` lines with N octets behind each.

mod answer;
mod client;
mod clients;
mod server;

use mail::{Destination, MessageId};
use queue::{Action, Selection};
use serde::{Deserialize, Serialize};

pub use answer::{Control, Known};
pub use client::{Client, ClientError};
pub use server::Server;

/// What can be asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the server is: one item.
    Status,
    /// The metrics: one item, a string.
    Metrics,
    /// Counts per destination, and the lanes: one item.
    Summary {
        /// At most this many destinations and lanes, those with the most first.
        limit: usize,
    },
    /// What is known of one destination: one item.
    Destination {
        /// Its name.
        name: Destination,
    },
    /// Messages, oldest first: one item each.
    List {
        /// Which.
        selection: Selection,
        /// At most this many.
        limit: usize,
    },
    /// One message: one item.
    Show {
        /// Its id.
        id: MessageId,
    },
    /// The content of a message, as octets.
    Content {
        /// Its id.
        id: MessageId,
    },
    /// How much an action would be about: one item.
    Count {
        /// To which messages.
        selection: Selection,
    },
    /// When the passwords of an account were last used: one item.
    LastUses {
        /// Its name.
        account: String,
    },
    /// How it stands with the certificate from an authority: one item, which is nothing if none is wanted.
    Acme {
        /// Get a new one first.
        renew: bool,
    },
    /// The bans in force: one item each.
    Bans,
    /// Refuses a network at connect: one item, the ban.
    Ban {
        /// It, or one address.
        network: String,
        /// For how long; without end if not set.
        time: Option<std::time::Duration>,
        /// Who.
        author: String,
        /// Why.
        reason: String,
    },
    /// Lifts a ban: one item that says whether there was one.
    LiftBan {
        /// What is banned.
        network: String,
        /// Who.
        author: String,
        /// Why.
        reason: String,
    },
    /// What accounts have sent: one item each.
    AccountUses {
        /// Only this one.
        account: Option<String>,
    },
    /// Ends the hold on an account, and releases its messages: one item that says how much was done.
    ReleaseAccount {
        /// The account.
        account: String,
        /// Who.
        author: String,
        /// Why.
        reason: String,
    },
    /// Does something: one item that says how much was done, and while it goes on now and then how far it came.
    Act {
        /// What.
        action: Action,
        /// To which messages.
        selection: Selection,
        /// Who.
        author: String,
        /// Why.
        reason: String,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A part of the answer.
    Item(serde_json::Value),
    /// How far it came.
    Progress(serde_json::Value),
    /// So many octets follow behind the line.
    Bytes(u64),
    /// That was all.
    End,
    /// It did not work, in words for people.
    Error(String),
}
