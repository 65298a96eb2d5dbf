//! How long a session has waited for its peer, and how long it will.
//!
//! Only waiting counts: while the driver answers a question, writes, or stops reading because memory is short, the
//! peer cannot be blamed. The session as a whole has a limit that runs on all the time.

use std::time::{Duration, Instant};

use super::limits::Limits;
use super::reason::CloseReason;

/// The clocks of one session.
#[derive(Debug)]
pub(super) struct Timer {
    opened: Instant,
    /// Since when the session waits for input.
    since: Option<Instant>,
    /// How long it has waited in this phase before that.
    waited: Duration,
    pace: Pace,
}

/// What is waited for.
#[derive(Debug)]
enum Pace {
    Command,
    Content { octets: u64 },
}

impl Timer {
    pub(super) fn new(now: Instant) -> Self {
        Self { opened: now, since: None, waited: Duration::ZERO, pace: Pace::Command }
    }

    /// A new command line is waited for.
    pub(super) fn command(&mut self) {
        self.begin(Pace::Command);
    }

    /// Content is waited for.
    pub(super) fn content(&mut self) {
        self.begin(Pace::Content { octets: 0 });
    }

    /// The session has nothing more to do without input.
    pub(super) fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Input has come.
    pub(super) fn input(&mut self, octets: usize, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        if let Pace::Content { octets: all } = &mut self.pace {
            *all = all.saturating_add(octets as u64);
        }
    }

    /// The session waits for something else than input.
    pub(super) fn pause(&mut self, now: Instant) {
        self.input(0, now);
    }

    /// When the patience ends and which; `None` while nothing is waited for.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<(Instant, CloseReason)> {
        let since = self.since?;
        let after = |patience: Duration| since.checked_add(patience.saturating_sub(self.waited));
        let session = (self.opened.checked_add(limits.session_time), CloseReason::SessionTime);
        let phase = match self.pace {
            Pace::Command => [(after(limits.command_time), CloseReason::CommandTime); 3],
            Pace::Content { octets } => [
                (since.checked_add(limits.content_idle), CloseReason::ContentIdle),
                (after(limits.content_time), CloseReason::ContentTime),
                (owed(octets, limits).and_then(after), CloseReason::Rate),
            ],
        };
        let deadlines = phase.into_iter().chain([session]);
        deadlines.filter_map(|(at, reason)| Some((at?, reason))).min_by_key(|(at, _)| *at)
    }

    fn begin(&mut self, pace: Pace) {
        self.pace = pace;
        self.since = None;
        self.waited = Duration::ZERO;
    }
}

/// How much waiting so many octets have earned.
fn owed(octets: u64, limits: &Limits) -> Option<Duration> {
    let millis = octets.saturating_mul(1000).checked_div(u64::from(limits.rate))?;
    Some(limits.rate_grace.saturating_add(Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            command_time: 10 * SECOND,
            content_idle: 5 * SECOND,
            content_time: 60 * SECOND,
            rate: 100,
            rate_grace: 3 * SECOND,
            session_time: 1000 * SECOND,
            ..Limits::default()
        }
    }

    #[test]
    fn a_line_in_pieces_has_no_more_time_than_a_whole_one() {
        let start = Instant::now();
        let mut timer = Timer::new(start);
        assert_eq!(timer.deadline(&limits()), None);
        timer.wait(start);
        timer.input(1, start + 4 * SECOND);
        timer.wait(start + 4 * SECOND);
        assert_eq!(timer.deadline(&limits()), Some((start + 10 * SECOND, CloseReason::CommandTime)));
        timer.command();
        timer.wait(start + 9 * SECOND);
        assert_eq!(timer.deadline(&limits()), Some((start + 19 * SECOND, CloseReason::CommandTime)));
    }

    #[test]
    fn our_own_time_is_not_the_peers() {
        let start = Instant::now();
        let mut timer = Timer::new(start);
        timer.content();
        timer.wait(start);
        timer.input(100, start + SECOND);
        timer.wait(start + 100 * SECOND);
        // One second waited, one earned beside the grace of three.
        assert_eq!(timer.deadline(&limits()), Some((start + 103 * SECOND, CloseReason::Rate)));
    }

    #[test]
    fn content_may_not_stall_and_not_last() {
        let start = Instant::now();
        let mut timer = Timer::new(start);
        timer.content();
        timer.input(1_000_000, start);
        timer.wait(start);
        assert_eq!(timer.deadline(&limits()), Some((start + 5 * SECOND, CloseReason::ContentIdle)));
        timer.input(1, start + 4 * SECOND);
        let mut at = start + 4 * SECOND;
        for _ in 0..14 {
            timer.wait(at);
            at += 4 * SECOND;
            timer.input(1, at);
        }
        timer.wait(at);
        assert_eq!(timer.deadline(&limits()), Some((start + 60 * SECOND, CloseReason::ContentTime)));
        let no_rate = Limits { rate: 0, content_time: Duration::MAX, session_time: 61 * SECOND, ..limits() };
        assert_eq!(timer.deadline(&no_rate), Some((start + 61 * SECOND, CloseReason::SessionTime)));
    }
}
