//! A world in memory, in place of sockets and of the system's random bytes.
//!
//! For deterministic tests of programs that use evermux, and of evermux itself:
//! implement [`World`] and [`Socket`], give the world to
//! [`ClientConfig::simulate`](crate::ClientConfig::simulate) and
//! [`ServerConfig::simulate`](crate::ServerConfig::simulate), and run everything
//! on one thread, on a tokio runtime whose clock is paused. The same world then
//! takes the same course. `tests/sim` in the repository is such a world.
//!
//! Only with the feature `simulation`, and outside of semantic versioning.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Gives sockets and random bytes, and sleep.
pub trait World: Debug + Send + Sync + 'static {
    /// A datagram socket. `local` is where a server listens, or the address and
    /// port 0 of a client, as [`ClientConfig::local_ip`] says.
    ///
    /// [`ClientConfig::local_ip`]: crate::ClientConfig::local_ip
    ///
    /// # Errors
    ///
    /// As a system would: the address is in use, or not to be had.
    fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Socket>>;

    /// Fills `bytes`. Secrets come from here too: they are as secret as the
    /// world makes them.
    fn random(&self, bytes: &mut [u8]);

    /// How long the machine has slept so far, while its clock (tokio's) stood still.
    fn time_asleep(&self) -> Duration {
        Duration::ZERO
    }
}

/// An unconnected datagram socket. It is closed when dropped.
pub trait Socket: Debug + Send + Sync + 'static {
    /// Where it is bound.
    fn local_addr(&self) -> SocketAddr;

    /// Takes a datagram, which may get lost.
    fn send(&self, to: SocketAddr, datagram: &[u8]);

    /// The next datagram: how many bytes of it were put into `buf`, and where it
    /// comes from. A longer one is cut off.
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<(usize, SocketAddr)>;
}
