//! What arrived for whom, how often, and in which lives of the server.

use std::collections::HashMap;

/// Where and when something arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The place of the sink among all.
    pub sink: usize,
    /// Its number at that sink.
    pub number: u64,
    /// The life in which it was sent.
    pub life: u64,
}

/// All arrivals, by the queue id of the message and by its recipient.
#[derive(Debug, Default)]
pub struct Copies(HashMap<(String, String), Vec<At>>);

impl Copies {
    /// Notes a copy.
    pub fn add(&mut self, id: String, recipient: String, at: At) {
        self.0.entry((id, recipient)).or_default().push(at);
    }

    /// Whether this message arrived for this recipient.
    pub fn has(&self, id: &str, recipient: &str) -> bool {
        self.0.contains_key(&(id.to_owned(), recipient.to_owned()))
    }

    /// How many recipients of each message got it.
    pub fn by_message(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for (id, _) in self.0.keys() {
            *counts.entry(id.as_str()).or_default() += 1;
        }
        counts
    }

    /// How many recipients got something, whatever the number of copies.
    pub fn recipients(&self) -> usize {
        self.0.len()
    }

    /// How many of them got it more than once.
    pub fn repeated(&self) -> usize {
        self.0.values().filter(|copies| copies.len() > 1).count()
    }

    /// Copies that no kill excuses: the same life had sent one before, and the sink had answered it.
    pub fn unexcused(&self, answered: impl Fn(&At) -> bool) -> Vec<String> {
        let again = |copies: &[At]| {
            let mut copies = copies.to_vec();
            copies.sort_unstable_by_key(|at| (at.life, at.number));
            let twice = |pair: &[At]| pair[0].life == pair[1].life && answered(&pair[0]);
            copies.windows(2).any(twice).then_some(copies)
        };
        let all = self.0.iter().filter_map(|(key, copies)| Some((key, again(copies)?)));
        all.map(|((id, recipient), copies)| format!("{id} for {recipient}: {copies:?}")).collect()
    }
}

#[test]
fn only_a_kill_or_a_lost_reply_excuses_a_second_copy() {
    let copies = |lives: [u64; 2]| {
        let mut copies = Copies::default();
        for (number, life) in (1..).zip(lives) {
            copies.add("id".to_owned(), "b@example.net".to_owned(), At { sink: 0, number, life });
        }
        assert_eq!((copies.recipients(), copies.repeated()), (1, 1));
        copies
    };
    assert_eq!(copies([1, 2]).unexcused(|_| true), Vec::<String>::new());
    assert_eq!(copies([2, 2]).unexcused(|at| at.number != 1), Vec::<String>::new());
    assert_eq!(copies([2, 2]).unexcused(|at| at.number == 1).len(), 1);
}
