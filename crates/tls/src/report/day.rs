//! A day in UTC, the time that one report covers (RFC 8460 §4.1).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mail::Timestamp;

const MILLIS: u64 = 24 * 60 * 60 * 1000;

/// A day in UTC, printed as `2026-11-21`; in order of time, also as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(u64);

impl Day {
    /// The day of a moment.
    pub fn of(moment: Timestamp) -> Self {
        Self(moment.as_millis() / MILLIS)
    }

    /// Its first moment.
    pub fn start(self) -> Timestamp {
        Timestamp::from_millis(self.0 * MILLIS)
    }

    /// The first moment of the next one.
    pub fn end(self) -> Timestamp {
        self.start() + Duration::from_millis(MILLIS)
    }

    /// So many days before.
    pub fn back(self, days: u64) -> Self {
        Self(self.0.saturating_sub(days))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.start().to_string().split('T').next().unwrap_or_default())
    }
}

/// The text is no day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a day is written as 2026-11-21")]
pub struct NoDay;

impl FromStr for Day {
    type Err = NoDay;

    fn from_str(text: &str) -> Result<Self, NoDay> {
        let mut parts = text.splitn(3, '-').map(|part| part.parse::<u64>().ok());
        let (Some(Some(year)), Some(Some(month @ 1..=12)), Some(Some(day @ 1..=31))) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(NoDay);
        };
        if !(1970..10_000).contains(&year) {
            return Err(NoDay);
        }
        // Years start in March here, so that a leap day is the last of its year.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
        let found = Self(days.checked_sub(719_468).ok_or(NoDay)?);
        if found.to_string() == text { Ok(found) } else { Err(NoDay) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let moment = Timestamp::from_millis(1_795_253_400_000);
        assert_eq!(Day::of(moment).to_string(), "2026-11-21");
        assert_eq!(Day::of(moment).end().to_string(), "2026-11-22T00:00:00.000Z");
        for bad in ["2026-02-29", "2026-13-01", "2026-1-1", "today", "", "1969-12-31"] {
            assert!(bad.parse::<Day>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_form_round_trips(number in 0u64..2_900_000) {
            let day = Day(number);
            prop_assert_eq!(day.to_string().parse(), Ok(day));
        }
    }
}
