//! A certificate authority of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::harness::open_to_everybody;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    /// Its own certificate.
    pub file: PathBuf,
}

/// A certificate with its key, in files that everybody may read.
pub struct Signed {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// The SHA-256 of the certificate.
    pub fingerprint: String,
}

impl Authority {
    /// Its files are in that folder.
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new([]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let file = write(folder, "authority.pem", &issuer.pem());
        Self { issuer, folder: folder.to_owned(), file }
    }

    /// A certificate for a name or a mail address, as public authorities make them: it began an hour ago and is good for 89
    /// days more.
    pub fn sign(&self, name: &str) -> Signed {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uris = vec!["http://authority.test/revoked.crl".to_owned()];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        params.not_before = date_time_ymd(1970, 1, 1) + (now - hours(1));
        params.not_after = params.not_before + hours(90 * 24);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let octets = digest(&SHA256, certificate.der());
        Signed {
            chain: write(&self.folder, &format!("{name}.pem"), &certificate.pem()),
            key: write(&self.folder, &format!("{name}.key"), &key.serialize_pem()),
            fingerprint: octets.as_ref().iter().map(|octet| format!("{octet:02x}")).collect(),
        }
    }
}

impl Signed {
    /// As a server shows it.
    pub fn table(&self) -> String {
        format!("[[certificate]]\nchain = \"{}\"\nkey = \"{}\"\n", self.chain.display(), self.key.display())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).expect("our own file");
    open_to_everybody(&file, 0o644);
    file
}
