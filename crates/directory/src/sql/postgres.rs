//! PostgreSQL: a small pool of connections.

use std::path::Path;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::Type;
use tokio_postgres::{Config, Row as Found};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Row, SqlError, is_true, listed};
use crate::account::Limit;
use crate::{trust, with_causes};

/// Connections.
const MOST: usize = 4;

pub struct Postgres {
    pool: Pool,
    query: String,
    timeout: Duration,
}

impl Postgres {
    pub fn new(
        url: &str,
        password: Option<&str>,
        authorities: Option<&Path>,
        query: String,
        timeout: Duration,
    ) -> Result<Self, SqlError> {
        let mut config: Config =
            url.parse().map_err(|error: tokio_postgres::Error| SqlError::Url(error.to_string()))?;
        if let Some(password) = password {
            config.password(password);
        }
        if config.get_application_name().is_none() {
            config.application_name("postrider");
        }
        // Verifiers do not travel in the clear, whatever the server says that it can do.
        if !config.get_hosts().iter().all(is_local) {
            config.ssl_mode(SslMode::Require);
        }
        config.connect_timeout(timeout);
        let tls = MakeRustlsConnect::new(trust::client(authorities)?.as_ref().clone());
        let manager = Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(MOST)
            .wait_timeout(Some(timeout))
            .create_timeout(Some(timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| SqlError::Url(error.to_string()))?;
        Ok(Self { pool, query, timeout })
    }

    pub async fn row(&self, name: &str) -> Result<Option<Row>, String> {
        match tokio::time::timeout(self.timeout, self.ask(name)).await {
            Ok(result) => result,
            Err(_) => Err("it does not answer in time".to_owned()),
        }
    }

    async fn ask(&self, name: &str) -> Result<Option<Row>, String> {
        let client = self.pool.get().await.map_err(with_causes)?;
        let statement = client.prepare_cached(&self.query).await.map_err(with_causes)?;
        let found = client.query_opt(&statement, &[&name]).await.map_err(with_causes)?;
        found.map(|found| read(&found)).transpose()
    }
}

fn read(found: &Found) -> Result<Row, String> {
    let mut row = Row::default();
    for (at, column) in found.columns().iter().enumerate() {
        match column.name() {
            "name" => row.name = found.try_get(at).map_err(with_causes)?,
            "hash" => row.hash = found.try_get(at).map_err(with_causes)?,
            "scram" => row.scram = found.try_get(at).map_err(with_causes)?,
            "addresses" if matches!(*column.type_(), Type::TEXT_ARRAY | Type::VARCHAR_ARRAY) => {
                row.addresses = found.try_get(at).map_err(with_causes)?;
            }
            "addresses" => row.addresses = text(found, at).map_err(with_causes)?.map(|text| listed(&text)),
            "disabled" => row.disabled = truth(found, at, column.type_()).map_err(with_causes)?,
            name => {
                if let Some(limit) = Limit::named(name) {
                    row.limit(limit, number(found, at, column.type_()).map_err(with_causes)?)?;
                }
            }
        }
    }
    Ok(row)
}

fn text(found: &Found, at: usize) -> Result<Option<String>, tokio_postgres::Error> {
    found.try_get(at)
}

fn truth(found: &Found, at: usize, kind: &Type) -> Result<bool, tokio_postgres::Error> {
    Ok(match *kind {
        Type::BOOL => found.try_get::<_, Option<bool>>(at)?.unwrap_or(false),
        Type::INT2 | Type::INT4 | Type::INT8 => number(found, at, kind)?.is_some_and(|number| number != 0),
        _ => text(found, at)?.is_some_and(|text| is_true(&text)),
    })
}

fn number(found: &Found, at: usize, kind: &Type) -> Result<Option<i64>, tokio_postgres::Error> {
    Ok(match *kind {
        Type::INT2 => found.try_get::<_, Option<i16>>(at)?.map(i64::from),
        Type::INT4 => found.try_get::<_, Option<i32>>(at)?.map(i64::from),
        _ => found.try_get(at)?,
    })
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => trust::is_local(name),
    }
}
