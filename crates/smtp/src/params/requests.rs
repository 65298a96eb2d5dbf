//! What a client may ask for beside delivery: when, how urgently, and in whose name.

use std::fmt;
use std::time::Duration;

use mail::{ByMode, Timestamp};

use super::ParameterError;
use crate::xtext;

/// The longest value of `AUTH`, encoded (RFC 4954 §5).
pub const MAX_SUBMITTER: usize = 500;
/// The most digits of a time span (RFC 2852 §4, RFC 4865 §4), and what they can say.
const MAX_DIGITS: usize = 9;
const LONGEST: i32 = 999_999_999;

/// The `BY` parameter (RFC 2852 §4): in how many seconds delivery is due, counted from MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// At most nine digits. Zero or less has passed already; that stands only with [`ByMode::Notify`].
    pub seconds: i32,
    /// What happens when the time has passed.
    pub mode: ByMode,
    /// Whether each relay reports that it has passed the message on.
    pub trace: bool,
}

impl DeliverBy {
    /// `by-time ";" by-mode [by-trace]`.
    pub(super) fn read(value: &str) -> Result<Self, ParameterError> {
        let (time, mode) = value.split_once(';').ok_or(ParameterError::Malformed)?;
        let (sign, digits) = match time.as_bytes() {
            [b'-', ..] => (-1, &time[1..]),
            [b'+', ..] => (1, &time[1..]),
            _ => (1, time),
        };
        let seconds = sign * i32::try_from(span(digits)?).map_err(|_| ParameterError::Malformed)?;
        let (mode, trace) = match mode.to_ascii_uppercase().as_str() {
            "R" => (ByMode::Return, false),
            "RT" => (ByMode::Return, true),
            "N" => (ByMode::Notify, false),
            "NT" => (ByMode::Notify, true),
            _ => return Err(ParameterError::Malformed),
        };
        // RFC 2852 §4: what is to go back needs time to be delivered in.
        if mode == ByMode::Return && seconds <= 0 {
            Err(ParameterError::Malformed)
        } else {
            Ok(Self { seconds, mode, trace })
        }
    }

    /// What is left of the time for a message that goes `now`.
    pub fn left(limit: mail::DeliverBy, now: Timestamp) -> Self {
        let clamp = |span: Duration| i32::try_from(span.as_secs()).unwrap_or(LONGEST).min(LONGEST);
        let seconds = clamp(limit.by.since(now)) - clamp(now.since(limit.by));
        Self { seconds, mode: limit.mode, trace: limit.trace }
    }

    /// By when that is, for a message that comes `now`.
    pub fn from(self, now: Timestamp) -> mail::DeliverBy {
        let span = Duration::from_secs(self.seconds.unsigned_abs().into());
        let by = if self.seconds < 0 { now - span } else { now + span };
        mail::DeliverBy { by, mode: self.mode, trace: self.trace }
    }
}

impl fmt::Display for DeliverBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Return => "R",
            ByMode::Notify => "N",
        };
        write!(f, "{};{mode}{}", self.seconds, if self.trace { "T" } else { "" })
    }
}

/// The `HOLDFOR` or `HOLDUNTIL` parameter (RFC 4865 §4): the message leaves later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// After so many seconds.
    For(u32),
    /// At this time.
    Until(Timestamp),
}

impl Release {
    pub(super) fn read_for(value: &str) -> Result<Self, ParameterError> {
        span(value).map(Release::For)
    }

    pub(super) fn read_until(value: &str) -> Result<Self, ParameterError> {
        Timestamp::parse_rfc3339(value).map(Release::Until).ok_or(ParameterError::Malformed)
    }

    /// When that is, for a message that comes `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Release::For(seconds) => now + Duration::from_secs(seconds.into()),
            Release::Until(time) => time,
        }
    }
}

/// The `AUTH` parameter: who submitted the message, as the client says (RFC 4954 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitter {
    /// `<>`: it is not known, or the one who says it is not believed.
    Unknown,
    /// An address, xtext decoded and not held against any grammar.
    Named(String),
}

impl Submitter {
    pub(super) fn read(value: &str) -> Result<Self, ParameterError> {
        match value {
            "<>" => Ok(Submitter::Unknown),
            _ if value.len() > MAX_SUBMITTER => Err(ParameterError::Malformed),
            _ => xtext::decode(value).map(Submitter::Named).map_err(|_| ParameterError::Malformed),
        }
    }
}

impl fmt::Display for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Submitter::Unknown => f.write_str("<>"),
            Submitter::Named(name) => f.write_str(&xtext::encode(name)),
        }
    }
}

/// `MT-PRIORITY` (RFC 6710 §3): from -9 to 9, without a plus.
pub(super) fn priority(value: &str) -> Result<i8, ParameterError> {
    let (sign, digit) = match value.as_bytes() {
        [digit] => (1, digit),
        [b'-', digit] => (-1, digit),
        _ => return Err(ParameterError::Malformed),
    };
    match digit {
        b'0'..=b'9' => Ok(sign * i8::try_from(digit - b'0').unwrap_or(0)),
        _ => Err(ParameterError::Malformed),
    }
}

fn span(digits: &str) -> Result<u32, ParameterError> {
    let proper = (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| proper).ok_or(ParameterError::Malformed)
}
