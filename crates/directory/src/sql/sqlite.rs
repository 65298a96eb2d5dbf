//! SQLite: a file, read by a few connections on blocking threads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{Row, is_true, listed};
use crate::account::Limit;

/// Connections, and threads that wait for one.
const MOST: usize = 4;

pub struct Sqlite {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    timeout: Duration,
}

struct Shared {
    path: PathBuf,
    query: String,
    busy: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl Sqlite {
    pub fn new(path: PathBuf, query: String, timeout: Duration) -> Self {
        let shared = Arc::new(Shared { path, query, busy: timeout / 2, idle: Mutex::default() });
        Self { shared, places: Arc::new(Semaphore::new(MOST)), timeout }
    }

    pub async fn row(&self, name: &str) -> Result<Option<Row>, String> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        let look = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|error| error.to_string())?;
            // The place is held by the thread: a query that takes too long takes none from the others twice.
            let thread = tokio::task::spawn_blocking(move || {
                let row = shared.row(&name);
                drop(place);
                row
            });
            thread.await.map_err(|error| error.to_string())?
        };
        tokio::time::timeout(self.timeout, look).await.unwrap_or_else(|_| Err("it does not answer in time".to_owned()))
    }
}

impl Shared {
    fn row(&self, name: &str) -> Result<Option<Row>, String> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().map_err(|error| error.to_string())?,
        };
        let row = self.ask(&connection, name)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST {
            idle.push(connection);
        }
        Ok(row)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(self.busy)?;
        Ok(connection)
    }

    fn ask(&self, connection: &Connection, name: &str) -> Result<Option<Row>, String> {
        let told = |error: rusqlite::Error| error.to_string();
        let mut statement = connection.prepare_cached(&self.query).map_err(told)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([name]).map_err(told)?;
        let Some(found) = rows.next().map_err(told)? else { return Ok(None) };
        let mut row = Row::default();
        for (at, column) in columns.iter().enumerate() {
            let value = found.get_ref(at).map_err(told)?;
            read(&mut row, column, value)?;
        }
        match rows.next().map_err(told)? {
            None => Ok(Some(row)),
            Some(_) => Err(told(rusqlite::Error::QueryReturnedMoreThanOneRow)),
        }
    }
}

/// What one column says.
fn read(row: &mut Row, column: &str, value: ValueRef<'_>) -> Result<(), String> {
    let text = || match value.as_str_or_null() {
        Ok(text) => Ok(text.map(str::to_owned)),
        Err(error) => Err(format!("column `{column}`: {error}")),
    };
    match column {
        "name" => row.name = text()?,
        "hash" => row.hash = text()?,
        "scram" => row.scram = text()?,
        "addresses" => row.addresses = text()?.map(|text| listed(&text)),
        "disabled" => {
            row.disabled = match value {
                ValueRef::Integer(number) => number != 0,
                _ => text()?.is_some_and(|text| is_true(&text)),
            }
        }
        _ => {
            if let Some(limit) = Limit::named(column) {
                row.limit(limit, value.as_i64_or_null().map_err(|error| format!("column `{column}`: {error}"))?)?;
            }
        }
    }
    Ok(())
}
