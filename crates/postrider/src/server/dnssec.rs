//! Whether DANE can be used: for `check`, and once in the log of a start.

use std::sync::Arc;
use std::time::Duration;

use dns::{Probe, Resolver};
use mail::SystemClock;
use tracing::{info, warn};

use crate::config::Configuration;

/// How long `check` waits for the name servers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whose word on DNSSEC is taken by this configuration, and whether that works, in one line.
pub fn check(configuration: &Configuration) -> Result<String, super::ServeError> {
    let settings = dns::Settings { total: PATIENCE, ..configuration.dns.to_settings() };
    let resolver = Resolver::new(settings, Arc::new(SystemClock), dns::Metrics::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(super::ServeError::system("ask the name servers"))?;
    let probe = runtime.block_on(async { tokio::time::timeout(PATIENCE, resolver.probe()).await });
    let silent = || Probe::Unknown(dns::LookupError::temporary("no answer in time"));
    Ok(describe(&probe.unwrap_or_else(|_| silent())))
}

/// Says in the log how it is.
pub fn tell(resolver: Resolver) {
    tokio::spawn(async move {
        let probe = resolver.probe().await;
        match probe {
            Probe::Off | Probe::Validates | Probe::ValidatesHere => info!("{}", describe(&probe)),
            Probe::DoesNotValidate | Probe::Fails(_) | Probe::Unknown(_) => warn!("{}", describe(&probe)),
        }
    });
}

fn describe(probe: &Probe) -> String {
    match probe {
        Probe::Off => {
            "DNSSEC: not used, so neither is DANE: it is switched off, or a name server is not on this machine and \
             `dns.dnssec` is not \"validate\""
                .to_owned()
        }
        Probe::Validates => "DNSSEC: the name server on this machine validates; DANE is used".to_owned(),
        Probe::ValidatesHere => "DNSSEC: answers are validated by this server; DANE is used".to_owned(),
        Probe::Fails(error) => format!(
            "DNSSEC: answers are to be validated by this server, but that about the root zone cannot be, and no mail will \
             leave: {error}; the name server takes signatures out, the clock is wrong, or the trust anchors are"
        ),
        Probe::DoesNotValidate => {
            "DNSSEC: the name server on this machine does not validate, so DANE is not used; switch validation on there"
                .to_owned()
        }
        Probe::Unknown(error) => {
            format!("DNSSEC: there was no answer about the root zone: {error}")
        }
    }
}
