//! What is remembered of clients and accounts beyond their connections, durably.

use mail::Timestamp;
use store::{Tables, TablesError};

use crate::bans::Bans;
use crate::metrics::Metrics;
use crate::submission::Ledger;

/// Bans, and what accounts have sent.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) bans: Bans,
    pub(crate) ledger: Ledger,
}

impl Books {
    pub(crate) async fn open(tables: Tables, metrics: &Metrics, now: Timestamp) -> Result<Self, TablesError> {
        Ok(Self {
            bans: Bans::open(tables.clone(), metrics.bans.clone(), now).await?,
            ledger: Ledger::open(tables, metrics.accounts_held.clone(), now).await?,
        })
    }

    /// Empty ones that are forgotten when the process ends.
    pub(crate) fn in_memory(metrics: &Metrics) -> Self {
        let tables = Tables::in_memory();
        Self {
            bans: Bans::new(tables.clone(), metrics.bans.clone()),
            ledger: Ledger::new(tables, metrics.accounts_held.clone()),
        }
    }
}
