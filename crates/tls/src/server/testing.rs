//! Certificates for tests.

use std::path::Path;

use super::identity::Identity;
use super::self_signed::self_signed;

/// A certificate that was just made.
pub(crate) struct Made {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Made {
    pub(crate) fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (chain, key) = self_signed(&names, None).unwrap();
        Self { chain, key }
    }

    pub(crate) fn identity(&self) -> Identity {
        let chain = (Path::new("chain.pem"), self.chain.as_bytes());
        Identity::from_pem(chain, (Path::new("key.pem"), self.key.as_bytes())).unwrap()
    }
}
