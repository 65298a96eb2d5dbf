//! Names of messages: 128 bits, ordered by time, never reused, printed in 26 characters.

use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::random::Randomness;
use crate::time::Timestamp;

/// Digits of Crockford's base 32, lower-case: no i, l, o, u.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of the text form: 26 digits of five bits hold 130 bits.
pub const TEXT_LENGTH: usize = 26;

/// The queue id of a message: 48 bits of milliseconds since 1970, then 80 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

impl MessageId {
    /// The smallest and the largest possible id, as bounds of ranges.
    pub const MIN: MessageId = MessageId(0);
    /// The largest possible id.
    pub const MAX: MessageId = MessageId(u128::MAX);

    /// From its number, as the store keeps it.
    pub const fn from_u128(number: u128) -> Self {
        Self(number)
    }

    /// Its number: ids compare as their numbers do.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// When the id was made.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis((self.0 >> 80) as u64)
    }

    /// Reads the 26 characters, in either case.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        if bytes.len() != TEXT_LENGTH || bytes[0] > b'7' {
            return Err(InvalidId);
        }
        let mut number = 0u128;
        for byte in bytes {
            let lower = byte.to_ascii_lowercase();
            let digit = DIGITS.iter().position(|d| *d == lower).ok_or(InvalidId)?;
            number = (number << 5) | digit as u128;
        }
        Ok(Self(number))
    }
}

/// The text is no queue id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a queue id has 26 characters of 0-9 and a-z without i, l, o, u")]
pub struct InvalidId;

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LENGTH];
        for (at, byte) in text.iter_mut().rev().enumerate() {
            *byte = DIGITS[((self.0 >> (5 * at)) & 31) as usize];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

impl std::str::FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text)
    }
}

/// Text for people, 128 bits for records.
impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Self::parse(&text).map_err(de::Error::custom)
        } else {
            u128::deserialize(deserializer).map(Self)
        }
    }
}

/// Makes ids: each larger than the one before, also when the clock stands still or goes back.
#[derive(Debug)]
pub struct MessageIds {
    randomness: Randomness,
    last: Mutex<u128>,
}

impl MessageIds {
    /// A new line of ids.
    pub fn new(randomness: Randomness) -> Self {
        Self { randomness, last: Mutex::new(0) }
    }

    /// The next id.
    pub fn next(&self, now: Timestamp) -> MessageId {
        let time = u128::from(now.as_millis() & ((1 << 48) - 1)) << 80;
        let random = (u128::from(self.randomness.next_u64()) << 16) | u128::from(self.randomness.next_u64() >> 48);
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A step of up to 2^32 keeps ids of one millisecond unguessable from each other and far from wrapping.
        let step = 1 + (random & 0xffff_ffff);
        *last = (time | random).max(last.saturating_add(step));
        MessageId(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips_and_keeps_the_order(a in any::<u128>(), b in any::<u128>()) {
            let (x, y) = (MessageId::from_u128(a), MessageId::from_u128(b));
            prop_assert_eq!(MessageId::parse(&x.to_string()), Ok(x));
            prop_assert_eq!(x.cmp(&y), x.to_string().cmp(&y.to_string()));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), almost in "[0-9a-zA-Z]{26}") {
            let _ = MessageId::parse(&text);
            let _ = MessageId::parse(&almost);
        }
    }

    #[test]
    fn ids_grow_even_when_the_clock_goes_back() {
        let ids = MessageIds::new(Randomness::seeded(1));
        let mut last = MessageId::MIN;
        for millis in [5_000, 5_000, 5_000, 1, 0, 5_001, u64::MAX] {
            let id = ids.next(Timestamp::from_millis(millis));
            assert!(id > last);
            last = id;
        }
    }

    #[test]
    fn an_id_tells_its_time() {
        let ids = MessageIds::new(Randomness::seeded(2));
        let now = Timestamp::from_millis(1_800_000_000_123);
        assert_eq!(ids.next(now).timestamp(), now);
    }
}
