//! The bounds of what clients may do: `[limits]` and `[connections]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Period, Size};

/// The bounds of sessions and messages. Durations count only the time that the client lets us wait.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest message, announced by SIZE; beyond: 552 5.3.4.
    pub message_size: Size,
    /// The largest header of a message; beyond: 552 5.3.4.
    pub header_size: Size,
    /// The longest line of content in octets (RFC 5321: 998); beyond: 550 5.6.0.
    #[schemars(range(min = 998))]
    pub line_length: u32,
    /// Received fields that a message may bring along; at this number it goes in circles: 554 5.4.6.
    #[schemars(range(min = 1))]
    pub hops: u32,
    /// Recipients of a message; beyond: 452 4.5.3.
    #[schemars(range(min = 100))]
    pub recipients: u32,
    /// Messages of a session; beyond: 421 4.7.0.
    #[schemars(range(min = 1))]
    pub messages: u32,
    /// The longest command line in octets; beyond: 500 5.5.2.
    #[schemars(range(min = 1024, max = 12288))]
    pub command_length: u32,
    /// Commands of a session; beyond: 421 4.7.0.
    #[schemars(range(min = 10))]
    pub commands: u32,
    /// Refused commands since the last accepted message; beyond: 421 4.7.0.
    #[schemars(range(min = 1))]
    pub errors: u32,
    /// How many of them are answered at once; the reply to each further one is delayed.
    pub errors_undelayed: u32,
    /// The first delay of an error reply; it doubles with each further error.
    pub error_delay: Period,
    /// The longest delay of an error reply.
    pub error_delay_most: Period,
    /// Commands that bring no mail on its way since the last accepted message; beyond: 421 4.7.0.
    #[schemars(range(min = 1))]
    pub junk: u32,
    /// Octets of refused content that are read only to be thrown away; beyond, the session closes.
    pub discard: Size,
    /// Octets that a session holds unprocessed.
    pub input_buffer: Size,
    /// How long the greeting waits for clients that talk too early.
    pub greeting_pause: Period,
    /// The time for a command to arrive (RFC 5321: at least five minutes); beyond: 421 4.4.2.
    pub command_time: Period,
    /// The time between two pieces of content; beyond: 421 4.4.2.
    pub content_idle: Period,
    /// The time for the content of one message; beyond: 421 4.4.2.
    pub content_time: Period,
    /// Octets per second that content must reach on average; 0: any. Below: 421 4.4.2.
    pub content_rate: u32,
    /// How long content may start slowly.
    pub content_rate_grace: Period,
    /// The time for a whole session; beyond: 421 4.4.2.
    pub session_time: Period,
}

impl Default for Limits {
    fn default() -> Self {
        let limits = smtp::server::Limits::default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            message_size: Size(limits.message),
            header_size: Size(limits.header),
            line_length: number(limits.line),
            hops: limits.hops,
            recipients: limits.recipients,
            messages: limits.transactions,
            command_length: number(limits.command_line),
            commands: limits.commands,
            errors: limits.errors,
            errors_undelayed: limits.errors_undelayed,
            error_delay: Period(limits.delay),
            error_delay_most: Period(limits.delay_most),
            junk: limits.junk,
            discard: Size(limits.discard),
            input_buffer: Size(limits.input as u64),
            greeting_pause: Period(limits.greeting_pause),
            command_time: Period(limits.command_time),
            content_idle: Period(limits.content_idle),
            content_time: Period(limits.content_time),
            content_rate: limits.rate,
            content_rate_grace: Period(limits.rate_grace),
            session_time: Period(limits.session_time),
        }
    }
}

impl Limits {
    /// As a session takes them.
    pub fn to_session(&self) -> smtp::server::Limits {
        smtp::server::Limits {
            message: self.message_size.0,
            header: self.header_size.0,
            line: self.line_length as usize,
            hops: self.hops,
            recipients: self.recipients,
            transactions: self.messages,
            command_line: self.command_length as usize,
            commands: self.commands,
            errors: self.errors,
            errors_undelayed: self.errors_undelayed,
            delay: self.error_delay.0,
            delay_most: self.error_delay_most.0,
            junk: self.junk,
            discard: self.discard.0,
            input: self.input_buffer.as_usize(),
            greeting_pause: self.greeting_pause.0,
            command_time: self.command_time.0,
            content_idle: self.content_idle.0,
            content_time: self.content_time.0,
            rate: self.content_rate,
            rate_grace: self.content_rate_grace.0,
            session_time: self.session_time.0,
        }
    }
}

/// The bounds of connections from clients. Clients that may send to every domain count for the total only.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// In total; beyond: 421 4.3.2. Fewer if the system allows the process too few open files.
    #[schemars(range(min = 1))]
    pub total: u32,
    /// From one address; beyond: 421 4.7.0.
    #[schemars(range(min = 1))]
    pub per_address: u32,
    /// From one IPv4 network of 24 bits; beyond: 421 4.7.0.
    #[schemars(range(min = 1))]
    pub per_ipv4_network: u32,
    /// From one IPv6 network of 64 bits; beyond: 421 4.7.0.
    #[schemars(range(min = 1))]
    pub per_ipv6_network: u32,
    /// How long a proxy may take for its PROXY header.
    pub proxy_time: Period,
    /// Memory for content that arrives, over all sessions. When it is used up, reading waits. The clients of one network
    /// have a quarter of it at most, those that may send to every domain excepted.
    pub in_flight: Size,
    /// How long reading waits for memory before the client is put off with 452 4.3.1. Meanwhile messages that come too
    /// slowly make way.
    pub patience: Period,
}

impl Default for Connections {
    fn default() -> Self {
        let settings = reception::Settings::new(Vec::new());
        let limits = reception::ConnectionLimits::default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            total: number(limits.total),
            per_address: number(limits.per_address),
            per_ipv4_network: number(limits.per_ipv4_network),
            per_ipv6_network: number(limits.per_ipv6_network),
            proxy_time: Period(std::time::Duration::from_secs(5)),
            in_flight: Size(settings.in_flight),
            patience: Period(settings.patience),
        }
    }
}

impl Connections {
    /// As reception takes them.
    pub fn to_limits(&self) -> reception::ConnectionLimits {
        reception::ConnectionLimits {
            total: self.total as usize,
            per_address: self.per_address as usize,
            per_ipv4_network: self.per_ipv4_network as usize,
            per_ipv6_network: self.per_ipv6_network as usize,
        }
    }
}
