//! What an account may send as.

use std::fmt;
use std::str::FromStr;

use mail::{Domain, Host, LocalPart, Mailbox, Utf8};
use serde::{Deserialize, Serialize};

/// The most rules of one account.
const MAX_RULES: usize = 1000;
/// How much of the rules fits into the text of a reply.
const SHOWN: usize = 300;

/// The addresses that an account may use in MAIL FROM and From: what any of its rules allows.
///
/// Local parts are compared without regard to case, and by what quotes mean, not how they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendAs(Vec<Rule>);

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendAsError {
    /// Neither an address nor a pattern.
    #[error(
        "`{0}` is neither an address, nor a domain, nor a pattern such as \"*@example.org\" or \"user+*@example.org\""
    )]
    Rule(String),
    /// No address.
    #[error("`{0}` is no plain address")]
    Address(String),
    /// Too many of them.
    #[error("an account may have {MAX_RULES} addresses and patterns at most")]
    TooMany,
}

/// One rule: which local parts at which hosts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Rule {
    local: Local,
    host: HostRule,
    /// As it was written.
    text: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Local {
    Any,
    /// Folded.
    Exact(String),
    /// Folded, with `*` for any characters.
    Pattern(String),
}

#[derive(Clone, PartialEq, Eq)]
enum HostRule {
    Any,
    Exact(Host),
    Below(Domain),
}

impl SendAs {
    /// From rules as they are written in configurations: `joe@example.org`, `joe+*@example.org`, `*@example.org` or
    /// `example.org`, `*@*.example.org` or `*.example.org` (hosts below it), `*`.
    pub fn parse<T: AsRef<str>>(rules: impl IntoIterator<Item = T>) -> Result<Self, SendAsError> {
        let mut parsed = Vec::new();
        for rule in rules {
            if parsed.len() == MAX_RULES {
                return Err(SendAsError::TooMany);
            }
            parsed.push(rule.as_ref().parse()?);
        }
        Ok(Self(parsed))
    }

    /// From one address that somebody else than the operator may have written: patterns and domains are refused.
    pub fn address(text: &str) -> Result<Self, SendAsError> {
        match Mailbox::parse(text, Utf8::Allowed) {
            // A star alone, unless it is quoted, would be read as a pattern by whoever sees it.
            Ok(address) if !text.contains('*') || text.starts_with('"') => Ok(Self(vec![Rule::exact(address)])),
            _ => Err(SendAsError::Address(shown(text))),
        }
    }

    /// The name itself, if it is an address; otherwise nothing. A star in it is a star.
    pub fn own(name: &str) -> Self {
        Self(Mailbox::parse(name, Utf8::Allowed).map(Rule::exact).into_iter().collect())
    }

    /// Also what the other rules allow.
    pub(crate) fn add(&mut self, other: Self) -> Result<(), SendAsError> {
        if self.0.len() + other.0.len() > MAX_RULES {
            return Err(SendAsError::TooMany);
        }
        self.0.extend(other.0);
        Ok(())
    }

    /// Every address.
    pub fn everything() -> Self {
        Self(vec![Rule { local: Local::Any, host: HostRule::Any, text: "*".to_owned() }])
    }

    /// Whether the account may use the address.
    pub fn allows(&self, address: &Mailbox) -> bool {
        let local = fold(&address.local);
        self.0.iter().any(|rule| rule.host.takes(&address.host) && rule.local.takes(&local))
    }

    /// Whether there is no address that it may use.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules, as they were written.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| rule.text.as_str())
    }

    /// For the text of a reply: `a@example.org, *@example.net and 3 more`. ASCII unless an address is not.
    pub fn describe(&self) -> String {
        if self.0.is_empty() {
            return "no address".to_owned();
        }
        let mut text = String::new();
        for (at, rule) in self.0.iter().enumerate() {
            if at > 0 && text.len() + rule.text.len() > SHOWN {
                return format!("{text} and {} more", self.0.len() - at);
            }
            if at > 0 {
                text.push_str(", ");
            }
            text.push_str(&rule.text);
        }
        text
    }
}

/// A local part in the form in which it is compared.
fn fold(local: &LocalPart) -> String {
    local.unquoted().to_lowercase()
}

impl Local {
    fn takes(&self, folded: &str) -> bool {
        match self {
            Local::Any => true,
            Local::Exact(mine) => mine == folded,
            Local::Pattern(pattern) => matches(pattern, folded),
        }
    }
}

impl HostRule {
    fn takes(&self, host: &Host) -> bool {
        match self {
            HostRule::Any => true,
            HostRule::Exact(mine) => mine == host,
            HostRule::Below(parent) => host.domain().is_some_and(|domain| domain.is_below(parent)),
        }
    }
}

/// Whether `text` is what `pattern` says; `*` stands for any characters, also none. Linear in both.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// So much of a text as fits into an error.
fn shown(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

impl Rule {
    fn exact(address: Mailbox) -> Self {
        let (local, text) = (Local::Exact(fold(&address.local)), address.to_string());
        Self { local, host: HostRule::Exact(address.host), text }
    }
}

impl FromStr for Rule {
    type Err = SendAsError;

    fn from_str(text: &str) -> Result<Self, SendAsError> {
        let wrong = || SendAsError::Rule(shown(text));
        let rule = |local, host| Self { local, host, text: text.to_owned() };
        if text == "*" {
            return Ok(rule(Local::Any, HostRule::Any));
        }
        if let Ok(address) = Mailbox::parse(text, Utf8::Allowed)
            && !address.local.unquoted().contains('*')
        {
            return Ok(rule(Local::Exact(fold(&address.local)), HostRule::Exact(address.host)));
        }
        let (local, host) = text.rsplit_once('@').unwrap_or(("*", text));
        let host = match host.strip_prefix("*.") {
            _ if host == "*" => HostRule::Any,
            Some(parent) => HostRule::Below(Domain::parse(parent).map_err(|_| wrong())?),
            None => HostRule::Exact(Host::parse(host).map_err(|_| wrong())?),
        };
        let local = match local {
            "*" => Local::Any,
            // A quoted local part means what it says: there are no patterns in quotes. `*` is an ordinary character of
            // a local part (RFC 5322 §3.2.3), so a pattern is grammatical where the part without it is.
            _ if local.starts_with('"') => {
                let quoted = LocalPart::parse(local, Utf8::Allowed).map_err(|_| wrong())?;
                Local::Exact(fold(&quoted))
            }
            _ => Local::of_pattern(local).ok_or_else(wrong)?,
        };
        Ok(rule(local, host))
    }
}

impl Local {
    fn of_pattern(text: &str) -> Option<Self> {
        // `user.*` is a sound pattern although nothing follows the dot.
        let filled = text.replace('*', "x");
        LocalPart::parse(&filled, Utf8::Allowed).ok()?;
        let folded = text.to_lowercase();
        Some(if folded.contains('*') { Local::Pattern(folded) } else { Local::Exact(folded) })
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.text)
    }
}

impl TryFrom<String> for Rule {
    type Error = SendAsError;

    fn try_from(text: String) -> Result<Self, SendAsError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed(rule: &str, address: &str) -> bool {
        let address = Mailbox::parse(address, Utf8::Allowed).unwrap();
        SendAs::parse([rule]).unwrap().allows(&address)
    }

    #[test]
    fn rules_allow_what_they_say_and_no_more() {
        for (rule, yes, no) in [
            ("joe@example.org", "Joe@EXAMPLE.org", "joe+x@example.org"),
            ("joe@example.org", "\"joe\"@example.org", "joe@a.example.org"),
            ("joe+*@example.org", "joe+@example.org", "joe@example.org"),
            ("joe+*@example.org", "joe+a+b@example.org", "xjoe+a@example.org"),
            ("*-bounces@example.org", "list-bounces@example.org", "list-bounces2@example.org"),
            ("a*b*c@example.org", "axbybc@example.org", "axbyb@example.org"),
            ("*@example.org", "\"a b\"@example.org", "a@sub.example.org"),
            ("example.org", "a@example.org", "a@notexample.org"),
            ("*.example.org", "a@b.example.org", "a@example.org"),
            ("*@*.example.org", "a@b.c.example.org", "a@example.org.evil.test"),
            ("news@*", "news@anywhere.test", "new@anywhere.test"),
            ("\"a*\"@example.org", "\"a*\"@example.org", "ab@example.org"),
            ("\"a@b\"@example.org", "\"a@b\"@example.org", "a@example.org"),
            ("jörg@bücher.example", "JÖRG@xn--bcher-kva.example", "jorg@xn--bcher-kva.example"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]", "a@[192.0.2.2]"),
        ] {
            assert!(allowed(rule, yes), "{rule} should allow {yes}");
            assert!(!allowed(rule, no), "{rule} should not allow {no}");
        }
        assert!(allowed("*", "anybody@[IPv6:::1]"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in ["", "@", "a@", "@b", "a b@c", "**.b", "a@*.", "a@*x.org", "a\r\n@b", "*@*.*", "a@b@c"] {
            assert!(SendAs::parse([bad]).is_err(), "{bad:?}");
        }
        assert!(SendAs::parse((0..1001).map(|n| format!("a{n}@b"))).is_err());
    }

    #[test]
    fn an_account_sends_as_itself_if_its_name_is_an_address() {
        assert_eq!(SendAs::own("joe@example.org").describe(), "joe@example.org");
        assert!(SendAs::own("joe").is_empty() && SendAs::own("*").is_empty());
        for name in ["\"*\"@example.org", "*@example.org"] {
            assert!(!SendAs::own(name).allows(&Mailbox::parse("a@example.org", Utf8::Allowed).unwrap()), "{name}");
        }
    }

    #[test]
    fn addresses_that_others_wrote_are_no_patterns() {
        for bad in ["*", "*@example.org", "joe+*@example.org", "example.org", "*.example.org", "joe@*", ""] {
            assert!(matches!(SendAs::address(bad), Err(SendAsError::Address(_))), "{bad:?}");
        }
        let star = SendAs::address("\"*\"@example.org").unwrap();
        assert!(!star.allows(&Mailbox::parse("joe@example.org", Utf8::Allowed).unwrap()));
        assert_eq!(SendAs::address("joe@example.org").unwrap().describe(), "joe@example.org");
        let mut many = SendAs::parse((0..999).map(|n| format!("a{n}@b"))).unwrap();
        assert_eq!(many.add(star.clone()), Ok(()));
        assert_eq!(many.add(star), Err(SendAsError::TooMany));
    }

    #[test]
    fn descriptions_are_short() {
        assert_eq!(SendAs::default().describe(), "no address");
        assert_eq!(SendAs::parse(["a@b", "*@c"]).unwrap().describe(), "a@b, *@c");
        let many = SendAs::parse((0..500).map(|n| format!("someone{n}@example.org"))).unwrap().describe();
        assert!(many.len() < 330 && many.ends_with("more"), "{many}");
    }

    proptest! {
        #[test]
        fn whatever_is_taken_never_matches_across_the_at(rule in "[a-z*+.\"@]{1,20}", local in "[a-z+.]{1,8}") {
            if let (Ok(send_as), Ok(address)) = (SendAs::parse([&rule]), Mailbox::parse(&format!("{local}@else.test"), Utf8::Refused)) {
                let hosts_all = rule == "*" || rule.ends_with("@*");
                prop_assert_eq!(send_as.allows(&address) && !hosts_all, false, "{}", rule);
            }
        }
    }
}
