//! The configuration's types. Their comments are the reference and the help in editors; their defaults are the
//! defaults.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::{Connections, Limits};
use super::listener::Listener;
use super::nexthop::NextHop;
use super::units::{Ip, Listed, Name, Network, Pattern, Period, Size};

/// The configuration of a Postrider server, as `postrider.toml` has it.
///
/// Only `hostname` must be set. Any file may name others in `include = ["conf.d/*.toml"]`, relative to itself: tables
/// are joined, lists are put one behind the other, and a value that is set twice is an error. Relative paths begin in the
/// folder of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Postrider")]
pub struct Configuration {
    /// The name of this server: it stands in the greeting, in EHLO, in Received fields and in reports. It should
    /// resolve to the server's address, and the address back to it.
    pub hostname: Name,
    /// Domains whose mail is accepted from everybody. Give each of them a route, unless its MX records name other
    /// servers.
    #[serde(default)]
    pub domains: Vec<Pattern>,
    /// Networks whose clients may send to every domain.
    #[serde(default = "loopback")]
    pub networks: Vec<Network>,
    /// What becomes of recipients in `domains` whose local part hides another address: `user%other@…`, `other!user@…`,
    /// `"user@other"@…`.
    #[serde(default)]
    pub odd_local_parts: OddLocalParts,
    /// The user to become after the sockets are open. Needed when the server is started as root.
    #[serde(default)]
    pub user: Option<String>,
    /// The group to become; the user's own if not set.
    #[serde(default)]
    pub group: Option<String>,
    /// How long a stop waits for open transactions before it cuts them off. Nothing is lost by that: what was accepted
    /// stays queued, and what was not is sent again by its sender.
    #[serde(default = "drain")]
    pub drain: Period,
    /// Where to listen. Without any: one listener called `smtp` on `0.0.0.0:25` and `[::]:25`.
    #[serde(default)]
    pub listener: Vec<Listener>,
    /// Who may submit mail. Without this table there are no accounts, and AUTH is not offered. docs/accounts.md has examples.
    #[serde(default)]
    pub accounts: Option<super::accounts::Accounts>,
    /// Where mail goes. The first route that matches a recipient's domain wins; mail that none matches goes to the mail
    /// exchanges of its domain.
    #[serde(default)]
    pub route: Vec<Route>,
    /// Where to connect from. Routes without a `source` use the first. Without any: one called `default`, whose
    /// addresses the system chooses.
    #[serde(default)]
    pub source: Vec<Source>,
    /// TLS for those who connect to this server.
    #[serde(default)]
    pub tls: super::tls::Tls,
    /// The certificates of this server. Without any, and without `[acme]`, a self-signed one is made.
    #[serde(default)]
    pub certificate: Vec<super::tls::Certificate>,
    /// A certificate from an authority by ACME, such as Let's Encrypt.
    #[serde(default)]
    pub acme: super::tls::Acme,
    /// Clients that are known by their certificate.
    #[serde(default)]
    pub client_certificate: Vec<super::tls::ClientCertificate>,
    /// The bounds of sessions and messages.
    #[serde(default)]
    pub limits: Limits,
    /// The bounds of connections from clients.
    #[serde(default)]
    pub connections: Connections,
    /// What holds for mail that accounts submit.
    #[serde(default)]
    pub submission: super::submission::Submission,
    /// What failed logins lead to.
    #[serde(default)]
    pub bans: super::submission::Bans,
    /// When mail that could not be delivered is tried again, and when it is given up.
    #[serde(default)]
    pub retry: Retry,
    /// How much of the queue is in memory.
    #[serde(default)]
    pub queue: Queue,
    /// How mail leaves.
    #[serde(default)]
    pub delivery: super::delivery::Delivery,
    /// Reports to senders about what became of their mail.
    #[serde(default)]
    pub reports: Reports,
    /// Which hosts take mail of a domain, said and proven over HTTPS.
    #[serde(default)]
    pub mta_sts: super::mta_sts::MtaSts,
    /// Reports about TLS between servers.
    #[serde(default)]
    pub tls_reports: super::tls_reports::TlsReports,
    /// The queue on disk.
    #[serde(default)]
    pub store: Store,
    /// Name servers.
    #[serde(default)]
    pub dns: super::delivery::Dns,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
}

pub(super) fn loopback() -> Vec<Network> {
    vec![
        Network { address: [127, 0, 0, 0].into(), prefix: 8 },
        Network { address: std::net::Ipv6Addr::LOCALHOST.into(), prefix: 128 },
    ]
}

fn drain() -> Period {
    Period(std::time::Duration::from_secs(30))
}

/// What becomes of local parts that hide another address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OddLocalParts {
    /// 550 5.7.1: a server behind this one might follow them, which would make an open relay of the two.
    #[default]
    Refuse,
    /// They are plain characters: for domains that really have such mailboxes.
    Accept,
}

/// A rule that says where mail goes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name: 1 to 100 letters, digits, `-`, `_` or `.`. Made from the first domain if not set.
    #[serde(default)]
    pub name: Option<String>,
    /// The recipient domains it is for.
    pub domains: Listed<Pattern>,
    /// Where it leads: `"mx"` (the mail exchanges of the recipient's domain), one or several hosts `"host:port"` that
    /// are tried in order, `"smtps://host:port"` (TLS from the first octet on; port 465 if not given), `"mx://domain"` (the mail exchanges of that domain), `"lmtp://host:port"`, `"lmtp:/path"`
    /// (a Unix socket), or `"listener:name"` (another listener of this server).
    pub to: Listed<NextHop>,
    /// The source to connect from, by name.
    #[serde(default)]
    pub source: Option<String>,
    /// Its own retry times; what it leaves out is taken from `[retry]`.
    #[serde(default)]
    pub retry: RouteRetry,
    /// What is demanded of TLS with its hosts; `delivery.tls` if not set, and no TLS to LMTP servers and listeners.
    #[serde(default)]
    pub tls: Option<super::OutgoingTls>,
    /// Who we are to its hosts. `tls` is `"verify"` then if not set.
    #[serde(default)]
    pub auth: Option<super::SmartHostAuth>,
    /// The most connections to a site of this route at once; `delivery.connections_per_site` if not set.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub connections_per_site: Option<u32>,
}

/// Where connections come from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// The local IPv4 address to connect from.
    #[serde(default)]
    pub ipv4: Option<Ip>,
    /// The local IPv6 address to connect from.
    #[serde(default)]
    pub ipv6: Option<Ip>,
    /// The name to use in EHLO; `hostname` if not set.
    #[serde(default)]
    pub ehlo: Option<Name>,
}

/// When mail is tried again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// The wait after the first attempt; it doubles after each further one.
    pub first: Period,
    /// The longest wait.
    pub most: Period,
    /// The waits one by one, instead of `first` and `most`; the last is repeated.
    pub intervals: Option<Vec<Period>>,
    /// How far each wait is moved at random, in percent, so that retries spread out.
    #[schemars(range(max = 90))]
    pub jitter: u32,
    /// When mail is given up, counted from its arrival.
    pub expire: Period,
    /// When a report (mail from the empty sender) is given up.
    pub expire_bounces: Period,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: minutes(5),
            most: minutes(4 * 60),
            intervals: None,
            jitter: 10,
            expire: minutes(5 * 24 * 60),
            expire_bounces: minutes(2 * 24 * 60),
        }
    }
}

/// What a route changes of `[retry]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteRetry {
    /// The wait after the first attempt.
    pub first: Option<Period>,
    /// The longest wait.
    pub most: Option<Period>,
    /// The waits one by one.
    pub intervals: Option<Vec<Period>>,
    /// How far each wait is moved at random, in percent.
    #[schemars(range(max = 90))]
    pub jitter: Option<u32>,
    /// When mail is given up.
    pub expire: Option<Period>,
    /// When a report is given up.
    pub expire_bounces: Option<Period>,
}

/// What senders are told.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reports {
    /// When a sender is told, once, that mail is late; `"0s"`: never.
    pub delay_after: Period,
    /// The most of a failed message that is returned with its report; of a longer one only the header.
    pub returned: Size,
}

impl Default for Reports {
    fn default() -> Self {
        Self { delay_after: minutes(4 * 60), returned: Size(50 << 10) }
    }
}

/// The queue on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The folder that holds it. One server at a time may use it.
    pub path: PathBuf,
    /// Memory for content that arrives or waits for its first attempt; what waits is on disk, too, and makes room. At
    /// least `connections.in_flight`.
    pub content_memory: Size,
    /// No new mail when less than this is free on the disk.
    pub free_space: Size,
    /// No new mail when fewer inodes than this are free.
    pub free_inodes: u64,
    /// The size of a file of the log: 64 KiB to 4 GiB, a multiple of 4 KiB.
    pub segment: Size,
    /// Memory for the index.
    pub index_cache: Size,
    /// The longest time between checkpoints.
    pub checkpoint: Period,
}

impl Default for Store {
    fn default() -> Self {
        let options = store::Options::default();
        Self {
            path: "/var/lib/postrider".into(),
            content_memory: Size(options.content_memory),
            free_space: Size(options.floor_bytes),
            free_inodes: options.floor_inodes,
            segment: Size(options.segment_size),
            index_cache: Size(options.index_cache),
            checkpoint: Period(options.checkpoint_every),
        }
    }
}

/// How large the queue may be, and how much of it is in memory: what is due now. The rest waits on disk.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// The most deliveries in memory.
    #[schemars(range(min = 1000))]
    pub deliveries: u32,
    /// The most deliveries in memory for one destination: so many new ones, and as many that are tried again.
    #[schemars(range(min = 10))]
    pub deliveries_per_destination: u32,
    /// The most messages in the queue; beyond: 452 4.3.1. If not set, only the disk is the limit.
    #[schemars(range(min = 1))]
    pub messages: Option<u64>,
}

impl Default for Queue {
    fn default() -> Self {
        let windows = queue::Windows::default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (deliveries, deliveries_per_destination) = (number(windows.total), number(windows.destination));
        Self { deliveries, deliveries_per_destination, messages: None }
    }
}

/// What is logged, and how. The log goes to standard error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// How much is said.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `human` on a terminal, `json` otherwise.
    #[default]
    Auto,
    /// One line of text for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what must be looked at.
    Error,
    /// Also what should be.
    Warn,
    /// Also the story of each message.
    #[default]
    Info,
    /// Also what sessions do.
    Debug,
    /// Everything.
    Trace,
}

pub(super) const fn minutes(minutes: u64) -> Period {
    Period(std::time::Duration::from_secs(minutes * 60))
}

impl Configuration {
    /// The listeners, with the one that there is without any.
    pub fn listeners(&self) -> Vec<Listener> {
        if !self.listener.is_empty() {
            return self.listener.clone();
        }
        vec![Listener::unset()]
    }

    /// The names of the sources, with the one that there is without any.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        let unnamed = self.source.is_empty().then_some("default");
        self.source.iter().map(|source| source.name.as_str()).chain(unnamed)
    }
}

impl Route {
    /// Its name, given or made from its first domain: `example.org` for that domain alone, `below.example.org` for
    /// what lies below, `any` for all.
    pub fn called(&self) -> String {
        match (&self.name, self.domains.0.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(Pattern::Exact(domain))) => domain.to_string(),
            (None, Some(Pattern::Below(domain))) => format!("below.{domain}"),
            (None, Some(Pattern::Any) | None) => "any".to_owned(),
        }
    }
}

impl RouteRetry {
    /// These values where they are set, the general ones elsewhere.
    pub fn over(&self, general: &Retry) -> Retry {
        // Whoever sets `first` or `most` for a route does not want the general list of intervals.
        let doubling = self.first.is_some() || self.most.is_some();
        let general_intervals = general.intervals.clone().filter(|_| !doubling);
        Retry {
            first: self.first.unwrap_or(general.first),
            most: self.most.unwrap_or(general.most),
            intervals: self.intervals.clone().or(general_intervals),
            jitter: self.jitter.unwrap_or(general.jitter),
            expire: self.expire.unwrap_or(general.expire),
            expire_bounces: self.expire_bounces.unwrap_or(general.expire_bounces),
        }
    }

    /// Whether it changes anything.
    pub fn is_empty(&self) -> bool {
        let waits = self.first.is_none() && self.most.is_none() && self.intervals.is_none() && self.jitter.is_none();
        waits && self.expire.is_none() && self.expire_bounces.is_none()
    }
}
