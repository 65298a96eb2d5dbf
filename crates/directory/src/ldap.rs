//! Accounts in LDAP: whoever can bind as an entry has its password (RFC 4513 §5.1.3).
//!
//! The entry is found by a search, or its name is made from a template. The server alone sees whether the password is
//! right, so there is nothing to be remembered here and no SCRAM.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError as ProtocolError, Scope, SearchEntry, SearchOptions, dn_escape,
    ldap_escape,
};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::Unavailable;
use crate::account::{Account, AccountLimits, Limit};
use crate::names::normalise;
use crate::password::Password;
use crate::send_as::SendAs;
use crate::trust::{self, TrustError};

/// Exchanges with the server at a time.
const MOST: usize = 32;

/// Which server, and which entries.
#[derive(Clone, Debug)]
pub struct LdapSettings {
    /// `ldap://host`, `ldaps://host` or `ldapi://path`.
    pub url: String,
    /// Whether `ldap://` becomes TLS before anything is said.
    pub starttls: bool,
    /// Whose certificates are trusted; the system's if not set.
    pub authorities: Option<PathBuf>,
    /// As whom to look things up; as nobody if not set.
    pub bind: Option<(String, Password)>,
    /// How an entry is found.
    pub find: LdapFind,
    /// The attribute that names the account, whatever it was found by; an entry without it is named by its DN.
    pub name: String,
    /// The attributes that hold what an account sends as; if there are none, its name, if that is an address.
    pub addresses: Vec<String>,
    /// Whether patterns count in them, or addresses alone.
    pub patterns: bool,
    /// The attributes that hold an account's own limits.
    pub limits: BTreeMap<Limit, String>,
    /// How long each answer may take.
    pub timeout: Duration,
}

/// How an entry is found. `{name}` stands for the account's name, `{local}` and `{domain}` for what is before and behind its
/// last `@`; all are escaped for where they stand.
#[derive(Clone, Debug)]
pub enum LdapFind {
    /// By a search.
    Search {
        /// Below this entry.
        base: String,
        /// By this filter.
        filter: String,
    },
    /// By its distinguished name.
    Template(String),
}

/// The accounts of a server.
pub struct LdapAccounts {
    settings: LdapSettings,
    tls: Arc<ClientConfig>,
    places: Semaphore,
    /// The connection that looks things up.
    service: tokio::sync::Mutex<Option<Ldap>>,
}

/// What there is of an entry.
struct Found {
    dn: String,
    account: Account,
}

/// What came of a password.
pub struct Tried {
    /// The account, if the password is its own.
    pub account: Option<Arc<Account>>,
    /// What all names of the entry have in common, as far as that is known.
    pub whose: Option<String>,
}

impl LdapAccounts {
    /// Connects when the first account is asked for.
    pub fn new(settings: LdapSettings) -> Result<Self, TrustError> {
        let tls = trust::client(settings.authorities.as_deref())?;
        Ok(Self { settings, tls, places: Semaphore::new(MOST), service: tokio::sync::Mutex::default() })
    }

    /// Whose password this is.
    pub async fn check(&self, name: &str, password: &Password) -> Result<Tried, Unavailable> {
        self.bounded(name, async {
            match &self.settings.find {
                LdapFind::Search { base, .. } => {
                    let found = self.look(name).await?;
                    // Who is not there is tried as well, so that the time does not tell.
                    let dn = match &found {
                        Some(found) => found.dn.clone(),
                        None => format!("cn={:016x},{base}", u64::from_be_bytes(crate::password::random())),
                    };
                    let bound = self.bind(&dn, password).await?;
                    let whose = found.as_ref().map(|found| found.account.name.clone());
                    let account = found.filter(|_| bound.is_some()).map(|found| Arc::new(found.account));
                    Ok(Tried { account, whose })
                }
                LdapFind::Template(template) => {
                    let dn = fill(template, name, |text| dn_escape(text));
                    let account = match self.bind(&dn, password).await? {
                        // Whoever has bound may read its own entry.
                        Some(mut ldap) => {
                            let found = self.entry(&mut ldap, &dn).await;
                            // The answer is there; how the connection ends does not matter.
                            let _ = ldap.unbind().await;
                            found?.map(|found| Arc::new(found.account))
                        }
                        None => None,
                    };
                    Ok(Tried { account, whose: Some(dn) })
                }
            }
        })
        .await
    }

    /// Whether an entry can be found by somebody who does not have its password.
    pub fn finds_without_password(&self) -> bool {
        matches!(self.settings.find, LdapFind::Search { .. }) || self.settings.bind.is_some()
    }

    /// The account of that name.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Account>>, Unavailable> {
        self.bounded(name, async { Ok(self.look(name).await?.map(|found| Arc::new(found.account))) }).await
    }

    async fn bounded<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, ProtocolError>>,
    ) -> Result<T, Unavailable> {
        let _place = match tokio::time::timeout(self.settings.timeout, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            _ => return Err(Unavailable("too many wait for the LDAP server".to_owned())),
        };
        work.await.map_err(|problem| {
            error!(account = name, %problem, "the LDAP server cannot answer");
            Unavailable(format!("LDAP: {problem}"))
        })
    }

    /// Looks an entry up, by the connection that is there or by a new one.
    async fn look(&self, name: &str) -> Result<Option<Found>, ProtocolError> {
        let kept = self.service.lock().await.clone();
        if let Some(mut ldap) = kept {
            match self.look_by(&mut ldap, name).await {
                // It may have been closed since; that says nothing about the server.
                Err(_) => drop(self.service.lock().await.take()),
                found => return found,
            }
        }
        let mut ldap = self.connect().await?;
        if let Some((dn, password)) = &self.settings.bind {
            ldap.with_timeout(self.settings.timeout).simple_bind(dn, password.as_typed()).await?.success()?;
        }
        let found = self.look_by(&mut ldap, name).await?;
        *self.service.lock().await = Some(ldap);
        Ok(found)
    }

    async fn look_by(&self, ldap: &mut Ldap, name: &str) -> Result<Option<Found>, ProtocolError> {
        match &self.settings.find {
            LdapFind::Search { base, filter } => {
                let filter = fill(filter, name, |text| ldap_escape(text));
                self.search(ldap, base, Scope::Subtree, &filter).await
            }
            LdapFind::Template(template) => {
                let dn = fill(template, name, |text| dn_escape(text));
                self.entry(ldap, &dn).await
            }
        }
    }

    async fn entry(&self, ldap: &mut Ldap, dn: &str) -> Result<Option<Found>, ProtocolError> {
        match self.search(ldap, dn, Scope::Base, "(objectClass=*)").await {
            // noSuchObject
            Err(ProtocolError::LdapResult { result }) if result.rc == 32 => Ok(None),
            found => found,
        }
    }

    async fn search(
        &self,
        ldap: &mut Ldap,
        base: &str,
        scope: Scope,
        filter: &str,
    ) -> Result<Option<Found>, ProtocolError> {
        let LdapSettings { name, addresses, limits, .. } = &self.settings;
        let wanted: Vec<&String> = std::iter::once(name).chain(addresses).chain(limits.values()).collect();
        let ldap = ldap.with_timeout(self.settings.timeout).with_search_options(SearchOptions::new().sizelimit(2));
        let (entries, _) = ldap.search(base, scope, filter, wanted).await?.success()?;
        let mut entries = entries.into_iter().filter(|entry| !entry.is_ref()).map(SearchEntry::construct);
        let Some(entry) = entries.next() else { return Ok(None) };
        if entries.next().is_some() {
            return Err(unusable("several entries match the filter"));
        }
        Ok(Some(Found { account: self.account(&entry)?, dn: entry.dn }))
    }

    fn account(&self, entry: &SearchEntry) -> Result<Account, ProtocolError> {
        // Of several names always the same one: a server has no order for them.
        let named = values(entry, &self.settings.name).filter_map(|value| normalise(value).ok()).min();
        let name = match named.map_or_else(|| normalise(&entry.dn), Ok) {
            Ok(name) => name,
            Err(_) => return Err(unusable("its DN cannot be a name, and the attribute of `name` holds none")),
        };
        let send_as = match self.settings.addresses.is_empty() {
            true => SendAs::own(&name),
            false => self.send_as(&name, entry),
        };
        let mut limits = AccountLimits::default();
        for (limit, attribute) in &self.settings.limits {
            match values(entry, attribute).next().map(|value| value.trim().parse()) {
                Some(Ok(most)) => limits.set(*limit, most),
                Some(Err(_)) => warn!(account = name, attribute, "a limit in LDAP is no number; it is left out"),
                None => {}
            }
        }
        Ok(Account { name, send_as, limits: limits.if_any(), hide_client: None })
    }

    /// What the entry's addresses say. Often its owner may write them, so they mean more than themselves only if the operator
    /// says so.
    fn send_as(&self, account: &str, entry: &SearchEntry) -> SendAs {
        let mut send_as = SendAs::default();
        for attribute in &self.settings.addresses {
            for value in values(entry, attribute) {
                // Active Directory's proxyAddresses: `SMTP:joe@example.org`, and other kinds of addresses.
                let address = match value.split_once(':') {
                    Some((kind, address)) if kind.eq_ignore_ascii_case("smtp") => address,
                    Some(_) => continue,
                    None => value,
                };
                let rule = if self.settings.patterns { SendAs::parse([address]) } else { SendAs::address(address) };
                if let Err(problem) = rule.and_then(|rule| send_as.add(rule)) {
                    warn!(account, attribute, %problem, "an address in LDAP is left out");
                }
            }
        }
        send_as
    }

    /// A connection that is bound as `dn`, if that is its password.
    async fn bind(&self, dn: &str, password: &Password) -> Result<Option<Ldap>, ProtocolError> {
        let mut ldap = self.connect().await?;
        let result = ldap.with_timeout(self.settings.timeout).simple_bind(dn, password.as_typed()).await?;
        match said_of_password(result.rc) {
            Some(true) => Ok(Some(ldap)),
            Some(false) => {
                // Such as that the account is locked. It is for the operator: clients learn nothing by it.
                if !result.text.is_empty() {
                    info!(dn, code = result.rc, reason = result.text, "the LDAP server refused a login");
                }
                Ok(None)
            }
            None => Err(ProtocolError::from(result)),
        }
    }

    async fn connect(&self) -> Result<Ldap, ProtocolError> {
        let settings = LdapConnSettings::new()
            .set_conn_timeout(self.settings.timeout)
            .set_starttls(self.settings.starttls)
            .set_config(Arc::clone(&self.tls));
        let (connection, ldap) = LdapConnAsync::with_settings(settings, &self.settings.url).await?;
        tokio::spawn(async move {
            if let Err(problem) = connection.drive().await {
                tracing::debug!(%problem, "a connection to the LDAP server ended");
            }
        });
        Ok(ldap)
    }
}

/// What an entry has of an attribute; servers answer with the schema's spelling.
fn values<'a>(entry: &'a SearchEntry, attribute: &str) -> impl Iterator<Item = &'a str> {
    let values = entry.attrs.iter().find(|(named, _)| named.eq_ignore_ascii_case(attribute));
    values.into_iter().flat_map(|(_, values)| values).map(String::as_str)
}

fn unusable(why: &str) -> ProtocolError {
    ProtocolError::Io { source: std::io::Error::other(why) }
}

/// Whether a password is right by the code that a bind is answered with (RFC 4511 appendix A); nothing if that says nothing
/// about the password.
fn said_of_password(code: u32) -> Option<bool> {
    match code {
        0 => Some(true),
        // noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials, insufficientAccessRights: the server
        // is well and says no. constraintViolation is how 389 Directory Server locks an entry after too many wrong passwords:
        // a guess like the others, and told as one, for who does not exist is never locked.
        19 | 32 | 34 | 48 | 49 | 50 => Some(false),
        // Among them unwillingToPerform: the server, or for this entry its operator, wants no bind; the password may be right.
        _ => None,
    }
}

/// A template with the parts of a name in it, each escaped.
fn fill(template: &str, name: &str, escape: impl for<'a> Fn(&'a str) -> Cow<'a, str>) -> String {
    let (local, domain) = name.rsplit_once('@').unwrap_or((name, ""));
    let mut filled = String::with_capacity(template.len() + name.len());
    let mut rest = template;
    // In one pass: what was put in is never looked at again.
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let part = [("{name}", name), ("{local}", local), ("{domain}", domain)];
        match part.iter().find(|(mark, _)| rest.starts_with(mark)) {
            Some((mark, value)) => {
                filled.push_str(&escape(value));
                rest = &rest[mark.len()..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

impl fmt::Debug for LdapAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LdapAccounts({})", self.settings.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_a_password_counts_against_it() {
        assert_eq!(said_of_password(0), Some(true));
        for (meaning, code) in [("invalidCredentials", 49), ("noSuchObject", 32), ("constraintViolation", 19)] {
            assert_eq!(said_of_password(code), Some(false), "{meaning}");
        }
        for (meaning, code) in [("busy", 51), ("unavailable", 52), ("unwillingToPerform", 53), ("confidentiality", 13)]
        {
            assert_eq!(said_of_password(code), None, "{meaning}");
        }
    }

    #[test]
    fn names_cannot_change_filters_or_entries() {
        let filter = |name: &str| fill("(&(objectClass=person)(mail={name}))", name, |text| ldap_escape(text));
        assert_eq!(filter("joe@example.org"), "(&(objectClass=person)(mail=joe@example.org))");
        assert_eq!(filter("*)(uid=*"), "(&(objectClass=person)(mail=\\2a\\29\\28uid=\\2a))");
        let dn = |name: &str| fill("uid={local},ou={domain},dc=x", name, |text| dn_escape(text));
        assert_eq!(dn("joe@example.org"), "uid=joe,ou=example.org,dc=x");
        assert!(!dn("a,dc=evil").contains("a,dc"), "{}", dn("a,dc=evil"));
        assert_eq!(fill("{x}{name}{", "{name}", |text| text.into()), "{x}{name}{");
    }
}
