//! The agent: listens for clients, and serves their sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use evermux::{
    CloseCode, Identity, Limits, Server, ServerConfig, ServerTls, Session, SessionConfig,
};
use tokio::task::JoinSet;

use crate::args::AgentArgs;
use crate::connect::PIPES_MAX;
use crate::control::{Control, Role};
use crate::endpoint::Endpoint;
use crate::exit::{Code, Failure};
use crate::link::{Link, Secret};
use crate::log::TOLD;
use crate::policy::{Pattern, Policy};
use crate::reverse::Listeners;
use crate::serve::{Rules, serve};
use crate::sessions::Sessions;
use crate::{keys, places, private_file, signals};

/// Where an agent listens if nobody says otherwise.
const PORT: u16 = 4433;

/// How long an agent that serves one session waits for it.
const ONCE_WITHIN: Duration = Duration::from_secs(60);

/// How long clients may take to hear that the agent ends.
const GOODBYE: Duration = Duration::from_secs(2);

/// Above the longest time that a client is silent (30 s) and suspect.
const PROBE_SHARE: u32 = 8;

/// Serves clients until a signal comes, or with `--once` until the session ends.
pub async fn run(args: AgentArgs) -> Result<(), Failure> {
    let ssh = args.once.then(SshConnection::from_environment).flatten();
    let (identity, secret) = identity(&args)?;
    let client =
        secret.identity().map_err(|error| Failure::new(Code::System, error.to_string()))?;
    let mut clients = vec![client.fingerprint()];
    if let Some(path) = &args.authorized {
        clients.extend(keys::authorized(path)?);
    }
    let pin = identity.fingerprint();
    let server = bind(&args, ssh.as_ref(), ServerTls::new(identity).require_clients(clients))?;
    let local = server
        .local_addr()
        .map_err(|error| Failure::new(Code::System, format!("local address: {error}")))?;
    let rules = Arc::new(rules(&args, ssh.as_ref()));
    let sessions = Arc::new(Sessions::default());
    let _control = Control::open(Role::Agent, local.to_string(), sessions.clone())?;

    let link = Link { address: advertised(&args, ssh.as_ref(), local), pin, secret: Some(secret) };
    if let Some(state) = state(&args)? {
        // For services, whose standard output is a journal that others read.
        private_file::write(&state.join("link"), &format!("{}\n", *link.to_text()))?;
    }
    say!("{}", *link.to_text());
    let (connect, listen) = (&rules.connect, &rules.listen);
    tracing::info!(
        target: TOLD,
        "listening on UDP {local}; clients may connect to: {connect}; may listen on: {listen}"
    );
    ready();
    // It holds the sessions: ended before they were told why, they would be abandoned.
    let mut serving = pin!(serve_clients(&server, &rules, &sessions, args.once));
    let outcome = tokio::select! {
        outcome = signals::asked_to_end() => outcome,
        outcome = &mut serving => outcome,
    };
    server.shutdown(GOODBYE).await;
    outcome
}

/// Who the agent is, and the secret of its link.
fn identity(args: &AgentArgs) -> Result<(Identity, Secret), Failure> {
    match state(args)? {
        Some(state) => Ok((keys::agent_identity(&state)?, keys::link_secret(&state)?)),
        None => Ok((keys::new_identity()?, Secret::random()?)),
    }
}

/// Where the agent keeps its key; `None` if nothing is to be left behind.
fn state(args: &AgentArgs) -> Result<Option<PathBuf>, Failure> {
    match &args.state {
        Some(state) => Ok(Some(state.clone())),
        None if args.once => Ok(None),
        None => places::state().map(Some),
    }
}

fn bind(args: &AgentArgs, ssh: Option<&SshConnection>, tls: ServerTls) -> Result<Server, Failure> {
    let idle = Duration::from(args.idle_timeout);
    let mut session = SessionConfig::default();
    session
        .max_pipes(PIPES_MAX)
        .idle_timeout(idle)
        // They are the client's affair; here they must only fit the idle timeout.
        .probe_interval(idle / PROBE_SHARE)
        .probe_timeout(idle * (PROBE_SHARE - 2) / PROBE_SHARE);
    let mut limits = Limits::default();
    limits.max_sessions(args.max_sessions).replay_budget(args.replay_budget << 20);
    let mut config = ServerConfig::new(tls);
    config.session(session).limits(limits).linger(args.linger.into());

    let port = if args.once { 0 } else { PORT };
    match (args.listen, ssh) {
        (Some(listen), _) => Ok(Server::bind(listen, config)?),
        // The family that is known to get here.
        (None, Some(ssh)) if ssh.server.is_ipv4() => {
            Ok(Server::bind((Ipv4Addr::UNSPECIFIED, port).into(), config)?)
        }
        (None, _) => match Server::bind((Ipv6Addr::UNSPECIFIED, port).into(), config.clone()) {
            Ok(server) => Ok(server),
            // No IPv6 here, or the port is taken: the second attempt tells.
            Err(_) => Ok(Server::bind((Ipv4Addr::UNSPECIFIED, port).into(), config)?),
        },
    }
}

fn rules(args: &AgentArgs, ssh: Option<&SshConnection>) -> Rules {
    let mut allow = args.allow.clone();
    if let Some(ssh) = ssh {
        // What the client has come for: the ssh server that has let it in.
        let (host, port) = (Some(ssh.server.ip().to_string()), Some(ssh.server.port()));
        allow.extend([Pattern::Loopback, Pattern::Tcp { host, port }]);
    }
    Rules {
        connect: Policy::new(allow),
        listen: Policy::new(args.allow_listen.clone()),
        listeners: Listeners::default(),
    }
}

async fn serve_clients(
    server: &Server,
    rules: &Arc<Rules>,
    sessions: &Arc<Sessions>,
    once: bool,
) -> Result<(), Failure> {
    if once {
        let first = tokio::time::timeout(ONCE_WITHIN, server.accept()).await;
        let Ok(Some(incoming)) = first else {
            return Err(Failure::new(
                Code::Unavailable,
                format!("nobody came within {} s", ONCE_WITHIN.as_secs()),
            ));
        };
        let session = incoming.accept();
        // The door is closed: whoever else comes is refused.
        let refusing = async {
            while let Some(incoming) = server.accept().await {
                incoming.refuse("this agent serves one session only");
            }
        };
        tokio::select! {
            () = attend(session, rules.clone(), sessions.clone()) => {}
            () = refusing => {}
        }
        return Ok(());
    }
    // Bounded by the server's limit of sessions.
    let mut attended = JoinSet::new();
    loop {
        tokio::select! {
            incoming = server.accept() => {
                let Some(incoming) = incoming else { return Ok(()) };
                let from = incoming.remote_addr();
                let session = incoming.accept();
                tracing::info!(target: TOLD, session = %session.id(), "{} begins, from {from}", session.id());
                attended.spawn(attend(session, rules.clone(), sessions.clone()));
            }
            Some(_) = attended.join_next(), if !attended.is_empty() => {}
        }
    }
}

async fn attend(session: Session, rules: Arc<Rules>, sessions: Arc<Sessions>) {
    let id = session.id();
    let _listed = sessions.list(session.clone());
    let error = serve(&session, &rules).await;
    tracing::info!(target: TOLD, session = %id, "{id} has ended: {error}");
}

/// The address for the link: what is asked for, what is listened on, or the best
/// guess.
fn advertised(args: &AgentArgs, ssh: Option<&SshConnection>, local: SocketAddr) -> String {
    let port = local.port();
    if let Some(advertised) = &args.advertise {
        // An address with a port of its own, or a host.
        return match advertised.parse::<evermux::Target>() {
            Ok(_) => advertised.clone(),
            Err(_) => Endpoint::tcp(advertised.trim_matches(['[', ']']), port).to_string(),
        };
    }
    let ip = match local.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => ssh.map(|ssh| ssh.server.ip()).unwrap_or_else(own_ip),
    };
    SocketAddr::new(ip.to_canonical(), port).to_string()
}

/// The address from which this machine reaches others. Nothing is sent.
fn own_ip() -> IpAddr {
    // Addresses for documentation (RFC 5737, RFC 3849): never here, so the way to
    // them is the way out.
    let ways: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let found = ways.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    found.unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// Tells systemd, if it is there.
fn ready() {
    // It fails only where there is no systemd.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// How the client has come here, as sshd says.
#[derive(Clone, Copy, Debug)]
pub struct SshConnection {
    /// Where sshd listens.
    pub server: SocketAddr,
}

impl SshConnection {
    pub fn from_environment() -> Option<Self> {
        Self::parse(&std::env::var("SSH_CONNECTION").ok()?)
    }

    /// `CLIENT_IP CLIENT_PORT SERVER_IP SERVER_PORT`.
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [_, _, ip, port] = words[..] else { return None };
        // An address of one link only has its interface behind a `%`.
        let ip: IpAddr = ip.split('%').next()?.parse().ok()?;
        Some(Self { server: SocketAddr::new(ip.to_canonical(), port.parse().ok()?) })
    }
}

/// Ends a session because somebody here wants so.
pub fn kill(session: &Session) {
    session.close(CloseCode::application(1), b"it was killed (evermux kill)");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_sshd_listens_is_read_from_its_variable() {
        let parse = |text| SshConnection::parse(text).map(|ssh| ssh.server.to_string());
        assert_eq!(parse("10.0.0.9 50000 10.0.0.1 22"), Some("10.0.0.1:22".into()));
        assert_eq!(parse("::1 5 ::1 2222"), Some("[::1]:2222".into()));
        assert_eq!(parse("fe80::1%eth0 5 fe80::2%eth0 22"), Some("[fe80::2]:22".into()));
        assert_eq!(parse("::ffff:10.0.0.9 5 ::ffff:10.0.0.1 22"), Some("10.0.0.1:22".into()));
        assert_eq!(parse(""), None);
        assert_eq!(parse("a b c d"), None);
    }
}
