//! The one task of a session.
//!
//! It lives as long as the session does, attached or not:
//!
//! ```text
//!             link lost, reconnect asked for
//!   Attached ───────────────────────────────▶ Detached ──▶ ended: linger over,
//!      ▲  │                                    │    ▲       gave up, refused
//!      │  └── a newer connection (server) ──▶ resume ┘ failed, and may be
//!      └──────────────────────────────────────┘         tried again
//! ```
//!
//! - [`link`] runs an attached connection: control frames, streams.
//! - [`liveness`] says whether the server can be reached (client).
//! - [`early`] is what a client says before that is possible (0-RTT).
//! - [`attaches`] is the way for new connections, from the role to here.
//! - [`resume`] brings a new connection from the role (the
//!   client's dialler, the server's accept loop) to attached.

mod attaches;
mod begin;
mod early;
mod link;
mod liveness;
mod resume;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TryRecvError;

use self::attaches::AttachReceiver;
pub(crate) use self::attaches::AttachSender;
pub(crate) use self::begin::{Beginnings, Begun};
pub(crate) use self::early::{EarlyFlight, EarlyStreams};
pub(crate) use self::resume::{Attach, Dialled, Resumed};
use crate::clock::{self, sleep_until};
use crate::code::{CloseCode, LinkCode};
use crate::config::SessionConfig;
use crate::control::{ControlReader, ControlWriter};
use crate::error::SessionError;
use crate::event::{DetachCause, SessionEvent};
use crate::id::{Epoch, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::quic::{Connection, Dialler, Lost};
use crate::session::SessionShared;
use crate::wire::Close;
use link::Link;

/// How long the driver waits, after a session has ended here, for the peer to
/// hear of it.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a session is kept whose client will hardly come back. One that has
/// said nothing at all may be the leftover of a connection that died with our
/// welcome on it: nobody has its token. One that we have closed gracefully may
/// have heard of it, with its confirmation lost.
const SHORT_LINGER: Duration = Duration::from_secs(30);

/// How long the peer may take to confirm a graceful close, by closing the
/// connection. Everything was acknowledged by then: nothing can be lost.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a session that lingers looks whether its time is up: its timer may stand
/// still while the machine sleeps.
const LINGER_LOOK: Duration = Duration::from_secs(60);

/// Called when the session has ended, before waiters are told.
type OnEnd = Box<dyn FnOnce(&SessionError) + Send>;

/// A session's task, before it runs.
pub(crate) struct Driver {
    shared: Arc<SessionShared>,
    config: Arc<SessionConfig>,
    attaches: AttachReceiver,
    /// Server: how long to stay without a connection.
    linger: Option<Duration>,
    /// The peer has shown that it knows of the session.
    confirmed: bool,
    /// A graceful shutdown was asked for.
    draining: bool,
    /// Client: the network has changed, or may have.
    network_changed: bool,
    /// What `close` was called with.
    goodbye: Option<Close>,
    /// `Close` was sent on some connection: the peer may have ended the session.
    close_sent: bool,
    on_end: Option<OnEnd>,
}

/// Why a link stopped running.
#[derive(Debug)]
enum LinkEnd {
    Lost(Lost),
    /// Nothing was heard for the time of a probe.
    Unresponsive,
    /// The application asked for another connection.
    Reconnect,
    /// A newer connection is here.
    Attach(Box<Attach>),
    Ended(SessionError),
}

impl From<PeerMisbehaved> for LinkEnd {
    fn from(misbehaved: PeerMisbehaved) -> Self {
        Self::Ended(misbehaved.into())
    }
}

impl Driver {
    /// The driver of a new session, and where its role brings new connections.
    pub(crate) fn new(
        shared: Arc<SessionShared>,
        config: Arc<SessionConfig>,
        linger: Option<Duration>,
        on_end: impl FnOnce(&SessionError) + Send + 'static,
    ) -> (Self, AttachSender) {
        let (sender, attaches) = attaches::channel(shared.host.clone());
        let confirmed = shared.side == Side::Client;
        let on_end = Some(Box::new(on_end) as OnEnd);
        let driver = Self {
            shared,
            config,
            attaches,
            linger,
            confirmed,
            draining: false,
            network_changed: false,
            goodbye: None,
            close_sent: false,
            on_end,
        };
        (driver, sender)
    }

    /// Runs the session to its end, from its first connection on.
    pub(crate) fn run(
        self,
        connection: Connection,
        dialler: Option<Dialler>,
        reader: ControlReader,
        writer: ControlWriter,
    ) -> impl Future<Output = ()> + Send {
        let epoch = Epoch::FIRST;
        let streams = self.config.initial_stream_limit();
        let mut first = Link::new(connection, epoch, reader, writer, streams);
        first.dialler = dialler;
        Box::new(self).live(Box::new(first))
    }

    /// A session may wait for its client for days, and a server for many: whatever is not
    /// needed for that has a place of its own, which is given back.
    async fn live(mut self: Box<Self>, first: Box<Link>) {
        self.shared.emit(SessionEvent::Attached { epoch: first.epoch });
        let mut link = Some(first);
        loop {
            let end = match &mut link {
                Some(attached) => Box::pin(self.run_attached(attached)).await,
                None => self.run_detached().await,
            };
            let error = match end {
                LinkEnd::Attach(attach) => match Box::pin(self.attach(&mut link, *attach)).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                LinkEnd::Ended(error) => error,
                end => match self.detach(&mut link, end) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            Box::pin(self.end(link.as_deref_mut(), error)).await;
            return;
        }
    }

    /// The link is down: fences, unless the way it ended is the session's end.
    fn detach(&mut self, link: &mut Option<Box<Link>>, end: LinkEnd) -> Result<(), SessionError> {
        let Some(old) = link else { return Ok(()) };
        let (cause, code) = match end {
            LinkEnd::Lost(lost) => (self.cause(old, lost)?, LinkCode::Detach),
            LinkEnd::Unresponsive => (DetachCause::TimedOut, LinkCode::Detach),
            LinkEnd::Reconnect => (DetachCause::Requested, LinkCode::Detach),
            LinkEnd::Attach(_) => (DetachCause::Replaced, LinkCode::Replaced),
            LinkEnd::Ended(error) => return Err(error),
        };
        if cause == DetachCause::PeerReset {
            // Somebody is there again: what was dialled before was sent to nobody.
            self.shared.redial.notify_one();
        }
        self.fence(link, cause, code);
        Ok(())
    }

    /// Lets go of the attached connection, if there is one.
    fn fence(&self, link: &mut Option<Box<Link>>, cause: DetachCause, code: LinkCode) {
        self.shared.fence();
        if let Some(old) = link.take() {
            old.connection.close(code, b"");
            self.shared.set_detached(old.epoch, cause);
        }
    }

    /// What the end of a connection means for the session.
    fn cause(&self, link: &Link, lost: Lost) -> Result<DetachCause, SessionError> {
        Ok(match lost {
            Lost::TimedOut => DetachCause::TimedOut,
            Lost::Reset => DetachCause::PeerReset,
            Lost::Closed { code: LinkCode::Replaced, .. } => DetachCause::Replaced,
            Lost::Closed { code: LinkCode::Detach, .. } => DetachCause::Requested,
            Lost::Closed { code: LinkCode::Superseded, .. } => {
                return Err(SessionError::Superseded { epoch: link.epoch });
            }
            Lost::Closed { code: LinkCode::SessionClosed, reason } => {
                return Err(self.closed_by_peer(Close::from_reason(reason)));
            }
            Lost::Closed { code: LinkCode::Violation, reason } => {
                let reason = String::from_utf8_lossy(&reason).into_owned();
                return Err(SessionError::RejectedByPeer { reason });
            }
            Lost::Closed { code, .. } => {
                DetachCause::Transport { reason: format!("closed by the peer ({code:?})") }
            }
            other => DetachCause::Transport { reason: other.to_string() },
        })
    }

    /// The peer's application has closed the session, or confirms that ours
    /// has.
    fn closed_by_peer(&self, close: Close) -> SessionError {
        if self.draining && close.code == CloseCode::DONE && close.reason.is_empty() {
            return closed();
        }
        SessionError::PeerClosed { code: close.code, reason: close.reason }
    }

    /// Waits for a new connection, or for the session's end.
    async fn run_detached(&mut self) -> LinkEnd {
        let linger = self.linger();
        let began = self.shared.moment();
        loop {
            match self.attaches.try_recv() {
                Ok(attach) => return LinkEnd::Attach(attach),
                Err(TryRecvError::Disconnected) => return LinkEnd::Ended(orphaned()),
                Err(TryRecvError::Empty) => {}
            }
            match self.take_requests(None) {
                // Without a link there is nothing to give up.
                None | Some(LinkEnd::Reconnect) => {}
                Some(end) => return end,
            }
            // Acks, resets and streams wait for the next connection, whose attach looks
            // at every pipe.
            self.look_at_due();
            let shared = self.shared.clone();
            if std::mem::take(&mut self.network_changed) {
                // The next connection is on a fresh socket anyway; now is the time.
                shared.anew.notify_one();
            }
            let left = linger.map(|linger| linger.saturating_sub(shared.moment().since(began)));
            if let Some(linger) = linger.filter(|_| left == Some(Duration::ZERO)) {
                return LinkEnd::Ended(if self.close_sent {
                    closed()
                } else {
                    SessionError::Expired { linger }
                });
            }
            let look = left.map(|left| clock::now() + left.min(LINGER_LOOK));
            tokio::select! {
                biased;
                () = shared.host.wake.notified() => {}
                () = sleep_until(look) => {}
            }
        }
    }

    /// How long to stay without a connection, as things are.
    fn linger(&self) -> Option<Duration> {
        let short = !self.confirmed || self.close_sent;
        self.linger.map(|linger| if short { linger.min(SHORT_LINGER) } else { linger })
    }

    /// Marks pipes as looked at, so that they can be marked again.
    fn look_at_due(&self) {
        let due = self.shared.host.take_due(true);
        due.now.iter().for_each(|pipe| pipe.clear_due());
        due.later.iter().for_each(|pipe| pipe.clear_due());
    }

    /// What the application wants. `attached`: the epoch of the link.
    fn take_requests(&mut self, attached: Option<Epoch>) -> Option<LinkEnd> {
        let requests = self.shared.take_requests();
        if let Some((code, reason)) = requests.close {
            return Some(LinkEnd::Ended(self.close(code, reason)));
        }
        // Before the next check: a shutdown goes on when its handle is dropped.
        self.draining |= requests.shutdown;
        if self.shared.host.is_abandoned() && !self.draining {
            return Some(LinkEnd::Ended(abandoned()));
        }
        self.network_changed |= requests.network_changed;
        let reconnect = requests.reconnect.is_some_and(|given_up| attached == Some(given_up));
        reconnect.then_some(LinkEnd::Reconnect)
    }

    fn close(&mut self, code: CloseCode, reason: bytes::Bytes) -> SessionError {
        self.goodbye = Some(Close { code, reason });
        SessionError::LocallyClosed { code }
    }

    /// The session is over: tells everybody here, then the peer.
    async fn end(&mut self, link: Option<&mut Link>, error: SessionError) {
        if let Some(on_end) = self.on_end.take() {
            on_end(&error);
        }
        let (code, reason) = self.last_words(&error);
        // Who was told by the peer answers at once: the peer waits for it.
        let told = matches!(error, SessionError::PeerClosed { .. });
        self.shared.end(error);
        if let Some(link) = link {
            if code == LinkCode::SessionClosed && !told {
                // A CONNECTION_CLOSE alone may never leave: quinn holds it back
                // while the congestion window is full, and then forgets it. The
                // peer answers the frame by closing the connection.
                let close = Close::from_reason(reason.clone().into());
                clock::until(clock::now() + GOODBYE, link.say_goodbye(close)).await;
            }
            link.connection.close(code, &reason);
            if let Some(dialler) = &link.dialler {
                // The farewell is on its way once the endpoint is idle.
                clock::until(clock::now() + GOODBYE, dialler.wait_idle()).await;
            }
        }
        self.shared.set_finished();
    }

    /// How the end of the session is told to the peer.
    fn last_words(&self, error: &SessionError) -> (LinkCode, Vec<u8>) {
        match error {
            SessionError::PeerMisbehaved(misbehaved) => {
                (LinkCode::Violation, misbehaved.to_string().into_bytes())
            }
            SessionError::Superseded { .. } => (LinkCode::Superseded, Vec::new()),
            _ => {
                let code = match error {
                    SessionError::LocallyClosed { code } => *code,
                    _ => CloseCode::DONE,
                };
                let close = self.goodbye.clone();
                let close = close.unwrap_or(Close { code, reason: bytes::Bytes::new() });
                (LinkCode::SessionClosed, close.to_reason())
            }
        }
    }
}

impl Drop for Driver {
    /// The task ends before the session does only with its runtime (or by a
    /// defect): nobody must wait for what cannot come any more.
    fn drop(&mut self) {
        if self.shared.table().ended.is_none() {
            let error = orphaned();
            if let Some(on_end) = self.on_end.take() {
                on_end(&error);
            }
            self.shared.end(error);
        }
        self.shared.set_finished();
    }
}

/// The role is gone, and with it every hope of another connection.
fn orphaned() -> SessionError {
    SessionError::LocallyClosed { code: CloseCode::GOING_AWAY }
}

/// A graceful shutdown is complete.
fn closed() -> SessionError {
    SessionError::LocallyClosed { code: CloseCode::DONE }
}

fn abandoned() -> SessionError {
    SessionError::LocallyClosed { code: CloseCode::ABANDONED }
}
