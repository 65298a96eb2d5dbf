//! Whose turn it is: weighted deficit round robin.
//!
//! Keys stand in a ring. A key whose turn comes gets a credit of one quantum per weight and keeps the turn until it has
//! spent it; what it overspends with the last item, it owes in the next round. So a key's share of the work follows its
//! weight, whatever the sizes of its items, and a key with one item never waits behind another key's thousand.
//!
//! A key is there while it has work: its queue is kept with it, and it leaves the ring when the queue is empty. Nest
//! them for two levels: `Drr<Tenant, Drr<Campaign, VecDeque<Item>>>`.

use std::collections::hash_map::{self, OccupiedEntry};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Fair turns between keys with a value (usually a queue) each. Every step takes constant time, on average over steps.
#[derive(Clone, Debug)]
pub struct Drr<K, V = ()> {
    quantum: u32,
    entries: HashMap<K, Entry<V>>,
    /// Keys in the order of their turns, the one at turn in front; entries that left or came anew meanwhile have
    /// another ticket and are skipped.
    ring: VecDeque<(K, u64)>,
    tickets: u64,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    ticket: u64,
    weight: u32,
    credit: i64,
    value: V,
}

impl<K: Clone + Eq + Hash, V> Drr<K, V> {
    /// An empty ring. The quantum is what a key of weight 1 may spend per round, in the unit of the costs: 1 if every
    /// item costs 1, about the largest item if costs are sizes.
    pub fn new(quantum: u32) -> Self {
        Self { quantum: quantum.max(1), entries: HashMap::new(), ring: VecDeque::new(), tickets: 0 }
    }

    /// The value of `key`. If the key is not there yet, it comes in with `make()` at the end of the ring.
    ///
    /// The weight (at least 1) counts from the key's next round on.
    pub fn enter(&mut self, key: K, weight: u32, make: impl FnOnce() -> V) -> &mut V {
        let (ring, tickets) = (&mut self.ring, &mut self.tickets);
        let entry = self.entries.entry(key).or_insert_with_key(|key| {
            *tickets += 1;
            ring.push_back((key.clone(), *tickets));
            Entry { ticket: *tickets, weight, credit: 0, value: make() }
        });
        entry.weight = weight.max(1);
        &mut entry.value
    }

    /// The key whose turn it is, or `None` if there are no keys.
    ///
    /// It stays the same until something is spent or the key leaves.
    pub fn turn(&mut self) -> Option<Turn<'_, K, V>> {
        while let Some((key, ticket)) = self.ring.front()
            && self.entries.get(key).is_none_or(|entry| entry.ticket != *ticket)
        {
            self.ring.pop_front();
        }
        let (key, _) = self.ring.front()?;
        let hash_map::Entry::Occupied(mut slot) = self.entries.entry(key.clone()) else { return None };
        let entry = slot.get_mut();
        if entry.credit <= 0 {
            // No cost is above the quantum, so one round's credit outweighs every debt.
            entry.credit += i64::from(self.quantum) * i64::from(entry.weight);
        }
        Some(Turn { slot, ring: &mut self.ring, quantum: self.quantum })
    }

    /// The value of a key that is there.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The value of a key that is there.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Takes a key out of turn.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.entries.remove(key)?;
        // Keys that come and go without a turn in between must not pile up.
        if self.ring.len() > 2 * self.entries.len() + 16 {
            let entries = &self.entries;
            self.ring.retain(|(key, ticket)| entries.get(key).is_some_and(|entry| entry.ticket == *ticket));
        }
        Some(removed.value)
    }

    /// All keys with their values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The turn of one key. Dropped without a word, it stays the key's turn.
#[derive(Debug)]
pub struct Turn<'a, K, V> {
    slot: OccupiedEntry<'a, K, Entry<V>>,
    ring: &'a mut VecDeque<(K, u64)>,
    quantum: u32,
}

impl<K, V> Turn<'_, K, V> {
    /// Whose turn it is.
    pub fn key(&self) -> &K {
        self.slot.key()
    }

    /// The key's value.
    pub fn value(&mut self) -> &mut V {
        &mut self.slot.get_mut().value
    }

    /// An item was taken. A cost above the quantum counts as the quantum.
    pub fn spend(mut self, cost: u32) {
        let entry = self.slot.get_mut();
        entry.credit -= i64::from(cost.min(self.quantum));
        if entry.credit <= 0 {
            self.pass();
        }
    }

    /// The key has nothing to do just now but stays: the turn passes on, and its credit is kept for the next round.
    pub fn pass(self) {
        if let Some(front) = self.ring.pop_front() {
            self.ring.push_back(front);
        }
    }

    /// The key has nothing left: it leaves with its credit and its debt.
    pub fn leave(self) -> V {
        self.ring.pop_front();
        self.slot.remove().value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Takes one item of cost 1 from each of the next `n` turns.
    fn turns(drr: &mut Drr<char>, n: usize) -> String {
        let mut keys = String::new();
        for _ in 0..n {
            let turn = drr.turn().unwrap();
            keys.push(*turn.key());
            turn.spend(1);
        }
        keys
    }

    fn of(keys: &[(char, u32)]) -> Drr<char> {
        let mut drr = Drr::new(1);
        for (key, weight) in keys {
            drr.enter(*key, *weight, || ());
        }
        drr
    }

    #[test]
    fn keys_take_turns_by_weight() {
        assert_eq!(turns(&mut of(&[('a', 1), ('b', 1), ('c', 1)]), 6), "abcabc");
        assert_eq!(turns(&mut of(&[('a', 3), ('b', 1), ('c', 0)]), 10), "aaabcaaabc");
    }

    #[test]
    fn one_that_comes_late_waits_one_round_at_most() {
        let mut drr = of(&[('a', 1), ('b', 1)]);
        turns(&mut drr, 1001);
        drr.enter('c', 1, || ());
        assert_eq!(turns(&mut drr, 3), "bac");
    }

    #[test]
    fn keys_leave_when_they_are_empty() {
        let mut drr: Drr<&str, VecDeque<u32>> = Drr::new(1);
        drr.enter("bulk", 1, VecDeque::new).extend(0..3);
        drr.enter("reset", 1, VecDeque::new).push_back(100);
        let mut order = Vec::new();
        while let Some(mut turn) = drr.turn() {
            order.extend(turn.value().pop_front());
            if turn.value().is_empty() {
                turn.leave();
            } else {
                turn.spend(1);
            }
        }
        assert_eq!(order, [0, 100, 1, 2]);
        assert!(drr.is_empty() && drr.ring.is_empty());
    }

    #[test]
    fn two_levels_nest() {
        type Campaigns = Drr<&'static str, VecDeque<&'static str>>;
        let mut tenants: Drr<&str, Campaigns> = Drr::new(1);
        for (tenant, campaign, item) in
            [("a", "x", "ax1"), ("a", "x", "ax2"), ("a", "y", "ay1"), ("b", "z", "bz1"), ("b", "z", "bz2")]
        {
            let campaigns = tenants.enter(tenant, 1, || Drr::new(1));
            campaigns.enter(campaign, 1, VecDeque::new).push_back(item);
        }
        let mut order = Vec::new();
        while let Some(mut tenant) = tenants.turn() {
            if let Some(mut campaign) = tenant.value().turn() {
                order.extend(campaign.value().pop_front());
                if campaign.value().is_empty() { drop(campaign.leave()) } else { campaign.spend(1) }
            }
            if tenant.value().is_empty() { drop(tenant.leave()) } else { tenant.spend(1) }
        }
        assert_eq!(order, ["ax1", "bz1", "ay1", "bz2", "ax2"]);
    }

    #[test]
    fn coming_and_going_leaves_nothing_behind() {
        let mut drr = of(&[('a', 1)]);
        for _ in 0..1000 {
            drr.enter('b', 1, || ());
            drr.remove(&'b');
        }
        assert!(drr.ring.len() < 40, "{}", drr.ring.len());
        drr.enter('b', 1, || ());
        assert_eq!(turns(&mut drr, 4), "abab");
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights_within_a_quantum(
            quantum in 1..50u32,
            weights in prop::collection::vec(1..6u32, 1..8),
            costs in prop::collection::vec(0..60u32, 1..400),
        ) {
            let mut drr = Drr::new(quantum);
            for (key, weight) in weights.iter().enumerate() {
                drr.enter(key, *weight, || ());
            }
            let mut spent = BTreeMap::<usize, u64>::new();
            for cost in costs {
                let turn = drr.turn().unwrap();
                let paid = cost.clamp(1, quantum);
                *spent.entry(*turn.key()).or_default() += u64::from(paid);
                turn.spend(paid);
                // Rounds of credit that each key has used up. Before its turn in a round a key may be behind one that
                // has had it by that round; beyond that, by less than the quantum that the last item may overspend.
                let rounds: Vec<f64> = weights.iter().enumerate().map(|(key, weight)| {
                    let spent = spent.get(&key).copied().unwrap_or(0);
                    spent as f64 / f64::from(quantum) / f64::from(*weight)
                }).collect();
                let most = rounds.iter().copied().fold(f64::MIN, f64::max);
                let least = rounds.iter().copied().fold(f64::MAX, f64::min);
                prop_assert!(most - least < 2.0, "{rounds:?}");
            }
        }

        #[test]
        fn every_item_comes_out_once_and_in_its_order(
            items in prop::collection::vec((0..6u8, 1..5u32, 0..20u32), 0..200), quantum in 1..20u32,
        ) {
            let mut drr: Drr<u8, VecDeque<usize>> = Drr::new(quantum);
            let mut expected = BTreeMap::<u8, Vec<usize>>::new();
            for (number, (key, weight, _)) in items.iter().enumerate() {
                drr.enter(*key, *weight, VecDeque::new).push_back(number);
                expected.entry(*key).or_default().push(number);
            }
            let mut seen = BTreeMap::<u8, Vec<usize>>::new();
            while let Some(mut turn) = drr.turn() {
                let number = turn.value().pop_front().unwrap();
                seen.entry(*turn.key()).or_default().push(number);
                if turn.value().is_empty() { drop(turn.leave()) } else { turn.spend(items[number].2) }
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
