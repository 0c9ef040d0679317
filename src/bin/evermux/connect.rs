//! The client's way to an agent: a session, and what is said about it.

use std::time::Duration;

use evermux::{
    Client, ClientConfig, ClientTls, ConnectError, DialError, OpenError, ReconnectPolicy,
    RefuseCode, Session, SessionConfig, SessionError, Target,
};
use tokio::time::Instant;

use crate::args::ReachArgs;
use crate::exit::{Code, Failure};
use crate::link::Link;
use crate::log::TOLD;
use crate::request::Request;
use crate::{closed_port, keys, outage};

/// Live connections of a client at a time, on both sides.
pub const PIPES_MAX: u64 = 4096;

/// How long between two attempts to reach an agent for the first time.
const RETRY: Duration = Duration::from_secs(1);

/// How long the agent may take to hear of a close.
const GOODBYE: Duration = Duration::from_secs(1);

/// A session with an agent, and how people know the agent.
#[derive(Clone, Debug)]
pub struct Agent {
    pub session: Session,
    pub address: String,
}

/// Where the agent is: what `--server` says, or the link.
pub fn address(link: &Link, reach: &ReachArgs) -> String {
    reach.server.clone().unwrap_or_else(|| link.address.clone())
}

/// A client for the agent of this link, and the agent's address.
pub fn client(link: &Link, reach: &ReachArgs) -> Result<(Client, Target), Failure> {
    let address = address(link, reach);
    let target = address.parse().map_err(|error| Failure::new(Code::Usage, format!("{error}")))?;
    let identity = match &link.secret {
        Some(secret) => {
            secret.identity().map_err(|error| Failure::new(Code::System, error.to_string()))?
        }
        None => keys::own_identity()?,
    };
    let tls = ClientTls::with_pin(link.pin).identity(identity);
    let mut session = SessionConfig::default();
    session.max_pipes(PIPES_MAX);
    let mut config = ClientConfig::new(tls);
    config.session(session);
    if let Some(outage) = reach.give_up_after {
        config.reconnect(ReconnectPolicy::default().give_up_after(outage.into()));
    }
    Ok((Client::new(config)?, target))
}

/// Begins a session with the agent of `link`, and from then on says when it cannot
/// be reached.
pub async fn connect(link: &Link, reach: &ReachArgs) -> Result<Agent, Failure> {
    let (client, target) = client(link, reach)?;
    let address = address(link, reach);
    let session = first_session(&client, &target, &address, reach.patience()).await?;
    tracing::debug!(target: TOLD, session = %session.id(), "connected to {address}");
    // Ends with the session.
    tokio::spawn(outage::report(session.events(), session.watch_link(), address.clone()));
    Ok(Agent { session, address })
}

async fn first_session(
    client: &Client,
    target: &Target,
    address: &str,
    patience: Option<Duration>,
) -> Result<Session, Failure> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let (failure, may_pass) = tokio::select! {
            connected = client.connect(target.clone()) => match connected {
                Ok(session) => return Ok(session),
                Err(error) => (Failure::connect(address, &error), may_pass(&error)),
            },
            () = closed_port::found(address) => (Failure::nobody_listens(address), true),
        };
        let patient = patience.is_some_and(|patience| begun.elapsed() < patience);
        if !patient || !may_pass {
            return Err(failure);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(target: TOLD, "waiting for the agent at {address}: {failure}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether trying again may help.
fn may_pass(error: &ConnectError) -> bool {
    match error {
        ConnectError::Dial(error) => match error {
            DialError::TimedOut { .. }
            | DialError::Resolve { .. }
            | DialError::Socket { .. }
            | DialError::Lost { .. } => true,
            DialError::Refused { code, .. } => *code == RefuseCode::OVERLOADED,
            _ => false,
        },
        _ => false,
    }
}

impl Agent {
    /// Opens a pipe for `request`, as soon as the agent allows one more.
    pub async fn open(&self, request: &Request) -> Result<evermux::BackedPipe, Failure> {
        open(&self.session, request).await.map_err(|error| match error {
            OpenError::Session(error) => self.failure(&error),
            // A path that is too long.
            other => Failure::new(Code::Usage, other.to_string()),
        })
    }

    pub fn failure(&self, error: &SessionError) -> Failure {
        Failure::session(&self.address, error)
    }

    /// Waits until the session has ended, which is not what anybody asked for.
    pub async fn lost(&self) -> Failure {
        self.failure(&self.session.closed().await)
    }

    /// Ends the session now, and tells the agent if it can be reached.
    pub async fn leave(&self) {
        self.session.close(evermux::CloseCode::DONE, b"");
        let _ = tokio::time::timeout(GOODBYE, self.session.closed()).await;
    }
}

/// How long until a pipe is tried again where all are taken. Their ends come from
/// the peer, which is a matter of round trips.
const PIPE_RETRY: Duration = Duration::from_millis(20);

/// Opens a pipe, as soon as there may be one more.
pub async fn open(session: &Session, request: &Request) -> Result<evermux::BackedPipe, OpenError> {
    loop {
        match session.open_pipe(request.to_string()) {
            Err(OpenError::TooManyPipes { .. }) => tokio::time::sleep(PIPE_RETRY).await,
            opened => return opened,
        }
    }
}
