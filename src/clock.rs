//! The only reader of time.
//!
//! Everything that waits or measures goes through here, on tokio's clock, so
//! that a paused runtime gives virtual time.
//!
//! While the machine sleeps, that clock stands still on Linux and macOS, and goes on
//! on Windows. What must count sleep as well takes [`Moment`]s from its
//! [environment](crate::environment).

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

pub(crate) use tokio::time::Instant;

/// A point in time, on a clock that goes on while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// Sleep before it that `at` knows nothing of.
    slept: Duration,
}

impl Moment {
    /// The present, before which the machine has slept for `slept` in all.
    pub(crate) fn present(slept: Duration) -> Self {
        Self { at: now(), slept }
    }

    /// How long after `earlier` it is.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let slept = self.slept.saturating_sub(earlier.slept);
        self.at.saturating_duration_since(earlier.at) + slept
    }
}

/// How long the machine has slept since it was asked for the first time, without what
/// tokio's clock counts itself.
///
/// The difference between two clocks of the system's, of which one stands still in
/// sleep. There is no hook to install, and nobody to ask for permission. The crate
/// boot-time has the clock that goes on, on every system, as std has the other: one
/// small crate, where a binding to the system's calls would be several.
pub(crate) fn slept() -> Duration {
    static BEGAN: LazyLock<(boot_time::Instant, std::time::Instant)> =
        LazyLock::new(|| (boot_time::Instant::now(), std::time::Instant::now()));
    let (with_sleep, without) = *BEGAN;
    with_sleep.elapsed().saturating_sub(without.elapsed())
}

/// The current time.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `deadline`; for ever if there is none.
///
/// # Cancel safety
///
/// Holds nothing: may be dropped and made again.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits for `duration`.
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// What `future` gives, or `None` if it does not until `deadline`.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline, future).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_asleep_counts_as_time_awake_does() {
        let began = Moment { at: now(), slept: Duration::from_secs(100) };
        let (awake, asleep) = (Duration::from_secs(5), Duration::from_secs(3600));
        let later = Moment { at: began.at + awake, slept: began.slept + asleep };
        assert_eq!(later.since(began), awake + asleep);
        assert_eq!(began.since(later), Duration::ZERO);
        assert_eq!(began.since(began), Duration::ZERO);
    }

    /// The two clocks of the system are read one after the other; what comes between
    /// them looks like sleep, and must not be taken for it.
    #[test]
    fn a_machine_that_is_awake_has_not_slept() {
        let began = Moment::present(slept());
        for _ in 0..1_000 {
            let present = Moment::present(slept());
            let apart = present.since(began).abs_diff(present.at - began.at);
            assert!(apart < Duration::from_secs(1), "{apart:?}");
        }
    }
}
