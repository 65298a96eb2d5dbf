//! Accounts that prove themselves by a token that somebody else has signed (RFC 7519): the issuer's published keys, and
//! what a token must say.

mod keys;

use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value, json};

use crate::mechanisms::Mechanism;
pub use jsonwebtoken::Algorithm;
use keys::Keys;
pub use keys::{KeySource, KeysError};

/// Keys that are tried for a token that names none.
const MOST_TRIED: usize = 8;

/// What a token must be and say.
#[derive(Clone, Debug)]
pub struct OauthSettings {
    /// Who may have issued it: `iss` must be one of these.
    pub issuers: Vec<String>,
    /// For whom it must be: `aud` must hold one of these.
    pub audiences: Vec<String>,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// The claim that names the account.
    pub claim: String,
    /// Whether a claim `email` counts only if `email_verified` says so.
    pub verified_email: bool,
    /// The signatures that count.
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// What `scope` or `scp` must hold.
    pub scope: Option<String>,
    /// Whether accounts that the backend does not know are let in, too; they send as themselves.
    pub any_account: bool,
}

impl OauthSettings {
    /// Whether they can be used.
    pub fn check(&self) -> Result<(), KeysError> {
        self.keys.check()
    }

    /// Whether the issuer's keys are there now, as far as that can be seen without asking anybody.
    pub fn examine(&self) -> Result<(), String> {
        self.keys.examine()
    }
}

/// Checks tokens.
pub(crate) struct Oauth {
    settings: OauthSettings,
    keys: Keys,
}

/// Why a token names nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// It is not good; why, for the log.
    Invalid(String),
    /// The keys are not to be had now.
    Unavailable(String),
}

impl Oauth {
    /// By these settings; the keys are fetched when the first token comes.
    pub fn new(settings: OauthSettings) -> Result<Self, KeysError> {
        Ok(Self { keys: Keys::new(settings.keys.clone())?, settings })
    }

    /// Whether accounts that the backend does not know are let in, too.
    pub fn any_account(&self) -> bool {
        self.settings.any_account
    }

    /// Whom a token names.
    pub async fn account_of(&self, token: &str) -> Result<String, TokenError> {
        let invalid = |why: String| TokenError::Invalid(why);
        let header = decode_header(token).map_err(|error| invalid(error.to_string()))?;
        // RFC 7515 §4.1.11: what must be understood and is not makes the token invalid. We understand no extension.
        if header.crit.is_some() {
            return Err(invalid("it has critical extensions".to_owned()));
        }
        if !self.settings.algorithms.contains(&header.alg) {
            return Err(invalid(format!("{:?} signatures are not allowed", header.alg)));
        }
        let keys = self.keys.find(header.kid.as_deref()).await?;
        let mut last = "no key of the issuer fits".to_owned();
        for key in keys.iter().filter(|key| fits(key, header.alg)).take(MOST_TRIED) {
            match self.verify(token, key, header.alg) {
                Ok(claims) => return self.name_in(&claims),
                Err(error) => last = error.to_string(),
            }
        }
        Err(invalid(last))
    }

    /// RFC 7628 §3.2.2: what a client is told whose token is not good.
    pub fn refusal(&self, mechanism: Mechanism) -> Vec<u8> {
        let scope = self.settings.scope.as_deref().unwrap_or_default();
        let text = match mechanism {
            Mechanism::Xoauth2 => json!({ "status": "401", "schemes": "bearer", "scope": scope }),
            _ if scope.is_empty() => json!({ "status": "invalid_token" }),
            _ => json!({ "status": "invalid_token", "scope": scope }),
        };
        text.to_string().into_bytes()
    }

    fn verify(&self, token: &str, key: &Jwk, algorithm: Algorithm) -> jsonwebtoken::errors::Result<Map<String, Value>> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&self.settings.issuers);
        validation.set_audience(&self.settings.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(decode(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
    }

    fn name_in(&self, claims: &Map<String, Value>) -> Result<String, TokenError> {
        let invalid = |why: String| Err(TokenError::Invalid(why));
        if let Some(wanted) = &self.settings.scope
            && !scopes(claims).any(|scope| scope == wanted)
        {
            return invalid(format!("it does not hold the scope {wanted}"));
        }
        let claim = &self.settings.claim;
        // OpenID Connect Core §5.1: an address that nobody has verified may be anybody's. Some issuers write the truth as text.
        let verified = match claims.get("email_verified") {
            Some(verified) => *verified == Value::Bool(true) || verified.as_str() == Some("true"),
            None => !self.settings.verified_email,
        };
        if claim == "email" && !verified {
            return invalid("it does not say that its address is verified".to_owned());
        }
        match claims.get(claim).and_then(Value::as_str) {
            Some(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => invalid(format!("it has no claim `{claim}`")),
        }
    }
}

/// RFC 7517 §4: whether a key is meant for this kind of signature.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let family = DecodingKey::from_jwk(key).is_ok_and(|decoding| decoding.family() == algorithm.family());
    let uses = key.common.public_key_use.as_ref().is_none_or(|uses| *uses == PublicKeyUse::Signature);
    let named =
        key.common.key_algorithm.is_none_or(|named| Algorithm::try_from(named).is_ok_and(|one| one == algorithm));
    family && uses && named
}

/// `scope` is a text with spaces (RFC 8693 §4.2), `scp` a text or a list.
fn scopes(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let texts = ["scope", "scp"].into_iter().filter_map(|claim| claims.get(claim)).flat_map(|value| match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect::<Vec<_>>(),
    });
    texts.flat_map(|text| text.split(' '))
}
