//! Hears from the operating system that addresses or routes have changed, and asks it
//! whether that is any matter of ours. Only with the feature `monitor`.
//!
//! On Linux the system tells of every change on a netlink socket, most of which are of
//! no account: a container starts, a router repeats itself. So what it says is only
//! taken for a hint; what counts is whether packets to the peer would take another
//! first hop now (`ip route get`). That also sees a default route that flips without
//! any change of an address, another gateway on the same interface, and a tunnel that
//! takes over.
//!
//! The crates for it are those of rust-netlink that know the socket and the messages,
//! seven new ones with all that they need. On Linux if-watch (22 new ones) and
//! netwatcher (4) hear nothing of routes; netwatch (49, and a newer Rust than ours)
//! does, but only tells when its list of interfaces is another one afterwards: a
//! gateway that changes is not in it. Where there is no netlink (macOS, Windows, BSD)
//! if-watch must do, and every address that comes or goes counts.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "monitor/netlink.rs"]
mod system;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "monitor/addresses.rs"]
mod system;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::{self, Instant};

/// A network that changes does so in several steps: an address first, then routes.
/// After the last of them so much time passes.
const SETTLED: Duration = Duration::from_millis(200);

/// One that does not come to rest is looked at so often all the same.
const RESTLESS: Duration = Duration::from_secs(1);

/// What the system says, when there is something.
#[derive(Debug)]
pub(crate) struct Monitor {
    notices: system::Notices,
    /// When the first and the last of the changes were heard that nobody was told of.
    unsettled: Option<(Instant, Instant)>,
}

impl Monitor {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// The system does not let us: a sandbox, for instance.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { notices: system::Notices::subscribe()?, unsettled: None })
    }

    /// Waits until something has changed and come to rest.
    ///
    /// # Errors
    ///
    /// Nothing more will be heard.
    ///
    /// # Cancel safety
    ///
    /// No change is lost if the future is dropped.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let due = self.unsettled.map(|(first, last)| (last + SETTLED).min(first + RESTLESS));
            tokio::select! {
                biased;
                () = clock::sleep_until(due) => {
                    self.unsettled = None;
                    return Ok(());
                }
                heard = self.notices.heard() => {
                    heard?;
                    let now = clock::now();
                    self.unsettled = Some((self.unsettled.map_or(now, |(first, _)| first), now));
                }
            }
        }
    }
}

/// Where packets to an address go first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Route {
    Via(system::FirstHop),
    /// Nowhere: there is no network that leads there.
    None,
    /// The system does not say.
    Unknown,
}

impl Route {
    /// The present one.
    pub(crate) fn to(addr: IpAddr) -> Self {
        match system::first_hop(addr.to_canonical()) {
            Ok(Some(hop)) => Self::Via(hop),
            Ok(None) => Self::None,
            Err(error) => {
                tracing::debug!(%addr, %error, "the system does not say where packets go");
                Self::Unknown
            }
        }
    }

    /// Whether it is worth a try, where `earlier` was the route before a change.
    pub(crate) fn is_another_than(&self, earlier: &Self) -> bool {
        match self {
            Self::Via(_) => self != earlier,
            Self::None => false,
            Self::Unknown => true,
        }
    }
}
