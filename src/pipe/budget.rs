//! Byte budgets that writers can wait for.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::task::Waker;

use crate::proto::Budget;
use crate::sync::{Mutex, MutexGuard};

/// A [`Budget`] shared by the pipes of a session, or by the sessions of a
/// server, and the writers that wait for it.
#[derive(Debug)]
pub(crate) struct SharedBudget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    budget: Budget,
    waiting: Waiting,
}

impl SharedBudget {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            state: Mutex::new(State { budget: Budget::new(limit), waiting: Waiting::default() }),
        }
    }

    /// Takes up to `wanted` bytes from this budget and, if there is one, from
    /// `outer` as well: as many as both have. If that is none, `waiter` is woken
    /// when bytes are given back to whichever had none.
    ///
    /// Both are locked at once. Taking from one and putting back what the other
    /// has not would wake waiters for nothing, who would do the same to each
    /// other for ever. For the same reason nobody waits who got something.
    pub(crate) fn take(
        &self,
        outer: Option<&Self>,
        wanted: u64,
        waiter: Option<(usize, &Waker)>,
    ) -> u64 {
        let mut inner = self.lock();
        let mut outer = outer.map(Self::lock);
        let both = inner.budget.left().min(outer.as_ref().map_or(u64::MAX, |o| o.budget.left()));
        let granted = wanted.min(both);
        for state in [Some(&mut inner), outer.as_mut()].into_iter().flatten() {
            match waiter {
                Some((key, waker)) if granted == 0 && state.budget.left() == 0 => {
                    state.waiting.insert(key, waker.clone());
                }
                _ => state.budget.take(granted),
            }
        }
        granted
    }

    /// Gives back bytes, and wakes everybody who waits: whoever is woken first
    /// may want nothing any more, so waking one could leave the rest asleep.
    pub(crate) fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let waiting = {
            let mut state = self.lock();
            state.budget.give_back(bytes);
            std::mem::take(&mut state.waiting)
        };
        waiting.queue.into_values().for_each(|(_, waker)| waker.wake());
    }

    /// Forgets a waiting writer.
    pub(crate) fn forget(&self, key: usize) {
        self.lock().waiting.remove(key);
    }

    pub(crate) fn used(&self) -> u64 {
        self.lock().budget.used()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if it did, counters stay counters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writers that wait, one entry for each: bounded by the number of pipes.
#[derive(Debug, Default)]
struct Waiting {
    /// First come, first woken: who was left without when the room was gone
    /// stands behind those who had to wait before.
    queue: BTreeMap<u64, (usize, Waker)>,
    /// Where in the queue a writer is, by a key of its own.
    places: HashMap<usize, u64>,
    next: u64,
}

impl Waiting {
    /// Keeps the place of a writer that waits already.
    fn insert(&mut self, key: usize, waker: Waker) {
        let place = *self.places.entry(key).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        self.queue.insert(place, (key, waker));
    }

    fn remove(&mut self, key: usize) {
        if let Some(place) = self.places.remove(&key) {
            self.queue.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_writer_is_woken_by_the_budget_that_it_lacks_and_by_no_other() {
        let (session, server) = (SharedBudget::new(100), SharedBudget::new(50));
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let waiter = Some((1, &waker));
        assert_eq!(session.take(Some(&server), 70, waiter), 50, "what both have");
        assert_eq!((session.used(), server.used()), (50, 50));
        session.give_back(10);
        server.give_back(0);
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "who got something does not wait");

        assert_eq!(session.take(Some(&server), 70, waiter), 0);
        assert_eq!((session.used(), server.used()), (40, 50), "all or nothing of both");
        session.give_back(40);
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "the session has plenty");
        server.give_back(1);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        server.give_back(1);
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once");
    }
}
