//! What is demanded of TLS with the hosts that take our mail: `delivery.tls` and `tls` of routes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use mail::{CertificateName, TlsLevel};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::places::Places;
use super::problem::Problem;
use super::units::{Pattern, text_form};

/// A level alone, or with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OutgoingTls {
    /// `tls = "dane"`
    Level(Level),
    /// `tls = { level = "fingerprint", fingerprints = ["…"] }`
    Detailed(Detailed),
}

/// What is demanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No TLS.
    None,
    /// TLS where the host offers it and it works; nothing is verified.
    Opportunistic,
    /// TLS, or the mail waits; nothing is verified.
    Encrypt,
    /// TLS with a certificate from a known authority for one of `names`, or for the host's own name if there are none.
    Verify,
    /// TLS with a certificate or public key that has one of `fingerprints`.
    Fingerprint,
    /// What the recipients' domain asks for: DANE, else MTA-STS, else opportunistic TLS.
    #[default]
    Dane,
    /// TLS with DANE, or the mail waits.
    DaneOnly,
}

/// A level with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Detailed {
    /// The level.
    pub level: Level,
    /// For `verify`: the names of which the certificate must have one.
    #[serde(default)]
    pub names: Vec<Pattern>,
    /// For `fingerprint`: SHA-256 digests of the certificate or of its public key.
    #[serde(default)]
    pub fingerprints: Vec<Fingerprint>,
}

impl Default for OutgoingTls {
    fn default() -> Self {
        Self::Level(Level::default())
    }
}

impl OutgoingTls {
    /// As queue and delivery take it.
    pub fn to_level(&self) -> TlsLevel {
        let detailed = self.detailed();
        match detailed.level {
            Level::None => TlsLevel::None,
            Level::Opportunistic => TlsLevel::Opportunistic,
            Level::Encrypt => TlsLevel::Encrypt,
            Level::Verify => TlsLevel::Verify(detailed.names.iter().filter_map(certificate_name).collect()),
            Level::Fingerprint => TlsLevel::Fingerprint(detailed.fingerprints.iter().map(|digest| digest.0).collect()),
            Level::Dane => TlsLevel::Dane,
            Level::DaneOnly => TlsLevel::DaneOnly,
        }
    }

    /// What contradicts itself.
    pub fn judge(&self, path: &str, places: &Places, problems: &mut Vec<Problem>) {
        let Detailed { level, names, fingerprints } = self.detailed();
        let mut problem = |key: &str, message: &str, help: &str| {
            let path = if key.is_empty() { path.to_owned() } else { format!("{path}.{key}") };
            problems.push(places.problem(&path, message, "").help(help.to_owned()));
        };
        if level == Level::Fingerprint && fingerprints.is_empty() {
            let help = "tls = { level = \"fingerprint\", fingerprints = [\"…\"] }; `openssl x509 -fingerprint -sha256` tells a certificate's";
            problem("", "there is no fingerprint that a certificate could have", help);
        }
        if level != Level::Fingerprint && !fingerprints.is_empty() {
            problem("fingerprints", "fingerprints mean nothing at this level", "set `level = \"fingerprint\"`");
        }
        if level != Level::Verify && !names.is_empty() {
            problem("names", "names mean nothing at this level", "set `level = \"verify\"`");
        }
        if names.contains(&Pattern::Any) {
            problem("names", "a certificate for any name proves nothing", "name the hosts, or use `encrypt`");
        }
    }

    fn detailed(&self) -> Detailed {
        match self {
            OutgoingTls::Level(level) => Detailed { level: *level, ..Detailed::default() },
            OutgoingTls::Detailed(detailed) => detailed.clone(),
        }
    }
}

fn certificate_name(pattern: &Pattern) -> Option<CertificateName> {
    match pattern {
        Pattern::Exact(name) => Some(CertificateName::Exact(name.clone())),
        Pattern::Below(parent) => Some(CertificateName::Below(parent.clone())),
        Pattern::Any => None,
    }
}

/// A SHA-256 digest: 64 hexadecimal digits, with or without colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);
text_form!(Fingerprint, "fingerprint", "a SHA-256 digest", "3F:2A:…");

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a fingerprint has 64 hexadecimal digits, with or without colons".to_owned();
        let digits: Vec<u8> = text.bytes().filter(|octet| *octet != b':').collect();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut digest = [0; 32];
        for (octet, pair) in digest.iter_mut().zip(digits.chunks(2)) {
            let pair =
                std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *octet = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(wrong)?;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02X}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_and_written() {
        let plain = "0123456789abcdef".repeat(4);
        let read: Fingerprint = plain.parse().unwrap();
        assert_eq!(read.0[..2], [0x01, 0x23]);
        assert!(read.to_string().starts_with("01:23:45:67:89:AB:CD:EF:01"));
        assert_eq!(read.to_string().parse(), Ok(read));
        for bad in ["", "01:23", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
