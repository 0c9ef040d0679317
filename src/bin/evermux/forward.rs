//! `evermux forward`: ports and sockets, joined over a session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use evermux::{BackedPipe, Side};
use tokio::task::JoinSet;

use crate::args::ForwardArgs;
use crate::connect::{Agent, connect};
use crate::control::{Control, Role};
use crate::endpoint::{Endpoint, Forward};
use crate::exit::{Code, Failure};
use crate::known_links;
use crate::log::TOLD;
use crate::request::{NoAnswer, Reason, Refusal, Request, answer, read_answer};
use crate::serve::{break_off, echo};
use crate::sessions::Sessions;
use crate::signals;
use crate::socket::{Listener, Socket};
use crate::socks;
use crate::splice::{Answer, Broken, splice};

/// What a listener here does with its connections.
#[derive(Clone, Debug)]
enum Service {
    /// Connects to this target.
    Target(Endpoint),
    /// Asks each for its target (SOCKS5).
    Socks,
}

/// Forwards until a signal comes or the session ends.
pub async fn run(args: ForwardArgs) -> Result<(), Failure> {
    if args.local.is_empty() && args.reverse.is_empty() && args.dynamic.is_empty() {
        return Err(Failure::new(Code::Usage, "nothing to forward: give -L, -R or -D"));
    }
    let link = known_links::find(args.link.as_deref())?;
    // Before anybody is dialled: a port that is taken is told at once.
    let mut listeners = Vec::new();
    for Forward { listen, target } in args.local {
        listeners.push((bind(&listen).await?, Service::Target(target)));
    }
    for dynamic in args.dynamic {
        listeners.push((bind(&dynamic.0).await?, Service::Socks));
    }
    let mut end = std::pin::pin!(signals::asked_to_end());
    let agent = tokio::select! {
        asked = &mut end => return asked,
        agent = connect(&link, &args.reach) => agent?,
    };
    let sessions = Arc::new(Sessions::default());
    let _listed = sessions.list(agent.session.clone());
    let _control = Control::open(Role::Forward, agent.address.clone(), sessions)?;
    let mut accepting = JoinSet::new();
    let outcome = tokio::select! {
        asked = end => asked,
        failure = agent.lost() => Err(failure),
        outcome = forward(&agent, listeners, args.reverse, &mut accepting) => outcome,
    };
    agent.leave().await;
    while accepting.join_next().await.is_some() {}
    outcome
}

async fn bind(at: &Endpoint) -> Result<Listener, Failure> {
    Listener::bind(at, |_| true).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => ": another program listens there, choose another",
            _ => "",
        };
        Failure::new(Code::CannotCreate, format!("cannot listen on {at}: {error}{hint}"))
    })
}

/// Runs all forwards; ends only if one of them fails.
async fn forward(
    agent: &Agent,
    listeners: Vec<(Listener, Service)>,
    reverse: Vec<Forward>,
    accepting: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let mut targets = HashMap::new();
    let mut held = JoinSet::new();
    for Forward { listen, target } in reverse {
        let mut pipe = agent.open(&Request::Listen(listen.clone())).await?;
        let bound = match read_answer(pipe.reader()).await {
            Ok(bound) => bound,
            Err(NoAnswer::Refused(refusal)) => return Err(refusal.into()),
            Err(NoAnswer::Ended(_)) => return Err(agent.lost().await),
        };
        tracing::info!(target: TOLD, "listening on {} there, for {target} here", bound.escape_debug());
        targets.insert(pipe.id().index(), target);
        held.spawn(until_it_ends(pipe, listen));
    }
    for (listener, service) in listeners {
        if let Ok(at) = listener.endpoint() {
            match &service {
                Service::Target(target) => {
                    tracing::info!(target: TOLD, "listening on {at} here, for {target} there");
                }
                Service::Socks => tracing::info!(target: TOLD, "listening on {at} here for SOCKS5"),
            }
        }
        accepting.spawn(accept(agent.clone(), listener, service));
    }
    ready();
    tokio::select! {
        () = accept_reverse(agent, targets) => Err(agent.lost().await),
        Some(Ok(failure)) = held.join_next() => {
            // They end with the session, too, and then it is that which counts.
            let ended = agent.session.close_reason();
            Err(ended.map_or(failure, |error| agent.failure(&error)))
        }
    }
}

/// Whoever has started us may begin.
fn ready() {
    say!("ready");
    // It fails only where there is no systemd.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Holds the pipe to which a reverse listener belongs.
async fn until_it_ends(mut pipe: BackedPipe, listen: Endpoint) -> Failure {
    // The agent never writes to it after its answer.
    let _ = pipe.reader().read_chunk(1).await;
    let text = format!("the agent does not listen on {listen} any more: another client took over");
    Failure::new(Code::Unavailable, text)
}

/// Takes the connections of a listener here, until the session ends.
async fn accept(agent: Agent, listener: Listener, service: Service) {
    let mut connections = JoinSet::new();
    let mut ended = std::pin::pin!(agent.session.closed());
    loop {
        tokio::select! {
            _ = &mut ended => break,
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    connections.spawn(serve(agent.clone(), socket, service.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: connections that end free
                    // some.
                    tracing::warn!(target: TOLD, "cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    break_off(connections).await;
}

async fn serve(agent: Agent, mut socket: Socket, service: Service) {
    let served = match service {
        Service::Target(target) => join(&agent, socket, &target).await,
        Service::Socks => match socks::negotiate(&agent, &mut socket).await {
            Ok(pipe) => {
                let (reader, writer) = pipe.into_split();
                splice(socket, reader, writer, Answer::Done).await.map_err(|b| told(&b))
            }
            Err(why) => Err((true, why)),
        },
    };
    match served {
        Ok(()) => {}
        Err((true, why)) => tracing::warn!(target: TOLD, "{why}"),
        Err((false, why)) => tracing::debug!(target: TOLD, "{why}"),
    }
}

/// Joins a connection to its target. It may send at once: the target's answer is
/// not waited for.
async fn join(agent: &Agent, socket: Socket, target: &Endpoint) -> Result<(), (bool, String)> {
    let pipe = agent.open(&Request::Connect(target.clone())).await;
    let (reader, writer) = pipe.map_err(|failure| (true, failure.to_string()))?.into_split();
    splice(socket, reader, writer, Answer::Expected).await.map_err(|broken| told(&broken))
}

/// What a break is worth: connections break every day, refusals want to be known.
fn told(broken: &Broken) -> (bool, String) {
    let refused = matches!(broken, Broken::Request(NoAnswer::Refused(_)));
    (refused, broken.to_string())
}

/// Takes the connections of listeners there, until the session ends.
async fn accept_reverse(agent: &Agent, targets: HashMap<u64, Endpoint>) {
    // As many as the agent may have pipes open.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            pipe = agent.session.accept_pipe() => match pipe {
                Ok(Some(pipe)) => {
                    let target = target_of(&pipe, &targets);
                    connections.spawn(serve_reverse(pipe, target));
                }
                Ok(None) | Err(_) => return,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// What the agent wants: a connection to a target here, or (`None`) a sign of life.
fn target_of(
    pipe: &BackedPipe,
    targets: &HashMap<u64, Endpoint>,
) -> Result<Option<Endpoint>, Refusal> {
    debug_assert_eq!(pipe.id().opener(), Side::Server);
    match String::from_utf8_lossy(&pipe.label()).parse()? {
        Request::Accepted { listener } => match targets.get(&listener) {
            Some(target) => Ok(Some(target.clone())),
            None => Err(Refusal::new(Reason::Malformed, "there is no such listener")),
        },
        Request::Echo => Ok(None),
        _ => Err(Refusal::new(Reason::NotAllowed, "a client connects to nothing else")),
    }
}

async fn serve_reverse(pipe: BackedPipe, target: Result<Option<Endpoint>, Refusal>) {
    let (reader, mut writer) = pipe.into_split();
    let connected = match target {
        Ok(None) => return echo(reader, writer).await,
        Ok(Some(target)) => Socket::connect(&target).await.map_err(|error| {
            let text = format!("the client cannot connect to {target}: {error}");
            Refusal::new(Reason::Unreachable, text)
        }),
        Err(refusal) => Err(refusal),
    };
    match connected {
        Ok(socket) => {
            if answer(&mut writer, Ok("")).await.is_ok()
                && let Err(broken) = splice(socket, reader, writer, Answer::Done).await
            {
                tracing::debug!(target: TOLD, "{broken}");
            }
        }
        Err(refusal) => {
            tracing::warn!(target: TOLD, "{refusal}");
            // Nobody has to know if the agent is gone.
            let _ = answer(&mut writer, Err(&refusal)).await;
            writer.finish();
        }
    }
}
