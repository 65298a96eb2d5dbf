//! One certificate, from the account to the file.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::proofs::Shown;
use super::{Acme, AcmeError, AcmeSettings, Challenge, Proofs};
use crate::server::identity::{Identity, read};
use crate::server::{acceptor, folder};

/// How long the authority may take to look at the proofs, and to make the certificate.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));

/// Gets a certificate and puts it into the folder.
pub(super) async fn issue(settings: &AcmeSettings, to: &Path, proofs: &Proofs) -> Result<(), AcmeError> {
    folder::make(to)?;
    let account = account(settings, to).await?;
    let names: Vec<Identifier> = settings.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = match account.new_order(&NewOrder::new(&names)).await {
        Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT) => {
            // The authority has forgotten us; the next attempt introduces us again.
            std::fs::remove_file(to.join(account_file(settings)))?;
            return Err(Error::Api(problem).into());
        }
        ordered => ordered?,
    };
    prove(&mut order, settings.challenge, proofs).await?;
    let key = key(&Acme::files(to).1)?;
    let mut parameters = CertificateParams::new(settings.names.clone())?;
    parameters.distinguished_name = DistinguishedName::new();
    order.finalize_csr(parameters.serialize_request(&key)?.der()).await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    keep(&chain, settings, to)
}

/// RFC 8555 §6.7.
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Our account with the authority: the one that was kept, or a new one.
async fn account(settings: &AcmeSettings, to: &Path) -> Result<Account, AcmeError> {
    // instant-acme asks rustls for the cryptography of the process; whoever sets it first sets the same.
    let _ = rustls::crypto::CryptoProvider::install_default((*acceptor::provider()).clone());
    let builder = match &settings.root {
        Some(root) => Account::builder_with_root(root)?,
        None => Account::builder()?,
    };
    let file = to.join(account_file(settings));
    if file.exists() {
        let kept = |why: String| AcmeError::Kept { file: file.clone(), why };
        let credentials = serde_json::from_slice(&read(&file)?).map_err(|error| kept(error.to_string()))?;
        return Ok(builder.from_credentials(credentials).await?);
    }
    let contact: Vec<String> = settings.contact.iter().map(|address| format!("mailto:{address}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = settings.external.as_ref().map(|(id, key)| external(id, key)).transpose()?;
    let (account, credentials) = builder.create(&new, settings.directory.clone(), external.as_ref()).await?;
    let text = serde_json::to_vec(&credentials).map_err(Error::Json)?;
    folder::write(&file, &text)?;
    Ok(account)
}

/// One account per authority.
fn account_file(settings: &AcmeSettings) -> String {
    let hash = digest::digest(&digest::SHA256, settings.directory.as_bytes());
    let hash: String = hash.as_ref().iter().take(8).map(|octet| format!("{octet:02x}")).collect();
    format!("account-{hash}.json")
}

fn external(id: &str, file: &Path) -> Result<ExternalAccountKey, AcmeError> {
    Ok(ExternalAccountKey::new(id.to_owned(), &external_key(file)?))
}

/// Base64url, with or without padding.
fn external_key(file: &Path) -> Result<Zeroizing<Vec<u8>>, AcmeError> {
    let text = read(file)?;
    let text = text.trim_ascii();
    let end = text.iter().rposition(|octet| *octet != b'=').map_or(0, |last| last + 1);
    let unusable = |why: String| AcmeError::Kept { file: file.to_owned(), why };
    match BASE64_URL_SAFE_NO_PAD.decode(&text[..end]) {
        Ok(key) if key.is_empty() => Err(unusable("there is no key in it".to_owned())),
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(error) => Err(unusable(error.to_string())),
    }
}

impl AcmeSettings {
    /// Whether the key by which the authority knows us can be read.
    pub fn check(&self) -> Result<(), AcmeError> {
        self.external.iter().try_for_each(|(_, file)| external_key(file).map(drop))
    }
}

/// Proves every name of the order, and waits until the authority has seen it.
async fn prove(order: &mut Order, challenge: Challenge, proofs: &Proofs) -> Result<(), AcmeError> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let kind = match challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut asked = authorization.challenge(kind).ok_or_else(|| AcmeError::NoChallenge(name.clone()))?;
        let answer = asked.key_authorization();
        shown.push(match challenge {
            Challenge::Http01 => proofs.answer(&asked.token, answer.as_str()),
            Challenge::TlsAlpn01 => proofs.handshake(&name, answer.digest().as_ref())?,
        });
        asked.set_ready().await?;
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) => Err(objection(order).await.unwrap_or_else(|| AcmeError::NotProven {
            name: "a name".to_owned(),
            why: "the authority does not say why".to_owned(),
        })),
        Err(error) => Err(objection(order).await.unwrap_or_else(|| error.into())),
    }
}

/// What the authority has against a proof.
async fn objection(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Some(AcmeError::NotProven { name, why: problem.to_string() });
        }
    }
    None
}

/// The key of the certificate: the one that was kept, or a new one.
fn key(file: &Path) -> Result<KeyPair, AcmeError> {
    if file.exists() {
        let text = read(file)?;
        let pem = std::str::from_utf8(&text);
        let pem = pem.map_err(|error| AcmeError::Kept { file: file.to_owned(), why: error.to_string() })?;
        return Ok(KeyPair::from_pem(pem)?);
    }
    let key = KeyPair::generate()?;
    folder::write(file, key.serialize_pem().as_bytes())?;
    Ok(key)
}

/// Keeps a certificate that is what we asked for.
fn keep(chain: &str, settings: &AcmeSettings, to: &Path) -> Result<(), AcmeError> {
    let (file, key) = Acme::files(to);
    let identity = Identity::from_pem((&file, chain.as_bytes()), (&key, &read(&key)?))?;
    let missing = settings.names.iter().find(|name| !identity.facts().covers(&name.to_ascii_lowercase()));
    if let Some(name) = missing {
        return Err(AcmeError::Certificate(format!("it is not for {name}")));
    }
    Ok(folder::write(&file, chain.as_bytes())?)
}

/// An error with what caused it: HTTP clients say little by themselves.
pub(super) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
