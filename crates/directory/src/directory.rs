//! The directory: who has accounts, and whether a proof is theirs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use store::TablesError;

use crate::Unavailable;
use crate::account::Account;
use crate::admission::Admission;
use crate::backend::Backend;
use crate::dovecot::DovecotAccounts;
use crate::exchange::{AuthFailure, ChannelFacts, Exchange, UnknownMechanism};
use crate::ldap::Tried;
use crate::mechanisms::Mechanism;
use crate::metrics::Metrics;
use crate::names::normalise;
use crate::oauth::Oauth;
use crate::password::{Checks, Credentials, Matched, Password, Secret, TooBusy, Verifier};
use crate::settings::{Settings, SetupError};
use crate::uses::{LastUse, Uses};

/// Who has accounts here. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    metrics: Metrics,
    inner: Arc<RwLock<Option<Arc<Inner>>>>,
}

/// Settings that can be put in force.
pub struct Prepared(Option<Arc<Inner>>);

/// What is in force until the next configuration.
pub(crate) struct Inner {
    pub(crate) metrics: Metrics,
    pub(crate) backend: Backend,
    checks: Checks,
    secret: Secret,
    mechanisms: Option<Vec<Mechanism>>,
    pub(crate) oauth: Option<Oauth>,
    uses: Option<Uses>,
}

/// An account with what recognises it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub account: Arc<Account>,
    pub credentials: Arc<Credentials>,
    pub disabled: bool,
    pub app_passwords_only: bool,
}

/// What came of a password.
pub(crate) struct Checked {
    /// What all names of the account have in common, as far as its backend tells: failures count against that.
    pub whose: Option<String>,
    /// Whether it is in.
    pub admission: Result<Admission, AuthFailure>,
}

impl Directory {
    /// One without accounts, until it is configured.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, inner: Arc::default() }
    }

    /// Puts settings in force; without any there are no accounts. Exchanges under way go on by those that they began with.
    pub fn configure(&self, settings: Option<Settings>) -> Result<(), SetupError> {
        self.put_in_force(self.prepare(settings)?);
        Ok(())
    }

    /// Makes everything ready that can fail.
    pub fn prepare(&self, settings: Option<Settings>) -> Result<Prepared, SetupError> {
        let inner = settings.map(|settings| Inner::new(settings, self.metrics.clone())).transpose()?;
        Ok(Prepared(inner.map(Arc::new)))
    }

    /// From now on by these settings.
    pub fn put_in_force(&self, Prepared(inner): Prepared) {
        // What Dovecot offers is asked ahead of the first client, where there is somebody to ask.
        if let (Some(Backend::Dovecot(dovecot)), Ok(runtime)) =
            (inner.as_ref().map(|inner| &inner.backend), tokio::runtime::Handle::try_current())
        {
            let dovecot = Arc::clone(dovecot);
            runtime.spawn(async move { dovecot.learn().await });
        }
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = inner;
    }

    /// The mechanisms to be had on a channel, the ones to be preferred first. None outside TLS.
    pub fn mechanisms(&self, facts: &ChannelFacts) -> Vec<&'static str> {
        let Some(inner) = self.current() else { return Vec::new() };
        Mechanism::ALL.into_iter().filter(|one| inner.offers(*one, facts)).map(Mechanism::as_str).collect()
    }

    /// Begins an exchange.
    pub fn begin(&self, mechanism: &str, facts: ChannelFacts) -> Result<Exchange, UnknownMechanism> {
        let (inner, mechanism) = self.current().zip(Mechanism::named(mechanism)).ok_or(UnknownMechanism)?;
        if !inner.offers(mechanism, &facts) {
            return Err(UnknownMechanism);
        }
        Ok(Exchange::new(inner, mechanism, facts))
    }

    /// The account of that name, unless it is shut out: for those whose certificate says who they are.
    pub async fn by_certificate(&self, name: &str) -> Result<Option<Admission>, Unavailable> {
        let (Some(inner), Ok(name)) = (self.current(), normalise(name)) else { return Ok(None) };
        let known = inner.backend.known(&name).await?.filter(|known| !known.disabled);
        Ok(known.map(|known| Admission::by_name(known.account, &name, false)))
    }

    /// Whether somebody who was let in would be let in again: the account as it is now, or why not. A password that LDAP or
    /// Dovecot has judged cannot be asked for again; of LDAP, whether the entry is still there.
    pub async fn still(&self, admission: &Admission) -> Result<Arc<Account>, AuthFailure> {
        self.current().ok_or(AuthFailure::Credentials)?.still(admission).await
    }

    /// When the passwords of an account were last used; what was never used is not there.
    pub async fn last_uses(&self, name: &str) -> Result<Vec<LastUse>, TablesError> {
        let uses = self.current().and_then(|inner| inner.uses.clone());
        match uses.zip(normalise(name).ok()) {
            Some((uses, name)) => uses.of(&name).await,
            None => Ok(Vec::new()),
        }
    }

    fn current(&self) -> Option<Arc<Inner>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inner {
    fn new(settings: Settings, metrics: Metrics) -> Result<Self, SetupError> {
        let (backend, checks) = (Backend::new(settings.backend)?, Checks::new(settings.parallel_checks));
        // Before the first client: who does not exist looks like somebody who does.
        if let Some(record) = backend.example() {
            checks.learn(&record.credentials);
        }
        Ok(Self {
            metrics,
            backend,
            checks,
            secret: settings.secret,
            mechanisms: settings.mechanisms,
            oauth: settings.oauth.map(Oauth::new).transpose()?,
            uses: settings.uses,
        })
    }

    /// Whether a mechanism can be used on a channel. The password is never asked for in the clear.
    pub fn offers(&self, mechanism: Mechanism, facts: &ChannelFacts) -> bool {
        let wanted = self.mechanisms.as_ref().is_none_or(|wanted| wanted.contains(&mechanism));
        let possible = match mechanism {
            Mechanism::ScramSha256Plus => facts.tls_exporter.is_some() && self.backend.offers(mechanism),
            Mechanism::External => facts.certificate.is_some() && self.backend.offers(mechanism),
            Mechanism::OauthBearer | Mechanism::Xoauth2 => self.oauth.is_some() || self.backend.offers(mechanism),
            _ => self.backend.offers(mechanism),
        };
        facts.tls && wanted && possible
    }

    /// Who is to judge a mechanism's messages in our place.
    pub fn relay(&self, mechanism: Mechanism) -> Option<&DovecotAccounts> {
        let ours = match mechanism {
            Mechanism::External => true,
            Mechanism::OauthBearer | Mechanism::Xoauth2 => self.oauth.is_some(),
            _ => false,
        };
        match &self.backend {
            Backend::Dovecot(dovecot) if !ours => Some(dovecot),
            _ => None,
        }
    }

    /// The account of a normalised name with what recognises its passwords.
    pub async fn record(&self, name: &str) -> Result<Option<Arc<Record>>, Unavailable> {
        match &self.backend {
            Backend::Records(records) => {
                let record = records.find(name).await?;
                if let Some(record) = &record {
                    self.checks.learn(&record.credentials);
                }
                Ok(record)
            }
            Backend::Ldap(_) | Backend::Dovecot(_) => Ok(None),
        }
    }

    /// Whose password this is.
    pub async fn check_password(
        &self,
        name: &str,
        password: Password,
        facts: &ChannelFacts,
    ) -> Result<Checked, AuthFailure> {
        if let Backend::Ldap(ldap) = &self.backend {
            let Tried { account, whose } = ldap.check(name, &password).await?;
            if let Some(account) = &account {
                self.note(account, &Matched::Main, facts);
            }
            let admission = account.map(|account| Admission::elsewhere(account, name)).ok_or(AuthFailure::Credentials);
            return Ok(Checked { whose, admission });
        }
        let record = self.record(name).await?;
        let credentials = record.as_ref().map(|record| Arc::clone(&record.credentials));
        let busy = |TooBusy| AuthFailure::Unavailable("too many passwords are being checked".to_owned());
        let matched = self.checks.check(name, credentials, password).await.map_err(busy)?;
        let whose = record.as_ref().map(|record| record.account.name.clone());
        let admission = match (record, matched) {
            (Some(record), Some(matched)) => self.admit(&record, name, &matched, facts),
            _ => Err(AuthFailure::Credentials),
        };
        Ok(Checked { whose, admission })
    }

    /// What a proof by SCRAM is held against: the account's verifiers, or what looks like one and fits nothing.
    pub fn verifiers(&self, name: &str, record: Option<&Record>) -> Vec<(Matched, Verifier)> {
        let known = record.map(|record| record.credentials.verifiers(!record.app_passwords_only)).unwrap_or_default();
        if known.is_empty() {
            // The same salt every time, as an account would have it, and from nothing that others know.
            let salt = self.secret.mac(name.as_bytes());
            return vec![(Matched::Main, self.checks.decoy_verifier(&salt))];
        }
        known.into_iter().map(|(whose, verifier)| (whose, verifier.clone())).collect()
    }

    /// The proof is right; whether the account, which was asked for by `name`, may use it.
    pub fn admit(
        &self,
        record: &Record,
        name: &str,
        matched: &Matched,
        facts: &ChannelFacts,
    ) -> Result<Admission, AuthFailure> {
        record.lets_in(matched)?;
        self.note(&record.account, matched, facts);
        Ok(Admission::by_password(record, name, matched))
    }

    /// The account of somebody who has proven without a password to be `name`; `any`: also if the backend does not know it.
    pub async fn holder(&self, name: &str, any: bool, facts: &ChannelFacts) -> Result<Admission, AuthFailure> {
        let account = self.named(name, any).await?;
        self.note(&account, &Matched::Main, facts);
        Ok(Admission::by_name(account, name, any))
    }

    pub fn note(&self, account: &Account, matched: &Matched, facts: &ChannelFacts) {
        if let Some(uses) = &self.uses {
            uses.note(&account.name, matched, facts.peer.ip());
        }
    }
}

impl Record {
    /// Whether somebody with this one of its passwords may come in.
    pub fn lets_in(&self, matched: &Matched) -> Result<(), AuthFailure> {
        match matched {
            _ if self.disabled => Err(AuthFailure::Disabled),
            Matched::Main if self.app_passwords_only => Err(AuthFailure::MustUpgrade),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory(…)")
    }
}
