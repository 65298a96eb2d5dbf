//! Who we are to the hosts of a route: `auth` of routes.

use std::path::PathBuf;

use delivery::auth::{ClientGrant, CredentialSettings, Mechanism, Proof, SecretPlace, TokenSource};
use mail::TlsLevel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::places::Places;
use super::problem::Problem;
use super::tls::is_https;
use super::types::Route;
use super::{NextHop, OutgoingTls};

/// Who we are to the hosts of a route. One of `password_file`, `password_env`, `token_file`, `token_command` and
/// `token_service` says what proves it. If a host does not believe us, mail waits and the log says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmartHostAuth {
    /// The name of the account there.
    pub user: String,
    /// The file with the password in its first line; read anew for each connection.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The variable of the environment with the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// The file with an OAuth token in its first line, which something else keeps fresh.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The program with its arguments that prints an OAuth token; asked once a minute at most. Of our environment it gets
    /// PATH, HOME, LANG and TZ only.
    #[serde(default)]
    pub token_command: Option<Vec<String>>,
    /// The service that grants us OAuth tokens as its client.
    #[serde(default)]
    pub token_service: Option<TokenService>,
    /// The mechanisms to use, in this order: `SCRAM-SHA-256-PLUS`, `SCRAM-SHA-256`, `PLAIN`, `LOGIN`, `OAUTHBEARER`,
    /// `XOAUTH2`. All that fit if not set, the best first.
    #[serde(default)]
    pub mechanisms: Vec<String>,
    /// Tell also a host whose certificate proves nothing; anybody on the line may then learn the password. Never in clear.
    #[serde(default)]
    pub unverified: bool,
}

/// A service that grants tokens by client credentials (RFC 6749 §4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenService {
    /// Where it is asked, by https.
    pub url: String,
    /// Our name there.
    pub client_id: String,
    /// The file with our secret there in its first line.
    pub client_secret_file: PathBuf,
    /// What the token is for, in the words of the service.
    #[serde(default)]
    pub scope: Option<String>,
}

impl SmartHostAuth {
    /// As delivery takes it; nothing if it does not say what proves who we are.
    pub fn to_settings(&self) -> Option<CredentialSettings> {
        let mechanisms = self.mechanisms.iter().filter_map(|name| Mechanism::parse(name)).collect();
        let [proof] = <[Proof; 1]>::try_from(self.proofs()).ok()?;
        Some(CredentialSettings { user: self.user.clone(), proof, mechanisms, unverified: self.unverified })
    }

    /// The files that must hold a secret.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (&'static str, SecretPlace)> {
        let service = self.token_service.as_ref().map(|service| &service.client_secret_file);
        let files = [
            ("password_file", self.password_file.as_ref()),
            ("token_file", self.token_file.as_ref()),
            ("token_service.client_secret_file", service),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key, SecretPlace::File(file?.clone()))))
    }

    fn proofs(&self) -> Vec<Proof> {
        let password = self.password_file.iter().map(|file| SecretPlace::File(file.clone()));
        let password = password.chain(self.password_env.iter().map(|name| SecretPlace::Env(name.clone())));
        let token = self.token_file.iter().map(|file| TokenSource::File(file.clone()));
        let token = token.chain(self.token_command.iter().map(|words| TokenSource::Command(words.clone())));
        let granted = self.token_service.iter().map(|service| {
            TokenSource::Client(ClientGrant {
                url: service.url.clone(),
                id: service.client_id.clone(),
                secret: SecretPlace::File(service.client_secret_file.clone()),
                scope: service.scope.clone(),
            })
        });
        password.map(Proof::Password).chain(token.chain(granted).map(Proof::Token)).collect()
    }

    /// What is demanded of TLS where the route does not say.
    pub fn default_tls(&self) -> Option<TlsLevel> {
        (!self.unverified).then(|| TlsLevel::Verify(Vec::new()))
    }
}

/// What contradicts itself.
pub(super) fn judge(route: &Route, path: &str, places: &Places, problems: &mut Vec<Problem>) {
    let Some(auth) = &route.auth else { return };
    let path = format!("{path}.auth");
    let mut problem = |key: &str, message: String, help: &str| {
        let path = if key.is_empty() { path.clone() } else { format!("{path}.{key}") };
        problems.push(places.problem(&path, message, "").help(help.to_owned()));
    };
    if !route.to.0.iter().all(|hop| matches!(hop, NextHop::Host(..) | NextHop::SecureHost(..))) {
        problem(
            "",
            "only hosts that are named can be told who we are".into(),
            "set `to` to \"host:587\" or \"smtps://host\"",
        );
    }
    if auth.proofs().len() != 1 {
        let help = "set one of password_file, password_env, token_file, token_command and token_service";
        problem("", "it must be said what proves who we are, in one way".into(), help);
    }
    let is_token = matches!(auth.proofs().first(), Some(Proof::Token(_)));
    let fitting: &[Mechanism] = if is_token { &Mechanism::OF_TOKENS } else { &Mechanism::OF_PASSWORDS };
    for name in &auth.mechanisms {
        if !Mechanism::parse(name).is_some_and(|mechanism| fitting.contains(&mechanism)) {
            let names: Vec<_> = fitting.iter().map(|mechanism| mechanism.name()).collect();
            problem("mechanisms", format!("`{name}` does not fit"), &format!("choose from {}", names.join(", ")));
        }
    }
    let level = route.tls.as_ref().map(OutgoingTls::to_level);
    let proves = matches!(level, None | Some(TlsLevel::Verify(_) | TlsLevel::Fingerprint(_) | TlsLevel::DaneOnly));
    if level == Some(TlsLevel::None) || !(proves || auth.unverified) {
        let help =
            "leave `tls` out, which means \"verify\" here, or set it to \"verify\", \"fingerprint\" or \"dane-only\"";
        problem("", "the password could be told to somebody else: `tls` does not verify the host".into(), help);
    }
    if auth.token_service.as_ref().is_some_and(|service| !is_https(&service.url)) {
        problem("token_service.url", "our secret would go in clear, or nowhere".into(), "write an https:// address");
    }
    for (key, is_empty) in [
        ("user", auth.user.is_empty()),
        ("password_env", auth.password_env.as_ref().is_some_and(String::is_empty)),
        ("token_service.client_id", auth.token_service.as_ref().is_some_and(|service| service.client_id.is_empty())),
    ] {
        if is_empty {
            problem(key, format!("`{key}` must not be empty"), "no host knows us by nothing");
        }
    }
    if auth.token_command.as_ref().is_some_and(Vec::is_empty) {
        problem("token_command", "there is no program to run".into(), "token_command = [\"/usr/local/bin/token\"]");
    }
}
