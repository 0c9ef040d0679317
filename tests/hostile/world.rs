//! A server, a bystander whom nothing may disturb, and raw clients.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, ConnectError, Fingerprint, Identity, PipeId,
    ReconnectPolicy, Server, ServerConfig, ServerTls, Session, SessionId, Side,
};
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::raw::{self, Claim, Control, Dial, Peer, frame, frames, header};

pub const HOLDER: [u8; 16] = [0xaa; 16];
pub const OTHER_HOLDER: [u8; 16] = [0xbb; 16];
/// For tests that wait until the server has lost its patience.
pub const IMPATIENT: Duration = Duration::from_secs(1);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

thread_local! {
    /// Each test has a thread of its own, with all tasks that it spawns.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

pub fn watch_for_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.set(true);
            report(info);
        }));
    });
}

/// An echo server, and beside the hostile peer a client that exchanges bytes with
/// it all the time and must never notice anything.
pub struct World {
    pub addr: SocketAddr,
    pub pin: Fingerprint,
    pub server: Server,
    /// The server's side of every session that ever was.
    pub sessions: Arc<Mutex<HashMap<SessionId, Session>>>,
    pub bystander: Session,
    /// How many times the bystander was answered.
    pub echoed: watch::Receiver<u64>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn impatient() -> Self {
        Self::with(|config| {
            config.handshake_timeout(IMPATIENT);
        })
        .await
    }

    pub async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        watch_for_panics();
        let identity = Identity::self_signed(&["localhost"]).unwrap();
        let pin = identity.fingerprint();
        let mut config = ServerConfig::new(ServerTls::new(identity).ask_clients());
        change(&mut config);
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config).unwrap();
        let addr = server.local_addr().unwrap();
        let sessions = Arc::<Mutex<HashMap<_, _>>>::default();
        tokio::spawn({
            let (server, sessions) = (server.clone(), sessions.clone());
            async move {
                while let Some(incoming) = server.accept().await {
                    let session = incoming.accept();
                    sessions.lock().unwrap().insert(session.id(), session.clone());
                    tokio::spawn(serve(session));
                }
            }
        });
        let bystander = connect(addr, pin).await.unwrap();
        let (count, echoed) = watch::channel(0);
        tokio::spawn(keep_echoing(bystander.clone(), count));
        let world = Self { addr, pin, server, sessions, bystander, echoed };
        world.all_is_well().await;
        world
    }

    /// The bystander is answered from now on too, on the connection that it
    /// always had.
    pub async fn all_is_well(&self) {
        let mut echoed = self.echoed.clone();
        let so_far = *echoed.borrow();
        let answered = echoed.wait_for(|count| *count >= so_far + 2);
        soon("an echo", answered).await.expect("the bystander's pipe lives");
        assert_eq!(self.bystander.stats().resumes, 0);
        assert!(!PANICKED.get(), "something panicked");
    }

    /// What the server says to a client whose control stream begins with
    /// `bytes`.
    pub async fn answer_to(&self, bytes: &[u8]) -> (u64, String) {
        let client = Peer::connect(self.addr).await.unwrap();
        let mut control = client.open_control().await;
        control.say(bytes).await;
        let closed = soon("a close", client.closed()).await;
        self.all_is_well().await;
        closed
    }

    /// The server's side of a raw session.
    pub fn session(&self, id: [u8; 16]) -> Session {
        self.sessions.lock().unwrap()[&SessionId::from_bytes(id)].clone()
    }

    /// Says what `bytes` makes of a new connection's exporter, on that
    /// connection.
    pub async fn dial_and_say(&self, bytes: impl FnOnce([u8; 32]) -> Vec<u8>) -> (Peer, Control) {
        let peer = Peer::connect(self.addr).await.unwrap();
        let mut control = peer.open_control().await;
        control.say(&bytes(peer.exporter())).await;
        (peer, control)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(!PANICKED.get(), "something panicked");
        }
    }
}

pub async fn serve(session: Session) {
    while let Ok(Some(pipe)) = session.accept_pipe().await {
        if pipe.label() == "call back" {
            tokio::spawn(echo(session.open_pipe("here").unwrap()));
        }
        tokio::spawn(echo(pipe));
    }
}

/// Gives every byte back as it comes.
pub async fn echo(pipe: BackedPipe) {
    let (mut reader, mut writer) = pipe.into_split();
    while let Ok(Some(mut chunk)) = reader.read_chunk(64 * 1024).await {
        if writer.write_chunk(&mut chunk).await.is_err() {
            return;
        }
    }
    writer.finish();
}

pub async fn keep_echoing(session: Session, count: watch::Sender<u64>) {
    let mut pipe = session.open_pipe("bystander").unwrap();
    for round in 1u64.. {
        let mut answer = [0; 8];
        let sent = pipe.write_all(&round.to_be_bytes()).await;
        if sent.is_err() || pipe.read_exact(&mut answer).await.is_err() {
            return;
        }
        assert_eq!(u64::from_be_bytes(answer), round);
        count.send_replace(round);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn connect(addr: SocketAddr, pin: Fingerprint) -> Result<Session, ConnectError> {
    let mut config = ClientConfig::new(ClientTls::with_pin(pin));
    config
        .attempt_timeout(Duration::from_secs(2))
        .early_data(true)
        .reconnect(ReconnectPolicy::exponential(Duration::from_millis(20), IMPATIENT));
    Client::new(config).unwrap().connect(addr).await
}

/// A session whose client is raw.
pub struct RawSession {
    pub peer: Peer,
    pub control: Control,
    pub id: [u8; 16],
    pub secret: [u8; 32],
}

impl RawSession {
    pub async fn begin(world: &World) -> Self {
        Self::begin_as(world, &Dial::default()).await
    }

    pub async fn begin_as(world: &World, dial: &Dial) -> Self {
        let peer = dial.connect(world.addr).await.unwrap();
        let mut control = peer.open_control().await;
        control.say(&raw::hello(&HOLDER)).await;
        let (kind, payload) = soon("a welcome", control.next()).await;
        assert_eq!(kind, frames::WELCOME);
        let (id, secret) = (payload[..16].try_into().unwrap(), payload[16..48].try_into().unwrap());
        Self { peer, control, id, secret }
    }

    /// What the holder of this session can claim on a connection.
    pub fn claim(&self, epoch: u64, exporter: [u8; 32]) -> Claim {
        Claim { session: self.id, epoch, holder: HOLDER, exporter }
    }

    /// `RESUME` with a right proof.
    pub fn resume(&self, epoch: u64, exporter: [u8; 32]) -> Vec<u8> {
        let claim = self.claim(epoch, exporter);
        claim.resume(&claim.client_proof(&self.secret))
    }

    /// Opens the client's first pipe, sends ten bytes and gets them back.
    pub async fn ten_bytes(&self) -> (SendStream, RecvStream) {
        let first = [&header(1, 0, 0, Some(b""))[..], b"0123456789"].concat();
        let (send, mut recv) = self.peer.stream(&first).await;
        expect(&mut recv, &[&header(1, 0, 0, None)[..], b"0123456789"].concat()).await;
        (send, recv)
    }

    /// The server has taken note of all that was said so far.
    pub async fn settled(&mut self) {
        self.control.say(&frame(frames::PING, &[9])).await;
        while soon("a pong", self.control.wait_for(frames::PONG)).await != [9] {}
    }
}

/// What `future` gives if it gives it at once.
pub async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}

pub async fn expect(recv: &mut RecvStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    soon("an echo", recv.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, bytes);
}

/// Sends bytes on a pipe whose header is through, and gets them back.
pub async fn goes_on((send, recv): &mut (SendStream, RecvStream)) {
    send.write_all(b"and on").await.unwrap();
    expect(recv, b"and on").await;
}

/// `1152921504606846976`, as a varint.
pub fn two_to_the_60() -> Vec<u8> {
    raw::varint(1 << 60)
}

pub fn first_pipe_of(opener: Side) -> PipeId {
    PipeId::new(opener, 0).unwrap()
}
