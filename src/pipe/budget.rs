//! Byte budgets that writers can wait for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::proto::Budget;

/// A [`Budget`] shared by the pipes of a session, or by the sessions of a
/// server, and the writers that wait for it.
#[derive(Debug)]
pub(crate) struct SharedBudget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    budget: Budget,
    /// One entry for each waiting writer, by a key of its own; so bounded by
    /// the number of pipes.
    waiting: HashMap<usize, Waker>,
}

impl SharedBudget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { state: Mutex::new(State { budget: Budget::new(limit), waiting: HashMap::new() }) }
    }

    /// Takes up to `wanted` bytes. If that is not all, `waker` is woken when
    /// bytes are given back; asking first and registering later could miss it.
    pub(crate) fn take(&self, wanted: u64, key: usize, waker: &Waker) -> u64 {
        let mut state = self.lock();
        let granted = state.budget.take(wanted);
        if granted < wanted {
            state.waiting.insert(key, waker.clone());
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
        waiting.into_values().for_each(Waker::wake);
    }

    /// Forgets a waiting writer.
    pub(crate) fn forget(&self, key: usize) {
        self.lock().waiting.remove(&key);
    }

    pub(crate) fn used(&self) -> u64 {
        self.lock().budget.used()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if it did, counters stay counters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
