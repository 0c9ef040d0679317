//! A server, a relay in front of it, and clients behind the relay.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use evermux::{
    BackedPipe, BackedReader, BackedWriter, Client, ClientConfig, ClientTls, Epoch, Fingerprint,
    Identity, LinkState, ReconnectPolicy, Server, ServerConfig, ServerTls, Session, SessionConfig,
    SessionEvent,
};

use crate::relay::{Direction, Relay};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What `future` gives; the test fails, naming `what`, if it does not come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Settings that notice a dead link quickly.
pub fn quick() -> SessionConfig {
    let mut config = SessionConfig::default();
    config.probe_interval(Duration::from_millis(100)).probe_timeout(Duration::from_millis(500));
    config
}

/// A server, a relay in front of it, and what a client needs to get there.
pub struct World {
    pub server: Server,
    pub relay: Relay,
    pub identity: Identity,
    /// Settings for clients; change them before `connect`.
    pub client: ClientConfig,
}

impl World {
    pub async fn new() -> Self {
        Self::with(quick(), |_| {}).await
    }

    /// Both sides get `session`; `server` may change more.
    pub async fn with(session: SessionConfig, server: impl FnOnce(&mut ServerConfig)) -> Self {
        let identity = Identity::self_signed(&["localhost"]).expect("a key");
        let mut config = ServerConfig::new(ServerTls::new(identity.clone()));
        config.session(session.clone());
        server(&mut config);
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config).expect("a socket");
        let relay = Relay::start(server.local_addr().expect("bound"), 1).await.expect("a relay");
        let client = client_config(identity.fingerprint(), session);
        Self { server, relay, identity, client }
    }

    /// A session, as both sides have it.
    pub async fn session(&self) -> (Session, Session) {
        let client = Client::new(self.client.clone()).expect("good settings");
        let (ours, theirs) = tokio::join!(client.connect(self.relay.addr()), async {
            self.server.accept().await.expect("the server listens").accept()
        });
        (ours.expect("connected"), theirs)
    }
}

pub fn client_config(pin: Fingerprint, session: SessionConfig) -> ClientConfig {
    let mut config = ClientConfig::new(ClientTls::with_pin(pin));
    config.session(session).attempt_timeout(Duration::from_secs(2)).reconnect(
        ReconnectPolicy::exponential(Duration::from_millis(20), Duration::from_millis(200)),
    );
    config
}

/// Waits until the link is down.
pub async fn detached(session: &Session) {
    let mut link = session.watch_link();
    let down = link.wait_for(|state| matches!(state, LinkState::Detached { .. }));
    soon("a lost link", down).await.expect("the session lives");
}

/// Waits until a connection later than `epoch` is attached.
pub async fn attached_after(session: &Session, epoch: Epoch) -> Epoch {
    let mut link = session.watch_link();
    let up = link
        .wait_for(|state| matches!(state, LinkState::Attached { epoch: now, .. } if *now > epoch));
    drop(soon("a resume", up).await.expect("the session lives"));
    session.stats().epoch
}

/// Waits for the first event that `wanted` picks.
pub async fn event<T>(
    events: &mut evermux::Events,
    wanted: impl Fn(&SessionEvent) -> Option<T>,
) -> T {
    soon("an event", async {
        loop {
            let event = events.next().await.expect("the session lives");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
    .await
}

/// The byte at `offset` of stream `stream`: depends on both, so that every
/// misplaced byte is seen.
pub fn byte_at(stream: u64, offset: u64) -> u8 {
    let mut bits = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (offset / 7);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (bits >> 32) as u8 ^ offset as u8
}

/// Writes the bytes `from..to` of `stream`.
pub async fn write_range(
    writer: &mut BackedWriter,
    stream: u64,
    from: u64,
    to: u64,
) -> Result<(), evermux::WriteError> {
    let mut offset = from;
    while offset < to {
        let end = to.min(offset + 16 * 1024);
        let chunk: Vec<u8> = (offset..end).map(|at| byte_at(stream, at)).collect();
        writer.write_all(&chunk).await?;
        offset = end;
    }
    Ok(())
}

/// Reads bytes from `from` on, up to `to` or the end of the stream, compares
/// them with those of `stream`, and says how far it came.
pub async fn read_range(
    reader: &mut BackedReader,
    stream: u64,
    from: u64,
    to: u64,
) -> Result<u64, evermux::ReadError> {
    let mut offset = from;
    while offset < to {
        let max = (to - offset).min(64 * 1024) as usize;
        let Some(chunk) = reader.read_chunk(max).await? else { break };
        for (at, byte) in (offset..).zip(&chunk[..]) {
            assert_eq!(*byte, byte_at(stream, at), "stream {stream} differs at offset {at}");
        }
        offset += chunk.len() as u64;
    }
    Ok(offset)
}

/// Waits until `condition` holds; for what no event tells.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits until both sides have forgotten all pipes.
pub async fn all_retired(client: &Session, server: &Session) {
    until("the end of all pipes, here and there", || {
        client.stats().pipes == 0 && server.stats().pipes == 0
    })
    .await;
}

/// A pipe that `opener` opened and `acceptor` accepted: its two ends.
pub async fn pipe(opener: &Session, acceptor: &Session) -> (BackedPipe, BackedPipe) {
    let opened = opener.open_pipe("").expect("the session lives");
    let accepted = soon("a pipe", acceptor.accept_pipe()).await.expect("the session lives");
    (opened, accepted.expect("the session lives"))
}

/// Both sides know that they are detached, and the client's attempts come to
/// nothing: until the direction to the client is unblocked.
pub async fn both_detached(world: &World, client: &Session, server: &Session) {
    world.relay.block(Direction::ToClient, true);
    let reconnecting = client.clone();
    tokio::spawn(async move { reconnecting.reconnect().await });
    detached(server).await;
    detached(client).await;
}

/// SplitMix64: random numbers that a seed repeats.
pub struct Dice(pub u64);

impl Dice {
    /// A number from `range`.
    pub fn pick(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (bits ^ (bits >> 31)) % (range.end - range.start)
    }
}
