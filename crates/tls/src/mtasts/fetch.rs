//! A policy over HTTPS (RFC 8461 §3.3).

use mail::Domain;
use url::Url;

use super::metrics::End;
use super::policy::{MAX_FILE, PolicyError, StsPolicy};
use crate::https::{Https, WebError};
use crate::report::{Failure, FailureType};

/// Why a policy could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Web(#[from] WebError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// The policy that `mta-sts.` and the domain serves now.
pub(super) async fn fetch(https: &Https, domain: &Domain) -> Result<StsPolicy, FetchError> {
    let url = Url::parse(&format!("https://mta-sts.{domain}/.well-known/mta-sts.txt"));
    let url = url.map_err(|error| WebError::Unreachable(error.to_string()))?;
    let file = https.text(url, MAX_FILE).await?;
    Ok(StsPolicy::parse(&file)?)
}

impl FetchError {
    /// As the domain is told (RFC 8460 §4.3.2.2).
    pub fn failure(&self) -> Failure {
        let kind = match self {
            FetchError::Web(WebError::Certificate(_)) => FailureType::StsWebpkiInvalid,
            FetchError::Web(WebError::TooLarge) | FetchError::Policy(_) => FailureType::StsPolicyInvalid,
            FetchError::Web(_) => FailureType::StsPolicyFetchError,
        };
        Failure::new(kind, self.to_string())
    }

    /// For the counters.
    pub fn end(&self) -> End {
        match self.failure().kind {
            FailureType::StsWebpkiInvalid => End::Untrusted,
            FailureType::StsPolicyInvalid => End::Invalid,
            _ => End::Failed,
        }
    }
}
