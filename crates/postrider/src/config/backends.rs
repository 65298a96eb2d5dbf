//! `[accounts.dovecot]`, `[accounts.ldap]` and `[accounts.sql]`: accounts that are kept elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use directory::{Database, DovecotSettings, LdapFind, LdapSettings, Limit, Password, SqlSettings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::places::Places;
use super::problem::Problem;
use super::units::Period;

/// The longest password file, in octets.
const MOST_SECRET: usize = 4096;

/// The accounts of a Dovecot on this machine, by its authentication protocol: also its mechanisms are offered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dovecot {
    /// Its `auth-client` socket, which this server's user must be able to open: Dovecot's `service auth` names it.
    #[serde(default = "auth_client")]
    pub socket: PathBuf,
    /// Its `auth-userdb` socket. With it, accounts may also prove themselves by certificate or by a token of
    /// `[accounts.oauth]`; Dovecot is asked whether they exist.
    #[serde(default)]
    pub userdb: Option<PathBuf>,
    /// How long each answer may take. Dovecot lets refusals wait for some seconds.
    #[serde(default = "patience")]
    pub timeout: Period,
}

/// The accounts of an LDAP server: whoever can bind as an entry has its password. PLAIN and LOGIN only.
///
/// In `filter` and `dn`, `{name}` stands for the account's name, `{local}` and `{domain}` for what is before and behind
/// its last `@`; all are escaped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ldap {
    /// `ldaps://host`, `ldap://host` or `ldapi://%2Fpath`.
    pub url: String,
    /// Make `ldap://` TLS before anything is said. Passwords go to no other machine in the clear.
    #[serde(default)]
    pub starttls: bool,
    /// A PEM file with the authorities to trust; those of the system if not set.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// As whom to search; as nobody if not set.
    #[serde(default)]
    pub bind_dn: Option<String>,
    /// The file whose first line is the password of `bind_dn`.
    #[serde(default)]
    pub bind_password_file: Option<PathBuf>,
    /// The entry below which to search.
    #[serde(default)]
    pub base: Option<String>,
    /// The filter that finds an account's entry, such as `(&(objectClass=inetOrgPerson)(mail={name}))`.
    #[serde(default)]
    pub filter: Option<String>,
    /// Instead of `base` and `filter`: the entry's name, such as `uid={local},ou=people,dc=example,dc=org`.
    #[serde(default)]
    pub dn: Option<String>,
    /// The attribute that names an account, by whatever name it was found: limits, holds and logs go by it. It must
    /// differ from entry to entry, and their owners must not be able to write it. An entry without it is named by its
    /// DN.
    #[serde(default = "uid")]
    pub name: String,
    /// The attributes with the addresses that an account may send as, such as `mail`: an entry that has none sends
    /// nothing. May be left out if `name` is set: then an account sends as that.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether patterns and domains count in these attributes, as they do in `send_as` of the accounts file. Who may
    /// write an entry's attributes may then send as everybody.
    #[serde(default)]
    pub patterns: bool,
    /// The attributes with an account's own limits.
    #[serde(default)]
    pub limits: LdapLimits,
    /// How long each answer may take.
    #[serde(default = "patience")]
    pub timeout: Period,
}

/// The attributes, if any, whose numbers are an account's own limits, in place of those of `[submission.limits]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LdapLimits {
    /// Messages in an hour.
    pub messages_per_hour: Option<String>,
    /// Messages in a day.
    pub messages_per_day: Option<String>,
    /// Recipients in an hour.
    pub recipients_per_hour: Option<String>,
    /// Recipients in a day.
    pub recipients_per_day: Option<String>,
}

/// Accounts in a data base, found by one query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// `sqlite:/path/to/file`, or `postgresql://user@host/database`. A server on another machine is spoken to by TLS only.
    pub url: String,
    /// The file whose first line is the password for PostgreSQL.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust; those of the system if not set.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The query, with `$1` for the account's name in lower case. Of its columns count `hash` (argon2, or as `scram`),
    /// `scram` (`SCRAM-SHA-256$…` as PostgreSQL writes it; without this column SCRAM is not offered), `addresses` (what
    /// it may send as: a list, or a text with commas; NULL: its own name), `disabled`, `name` (by what it is known if
    /// `$1` finds it by several names) and its own limits: `messages_per_hour`, `messages_per_day`,
    /// `recipients_per_hour`, `recipients_per_day`.
    pub query: String,
    /// How long an answer may take.
    #[serde(default = "patience")]
    pub timeout: Period,
}

fn auth_client() -> PathBuf {
    "/run/dovecot/auth-client".into()
}

fn uid() -> String {
    "uid".to_owned()
}

fn patience() -> Period {
    Period(std::time::Duration::from_secs(10))
}

impl Dovecot {
    pub(super) fn to_settings(&self) -> DovecotSettings {
        DovecotSettings { socket: self.socket.clone(), users: self.userdb.clone(), timeout: self.timeout.0 }
    }
}

impl Ldap {
    /// As the directory takes it; the password is read from its file.
    pub(super) fn to_settings(&self) -> Result<LdapSettings, String> {
        let bind = match (&self.bind_dn, &self.bind_password_file) {
            (Some(dn), Some(file)) => Some((dn.clone(), secret(file)?)),
            _ => None,
        };
        let find = match (&self.dn, &self.base, &self.filter) {
            (Some(dn), _, _) => LdapFind::Template(dn.clone()),
            (None, base, filter) => {
                LdapFind::Search { base: base.clone().unwrap_or_default(), filter: filter.clone().unwrap_or_default() }
            }
        };
        Ok(LdapSettings {
            url: self.url.clone(),
            starttls: self.starttls,
            authorities: self.ca.clone(),
            bind,
            find,
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            patterns: self.patterns,
            limits: self.limits.to_settings(),
            timeout: self.timeout.0,
        })
    }

    pub(super) fn judge(&self, places: &Places, problems: &mut Vec<Problem>) {
        let mut add = |key: &str, message: &str, label: &str| {
            problems.push(places.problem(&format!("accounts.ldap.{key}"), message, label));
        };
        match (&self.dn, &self.base, &self.filter) {
            (Some(dn), None, None) if has_mark(dn) => {}
            (None, Some(_), Some(filter)) if has_mark(filter) => {}
            (Some(_), None, None) => add("dn", "all accounts would have one entry", "`{name}` or `{local}` is missing"),
            (None, Some(_), Some(_)) => {
                add("filter", "all accounts would have one entry", "`{name}` or `{local}` is missing")
            }
            _ => add("url", "how is an entry found?", "set either `dn`, or both `base` and `filter`"),
        }
        if self.addresses.is_empty() && !places.is_set("accounts.ldap.name") {
            add("url", "what may these accounts send as?", "set `addresses`, such as [\"mail\"]");
        }
        if self.addresses.is_empty() && self.patterns {
            add("patterns", "there are no `addresses` in which patterns could be", "");
        }
        let attributes = self.limits.all().into_iter().filter_map(|(_, attribute)| attribute.as_ref());
        if std::iter::once(&self.name)
            .chain(&self.addresses)
            .chain(attributes)
            .any(|attribute| !is_attribute(attribute))
        {
            add("url", "one of these attributes has a name that none can have", "such as \"mail\"");
        }
        if self.bind_dn.is_some() != self.bind_password_file.is_some() {
            add("bind_dn", "`bind_dn` and `bind_password_file` belong together", "one of them is missing");
        }
        let address = match url::Url::parse(&self.url) {
            Ok(address) if matches!(address.scheme(), "ldap" | "ldaps" | "ldapi") => address,
            _ => return add("url", "this is no URL of an LDAP server", "such as \"ldaps://ldap.example.org\""),
        };
        let local = address.host_str().is_none_or(directory::is_local);
        if address.scheme() == "ldap" && !self.starttls && !local {
            add("url", "passwords would travel in the clear", "use ldaps://, or set `starttls = true`");
        }
        if self.ca.is_some() && !(address.scheme() == "ldaps" || self.starttls) {
            add("ca", "there is no certificate to verify", "this URL is not TLS; leave `ca` out");
        }
        if address.scheme() != "ldap" && self.starttls {
            add("starttls", "STARTTLS begins in the clear", "it belongs to ldap://");
        }
    }
}

impl LdapLimits {
    fn all(&self) -> [(Limit, &Option<String>); 4] {
        [
            (Limit::MessagesPerHour, &self.messages_per_hour),
            (Limit::MessagesPerDay, &self.messages_per_day),
            (Limit::RecipientsPerHour, &self.recipients_per_hour),
            (Limit::RecipientsPerDay, &self.recipients_per_day),
        ]
    }

    fn to_settings(&self) -> BTreeMap<Limit, String> {
        self.all().into_iter().filter_map(|(limit, attribute)| Some((limit, attribute.clone()?))).collect()
    }
}

impl Sql {
    /// As the directory takes it; the password is read from its file.
    pub(super) fn to_settings(&self) -> Result<SqlSettings, String> {
        let database = match self.url.strip_prefix("sqlite:") {
            Some(path) => Database::Sqlite(path.into()),
            None => Database::Postgres {
                url: self.url.clone(),
                password: self.password_file.as_ref().map(|file| secret(file)).transpose()?,
                authorities: self.ca.clone(),
            },
        };
        Ok(SqlSettings { database, query: self.query.clone(), timeout: self.timeout.0 })
    }

    pub(super) fn judge(&self, places: &Places, problems: &mut Vec<Problem>) {
        let file = self.url.strip_prefix("sqlite:");
        let mut add = |key: &str, message: &str, label: &str| {
            problems.push(places.problem(&format!("accounts.sql.{key}"), message, label));
        };
        if !self.query.contains("$1") {
            add("query", "the query does not ask for one account", "`$1` stands for its name");
        }
        let known = ["sqlite:", "postgresql://", "postgres://"].iter().any(|scheme| self.url.starts_with(scheme));
        if !known {
            add("url", "this is no data base that is known here", "sqlite:… or postgresql://…");
        }
        if file == Some("") {
            add("url", "there is no path behind `sqlite:`", "such as \"sqlite:/var/lib/mail/accounts.db\"");
        }
        for key in ["password_file", "ca"] {
            if file.is_some() && places.is_set(&format!("accounts.sql.{key}")) {
                add(key, "this means nothing for SQLite", "leave it out");
            }
        }
    }
}

/// RFC 4512 §2.5: a name or a number, perhaps with options.
fn is_attribute(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-.;".contains(c))
}

fn has_mark(template: &str) -> bool {
    template.contains("{name}") || template.contains("{local}")
}

/// The first line of a file.
fn secret(path: &Path) -> Result<Password, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("the password in {} cannot be used: {why}", path.display());
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(|error| wrong(&error))?);
    let line = text.lines().next().filter(|line| line.len() <= MOST_SECRET).unwrap_or_default();
    Password::new(line).map_err(|error| wrong(&error))
}
