//! The only reader of time.
//!
//! Everything that waits or measures goes through here, on tokio's clock, so
//! that a paused runtime gives virtual time.

use std::future::Future;
use std::time::Duration;

pub(crate) use tokio::time::Instant;

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
