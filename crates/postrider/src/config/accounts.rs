//! `[accounts]`: who may submit mail, and how they prove who they are.

use std::path::{Path, PathBuf};

use directory::BackendSettings;
use directory::oauth::KeySource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backends::{Dovecot, Ldap, Sql};
use super::listener::AuthUse;
use super::places::Places;
use super::problem::Problem;
use super::types::{Configuration, minutes};
use super::units::{Listed, Period};

/// Where accounts are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Accounts {
    /// The file of the accounts. If not set: `accounts.toml`, unless accounts
    /// are kept elsewhere (`dovecot`, `ldap`, `sql`).
    pub file: Option<PathBuf>,
    /// The mechanisms to offer, of those that can be had. If not set: all. None is offered outside TLS.
    pub mechanisms: Option<Listed<Mechanism>>,
    /// How many passwords are checked at a time, each of which takes a processor and 19 MiB for some 20 ms. Beyond a
    /// queue of 256, clients are told to come again: 454 4.7.0. If not set: one per processor.
    #[schemars(range(min = 1, max = 1024))]
    pub parallel_checks: Option<u32>,
    /// The accounts of a Dovecot on this machine, by its authentication protocol.
    pub dovecot: Option<Dovecot>,
    /// The accounts of an LDAP server: whoever can bind as an entry has its password. PLAIN and LOGIN only. In `filter`
    /// and `dn`, `{name}` stands for the account's name, `{local}` and `{domain}` for what is before and behind its last
    /// `@`; all are escaped.
    pub ldap: Option<Ldap>,
    /// Accounts in a data base, found by one query.
    pub sql: Option<Sql>,
    /// Tokens (JSON Web Tokens, RFC 7519) of an issuer such as Keycloak, Entra ID or Google, for OAUTHBEARER and XOAUTH2.
    pub oauth: Option<Oauth>,
}

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// By password, which is never sent, bound to the TLS connection (TLS 1.3).
    #[serde(rename = "SCRAM-SHA-256-PLUS")]
    ScramSha256Plus,
    /// By password, which is never sent.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By the client's certificate.
    #[serde(rename = "EXTERNAL")]
    External,
    /// By token.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
    /// By token, the older way.
    #[serde(rename = "XOAUTH2")]
    Xoauth2,
    /// By password.
    #[serde(rename = "PLAIN")]
    Plain,
    /// By password, the older way.
    #[serde(rename = "LOGIN")]
    Login,
}

/// Tokens (JSON Web Tokens, RFC 7519) of an issuer such as Keycloak, Entra ID or Google, for OAUTHBEARER and XOAUTH2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// Who may have issued a token: what its claim `iss` says.
    pub issuer: Listed<String>,
    /// For whom it must be: one of what its claim `aud` says.
    pub audience: Listed<String>,
    /// The issuer's keys, a JSON Web Key Set: an HTTPS URL, or a file. Keys are
    /// kept for an hour, and fetched again when a token names an unknown one.
    pub keys: String,
    /// The claim that names the account. An `email` counts only if `email_verified` is true.
    #[serde(default = "email")]
    pub claim: String,
    /// Whether that holds; if not, an `email` counts also in tokens without `email_verified`, and whoever may choose an
    /// address with the issuer comes in as its owner. One that is called unverified never counts.
    #[serde(default = "yes")]
    pub verified_email: bool,
    /// The signatures that count.
    #[serde(default = "algorithms")]
    pub algorithms: Listed<Algorithm>,
    /// How far the issuer's clock and ours may differ.
    #[serde(default = "leeway")]
    pub leeway: Period,
    /// What the token's `scope` or `scp` must hold.
    #[serde(default)]
    pub scope: Option<String>,
    /// Also let in whom only the issuer knows; they send as the address that the claim names.
    #[serde(default)]
    pub any_account: bool,
}

/// A signature of a token (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, clippy::upper_case_acronyms)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// The most that clocks may differ.
const LEEWAY_MOST: Period = minutes(60);

fn email() -> String {
    "email".to_owned()
}

fn yes() -> bool {
    true
}

fn algorithms() -> Listed<Algorithm> {
    Listed(vec![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA])
}

fn leeway() -> Period {
    minutes(1)
}

impl Configuration {
    /// Whether an account can be found by its name alone, without a password.
    pub(super) fn knows_accounts(&self) -> bool {
        let by_password_only = |accounts: &Accounts| accounts.dovecot.as_ref().is_some_and(|one| one.userdb.is_none());
        self.accounts.as_ref().is_some_and(|accounts| !by_password_only(accounts))
    }
}

impl Accounts {
    /// Where they are, as the directory takes it. Passwords for other servers are read from their files.
    pub fn to_backend(&self) -> Result<BackendSettings, String> {
        Ok(match self {
            Self { dovecot: Some(dovecot), .. } => BackendSettings::Dovecot(dovecot.to_settings()),
            Self { ldap: Some(ldap), .. } => BackendSettings::Ldap(ldap.to_settings()?),
            Self { sql: Some(sql), .. } => BackendSettings::Sql(sql.to_settings()?),
            _ => BackendSettings::File(self.file.clone().unwrap_or_default()),
        })
    }

    /// As the directory takes it.
    pub fn to_settings(&self, secret: directory::Secret, uses: directory::Uses) -> Result<directory::Settings, String> {
        let general = directory::Settings::new(self.to_backend()?, secret);
        Ok(directory::Settings {
            oauth: self.oauth.as_ref().map(Oauth::to_settings).transpose()?,
            mechanisms: self.mechanisms.as_ref().map(|list| list.0.iter().map(|one| (*one).into()).collect()),
            parallel_checks: self.parallel_checks.map_or(general.parallel_checks, |number| number as usize),
            uses: Some(uses),
            ..general
        })
    }

    /// How long is waited for those who keep them.
    pub(super) fn waits(&self) -> Vec<(&'static str, Period)> {
        let dovecot = self.dovecot.iter().map(|dovecot| ("accounts.dovecot.timeout", dovecot.timeout));
        let ldap = self.ldap.iter().map(|ldap| ("accounts.ldap.timeout", ldap.timeout));
        let sql = self.sql.iter().map(|sql| ("accounts.sql.timeout", sql.timeout));
        dovecot.chain(ldap).chain(sql).collect()
    }
}

impl Oauth {
    pub(super) fn to_settings(&self) -> Result<directory::oauth::OauthSettings, String> {
        let keys = match self.keys.split_once("://") {
            Some(_) => KeySource::Url(self.keys.parse().map_err(|error: url::ParseError| error.to_string())?),
            None => KeySource::File(PathBuf::from(&self.keys)),
        };
        Ok(directory::oauth::OauthSettings {
            issuers: self.issuer.0.clone(),
            audiences: self.audience.0.clone(),
            keys,
            claim: self.claim.clone(),
            verified_email: self.verified_email,
            algorithms: self.algorithms.0.iter().map(|one| (*one).into()).collect(),
            leeway: self.leeway.0,
            scope: self.scope.clone(),
            any_account: self.any_account,
        })
    }
}

impl From<Mechanism> for directory::Mechanism {
    fn from(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::ScramSha256Plus => Self::ScramSha256Plus,
            Mechanism::ScramSha256 => Self::ScramSha256,
            Mechanism::External => Self::External,
            Mechanism::OauthBearer => Self::OauthBearer,
            Mechanism::Xoauth2 => Self::Xoauth2,
            Mechanism::Plain => Self::Plain,
            Mechanism::Login => Self::Login,
        }
    }
}

impl From<Algorithm> for directory::oauth::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::RS256 => Self::RS256,
            Algorithm::RS384 => Self::RS384,
            Algorithm::RS512 => Self::RS512,
            Algorithm::PS256 => Self::PS256,
            Algorithm::PS384 => Self::PS384,
            Algorithm::PS512 => Self::PS512,
            Algorithm::ES256 => Self::ES256,
            Algorithm::ES384 => Self::ES384,
            Algorithm::EdDSA => Self::EdDSA,
        }
    }
}

/// What accounts and listeners contradict, and what is wrong with the accounts file.
pub(super) fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let Some(accounts) = &configuration.accounts else {
        for (at, listener) in configuration.listener.iter().enumerate() {
            if listener.auth() != AuthUse::Off {
                let message = "nobody can log in here: there are no accounts";
                let problem = places.problem(&format!("listener[{at}].role"), message, "it offers AUTH").warning();
                problems.push(problem.help("add the table [accounts], and accounts with `postrider account add`"));
            }
        }
        return;
    };
    if let Some(oauth) = &accounts.oauth {
        tokens(oauth, accounts, places, problems);
    }
    let bearer = |one: &Mechanism| matches!(one, Mechanism::OauthBearer | Mechanism::Xoauth2);
    if accounts.oauth.is_none() && accounts.mechanisms.as_ref().is_some_and(|list| list.0.iter().any(bearer)) {
        let problem =
            places.problem("accounts.mechanisms", "nobody says whose tokens count", "OAUTHBEARER and XOAUTH2");
        problems.push(problem.help("add the table [accounts.oauth]"));
    }
    backends(accounts, places, problems);
    if let Some(path) = &accounts.file {
        file(path, places, problems);
    }
}

/// Whose tokens count, and for what.
fn tokens(oauth: &Oauth, accounts: &Accounts, places: &Places, problems: &mut Vec<Problem>) {
    let judged = oauth.to_settings().and_then(|settings| settings.check().map_err(|error| error.to_string()));
    if let Err(why) = judged {
        problems.push(places.problem("accounts.oauth.keys", "these keys cannot be used", why));
    }
    let empty = |listed: &Listed<String>| listed.0.iter().any(String::is_empty);
    for (key, is_empty) in [
        ("issuer", empty(&oauth.issuer)),
        ("audience", empty(&oauth.audience)),
        ("claim", oauth.claim.is_empty()),
        ("scope", oauth.scope.as_ref().is_some_and(String::is_empty)),
    ] {
        if is_empty {
            let path = format!("accounts.oauth.{key}");
            problems.push(places.problem(&path, format!("`{path}` must not be empty"), "no token says that"));
        }
    }
    if oauth.claim != email() && places.is_set("accounts.oauth.verified_email") {
        let problem = places.problem("accounts.oauth.verified_email", "this is about the claim `email`", "");
        problems.push(problem.help(format!("leave it out: `{}` names the account", oauth.claim)));
    }
    if oauth.leeway > LEEWAY_MOST {
        let problem = places.problem("accounts.oauth.leeway", "tokens would count long after their end", "");
        problems.push(problem.help(format!("clocks that are kept right differ by seconds; {LEEWAY_MOST} is the most")));
    }
    if accounts.dovecot.as_ref().is_some_and(|dovecot| dovecot.userdb.is_none()) && !oauth.any_account {
        let problem = places.problem("accounts.oauth", "no token would let anybody in", "nobody knows the accounts");
        problems.push(problem.help("set `accounts.dovecot.userdb`, so that Dovecot can be asked whether they exist"));
    }
}

/// Accounts are in one place.
fn backends(accounts: &Accounts, places: &Places, problems: &mut Vec<Problem>) {
    let set = [
        ("file", accounts.file.is_some()),
        ("dovecot", accounts.dovecot.is_some()),
        ("ldap", accounts.ldap.is_some()),
        ("sql", accounts.sql.is_some()),
    ];
    let mut set = set.into_iter().filter(|(_, set)| *set).map(|(key, _)| key);
    if let (Some(first), Some(second)) = (set.next(), set.next()) {
        let problem = places.problem(&format!("accounts.{second}"), "accounts are in one place", "");
        problems.push(problem.help(format!("leave out `{first}` or `{second}`")));
    }
    if let Some(ldap) = &accounts.ldap {
        ldap.judge(places, problems);
    }
    if let Some(sql) = &accounts.sql {
        sql.judge(places, problems);
    }
}

/// An accounts file with mistakes; one that is not there, or that only the server may read, is no mistake.
fn file(path: &Path, places: &Places, problems: &mut Vec<Problem>) {
    if let Err(error) = directory::file::check(path) {
        problems.push(places.problem("accounts", "the accounts cannot be used", "").help(error.to_string()));
    }
}
