//! What one account has sent, what that allows, and whether it is like it (pure arithmetic).

use std::time::Duration;

use mail::Timestamp;
use serde::{Deserialize, Serialize};

use super::series::{Sent, Series};

/// Slots of five minutes for an hour, of an hour for a day, of a day for two weeks.
type Hour = Series<300, 12>;
type Day = Series<3600, 24>;
type Fortnight = Series<86_400, 14>;

/// How much an account may send. Beyond: 450 4.7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountLimits {
    /// Messages in an hour. 300.
    pub messages_per_hour: u32,
    /// Messages in a day. 1,500.
    pub messages_per_day: u32,
    /// Recipients in an hour. 1,000.
    pub recipients_per_hour: u32,
    /// Recipients in a day. 5,000.
    pub recipients_per_day: u32,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self { messages_per_hour: 300, messages_per_day: 1500, recipients_per_hour: 1000, recipients_per_day: 5000 }
    }
}

/// What is a spike: more recipients in 24 hours than `floor`, and than `factor` times what the account's days have on
/// average. Days are those of the last two weeks on which it sent anything, today excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpikeRule {
    /// What no account is held for. 250.
    pub floor: u32,
    /// How many times the usual is too much. 5.
    pub factor: u32,
}

impl Default for SpikeRule {
    fn default() -> Self {
        Self { floor: 250, factor: 5 }
    }
}

/// The record of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountUse {
    hour: Hour,
    day: Day,
    days: Fortnight,
    /// As `day`, but begun anew when an operator released the account.
    watched: Day,
    pub(crate) held: Option<Spike>,
}

/// Why an account's mail is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spike {
    /// Since when.
    pub at: Timestamp,
    /// Recipients in the 24 hours before.
    pub recipients: u32,
    /// How many would have been like it.
    pub usual: u32,
}

/// What an account has sent, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseSummary {
    /// The account.
    pub account: String,
    /// Messages in the last hour.
    pub messages_hour: u32,
    /// Recipients in the last hour.
    pub recipients_hour: u32,
    /// Messages in the last 24 hours.
    pub messages_day: u32,
    /// Recipients in the last 24 hours.
    pub recipients_day: u32,
    /// Recipients on an average day of the last two weeks.
    pub usual_day: u32,
    /// Why its mail is held, if it is.
    pub held: Option<Spike>,
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) limit: u32,
    pub(crate) what: &'static str,
    /// When there is room again; never for a limit of nothing.
    pub(crate) again: Option<Timestamp>,
}

impl AccountUse {
    /// Whether so much more may be sent now. Of several limits the one counts that lasts longest.
    pub(crate) fn room(&self, more: Sent, limits: &AccountLimits, now: Timestamp) -> Result<(), Over> {
        let messages: fn(Sent) -> u32 = |sent| sent.messages;
        let recipients: fn(Sent) -> u32 = |sent| sent.recipients;
        let hour = |of, more, limit| self.hour.room_from(of, more, limit, now);
        let day = |of, more, limit| self.day.room_from(of, more, limit, now);
        let answers = [
            (limits.messages_per_hour, "messages in an hour", hour(messages, more.messages, limits.messages_per_hour)),
            (limits.messages_per_day, "messages in a day", day(messages, more.messages, limits.messages_per_day)),
            (
                limits.recipients_per_hour,
                "recipients in an hour",
                hour(recipients, more.recipients, limits.recipients_per_hour),
            ),
            (
                limits.recipients_per_day,
                "recipients in a day",
                day(recipients, more.recipients, limits.recipients_per_day),
            ),
        ];
        let over = answers.into_iter().filter(|(_, _, again)| *again != Some(now));
        let longest = over.max_by_key(|(_, _, again)| again.unwrap_or(Timestamp::MAX));
        match longest {
            Some((limit, what, again)) => Err(Over { limit, what, again }),
            None => Ok(()),
        }
    }

    /// Counts a message. Tells of the spike that it makes, if it does. What is held does not make more usual.
    pub(crate) fn count(&mut self, sent: Sent, spikes: Option<&SpikeRule>, now: Timestamp) -> Option<Spike> {
        self.hour.add(sent, now);
        self.day.add(sent, now);
        self.watched.add(sent, now);
        let begun = match spikes {
            Some(rule) if self.held.is_none() => self.spike(rule, now),
            _ => None,
        };
        self.held = self.held.or(begun);
        if self.held.is_none() {
            self.days.add(sent, now);
        }
        begun
    }

    fn spike(&self, rule: &SpikeRule, now: Timestamp) -> Option<Spike> {
        let recipients = self.watched.total(now).recipients;
        let usual = rule.floor.max(self.usual(now).saturating_mul(rule.factor));
        (recipients > usual).then_some(Spike { at: now, recipients, usual })
    }

    /// Recipients on an average day on which there were any.
    fn usual(&self, now: Timestamp) -> u32 {
        let (mut sum, mut days) = (0u64, 0u64);
        for sent in self.days.past(now).filter(|sent| sent.recipients > 0) {
            sum += u64::from(sent.recipients);
            days += 1;
        }
        u32::try_from(sum / days.max(1)).unwrap_or(u32::MAX)
    }

    /// Takes a message back that was not accepted after all.
    pub(crate) fn take_back(&mut self, sent: Sent) {
        self.hour.take_back(sent);
        self.day.take_back(sent);
        self.watched.take_back(sent);
        if self.held.is_none() {
            self.days.take_back(sent);
        }
    }

    /// An operator finds it right: what was sent until now is watched no more.
    pub(crate) fn release(&mut self) -> Option<Spike> {
        self.watched = Day::default();
        self.held.take()
    }

    /// For people.
    pub(crate) fn summary(&self, account: String, now: Timestamp) -> UseSummary {
        let (hour, day) = (self.hour.total(now), self.day.total(now));
        UseSummary {
            account,
            messages_hour: hour.messages,
            recipients_hour: hour.recipients,
            messages_day: day.messages,
            recipients_day: day.recipients,
            usual_day: self.usual(now),
            held: self.held,
        }
    }

    /// Until when the record is of use. A hold ends when an operator says so.
    pub(crate) fn expires(&self, now: Timestamp) -> Option<Timestamp> {
        const MEMORY: Duration = Fortnight::memory();
        self.held.is_none().then_some(now + MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 60;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis((20_000 * 86_400 + minutes * 60) * 1000)
    }

    fn sent(recipients: u32) -> Sent {
        Sent { messages: 1, recipients }
    }

    #[test]
    fn each_limit_holds_and_says_when_there_is_room() {
        let limits = AccountLimits {
            messages_per_hour: 2,
            messages_per_day: 3,
            recipients_per_hour: 10,
            recipients_per_day: 12,
        };
        let mut account = AccountUse::default();
        account.count(sent(4), None, at(0));
        let over = |account: &AccountUse, recipients, now| account.room(sent(recipients), &limits, now).unwrap_err();
        assert_eq!(over(&account, 7, at(1)), Over { limit: 10, what: "recipients in an hour", again: Some(at(65)) });
        account.count(sent(1), None, at(2));
        assert_eq!(over(&account, 1, at(3)), Over { limit: 2, what: "messages in an hour", again: Some(at(65)) });
        account.room(sent(7), &limits, at(65)).unwrap();
        account.count(sent(7), None, at(65));
        // Two limits of a day are reached; an hour more or less makes no difference then.
        assert_eq!(over(&account, 1, at(66)).again, Some(at(DAY + 60)));
        account.room(sent(4), &limits, at(DAY + 60)).unwrap();
        let none = AccountLimits { messages_per_day: 0, ..limits };
        assert_eq!(AccountUse::default().room(sent(1), &none, at(0)).unwrap_err().again, None);
    }

    #[test]
    fn a_new_account_is_held_at_the_floor() {
        let rule = SpikeRule { floor: 10, factor: 5 };
        let mut account = AccountUse::default();
        assert_eq!(account.count(sent(10), Some(&rule), at(0)), None);
        let spike = account.count(sent(1), Some(&rule), at(1)).unwrap();
        assert_eq!((spike.recipients, spike.usual), (11, 10));
        assert_eq!(account.count(sent(1), Some(&rule), at(2)), None, "told once");
        assert_eq!(account.held, Some(spike));
        assert_eq!(account.expires(at(2)), None);
    }

    #[test]
    fn what_is_usual_is_no_spike() {
        let rule = SpikeRule { floor: 10, factor: 5 };
        let mut account = AccountUse::default();
        // Quiet days do not count: who writes to a hundred people every Monday does what is usual.
        for day in 0..3 {
            assert_eq!(account.count(sent(10), Some(&rule), at(day * 3 * DAY)), None);
        }
        assert_eq!(account.count(sent(50), Some(&rule), at(9 * DAY)), None);
        assert!(account.count(sent(1), Some(&rule), at(9 * DAY + 1)).is_some());
    }

    #[test]
    fn what_was_released_counts_anew_and_what_was_held_is_not_usual() {
        let rule = SpikeRule { floor: 10, factor: 5 };
        let mut account = AccountUse::default();
        account.count(sent(11), Some(&rule), at(0));
        account.count(sent(500), Some(&rule), at(1));
        assert!(account.release().is_some());
        assert_eq!(account.count(sent(10), Some(&rule), at(2)), None);
        assert_eq!(account.summary(String::new(), at(DAY)).usual_day, 10);
        assert!(account.count(sent(1), Some(&rule), at(3)).is_some());
    }

    #[test]
    fn an_account_that_was_forgotten_begins_anew() {
        let mut account = AccountUse::default();
        account.count(sent(10), None, at(0));
        assert_eq!(account.summary(String::new(), at(16 * DAY)).usual_day, 0);
        assert!(account.expires(at(0)).unwrap() >= at(15 * DAY));
    }

    proptest! {
        /// Whatever is sent when there is room: no window of an hour ever holds more than the limit.
        #[test]
        fn no_hour_has_more_than_the_limit(steps in proptest::collection::vec((0u64..40, 1u32..5), 1..60)) {
            let limits = AccountLimits { recipients_per_hour: 10, ..AccountLimits::default() };
            let (mut account, mut now, mut done) = (AccountUse::default(), 0, Vec::<(u64, u32)>::new());
            for (minutes, recipients) in steps {
                now += minutes;
                if account.room(sent(recipients), &limits, at(now)).is_ok() {
                    account.count(sent(recipients), None, at(now));
                    done.push((now, recipients));
                }
                let hour: u32 = done.iter().filter(|(then, _)| now - then < 60).map(|(_, recipients)| recipients).sum();
                prop_assert!(hour <= 10);
            }
        }
    }
}
