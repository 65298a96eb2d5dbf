//! Counts of what was sent, in slots of time that go by.

use std::time::Duration;

use mail::Timestamp;
use serde::{Deserialize, Serialize};

/// Messages and recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) messages: u32,
    pub(crate) recipients: u32,
}

/// What was sent in the last `SLOTS` slots of `SECONDS` each, and in the one that goes on.
///
/// A window of that length that ends now is counted whole: the slot that it cuts into counts as if it had been sent at its
/// end. So no limit is ever exceeded, and waiting takes a slot too long at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Series<const SECONDS: u64, const SLOTS: u64> {
    /// By number since 1970, rising.
    slots: Vec<(u64, Sent)>,
}

impl<const SECONDS: u64, const SLOTS: u64> Series<SECONDS, SLOTS> {
    fn number(now: Timestamp) -> u64 {
        now.as_secs() / SECONDS
    }

    /// Forgets what lies too far back, and what lies ahead since the clock was set back.
    fn sweep(&mut self, now: Timestamp) {
        let current = Self::number(now);
        self.slots.retain(|(number, _)| (current.saturating_sub(SLOTS)..=current).contains(number));
    }

    pub(crate) fn add(&mut self, sent: Sent, now: Timestamp) {
        self.sweep(now);
        let current = Self::number(now);
        match self.slots.last_mut() {
            Some((number, slot)) if *number == current => slot.add(sent),
            _ => self.slots.push((current, sent)),
        }
    }

    /// Takes back what turned out not to be sent.
    pub(crate) fn take_back(&mut self, sent: Sent) {
        if let Some((_, slot)) = self.slots.last_mut() {
            slot.messages = slot.messages.saturating_sub(sent.messages);
            slot.recipients = slot.recipients.saturating_sub(sent.recipients);
        }
    }

    /// All of the window that ends now.
    pub(crate) fn total(&self, now: Timestamp) -> Sent {
        let mut total = Sent::default();
        self.within(now).for_each(|(_, sent)| total.add(*sent));
        total
    }

    /// From when on there is room for `more` under `limit`; `None` if never. `now` if there is.
    pub(crate) fn room_from(&self, of: fn(Sent) -> u32, more: u32, limit: u32, now: Timestamp) -> Option<Timestamp> {
        let room = limit.checked_sub(more)?;
        let mut sum = of(self.total(now));
        let mut from = now;
        for (number, sent) in self.within(now) {
            if sum <= room {
                break;
            }
            sum -= of(*sent).min(sum);
            from = Timestamp::from_millis((number + 1 + SLOTS) * SECONDS * 1000);
        }
        Some(from)
    }

    /// The slots that are over, oldest first.
    pub(crate) fn past(&self, now: Timestamp) -> impl Iterator<Item = Sent> {
        let current = Self::number(now);
        self.within(now).filter(move |(number, _)| *number < current).map(|(_, sent)| *sent)
    }

    fn within(&self, now: Timestamp) -> impl Iterator<Item = &(u64, Sent)> {
        let current = Self::number(now);
        self.slots.iter().filter(move |(number, _)| (current.saturating_sub(SLOTS)..=current).contains(number))
    }

    /// How long a series is of use after the last change.
    pub(crate) const fn memory() -> Duration {
        Duration::from_secs(SECONDS * (SLOTS + 1))
    }
}

impl Sent {
    /// One message.
    pub(crate) fn message(recipients: usize) -> Self {
        Self { messages: 1, recipients: u32::try_from(recipients).unwrap_or(u32::MAX) }
    }

    fn add(&mut self, more: Sent) {
        self.messages = self.messages.saturating_add(more.messages);
        self.recipients = self.recipients.saturating_add(more.recipients);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Hour = Series<300, 12>;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis((1_000_000 * 3600 + minutes * 60) * 1000)
    }

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let mut hour = Hour::default();
        hour.add(Sent::message(3), at(1));
        hour.add(Sent::message(4), at(31));
        assert_eq!(hour.total(at(60)), Sent { messages: 2, recipients: 7 });
        assert_eq!(hour.total(at(64)), Sent { messages: 2, recipients: 7 }, "not before a whole hour after its slot");
        assert_eq!(hour.total(at(65)), Sent { messages: 1, recipients: 4 });
        assert_eq!(hour.total(at(95)), Sent::default());
        // The clock was set back: what lies ahead is forgotten.
        assert_eq!(hour.total(at(20)), Sent { messages: 1, recipients: 3 });
    }

    #[test]
    fn it_tells_when_there_is_room_again() {
        let mut hour = Hour::default();
        hour.add(Sent::message(3), at(1));
        hour.add(Sent::message(4), at(31));
        let recipients = |sent: Sent| sent.recipients;
        assert_eq!(hour.room_from(recipients, 3, 10, at(40)), Some(at(40)));
        assert_eq!(hour.room_from(recipients, 4, 10, at(40)), Some(at(65)));
        assert_eq!(hour.room_from(recipients, 8, 10, at(40)), Some(at(95)));
        assert_eq!(hour.room_from(recipients, 11, 10, at(40)), None);
        // There really is, then, and not a moment earlier.
        assert!(hour.total(at(65)).recipients + 4 <= 10);
        assert!(hour.total(Timestamp::from_millis(at(65).as_millis() - 1)).recipients + 4 > 10);
    }

    #[test]
    fn what_was_not_sent_is_taken_back() {
        let mut hour = Hour::default();
        hour.add(Sent::message(3), at(1));
        hour.take_back(Sent::message(5));
        assert_eq!(hour.total(at(1)), Sent::default());
    }
}
