//! When to try again.

use std::time::Duration;

/// Retry delays: none before the first attempt, then exponential growth with
/// full jitter (each delay is drawn evenly from zero to the bound), which
/// spreads a crowd of clients best ("Exponential Backoff And Jitter", AWS
/// Architecture Blog, 2015).
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max: max.max(first), attempts: 0 }
    }

    /// The delay before the next attempt, drawn from zero to `most` if its bound is
    /// greater by now; `random` supplies the jitter.
    pub(crate) fn next(&mut self, random: u64, most: Duration) -> Duration {
        let failed = self.attempts;
        self.attempts = self.attempts.saturating_add(1);
        let Some(doublings) = failed.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let bound = self.first.saturating_mul(factor).min(self.max).min(most);
        bound.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// Starts over: after progress, or when the network has changed.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_at_once_and_later_bounds_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut next = |most| backoff.next(u64::MAX, most);
        let delays: Vec<_> = (0..10).map(|_| next(Duration::MAX).as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(next(Duration::from_secs(3)), Duration::from_secs(3));
        for _ in 0..100 {
            assert_eq!(next(Duration::MAX), Duration::from_secs(10));
        }
        assert_eq!(backoff.next(0, Duration::MAX), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX, Duration::MAX), Duration::ZERO);
    }
}
