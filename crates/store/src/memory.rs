//! Content in memory, under one budget: what arrives, and what was committed and waits for its first attempt.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mail::MessageId;

/// The budget and who uses it. What arrives comes first: committed content goes when both do not fit, the oldest first;
/// it is on disk.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    in_flight: u64,
    cached: u64,
    contents: HashMap<MessageId, Cached>,
    /// By age.
    order: BTreeMap<u64, MessageId>,
    next: u64,
}

#[derive(Debug)]
struct Cached {
    age: u64,
    size: u64,
    pieces: Vec<Bytes>,
}

impl Memory {
    pub fn new(budget: u64) -> Self {
        Self { budget, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets memory aside for content that is about to arrive; `false` if too much is in flight already.
    #[must_use]
    pub fn reserve(&self, octets: u64) -> bool {
        let mut held = self.held();
        let fits = held.in_flight + octets <= self.budget;
        if fits {
            held.in_flight += octets;
            held.evict(self.budget);
        }
        fits
    }

    /// Content in flight takes `now` octets instead of `before`.
    pub fn change(&self, before: u64, now: u64) {
        let mut held = self.held();
        held.in_flight = (held.in_flight + now).saturating_sub(before);
        held.evict(self.budget);
    }

    /// Whether content in flight alone uses more than there should be: it should go to disk while it arrives.
    pub fn is_pressed(&self) -> bool {
        self.held().in_flight > self.budget
    }

    /// Keeps the content of a committed message.
    pub fn keep(&self, id: MessageId, pieces: Vec<Bytes>) {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut held = self.held();
        held.next += 1;
        let age = held.next;
        held.order.insert(age, id);
        held.cached += size;
        held.contents.insert(id, Cached { age, size, pieces });
        held.evict(self.budget);
    }

    /// The content of a message, if it is here.
    pub fn get(&self, id: MessageId) -> Option<Vec<Bytes>> {
        self.held().contents.get(&id).map(|content| content.pieces.clone())
    }

    /// Lets the content of a message go.
    pub fn forget(&self, id: MessageId) {
        self.held().forget(id);
    }

    /// Octets in use.
    pub fn used(&self) -> u64 {
        let held = self.held();
        held.in_flight + held.cached
    }
}

impl Held {
    fn forget(&mut self, id: MessageId) {
        if let Some(content) = self.contents.remove(&id) {
            self.order.remove(&content.age);
            self.cached -= content.size;
        }
    }

    fn evict(&mut self, budget: u64) {
        while self.in_flight + self.cached > budget
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.forget(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> MessageId {
        MessageId::from_u128(n)
    }

    #[test]
    fn the_oldest_content_makes_room_for_what_arrives() {
        let memory = Memory::new(100);
        for n in 1..=3 {
            memory.keep(id(n), vec![Bytes::from(vec![0; 30])]);
        }
        assert!(memory.reserve(40));
        assert!(memory.get(id(1)).is_none());
        assert!(memory.get(id(2)).is_some() && memory.get(id(3)).is_some());
        assert_eq!(memory.used(), 100);
        memory.forget(id(2));
        assert_eq!(memory.used(), 70);
        assert!(!memory.reserve(61), "in flight alone must stay under the budget");
        assert!(memory.reserve(60));
        assert_eq!(memory.used(), 100);
        memory.change(100, 0);
        assert_eq!(memory.used(), 0);
    }
}
