//! Systems without netlink: addresses that come and go, and nothing about routes.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll, Waker};

use if_watch::tokio::IfWatcher;

#[derive(Debug)]
pub(super) struct Notices(IfWatcher);

impl Notices {
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut watcher = IfWatcher::new()?;
        // Those that are there already are no news.
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(present) = watcher.poll_if_event(&mut context) {
            present?;
        }
        Ok(Self(watcher))
    }

    /// Waits until an address has come or gone.
    pub(super) async fn heard(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.0.poll_if_event(cx)).await.map(drop)
    }
}

/// Nobody knows any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FirstHop {}

pub(super) fn first_hop(_: IpAddr) -> io::Result<Option<FirstHop>> {
    Err(io::ErrorKind::Unsupported.into())
}
