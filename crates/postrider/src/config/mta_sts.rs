//! `[mta_sts]`: the policies of others, and our own.

use std::collections::HashMap;
use std::sync::Arc;

use mail::Domain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tls::mtasts::{MAX_AGE, MxPattern, StsPolicy};

use super::places::Places;
use super::problem::Problem;
use super::types::{Configuration, minutes};
use super::units::{Address, Listed, Name, Pattern, Period};

/// MTA-STS (RFC 8461): the policies of other domains, which are followed, and the one that is served for our own at
/// `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`. `postrider dns-records` prints the records that announce it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MtaSts {
    /// Whether the policies of other domains are followed.
    pub follow: bool,
    /// The domains that a policy is served for. For each, the server needs a certificate of the name `mta-sts.DOMAIN`.
    pub domains: Vec<Name>,
    /// Where the policy is served. If not set: `0.0.0.0:443` and `[::]:443`, as soon as there are domains.
    pub listen: Option<Listed<Address>>,
    /// What senders shall do when a mail host fails to prove its name: `testing` makes them deliver all the same and
    /// report it, `enforce` makes them keep the mail, `none` makes them forget an earlier policy.
    pub mode: StsMode,
    /// How long senders keep the policy: at most a year.
    pub max_age: Period,
    /// The hosts that take mail of the domains, as their MX records name them; `*.example.org` for all directly below
    /// a domain. If not set: `hostname`.
    pub mx: Option<Listed<Pattern>>,
}

/// What a policy asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StsMode {
    /// Deliver all the same, and report.
    #[default]
    Testing,
    /// Deliver over verified TLS only.
    Enforce,
    /// As if there were no policy.
    None,
}

impl Default for MtaSts {
    fn default() -> Self {
        Self {
            follow: true,
            domains: Vec::new(),
            listen: None,
            mode: StsMode::Testing,
            max_age: minutes(7 * 24 * 60),
            mx: None,
        }
    }
}

impl Configuration {
    /// The policies that are served, by domain.
    pub fn own_policies(&self) -> HashMap<Domain, Arc<StsPolicy>> {
        let own = &self.mta_sts;
        let mode = match own.mode {
            StsMode::Testing => tls::mtasts::Mode::Testing,
            StsMode::Enforce => tls::mtasts::Mode::Enforce,
            StsMode::None => tls::mtasts::Mode::None,
        };
        let hostname = Pattern::Exact(self.hostname.0.clone());
        let hosts = own.mx.as_ref().map_or(std::slice::from_ref(&hostname), |mx| &mx.0);
        let mx = hosts.iter().filter_map(|pattern| MxPattern::parse(&pattern.to_string()).ok()).collect();
        let policy = Arc::new(StsPolicy::new(mode, own.max_age.0, mx));
        own.domains.iter().map(|domain| (domain.0.clone(), Arc::clone(&policy))).collect()
    }

    /// Where policies are served.
    pub fn policy_addresses(&self) -> Vec<std::net::SocketAddr> {
        match &self.mta_sts {
            own if own.domains.is_empty() => Vec::new(),
            MtaSts { listen: Some(listen), .. } => listen.0.iter().map(|address| address.0).collect(),
            MtaSts { listen: None, .. } => {
                vec![(std::net::Ipv4Addr::UNSPECIFIED, 443).into(), (std::net::Ipv6Addr::UNSPECIFIED, 443).into()]
            }
        }
    }
}

/// What contradicts itself here.
pub fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let own = &configuration.mta_sts;
    if own.max_age.0 > MAX_AGE {
        let problem = places.problem("mta_sts.max_age", "senders keep no policy for longer than a year", "");
        problems.push(problem.help("\"365d\" is the most that RFC 8461 allows"));
    }
    let hosts = own.mx.iter().flat_map(|mx| mx.0.iter());
    if hosts.clone().any(|pattern| *pattern == Pattern::Any) || own.mx.as_ref().is_some_and(|mx| mx.0.is_empty()) {
        let problem = places.problem("mta_sts.mx", "a policy must name its hosts", "");
        problems.push(problem.help("write the names of the domains' MX records, or leave it out for `hostname`"));
    }
}
