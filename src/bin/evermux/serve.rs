//! The agent's side of a session: does what the client's pipes ask for, within
//! the rules.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use evermux::{BackedPipe, BackedReader, BackedWriter, Session, SessionError};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::endpoint::Endpoint;
use crate::log::TOLD;
use crate::policy::Policy;
use crate::request::{About, Reason, Refusal, Request, answer};
use crate::reverse::{self, Listeners};
use crate::socket::Socket;
use crate::splice::{Answer, splice};

/// How long a target may take to answer: a host that drops packets would be
/// waited for two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long connections may take to break off. One that still waits for its target
/// has nobody to tell.
const BREAK_OFF_WITHIN: Duration = Duration::from_secs(1);

/// What clients may do, and who listens for whom.
#[derive(Debug)]
pub struct Rules {
    /// What pipes may connect to.
    pub connect: Policy,
    /// Where reverse listeners may listen.
    pub listen: Policy,
    pub listeners: Listeners,
}

/// Serves a session until it ends.
pub async fn serve(session: &Session, rules: &Arc<Rules>) -> SessionError {
    // As many as the client may have pipes open.
    let mut pipes = JoinSet::new();
    loop {
        tokio::select! {
            pipe = session.accept_pipe() => match pipe {
                Ok(Some(pipe)) => {
                    pipes.spawn(serve_pipe(session.clone(), pipe, rules.clone()));
                }
                Ok(None) | Err(_) => break,
            },
            Some(_) = pipes.join_next(), if !pipes.is_empty() => {}
        }
    }
    let error = session.closed().await;
    break_off(pipes).await;
    error
}

/// The session has ended: each connection breaks off by itself, so that its program
/// here sees an error, not an end.
pub async fn break_off(mut connections: JoinSet<()>) {
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(BREAK_OFF_WITHIN, all).await;
}

async fn serve_pipe(session: Session, pipe: BackedPipe, rules: Arc<Rules>) {
    let label = pipe.label();
    let (mut reader, mut writer) = pipe.into_split();
    let label = String::from_utf8_lossy(&label);
    let (id, pipe) = (session.id(), writer.id());
    tracing::debug!(target: TOLD, session = %id, %pipe, "{id} {pipe}: {}", label.escape_debug());
    let refused = match label.parse() {
        Ok(Request::Connect(target)) => match connect(&rules.connect, &target).await {
            Ok(socket) => {
                if answer(&mut writer, Ok("")).await.is_err() {
                    return;
                }
                if let Err(broken) = splice(socket, reader, writer, Answer::Done).await {
                    tracing::debug!(target: TOLD, "{id} {pipe}: {broken}");
                }
                return;
            }
            Err(refusal) => refusal,
        },
        Ok(Request::Listen(at)) => {
            match reverse::listen(&session, &rules, &at, &mut reader, &mut writer).await {
                Ok(()) => return,
                Err(refusal) => refusal,
            }
        }
        Ok(Request::Echo) => return echo(reader, writer).await,
        Ok(Request::About) => return about(&rules, writer).await,
        Ok(Request::Accepted { .. }) => {
            Refusal::new(Reason::Malformed, "only an agent accepts connections")
        }
        Err(refusal) => refusal,
    };
    tracing::info!(
        target: TOLD,
        session = %id,
        "refused {} to {id}: {refused}",
        label.escape_debug()
    );
    // If the client is gone, nobody has to know.
    let _ = answer(&mut writer, Err(&refused)).await;
    writer.finish();
    // What it has sent ahead is for nobody; until its end, so that the answer is
    // not overtaken by a reset.
    while let Ok(Some(_)) = reader.read_chunk(usize::MAX).await {}
}

/// Connects to a target, if the policy allows it.
async fn connect(policy: &Policy, target: &Endpoint) -> Result<Socket, Refusal> {
    let denied = || {
        let text = format!("the agent does not allow {target}; it allows {policy} (see --allow)");
        Refusal::new(Reason::NotAllowed, text)
    };
    let failed = |error: io::Error| {
        Refusal::new(Reason::Unreachable, format!("the agent cannot connect to {target}: {error}"))
    };
    let connecting = async {
        match target {
            Endpoint::Tcp { host, port } => {
                let addrs = tokio::net::lookup_host((host.as_str(), *port)).await;
                // What was checked is what is connected to: the name is not
                // resolved again.
                let addrs: Vec<_> =
                    addrs.map_err(failed)?.filter(|addr| policy.allows_tcp(host, *addr)).collect();
                if addrs.is_empty() {
                    return Err(denied());
                }
                Socket::connect_tcp(&addrs).await.map_err(failed)
            }
            Endpoint::Unix(path) if policy.allows_unix(path) => {
                Ok(Socket::Unix(UnixStream::connect(path).await.map_err(failed)?))
            }
            Endpoint::Unix(_) => Err(denied()),
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(failed(io::ErrorKind::TimedOut.into())))
}

/// Sends everything back.
pub async fn echo(mut reader: BackedReader, mut writer: BackedWriter) {
    while let Ok(Some(mut chunk)) = reader.read_chunk(64 * 1024).await {
        if writer.write_chunk(&mut chunk).await.is_err() {
            return;
        }
    }
    writer.finish();
}

async fn about(rules: &Rules, mut writer: BackedWriter) {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: evermux::PROTOCOL_VERSION,
        time_ms: time.as_millis() as u64,
        allowed: rules.connect.to_string(),
    };
    if let Ok(json) = serde_json::to_vec(&about) {
        let mut json = Bytes::from(json);
        if writer.write_chunk(&mut json).await.is_ok() {
            writer.finish();
        }
    }
}
