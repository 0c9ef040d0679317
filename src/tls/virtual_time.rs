//! What time it is in a simulated world.

use std::sync::LazyLock;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::clock::{self, Instant};

/// Before it there is time enough for worlds that began earlier.
const ORIGIN: Duration = Duration::from_secs(2_000_000_000);

/// The clock of the runtime. How old a ticket is says whether early data comes with
/// it: by the clock on the wall that would be chance.
#[derive(Debug)]
pub(super) struct VirtualTime;

impl TimeProvider for VirtualTime {
    fn current_time(&self) -> Option<UnixTime> {
        static BEGAN: LazyLock<Instant> = LazyLock::new(clock::now);
        let (began, now) = (*BEGAN, clock::now());
        let time = (ORIGIN + now.saturating_duration_since(began))
            .saturating_sub(began.saturating_duration_since(now));
        Some(UnixTime::since_unix_epoch(time))
    }
}
