//! What an operator demands of TLS with the hosts that take mail.

use std::fmt;
use std::sync::Arc;

use crate::domain::Domain;

/// How a line to a host must be secured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsLevel {
    /// Never by TLS.
    None,
    /// By TLS where it works; nothing is verified.
    Opportunistic,
    /// By TLS; nothing is verified.
    Encrypt,
    /// By TLS with a certificate of a known authority for one of these names; for the host's own if there are none.
    Verify(Vec<CertificateName>),
    /// By TLS with a certificate or a public key that has one of these SHA-256 digests.
    Fingerprint(Vec<[u8; 32]>),
    /// As the recipients' domain asks: DANE (RFC 7672), else MTA-STS (RFC 8461), else opportunistic.
    #[default]
    Dane,
    /// By TLS with DANE, or not at all.
    DaneOnly,
}

impl TlsLevel {
    /// The word of the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            TlsLevel::None => "none",
            TlsLevel::Opportunistic => "opportunistic",
            TlsLevel::Encrypt => "encrypt",
            TlsLevel::Verify(_) => "verify",
            TlsLevel::Fingerprint(_) => "fingerprint",
            TlsLevel::Dane => "dane",
            TlsLevel::DaneOnly => "dane-only",
        }
    }
}

/// As `verify (mail.example.net)`.
impl fmt::Display for TlsLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            TlsLevel::Verify(names) if !names.is_empty() => {
                let names: Vec<String> = names.iter().map(CertificateName::to_string).collect();
                write!(f, " ({})", names.join(", "))
            }
            TlsLevel::Fingerprint(digests) => {
                let heads = digests
                    .iter()
                    .map(|digest| format!("{:02x}{:02x}{:02x}{:02x}…", digest[0], digest[1], digest[2], digest[3]));
                write!(f, " ({})", heads.collect::<Vec<_>>().join(", "))
            }
            _ => Ok(()),
        }
    }
}

/// A name that a certificate must be for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// This one.
    Exact(Domain),
    /// Any one below this.
    Below(Domain),
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateName::Exact(name) => name.fmt(f),
            CertificateName::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// How mail gets to the hosts of a target over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetTls {
    /// What is demanded.
    pub level: TlsLevel,
    /// Whether TLS begins with the connection (RFC 8314 §3.3) and not by STARTTLS.
    pub implicit: bool,
    /// How the hosts were found.
    pub found: FoundBy,
    /// The route whose credentials they are to be told, if any (RFC 4954).
    pub credentials: Option<Arc<str>>,
}

/// How the hosts of a target were found, which says what their names are worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FoundBy {
    /// The configuration names them.
    #[default]
    Configuration,
    /// They are the mail exchanges of this domain, which the configuration names.
    Exchanges(Domain),
    /// They are the mail exchanges of the recipients' domain; lanes serve many domains, and this is one of theirs.
    Recipients(Domain),
}
