//! When each password was last used, and from where: so that somebody who reviews an account sees what is forgotten and what
//! is foreign.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mail::{Clock, Timestamp};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use store::{Table, Tables, TablesError};

use crate::password::Matched;

/// Uses within this time are written once.
const PAUSE: Duration = Duration::from_secs(60);
/// The most passwords whose last write is remembered.
const MOST: u64 = 10_000;
/// What was not used for so long is as if it never was.
const MEMORY: Duration = Duration::from_secs(2 * 366 * 24 * 3600);
/// The most records of one account that are read.
const MOST_LISTED: usize = 1_000;

/// Notes uses in the tables of the store; clones note in the same.
#[derive(Clone)]
pub struct Uses {
    tables: Tables,
    clock: Arc<dyn Clock>,
    lately: Cache<String, IpAddr>,
}

/// The last use of one password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// The app password's name; none: the account's own password, its token or its certificate.
    pub app_password: Option<String>,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub from: IpAddr,
}

impl Uses {
    /// By these tables and this clock.
    pub fn new(tables: Tables, clock: Arc<dyn Clock>) -> Self {
        Self { tables, clock, lately: Cache::builder().max_capacity(MOST).time_to_live(PAUSE).build() }
    }

    pub(crate) fn note(&self, account: &str, matched: &Matched, from: IpAddr) {
        let app_password = match matched {
            Matched::Main => None,
            Matched::Extra(name) => Some(name.clone()),
        };
        // Names hold no control characters.
        let key = format!("{account}\n{}", app_password.as_deref().unwrap_or_default());
        if self.lately.get(&key) == Some(from) {
            return;
        }
        let now = self.clock.now();
        if let Ok(value) = serde_json::to_vec(&LastUse { app_password, at: now, from }) {
            self.tables.put_soon(Table::AppPasswords, &key, value, Some(now + MEMORY));
            self.lately.insert(key, from);
        }
    }

    pub(crate) async fn of(&self, account: &str) -> Result<Vec<LastUse>, TablesError> {
        let now = self.clock.now();
        let prefix = format!("{account}\n");
        let found = self.tables.scan(Table::AppPasswords, &prefix, None, MOST_LISTED, now).await?;
        Ok(found.into_iter().filter_map(|(_, value, _)| serde_json::from_slice(&value).ok()).collect())
    }
}

impl fmt::Debug for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uses(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Stopped;
    impl Clock for Stopped {
        fn instant(&self) -> std::time::Instant {
            std::time::Instant::now()
        }

        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_000)
        }
    }

    #[tokio::test]
    async fn the_last_use_of_each_password_is_kept_by_account() {
        let uses = Uses::new(Tables::in_memory(), Arc::new(Stopped));
        let (home, work): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        uses.note("joe", &Matched::Main, home);
        uses.note("joe", &Matched::Extra("phone".into()), home);
        uses.note("joe", &Matched::Extra("phone".into()), work);
        uses.note("joey", &Matched::Main, work);
        let at = Timestamp::from_millis(1_000);
        assert_eq!(
            uses.of("joe").await.unwrap(),
            [
                LastUse { app_password: None, at, from: home },
                LastUse { app_password: Some("phone".into()), at, from: work }
            ]
        );
    }
}
