//! Servers and clients in one process, and what it uses.

use std::alloc::System;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, Fingerprint, Identity, Limits, Server,
    ServerConfig, ServerTls, Session, SessionConfig,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::{self, Runtime};

/// Counts, and leaves zeroed memory to the system: what nobody has touched is not
/// resident.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One runtime for servers, one for clients: the latter can be dropped.
pub struct Stage {
    pub servers: Runtime,
    pub clients: Runtime,
    settings: SessionConfig,
}

/// A runtime with one thread.
pub fn runtime() -> Runtime {
    let mut runtime = runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().expect("a runtime")
}

impl Stage {
    pub fn new(settings: SessionConfig) -> Self {
        Self { servers: runtime(), clients: runtime(), settings }
    }

    pub fn server(&self) -> (Server, SocketAddr, Fingerprint) {
        let identity = Identity::self_signed(&["localhost"]).expect("a key");
        let pin = identity.fingerprint();
        let mut config = ServerConfig::new(ServerTls::new(identity));
        let mut limits = Limits::default();
        limits.max_sessions(10_000).max_handshakes(10_000);
        config.session(self.settings.clone()).limits(limits);
        let _inside = self.servers.enter();
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config).expect("a socket");
        let addr = server.local_addr().expect("bound");
        (server, addr, pin)
    }

    pub fn client(&self, pin: Fingerprint) -> Client {
        let mut config = ClientConfig::new(ClientTls::with_pin(pin));
        // As on the internet: to a loopback address, probes of larger ones cost 100 kB.
        config.session(self.settings.clone()).max_udp_payload(1452);
        let _inside = self.clients.enter();
        Client::new(config).expect("a client")
    }

    pub fn connect(
        &self,
        client: &Client,
        server: &Server,
        addr: SocketAddr,
    ) -> (Session, Session) {
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

/// Bytes, right now.
pub fn heap() -> f64 {
    let stats = HEAP.stats();
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

/// KiB, as the system counts them.
pub fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.unwrap_or(f64::NAN)
}

/// Waits until the heap has come to rest.
pub fn settled() -> f64 {
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

/// A byte there and back, so that both directions have their streams.
pub async fn greet(near: &mut BackedPipe, far: &mut BackedPipe) {
    near.writer().write_all(&[1]).await.expect("a live pipe");
    far.reader().read(&mut [0]).await.expect("a live pipe");
    far.writer().write_all(&[1]).await.expect("a live pipe");
    near.reader().read(&mut [0]).await.expect("a live pipe");
}
