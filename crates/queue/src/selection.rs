//! What an operator's command is about.

use std::fmt;
use std::time::Duration;

use mail::{Domain, Envelope, Host, MessageId, Site, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Delivery, StoredMessage};

use crate::verdict;

/// A choice of recipients in the queue: all conditions that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// This message.
    pub id: Option<MessageId>,
    /// Recipients whose address fits.
    pub recipient: Option<Pattern>,
    /// Recipients of this domain.
    pub domain: Option<Domain>,
    /// Messages whose reverse-path fits; the null one is `<>`.
    pub sender: Option<Pattern>,
    /// Messages that this account submitted.
    pub account: Option<String>,
    /// Mail that goes to this site.
    pub site: Option<Site>,
    /// Messages accepted at least so long ago.
    pub older_than: Option<Duration>,
    /// Everything: must be said if there is no condition.
    pub all: bool,
}

/// An address, or a part of one with `*` for any text. Letter case does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// The pattern is empty, too long, or has too many `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has 1 to 320 characters and at most 8 `*`")]
pub struct PatternError;

impl Selection {
    /// Everything.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// One message.
    pub fn message(id: MessageId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Whether it says nothing at all, not even "all".
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the message as a whole may be meant.
    pub(crate) fn fits_message(&self, stored: &StoredMessage, now: Timestamp) -> bool {
        let envelope = &stored.envelope;
        let sender = || match envelope.reverse_path.mailbox() {
            Some(mailbox) => mailbox.to_string(),
            None => "<>".to_owned(),
        };
        self.id.is_none_or(|id| id == stored.id)
            && self.older_than.is_none_or(|age| now.since(envelope.received_at) >= age)
            && self.account.as_ref().is_none_or(|account| envelope.account.as_ref() == Some(account))
            && self.sender.as_ref().is_none_or(|pattern| pattern.fits(&sender()))
    }

    /// The recipients of a delivery that are meant, by place in the envelope; without those that are final, if only
    /// the others count.
    pub(crate) fn recipients(&self, envelope: &Envelope, delivery: &Delivery, final_too: bool) -> Vec<u32> {
        let meant = delivery.recipients.iter().filter(|recipient| final_too || verdict::is_pending(recipient));
        meant.map(|recipient| recipient.index).filter(|index| self.fits_recipient(envelope, *index)).collect()
    }

    fn fits_recipient(&self, envelope: &Envelope, index: u32) -> bool {
        let Some(recipient) = envelope.recipients.get(index as usize) else { return false };
        let address = || match recipient.path.mailbox() {
            Some(mailbox) => mailbox.to_string(),
            None => "postmaster".to_owned(),
        };
        let host = recipient.path.mailbox().map(|mailbox| &mailbox.host);
        self.domain.as_ref().is_none_or(|domain| host.and_then(Host::domain) == Some(domain))
            && self.recipient.as_ref().is_none_or(|pattern| pattern.fits(&address()))
    }
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > 320 || text.matches('*').count() > 8 {
            return Err(PatternError);
        }
        Ok(Self(text.to_lowercase()))
    }

    /// Whether the text fits.
    pub fn fits(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let Some((head, rest)) = self.0.split_once('*') else { return text == self.0 };
        let Some(mut left) = text.strip_prefix(head) else { return false };
        // What lies between the first and the last star, and what follows the last.
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The earliest place for each part leaves the most for the next one.
        for part in middle.split('*') {
            match left.find(part) {
                Some(at) => left = &left[at + part.len()..],
                None => return false,
            }
        }
        left.ends_with(tail)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("a@b.example", "A@b.example", true),
            ("a@b.example", "aa@b.example", false),
            ("*@b.example", "anyone@b.example", true),
            ("*@b.example", "anyone@bb.example", false),
            ("news-*@*.example", "news-7@b.example", true),
            ("news-*@*.example", "news-7@example", false),
            ("*", "<>", true),
            ("<>", "<>", true),
            ("a*a", "a", false),
            ("a*b*c", "abcbc", true),
            ("a*bc*bc", "abc", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().fits(text), fits, "{pattern} {text}");
        }
        assert!(Pattern::parse("").is_err());
        assert!(Pattern::parse("*********").is_err());
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_it_was_made_from(parts in proptest::collection::vec("[ab@.]{0,4}", 1..5), fill in "[ab]{0,3}") {
            if let Ok(pattern) = Pattern::parse(&parts.join("*")) {
                prop_assert!(pattern.fits(&parts.join(&fill)));
            }
        }
    }
}
