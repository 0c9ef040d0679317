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

    /// Takes up to `wanted` bytes and says how many it got.
    pub(crate) fn take(&mut self, wanted: u64) -> u64 {
        let granted = wanted.min(self.limit - self.used);
        self.used += granted;
        granted
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
    fn a_budget_grants_what_is_left_and_no_more() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.take(70), 70);
        assert_eq!(budget.take(70), 30);
        assert_eq!(budget.take(1), 0);
        budget.give_back(50);
        assert_eq!(budget.take(60), 50);
        assert_eq!(budget.used(), 100);
    }

    #[test]
    fn the_first_bytes_of_a_pipe_are_its_own() {
        assert_eq!(shared_part(PIPE_SHARE), 0);
        assert_eq!(shared_part(PIPE_SHARE + 1), 1);
    }
}
