//! A cache of policies with everything around it, and a clock that is moved by hand.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dns::testing::Fixed;
use mail::{Clock, Domain, Timestamp};
use store::Tables;
use tls::Https;
use tls::mtasts::{Parts, PolicyCache, StsPolicies, StsPolicy};
use tls::report::{SessionReports, TlsSession};

use crate::web::{self, Certificate, Web};

pub struct House {
    pub web: Web,
    pub dns: Fixed,
    pub clock: Arc<Moved>,
    pub tables: Tables,
    pub heard: Arc<Heard>,
    pub https: Https,
    pub cache: PolicyCache,
}

impl House {
    pub async fn new() -> Self {
        let web = Web::start().await;
        let dns = Fixed::default();
        let https = Https::new(Arc::new(dns.clone()), web::roots(), Some(web.address.port())).unwrap();
        let (clock, heard, tables) = (Arc::new(Moved::default()), Arc::new(Heard::default()), Tables::in_memory());
        let parts = Parts {
            resolver: Arc::new(dns.clone()),
            https: https.clone(),
            tables: tables.clone(),
            reports: Arc::clone(&heard) as Arc<dyn SessionReports>,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            metrics: tls::mtasts::Metrics::default(),
        };
        Self { web, dns, clock, tables, heard, https, cache: PolicyCache::new(parts) }
    }

    /// As after a restart: memory is gone, the tables are not.
    pub fn restart(&mut self) {
        self.cache = PolicyCache::new(Parts {
            resolver: Arc::new(self.dns.clone()),
            https: self.https.clone(),
            tables: self.tables.clone(),
            reports: Arc::clone(&self.heard) as Arc<dyn SessionReports>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            metrics: tls::mtasts::Metrics::default(),
        });
    }

    /// The domain announces a policy, and its policy host answers so.
    pub fn domain(&self, domain: &str, id: &str, certificate: Certificate, answer: String) {
        self.announce(domain, id);
        let host = format!("mta-sts.{domain}");
        self.dns.host(&host, "127.0.0.1");
        self.web.host(&host, certificate, answer);
    }

    pub fn announce(&self, domain: &str, id: &str) {
        let name = format!("_mta-sts.{domain}");
        self.dns.forget(&name).text(&name, &format!("v=STSv1; id={id};"));
    }

    pub async fn policy(&self, domain: &str) -> Option<Arc<StsPolicy>> {
        self.cache.policy(&Domain::parse(domain).unwrap()).await
    }

    /// How often the domain's policy host was asked.
    pub fn fetches(&self, domain: &str) -> usize {
        self.web.asked(&format!("mta-sts.{domain}"))
    }
}

/// A policy file.
pub fn policy(mode: &str, mx: &str, max_age: u64) -> String {
    format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n")
}

/// A clock that is moved by hand, from noon of 2026-11-21.
#[derive(Debug)]
pub struct Moved {
    began: Instant,
    by: Mutex<Duration>,
}

impl Default for Moved {
    fn default() -> Self {
        Self { began: Instant::now(), by: Mutex::default() }
    }
}

impl Moved {
    pub fn advance(&self, by: Duration) {
        *self.by.lock().unwrap() += by;
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_262_400_000) + *self.by.lock().unwrap()
    }

    fn instant(&self) -> Instant {
        self.began + *self.by.lock().unwrap()
    }
}

/// Remembers what it hears.
#[derive(Default)]
pub struct Heard(Mutex<Vec<TlsSession>>);

impl Heard {
    /// What went wrong since the last time: kind and reason.
    pub fn failures(&self) -> Vec<(String, String)> {
        let sessions = std::mem::take(&mut *self.0.lock().unwrap());
        let failure = |session: TlsSession| session.failure.map(|failure| (failure.kind.to_string(), failure.reason));
        sessions.into_iter().filter_map(failure).collect()
    }
}

impl SessionReports for Heard {
    fn session(&self, session: TlsSession) {
        self.0.lock().unwrap().push(session);
    }
}

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(60 * 60);
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
