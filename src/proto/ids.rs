//! Which pipes the peer has opened, as far as we have seen.

use std::collections::BTreeSet;

/// A set of indices that fills up from 0: all below `next`, but for the gaps.
///
/// Together with the table of live pipes it is the tombstone of every pipe that
/// ever was: an index that was seen and is not live is done. That costs nothing
/// however many pipes come and go.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenIds {
    next: u64,
    /// All below `next`. Bounded by the pipes that the peer may have live: it
    /// opens them in order, and one that we have not seen is live with it.
    gaps: BTreeSet<u64>,
}

impl SeenIds {
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn gaps(&self) -> impl Iterator<Item = u64> {
        self.gaps.iter().copied()
    }

    pub(crate) fn contains(&self, index: u64) -> bool {
        index < self.next && !self.gaps.contains(&index)
    }

    /// Adds `index` and returns whether it is new; `None`, and nothing done, if
    /// that would leave more than `max_gaps` gaps.
    pub(crate) fn insert(&mut self, index: u64, max_gaps: u64) -> Option<bool> {
        if index < self.next {
            return Some(self.gaps.remove(&index));
        }
        let new_gaps = index - self.next;
        if new_gaps.saturating_add(self.gaps.len() as u64) > max_gaps {
            return None;
        }
        self.gaps.extend(self.next..index);
        self.next = index + 1;
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_may_come_in_any_order_and_are_new_once() {
        let mut seen = SeenIds::default();
        assert_eq!(seen.insert(3, 10), Some(true));
        assert_eq!(seen.gaps().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(!seen.contains(1) && seen.contains(3) && !seen.contains(4));
        assert_eq!(seen.insert(1, 10), Some(true));
        assert_eq!(seen.insert(1, 10), Some(false));
        assert_eq!(seen.insert(3, 10), Some(false));
        assert_eq!(seen.next(), 4);
    }

    #[test]
    fn gaps_are_bounded_whatever_the_index() {
        let mut seen = SeenIds::default();
        assert_eq!(seen.insert(u64::MAX >> 2, 100), None);
        assert_eq!(seen.insert(100, 100), Some(true));
        assert_eq!(seen.insert(102, 100), None);
        assert_eq!(seen.insert(101, 100), Some(true));
    }
}
