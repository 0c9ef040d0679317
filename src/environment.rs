//! Where sockets and random bytes come from, and who knows of sleep: the operating
//! system, or, for tests, a world in memory.
//!
//! Time as such is not part of it: everything waits on tokio's clock, so that a
//! paused runtime gives virtual time.

#[cfg(feature = "simulation")]
use std::sync::Arc;

use crate::clock::{self, Moment};
use crate::crypto::{self, NoRandomness};
#[cfg(feature = "simulation")]
use crate::simulation::World;

/// The operating system, unless a world was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    #[cfg(feature = "simulation")]
    pub(crate) world: Option<Arc<dyn World>>,
}

impl Environment {
    /// `N` random bytes.
    ///
    /// # Errors
    ///
    /// When the operating system gives none.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], NoRandomness> {
        #[cfg(feature = "simulation")]
        if let Some(world) = &self.world {
            let mut bytes = [0; N];
            world.random(&mut bytes);
            return Ok(bytes);
        }
        crypto::random()
    }

    /// The present, on a clock that goes on while the machine sleeps.
    pub(crate) fn moment(&self) -> Moment {
        #[cfg(feature = "simulation")]
        if let Some(world) = &self.world {
            return Moment::present(world.time_asleep());
        }
        Moment::present(clock::slept())
    }

    /// Sixty-four random bits for jitter; zero if the system gives none, which
    /// costs the jitter and nothing else.
    pub(crate) fn jitter(&self) -> u64 {
        self.random::<8>().map(u64::from_be_bytes).unwrap_or_default()
    }
}
