//! The control socket: how the command line talks to the running server.
//!
//! A Unix socket in the folder of the store, for its owner (and root) only. A request is one line of JSON; the answer is
//! lines of JSON, each `{"item": …}`, and a last one that is `"end"` or `{"error": "…"}`. Long lists are sent as they are
//! read, so that neither side holds them. Content comes as `{"bytes": N}` lines with N octets behind each.

mod answer;
mod client;
mod clients;
mod reports;
mod server;

use mail::{Destination, Domain, MessageId};
use queue::{Action, Selection};
use serde::{Deserialize, Serialize};
use tls::report::Wanted;

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
    /// Something about TLS reports.
    Reports {
        /// What.
        request: ReportRequest,
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

/// What can be asked of TLS reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReportRequest {
    /// Those that came, oldest first: one item each.
    Received {
        /// Which.
        wanted: Wanted,
        /// At most this many.
        limit: usize,
    },
    /// One that came: one item.
    Show {
        /// The id of its mail.
        id: MessageId,
    },
    /// What those that came say together, by domain: one item each.
    Summary {
        /// Which.
        wanted: Wanted,
    },
    /// Those that were sent or wait to be: one item each.
    Sent {
        /// About this domain.
        domain: Option<Domain>,
        /// At most this many.
        limit: usize,
    },
    /// What is counted and not reported yet: one item per domain and day.
    Counted {
        /// About this domain.
        domain: Option<Domain>,
        /// At most this many.
        limit: usize,
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
