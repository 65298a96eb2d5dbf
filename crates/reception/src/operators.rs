//! What operators see of clients and accounts, and do about them.

use std::time::Duration;

use mail::{Act, Event, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Tables, TablesError};

use crate::bans::Ban;
use crate::books::Books;
use crate::network::Network;
use crate::reception::Reception;
use crate::submission::UseSummary;

/// The shortest network that can be banned: shorter ones are a mistake more often than not.
const SHORTEST: (u8, u8) = (8, 16);

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nearly everybody would be refused.
    #[error("{0} is too large to be banned: at least {1} bits are needed")]
    TooLarge(Network, u8),
    /// The tables cannot be read or written.
    #[error(transparent)]
    Tables(#[from] TablesError),
}

/// A ban, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanSummary {
    /// Who is refused.
    pub network: String,
    /// How.
    #[serde(flatten)]
    pub ban: Ban,
}

impl Reception {
    /// Remembers bans and what accounts send in these tables from now on; to be called once, before
    /// [`serve`](Self::serve). Without, they are forgotten when the process ends.
    pub async fn remember(&self, tables: Tables) -> Result<(), TablesError> {
        let shared = self.shared();
        let books = Books::open(tables, &shared.metrics, shared.clock.now()).await?;
        if shared.books.set(books).is_err() {
            tracing::error!("the tables of reception were opened twice; the first ones stay in use");
        }
        Ok(())
    }

    /// The bans in force.
    pub fn bans(&self) -> Vec<BanSummary> {
        let list = self.shared().books().bans.list(self.now());
        list.into_iter()
            .map(|(network, ban)| BanSummary { network: network.to_string(), ban: (*ban).clone() })
            .collect()
    }

    /// Refuses a network at connect, on every listener; without end if no time is given.
    pub async fn ban(&self, network: Network, time: Option<Duration>, act: Act) -> Result<(), OperatorError> {
        let (ipv4, prefix) = network.kind();
        let shortest = if ipv4 { SHORTEST.0 } else { SHORTEST.1 };
        if prefix < shortest {
            return Err(OperatorError::TooLarge(network, shortest));
        }
        let Act { author, reason, at } = act;
        let until = time.map(|time| at + time);
        let ban = Ban { since: at, until, times: 0, author: Some(author.clone()), reason: reason.clone() };
        self.shared().books().bans.add(network, ban, at).await?;
        self.tell(&Event::Banned { network: network.to_string(), until, author: Some(author), reason });
        Ok(())
    }

    /// Lifts a ban and forgets the failures that led to it; whether there was one.
    pub async fn lift_ban(&self, network: Network, act: Act) -> Result<bool, OperatorError> {
        let lifted = self.shared().books().bans.lift(network, act.at).await?;
        if lifted {
            self.tell(&Event::BanLifted { network: network.to_string(), act });
        }
        Ok(lifted)
    }

    /// What an account has sent.
    pub async fn account_use(&self, account: &str) -> Result<UseSummary, OperatorError> {
        Ok(self.shared().books().ledger.summary(account, self.now()).await?)
    }

    /// What all accounts have sent of which anything is known.
    pub async fn account_uses(&self) -> Result<Vec<UseSummary>, OperatorError> {
        Ok(self.shared().books().ledger.summaries(self.now()).await?)
    }

    /// What the account sends from now on is no longer held, and is counted anew; whether it was held. What is held
    /// already is the queue's.
    pub async fn release_account(&self, account: &str, act: Act) -> Result<bool, OperatorError> {
        let released = self.shared().books().ledger.release(account, act.at).await?.is_some();
        if released {
            self.tell(&Event::AccountReleased { account: account.to_owned(), act });
        }
        Ok(released)
    }

    fn now(&self) -> Timestamp {
        self.shared().clock.now()
    }

    fn tell(&self, event: &Event) {
        self.shared().observer.observe(event);
    }
}
