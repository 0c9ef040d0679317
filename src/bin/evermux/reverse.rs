//! Reverse listeners (`-R`) on the agent's side: each belongs to a pipe of its
//! session, and lives as long.
//!
//! While the link is down the listener stays, and what connects to it waits in
//! pipes. A client that comes back in another process finds its port taken by its
//! own former session: if that does not answer any more, the newcomer takes over.

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
pub struct Listeners(Mutex<Vec<Arc<Holder>>>);

/// Whose an address is.
#[derive(Debug)]
struct Holder {
    at: Endpoint,
    session: Session,
    evicted: Notify,
    gone: Notify,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Holder>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who may stand in the way of a listener there.
    fn holders(&self, at: &Endpoint) -> Vec<Arc<Holder>> {
        let in_the_way = |holder: &&Arc<Holder>| match (&holder.at, at) {
            // Whatever the address is called: the port is the same.
            (Endpoint::Tcp { port: held, .. }, Endpoint::Tcp { port, .. }) => held == port,
            (held, at) => held == at,
        };
        self.lock().iter().filter(in_the_way).cloned().collect()
    }
}

/// Takes its holder off the list when dropped.
struct Place<'a> {
    listeners: &'a Listeners,
    holder: Arc<Holder>,
}

impl<'a> Place<'a> {
    fn new(listeners: &'a Listeners, at: Endpoint, session: &Session) -> Self {
        let session = session.clone();
        let holder = Holder { at, session, evicted: Notify::new(), gone: Notify::new() };
        let holder = Arc::new(holder);
        listeners.lock().push(holder.clone());
        Self { listeners, holder }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.listeners.lock().retain(|holder| !Arc::ptr_eq(holder, &self.holder));
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
    let at = listener.endpoint().unwrap_or_else(|_| at.clone());
    let bound = at.to_string();
    let place = Place::new(&rules.listeners, at, session);
    // Dropped before the place: who waits for that finds the address free.
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
        // Ours, not the system's, which has a number.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => denied(rules, at),
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
/// does not answer any more. Whether it is free may then be tried.
async fn evict_a_dead_holder(session: &Session, rules: &Rules, at: &Endpoint) -> bool {
    let mut freed = false;
    for holder in rules.listeners.holders(at) {
        if holder.session.peer().is_none() || holder.session.peer() != session.peer() {
            continue;
        }
        if tokio::time::timeout(ALIVE_WITHIN, answers(&holder.session)).await.unwrap_or(false) {
            continue;
        }
        let (newcomer, former) = (session.id(), holder.session.id());
        tracing::info!(target: TOLD, "{newcomer} takes {at} over from {former}");
        holder.evicted.notify_one();
        freed |= tokio::time::timeout(FREE_WITHIN, holder.gone.notified()).await.is_ok();
    }
    freed
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
