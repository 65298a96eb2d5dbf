//! Values that the configuration writes as text: durations, sizes, networks, names, addresses.
//!
//! Each has one grammar, used three ways: to check the text where it stands (so that the caret is right and all errors
//! come at once), to read it, and to tell editors about it in the JSON schema.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use mail::Domain;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Gives a type its text form in serde and in the schema.
macro_rules! text_form {
    ($type:ty, $format:literal, $description:literal, $example:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $format.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "title": $description, "examples": [$example] })
            }
            fn inline_schema() -> bool {
                true
            }
        }
    };
}
pub(super) use text_form;

/// Checks a text by the format that its schema names; formats that are not ours pass.
pub fn check(format: &str, text: &str) -> Result<(), String> {
    fn by<T: FromStr<Err = String>>(text: &str) -> Result<(), String> {
        text.parse::<T>().map(|_| ())
    }
    match format {
        "duration" => by::<Period>(text),
        "size" => by::<Size>(text),
        "network" => by::<Network>(text),
        "domain" => by::<Name>(text),
        "domain-pattern" => by::<Pattern>(text),
        "socket-address" => by::<Address>(text),
        "ip-address" => by::<Ip>(text),
        "email-address" => by::<EmailAddress>(text),
        "next-hop" => by::<super::NextHop>(text),
        "fingerprint" => by::<super::Fingerprint>(text),
        _ => Ok(()),
    }
}

/// A length of time: `90s`, `5m`, `1h30m`, `5d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);
text_form!(Period, "duration", "a duration", "5m");

const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a duration is a number and a unit (ms, s, m, h, d, w), such as \"5m\" or \"1h30m\"".to_owned();
        let (mut rest, mut millis) = (text.trim(), 0u64);
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit = &rest[digits..digits + letters];
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            millis = number.checked_mul(*factor).and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
            rest = &rest[digits + letters..];
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        // Weeks are read but not written: 14d says more than 2w.
        for (unit, factor) in &UNITS[1..] {
            if rest >= *factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

/// A number of octets: `50MiB`, `64KiB`, `10GB`, `512B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);
text_form!(Size, "size", "a size", "50MiB");

const FACTORS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// As a number for memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "a size is a number and a unit (B, kB, KiB, MB, MiB, GB, GiB, TB, TiB), such as \"50MiB\"".to_owned();
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = text[digits..].trim_start();
        let (_, factor) = FACTORS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match FACTORS.iter().find(fits) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A network: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits its addresses share.
    pub prefix: u8,
}
text_form!(Network, "network", "a network", "192.0.2.0/24");

impl Network {
    /// Whether every address of the world, or nearly so, lies in it.
    pub fn is_the_world(&self) -> bool {
        self.prefix < 4
    }

    /// Whether an address lies in it.
    #[cfg(test)]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

/// The address with all bits behind the prefix cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "a network is an address with a prefix length, such as \"192.0.2.0/24\" or \"2001:db8::/32\"".to_owned();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(format!("a prefix of this kind of address has at most {bits} bits"));
        }
        let first = masked(address, prefix);
        if first != address {
            return Err(format!("the address has bits behind the prefix; the network is {first}/{prefix}"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A domain name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub Domain);
text_form!(Name, "domain", "a domain name", "mx.example.org");

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Domain::parse(text).map(Self).map_err(|_| "this is not a domain name such as \"example.org\"".to_owned())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which domains are meant: one, all below one, or any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `example.org`
    Exact(Domain),
    /// `*.example.org`: everything below it, not itself.
    Below(Domain),
    /// `*`
    Any,
}
text_form!(Pattern, "domain-pattern", "a domain, `*.domain` for all below it, or `*` for all", "*.example.org");

impl Pattern {
    /// Whether the pattern takes every domain that `other` takes.
    pub fn covers(&self, other: &Pattern) -> bool {
        match (self, other) {
            (Pattern::Any, _) => true,
            (Pattern::Exact(mine), Pattern::Exact(theirs)) => mine == theirs,
            (Pattern::Below(mine), Pattern::Exact(theirs)) => theirs.is_below(mine),
            (Pattern::Below(mine), Pattern::Below(theirs)) => mine == theirs || theirs.is_below(mine),
            _ => false,
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "this is neither a domain such as \"example.org\" nor \"*.example.org\" nor \"*\"".to_owned();
        if text == "*" {
            return Ok(Pattern::Any);
        }
        match text.strip_prefix("*.") {
            Some(parent) => Domain::parse(parent).map(Pattern::Below),
            None => Domain::parse(text).map(Pattern::Exact),
        }
        .map_err(|_| wrong())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(domain) => domain.fmt(f),
            Pattern::Below(domain) => write!(f, "*.{domain}"),
            Pattern::Any => f.write_str("*"),
        }
    }
}

/// An address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);
text_form!(Address, "socket-address", "an address with a port", "[::]:25");

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "an address with a port is written \"192.0.2.1:25\" or \"[2001:db8::1]:25\"".to_owned();
        text.parse().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address of mail, in ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailAddress(pub mail::Mailbox);
text_form!(EmailAddress, "email-address", "an address of mail", "postmaster@example.org");

impl FromStr for EmailAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mailbox = mail::Mailbox::parse(text, mail::Utf8::Refused);
        mailbox.map(Self).map_err(|error| format!("this is no address of mail: {error}"))
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub IpAddr);
text_form!(Ip, "ip-address", "an IP address", "192.0.2.1");

impl FromStr for Ip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "this is not an IP address".to_owned())
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One item or a list of them: `to = "mx"` says the same as `to = ["mx"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T>(pub Vec<T>);

impl<T: Serialize> Serialize for Listed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let items = if value.is_array() { value } else { serde_json::Value::Array(vec![value]) };
        serde_json::from_value(items).map(Self).map_err(de::Error::custom)
    }
}

impl<T: JsonSchema> JsonSchema for Listed<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("listed-{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 1 }] })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis, shown) in [
            ("5m", 300_000, "5m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90s", 90_000, "1m30s"),
            ("250ms", 250, "250ms"),
            ("2w", 1_209_600_000, "14d"),
            ("0s", 0, "0s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!((period.0.as_millis(), period.to_string().as_str()), (millis, shown), "{text}");
        }
        for bad in ["", "5", "m", "5 m", "-5m", "5x", "99999999999999999999s", "18446744073709551615w", "5m3"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, octets, shown) in
            [("50MiB", 50 << 20, "50MiB"), ("1 GB", 1_000_000_000, "1GB"), ("1000B", 1000, "1kB"), ("7B", 7, "7B")]
        {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (octets, shown), "{text}");
        }
        for bad in ["", "50", "MiB", "50mib", "-1B", "99999999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_no_bits_behind_the_prefix() {
        let network: Network = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains("10.255.0.1".parse().unwrap()) && !network.contains("11.0.0.1".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().is_the_world());
        assert_eq!("192.0.2.7".parse::<Network>().unwrap().to_string(), "192.0.2.7/32");
        let wrong = "10.1.2.3/8".parse::<Network>().unwrap_err();
        assert!(wrong.ends_with("the network is 10.0.0.0/8"), "{wrong}");
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "2001:db8::/129", "10.0.0.0/"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_cover_what_they_take() {
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        assert!(pattern("*").covers(&pattern("*.a.org")));
        assert!(pattern("*.org").covers(&pattern("*.a.org")));
        assert!(pattern("*.a.org").covers(&pattern("b.a.org")));
        assert!(!pattern("*.a.org").covers(&pattern("a.org")));
        assert!(!pattern("a.org").covers(&pattern("*.a.org")));
        assert!("**.a".parse::<Pattern>().is_err());
    }
}
