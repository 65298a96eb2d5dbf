//! SIGHUP: all of the new configuration takes effect, or none of it.

use std::sync::{Arc, PoisonError};

use mail::Host;
use tracing::{error, info, warn};

use super::rooms::Rooms;
use super::{ServeError, security, settings};
use crate::config::{self, Configuration, Loaded};
use crate::logs::Logging;

impl Rooms {
    /// Reads the configuration anew and puts it in force; the log tells how that went.
    pub fn reload(&self, logging: &Logging) {
        let Some(path) = &self.source else {
            return info!("there is no configuration file to read anew");
        };
        let result = config::load(path).map_err(ServeError::Configuration).and_then(|loaded| self.put_in_force(loaded));
        match result {
            Ok(new) => {
                logging.set_level(new.configuration.log.level);
                if !new.warnings.is_empty() {
                    warn!(warnings = %new.warnings, "the configuration has doubtful points");
                }
                info!("configuration reloaded");
            }
            Err(ServeError::Configuration(problems)) => {
                error!(%problems, "configuration not reloaded; the old one stays in force");
            }
            Err(error) => error!(%error, "configuration not reloaded; the old one stays in force"),
        }
    }

    fn put_in_force(&self, new: Loaded) -> Result<Arc<Loaded>, ServeError> {
        let configuration = &new.configuration;
        let old = self.loaded().configuration.hostname.to_string();
        if old != configuration.hostname.to_string() {
            return Err(ServeError::Hostname { old, new: configuration.hostname.to_string() });
        }
        let queue = settings::queue(configuration)?;
        // It says whether the table of routes can be built at all.
        queue.explain(&Host::Domain(configuration.hostname.0.clone()))?;
        // What can fail comes first, and changes nothing if it does.
        let accounts = self.directory.prepare(settings::accounts(&new, &self.secret, &self.tables)?)?;
        let certificates = self.keeper.load(configuration)?;
        self.reception.reconfigure(settings::reception(configuration, &self.handed, &self.security)?)?;
        self.keeper.adopt(configuration, certificates);
        self.directory.put_in_force(accounts);
        self.queue.reconfigure(queue)?;
        self.deliverer.reconfigure(settings::delivery(configuration));
        let old = self.loaded();
        for key in needs_restart(&old.configuration, configuration) {
            warn!(key, "this key takes effect only at the next start");
        }
        let new = Arc::new(new);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(new)
    }
}

/// The keys whose change a reload cannot put in force.
fn needs_restart(old: &Configuration, new: &Configuration) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut compare = |key: &'static str, same: bool| {
        if !same {
            keys.push(key);
        }
    };
    compare("user", old.user == new.user);
    compare("group", old.group == new.group);
    compare("store", old.store == new.store);
    compare("dns", old.dns == new.dns);
    compare("acme.listen, mta_sts.listen", security::web_addresses(old) == security::web_addresses(new));
    compare("tls.roots", old.tls.roots == new.tls.roots);
    compare("mta_sts.follow", old.mta_sts.follow == new.mta_sts.follow);
    compare("tls_reports", old.tls_reports.is_like(&new.tls_reports));
    compare("log.format", old.log.format == new.log.format);
    keys
}
