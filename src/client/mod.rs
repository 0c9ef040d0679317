//! The client: dials, and dials again.

mod dial;
mod lookout;
#[cfg(feature = "monitor")]
mod network;
mod retry;
mod target;

use std::sync::Arc;
use std::time::Duration;

pub use target::{ParseTargetError, Target};
use tokio::sync::Notify;

use self::dial::{Comeback, Connected};
use crate::clock::{self, Instant};
use crate::code::LinkCode;
use crate::config::ClientConfig;
use crate::control::{ControlError, ControlReader, ControlWriter};
use crate::driver::Driver;
use crate::environment::Environment;
use crate::error::{BindError, ConnectError, DialError};
use crate::id::{HolderId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::SessionCore;
use crate::quic::{ClientQuic, Connection, Lost};
use crate::session::{Session, SessionShared};
use crate::wire::{Frame, Hello, Refused, Welcome};
use lookout::Lookout;

/// Makes sessions with servers. Clones share settings and TLS tickets, and one task
/// that notices for all sessions that the machine has slept.
///
/// It holds no socket of its own: each attempt to connect gets a fresh one, so
/// that a broken path is not used again.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<ClientShared>,
}

#[derive(Debug)]
struct ClientShared {
    config: ClientConfig,
    quic: ClientQuic,
    lookout: Lookout,
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    ///
    /// The settings contradict each other, or the TLS identity cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, BindError> {
        config.check()?;
        let quic = ClientQuic::new(
            &config.tls,
            config.early_data,
            &config.session.transport(),
            &config.environment,
        )?;
        let lookout = Lookout::default();
        Ok(Self { shared: Arc::new(ClientShared { config, quic, lookout }) })
    }

    /// Begins a session with `target`: one attempt, over all of its addresses
    /// (a staggered race, RFC 8305), within the
    /// [attempt timeout](ClientConfig::attempt_timeout).
    ///
    /// From then on the session looks after its connection by itself. Its tasks
    /// run on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// Why no address would do. Nothing is retried: whether the first connection
    /// is worth waiting for is the caller's to decide.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt; a session that the server has
    /// just begun ends there by itself.
    pub async fn connect(&self, target: impl Into<Target>) -> Result<Session, ConnectError> {
        let target = target.into();
        let shared = &self.shared;
        let begun = clock::now();
        let deadline = begun + shared.config.attempt_timeout;
        let renewal = shared.config.dial_interval.saturating_mul(4);
        let Connected { connection, dialler, .. } =
            shared.dial(&target, deadline, None, renewal, &Notify::new()).await?;
        let waited = shared.config.attempt_timeout;
        let timed_out = || DialError::TimedOut { target: target.to_string(), waited };
        let hello =
            begin(&connection, shared.config.session.parameters(), &shared.config.environment);
        let begun = clock::until(deadline, hello).await.unwrap_or_else(|| Err(timed_out().into()));
        let (holder, welcome, reader, writer) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let code = match error {
                    ConnectError::PeerMisbehaved(_) => LinkCode::Violation,
                    _ => LinkCode::Detach,
                };
                connection.close(code, error.to_string().as_bytes());
                return Err(error);
            }
        };
        let session = &shared.config.session;
        let core = SessionCore::new(
            Side::Client,
            welcome.session,
            welcome.secret,
            holder,
            session.parameters(),
            welcome.parameters,
        );
        let peer = connection.peer_fingerprint();
        let environment = &shared.config.environment;
        let session_shared =
            SessionShared::new(core, session.replay_budget, None, peer, &connection, environment);
        Lookout::look_after(shared, &session_shared);
        let handle = Session::new(session_shared.clone());
        let (driver, attaches) = Driver::new(session_shared.clone(), session.clone(), None, |_| {});
        // Both tasks end with the session: the driver ends it, the dialler
        // watches for that.
        tokio::spawn(driver.run(connection, Some(dialler), reader, writer));
        tokio::spawn(retry::keep_attached(shared.clone(), target, session_shared, attaches));
        Ok(handle)
    }
}

impl ClientShared {
    /// Connects to `target`, on behalf of `session` if there is one already.
    async fn dial(
        &self,
        target: &Target,
        deadline: Instant,
        session: Option<Comeback<'_>>,
        renewal: Duration,
        again: &Notify,
    ) -> Result<Connected, DialError> {
        dial::dial(&self.config, &self.quic, target, deadline, session, renewal, again).await
    }
}

/// Asks the server for a new session.
async fn begin(
    connection: &Connection,
    parameters: crate::wire::Parameters,
    environment: &Environment,
) -> Result<(HolderId, Welcome, ControlReader, ControlWriter), ConnectError> {
    let (send, recv) = connection.open_bi().await.map_err(refused)?;
    let (mut reader, mut writer) = (ControlReader::new(recv), ControlWriter::new(send));
    let holder = HolderId(environment.random().map_err(|_| ConnectError::NoRandomness)?);
    writer.queue(&Frame::Hello(Hello { holder, parameters }));
    if writer.flush().await.is_err() {
        return Err(refused(connection.closed().await));
    }
    loop {
        match reader.next().await {
            Ok(Frame::Welcome(welcome)) => return Ok((holder, welcome, reader, writer)),
            Ok(Frame::Unknown(_)) => {}
            Ok(frame) => {
                return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() }.into());
            }
            Err(ControlError::Misbehaved(misbehaved)) => return Err(misbehaved.into()),
            Err(ControlError::Gone) => return Err(refused(connection.closed().await)),
        }
    }
}

/// The connection ended before the session began.
fn refused(lost: Lost) -> ConnectError {
    let lost = match lost {
        Lost::Closed { code: LinkCode::Refused, reason } => match Refused::from_reason(reason) {
            Ok(refused) => DialError::Refused {
                code: refused.code,
                reason: String::from_utf8_lossy(&refused.reason).into_owned(),
            },
            Err(malformed) => return PeerMisbehaved::from(malformed).into(),
        },
        Lost::Closed { code: LinkCode::Violation, reason } => DialError::Lost {
            reason: format!(
                "the server found a protocol error: {}",
                String::from_utf8_lossy(&reason)
            ),
        },
        // A client certificate is judged after the client's own handshake is
        // through.
        Lost::Tls(error) => DialError::Tls(error),
        other => DialError::Lost { reason: other.to_string() },
    };
    lost.into()
}
