//! Randomness as a parameter: the operating system's in service, a seed in tests and simulations.

use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// A shared source of random numbers: for jitter, shuffling and ids, not for keys.
#[derive(Clone, Debug)]
pub struct Randomness(Arc<Mutex<SmallRng>>);

impl Randomness {
    /// Seeded by the operating system.
    pub fn from_system() -> Self {
        Self(Arc::new(Mutex::new(SmallRng::from_os_rng())))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))))
    }

    /// 64 random bits.
    pub fn next_u64(&self) -> u64 {
        self.with(|rng| rng.next_u64())
    }

    /// A number from 0 (included) to 1 (excluded).
    pub fn unit(&self) -> f64 {
        self.with(|rng| rng.random())
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.with(|rng| rng.random_range(0..bound)) }
    }

    /// Puts the items in random order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        // A generator has no state that a panic elsewhere could break.
        draw(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself() {
        let (a, b) = (Randomness::seeded(7), Randomness::seeded(7));
        assert_eq!((a.next_u64(), a.below(100)), (b.next_u64(), b.below(100)));
        assert_ne!(Randomness::seeded(8).next_u64(), Randomness::seeded(9).next_u64());
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Randomness::seeded(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
