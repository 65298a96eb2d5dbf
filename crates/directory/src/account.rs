//! An account, as the rest of the house knows it: without its secrets.

use serde::{Deserialize, Serialize};

use crate::send_as::SendAs;

/// Somebody who may submit mail.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Its name as its backend has it: whatever somebody calls it by, this is the one that everything is counted by.
    pub name: String,
    /// The addresses it may use.
    pub send_as: SendAs,
    /// Its own limits, in place of those that all have.
    pub limits: Option<AccountLimits>,
    /// Whether its clients' addresses are left out of Received fields; the general rule if not set.
    pub hide_client: Option<bool>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Messages in an hour.
    MessagesPerHour,
    /// Messages in a day.
    MessagesPerDay,
    /// Recipients in an hour.
    RecipientsPerHour,
    /// Recipients in a day.
    RecipientsPerDay,
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

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 4] =
        [Limit::MessagesPerHour, Limit::MessagesPerDay, Limit::RecipientsPerHour, Limit::RecipientsPerDay];

    /// Its name, also of columns and fields.
    pub const fn as_str(self) -> &'static str {
        match self {
            Limit::MessagesPerHour => "messages_per_hour",
            Limit::MessagesPerDay => "messages_per_day",
            Limit::RecipientsPerHour => "recipients_per_hour",
            Limit::RecipientsPerDay => "recipients_per_day",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.as_str() == name)
    }
}

impl AccountLimits {
    pub(crate) fn set(&mut self, limit: Limit, most: u32) {
        let place = match limit {
            Limit::MessagesPerHour => &mut self.messages_per_hour,
            Limit::MessagesPerDay => &mut self.messages_per_day,
            Limit::RecipientsPerHour => &mut self.recipients_per_hour,
            Limit::RecipientsPerDay => &mut self.recipients_per_day,
        };
        *place = Some(most);
    }

    /// Nothing, if none is set.
    pub(crate) fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

impl Account {
    /// An account about which nothing but its name is known: it sends as itself.
    pub fn plain(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { send_as: SendAs::own(&name), name, limits: None, hide_client: None }
    }
}
