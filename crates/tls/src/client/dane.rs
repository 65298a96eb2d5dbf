//! DANE for SMTP (RFC 6698, 7671, 7672): which TLSA records hold for a host, and whether a certificate fits them.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use dns::{LookupError, Resolve, TlsaRecord};
use mail::{Domain, Verified};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, Der, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::failure::TlsFailure;
use super::judge;
use crate::report::FailureType;

/// The certificate usages of RFC 6698 §2.1.1 that count for SMTP (RFC 7672 §3.1).
const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;
/// The selectors of §2.1.2.
const WHOLE: u8 = 0;
const KEY: u8 = 1;
/// The matching types of §2.1.3.
const EXACT: u8 = 0;
const BY_SHA256: u8 = 1;
const BY_SHA512: u8 = 2;

/// What a certificate must fit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DaneProof {
    /// The TLSA base domain: the name to ask for by SNI (RFC 7672 §8.1).
    pub base: Domain,
    /// The names of which a certificate below a trust anchor must have one (§3.2.2).
    pub names: Vec<Domain>,
    /// The records, usable or not.
    pub records: Arc<[TlsaRecord]>,
}

/// Finds the TLSA records of a host (RFC 7672 §2.2). `None`: it has none that is secure.
pub(super) async fn discover(resolver: &dyn Resolve, host: &Domain, port: u16) -> Result<Option<DaneProof>, Undecided> {
    let addresses = match resolver.addresses(host).await {
        Ok(addresses) => addresses,
        Err(error) if error.is_temporary() => return Err(Undecided { name: host.clone(), error }),
        Err(_) => return Ok(None),
    };
    // §2.2.2: the end of a chain of aliases comes first, as far as the chain is secure. Where the addresses are not, TLSA
    // is not asked for: servers of unsigned zones that break on it are not to cost any mail.
    let bases = match addresses.alias {
        None if addresses.secure => vec![host.clone()],
        Some(alias) if addresses.secure => vec![alias.to, host.clone()],
        Some(alias) if alias.secure => vec![host.clone()],
        _ => Vec::new(),
    };
    for base in bases {
        let Ok(name) = Domain::parse(&format!("_{port}._tcp.{base}")) else { continue };
        match resolver.tlsa(&name).await {
            Ok(answer) if answer.secure && !answer.found.is_empty() => {
                return Ok(Some(DaneProof { base, names: Vec::new(), records: answer.found }));
            }
            Err(error) if error.is_temporary() => return Err(Undecided { name, error }),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

/// A look-up failed on which the policy depends.
#[derive(Clone, Debug)]
pub(super) struct Undecided {
    /// What was looked up.
    pub(super) name: Domain,
    /// Why it failed.
    pub(super) error: LookupError,
}

impl Undecided {
    pub(super) fn kind(&self) -> FailureType {
        if self.error.is_bogus() { FailureType::DnssecInvalid } else { FailureType::ValidationFailure }
    }
}

impl DaneProof {
    /// Whether any record can be used. If none can, the line must be encrypted, and nothing is proven (RFC 7672 §2.2).
    pub fn is_usable(&self) -> bool {
        self.records.iter().any(is_usable)
    }

    /// For reports.
    pub(super) fn texts(&self) -> Arc<[String]> {
        self.records.iter().map(TlsaRecord::to_string).collect()
    }

    /// Whether the chain of a server, its own certificate first, fits a record.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Verified, TlsFailure> {
        let Some((own, issuers)) = chain.split_first() else { return Err(mismatch("the host shows no certificate")) };
        let records = strongest(&self.records);
        // §3.1.1: neither names nor dates count for the server's own certificate.
        if records.iter().any(|record| record.usage == DANE_EE && fits(record, own)) {
            return Ok(Verified::DaneEe);
        }
        let anchors = self.anchors(&records, chain);
        if anchors.is_empty() {
            return Err(mismatch("its certificate fits none of its TLSA records"));
        }
        let anchors = RootCertStore { roots: anchors };
        let names: Vec<_> = self.names.iter().map(|name| mail::CertificateName::Exact(name.clone())).collect();
        judge::by_authority(own, issuers, &anchors, &names, now)?;
        Ok(Verified::DaneTa)
    }

    /// The trust anchors that the records name: certificates of the chain that fit (RFC 7671 §5.2), and those that the
    /// records hold whole.
    fn anchors(&self, records: &[&TlsaRecord], chain: &[CertificateDer<'_>]) -> Vec<TrustAnchor<'static>> {
        let mut anchors = RootCertStore::empty();
        for record in records.iter().filter(|record| record.usage == DANE_TA) {
            for issuer in chain.iter().skip(1).filter(|issuer| fits(record, issuer)) {
                // What can be no anchor vouches for nothing.
                let _ = anchors.add(issuer.clone().into_owned());
            }
            match (record.selector, record.matching) {
                (WHOLE, EXACT) => {
                    let _ = anchors.add(CertificateDer::from(record.data.to_vec()));
                }
                (KEY, EXACT) => anchors.roots.extend(chain.iter().filter_map(|below| bare_key(&record.data, below))),
                _ => {}
            }
        }
        anchors.roots
    }
}

/// RFC 7671 §5.2.3: a bare key is an anchor for whatever names the issuer of a certificate of the chain.
fn bare_key(key: &[u8], below: &CertificateDer<'_>) -> Option<TrustAnchor<'static>> {
    let (_, certificate) = X509Certificate::from_der(below).ok()?;
    let contents = |der: &[u8]| judge::contents(der).map(|contents| Der::from(contents.to_vec()));
    Some(TrustAnchor {
        subject: contents(certificate.issuer().as_raw())?,
        subject_public_key_info: contents(key)?,
        name_constraints: None,
    })
}

/// RFC 7672 §3.1.3: usages 0 and 1 cannot be used; nor can what is unknown or has the wrong length.
fn is_usable(record: &TlsaRecord) -> bool {
    let known = matches!(record.usage, DANE_TA | DANE_EE) && matches!(record.selector, WHOLE | KEY);
    let whole = match (record.matching, record.selector) {
        (EXACT, WHOLE) => X509Certificate::from_der(&record.data).is_ok(),
        (EXACT, KEY) => judge::contents(&record.data).is_some(),
        (BY_SHA256, _) => record.data.len() == 32,
        (BY_SHA512, _) => record.data.len() == 64,
        _ => false,
    };
    known && whole
}

/// RFC 7671 §9: of digests for the same usage and selector only the strongest count, so that a weak one helps nobody.
fn strongest(records: &[TlsaRecord]) -> Vec<&TlsaRecord> {
    let usable: Vec<&TlsaRecord> = records.iter().filter(|record| is_usable(record)).collect();
    let beaten = |record: &TlsaRecord| {
        let better = |other: &&&TlsaRecord| (other.usage, other.selector) == (record.usage, record.selector);
        record.matching == BY_SHA256 && usable.iter().filter(better).any(|other| other.matching == BY_SHA512)
    };
    usable.iter().copied().filter(|record| !beaten(record)).collect()
}

fn fits(record: &TlsaRecord, certificate: &CertificateDer<'_>) -> bool {
    let part: &[u8] = match record.selector {
        WHOLE => certificate,
        _ => match judge::public_key(certificate) {
            Some(key) => key,
            None => return false,
        },
    };
    match record.matching {
        EXACT => part == &*record.data,
        BY_SHA256 => digest(&SHA256, part).as_ref() == &*record.data,
        BY_SHA512 => digest(&SHA512, part).as_ref() == &*record.data,
        _ => false,
    }
}

fn mismatch(reason: &str) -> TlsFailure {
    TlsFailure::new(FailureType::TlsaInvalid, reason)
}
