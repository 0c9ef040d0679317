//! The network monitor against a real kernel: a client and a server in network
//! namespaces of their own, two wires between them, and changes as an administrator
//! makes them.
//!
//! Runs on Linux, as root, where `ip` can make namespaces; elsewhere it says why not.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, CloseCode, Events, Fingerprint, Identity, Server,
    ServerConfig, ServerTls, Session, SessionConfig, SessionEvent,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Where the server is, whichever wire leads there.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Much more than it takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(8);

/// Tells the hosts of this process's tests apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Two namespaces, which are gone when it is dropped, with all that is in them.
struct Hosts {
    client: String,
    server: String,
}

impl Hosts {
    /// Two hosts, `v1` and `v2` of the client wired to `w1` and `w2` of the server; the
    /// client's packets take the first.
    fn new() -> Result<Self, String> {
        let (process, number) = (process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = |role| format!("evermux-{role}-{process}-{number}");
        let hosts = Self { client: name("c"), server: name("s") };
        let (c, s) = (&hosts.client, &hosts.server);
        ip(&format!("netns add {c}"))?;
        ip(&format!("netns add {s}"))?;
        for host in [c, s] {
            ip(&format!("-n {host} link set lo up"))?;
        }
        ip(&format!("-n {s} addr add {SERVER}/32 dev lo"))?;
        for wire in [1, 2] {
            let (v, w) = (format!("v{wire}"), format!("w{wire}"));
            ip(&format!("-n {c} link add {v} type veth peer name {w} netns {s}"))?;
            ip(&format!("-n {c} addr add 10.77.{wire}.1/24 dev {v}"))?;
            ip(&format!("-n {s} addr add 10.77.{wire}.2/24 dev {w}"))?;
            ip(&format!("-n {c} link set {v} up"))?;
            ip(&format!("-n {s} link set {w} up"))?;
        }
        ip(&format!("-n {c} route add default via 10.77.1.2 metric 200"))?;
        Ok(hosts)
    }

    fn on_client(&self, change: &str) {
        ip(&format!("-n {} {change}", self.client)).expect("as before");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.client, &self.server] {
            let _ = ip(&format!("netns del {host}"));
        }
    }
}

fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.map_err(|error| format!("`ip` does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`ip {args}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Runs `acts` on a thread on that host.
fn on<F: Future<Output = ()>>(
    host: &str,
    acts: impl FnOnce() -> F + Send + 'static,
) -> thread::JoinHandle<()> {
    let host = File::open(format!("/var/run/netns/{host}")).expect("it was made");
    thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(host.as_fd(), kind).expect("root may");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(acts());
    })
}

/// Serves one session, and tells each time that its client has moved.
async fn serve(
    identity: Identity,
    at: mpsc::UnboundedSender<SocketAddr>,
    moves: mpsc::UnboundedSender<SocketAddr>,
) {
    let config = ServerConfig::new(ServerTls::new(identity));
    let server = Server::bind((SERVER, 0).into(), config).expect("an address of its own");
    at.send(server.local_addr().expect("bound")).expect("awaited");
    let session = server.accept().await.expect("a client").accept();
    let mut events = session.events();
    let mut pipe = session.accept_pipe().await.expect("a session").expect("a pipe");
    let echo = async {
        let mut read = [0; 100];
        while let Ok(len @ 1..) = pipe.read(&mut read).await {
            pipe.write_all(&read[..len]).await.expect("the pipe lives");
        }
    };
    let tell = async {
        while let Some(event) = events.next().await {
            if let SessionEvent::Migrated { remote_addr, .. } = event {
                moves.send(remote_addr).expect("awaited");
            }
        }
    };
    tokio::join!(echo, tell);
}

async fn connect(server: SocketAddr, pin: Fingerprint, monitor: bool) -> (Session, BackedPipe) {
    // Nothing else may find out.
    let mut settings = SessionConfig::default();
    settings.probe_interval(None);
    let mut config = ClientConfig::new(ClientTls::with_pin(pin));
    config.session(settings).monitor(monitor).sleep_check(None);
    let session = Client::new(config).expect("good settings").connect(server).await;
    let session = session.expect("connected");
    let mut pipe = session.open_pipe("").expect("the first");
    echo(&mut pipe).await;
    (session, pipe)
}

async fn echo(pipe: &mut BackedPipe) {
    pipe.write_all(b"hello").await.expect("the pipe lives");
    let mut answer = [0; 5];
    pipe.read_exact(&mut answer).await.expect("the pipe lives");
    assert_eq!(&answer, b"hello");
}

/// Waits until the session has moved.
async fn moved(events: &mut Events) {
    loop {
        match events.next().await.expect("the session lives") {
            SessionEvent::Migrated { .. } => return,
            event @ SessionEvent::Detached { .. } => panic!("{event:?}"),
            _ => {}
        }
    }
}

/// Plays `acts` as the client, against a server that tells where it sees the client.
fn play<F: Future<Output = ()>>(
    monitor: bool,
    acts: impl FnOnce(Hosts, Session, BackedPipe, mpsc::UnboundedReceiver<SocketAddr>) -> F
    + Send
    + 'static,
) {
    let hosts = match Hosts::new() {
        Ok(hosts) => hosts,
        Err(reason) => return println!("skipped, it takes root and namespaces: {reason}"),
    };
    let identity = Identity::self_signed(&["localhost"]).expect("a key");
    let pin = identity.fingerprint();
    let ((at, mut bound), (moves, moving)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let server = on(&hosts.server, move || serve(identity, at, moves));
    let client = on(&hosts.client.clone(), move || async move {
        let server = bound.recv().await.expect("it listens");
        let (session, pipe) = connect(server, pin, monitor).await;
        acts(hosts, session.clone(), pipe, moving).await;
        session.close(CloseCode::DONE, b"");
        session.closed().await;
    });
    client.join().expect("the client's side");
    server.join().expect("the server's side");
}

#[test]
fn a_session_moves_when_its_packets_take_another_way_and_not_otherwise() {
    play(true, |hosts, session, mut pipe, mut moving| async move {
        let mut events = session.events();
        // What the kernel tells, but is no matter of ours.
        hosts.on_client("addr add 10.78.0.1/24 dev lo");
        hosts.on_client("route add 10.79.0.0/16 via 10.77.2.2");
        let worried = timeout(Duration::from_secs(2), events.next()).await;
        assert!(worried.is_err(), "{worried:?}");
        for (what, change, from) in [
            (
                "the default route flips, no address changes",
                "route add default via 10.77.2.2 metric 100",
                [10, 77, 2, 1],
            ),
            ("a wire goes down, the other is still there", "link set v2 down", [10, 77, 1, 1]),
            (
                "another address",
                "route replace default via 10.77.1.2 src 10.77.1.9 metric 200",
                [10, 77, 1, 9],
            ),
        ] {
            if from[3] == 9 {
                hosts.on_client("addr add 10.77.1.9/24 dev v1");
            }
            hosts.on_client(change);
            let began = Instant::now();
            timeout(SOON, moved(&mut events)).await.expect("told soon");
            let seen = timeout(SOON, moving.recv()).await.expect("seen soon").expect("served");
            println!("{what}: moved after {:?}", began.elapsed());
            assert_eq!(seen.ip(), Ipv4Addr::from(from), "{what}");
            echo(&mut pipe).await;
        }
        assert_eq!(session.stats().resumes, 0, "it is the same connection");
    });
}

#[test]
fn without_the_monitor_nobody_hears_of_it() {
    play(false, |hosts, session, _pipe, _moving| async move {
        let mut events = session.events();
        // The probe after traffic would find out.
        let worried = timeout(Duration::from_secs(1), events.next()).await;
        assert!(worried.is_err(), "{worried:?}");
        hosts.on_client("route add default via 10.77.2.2 metric 100");
        let worried = timeout(Duration::from_secs(1), events.next()).await;
        assert!(worried.is_err(), "{worried:?}");
    });
}
