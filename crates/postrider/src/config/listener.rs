//! Where mail comes in: `[[listener]]`, and what its role makes of the keys that are not set.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::judge::{listed_path, proper_name, twice};
use super::places::Places;
use super::problem::Problem;
use super::types::Configuration;
use super::units::{Address, Listed, Network};

/// A place where mail comes in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name, for logs, metrics and routes. If it has several addresses, logs add the one that was used:
    /// `name@address`.
    pub name: String,
    /// The addresses to listen on. A socket that systemd hands over is used where its address is the same.
    pub address: Listed<Address>,
    /// Whom it is for. The role decides what the keys `tls`, `auth` and `endings` mean when they are not set.
    #[serde(default)]
    pub role: Role,
    /// TLS. If not set: `offered` for `relay` and `internal`, `required` for `submission`, `implicit` for
    /// `submissions`.
    #[serde(default)]
    pub tls: Option<TlsUse>,
    /// The oldest version of TLS that is spoken here; `tls.minimum` if not set.
    #[serde(default)]
    pub tls_minimum: Option<super::tls::TlsVersion>,
    /// AUTH, which is never offered outside TLS. If not set: `required` for `submission` and `submissions`, `off`
    /// otherwise.
    #[serde(default)]
    pub auth: Option<AuthUse>,
    /// The protocol: `smtp`, or `lmtp` with one reply per recipient.
    #[serde(default)]
    pub protocol: Protocol,
    /// What happens to a line feed that stands alone. If not set: `repair` for `internal`, `strict` otherwise.
    #[serde(default)]
    pub endings: Option<Endings>,
    /// Proxies that put a PROXY header (version 1 or 2) in front of each connection. Clients at these addresses must
    /// send it; from all others it is refused.
    #[serde(default)]
    pub proxies: Vec<Network>,
    /// Clients that may use XCLIENT to say for whom they speak.
    #[serde(default)]
    pub xclient: Vec<Network>,
}

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Other servers, which bring mail for `domains`, and the clients in `networks`, which may send to every domain:
    /// port 25.
    #[default]
    Relay,
    /// People and programs with an account, by STARTTLS: port 587. Nobody sends without AUTH, those in `networks`
    /// neither.
    Submission,
    /// The same with TLS from the first octet: port 465.
    Submissions,
    /// The clients in `networks`, which may send to every domain; all others are sent away.
    Internal,
}

/// TLS on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsUse {
    /// None.
    Off,
    /// STARTTLS for those who want it.
    Offered,
    /// STARTTLS must come first: 530 5.7.0.
    Required,
    /// From the first octet.
    Implicit,
}

/// AUTH on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthUse {
    /// None.
    Off,
    /// For those who have an account: they may send to every domain.
    Offered,
    /// It must come before any mail: 530 5.7.0.
    Required,
}

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033).
    Lmtp,
}

/// What happens to a line feed without a carriage return before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Endings {
    /// It is refused and the session closes: the defence against smuggled messages.
    Strict,
    /// It becomes a proper line end: for local programs that know no better.
    Repair,
}

impl Listener {
    /// The one that there is without any.
    pub(super) fn unset() -> Self {
        let addresses = ["0.0.0.0:25", "[::]:25"].into_iter().filter_map(|text| text.parse().ok().map(Address));
        Self {
            name: "smtp".to_owned(),
            address: Listed(addresses.collect()),
            role: Role::Relay,
            tls: None,
            tls_minimum: None,
            auth: None,
            protocol: Protocol::Smtp,
            endings: None,
            proxies: Vec::new(),
            xclient: Vec::new(),
        }
    }

    /// TLS, as set or by role.
    pub fn tls(&self) -> TlsUse {
        self.tls.unwrap_or(match self.role {
            Role::Relay | Role::Internal => TlsUse::Offered,
            Role::Submission => TlsUse::Required,
            Role::Submissions => TlsUse::Implicit,
        })
    }

    /// AUTH, as set or by role.
    pub fn auth(&self) -> AuthUse {
        self.auth.unwrap_or(if self.role.submits() { AuthUse::Required } else { AuthUse::Off })
    }

    /// Line ends, as set or by role.
    pub fn endings(&self) -> Endings {
        self.endings.unwrap_or(if self.role == Role::Internal { Endings::Repair } else { Endings::Strict })
    }
}

impl Role {
    /// Whether it is for those who submit mail of their own (RFC 6409).
    pub fn submits(self) -> bool {
        matches!(self, Role::Submission | Role::Submissions)
    }

    fn word(self) -> &'static str {
        match self {
            Role::Relay => "relay",
            Role::Submission => "submission",
            Role::Submissions => "submissions",
            Role::Internal => "internal",
        }
    }
}

/// What the listeners contradict.
pub(super) fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let mut names = HashMap::new();
    for (at, listener) in configuration.listener.iter().enumerate() {
        let path = format!("listener[{at}]");
        twice(&mut names, &listener.name, format!("{path}.name"), "listener", places, problems);
        if let Err(cure) = proper_name(&listener.name) {
            problems.push(places.problem(&format!("{path}.name"), "this cannot be a listener's name", cure));
        }
        for (item, address) in listener.address.0.iter().enumerate() {
            let item_path = listed_path(&format!("{path}.address"), item, places);
            if address.0.port() == 25 && listener.protocol == Protocol::Lmtp {
                // RFC 2033 §5
                problems.push(places.problem(&item_path, "LMTP must not be spoken on port 25", "choose another port"));
            }
            if address.0.port() == 25 && listener.auth() == AuthUse::Required {
                let message = "no other server can bring mail here: they have no account";
                let problem = places.problem(&item_path, message, "port 25, and AUTH is required").warning();
                problems.push(problem.help("submission has port 587, or 465 with TLS from the first octet"));
            }
        }
        Contradictions { listener, path: &path, places, problems }.find(configuration);
    }
}

/// What one listener's keys say against its role and against each other.
struct Contradictions<'a> {
    listener: &'a Listener,
    path: &'a str,
    places: &'a Places,
    problems: &'a mut Vec<Problem>,
}

impl Contradictions<'_> {
    fn find(&mut self, configuration: &Configuration) {
        let Listener { role, protocol, .. } = *self.listener;
        let (tls, auth) = (self.listener.tls(), self.listener.auth());
        if role.submits() && protocol == Protocol::Lmtp {
            self.add("protocol", "mail is submitted by SMTP", "LMTP has no submission (RFC 2033)");
        }
        if role.submits() && auth != AuthUse::Required {
            let cure = "for clients that are known by their address, use `role = \"internal\"`";
            self.add("auth", "nobody submits mail without AUTH", cure);
        }
        match (role, tls) {
            (Role::Submission, TlsUse::Implicit) => {
                self.add("tls", "a `submission` listener begins in clear", "for this, use `role = \"submissions\"`");
            }
            (Role::Submission, TlsUse::Off | TlsUse::Offered) => {
                self.add("tls", "nobody submits mail without TLS", "leave `tls` out: it is required");
            }
            (Role::Submissions, TlsUse::Off | TlsUse::Offered | TlsUse::Required) => {
                let cure = "for STARTTLS, use `role = \"submission\"`";
                self.add("tls", "a `submissions` listener has TLS from the first octet", cure);
            }
            (Role::Relay | Role::Internal, TlsUse::Off) if auth != AuthUse::Off => {
                self.add("auth", "there is no AUTH without TLS", "`tls` is \"off\"");
            }
            _ => {}
        }
        for (key, networks) in [("proxies", &self.listener.proxies), ("xclient", &self.listener.xclient)] {
            if let Some(at) = networks.iter().position(Network::is_the_world) {
                let path = format!("{}.{key}[{at}]", self.path);
                let problem =
                    self.places.problem(&path, "everybody could say to be anybody", "so this is an open relay");
                self.problems.push(problem.help("list only the addresses of your own proxies and gateways"));
            }
        }
        if role == Role::Internal && configuration.networks.is_empty() {
            self.add("role", "nobody could connect here", "`networks` is empty");
        }
        self.repair_for_the_world();
    }

    /// A stranger whose bare line feeds are repaired can hide a message in another (SMTP smuggling), if not from us.
    fn repair_for_the_world(&mut self) {
        let Listener { role, address, .. } = self.listener;
        let local = address.0.iter().all(|address| address.0.ip().to_canonical().is_loopback());
        if *role == Role::Relay && self.listener.endings() == Endings::Repair && !local {
            let problem = self.places.problem(
                &format!("{}.endings", self.path),
                "line ends are repaired for everybody",
                "other servers send proper line ends",
            );
            self.problems.push(
                problem
                    .warning()
                    .help("give programs that know no better a listener of their own: `role = \"internal\"`"),
            );
        }
    }

    fn add(&mut self, key: &str, message: &str, label: &str) {
        let path = format!("{}.{key}", self.path);
        let path = if self.places.is_set(&path) { path } else { format!("{}.role", self.path) };
        let problem = self.places.problem(&path, message, label);
        self.problems
            .push(problem.help(format!("the role is `{}`; docs/submission.md has a table", self.listener.role.word())));
    }
}
