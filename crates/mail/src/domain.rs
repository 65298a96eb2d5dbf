//! Domain names as mail uses them: lower-case A-labels of the letters-digits-hyphens form.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::AddressError;

/// The longest domain name, in octets (RFC 5321 §4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;
/// The longest label of a domain name, in octets (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// The longest name that the DNS can carry in text form without the root's dot (RFC 1035 §2.3.4: 255 octets on the wire).
const MAX_DNS_NAME: usize = 253;

/// A fully spelled domain name: lower-case, A-labels (RFC 5890), no trailing dot.
///
/// Cheap to clone. An underscore is taken inside a label because such names exist in the DNS (`_dmarc`, hosts of
/// careless operators); everything else is the `Domain` of RFC 5321 §4.1.2.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

impl Domain {
    /// Reads a domain name in ASCII or, by UTS 46, in Unicode. One trailing dot is taken off.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_ascii() {
            let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?;
            return Self::from_ascii(&ascii);
        }
        Self::from_ascii(text)
    }

    fn from_ascii(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_DOMAIN {
            return Err(AddressError::DomainTooLong);
        }
        if text.is_empty() || text.len() > MAX_DNS_NAME || !text.split('.').all(is_label) {
            return Err(AddressError::Domain);
        }
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Ok(Self(text.into()))
    }

    /// The name as A-labels, lower-case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name for people: U-labels where they are valid, otherwise the A-labels.
    pub fn to_unicode(&self) -> String {
        let (text, result) = idna::domain_to_unicode(&self.0);
        match result {
            Ok(()) => text,
            Err(_) => self.0.to_string(),
        }
    }

    /// Whether this name lies below `parent` (a name does not lie below itself).
    pub fn is_below(&self, parent: &Domain) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|head| head.ends_with('.'))
    }

    /// The labels from left to right; there is at least one.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

/// One label: letters, digits, hyphens and underscores; no hyphen at either end (RFC 5321 §4.1.2 `sub-domain`).
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= MAX_LABEL
        && *first != b'-'
        && *last != b'-'
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({})", self.0)
    }
}

impl std::str::FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Domain {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_to_lower_case_a_labels() {
        assert_eq!(Domain::parse("Mail.EXAMPLE.org.").unwrap().as_str(), "mail.example.org");
        assert_eq!(Domain::parse("bücher.example").unwrap().as_str(), "xn--bcher-kva.example");
        assert_eq!(Domain::parse("xn--bcher-kva.example").unwrap().to_unicode(), "bücher.example");
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for bad in ["", ".", "a..b", "-a.b", "a-.b", "a b", "a\r\n.b", "[1.2.3.4]", "a@b", "ex\u{0}.org"] {
            assert_eq!(Domain::parse(bad), Err(AddressError::Domain), "{bad:?}");
        }
        let label = "a".repeat(64);
        assert_eq!(Domain::parse(&label), Err(AddressError::Domain));
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".") + ".e";
        assert_eq!(Domain::parse(&long), Err(AddressError::DomainTooLong));
    }

    #[test]
    fn below_is_by_whole_labels() {
        let parent = Domain::parse("example.org").unwrap();
        assert!(Domain::parse("a.example.org").unwrap().is_below(&parent));
        assert!(!Domain::parse("anexample.org").unwrap().is_below(&parent));
        assert!(!parent.is_below(&parent));
    }
}
