//! What a session is told and what bounds it.

use std::time::Duration;

use mail::{Domain, Protocol};

/// What all sessions of a listener share.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in the greeting and in the answer to EHLO.
    pub hostname: Domain,
    /// SMTP, or LMTP with LHLO and one reply per recipient.
    pub protocol: Protocol,
    /// How strictly lines must end.
    pub endings: Endings,
    /// The bounds.
    pub limits: Limits,
    /// How TLS comes about.
    pub tls: TlsOffer,
    /// Who may authenticate, and who must.
    pub auth: AuthOffer,
    /// For how long authenticated clients may have a message held (FUTURERELEASE); offered once the session
    /// [knows the time](super::Session::tell_time). At most 999,999,999 seconds.
    pub future_release: Option<Duration>,
    /// DELIVERBY for authenticated clients, with the least time for messages that are to go back (RFC 2852 §2).
    pub deliver_by: Option<Duration>,
    /// MT-PRIORITY for authenticated clients.
    pub mt_priority: bool,
}

impl Config {
    /// Strict SMTP in clear, without authentication and with the default limits.
    pub fn new(hostname: Domain) -> Self {
        Self {
            hostname,
            protocol: Protocol::Smtp,
            endings: Endings::Strict,
            limits: Limits::default(),
            tls: TlsOffer::None,
            auth: AuthOffer::default(),
            future_release: None,
            deliver_by: None,
            mt_priority: false,
        }
    }
}

/// How TLS comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsOffer {
    /// Not at all.
    #[default]
    None,
    /// By STARTTLS, if the client wants it.
    StartTls,
    /// By STARTTLS, before anything but EHLO, LHLO, NOOP and QUIT.
    Required,
    /// Before the greeting (RFC 8314 §3.3). A session that was not [secured](super::Session::secured) takes no mail.
    Implicit,
}

/// Who may authenticate. AUTH is offered and taken inside TLS only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthOffer {
    /// The mechanisms in upper case, best first; with none there is no AUTH.
    pub mechanisms: Vec<String>,
    /// Whether MAIL needs an account.
    pub required: bool,
}

/// What happens to a line feed without a carriage return before it. Whatever is chosen, only CRLF.CRLF ends DATA, and
/// a carriage return without a line feed and a NUL are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endings {
    /// It is refused and the session closes: the two sides do not agree where lines end, which is how mail is smuggled.
    #[default]
    Strict,
    /// It becomes CRLF, in commands and in content: for submission by local programs.
    Repair,
}

/// The bounds of a session. Durations count only the time that the peer lets us wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a message, announced by SIZE; beyond: 552 5.3.4.
    pub message: u64,
    /// Octets of a message's header section; beyond: 552 5.3.4.
    pub header: u64,
    /// Octets of a line of content without its line end (RFC 5321 §4.5.3.1.6: 998), except in the body of a
    /// BINARYMIME message; beyond: 550 5.6.0.
    pub line: usize,
    /// Received fields that a message may bring along; at this number: 554 5.4.6.
    pub hops: u32,
    /// Recipients of a transaction, announced by LIMITS; beyond: 452 4.5.3.
    pub recipients: u32,
    /// Transactions of a session, announced by LIMITS; beyond: 421 4.7.0.
    pub transactions: u32,
    /// Octets of a command line with its line end; beyond: 500 5.5.2. The default holds the longest that RFC 5321
    /// §4.5.3.1.4 and the extensions allow (RCPT with ORCPT: 1,012). AUTH has 12,288 (RFC 4954 §4); beyond: 500 5.5.6.
    pub command_line: usize,
    /// Commands of a session; beyond: 421 4.7.0.
    pub commands: u32,
    /// Permanently refused commands since the last accepted message; beyond: 421 4.7.0.
    pub errors: u32,
    /// How many of them are answered without delay.
    pub errors_undelayed: u32,
    /// The first delay of an error reply; it doubles with each further error.
    pub delay: Duration,
    /// The longest delay of an error reply.
    pub delay_most: Duration,
    /// Commands that bring no mail on its way (NOOP, RSET, VRFY, HELP, EHLO…) since the last accepted message;
    /// beyond: 421 4.7.0.
    pub junk: u32,
    /// Octets of content and of overlong command lines that are read only to be thrown away; beyond, the session
    /// closes with the reply that was due.
    pub discard: u64,
    /// Octets that the session holds unprocessed; at least [`Limits::LEAST_INPUT`] are granted.
    pub input: usize,
    /// How long the greeting waits for peers that talk too early.
    pub greeting_pause: Duration,
    /// For one complete command line to arrive (RFC 5321 §4.5.3.2.7: at least five minutes); beyond: 421 4.4.2.
    pub command_time: Duration,
    /// Between two pieces of content; beyond: 421 4.4.2.
    pub content_idle: Duration,
    /// For the content of one message; beyond: 421 4.4.2.
    pub content_time: Duration,
    /// Octets per second that content must reach on average, after `rate_grace`; 0 asks for none. Below: 421 4.4.2.
    pub rate: u32,
    /// How long content may start slowly.
    pub rate_grace: Duration,
    /// For the whole session, all included; beyond: 421 4.4.2 once the session waits for its peer.
    pub session_time: Duration,
}

impl Limits {
    /// The least buffer: the longest command line and something behind it.
    pub const LEAST_INPUT: usize = 16 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 50 * 1024 * 1024,
            header: 256 * 1024,
            line: 998,
            hops: 50,
            recipients: 1000,
            transactions: 10_000,
            command_line: 1024,
            commands: 100_000,
            errors: 20,
            errors_undelayed: 5,
            delay: Duration::from_secs(1),
            delay_most: Duration::from_secs(10),
            junk: 100,
            discard: 64 * 1024 * 1024,
            input: 64 * 1024,
            greeting_pause: Duration::ZERO,
            command_time: Duration::from_secs(5 * 60),
            content_idle: Duration::from_secs(3 * 60),
            content_time: Duration::from_secs(60 * 60),
            rate: 128,
            rate_grace: Duration::from_secs(60),
            session_time: Duration::from_secs(4 * 60 * 60),
        }
    }
}
