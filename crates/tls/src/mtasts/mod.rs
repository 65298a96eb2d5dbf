//! MTA-STS (RFC 8461): domains that say over HTTPS which hosts take their mail, and that they do so over verified TLS.
//!
//! ```text
//! _mta-sts.example.org TXT ─► id ─► the same as that of the kept policy? it counts until its max_age is over
//!                                   another one? https://mta-sts.example.org/.well-known/mta-sts.txt ─► kept durably
//! ```
//!
//! What must always hold: trouble on the way to a policy (DNS, HTTPS, a broken file) never ends a policy that is kept and
//! still valid; only its own age does, or a newer one (§3.3, §5.1). Whoever controls the way can hinder the first fetch,
//! and nothing else.

mod cache;
mod fetch;
mod metrics;
mod own;
mod policy;
mod record;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mail::Domain;

pub use cache::{Parts, PolicyCache};
pub use metrics::{End, Fetched, Metrics};
pub use own::OwnPolicies;
pub use policy::{MAX_AGE, Mode, MxPattern, PolicyError, StsPolicy};
pub use record::{RecordError, StsRecord};

/// The policies of recipients' domains.
pub trait StsPolicies: Send + Sync + 'static {
    /// The policy of a recipient's domain (RFC 8461 §2: not that of a smart host's), of any mode.
    ///
    /// Never an error: no policy, or the one that is kept. What went wrong on the way is reported to the domain.
    fn policy<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Option<Arc<StsPolicy>>>;
}

/// Knows no policy: for tests, and where `[mta_sts]` is switched off.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPolicies;

impl StsPolicies for NoPolicies {
    fn policy<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Option<Arc<StsPolicy>>> {
        Box::pin(std::future::ready(None))
    }
}
