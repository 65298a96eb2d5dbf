//! What all accounts have sent: counted in memory, written down within a second, read again when the server starts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::{Act, Timestamp};
use prometheus_client::metrics::gauge::Gauge;
use store::{Table, Tables, TablesError};

use super::account_use::{AccountLimits, AccountUse, Over, Spike, SpikeRule, UseSummary};
use super::series::Sent;

/// Accounts in memory; of more than these, those that send nothing right now are read again when they do.
const MOST_KNOWN: usize = 4096;

/// The books of all accounts.
#[derive(Debug)]
pub(crate) struct Ledger {
    tables: Tables,
    known: Mutex<HashMap<String, Arc<Mutex<AccountUse>>>>,
    held: Gauge,
}

/// A message that was counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Whether the account's mail is held.
    pub(crate) held: Option<Spike>,
    /// Whether this message made it so.
    pub(crate) begun: bool,
}

impl Counted {
    /// The hold that the message is under from its first moment on.
    pub(crate) fn hold(&self) -> Option<Act> {
        let Spike { at, recipients, usual } = self.held?;
        let reason = format!("its account has sent to {recipients} recipients in 24 hours, and {usual} are like it");
        Some(Act { author: "postrider".to_owned(), reason, at })
    }
}

impl Ledger {
    /// In these tables, of which is not known which accounts are held.
    pub(crate) fn new(tables: Tables, held: Gauge) -> Self {
        Self { tables, known: Mutex::default(), held }
    }

    /// Reads which accounts are held.
    pub(crate) async fn open(tables: Tables, held: Gauge, now: Timestamp) -> Result<Self, TablesError> {
        let ledger = Self::new(tables, held);
        let summaries = ledger.summaries(now).await?;
        ledger.held.set(summaries.iter().filter(|one| one.held.is_some()).count() as i64);
        Ok(ledger)
    }

    /// Whether an account may send so much more now.
    pub(crate) async fn room(
        &self,
        account: &str,
        more: Sent,
        limits: &AccountLimits,
        now: Timestamp,
    ) -> Result<Result<(), Over>, TablesError> {
        let record = self.record(account, now).await?;
        Ok(lock(&record).room(more, limits, now))
    }

    /// Counts a message, if the limits leave room for it. A hold that it begins is durable when this returns.
    pub(crate) async fn count(
        &self,
        account: &str,
        sent: Sent,
        limits: &AccountLimits,
        spikes: Option<&SpikeRule>,
        now: Timestamp,
    ) -> Result<Result<Counted, Over>, TablesError> {
        let record = self.record(account, now).await?;
        let (counted, value, expires) = {
            let mut record = lock(&record);
            if let Err(over) = record.room(sent, limits, now) {
                return Ok(Err(over));
            }
            let begun = record.count(sent, spikes, now).is_some();
            (Counted { held: record.held, begun }, encode(&record), record.expires(now))
        };
        if counted.begun {
            self.held.inc();
            if let Err(error) = self.tables.put(Table::AccountUse, account, value, expires).await {
                // The message is not accepted; the hold stays, in memory.
                lock(&record).take_back(sent);
                return Err(error);
            }
        } else {
            self.tables.put_soon(Table::AccountUse, account, value, expires);
        }
        Ok(Ok(counted))
    }

    /// Takes a message back that was not accepted after all.
    pub(crate) async fn take_back(&self, account: &str, sent: Sent, now: Timestamp) {
        let Ok(record) = self.record(account, now).await else { return };
        let mut record = lock(&record);
        record.take_back(sent);
        self.tables.put_soon(Table::AccountUse, account, encode(&record), record.expires(now));
    }

    /// Ends the hold on an account; nothing if there was none.
    pub(crate) async fn release(&self, account: &str, now: Timestamp) -> Result<Option<Spike>, TablesError> {
        let record = self.record(account, now).await?;
        let (spike, value, expires) = {
            let mut record = lock(&record);
            (record.release(), encode(&record), record.expires(now))
        };
        if spike.is_some() {
            self.held.dec();
            self.tables.put(Table::AccountUse, account, value, expires).await?;
        }
        Ok(spike)
    }

    /// What one account has sent.
    pub(crate) async fn summary(&self, account: &str, now: Timestamp) -> Result<UseSummary, TablesError> {
        let record = self.record(account, now).await?;
        Ok(lock(&record).summary(account.to_owned(), now))
    }

    /// What every account has sent of which anything is known.
    pub(crate) async fn summaries(&self, now: Timestamp) -> Result<Vec<UseSummary>, TablesError> {
        const PAGE: usize = 1000;
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.tables.scan(Table::AccountUse, "", after.as_deref(), PAGE, now).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|(account, ..)| account.clone());
            found.extend(page.into_iter().map(|(account, value, _)| decode(&account, &value).summary(account, now)));
            if !full {
                return Ok(found);
            }
        }
    }

    async fn record(&self, account: &str, now: Timestamp) -> Result<Arc<Mutex<AccountUse>>, TablesError> {
        if let Some(record) = self.known().get(account) {
            return Ok(Arc::clone(record));
        }
        let value = self.tables.get(Table::AccountUse, account, now).await?;
        let read = value.map(|value| decode(account, &value)).unwrap_or_default();
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            // What nobody holds was handed to the tables, which give what they were given.
            known.retain(|_, record| Arc::strong_count(record) > 1);
        }
        // Somebody else may have been faster, and have counted already.
        Ok(Arc::clone(known.entry(account.to_owned()).or_insert_with(|| Arc::new(Mutex::new(read)))))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<AccountUse>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(record: &Mutex<AccountUse>) -> MutexGuard<'_, AccountUse> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode(record: &AccountUse) -> Vec<u8> {
    // Numbers and lists of them can always be written.
    postcard::to_stdvec(record).unwrap_or_default()
}

fn decode(account: &str, value: &[u8]) -> AccountUse {
    postcard::from_bytes(value).unwrap_or_else(|error| {
        tracing::warn!(account, %error, "what the account has sent cannot be read; it is counted anew");
        AccountUse::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis((20_000 * 86_400 + minutes * 60) * 1000)
    }

    const LIMITS: AccountLimits =
        AccountLimits { messages_per_hour: 3, messages_per_day: 10, recipients_per_hour: 20, recipients_per_day: 30 };
    const RULE: SpikeRule = SpikeRule { floor: 5, factor: 5 };

    async fn open(tables: &Tables, now: Timestamp) -> (Ledger, Gauge) {
        let held = Gauge::default();
        (Ledger::open(tables.clone(), held.clone(), now).await.unwrap(), held)
    }

    #[tokio::test]
    async fn a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let tables = Tables::open(folder.path()).unwrap();
        let (ledger, _) = open(&tables, at(0)).await;
        for _ in 0..2 {
            ledger.count("anna", Sent::message(1), &LIMITS, Some(&RULE), at(0)).await.unwrap().unwrap();
        }
        let counted = ledger.count("bob", Sent::message(6), &LIMITS, Some(&RULE), at(0)).await.unwrap().unwrap();
        assert!(counted.begun && counted.held.is_some());
        drop(ledger);
        tables.close().await;

        let tables = Tables::open(folder.path()).unwrap();
        let (ledger, held) = open(&tables, at(1)).await;
        assert_eq!(held.get(), 1);
        ledger.count("anna", Sent::message(1), &LIMITS, Some(&RULE), at(1)).await.unwrap().unwrap();
        let over = ledger.count("anna", Sent::message(1), &LIMITS, Some(&RULE), at(1)).await.unwrap().unwrap_err();
        assert_eq!((over.what, over.again), ("messages in an hour", Some(at(65))));
        let counted = ledger.count("bob", Sent::message(1), &LIMITS, Some(&RULE), at(1)).await.unwrap().unwrap();
        assert!(!counted.begun && counted.held.is_some());
        assert!(ledger.release("bob", at(2)).await.unwrap().is_some());
        assert!(ledger.release("bob", at(2)).await.unwrap().is_none());
        assert_eq!(held.get(), 0);
        let counted = ledger.count("bob", Sent::message(1), &LIMITS, Some(&RULE), at(2)).await.unwrap().unwrap();
        assert_eq!(counted.held, None);
    }

    #[tokio::test]
    async fn what_is_taken_back_leaves_room() {
        let (ledger, _) = open(&Tables::in_memory(), at(0)).await;
        for _ in 0..9 {
            ledger.count("anna", Sent::message(1), &LIMITS, None, at(0)).await.unwrap().unwrap();
            ledger.take_back("anna", Sent::message(1), at(0)).await;
        }
        assert_eq!(ledger.summary("anna", at(0)).await.unwrap().messages_day, 0);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_nothing_is_lost_by_it() {
        let (ledger, _) = open(&Tables::in_memory(), at(0)).await;
        for number in 0..MOST_KNOWN + 10 {
            ledger.count(&format!("a{number:05}"), Sent::message(2), &LIMITS, None, at(0)).await.unwrap().unwrap();
        }
        assert!(ledger.known().len() <= MOST_KNOWN);
        assert_eq!(ledger.summary("a00000", at(0)).await.unwrap().recipients_day, 2);
        assert_eq!(ledger.summaries(at(0)).await.unwrap().len(), MOST_KNOWN + 10);
    }
}
