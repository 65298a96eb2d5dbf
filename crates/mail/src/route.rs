//! Names of where mail goes: destination, site, source, lane.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::Domain;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// From its text.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(text.as_ref().into())
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

key! {
    /// What routing yields: the key under which deliveries are scheduled, `mx:example.org` or `route:NAME`.
    Destination
}

key! {
    /// The set of hosts that serves a destination, by a stable name: all domains of one provider share one site.
    Site
}

/// Where we connect from: an address and the name we call ourselves there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The local IPv4 address to bind, if one is chosen.
    pub ipv4: Option<IpAddr>,
    /// The local IPv6 address to bind, if one is chosen.
    pub ipv6: Option<IpAddr>,
    /// The name for EHLO.
    pub ehlo: Domain,
}

/// Source × site: what has its own connections, pace and backoff.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lane {
    /// The source's name.
    pub source: Arc<str>,
    /// The site.
    pub site: Site,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.site, self.source)
    }
}
