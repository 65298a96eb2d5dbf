//! An account, as the rest of the house knows it: without its secrets.

use serde::{Deserialize, Serialize};

use crate::send_as::SendAs;

/// Somebody who may submit mail.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Its name, in the form that all spellings of it have in common.
    pub name: String,
    /// The addresses it may use.
    pub send_as: SendAs,
    /// Its own limits, in place of those that all have.
    pub limits: Option<AccountLimits>,
    /// Whether its clients' addresses are left out of Received fields; the general rule if not set.
    pub hide_client: Option<bool>,
}

/// How much an account may send; what is not set is as for all accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountLimits {
    /// Messages in an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_hour: Option<u32>,
    /// Messages in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_day: Option<u32>,
    /// Recipients in an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients_per_hour: Option<u32>,
    /// Recipients in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients_per_day: Option<u32>,
}

impl Account {
    /// An account about which nothing but its name is known: it sends as itself.
    pub fn plain(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { send_as: SendAs::own(&name), name, limits: None, hide_client: None }
    }
}
