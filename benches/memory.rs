//! What idle pipes and idle sessions cost, in bytes of the heap and of resident
//! memory.
//!
//! ```text
//! cargo bench --bench memory
//! ```
//!
//! Both ends live in this process. The server's part is what is left when the runtime
//! of all clients is dropped, which says no goodbye: first its sessions are attached
//! still, and once QUIC has given up, detached.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, Fingerprint, Identity, LinkState, Server,
    ServerConfig, ServerTls, Session, SessionConfig,
};
use peak_alloc::PeakAlloc;
use tokio::runtime::{self, Runtime};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// One runtime for servers, one for clients: the latter can be dropped.
struct Stage {
    servers: Runtime,
    clients: Runtime,
}

impl Stage {
    fn new() -> Self {
        let build = || runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let [servers, clients] = [build(), build()].map(|runtime| runtime.expect("a runtime"));
        Self { servers, clients }
    }

    fn server(&self) -> (Server, SocketAddr, Fingerprint) {
        let identity = Identity::self_signed(&["localhost"]).expect("a key");
        let pin = identity.fingerprint();
        let mut config = ServerConfig::new(ServerTls::new(identity));
        config.session(settings());
        let _inside = self.servers.enter();
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config).expect("a socket");
        let addr = server.local_addr().expect("bound");
        (server, addr, pin)
    }

    fn client(&self, pin: Fingerprint) -> Client {
        let mut config = ClientConfig::new(ClientTls::with_pin(pin));
        config.session(settings());
        let _inside = self.clients.enter();
        Client::new(config).expect("a client")
    }

    fn connect(&self, client: &Client, server: &Server, addr: SocketAddr) -> (Session, Session) {
        let accepting = async { server.accept().await.expect("it listens").accept() };
        let theirs = async {
            let client = client.clone();
            let connecting = self.clients.spawn(async move { client.connect(addr).await });
            let theirs = accepting.await;
            (connecting.await.expect("no panic").expect("connected"), theirs)
        };
        self.servers.block_on(theirs)
    }
}

/// QUIC gives up soon, so that sessions are detached soon.
fn settings() -> SessionConfig {
    let mut config = SessionConfig::default();
    config
        .max_pipes(10_000)
        .probe_interval(Duration::from_secs(1))
        .probe_timeout(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(5));
    config
}

fn heap() -> f64 {
    HEAP.current_usage() as f64
}

/// KiB, as the system counts them.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.unwrap_or(f64::NAN)
}

/// Waits until the heap has come to rest.
fn settled() -> f64 {
    let begun = Instant::now();
    let mut last = heap();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = heap();
        if (now - last).abs() < 1024.0 || begun.elapsed() > Duration::from_secs(3) {
            return now;
        }
        last = now;
    }
}

fn wait_detached(sessions: &[Session]) {
    let begun = Instant::now();
    while !sessions.iter().all(|session| matches!(session.link(), LinkState::Detached { .. })) {
        assert!(begun.elapsed() < Duration::from_secs(60), "QUIC gives up");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A byte there and back, so that both directions have their streams.
async fn greet(near: &mut BackedPipe, far: &mut BackedPipe) {
    near.writer().write_all(&[1]).await.expect("a live pipe");
    far.reader().read(&mut [0]).await.expect("a live pipe");
    far.writer().write_all(&[1]).await.expect("a live pipe");
    near.reader().read(&mut [0]).await.expect("a live pipe");
}

/// Bytes with both ends, with the server alone, and once its sessions are detached,
/// beyond what there was before.
type Usage = [f64; 3];

fn pipes(count: usize) -> Usage {
    let before = settled();
    let stage = Stage::new();
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (ours, theirs) = stage.connect(&client, &server, addr);
    let (mut near, mut far) = (Vec::with_capacity(count), Vec::with_capacity(count));
    stage.servers.block_on(async {
        for _ in 0..count {
            let mut ours = ours.open_pipe("").expect("few enough");
            let mut theirs = theirs.accept_pipe().await.expect("live").expect("a pipe");
            greet(&mut ours, &mut theirs).await;
            near.push(ours);
            far.push(theirs);
        }
    });
    let both = settled();
    drop((stage.clients, ours, client, near));
    let attached = settled();
    wait_detached(std::slice::from_ref(&theirs));
    let detached = settled();
    drop(far);
    theirs.close(evermux::CloseCode::DONE, b"");
    [both, attached, detached].map(|bytes| bytes - before)
}

fn sessions(count: usize) -> Usage {
    let before = settled();
    let stage = Stage::new();
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (mut near, mut far) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (ours, theirs) = stage.connect(&client, &server, addr);
        near.push(ours);
        far.push(theirs);
    }
    let both = settled();
    drop((stage.clients, client, near));
    let attached = settled();
    wait_detached(&far);
    let detached = settled();
    for session in far {
        session.close(evermux::CloseCode::DONE, b"");
    }
    [both, attached, detached].map(|bytes| bytes - before)
}

/// Prints what each of so many costs beyond what there is without any.
fn print(what: &str, counts: [usize; 2], measure: fn(usize) -> Usage) {
    let without = measure(0);
    for count in counts {
        let with = measure(count);
        let each = |at: usize| (with[at] - without[at]) / count as f64;
        let (both, attached, detached) = (each(0) / 2.0, each(1), each(2));
        println!(
            "| {count} idle {what} | {both:.0} | {attached:.0} | {detached:.0} | {:.0} |",
            resident()
        );
    }
}

fn main() {
    println!(
        "| bytes of each of | both ends, half | server, attached | detached | RSS in all, KiB |"
    );
    println!("|---|---|---|---|---|");
    print("pipes", [1_000, 10_000], pipes);
    print("sessions", [100, 400], sessions);
}
