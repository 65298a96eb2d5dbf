//! How mail leaves: `[delivery]`, and whom to ask for names: `[dns]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outgoing_tls::OutgoingTls;
use super::types::minutes;
use super::units::{Address, Listed, Name, Period, Size};

/// How mail leaves.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Connections that a site may have at first; more as it takes mail well, fewer as it fails.
    #[schemars(range(min = 1))]
    pub connections_at_first: u32,
    /// The most connections to a site (the hosts that serve a domain) at once.
    #[schemars(range(min = 1))]
    pub connections_per_site: u32,
    /// The most connections from a source at once.
    #[schemars(range(min = 1))]
    pub connections_per_source: u32,
    /// The most connections over all sites at once.
    #[schemars(range(min = 1))]
    pub connections: u32,
    /// What is demanded of TLS with hosts, unless a route says otherwise.
    pub tls: OutgoingTls,
    /// How long a TLS handshake may take.
    pub tls_time: Period,
    /// How long a site whose hosts cannot be reached rests at first; the rest doubles each time.
    pub rest_first: Period,
    /// The longest rest.
    pub rest_most: Period,
    /// The most recipients of one transaction; hosts that announce a lower limit get fewer.
    #[schemars(range(min = 1))]
    pub recipients: u32,
    /// The largest message that is converted for a host that takes no 8-bit content; larger ones bounce there. A
    /// conversion needs up to four times as much memory.
    pub convert: Size,
    /// The most messages over one connection.
    #[schemars(range(min = 1))]
    pub messages_per_connection: u32,
    /// How long a connection is kept for more mail to the same site.
    pub idle: Period,
    /// How long to wait for a connection.
    pub connect_time: Period,
    /// How long to wait for the greeting.
    pub greeting_time: Period,
    /// How long to wait for the reply to EHLO.
    pub ehlo_time: Period,
    /// How long to wait for the reply to MAIL.
    pub mail_time: Period,
    /// How long to wait for the reply to RCPT.
    pub rcpt_time: Period,
    /// How long to wait for the reply to DATA.
    pub data_time: Period,
    /// How long a piece of content may take to be taken.
    pub content_time: Period,
    /// Octets per second that a host must take on average; it is given up if it takes the content more slowly.
    pub content_rate: u32,
    /// How long to wait for the reply to the end of the content.
    pub end_time: Period,
    /// How long to wait for the reply to QUIT.
    pub quit_time: Period,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            connections_at_first: 2,
            connections_per_site: 20,
            connections_per_source: 500,
            connections: 2000,
            tls: OutgoingTls::default(),
            tls_time: Period(std::time::Duration::from_secs(30)),
            rest_first: minutes(1),
            rest_most: minutes(30),
            recipients: 100,
            convert: Size(delivery::Settings::default().convert),
            messages_per_connection: 100,
            idle: Period(std::time::Duration::from_secs(2)),
            connect_time: Period(std::time::Duration::from_secs(30)),
            greeting_time: minutes(5),
            ehlo_time: minutes(5),
            mail_time: minutes(5),
            rcpt_time: minutes(5),
            data_time: minutes(2),
            content_time: minutes(3),
            content_rate: 1024,
            end_time: minutes(10),
            quit_time: Period(std::time::Duration::from_secs(5)),
        }
    }
}

impl Delivery {
    /// As delivery takes them.
    pub fn to_settings(&self) -> delivery::Settings {
        delivery::Settings {
            connect: self.connect_time.0,
            handshake: self.tls_time.0,
            timeouts: smtp::client::Timeouts {
                greeting: self.greeting_time.0,
                hello: self.ehlo_time.0,
                mail: self.mail_time.0,
                recipient: self.rcpt_time.0,
                data: self.data_time.0,
                block: self.content_time.0,
                end: self.end_time.0,
                quit: self.quit_time.0,
                slowest: u64::from(self.content_rate),
            },
            recipients: self.recipients,
            messages: self.messages_per_connection,
            convert: self.convert.0,
            credentials: Default::default(),
        }
    }
}

/// Name servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// The recursive name servers to ask, in this order; those of `/etc/resolv.conf` if not set.
    pub servers: Option<Listed<Address>>,
    /// Who says whether an answer is secured by DNSSEC, without which there is no DANE.
    pub dnssec: Dnssec,
    /// With `dnssec = "validate"`: the file with the keys of the root zone, as DNSKEY records; those of ICANN, which are
    /// built in, if not set.
    pub trust_anchors: Option<PathBuf>,
    /// With `dnssec = "validate"`: zones that are not to be validated, because only this network has them.
    pub unsigned: Option<Listed<Name>>,
    /// How long to wait for one server's answer.
    pub timeout: Period,
    /// How often to go through the list of servers.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// How long a look-up may take with everything.
    pub total: Period,
    /// How many look-ups may be under way.
    #[schemars(range(min = 1, max = 100000))]
    pub parallel: u32,
    /// Memory for answers.
    pub cache: Size,
    /// The longest time that an answer is kept, whatever its TTL.
    pub keep: Period,
    /// The longest time that a "no such name" is kept.
    pub keep_negative: Period,
}

impl Default for Dns {
    fn default() -> Self {
        let settings = dns::Settings::default();
        Self {
            servers: None,
            dnssec: Dnssec::Auto,
            trust_anchors: None,
            unsigned: None,
            timeout: Period(settings.timeout),
            attempts: settings.attempts,
            total: Period(settings.total),
            parallel: u32::try_from(settings.parallel).unwrap_or(u32::MAX),
            cache: Size(settings.cache_memory),
            keep: Period(settings.positive_max_ttl),
            keep_negative: Period(settings.negative_max_ttl),
        }
    }
}

impl Dns {
    /// As the resolver takes them.
    pub fn to_settings(&self) -> dns::Settings {
        dns::Settings {
            servers: match &self.servers {
                None => dns::Servers::System,
                Some(listed) => dns::Servers::Listed(listed.0.iter().map(|address| address.0).collect()),
            },
            dnssec: self.dnssec.to_setting(),
            trust_anchors: self.trust_anchors.clone(),
            unsigned: self.unsigned.iter().flat_map(|listed| &listed.0).map(|name| name.0.clone()).collect(),
            timeout: self.timeout.0,
            attempts: self.attempts,
            total: self.total.0,
            parallel: self.parallel as usize,
            cache_memory: self.cache.0,
            positive_max_ttl: self.keep.0,
            negative_max_ttl: self.keep_negative.0,
        }
    }
}

/// Who says whether an answer is secured by DNSSEC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// The name servers, if all of them are on this machine (loopback addresses); else nobody.
    #[default]
    Auto,
    /// Nobody: DANE is not used.
    Off,
    /// The name servers, which must all be on this machine: from elsewhere anybody on the way could say it.
    Trust,
    /// This server: it validates the answers, from the root zone down. The name servers, wherever they are, must hand on
    /// signatures.
    Validate,
}

impl Dnssec {
    fn to_setting(self) -> dns::Dnssec {
        match self {
            Dnssec::Auto => dns::Dnssec::Auto,
            Dnssec::Off => dns::Dnssec::Off,
            Dnssec::Trust => dns::Dnssec::Trust,
            Dnssec::Validate => dns::Dnssec::Validate,
        }
    }
}
