//! Who we are inside TLS, and whom we know: `[tls]`, `[[certificate]]`, `[acme]`, `[[client_certificate]]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::listener::TlsUse;
use super::outgoing_tls::Fingerprint;
use super::places::Places;
use super::problem::Problem;
use super::types::Configuration;
use super::units::{Address, Listed, Name, Period};

/// TLS for those who connect to this server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The oldest version that is spoken; a listener may have its own `tls_minimum`.
    pub minimum: TlsVersion,
    /// How long a handshake may take.
    pub handshake_time: Period,
    /// A PEM file of certificate authorities to believe beside the system's, when this server connects to others: mail
    /// hosts that must prove their names, the hosts of MTA-STS policies, places for TLS reports.
    pub roots: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { minimum: TlsVersion::V1_2, handshake_time: Period(std::time::Duration::from_secs(30)), roots: None }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// And 1.3.
    #[serde(rename = "1.2")]
    V1_2,
    /// Alone: older mail servers then send in clear, or not at all.
    #[serde(rename = "1.3")]
    V1_3,
}

/// A certificate of this server. A client gets the one for the name that it asks for, or else the first. Without any, and
/// without `[acme]`, a self-signed one is made in the store's folder: mail servers take it unless they verify. Files that
/// change come into force within 30 seconds; no connection is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The PEM file with the certificate, and behind it those that vouch for it.
    pub chain: PathBuf,
    /// The PEM file with its key, which the server's user must be able to read, and nobody else.
    pub key: PathBuf,
}

/// A certificate from an authority by ACME (RFC 8555), such as Let's Encrypt, renewed at two thirds of its life. Naming
/// `names` agrees to the authority's terms of service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// The names of the certificate; without any, no authority is asked.
    pub names: Vec<Name>,
    /// The address of the authority's directory; `"letsencrypt"` and `"letsencrypt-staging"` are known by name.
    pub directory: String,
    /// Mail addresses that the authority may write to.
    pub contact: Vec<String>,
    /// How names are proven.
    pub challenge: AcmeChallenge,
    /// Where the authority finds the proof. If not set: port 80 of all addresses for `http-01`, port 443 for
    /// `tls-alpn-01`.
    pub listen: Option<Listed<Address>>,
    /// A PEM file with the certificate that vouches for the directory itself, for an authority of your own.
    pub root: Option<PathBuf>,
    /// The id by which the authority knows you already, if it wants one.
    pub external_account: Option<String>,
    /// The file with the key of that id, in base64url.
    pub external_account_key: Option<PathBuf>,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            directory: "letsencrypt".to_owned(),
            contact: Vec::new(),
            challenge: AcmeChallenge::Http01,
            listen: None,
            root: None,
            external_account: None,
            external_account_key: None,
        }
    }
}

/// How a name is proven to an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// By a file over HTTP, on port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// By a handshake, on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// A client that is known by its certificate. The first entry that fits counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// The SHA-256 of the certificate. One of `fingerprint`, `public_key` and `name` must be set.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
    /// The SHA-256 of its public key, which may stay the same when the certificate is renewed.
    #[serde(default)]
    pub public_key: Option<Fingerprint>,
    /// A DNS name or mail address that the certificate is for.
    #[serde(default)]
    pub name: Option<String>,
    /// The PEM file with the authorities that may say so; must be set with `name`.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// The client may send to every domain.
    #[serde(default)]
    pub relay: bool,
    /// The client is this account.
    #[serde(default)]
    pub account: Option<String>,
}

impl Acme {
    /// What the certificate's keeper needs; nothing if no authority is to be asked.
    pub fn to_settings(&self) -> Option<tls::AcmeSettings> {
        if self.names.is_empty() {
            return None;
        }
        let directory = match self.directory.as_str() {
            "letsencrypt" => "https://acme-v02.api.letsencrypt.org/directory",
            "letsencrypt-staging" => "https://acme-staging-v02.api.letsencrypt.org/directory",
            url => url,
        };
        Some(tls::AcmeSettings {
            directory: directory.to_owned(),
            root: self.root.clone(),
            contact: self.contact.clone(),
            names: self.names.iter().map(ToString::to_string).collect(),
            challenge: match self.challenge {
                AcmeChallenge::Http01 => tls::Challenge::Http01,
                AcmeChallenge::TlsAlpn01 => tls::Challenge::TlsAlpn01,
            },
            external: self.external_account.clone().zip(self.external_account_key.clone()),
        })
    }

    /// Where the authority finds the proof.
    pub fn listen(&self) -> Vec<std::net::SocketAddr> {
        if let Some(listed) = &self.listen {
            return listed.0.iter().map(|address| address.0).collect();
        }
        let port = match self.challenge {
            AcmeChallenge::Http01 => 80,
            AcmeChallenge::TlsAlpn01 => 443,
        };
        vec![(std::net::Ipv4Addr::UNSPECIFIED, port).into(), (std::net::Ipv6Addr::UNSPECIFIED, port).into()]
    }
}

/// What `[tls]` and what belongs to it contradict.
pub(super) fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    for (at, listener) in configuration.listener.iter().enumerate() {
        if listener.tls_minimum.is_some() && listener.tls() == TlsUse::Off {
            let path = format!("listener[{at}].tls_minimum");
            problems.push(places.problem(&path, "`tls_minimum` means nothing without TLS", "`tls` is \"off\""));
        }
    }
    acme(configuration, places, problems);
    for (at, client) in configuration.client_certificate.iter().enumerate() {
        let path = format!("client_certificate[{at}]");
        judge_client(client, &path, places, problems);
        if client.account.is_some() && !configuration.knows_accounts() {
            let problem = places.problem(&format!("{path}.account"), "this account cannot be looked up", "");
            problems.push(problem.help("add the table [accounts]; with Dovecot set `accounts.dovecot.userdb`, too"));
        }
    }
}

fn acme(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let acme = &configuration.acme;
    if acme.names.is_empty() {
        if *acme != Acme::default() {
            let problem = places.problem("acme", "`acme.names` is missing", "no authority is asked");
            problems.push(problem.help(format!("names = [\"{}\"]", configuration.hostname)));
        }
        return;
    }
    let known = matches!(acme.directory.as_str(), "letsencrypt" | "letsencrypt-staging");
    if !known && !is_https(&acme.directory) {
        let message = "`acme.directory` takes the address of a directory, or \"letsencrypt\"";
        problems.push(places.problem("acme.directory", message, "this is no https:// address"));
    }
    if acme.external_account.is_some() != acme.external_account_key.is_some() {
        let message = "`external_account` and `external_account_key` belong together";
        problems.push(places.problem("acme", message, "one of them is missing"));
    }
    if let Some(at) = acme.contact.iter().position(|contact| !contact.contains('@') || contact.contains(':')) {
        let path = format!("acme.contact[{at}]");
        problems.push(places.problem(&path, "`acme.contact` takes mail addresses", "such as postmaster@example.org"));
    }
}

/// Whether a text is the address of something that is fetched by HTTPS.
pub(super) fn is_https(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.host_str().is_some())
}

fn judge_client(client: &ClientCertificate, path: &str, places: &Places, problems: &mut Vec<Problem>) {
    let known_by = [client.fingerprint.is_some(), client.public_key.is_some(), client.name.is_some()];
    if known_by.iter().filter(|set| **set).count() != 1 {
        let message = "a client is known by one of `fingerprint`, `public_key` and `name`";
        problems.push(places.problem(path, message, "none of them, or several"));
    }
    if client.name.is_some() != client.authority.is_some() {
        let problem = places.problem(path, "`name` and `authority` belong together", "one of them is missing");
        problems.push(problem.help("anybody can put any name into a certificate; an authority must vouch for it"));
    }
    if !client.relay && client.account.is_none() {
        let problem = places.problem(path, "this certificate is good for nothing", "");
        problems.push(problem.help("set `relay = true`, or an `account`"));
    }
}
