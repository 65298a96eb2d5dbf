//! Relay control: for whom mail is taken, and from whom for anybody.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use mail::address::AddressError;
use mail::{Domain, EnhancedCode, ForwardPath, Host, Mailbox, Reply};

use crate::network::Networks;

/// For whom a listener takes mail.
///
/// A recipient is taken if its domain is one of `domains`, or if the client is [trusted](Client::Trusted): such clients may
/// send to anywhere. Everything else gets 550 5.7.1. The bare `<postmaster>` is always taken (RFC 5321 §4.5.1); who the
/// sender is makes no difference.
///
/// Addresses that hide another address in their local part don't get round this: `user%other@ours`, `other!user@ours`,
/// `"user@other"@ours` are refused to strangers (unless [`OddLocalParts::Accept`]), because a server behind us may still
/// follow them. Source routes (`<@a,@b:user@ours>`) are stripped by the grammar and count for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    /// Domains that we take mail for.
    pub domains: HashSet<DomainPattern>,
    /// Address literals that we take mail for, as `user@[192.0.2.1]`; our own addresses, if any.
    pub literals: HashSet<IpAddr>,
    /// The operator's own clients. They may send to anywhere, but not on listeners for submission: there, only an account
    /// makes a client trusted.
    pub networks: Networks,
    /// What becomes of `%`, `!` and `@` in the local parts of our domains.
    pub odd_local_parts: OddLocalParts,
}

/// A domain itself, or all domains below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DomainPattern {
    /// `example.org`: this domain alone.
    Exact(Domain),
    /// `*.example.org`: everything below it, itself not.
    Below(Domain),
}

/// What becomes of local parts that hold `%`, `!` or `@` (in quotes), sent to our domains by strangers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OddLocalParts {
    /// 550 5.7.1.
    #[default]
    Refuse,
    /// They are plain characters: for domains that really have such mailboxes, when no server behind us takes them for
    /// routes.
    Accept,
}

/// What a client is to relay control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// It may send to anywhere: by its address, its account or its certificate.
    Trusted,
    /// Anybody.
    Stranger,
}

/// What relay control says of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The recipient is ours.
    Ours,
    /// The client may send to anywhere.
    Trusted,
    /// Neither.
    RelayDenied,
    /// The domain is ours, and the local part hides another address.
    HiddenRoute,
}

impl Relay {
    /// Takes mail for anybody from `networks`, and for nobody from anywhere else.
    pub fn from_networks(networks: Networks) -> Self {
        Self { networks, ..Self::default() }
    }

    /// May this client send to `recipient`?
    pub fn judge(&self, client: Client, recipient: &ForwardPath) -> Verdict {
        if client == Client::Trusted {
            return Verdict::Trusted;
        }
        let Some(mailbox) = recipient.mailbox() else { return Verdict::Ours };
        if !self.is_ours(&mailbox.host) {
            return Verdict::RelayDenied;
        }
        if self.odd_local_parts == OddLocalParts::Refuse && hides_a_route(mailbox) {
            return Verdict::HiddenRoute;
        }
        Verdict::Ours
    }

    fn is_ours(&self, host: &Host) -> bool {
        match host {
            Host::Domain(domain) => self.covers(domain),
            Host::Literal(address) => self.literals.contains(&address.to_canonical()),
        }
    }

    fn covers(&self, domain: &Domain) -> bool {
        if self.domains.contains(&DomainPattern::Exact(domain.clone())) {
            return true;
        }
        // A name has at most 127 labels, so this ends soon.
        let mut rest = domain.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if Domain::parse(parent).is_ok_and(|parent| self.domains.contains(&DomainPattern::Below(parent))) {
                return true;
            }
            rest = parent;
        }
        false
    }
}

/// Whether some server could read another address out of the local part: `%` (the percent hack), `!` (UUCP), or an `@`,
/// which needs quotes or a backslash to stand there.
fn hides_a_route(mailbox: &Mailbox) -> bool {
    let plain: Cow<'_, str> = mailbox.local.unquoted();
    plain.contains(['%', '!', '@'])
}

impl Verdict {
    /// Whether the recipient is taken.
    pub fn is_accepted(self) -> bool {
        matches!(self, Verdict::Ours | Verdict::Trusted)
    }

    /// The refusal for a client at `peer`, unless the recipient is taken.
    pub fn refusal(self, peer: IpAddr) -> Option<Reply> {
        let policy = EnhancedCode::new(5, 7, 1);
        match self {
            Verdict::Ours | Verdict::Trusted => None,
            Verdict::RelayDenied => Some(Reply::new(
                550,
                policy,
                format!(
                    "relaying denied: the recipient's domain is not ours and {} may not relay here",
                    peer.to_canonical()
                ),
            )),
            Verdict::HiddenRoute => Some(Reply::new(
                550,
                policy,
                "relaying denied: %, ! and quoted @ in the local part are not followed here",
            )),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("*.") {
            Some(parent) => Domain::parse(parent).map(DomainPattern::Below),
            None => Domain::parse(text).map(DomainPattern::Exact),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainPattern::Exact(domain) => domain.fmt(f),
            DomainPattern::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::Utf8;

    const STRANGER: &str = "203.0.113.9";
    const FRIEND: &str = "192.0.2.7";

    fn relay() -> Relay {
        Relay {
            domains: ["example.org", "*.wild.example"].iter().map(|d| d.parse().unwrap()).collect(),
            networks: ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
            ..Relay::default()
        }
    }

    fn judge(relay: &Relay, peer: &str, path: &str) -> Verdict {
        let (path, _) = mail::path::take_forward(path, Utf8::Allowed).unwrap();
        let trusted = relay.networks.contains(peer.parse().unwrap());
        relay.judge(if trusted { Client::Trusted } else { Client::Stranger }, &path)
    }

    #[test]
    fn our_domains_are_taken_from_anybody() {
        for ours in [
            "<a@example.org>",
            "<a@EXAMPLE.ORG>",
            "<a@x.wild.example>",
            "<a@y.x.wild.example>",
            "<Postmaster>",
            r#"<"a b"@example.org>"#,
            // Only the mailbox behind the source route counts.
            "<@elsewhere.example:a@example.org>",
        ] {
            assert_eq!(judge(&relay(), STRANGER, ours), Verdict::Ours, "{ours}");
        }
    }

    #[test]
    fn other_domains_are_taken_from_our_networks_alone() {
        for other in [
            "<a@example.com>",
            "<a@wild.example>",
            "<a@anexample.org>",
            "<a@sub.example.org>",
            "<a@[127.0.0.1]>",
            "<a@[IPv6:::1]>",
            "<@example.org:a@example.com>",
        ] {
            assert_eq!(judge(&relay(), STRANGER, other), Verdict::RelayDenied, "{other}");
            assert_eq!(judge(&relay(), FRIEND, other), Verdict::Trusted, "{other}");
            assert_eq!(judge(&relay(), "::ffff:192.0.2.7", other), Verdict::Trusted, "{other}");
        }
    }

    #[test]
    fn addresses_hidden_in_the_local_part_are_refused_to_strangers() {
        let accepting = Relay { odd_local_parts: OddLocalParts::Accept, ..relay() };
        for trick in [
            "<user%example.com@example.org>",
            "<example.com!user@example.org>",
            r#"<"user@example.com"@example.org>"#,
            r#"<"user\@example.com"@example.org>"#,
            r#"<"user%example.com"@example.org>"#,
            r#"<"@example.com:user"@example.org>"#,
            r#"<"user\%example.com"@x.wild.example>"#,
        ] {
            assert_eq!(judge(&relay(), STRANGER, trick), Verdict::HiddenRoute, "{trick}");
            assert_eq!(judge(&relay(), FRIEND, trick), Verdict::Trusted, "{trick}");
            assert_eq!(judge(&accepting, STRANGER, trick), Verdict::Ours, "{trick}");
        }
    }

    #[test]
    fn literals_are_ours_when_listed() {
        let relay = Relay { literals: ["192.0.2.1".parse().unwrap()].into(), ..relay() };
        assert_eq!(judge(&relay, STRANGER, "<a@[192.0.2.1]>"), Verdict::Ours);
        assert_eq!(judge(&relay, STRANGER, "<a@[IPv6:::ffff:192.0.2.1]>"), Verdict::Ours);
        assert_eq!(judge(&relay, STRANGER, "<a@[192.0.2.2]>"), Verdict::RelayDenied);
    }

    #[test]
    fn patterns_print_as_they_were_written() {
        for text in ["example.org", "*.example.org"] {
            assert_eq!(text.parse::<DomainPattern>().unwrap().to_string(), text);
        }
        assert!("*".parse::<DomainPattern>().is_err());
        assert!("a.*.example".parse::<DomainPattern>().is_err());
    }
}
