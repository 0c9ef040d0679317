//! Reverse listeners (`-R`) on the agent's side: each belongs to a pipe of its
//! session, and lives as long.
//!
//! While the link is down the listener stays, and what connects to it waits in
//! pipes. A client that comes back in another process finds its port taken by its
//! own former session: if that does not answer any more, the newcomer takes over.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evermux::{BackedReader, BackedWriter, Session};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::connect::open;
use crate::endpoint::Endpoint;
use crate::log::TOLD;
use crate::request::{Reason, Refusal, Request, answer};
use crate::serve::Rules;
use crate::socket::{Listener, Socket};
use crate::splice::{Answer, splice};

/// How long the former holder of an address has to show that it is alive.
const ALIVE_WITHIN: Duration = Duration::from_millis(1500);

/// How long the former holder's listener may take to close.
const FREE_WITHIN: Duration = Duration::from_secs(1);

/// Who listens where.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<HashMap<String, Arc<Holder>>>);

/// The session that an address belongs to.
#[derive(Debug)]
struct Holder {
    session: Session,
    evicted: Notify,
    gone: Notify,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Holder>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holder(&self, at: &Endpoint) -> Option<Arc<Holder>> {
        self.lock().get(&at.to_string()).cloned()
    }
}

/// Takes its holder out of the table when dropped.
struct Place<'a> {
    listeners: &'a Listeners,
    at: String,
    holder: Arc<Holder>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut table = self.listeners.lock();
        if table.get(&self.at).is_some_and(|holder| Arc::ptr_eq(holder, &self.holder)) {
            table.remove(&self.at);
        }
        self.holder.gone.notify_one();
    }
}

/// Listens until the client closes the pipe, or the session ends.
pub async fn listen(
    session: &Session,
    rules: &Rules,
    at: &Endpoint,
    reader: &mut BackedReader,
    writer: &mut BackedWriter,
) -> Result<(), Refusal> {
    let listener = bind(session, rules, at).await?;
    let bound = listener.endpoint().map_or_else(|_| at.to_string(), |bound| bound.to_string());
    let holder =
        Arc::new(Holder { session: session.clone(), evicted: Notify::new(), gone: Notify::new() });
    rules.listeners.lock().insert(at.to_string(), holder.clone());
    // After the listener: it is dropped first, so that who waits for the place
    // finds the address free.
    let place = Place { listeners: &rules.listeners, at: at.to_string(), holder };
    let listener = listener;
    if answer(writer, Ok(&bound)).await.is_err() {
        return Ok(());
    }
    tracing::info!(target: TOLD, "{} listens on {bound}", session.id());
    let index = writer.id().index();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    connections.spawn(pass_on(session.clone(), index, socket));
                }
                Err(error) => {
                    // Out of descriptors, most likely: connections that end free
                    // some.
                    tracing::warn!(target: TOLD, "{bound}: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            // The client never writes to it: this is its end.
            _ = reader.read_chunk(1) => break,
            () = place.holder.evicted.notified() => break,
        }
    }
    drop(listener);
    Ok(())
}

async fn bind(session: &Session, rules: &Rules, at: &Endpoint) -> Result<Listener, Refusal> {
    if let Endpoint::Unix(path) = at
        && !rules.listen.allows_unix(path)
    {
        return Err(denied(rules, at));
    }
    let bind = || {
        let host = match at {
            Endpoint::Tcp { host, .. } => host.as_str(),
            Endpoint::Unix(_) => "",
        };
        Listener::bind(at, move |addr| rules.listen.allows_tcp(host, addr))
    };
    let bound = match bind().await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !evict_a_dead_holder(session, rules, at).await {
                return Err(cannot_listen(at, &error));
            }
            bind().await
        }
        bound => bound,
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => denied(rules, at),
        _ => cannot_listen(at, &error),
    })
}

fn denied(rules: &Rules, at: &Endpoint) -> Refusal {
    let text = format!(
        "the agent does not allow listening on {at}; it allows {} (see --allow-listen)",
        rules.listen
    );
    Refusal::new(Reason::NotAllowed, text)
}

fn cannot_listen(at: &Endpoint, error: &io::Error) -> Refusal {
    Refusal::new(Reason::CannotListen, format!("the agent cannot listen on {at}: {error}"))
}

/// Frees the address if it is held by a former session of the same client that
/// does not answer any more.
async fn evict_a_dead_holder(session: &Session, rules: &Rules, at: &Endpoint) -> bool {
    let Some(holder) = rules.listeners.holder(at) else { return false };
    if holder.session.peer().is_none() || holder.session.peer() != session.peer() {
        return false;
    }
    if tokio::time::timeout(ALIVE_WITHIN, answers(&holder.session)).await.unwrap_or(false) {
        return false;
    }
    tracing::info!(target: TOLD, "{} takes {at} over from {}", session.id(), holder.session.id());
    holder.evicted.notify_one();
    tokio::time::timeout(FREE_WITHIN, holder.gone.notified()).await.is_ok()
}

/// Whether the client of this session is there.
async fn answers(session: &Session) -> bool {
    let Ok(mut pipe) = open(session, &Request::Echo).await else { return false };
    if pipe.writer().write_all(b"?").await.is_err() {
        return false;
    }
    matches!(pipe.reader().read(&mut [0]).await, Ok(Some(_)))
}

/// Gives a connection to the client.
async fn pass_on(session: Session, listener: u64, socket: Socket) {
    let Ok(pipe) = open(&session, &Request::Accepted { listener }).await else { return };
    let (reader, writer) = pipe.into_split();
    if let Err(broken) = splice(socket, reader, writer, Answer::Expected).await {
        tracing::debug!(target: TOLD, "{} reverse connection: {broken}", session.id());
    }
}
