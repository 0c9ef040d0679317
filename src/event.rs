//! What a user can watch: the state of the link, and what happens to it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::clock::Instant;
use crate::error::{DialError, SessionError};
use crate::id::Epoch;

/// Whether a session has a live connection right now.
///
/// `last_contact` is when the peer has acknowledged something for the last time: then
/// both ways worked. [`Session::link`](crate::Session::link) gives the time as it is
/// known when it is called; who [watches](crate::Session::watch_link) the link is told
/// when the state changes, not each time that something is heard.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LinkState {
    /// Bytes flow.
    #[non_exhaustive]
    Attached {
        /// The epoch of the connection.
        epoch: Epoch,
        /// The peer's address.
        remote_addr: SocketAddr,
        /// When the peer was heard for the last time. An idle link is silent for as long
        /// as its [probes](crate::SessionConfig::probe_interval) are apart.
        last_contact: std::time::Instant,
    },
    /// Client: nothing was heard for a while although somebody asked. The connection
    /// may come back at any moment; a new one is dialled as well.
    #[non_exhaustive]
    Suspect {
        /// The epoch of the connection.
        epoch: Epoch,
        /// The peer's address.
        remote_addr: SocketAddr,
        /// When the peer was heard for the last time.
        last_contact: std::time::Instant,
    },
    /// No connection. Reads wait; writes go on until the replay buffer is full.
    #[non_exhaustive]
    Detached {
        /// The epoch of the last connection.
        epoch: Epoch,
        /// Since when.
        since: std::time::Instant,
        /// When the peer was heard for the last time.
        last_contact: std::time::Instant,
        /// Why the last connection ended.
        cause: DetachCause,
    },
    /// The session has ended.
    #[non_exhaustive]
    Closed {
        /// How.
        error: SessionError,
    },
}

impl LinkState {
    /// Whether a connection is attached, suspect or not.
    pub fn is_attached(&self) -> bool {
        matches!(self, Self::Attached { .. } | Self::Suspect { .. })
    }

    /// Whether another connection is needed, or might be soon.
    pub(crate) fn is_in_need(&self) -> bool {
        matches!(self, Self::Suspect { .. } | Self::Detached { .. })
    }
}

/// Why a connection ended, where the session did not end with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DetachCause {
    /// Nothing was heard from the peer for too long.
    #[error("nothing was heard from the peer")]
    TimedOut,
    /// The peer has forgotten the connection, as after a restart.
    #[error("the peer has forgotten the connection (stateless reset)")]
    PeerReset,
    /// A newer connection of the same client takes its place.
    #[error("a newer connection takes its place")]
    Replaced,
    /// Asked for with [`Session::reconnect`](crate::Session::reconnect), here or
    /// there.
    #[error("a reconnect was asked for")]
    Requested,
    /// The peer's process dropped the connection, or QUIC found an error.
    #[error("the connection failed: {reason}")]
    Transport {
        /// What QUIC said.
        reason: String,
    },
}

/// Something that happened to a session's link.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The session's first connection is attached.
    #[non_exhaustive]
    Attached {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The connection is lost; once for each epoch.
    #[non_exhaustive]
    Detached {
        /// The epoch of the lost connection.
        epoch: Epoch,
        /// Why.
        cause: DetachCause,
    },
    /// Client: nothing was heard for a while although somebody asked.
    #[non_exhaustive]
    Suspect {
        /// The epoch of the connection.
        epoch: Epoch,
    },
    /// Client: a suspect link goes on as it was.
    #[non_exhaustive]
    Recovered {
        /// The epoch of the connection.
        epoch: Epoch,
        /// How long nothing was heard.
        silence: Duration,
    },
    /// Client: an attempt to resume begins.
    #[non_exhaustive]
    Resuming {
        /// 1 for the first attempt of an outage.
        attempt: u32,
        /// Why the attempt before failed.
        last: Option<DialError>,
    },
    /// The session goes on, on a new connection.
    #[non_exhaustive]
    Resumed {
        /// The epoch of the new connection.
        epoch: Epoch,
        /// How long there was no connection that worked.
        downtime: Duration,
        /// Bytes that this side sends again, in all pipes.
        replayed: u64,
    },
    /// The same connection goes on from another address of the client: a NAT has given
    /// it one, or it has moved by itself (see
    /// [`Session::network_changed`](crate::Session::network_changed)). Told on both
    /// sides; the server notices with the first frame that comes from there.
    #[non_exhaustive]
    Migrated {
        /// The peer's address: on the server the new one, on the client still the
        /// server's.
        remote_addr: SocketAddr,
    },
    /// The session has ended. The last event.
    #[non_exhaustive]
    Closed {
        /// How.
        error: SessionError,
    },
    /// This receiver was too slow: so many events were dropped for it.
    #[non_exhaustive]
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// Events kept for a slow receiver: some ten outages' worth.
const EVENT_BACKLOG: usize = 64;

/// A stream of a session's events, from the moment it was made.
///
/// Bounded: a receiver that falls more than 64 events behind gets
/// [`SessionEvent::Lagged`] in place of the oldest.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<SessionEvent>);

impl Events {
    /// The next event; `None` after the session has ended and all were read.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some(SessionEvent::Lagged { missed })
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Who listens to a session's events. Room for a backlog is taken only while somebody
/// does: most sessions of a server are watched by nobody.
#[derive(Debug, Default)]
pub(crate) enum Audience {
    #[default]
    Nobody,
    /// Or nobody any more, since the last event.
    Somebody(broadcast::Sender<SessionEvent>),
    /// The last event was sent: who waits for more then hears that there is none.
    Over,
}

impl Audience {
    pub(crate) fn tell(&mut self, event: SessionEvent) {
        let last = matches!(event, SessionEvent::Closed { .. });
        let heard = match self {
            Self::Somebody(sender) => sender.send(event).is_ok(),
            Self::Nobody | Self::Over => false,
        };
        if last {
            *self = Self::Over;
        } else if !heard && !matches!(self, Self::Over) {
            *self = Self::Nobody;
        }
    }

    /// Events from now on; none, and the end of them, after the last.
    pub(crate) fn join(&mut self) -> Events {
        Events(match self {
            Self::Somebody(sender) => sender.subscribe(),
            Self::Over => broadcast::Sender::new(1).subscribe(),
            Self::Nobody => {
                let (sender, events) = broadcast::channel(EVENT_BACKLOG);
                *self = Self::Somebody(sender);
                events
            }
        })
    }
}

/// The state of a session's link, and who watches it: as with events, a channel is there
/// only while somebody does.
#[derive(Debug)]
pub(crate) struct Watched {
    state: LinkState,
    /// Or nobody any more, since the last change.
    watchers: Option<watch::Sender<LinkState>>,
}

impl Watched {
    pub(crate) fn new(state: LinkState) -> Self {
        Self { state, watchers: None }
    }

    pub(crate) fn state(&self) -> &LinkState {
        &self.state
    }

    /// Returns who is to be told.
    pub(crate) fn set(&mut self, state: LinkState) -> Option<watch::Sender<LinkState>> {
        self.state = state;
        self.watchers.take_if(|watchers| watchers.receiver_count() == 0);
        self.watchers.clone()
    }

    pub(crate) fn watch(&mut self) -> watch::Receiver<LinkState> {
        let channel = || watch::Sender::new(self.state.clone());
        self.watchers.get_or_insert_with(channel).subscribe()
    }
}

/// How long ago `since` was.
pub(crate) fn elapsed(since: Instant) -> Duration {
    crate::clock::now().saturating_duration_since(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(epoch: u64) -> LinkState {
        let last_contact = std::time::Instant::now();
        let remote_addr = (std::net::Ipv4Addr::LOCALHOST, 4433).into();
        LinkState::Attached { epoch: Epoch::from_wire(epoch), remote_addr, last_contact }
    }

    #[test]
    fn who_watches_the_link_sees_it_as_it_is_and_as_it_becomes() {
        let [first, second, third] = [1, 2, 3].map(attached);
        let mut watched = Watched::new(first.clone());
        let tell = |watched: &mut Watched, state: &LinkState| {
            let watchers = watched.set(state.clone());
            let told = watchers.is_some();
            watchers.map(|watchers| watchers.send_replace(state.clone()));
            told
        };
        let receiver = watched.watch();
        assert_eq!(*receiver.borrow(), first);
        assert!(tell(&mut watched, &second));
        assert!(receiver.has_changed().expect("the session lives"));
        assert_eq!((&*receiver.borrow(), watched.state()), (&second, &second));

        drop(receiver);
        assert!(!tell(&mut watched, &third), "nobody watches any more");
        assert_eq!(*watched.watch().borrow(), third);
    }
}
