//! ESMTP parameters of MAIL and RCPT (RFC 5321 §4.1.2 `esmtp-param`), read strictly and written back.
//!
//! Both sides use the same types: what the server reads from a command line is what the client writes into its own.

mod requests;

use std::fmt::Write;

use mail::{BodyKind, Notify, NotifyOn, OriginalRecipient, Ret, Utf8};

pub use self::requests::{DeliverBy, MAX_SUBMITTER, Release, Submitter};
use crate::xtext;

/// The longest ENVID, encoded (RFC 3461 §4.4).
pub const MAX_ENVID: usize = 100;
/// The longest ORCPT, encoded (RFC 3461 §4.2).
pub const MAX_ORCPT: usize = 500;

/// What is wrong with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// We know no parameter of this name (RFC 5321 §4.1.1.11: 555).
    #[error("the parameter is not known")]
    Unknown,
    /// It stands there twice, lacks a value, has one where there is none, or its value breaks the grammar (501).
    #[error("the parameter is malformed")]
    Malformed,
}

/// The parameters of MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// `SIZE`: octets of the message as its sender counts them (RFC 1870). What does not fit 64 bits is `u64::MAX`.
    pub size: Option<u64>,
    /// `BODY` (RFC 6152, RFC 3030).
    pub body: BodyKind,
    /// `SMTPUTF8` (RFC 6531 §3.4).
    pub utf8: bool,
    /// `RET` (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// `ENVID`, decoded (RFC 3461 §4.4).
    pub envid: Option<String>,
    /// `REQUIRETLS` (RFC 8689 §2).
    pub require_tls: bool,
    /// `BY` (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// `HOLDFOR` or `HOLDUNTIL` (RFC 4865).
    pub release: Option<Release>,
    /// `MT-PRIORITY` (RFC 6710), from -9 to 9.
    pub priority: Option<i8>,
    /// `AUTH` (RFC 4954 §5).
    pub submitter: Option<Submitter>,
}

/// The names of MAIL's parameters.
const MAIL_PARAMETERS: &[&str] =
    &["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "REQUIRETLS", "BY", "HOLDFOR", "HOLDUNTIL", "MT-PRIORITY", "AUTH"];

impl MailParameters {
    /// Reads `KEY=value KEY …`, the text behind the path.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        let mut seen = Seen::default();
        for word in words(text) {
            let (key, value) = split(word)?;
            match seen.first(key, MAIL_PARAMETERS)? {
                "SIZE" => parameters.size = Some(size(some(value)?)?),
                "BODY" => parameters.body = body(some(value)?)?,
                "SMTPUTF8" if value.is_none() => parameters.utf8 = true,
                "RET" => parameters.ret = Some(ret(some(value)?)?),
                "ENVID" => parameters.envid = Some(envid(some(value)?)?),
                "REQUIRETLS" if value.is_none() => parameters.require_tls = true,
                "BY" => parameters.deliver_by = Some(DeliverBy::read(some(value)?)?),
                // RFC 4865 §4: one of the two.
                "HOLDFOR" | "HOLDUNTIL" if parameters.release.is_some() => return Err(ParameterError::Malformed),
                "HOLDFOR" => parameters.release = Some(Release::read_for(some(value)?)?),
                "HOLDUNTIL" => parameters.release = Some(Release::read_until(some(value)?)?),
                "MT-PRIORITY" => parameters.priority = Some(requests::priority(some(value)?)?),
                "AUTH" => parameters.submitter = Some(Submitter::read(some(value)?)?),
                _ => return Err(ParameterError::Malformed),
            }
        }
        Ok(parameters)
    }

    /// Appends ` KEY=value` for each parameter that is set. The caller clears what its peer does not offer.
    pub fn write_to(&self, out: &mut String) {
        if let Some(size) = self.size {
            // Writing to a String cannot fail.
            let _ = write!(out, " SIZE={size}");
        }
        match self.body {
            BodyKind::SevenBit => {}
            BodyKind::EightBitMime => out.push_str(" BODY=8BITMIME"),
            BodyKind::BinaryMime => out.push_str(" BODY=BINARYMIME"),
        }
        if self.utf8 {
            out.push_str(" SMTPUTF8");
        }
        match self.ret {
            None => {}
            Some(Ret::Full) => out.push_str(" RET=FULL"),
            Some(Ret::Headers) => out.push_str(" RET=HDRS"),
        }
        if let Some(envid) = &self.envid {
            let _ = write!(out, " ENVID={}", xtext::encode(envid));
        }
        if self.require_tls {
            out.push_str(" REQUIRETLS");
        }
        if let Some(by) = &self.deliver_by {
            let _ = write!(out, " BY={by}");
        }
        match self.release {
            None => {}
            Some(Release::For(seconds)) => drop(write!(out, " HOLDFOR={seconds}")),
            Some(Release::Until(time)) => drop(write!(out, " HOLDUNTIL={time}")),
        }
        if let Some(priority) = self.priority {
            let _ = write!(out, " MT-PRIORITY={priority}");
        }
        if let Some(submitter) = &self.submitter {
            let _ = write!(out, " AUTH={submitter}");
        }
    }
}

/// The parameters of RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientParameters {
    /// `NOTIFY` (RFC 3461 §4.1).
    pub notify: Notify,
    /// `ORCPT` (RFC 3461 §4.2, RFC 6533 §3).
    pub orcpt: Option<OriginalRecipient>,
}

impl RecipientParameters {
    /// Reads the text behind the path; `utf8` says whether the transaction has SMTPUTF8.
    pub fn parse(text: &str, utf8: Utf8) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        let mut seen = Seen::default();
        for word in words(text) {
            let (key, value) = split(word)?;
            match seen.first(key, &["NOTIFY", "ORCPT"])? {
                "NOTIFY" => parameters.notify = notify(some(value)?)?,
                _ => parameters.orcpt = Some(orcpt(some(value)?, utf8)?),
            }
        }
        Ok(parameters)
    }

    /// Appends ` KEY=value` for each parameter that is set; `utf8` says whether the transaction has SMTPUTF8.
    pub fn write_to(&self, out: &mut String, utf8: Utf8) {
        match self.notify {
            Notify::Default => {}
            Notify::Never => out.push_str(" NOTIFY=NEVER"),
            Notify::On(on) => {
                let chosen = [(on.success, "SUCCESS"), (on.failure, "FAILURE"), (on.delay, "DELAY")];
                let mut separator = " NOTIFY=";
                for (_, word) in chosen.iter().filter(|(asked, _)| *asked) {
                    out.push_str(separator);
                    out.push_str(word);
                    separator = ",";
                }
            }
        }
        if let Some(OriginalRecipient { kind, address }) = &self.orcpt {
            let address = if kind == "utf-8" { xtext::encode_address(address, utf8) } else { xtext::encode(address) };
            let _ = write!(out, " ORCPT={kind};{address}");
        }
    }
}

/// Which parameters have come already: each may stand there once (RFC 5321 §4.1.1.11).
#[derive(Default)]
struct Seen(u16);

impl Seen {
    /// The known name that `key` is in any case, if this is its first time.
    fn first(&mut self, key: &str, known: &[&'static str]) -> Result<&'static str, ParameterError> {
        let at = known.iter().position(|name| name.eq_ignore_ascii_case(key)).ok_or(ParameterError::Unknown)?;
        if self.0 & (1 << at) != 0 {
            return Err(ParameterError::Malformed);
        }
        self.0 |= 1 << at;
        Ok(known[at])
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

/// `esmtp-keyword ["=" esmtp-value]`.
fn split(word: &str) -> Result<(&str, Option<&str>), ParameterError> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    let mut letters = key.bytes();
    let proper = letters.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && letters.all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && value.is_none_or(|value| !value.is_empty() && !value.contains(|c: char| c.is_control() || c == '='));
    if proper { Ok((key, value)) } else { Err(ParameterError::Malformed) }
}

fn some(value: Option<&str>) -> Result<&str, ParameterError> {
    value.ok_or(ParameterError::Malformed)
}

/// RFC 1870 §3: one to twenty digits.
fn size(value: &str) -> Result<u64, ParameterError> {
    if value.len() > 20 || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParameterError::Malformed);
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Result<BodyKind, ParameterError> {
    one_of(
        value,
        &[("7BIT", BodyKind::SevenBit), ("8BITMIME", BodyKind::EightBitMime), ("BINARYMIME", BodyKind::BinaryMime)],
    )
}

fn ret(value: &str) -> Result<Ret, ParameterError> {
    one_of(value, &[("FULL", Ret::Full), ("HDRS", Ret::Headers)])
}

fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, ParameterError> {
    let choice = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    choice.map(|(_, meaning)| *meaning).ok_or(ParameterError::Malformed)
}

fn envid(value: &str) -> Result<String, ParameterError> {
    if value.len() > MAX_ENVID {
        return Err(ParameterError::Malformed);
    }
    xtext::decode(value).map_err(|_| ParameterError::Malformed)
}

/// `NEVER` alone, or a list without repetitions of the three others.
fn notify(value: &str) -> Result<Notify, ParameterError> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::Never);
    }
    let mut on = NotifyOn::default();
    for word in value.split(',') {
        let asked = match word {
            w if w.eq_ignore_ascii_case("SUCCESS") => &mut on.success,
            w if w.eq_ignore_ascii_case("FAILURE") => &mut on.failure,
            w if w.eq_ignore_ascii_case("DELAY") => &mut on.delay,
            _ => return Err(ParameterError::Malformed),
        };
        if std::mem::replace(asked, true) {
            return Err(ParameterError::Malformed);
        }
    }
    Ok(Notify::On(on))
}

/// `addr-type ";" xtext`; the type is an atom (RFC 3461 §4.2).
fn orcpt(value: &str, utf8: Utf8) -> Result<OriginalRecipient, ParameterError> {
    if value.len() > MAX_ORCPT {
        return Err(ParameterError::Malformed);
    }
    let (kind, address) = value.split_once(';').ok_or(ParameterError::Malformed)?;
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(ParameterError::Malformed);
    }
    let kind = kind.to_ascii_lowercase();
    let address = match kind.as_str() {
        "utf-8" => xtext::decode_address(address, utf8),
        _ => xtext::decode(address),
    };
    match address {
        Ok(address) if !address.is_empty() => Ok(OriginalRecipient { kind, address }),
        _ => Err(ParameterError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{ByMode, Timestamp};
    use proptest::prelude::*;

    #[test]
    fn mail_parameters_are_read() {
        let read = MailParameters::parse("SIZE=1000 body=8bitmime SMTPUTF8 RET=hdrs ENVID=a+2Bb").unwrap();
        let expected = MailParameters {
            size: Some(1000),
            body: BodyKind::EightBitMime,
            utf8: true,
            ret: Some(Ret::Headers),
            envid: Some("a+b".into()),
            ..MailParameters::default()
        };
        assert_eq!(read, expected);
        assert_eq!(MailParameters::parse("SIZE=99999999999999999999").unwrap().size, Some(u64::MAX));
    }

    #[test]
    fn requests_are_read() {
        let text = "requiretls BY=-12;nt HOLDUNTIL=2026-11-21T10:30:00+01:00 mt-priority=-9 AUTH=a+2Bb@example.org";
        let read = MailParameters::parse(text).unwrap();
        let expected = MailParameters {
            require_tls: true,
            deliver_by: Some(DeliverBy { seconds: -12, mode: ByMode::Notify, trace: true }),
            release: Some(Release::Until(Timestamp::from_millis(1_795_253_400_000))),
            priority: Some(-9),
            submitter: Some(Submitter::Named("a+b@example.org".into())),
            ..MailParameters::default()
        };
        assert_eq!(read, expected);
        assert_eq!(MailParameters::parse("AUTH=<>").unwrap().submitter, Some(Submitter::Unknown));
        assert_eq!(MailParameters::parse("HOLDFOR=60").unwrap().release, Some(Release::For(60)));
    }

    #[test]
    fn times_are_counted_from_now() {
        let now = Timestamp::from_millis(1_000_000);
        for seconds in [-600, 0, 1, 999_999_999] {
            let by = DeliverBy { seconds, mode: ByMode::Notify, trace: true };
            assert_eq!(DeliverBy::left(by.from(now), now), by);
        }
        let by = DeliverBy { seconds: 60, mode: ByMode::Return, trace: false };
        assert_eq!(DeliverBy::left(by.from(now), Timestamp::from_millis(1_050_000)).seconds, 10);
        assert_eq!(Release::For(60).at(now), Timestamp::from_millis(1_060_000));
    }

    #[test]
    fn recipient_parameters_are_read() {
        let read = RecipientParameters::parse("NOTIFY=SUCCESS,delay ORCPT=rfc822;Bob+2BTag@Example.ORG", Utf8::Refused);
        let expected = RecipientParameters {
            notify: Notify::On(NotifyOn { success: true, failure: false, delay: true }),
            orcpt: Some(OriginalRecipient { kind: "rfc822".into(), address: "Bob+Tag@Example.ORG".into() }),
        };
        assert_eq!(read.unwrap(), expected);
        let read = RecipientParameters::parse("ORCPT=UTF-8;j\\x{F6}rg@x", Utf8::Refused).unwrap().orcpt.unwrap();
        assert_eq!((read.kind.as_str(), read.address.as_str()), ("utf-8", "jörg@x"));
    }

    #[test]
    fn the_malformed_and_the_unknown_are_told_apart() {
        use ParameterError::{Malformed, Unknown};
        let long = format!("ENVID={}", "x".repeat(101));
        let submitter = format!("AUTH={}", "x".repeat(501));
        for (text, error) in [
            ("SIZE", Malformed),
            ("SIZE=", Malformed),
            ("SIZE=-1", Malformed),
            ("SIZE=+1", Malformed),
            ("SIZE=1 SIZE=1", Malformed),
            ("SIZE=123456789012345678901", Malformed),
            ("BODY=9BIT", Malformed),
            ("SMTPUTF8=1", Malformed),
            ("RET=BOTH", Malformed),
            ("ENVID=+0D+0A", Malformed),
            ("-X=1", Malformed),
            ("XYZZY=<>", Unknown),
            ("REQUIRETLS=1", Malformed),
            ("BY=10", Malformed),
            ("BY=10;X", Malformed),
            ("BY=0;R", Malformed),
            ("BY=-5;RT", Malformed),
            ("BY=1234567890;N", Malformed),
            ("BY=+-1;N", Malformed),
            ("HOLDFOR=-1", Malformed),
            ("HOLDFOR=+1", Malformed),
            ("HOLDUNTIL=tomorrow", Malformed),
            ("HOLDUNTIL=2026-02-29T00:00:00Z", Malformed),
            ("HOLDFOR=5 HOLDUNTIL=2026-11-21T09:30:00Z", Malformed),
            ("MT-PRIORITY=+1", Malformed),
            ("MT-PRIORITY=10", Malformed),
            ("MT-PRIORITY=-", Malformed),
            ("AUTH", Malformed),
            ("AUTH=a@b+0Dc", Malformed),
            (submitter.as_str(), Malformed),
            ("NOTIFY=NEVER", Unknown),
            (long.as_str(), Malformed),
        ] {
            assert_eq!(MailParameters::parse(text), Err(error), "{text}");
        }
        for (text, error) in [
            ("NOTIFY=", Malformed),
            ("NOTIFY=NEVER,SUCCESS", Malformed),
            ("NOTIFY=SUCCESS,SUCCESS", Malformed),
            ("NOTIFY=SUCCESS,", Malformed),
            ("ORCPT=rfc822", Malformed),
            ("ORCPT=;a@b", Malformed),
            ("ORCPT=rfc822;", Malformed),
            ("ORCPT=rfc822;a=b", Malformed),
            ("ORCPT=utf-8;jörg@x", Malformed),
            ("SIZE=1", Unknown),
        ] {
            assert_eq!(RecipientParameters::parse(text, Utf8::Refused), Err(error), "{text}");
        }
    }

    fn mail_parameters() -> impl Strategy<Value = MailParameters> {
        let body = prop_oneof![Just(BodyKind::SevenBit), Just(BodyKind::EightBitMime), Just(BodyKind::BinaryMime)];
        let ret = proptest::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]);
        let plain = (any::<Option<u64>>(), body, any::<bool>(), ret, proptest::option::of("[ -~]{1,33}"));
        (plain, requests()).prop_map(|((size, body, utf8, ret, envid), requests)| MailParameters {
            size,
            body,
            utf8,
            ret,
            envid,
            ..requests
        })
    }

    fn requests() -> impl Strategy<Value = MailParameters> {
        let by = (1..1_000_000_000_i32, any::<bool>(), any::<bool>(), any::<bool>());
        let by = by.prop_map(|(seconds, returns, past, trace)| match returns {
            true => DeliverBy { seconds, mode: ByMode::Return, trace },
            false => DeliverBy { seconds: if past { -seconds } else { seconds }, mode: ByMode::Notify, trace },
        });
        let until = (0..253_402_300_800_000_u64).prop_map(|millis| Release::Until(Timestamp::from_millis(millis)));
        let release = prop_oneof![(0..1_000_000_000_u32).prop_map(Release::For), until];
        let submitter = prop_oneof![Just(Submitter::Unknown), "[ -~]{1,60}".prop_map(Submitter::Named)];
        use proptest::option::of;
        (any::<bool>(), of(by), of(release), of(-9..=9_i8), of(submitter)).prop_map(
            |(require_tls, deliver_by, release, priority, submitter)| MailParameters {
                require_tls,
                deliver_by,
                release,
                priority,
                submitter,
                ..MailParameters::default()
            },
        )
    }

    fn recipient_parameters() -> impl Strategy<Value = RecipientParameters> {
        let notify = (any::<[bool; 3]>(), any::<bool>()).prop_map(|([success, failure, delay], never)| {
            match (never, success || failure || delay) {
                (true, _) => Notify::Never,
                (false, true) => Notify::On(NotifyOn { success, failure, delay }),
                (false, false) => Notify::Default,
            }
        });
        let orcpt = prop_oneof![("rfc822", "[ -~]{1,100}"), ("utf-8", "[ -~äß漢]{1,60}")]
            .prop_map(|(kind, address)| OriginalRecipient { kind: kind.to_owned(), address });
        (notify, proptest::option::of(orcpt)).prop_map(|(notify, orcpt)| RecipientParameters { notify, orcpt })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mail in mail_parameters(), recipient in recipient_parameters()) {
            let mut text = String::new();
            mail.write_to(&mut text);
            prop_assert_eq!(MailParameters::parse(&text).unwrap(), mail);
            for utf8 in [Utf8::Refused, Utf8::Allowed] {
                let mut text = String::new();
                recipient.write_to(&mut text, utf8);
                prop_assert_eq!(&RecipientParameters::parse(&text, utf8).unwrap(), &recipient);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), close in "([A-Z0-9]{1,9}=?[ -~]{0,9} ?){0,4}") {
            for text in [&text, &close] {
                let _ = MailParameters::parse(text);
                let _ = RecipientParameters::parse(text, Utf8::Allowed);
            }
        }
    }
}
