//! Byte budgets: how much may be kept for replay.

/// What each pipe may keep outside the shared budgets, in bytes: enough for
/// interactive use, so that no other pipe's appetite can stop it. A budget's
/// worst case is its limit plus this for each pipe.
pub(crate) const PIPE_SHARE: u64 = 64 * 1024;

/// A bound on bytes that several pipes share: one for each session, one for a
/// whole server.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    limit: u64,
    /// Never above `limit`.
    used: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    /// How many bytes may be taken.
    pub(crate) fn left(&self) -> u64 {
        self.limit - self.used
    }

    /// Takes bytes; the caller keeps to what is [`left`](Self::left).
    pub(crate) fn take(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.left(), "the caller keeps to what is left");
        self.used = self.limit.min(self.used + bytes);
    }

    /// Gives back bytes that [`take`](Self::take) granted.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

/// How many of `kept` bytes of one pipe count against the shared budgets.
pub(crate) fn shared_part(kept: u64) -> u64 {
    kept.saturating_sub(PIPE_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_not_left_until_it_is_given_back() {
        let mut budget = Budget::new(100);
        budget.take(70);
        assert_eq!((budget.left(), budget.used()), (30, 70));
        budget.give_back(50);
        assert_eq!((budget.left(), budget.used()), (80, 20));
    }

    #[test]
    fn the_first_bytes_of_a_pipe_are_its_own() {
        assert_eq!(shared_part(PIPE_SHARE), 0);
        assert_eq!(shared_part(PIPE_SHARE + 1), 1);
    }
}
