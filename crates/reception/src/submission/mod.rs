//! What is asked of those who submit mail of their own, and done for them (RFC 6409).
//!
//! An account sends as its own addresses only: MAIL FROM is held against them at once, the originators in the header
//! section when it is whole. On listeners for submission what is missing there is added; anywhere else, and of everything
//! behind the header section, every octet passes as it came. How much an account may send is counted by the [`Ledger`];
//! what is not like it is accepted and held.

mod account_use;
mod gather;
mod head;
mod ledger;
mod series;

use std::sync::Arc;

use bytes::Bytes;
use directory::Account;
use mail::{EnhancedCode, Mailbox, Reply, ReversePath};

use crate::intake::Refused;
use account_use::Over;

pub use account_use::{AccountLimits, Spike, SpikeRule, UseSummary};
pub(crate) use gather::Gather;
pub(crate) use head::Missing;
pub(crate) use ledger::{Counted, Ledger};
pub(crate) use series::Sent;

/// What holds for all who submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// How much an account may send that has no limits of its own.
    pub limits: AccountLimits,
    /// What puts an account's mail on hold; nothing does if not set.
    pub spikes: Option<SpikeRule>,
    /// Whether Received fields leave out where the client is. Accounts may differ.
    pub hide_client: bool,
    /// Whether mail may have the null sender, as reports of reading have (RFC 8098 §3).
    pub null_sender: bool,
}

impl Default for Submission {
    fn default() -> Self {
        Self {
            limits: AccountLimits::default(),
            spikes: Some(SpikeRule::default()),
            hide_client: true,
            null_sender: true,
        }
    }
}

impl Submission {
    /// How much this account may send.
    pub(crate) fn limits_of(&self, account: &Account) -> AccountLimits {
        let (own, all) = (account.limits.unwrap_or_default(), self.limits);
        AccountLimits {
            messages_per_hour: own.messages_per_hour.unwrap_or(all.messages_per_hour),
            messages_per_day: own.messages_per_day.unwrap_or(all.messages_per_day),
            recipients_per_hour: own.recipients_per_hour.unwrap_or(all.recipients_per_hour),
            recipients_per_day: own.recipients_per_day.unwrap_or(all.recipients_per_day),
        }
    }

    /// The refusal of a sender that this account may not use.
    pub(crate) fn judge_sender(&self, account: &Account, sender: &ReversePath) -> Option<Reply> {
        match sender.mailbox() {
            Some(mailbox) if account.send_as.allows(mailbox) => None,
            Some(mailbox) => {
                Some(head::not_owned(&format!("MAIL FROM:<{mailbox}>"), &account.name, &account.send_as.describe()))
            }
            None if self.null_sender => None,
            None => Some(Reply::new(550, EnhancedCode::new(5, 7, 1), "mail needs a sender here")),
        }
    }
}

/// How the header section of a message is treated.
#[derive(Clone)]
pub(crate) struct Scrutiny {
    /// Whose message it is.
    pub(crate) account: Arc<Account>,
    /// MAIL FROM.
    pub(crate) sender: Option<Mailbox>,
    /// Whether what is missing is added, and what betrays is cut out.
    pub(crate) mends: bool,
}

impl Scrutiny {
    /// The header section as it goes on, and what is to be put in front of it.
    pub(crate) fn pass(&self, header: Bytes) -> Result<(Vec<Bytes>, Missing), Refused> {
        let send_as = &self.account.send_as;
        let owns = |mailbox: &Mailbox| send_as.allows(mailbox);
        let author = head::Author { owns: &owns, sender: self.sender.as_ref() };
        let mended = head::mend(&header, &author).map_err(|fault| Refused {
            reply: fault.reply(&self.account.name, &send_as.describe()),
            reason: fault.word(),
            passing: false,
        })?;
        Ok(if self.mends { (mended.kept, mended.missing) } else { (vec![header], Missing::default()) })
    }
}

/// What a client is told whose account has reached a limit.
pub(crate) fn over_limit(account: &str, over: &Over) -> Reply {
    let Over { limit, what, again } = over;
    match again {
        Some(again) => {
            let text = format!("{account} may send {limit} {what}, try again after {again}");
            Reply::new(450, EnhancedCode::new(4, 7, 1), text)
        }
        None => Reply::new(550, EnhancedCode::new(5, 7, 1), format!("{account} may send {limit} {what}")),
    }
}
