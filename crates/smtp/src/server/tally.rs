//! Counts what a session has done, so that it cannot go on for ever to no purpose.

use std::time::Duration;

use super::limits::Limits;

/// The counters of one session.
#[derive(Debug, Default)]
pub(super) struct Tally {
    commands: u32,
    errors: u32,
    junk: u32,
    transactions: u32,
}

/// What follows from an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The reply goes out after this time; zero at first.
    Delay(Duration),
    /// It is enough.
    Over,
}

impl Tally {
    /// One more command; whether there are too many.
    pub(super) fn command(&mut self, limits: &Limits) -> bool {
        self.commands = self.commands.saturating_add(1);
        self.commands > limits.commands
    }

    /// One more junk command; whether there are too many.
    pub(super) fn junk(&mut self, limits: &Limits) -> bool {
        self.junk = self.junk.saturating_add(1);
        self.junk > limits.junk
    }

    /// One more transaction; whether there are too many.
    pub(super) fn transaction(&mut self, limits: &Limits) -> bool {
        self.transactions = self.transactions.saturating_add(1);
        self.transactions > limits.transactions
    }

    /// One more error.
    pub(super) fn error(&mut self, limits: &Limits) -> Patience {
        self.errors = self.errors.saturating_add(1);
        if self.errors > limits.errors {
            return Patience::Over;
        }
        let Some(doublings) = self.errors.checked_sub(limits.errors_undelayed + 1) else {
            return Patience::Delay(Duration::ZERO);
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        Patience::Delay(limits.delay.saturating_mul(factor).min(limits.delay_most))
    }

    /// A message was accepted: the peer is good for something after all.
    pub(super) fn forgive(&mut self) {
        self.errors = 0;
        self.junk = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_its_limit_and_then_it_is_over() {
        let limits = Limits { errors: 8, errors_undelayed: 2, ..Limits::default() };
        let mut tally = Tally::default();
        for seconds in [0, 0, 1, 2, 4, 8, 10, 10] {
            assert_eq!(tally.error(&limits), Patience::Delay(Duration::from_secs(seconds)));
        }
        assert_eq!(tally.error(&limits), Patience::Over);
        tally.forgive();
        assert_eq!(tally.error(&limits), Patience::Delay(Duration::ZERO));
    }

    #[test]
    fn no_number_of_errors_overflows() {
        let limits = Limits { errors: u32::MAX, errors_undelayed: 0, ..Limits::default() };
        let mut tally = Tally { errors: 100, ..Tally::default() };
        assert_eq!(tally.error(&limits), Patience::Delay(limits.delay_most));
        let mut tally = Tally { errors: u32::MAX, ..Tally::default() };
        assert_eq!(tally.error(&limits), Patience::Delay(limits.delay_most));
    }
}
