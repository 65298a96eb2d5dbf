//! Fair sharing of a lane: the more urgent goes first; within one priority new mail and retries share the lane by weight,
//! tenants share each of these, campaigns a tenant.
//!
//! Priorities are strict but for one turn in eight, which goes to the priority that has waited longest for one, so that a
//! steady flow of urgent mail does not starve the rest (RFC 6710 §4.1 leaves that to us).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use shaping::Drr;

/// The most that an item costs, and what a share of weight 1 may spend in a turn.
pub(crate) const MOST_COST: u32 = 8;

/// One turn in so many goes to the priority that has waited longest.
const PATIENCE: u64 = 8;

/// The name of a tenant or campaign; `None` is the share of what has none.
pub(crate) type Name = Option<Arc<str>>;

/// Whether an item is tried for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// New mail.
    First,
    /// Has been tried, or was told to go again.
    Retry,
}

/// The shares that are not 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Of new mail against retries in one lane.
    pub first: u32,
    /// Of retries against new mail in one lane.
    pub retry: u32,
    /// Of tenants, by name; 1 for those not named.
    pub tenants: HashMap<String, u32>,
    /// Of campaigns, by name, within a tenant; 1 for those not named.
    pub campaigns: HashMap<String, u32>,
}

impl Default for Weights {
    fn default() -> Self {
        Self { first: 4, retry: 1, tenants: HashMap::new(), campaigns: HashMap::new() }
    }
}

/// Where an item queues and what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) priority: i8,
    pub(crate) class: Class,
    pub(crate) tenant: Name,
    pub(crate) campaign: Name,
    pub(crate) cost: u32,
}

/// Items of a lane, taken in fair order; first in, first out within a campaign.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    priorities: BTreeMap<Reverse<i8>, Priority<T>>,
    /// Turns so far.
    turns: u64,
    len: usize,
}

/// The items of one priority.
#[derive(Debug)]
struct Priority<T> {
    classes: Drr<Class, Tenants<T>>,
    /// The turn in which it was served last, or came.
    served: u64,
}

type Tenants<T> = Drr<Name, Campaigns<T>>;
type Campaigns<T> = Drr<Name, VecDeque<(T, u32)>>;

impl<T> Fair<T> {
    pub(crate) fn new() -> Self {
        Self { priorities: BTreeMap::new(), turns: 0, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, item: T, place: Place, weights: &Weights) {
        let named = |of: &HashMap<String, u32>, name: &Name| {
            name.as_deref().and_then(|name| of.get(name).copied()).unwrap_or(1)
        };
        let class_weight = match place.class {
            Class::First => weights.first,
            Class::Retry => weights.retry,
        };
        let tenant_weight = named(&weights.tenants, &place.tenant);
        let campaign_weight = named(&weights.campaigns, &place.campaign);
        let served = self.turns;
        self.priorities
            .entry(Reverse(place.priority))
            .or_insert_with(|| Priority { classes: Drr::new(MOST_COST), served })
            .classes
            .enter(place.class, class_weight, || Drr::new(MOST_COST))
            .enter(place.tenant, tenant_weight, || Drr::new(MOST_COST))
            .enter(place.campaign, campaign_weight, VecDeque::new)
            .push_back((item, place.cost.clamp(1, MOST_COST)));
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let key = self.next_priority()?;
        self.turns += 1;
        let priority = self.priorities.get_mut(&key)?;
        priority.served = self.turns;
        let taken = priority.classes.take();
        if priority.classes.is_empty() {
            self.priorities.remove(&key);
        }
        let (item, _) = taken?;
        self.len -= 1;
        Some(item)
    }

    /// Whose turn it is.
    fn next_priority(&self) -> Option<Reverse<i8>> {
        if self.turns % PATIENCE != PATIENCE - 1 {
            return self.priorities.keys().next().copied();
        }
        // Of equals the more urgent, which comes first.
        self.priorities.iter().min_by_key(|(_, priority)| priority.served).map(|(key, _)| *key)
    }

    /// Keeps only the items that are still wanted.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        self.priorities.retain(|_, priority| {
            priority.classes.retain(&wanted);
            !priority.classes.is_empty()
        });
        self.len = self.priorities.values().map(|priority| priority.classes.count()).sum();
    }

    /// Takes everything out, in fair order.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.pop()).collect()
    }
}

/// Something that gives items at a cost, and is not kept once it is empty.
trait Line {
    type Item;
    fn take(&mut self) -> Option<(Self::Item, u32)>;
    fn is_empty(&self) -> bool;
    fn retain(&mut self, wanted: &dyn Fn(&Self::Item) -> bool);
    fn count(&self) -> usize;
}

impl<T> Line for VecDeque<(T, u32)> {
    type Item = T;

    fn take(&mut self) -> Option<(T, u32)> {
        self.pop_front()
    }

    fn is_empty(&self) -> bool {
        VecDeque::is_empty(self)
    }

    fn retain(&mut self, wanted: &dyn Fn(&T) -> bool) {
        VecDeque::retain(self, |(item, _)| wanted(item));
    }

    fn count(&self) -> usize {
        self.len()
    }
}

impl<K: Clone + Eq + Hash, L: Line> Line for Drr<K, L> {
    type Item = L::Item;

    fn take(&mut self) -> Option<(L::Item, u32)> {
        let mut turn = self.turn()?;
        let taken = turn.value().take();
        if turn.value().is_empty() {
            turn.leave();
        } else if let Some((_, cost)) = &taken {
            turn.spend(*cost);
        }
        taken
    }

    fn is_empty(&self) -> bool {
        Drr::is_empty(self)
    }

    fn retain(&mut self, wanted: &dyn Fn(&L::Item) -> bool) {
        let keys: Vec<K> = self.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            let Some(line) = self.get_mut(&key) else { continue };
            line.retain(wanted);
            if line.is_empty() {
                self.remove(&key);
            }
        }
    }

    fn count(&self) -> usize {
        self.iter().map(|(_, line)| line.count()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(class: Class, tenant: &str, campaign: &str, cost: u32) -> Place {
        Place { priority: 0, class, tenant: Some(tenant.into()), campaign: Some(campaign.into()), cost }
    }

    #[test]
    fn the_urgent_goes_first_and_the_rest_is_not_starved() {
        let mut fair = Fair::new();
        let at = |priority| Place { priority, ..place(Class::First, "a", "", 1) };
        for _ in 0..1000 {
            fair.push(0, at(0), &Weights::default());
            fair.push(-9, at(-9), &Weights::default());
        }
        assert_eq!(fair.pop(), Some(0));
        for _ in 0..100 {
            fair.push(9, at(9), &Weights::default());
        }
        let order: Vec<i8> = std::iter::from_fn(|| fair.pop()).take(64).collect();
        assert_eq!(order[0], 9);
        let turns = |of: i8| order.iter().filter(|priority| **priority == of).count();
        assert_eq!((turns(9), turns(0), turns(-9)), (56, 4, 4), "seven of eight turns are for the most urgent");
        let rest = std::iter::from_fn(|| fair.pop()).count();
        assert_eq!(rest, 2100 - 65, "nothing is lost");
    }

    #[test]
    fn a_flood_of_one_tenant_does_not_bury_another() {
        let mut fair = Fair::new();
        for _ in 0..10_000 {
            fair.push("bulk", place(Class::First, "bulk", "newsletter", 1), &Weights::default());
        }
        fair.push("reset", place(Class::First, "shop", "password", 1), &Weights::default());
        let position = std::iter::from_fn(|| fair.pop()).position(|item| item == "reset").unwrap();
        assert!(position <= 8, "the password reset came after {position}");
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = Weights { tenants: HashMap::from([("big".to_owned(), 3)]), ..Weights::default() };
        let mut fair = Fair::new();
        for _ in 0..4000 {
            fair.push("big", place(Class::First, "big", "", 1), &weights);
            fair.push("small", place(Class::First, "small", "", 1), &weights);
        }
        let big = (0..4000).filter(|_| fair.pop() == Some("big")).count();
        assert!((2900..=3100).contains(&big), "{big} of 4000 for a weight of 3 in 4");
    }

    #[test]
    fn a_sweep_of_retries_leaves_new_mail_most_of_the_lane() {
        let mut fair = Fair::new();
        for _ in 0..5000 {
            fair.push("retry", place(Class::Retry, "a", "", 1), &Weights::default());
        }
        for _ in 0..1000 {
            fair.push("first", place(Class::First, "a", "", 1), &Weights::default());
        }
        let first = (0..1000).filter(|_| fair.pop() == Some("first")).count();
        assert!((780..=820).contains(&first), "{first} of 1000 for a weight of 4 in 5");
    }

    #[test]
    fn large_messages_count_as_many_small_ones() {
        let mut fair = Fair::new();
        for _ in 0..1000 {
            fair.push("large", place(Class::First, "large", "", 8), &Weights::default());
            fair.push("small", place(Class::First, "small", "", 1), &Weights::default());
        }
        let large = (0..900).filter(|_| fair.pop() == Some("large")).count();
        assert!((90..=110).contains(&large), "{large} large ones among 900");
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_order_within_a_campaign(
            pushes in proptest::collection::vec((0u8..2, 0u8..3, 0u8..3, 0u32..100), 0..200),
            modulus in 1usize..5,
        ) {
            let mut fair = Fair::new();
            for (number, (class, tenant, campaign, cost)) in pushes.iter().enumerate() {
                let class = if *class == 0 { Class::First } else { Class::Retry };
                let at = place(class, &tenant.to_string(), &campaign.to_string(), *cost);
                fair.push((number, (class, *tenant, *campaign)), at, &Weights::default());
            }
            fair.retain(|(number, _)| number % modulus == 0);
            prop_assert_eq!(fair.len(), pushes.len().div_ceil(modulus));
            let mut last = HashMap::new();
            let out = fair.drain();
            prop_assert_eq!(out.len(), pushes.len().div_ceil(modulus));
            for (number, line) in out {
                prop_assert!(last.insert(line, number).is_none_or(|before| before < number));
            }
            prop_assert_eq!(fair.len(), 0);
        }
    }
}
