//! One look-up for all who ask the same at the same time.
//!
//! A flight lives as long as somebody waits for it. When the last one leaves, it is dropped, and the next one to ask
//! starts a new one: nothing stale is ever resumed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

type Flight<V> = BoxFuture<'static, V>;

/// The flights that are in the air.
pub struct Flights<K, V> {
    board: Arc<Mutex<Board<K, V>>>,
}

struct Board<K, V> {
    running: HashMap<K, (u64, WeakShared<Flight<V>>)>,
    started: u64,
}

impl<K, V> Default for Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// None yet.
    pub fn new() -> Self {
        Self { board: Arc::new(Mutex::new(Board { running: HashMap::new(), started: 0 })) }
    }

    /// Joins the flight for `key`, or starts one.
    pub fn join(&self, key: K, start: impl FnOnce() -> Flight<V>) -> Shared<Flight<V>> {
        let mut board = locked(&self.board);
        if let Some(running) = board.running.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return running;
        }
        board.started += 1;
        let number = board.started;
        let landing = Landing { board: self.board.clone(), key: key.clone(), number };
        let work = start();
        let flight = async move {
            let _landing = landing;
            work.await
        };
        let flight = flight.boxed().shared();
        // A flight that was never polled can't be over, so there is always something to point to.
        if let Some(weak) = flight.downgrade() {
            board.running.insert(key, (number, weak));
        }
        flight
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        locked(&self.board).running.len()
    }
}

/// Takes a flight off the board when it is over or given up, unless a later one has taken its place.
struct Landing<K: Eq + Hash, V> {
    board: Arc<Mutex<Board<K, V>>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut board = locked(&self.board);
        if board.running.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            board.running.remove(&self.key);
        }
    }
}

/// The board is whole between any two statements, so a panic elsewhere does not break it.
fn locked<K, V>(board: &Mutex<Board<K, V>>) -> MutexGuard<'_, Board<K, V>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_flight() {
        let flights = Flights::<u8, u32>::new();
        let (gate, starts) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let start = || {
            let (gate, number) = (gate.clone(), starts.fetch_add(1, Ordering::Relaxed));
            async move {
                gate.notified().await;
                number
            }
            .boxed()
        };
        let waiting: Vec<_> = (0..100).map(|_| flights.join(1, start)).collect();
        gate.notify_one();
        assert!(futures_util::future::join_all(waiting).await.into_iter().all(|number| number == 0));
        assert_eq!((starts.load(Ordering::Relaxed), flights.len()), (1, 0));

        gate.notify_one();
        assert_eq!(flights.join(1, start).await, 1);
    }

    #[tokio::test]
    async fn one_who_leaves_does_not_stop_the_others() {
        let flights = Flights::<u8, u32>::new();
        let gate = Arc::new(Notify::new());
        let start = || {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                7
            }
            .boxed()
        };
        let (mut first, second) = (flights.join(1, start), flights.join(1, start));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        gate.notify_one();
        assert_eq!(second.await, 7);
    }

    #[tokio::test]
    async fn a_flight_that_all_have_left_is_not_resumed() {
        let flights = Flights::<u8, u32>::new();
        let mut left = flights.join(1, || futures_util::future::pending().boxed());
        assert!((&mut left).now_or_never().is_none());
        drop(left);
        assert_eq!(flights.len(), 0);
        assert_eq!(flights.join(1, || async { 2 }.boxed()).await, 2);
    }

    #[test]
    fn a_late_landing_leaves_its_successor_alone() {
        let flights = Flights::<u8, u32>::new();
        let _successor = flights.join(1, || futures_util::future::pending().boxed());
        drop(Landing { board: flights.board.clone(), key: 1, number: 0 });
        assert_eq!(flights.len(), 1);
    }
}
