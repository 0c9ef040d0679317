//! The server: listens, begins sessions, and brings returning clients to theirs.

mod admission;
mod early;
mod handshake;
mod registry;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use zeroize::Zeroizing;

use crate::clock;
use crate::code::{CloseCode, LinkCode, RefuseCode};
use crate::config::ServerConfig;
use crate::control::{ControlReader, ControlWriter};
use crate::driver::Driver;
use crate::error::{BindError, SessionError};
use crate::event::LinkState;
use crate::id::{SessionId, Side};
use crate::pipe::SharedBudget;
use crate::proto::SessionCore;
use crate::quic::{Connection, Listener};
use crate::session::{Session, SessionShared};
use crate::stats::{ServerStats, SessionStats};
use crate::tls::Fingerprint;
use crate::wire::{Frame, Hello, Refused, SECRET_LEN, Welcome};
use admission::{Failures, TurnedAway};
use registry::{Entry, Place, Registry};

/// Listens for clients. Clones are the same server.
///
/// [`accept`](Self::accept) gives *new* sessions only: a client that comes back
/// finds its session by itself. When the last clone is dropped the server stops
/// listening, and its sessions end when their connections do.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<ServerShared>,
    incoming: Arc<Mutex<mpsc::Receiver<Incoming>>>,
    _accepting: Arc<Accepting>,
}

/// What the server's tasks share.
#[derive(Debug)]
struct ServerShared {
    listener: Listener,
    config: ServerConfig,
    registry: Arc<Registry>,
    /// Bytes that all sessions keep for replay, beyond each pipe's own share.
    budget: Arc<SharedBudget>,
    failures: Failures,
    /// Where the tasks of sessions run.
    runtime: tokio::runtime::Handle,
}

/// Ends the accept loop with the last handle.
#[derive(Debug)]
struct Accepting(AbortHandle);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// Listens on a UDP port of this machine. Must be called within a tokio
    /// runtime, on which the server's tasks will run.
    ///
    /// # Errors
    ///
    /// The settings contradict each other, the TLS identity cannot be used, the
    /// address is taken, or there is no runtime.
    pub fn bind(local: SocketAddr, config: ServerConfig) -> Result<Self, BindError> {
        config.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| BindError::Socket {
            local,
            source: Arc::new(io::Error::other(error)),
        })?;
        let limits = &config.limits;
        let transport = config.session.transport();
        let listener = Listener::bind(
            local,
            &config.tls,
            config.early_data,
            config.stable_key,
            limits.max_sessions,
            &transport,
            &config.environment,
        )?;
        let (sender, receiver) = mpsc::channel(limits.max_handshakes as usize);
        let shared = Arc::new(ServerShared {
            listener,
            registry: Arc::new(Registry::new(limits.max_sessions)),
            budget: Arc::new(SharedBudget::new(limits.replay_budget)),
            failures: Failures::default(),
            runtime: runtime.clone(),
            config,
        });
        let accepting = runtime.spawn(accept_loop(shared.clone(), sender));
        Ok(Self {
            shared,
            incoming: Arc::new(Mutex::new(receiver)),
            _accepting: Arc::new(Accepting(accepting.abort_handle())),
        })
    }

    /// The next client that wants a session; `None` after
    /// [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// No client is lost if the future is dropped.
    pub async fn accept(&self) -> Option<Incoming> {
        self.incoming.lock().await.recv().await
    }

    /// The address that the server listens on.
    ///
    /// # Errors
    ///
    /// When the system cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.listener.local_addr()
    }

    /// All sessions, attached or not.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.shared.registry.sessions().iter().map(session_info).collect()
    }

    /// Closes a session by its id; `false` if there is none of that id.
    pub fn close_session(&self, id: SessionId, code: CloseCode, reason: &[u8]) -> bool {
        let session = self.shared.registry.find(id).map(|entry| Session::new(entry.session));
        session.inspect(|session| session.close(code, reason)).is_some()
    }

    /// What the server has done so far.
    pub fn stats(&self) -> ServerStats {
        let sessions = self.shared.registry.sessions();
        let detached = sessions.iter().filter(|session| session.is_detached()).count();
        ServerStats {
            sessions: sessions.len() as u64,
            detached: detached as u64,
            bytes_shared: self.shared.budget.used(),
            ..self.shared.registry.counts()
        }
    }

    /// Stops accepting, closes all sessions with [`CloseCode::GOING_AWAY`], and
    /// waits at most `patience` until their clients were told.
    ///
    /// # Cancel safety
    ///
    /// The sessions are closed even if the future is dropped.
    pub async fn shutdown(&self, patience: Duration) {
        let deadline = clock::now() + patience;
        self._accepting.0.abort();
        let sessions: Vec<Session> =
            self.shared.registry.sessions().into_iter().map(Session::new).collect();
        sessions.iter().for_each(|session| session.close(CloseCode::GOING_AWAY, b""));
        clock::until(deadline, async {
            for session in &sessions {
                session.closed().await;
            }
            self.shared.listener.close(LinkCode::Detach, b"");
            self.shared.listener.wait_idle().await;
        })
        .await;
        self.shared.listener.close(LinkCode::Detach, b"");
    }
}

/// A session, as [`Server::sessions`] lists it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its public name.
    pub id: SessionId,
    /// The state of its link.
    pub link: LinkState,
    /// The public key that the client has proved to hold, if it showed one.
    pub peer: Option<Fingerprint>,
    /// What it has done so far.
    pub stats: SessionStats,
}

fn session_info(session: &Arc<SessionShared>) -> SessionInfo {
    SessionInfo {
        id: session.id,
        link: session.link_state(),
        peer: session.peer,
        stats: session.stats(),
    }
}

/// Takes connections as they come, and hands each to a task of its own.
async fn accept_loop(shared: Arc<ServerShared>, incoming: mpsc::Sender<Incoming>) {
    let most = shared.config.limits.max_handshakes as usize;
    let (mut handshakes, mut turned_away) = (JoinSet::new(), TurnedAway::default());
    loop {
        let attempt = tokio::select! {
            biased;
            Some(_) = handshakes.join_next(), if !handshakes.is_empty() => continue,
            attempt = shared.listener.accept() => attempt,
        };
        let Some(attempt) = attempt else { return };
        let from = attempt.remote_addr();
        if handshakes.len() >= most
            || shared.failures.is_barred(from.ip())
            || turned_away.contains(attempt.name())
        {
            tracing::debug!(%from, "refused before its handshake");
            turned_away.add(attempt.name());
            attempt.refuse();
            continue;
        }
        let (shared, incoming) = (shared.clone(), incoming.clone());
        handshakes.spawn(async move { handshake::receive(shared, attempt, incoming).await });
    }
}

/// A client that wants a session.
///
/// Dropped without an answer, it is refused.
#[derive(Debug)]
#[must_use = "dropping it refuses the client"]
pub struct Incoming {
    server: Arc<ServerShared>,
    door: Door,
    reader: ControlReader,
    writer: ControlWriter,
    hello: Hello,
    id: SessionId,
    secret: Zeroizing<[u8; SECRET_LEN]>,
    peer: Option<Fingerprint>,
    /// Its place among the sessions.
    place: Place,
}

/// A connection that is refused when dropped, unless it was let in.
#[derive(Debug)]
struct Door {
    connection: Connection,
    registry: Arc<Registry>,
    answered: bool,
}

impl Door {
    fn refuse(&mut self, code: RefuseCode, reason: &str) {
        if !std::mem::replace(&mut self.answered, true) {
            self.registry.count_refused();
            refuse(&self.connection, code, 0, reason);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.refuse(RefuseCode::DECLINED, "");
    }
}

impl Incoming {
    /// The client's address.
    pub fn remote_addr(&self) -> SocketAddr {
        self.door.connection.remote_addr()
    }

    /// The public key that the client has proved to hold, if it showed one.
    pub fn peer(&self) -> Option<Fingerprint> {
        self.peer
    }

    /// Begins the session.
    pub fn accept(self) -> Session {
        let Self { server, mut door, reader, mut writer, hello, id, secret, peer, place } = self;
        door.answered = true;
        let connection = door.connection.clone();
        let config = &server.config;
        let parameters = config.session.parameters();
        let core = SessionCore::new(
            Side::Server,
            id,
            secret.clone(),
            hello.holder,
            parameters,
            hello.parameters,
        );
        let budget = Some(server.budget.clone());
        let replay_budget = config.session.replay_budget;
        let environment = &config.environment;
        let session =
            SessionShared::new(core, replay_budget, budget, peer, &connection, environment);
        let handle = Session::new(session.clone());
        writer.queue(&Frame::Welcome(Welcome { session: id, secret: secret.clone(), parameters }));
        let registry = Arc::downgrade(&server.registry);
        let on_end = move |error: &SessionError| {
            if let Some(registry) = registry.upgrade() {
                registry.remove(id, matches!(error, SessionError::Expired { .. }));
            }
        };
        let (driver, attaches) =
            Driver::new(session.clone(), config.session.clone(), Some(config.linger), on_end);
        place.fill(Entry { session, attaches: Arc::new(attaches) });
        server.runtime.spawn(driver.run(connection, None, reader, writer));
        handle
    }

    /// Turns the client away with a reason in words, which it is shown.
    pub fn refuse(mut self, reason: &str) {
        self.door.refuse(RefuseCode::DECLINED, reason);
    }
}

/// Ends a connection with the reason why there is no session on it.
fn refuse(connection: &Connection, code: RefuseCode, attached: u64, reason: &str) {
    let reason = Bytes::copy_from_slice(reason.as_bytes());
    let refused = Refused { code, attached, reason };
    connection.close(LinkCode::Refused, &refused.to_reason());
}
