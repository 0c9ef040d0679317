//! A session, as its users and its driver see it.

mod link;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};

use crate::clock::Moment;
use crate::code::CloseCode;
use crate::environment::Environment;
use crate::error::{DialError, HandoverError, OpenError, SessionError};
use crate::event::{Audience, Events, LinkState, SessionEvent, Watched};
use crate::id::{Epoch, PipeId, SessionId, Side};
use crate::pipe::{BackedPipe, Handle, Host, PipeShared, SharedBudget};
use crate::proto::SessionCore;
use crate::quic::Connection;
use crate::stats::{PipeInfo, SessionStats};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Mutex, MutexGuard};
use crate::tls::Fingerprint;
use crate::wire::LABEL_MAX;

/// A session with a peer: many pipes, over one connection at a time.
///
/// Made by [`Client::connect`](crate::Client::connect) on one side and
/// [`Incoming::accept`](crate::Incoming::accept) on the other. Clones are the
/// same session. When the last clone and the last pipe are dropped the session
/// is closed with [`CloseCode::ABANDONED`]; nothing is waited for.
///
/// A session ends once, for good, with a [`SessionError`]; everybody who waits
/// for anything in it gets that. A lost connection does not end it.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<SessionShared>,
    _handle: Handle,
}

impl Session {
    pub(crate) fn new(shared: Arc<SessionShared>) -> Self {
        let handle = Handle::new(&shared.host);
        Self { shared, _handle: handle }
    }

    /// Opens a pipe. It can be used at once, also while the link is down.
    ///
    /// The `label` (at most [`LABEL_MAX`] bytes, may be empty)
    /// is for the acceptor to read: what the pipe is for. The acceptor hears of
    /// the pipe at once, before anything is written to it.
    ///
    /// # Errors
    ///
    /// [`OpenError::TooManyPipes`] at the peer's limit of live pipes,
    /// [`OpenError::LabelTooLong`], or [`OpenError::Session`] once the session
    /// has ended or [shuts down](Self::shutdown).
    pub fn open_pipe(&self, label: impl Into<Bytes>) -> Result<BackedPipe, OpenError> {
        let label = label.into();
        if label.len() > LABEL_MAX {
            return Err(OpenError::LabelTooLong { len: label.len(), max: LABEL_MAX });
        }
        let (pipe, connection) = self.shared.open(label)?;
        let handle = BackedPipe::new(pipe.clone());
        // Without a detour through the driver, where the peer's stream limit
        // allows: the first bytes follow in the same packet.
        let attached = connection.is_some_and(|(connection, epoch)| {
            let stream = connection.try_open_bi();
            stream.is_some_and(|stream| pipe.attach(epoch, stream, None).is_ok())
        });
        if !attached {
            self.shared.host.due_now(pipe);
        }
        Ok(handle)
    }

    /// The next pipe that the peer has opened; `None` once the session has ended
    /// gracefully.
    ///
    /// # Errors
    ///
    /// The session has ended in another way.
    ///
    /// # Cancel safety
    ///
    /// No pipe is lost if the future is dropped.
    pub async fn accept_pipe(&self) -> Result<Option<BackedPipe>, SessionError> {
        loop {
            // Registered before the queue is looked at: nothing is missed.
            let mut arrived = std::pin::pin!(self.shared.arrived.notified());
            arrived.as_mut().enable();
            {
                let mut table = self.shared.table();
                if let Some(pipe) = table.incoming.pop_front() {
                    if !table.incoming.is_empty() {
                        self.shared.arrived.notify_one();
                    }
                    return Ok(Some(BackedPipe::new(pipe)));
                }
                match &table.ended {
                    Some(error) if error.is_graceful() => return Ok(None),
                    Some(error) => return Err(SessionError::clone(error)),
                    None => {}
                }
            }
            arrived.await;
        }
    }

    /// Ends the session gracefully: no new pipes from this side, and once the
    /// peer's application has read everything that was written here (and taken
    /// note of each end), the session is closed with [`CloseCode::DONE`].
    ///
    /// Waits through outages. What the *peer* has written is not waited for:
    /// read your pipes to their ends first. Without an end of its own a pipe
    /// counts as settled when all its bytes are acknowledged.
    ///
    /// # Errors
    ///
    /// The session ended in another way before everything was acknowledged.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on if the future is dropped.
    pub async fn shutdown(&self) -> Result<(), SessionError> {
        self.shared.table().draining = true;
        self.shared.request(|requests| requests.shutdown = true);
        let error = self.closed().await;
        let settled = self.shared.table().settled;
        if error.is_graceful() && settled { Ok(()) } else { Err(error) }
    }

    /// Ends the session now: bytes on their way may be lost, and all pipes on
    /// both sides get an error. The peer is told if it can be reached (a resume that
    /// is under way has another second for that); [`closed`](Self::closed) waits for it.
    pub fn close(&self, code: CloseCode, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        self.shared.request(|requests| {
            requests.close.get_or_insert((code, reason));
        });
    }

    /// Waits until the session has ended, and says how.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub async fn closed(&self) -> SessionError {
        self.shared.until(|shared| shared.finished.load(Acquire).then_some(())).await;
        self.close_reason().unwrap_or(SessionError::LocallyClosed { code: CloseCode::ABANDONED })
    }

    /// How the session has ended; `None` while it has not.
    pub fn close_reason(&self) -> Option<SessionError> {
        self.shared.table().ended.as_deref().cloned()
    }

    /// Waits until a connection is attached, and gives its epoch.
    ///
    /// # Errors
    ///
    /// The session has ended.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub async fn attached(&self) -> Result<Epoch, SessionError> {
        self.attached_after(None).await
    }

    /// Gives the current connection up and goes on over a new one: at once on
    /// the client, and as soon as the client has come back on the server.
    /// Returns the epoch of the new one. Calls at the same time are one.
    ///
    /// While the link is down already, the client tries again at once.
    ///
    /// # Errors
    ///
    /// The session has ended.
    ///
    /// # Cancel safety
    ///
    /// The reconnect goes on if the future is dropped.
    pub async fn reconnect(&self) -> Result<Epoch, SessionError> {
        // The epoch of the link as it was last seen up, not that of an attempt
        // under way: if that succeeds, it is the new connection.
        let Some(given_up) = self.shared.link_epoch() else {
            return self.attached_after(None).await;
        };
        self.shared.request(|requests| requests.reconnect = Some(given_up));
        self.shared.redial.notify_one();
        self.attached_after(Some(given_up)).await
    }

    /// Client: the network has changed (another interface, another address). That the
    /// machine woke up is noticed without this. The connection moves to a fresh socket and asks the server
    /// at once; if it cannot be reached from there either, it is as with any outage.
    /// While the link is down, the next attempt begins now.
    ///
    /// Cheap and safe to call too often: bytes go on flowing meanwhile. Does
    /// nothing on the server, which cannot reach a client that has moved.
    pub fn network_changed(&self) {
        if self.shared.side == Side::Client {
            self.shared.network_changed();
        }
    }

    /// Client: moves the session to a new connection on a fresh socket, and lets go of
    /// the current one only when the new one is attached (make before break): for when
    /// a better network is there, and the old one still works. A pipe stalls for less
    /// than a round trip. Returns the epoch of the new connection. Calls at the same
    /// time are one.
    ///
    /// While the link is down or suspect, it waits for the resume that is under way.
    ///
    /// # Errors
    ///
    /// No new connection could be made within the
    /// [attempt timeout](crate::ClientConfig::attempt_timeout): the old one stays. Or
    /// the session has ended, or this is the server's side of it, which cannot dial.
    ///
    /// # Cancel safety
    ///
    /// The handover goes on if the future is dropped.
    pub async fn handover(&self) -> Result<Epoch, HandoverError> {
        if self.shared.side == Side::Server {
            return Err(HandoverError::NotTheClient);
        }
        let told = {
            let mut table = self.shared.table();
            if let Some(error) = &table.ended {
                return Err(SessionError::clone(error).into());
            }
            let (sender, told) = oneshot::channel();
            // Callers that have given up do not pile up.
            table.moving.retain(|waiting| !waiting.is_closed());
            table.moving.push(sender);
            told
        };
        self.shared.begin_moving();
        self.shared.changed.notify_waiters();
        if let Ok(Err(failed)) = told.await {
            return Err(failed.into());
        }
        // Not one after that of the call: the handover that has come to something may be
        // one that was about to as this was asked for, and then nobody dials for another.
        Ok(self.attached().await?)
    }

    async fn attached_after(&self, given_up: Option<Epoch>) -> Result<Epoch, SessionError> {
        let attached = |shared: &SessionShared| match shared.watched().state() {
            LinkState::Attached { epoch, .. } | LinkState::Suspect { epoch, .. } => {
                (Some(*epoch) > given_up).then_some(Ok(*epoch))
            }
            LinkState::Detached { .. } => None,
            LinkState::Closed { error } => Some(Err(error.clone())),
        };
        self.shared.until(attached).await
    }

    /// The state of the link right now.
    pub fn link(&self) -> LinkState {
        self.shared.link_state()
    }

    /// The state of the link, to be watched.
    pub fn watch_link(&self) -> watch::Receiver<LinkState> {
        self.shared.watched().watch()
    }

    /// What happens to the link from now on.
    pub fn events(&self) -> Events {
        self.shared.subscribe()
    }

    /// What the session has done so far.
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// All live pipes, in the order of their ids: those whose both directions
    /// have not ended, or whose ends the peer has not confirmed.
    pub fn pipes(&self) -> Vec<PipeInfo> {
        let info = |pipe: &Arc<PipeShared>| PipeInfo {
            id: pipe.id(),
            label: pipe.label(),
            stats: pipe.stats(),
        };
        self.shared.pipes().iter().map(info).collect()
    }

    /// The session's public name, the same on both sides.
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.shared.side
    }

    /// The public key that the peer has proved to hold, if it showed one.
    pub fn peer(&self) -> Option<Fingerprint> {
        self.shared.peer
    }
}

/// What the handles, the driver and the role of a session share.
pub(crate) struct SessionShared {
    pub(crate) id: SessionId,
    pub(crate) side: Side,
    pub(crate) peer: Option<Fingerprint>,
    pub(crate) host: Arc<Host>,
    environment: Environment,
    table: Mutex<Table>,
    requests: Mutex<Requests>,
    link: Mutex<Watched>,
    /// The driver is through: the peer was told, if it could be.
    finished: AtomicBool,
    /// The link has changed, or the driver is through. Beside the channel, which
    /// is for users: this one wakes those who wait in the order they came.
    changed: Notify,
    audience: Mutex<Audience>,
    /// A pipe has arrived, or the session has ended.
    arrived: Notify,
    /// Client: try again without waiting any longer, also in an attempt under way.
    pub(crate) redial: Notify,
    /// Client: another connection is wanted although this one works.
    is_moving: AtomicBool,
    /// How many bytes had been read when that began.
    read_before_moving: AtomicU64,
    /// Client: an attempt that was under way may have been in another network.
    pub(crate) anew: Notify,
}

/// The session's core and its live pipes.
///
/// Locked before any pipe, never after: who holds a pipe's lock does not take
/// this one.
pub(crate) struct Table {
    pub(crate) core: SessionCore,
    /// In order: what is done to all of them takes the same course every time.
    pub(crate) pipes: BTreeMap<PipeId, Arc<PipeShared>>,
    /// Accepted by the driver, not yet by the application. At most as many as
    /// the peer may have live.
    pub(crate) incoming: VecDeque<Arc<PipeShared>>,
    pub(crate) ended: Option<Arc<SessionError>>,
    /// When the session ended, everything written had been acknowledged.
    pub(crate) settled: bool,
    /// No new pipes from this side.
    draining: bool,
    connection: Option<Attached>,
    /// Round-trip time of the last connection, when it was given up.
    last_rtt: Option<Duration>,
    /// Who waits for a handover to come to something.
    moving: Vec<oneshot::Sender<Result<(), DialError>>>,
    /// When something was acknowledged for the last time, as far as the driver has
    /// noticed. QUIC's acknowledgements show that both ways work.
    last_contact: Moment,
    detached_since: Option<Moment>,
    downtime: Duration,
    resumes: u64,
}

impl Table {
    /// There is a connection that works; returns how long there was none.
    fn end_outage(&mut self, now: Moment) -> Duration {
        let outage = self.detached_since.take().map(|since| now.since(since));
        let outage = outage.unwrap_or_default();
        self.downtime += outage;
        outage
    }
}

/// The attached connection and its epoch.
type Attached = (Connection, Epoch);

/// What the application wants of the driver.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) close: Option<(CloseCode, Bytes)>,
    pub(crate) shutdown: bool,
    /// Give up the connection of this epoch, if it is still the attached one.
    pub(crate) reconnect: Option<Epoch>,
    /// Client: the network has changed.
    pub(crate) network_changed: bool,
}

/// Only the name and where it stands: nothing that a log should not hold.
impl fmt::Debug for SessionShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("side", &self.side)
            .field("link", self.watched().state())
            .finish_non_exhaustive()
    }
}

impl SessionShared {
    /// A session whose first connection is `connection`.
    pub(crate) fn new(
        core: SessionCore,
        replay_budget: u64,
        server_budget: Option<Arc<SharedBudget>>,
        peer: Option<Fingerprint>,
        connection: &Connection,
        environment: &Environment,
    ) -> Arc<Self> {
        let (epoch, remote_addr) = (core.epoch(), connection.remote_addr());
        let last_contact = environment.moment();
        let limit = core.replay_limit(replay_budget);
        let host = Host::new(limit, server_budget, core.max_peer_pipes());
        host.set_attached(Some(epoch));
        Arc::new(Self {
            id: core.id(),
            side: core.side(),
            peer,
            host: Arc::new(host),
            environment: environment.clone(),
            table: Mutex::new(Table {
                core,
                pipes: BTreeMap::new(),
                incoming: VecDeque::new(),
                ended: None,
                settled: false,
                draining: false,
                connection: Some((connection.clone(), epoch)),
                last_rtt: None,
                moving: Vec::new(),
                last_contact,
                detached_since: None,
                downtime: Duration::ZERO,
                resumes: 0,
            }),
            requests: Mutex::new(Requests::default()),
            link: Mutex::new(Watched::new(LinkState::Attached {
                epoch,
                remote_addr,
                last_contact: last_contact.at.into_std(),
            })),
            finished: AtomicBool::new(false),
            changed: Notify::new(),
            audience: Mutex::default(),
            arrived: Notify::new(),
            redial: Notify::new(),
            is_moving: AtomicBool::new(false),
            read_before_moving: AtomicU64::new(0),
            anew: Notify::new(),
        })
    }

    /// The present, on a clock that goes on while the machine sleeps.
    pub(crate) fn moment(&self) -> Moment {
        self.environment.moment()
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pipe(&self, id: PipeId) -> Option<Arc<PipeShared>> {
        self.table().pipes.get(&id).cloned()
    }

    /// All live pipes.
    pub(crate) fn pipes(&self) -> Vec<Arc<PipeShared>> {
        self.table().pipes.values().cloned().collect()
    }

    fn open(&self, label: Bytes) -> Result<(Arc<PipeShared>, Option<Attached>), OpenError> {
        let mut table = self.table();
        if let Some(error) = &table.ended {
            return Err(SessionError::clone(error).into());
        }
        if table.draining {
            return Err(SessionError::LocallyClosed { code: CloseCode::DONE }.into());
        }
        let core = table
            .core
            .open(label)
            .map_err(|limit| OpenError::TooManyPipes { allowed: limit.allowed })?;
        let pipe = PipeShared::new(core, self.side, self.host.clone());
        table.pipes.insert(pipe.id(), pipe.clone());
        Ok((pipe, table.connection.clone()))
    }

    /// Puts a pipe that the peer has opened where the application finds it.
    pub(crate) fn arrive(&self, pipe: Arc<PipeShared>) {
        let mut table = self.table();
        table.pipes.insert(pipe.id(), pipe.clone());
        table.incoming.push_back(pipe);
        drop(table);
        self.arrived.notify_one();
    }

    /// Forgets a pipe that is done.
    pub(crate) fn retire(&self, id: PipeId) {
        let mut table = self.table();
        if let Some(pipe) = table.pipes.remove(&id) {
            table.core.retire(id);
            // Given up by the peer before the application took it: whoever
            // opens and gives up without end must not fill the queue.
            table.incoming.retain(|pipe| pipe.id() != id);
            drop(table);
            // Whoever still holds it holds no connection.
            pipe.let_go_of_streams();
        }
    }

    fn request(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        self.host.wake.notify_one();
    }

    /// Client: the network has changed, or may have while the machine slept.
    pub(crate) fn network_changed(&self) {
        self.request(|requests| requests.network_changed = true);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.table().ended.is_some()
    }

    /// What the application wants, taken.
    pub(crate) fn take_requests(&self) -> Requests {
        std::mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn last_rtt(&self) -> Option<Duration> {
        self.table().last_rtt
    }

    /// Round-trip time of the attached connection.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.table().connection.as_ref().map(|(connection, _)| connection.rtt())
    }

    /// The session has ended: everybody is told, all memory comes back.
    pub(crate) fn end(&self, error: SessionError) {
        tracing::info!(session = %self.id, %error, "ended");
        self.host.set_attached(None);
        let shared = Arc::new(error.clone());
        let pipes = {
            let mut table = self.table();
            table.settled = table.pipes.values().all(|pipe| pipe.is_settled());
            table.ended = Some(shared.clone());
            table.connection = None;
            table.incoming.clear();
            std::mem::take(&mut table.pipes)
        };
        pipes.values().for_each(|pipe| pipe.end(&shared));
        self.host.close_due();
        self.set_link(LinkState::Closed { error: error.clone() });
        self.emit(SessionEvent::Closed { error });
        self.moved(Ok(()));
        self.arrived.notify_waiters();
        self.redial.notify_one();
    }

    /// The driver is through.
    pub(crate) fn set_finished(&self) {
        self.finished.store(true, Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn stats(&self) -> SessionStats {
        let totals = &self.host.totals;
        let table = self.table();
        let current = table.detached_since.map(|since| self.moment().since(since));
        SessionStats {
            epoch: table.core.epoch(),
            resumes: table.resumes,
            pipes: table.core.live_pipes(),
            bytes_written: totals.written.load(Relaxed),
            bytes_read: totals.read.load(Relaxed),
            bytes_replayed: totals.replayed.load(Relaxed),
            bytes_kept: totals.kept.load(Relaxed),
            downtime: table.downtime + current.unwrap_or_default(),
            last_contact: table.last_contact.at.into_std(),
            rtt: table.connection.as_ref().map(|(connection, _)| connection.rtt()),
            mtu: table.connection.as_ref().map(|(connection, _)| connection.mtu()),
            udp_sent: table.connection.as_ref().map(|(connection, _)| connection.udp_bytes().0),
            udp_received: table.connection.as_ref().map(|(connection, _)| connection.udp_bytes().1),
        }
    }
}
