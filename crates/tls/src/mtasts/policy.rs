//! A policy file (RFC 8461 §3.2): read strictly, for half a policy is none.

use std::fmt;
use std::time::Duration;

use mail::Domain;
use serde::{Deserialize, Serialize};

/// The most octets of a policy file (RFC 8461 §3.3 lets us set it; §10.2 suggests 64 kilobytes).
pub const MAX_FILE: usize = 64 << 10;
/// The longest time that a policy may be kept (§3.2): about a year.
pub const MAX_AGE: Duration = Duration::from_secs(31_557_600);
/// The most patterns of a policy.
const MAX_PATTERNS: usize = 200;
/// The most lines of a policy.
const MAX_LINES: usize = 300;
/// The longest name of a field (§3.2 `sts-policy-ext-name`).
const MAX_FIELD_NAME: usize = 32;

/// What a domain demands of the way to its mail hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StsPolicy {
    /// What to do with a host that does not fulfil it.
    pub mode: Mode,
    /// How long it may be kept.
    pub max_age: Duration,
    /// The hosts that may take the domain's mail; not empty unless the mode is [`Mode::None`].
    pub mx: Vec<MxPattern>,
    /// Its lines as they were written, for reports (RFC 8460 §4.4 `policy-string`).
    pub lines: Vec<String>,
}

/// What a policy asks for (RFC 8461 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No mail to a host that fails.
    Enforce,
    /// Deliver all the same, but report.
    Testing,
    /// As if there were no policy.
    None,
}

impl Mode {
    /// As the file has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a host, or `*.` and a domain for every host with one label more (RFC 8461 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MxPattern {
    wildcard: bool,
    name: Domain,
}

impl MxPattern {
    /// Reads a pattern in A-labels; case does not matter.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let proper = name.is_ascii() && !name.ends_with('.');
        match Domain::parse(name) {
            Ok(name) if proper => Ok(Self { wildcard, name }),
            _ => Err(PolicyError::Pattern(printable(text))),
        }
    }

    /// Whether a mail host's name matches: a wildcard stands for exactly one whole label, the left-most.
    pub fn matches(&self, host: &Domain) -> bool {
        match self.wildcard {
            false => *host == self.name,
            true => host.as_str().split_once('.').is_some_and(|(_, parent)| parent == self.name.as_str()),
        }
    }
}

impl fmt::Display for MxPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

impl TryFrom<String> for MxPattern {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        Self::parse(&text)
    }
}

impl From<MxPattern> for String {
    fn from(pattern: MxPattern) -> Self {
        pattern.to_string()
    }
}

/// What is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It has more than 64 KiB.
    #[error("the policy is longer than 64 KiB")]
    TooLong,
    /// It has more lines than any policy needs.
    #[error("the policy has more than {MAX_LINES} lines")]
    Lines,
    /// It is no text.
    #[error("the policy is not UTF-8 text")]
    NotText,
    /// A line that is no `name: value`.
    #[error("line {0} of the policy is no `name: value`")]
    Line(usize),
    /// The version is missing or unknown.
    #[error("the policy does not say `version: STSv1`")]
    Version,
    /// The mode is missing or unknown.
    #[error("the policy's mode is none of enforce, testing, none")]
    Mode,
    /// The age is missing or no number of 1 to 10 digits.
    #[error("the policy's max_age is missing or no number")]
    MaxAge,
    /// A pattern is no name and no wildcard.
    #[error("the policy's mx `{0}` is no host name")]
    Pattern(String),
    /// There is no pattern, or there are too many.
    #[error("the policy has no mx, or more than {MAX_PATTERNS}")]
    Patterns,
}

impl StsPolicy {
    /// Reads a policy file. Lines end with CRLF or LF; unknown fields and empty lines are passed over; of a field that
    /// stands twice, mx excepted, the first counts (RFC 8461 §3.2).
    pub fn parse(file: &[u8]) -> Result<Self, PolicyError> {
        if file.len() > MAX_FILE {
            return Err(PolicyError::TooLong);
        }
        Self::read(std::str::from_utf8(file).map_err(|_| PolicyError::NotText)?)
    }

    /// As [`StsPolicy::parse`], of a text that was read before.
    pub(super) fn read(text: &str) -> Result<Self, PolicyError> {
        let mut fields = Fields::default();
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let (name, value) = field(line).ok_or(PolicyError::Line(number))?;
            if fields.lines.len() == MAX_LINES {
                return Err(PolicyError::Lines);
            }
            fields.take(name, value)?;
            fields.lines.push(format!("{name}: {value}"));
        }
        fields.finish()
    }

    /// A policy of our own making.
    pub fn new(mode: Mode, max_age: Duration, mx: Vec<MxPattern>) -> Self {
        let max_age = max_age.min(MAX_AGE);
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {mode}")];
        lines.extend(mx.iter().map(|pattern| format!("mx: {pattern}")));
        lines.push(format!("max_age: {}", max_age.as_secs()));
        Self { mode, max_age, mx, lines }
    }

    /// The file, with CRLF.
    pub fn to_file(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect()
    }

    /// Whether a mail host may take the domain's mail. Under [`Mode::None`] any may.
    pub fn allows(&self, host: &Domain) -> bool {
        self.mode == Mode::None || self.mx.iter().any(|pattern| pattern.matches(host))
    }
}

/// One line: a name of letters, digits, `_`, `-` and `.` that begins with a letter or digit, and a value.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    let proper = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let name_is_proper = name.len() <= MAX_FIELD_NAME
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(proper);
    let value_is_proper = !value.is_empty() && !value.contains(char::is_control);
    (name_is_proper && value_is_proper).then_some((name, value))
}

#[derive(Default)]
struct Fields {
    version: Option<()>,
    mode: Option<Mode>,
    max_age: Option<Duration>,
    mx: Vec<MxPattern>,
    lines: Vec<String>,
}

impl Fields {
    fn take(&mut self, name: &str, value: &str) -> Result<(), PolicyError> {
        match name {
            "version" if self.version.is_none() => {
                self.version = Some((value == "STSv1").then_some(()).ok_or(PolicyError::Version)?);
            }
            "mode" if self.mode.is_none() => self.mode = Some(mode(value).ok_or(PolicyError::Mode)?),
            "max_age" if self.max_age.is_none() => self.max_age = Some(age(value).ok_or(PolicyError::MaxAge)?),
            "mx" if self.mx.len() == MAX_PATTERNS => return Err(PolicyError::Patterns),
            "mx" => self.mx.push(MxPattern::parse(value)?),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<StsPolicy, PolicyError> {
        self.version.ok_or(PolicyError::Version)?;
        let mode = self.mode.ok_or(PolicyError::Mode)?;
        let max_age = self.max_age.ok_or(PolicyError::MaxAge)?;
        if mode != Mode::None && self.mx.is_empty() {
            return Err(PolicyError::Patterns);
        }
        Ok(StsPolicy { mode, max_age, mx: self.mx, lines: self.lines })
    }
}

fn mode(value: &str) -> Option<Mode> {
    [Mode::Enforce, Mode::Testing, Mode::None].into_iter().find(|mode| mode.as_str() == value)
}

/// 1 to 10 digits; more than the longest age counts as that.
fn age(value: &str) -> Option<Duration> {
    let proper = (1..=10).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = proper.then(|| value.parse().ok())??;
    Some(Duration::from_secs(seconds).min(MAX_AGE))
}

/// Foreign text for messages: short, without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    #[test]
    fn the_policy_of_the_rfc_is_read() {
        let file = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmx: backupmx.example.com\r\n\
                     max_age: 604800\r\n";
        let policy = StsPolicy::parse(file).unwrap();
        assert_eq!((policy.mode, policy.max_age.as_secs(), policy.mx.len()), (Mode::Enforce, 604_800, 3));
        assert_eq!(policy.lines[1], "mode: enforce");
        assert_eq!(policy.to_file().as_bytes(), file);
    }

    #[test]
    fn a_wildcard_is_one_whole_label() {
        let pattern = MxPattern::parse("*.Example.com").unwrap();
        assert!(pattern.matches(&host("mx1.example.com")));
        for other in ["example.com", "a.b.example.com", "mx1.example.net", "mxexample.com"] {
            assert!(!pattern.matches(&host(other)), "{other}");
        }
        for bad in ["*", "*.", "mx.*.example.com", "m*.example.com", "**.example.com", "a..b", "mx.example.com."] {
            assert!(MxPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_of_two_fields_counts_and_unknown_ones_are_passed_over() {
        let policy = StsPolicy::parse(
            b"version: STSv1\nmode: testing\nmode: enforce\nfuture.key: whatever it is\nmx: a.example\nmax_age: 10\nmax_age: 20",
        );
        let policy = policy.unwrap();
        assert_eq!((policy.mode, policy.max_age.as_secs()), (Mode::Testing, 10));
    }

    #[test]
    fn ages_and_sizes_have_bounds() {
        let with_age = |age: &str| StsPolicy::parse(format!("version: STSv1\nmode: none\nmax_age: {age}\n").as_bytes());
        assert_eq!(with_age("9999999999").unwrap().max_age, MAX_AGE);
        for bad in ["-1", "1.5", "99999999999", "1e3", "+1"] {
            assert_eq!(with_age(bad), Err(PolicyError::MaxAge), "{bad}");
        }
        let mut long = b"version: STSv1\nmode: none\nmax_age: 1\n".to_vec();
        long.resize(MAX_FILE + 1, b'x');
        assert_eq!(StsPolicy::parse(&long), Err(PolicyError::TooLong));
        let many = "mx: a.example\n".repeat(MAX_PATTERNS + 1);
        let many = format!("version: STSv1\nmode: enforce\nmax_age: 1\n{many}");
        assert_eq!(StsPolicy::parse(many.as_bytes()), Err(PolicyError::Patterns));
    }

    #[test]
    fn empty_lines_say_nothing_and_other_nonsense_is_refused() {
        assert!(StsPolicy::parse(b"version: STSv1\n\nmode: none\nmax_age: 1\r\n\r\n").is_ok());
        assert_eq!(StsPolicy::parse(b"version: STSv1\n<html>\n"), Err(PolicyError::Line(2)));
    }

    #[test]
    fn mode_none_lets_every_host_pass() {
        let none = StsPolicy::parse(b"version: STSv1\nmode: none\nmax_age: 1\n").unwrap();
        assert!(none.allows(&host("anything.example")));
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..400), text in "[ -~\r\n]{0,300}") {
            let _ = StsPolicy::parse(&octets);
            let _ = StsPolicy::parse(text.as_bytes());
        }

        #[test]
        fn what_we_write_we_read(age in 0u64..31_557_600, wildcard: bool) {
            let pattern = if wildcard { "*.example.org" } else { "mx.example.org" };
            let policy = StsPolicy::new(Mode::Enforce, Duration::from_secs(age), vec![MxPattern::parse(pattern).unwrap()]);
            prop_assert_eq!(StsPolicy::parse(policy.to_file().as_bytes()), Ok(policy));
        }
    }
}
