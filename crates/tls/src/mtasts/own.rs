//! The policies that we serve for our own domains (RFC 8461 §3.2, §3.3).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mail::Domain;

use super::policy::StsPolicy;

/// The policies by domain; clones share them. New ones count from the next request on.
#[derive(Clone, Default)]
pub struct OwnPolicies(Arc<RwLock<HashMap<Domain, Arc<StsPolicy>>>>);

impl OwnPolicies {
    /// Puts others in force.
    pub fn replace(&self, policies: HashMap<Domain, Arc<StsPolicy>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policies;
    }

    /// What answers for them at `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`.
    pub fn router(&self) -> Router {
        Router::new().route("/.well-known/mta-sts.txt", get(serve)).with_state(self.clone())
    }

    /// The file for a host.
    fn file(&self, host: &str) -> Option<String> {
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let domain = Domain::parse(host.to_ascii_lowercase().strip_prefix("mta-sts.")?).ok()?;
        let policies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        policies.get(&domain).map(|policy| policy.to_file())
    }
}

async fn serve(State(policies): State<OwnPolicies>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(|host| policies.file(host)) {
        Some(file) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], file).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no policy for this host\n").into_response(),
    }
}

impl StsPolicy {
    /// The id that announces it: the same for the same content, on every server.
    pub fn id(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.to_file().as_bytes());
        digest.as_ref().iter().take(10).map(|octet| format!("{octet:02x}")).collect()
    }

    /// The text of the record that announces it, at `_mta-sts.` and the domain.
    pub fn record(&self) -> String {
        format!("v=STSv1; id={};", self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mtasts::{Mode, MxPattern, StsRecord};

    fn policy(age: u64) -> StsPolicy {
        StsPolicy::new(Mode::Enforce, Duration::from_secs(age), vec![MxPattern::parse("mx.example.org").unwrap()])
    }

    #[test]
    fn the_id_follows_the_content() {
        assert_eq!(policy(1).id(), policy(1).id());
        assert_ne!(policy(1).id(), policy(2).id());
        assert_eq!(StsRecord::parse(&policy(1).record()).unwrap().id, policy(1).id());
    }

    #[test]
    fn each_host_has_the_policy_of_its_domain() {
        let own = OwnPolicies::default();
        own.replace(HashMap::from([(Domain::parse("example.org").unwrap(), Arc::new(policy(1)))]));
        for host in ["mta-sts.example.org", "MTA-STS.Example.org:8443"] {
            assert_eq!(own.file(host).unwrap(), policy(1).to_file());
        }
        for host in ["example.org", "mta-sts.example.net", "mta-sts.", ""] {
            assert_eq!(own.file(host), None, "{host}");
        }
    }
}
