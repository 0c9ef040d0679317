//! Peers that are no evermux, or break its protocol: each is told why, and nobody
//! else notices.

mod raw;

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, ConnectError, DecodeError, DialError, Fingerprint,
    Identity, Limits, LinkState, PeerMisbehaved, PipeId, ReconnectPolicy, Server, ServerConfig,
    ServerTls, Session, SessionConfig, SessionError, SessionId, Side, TlsError,
};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use raw::{Claim, Control, Dial, Peer, RawServer, codes, frame, frames, header, numbers, table};

const HOLDER: [u8; 16] = [0xaa; 16];
const OTHER_HOLDER: [u8; 16] = [0xbb; 16];
/// For tests that wait until the server has lost its patience.
const IMPATIENT: Duration = Duration::from_secs(1);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

thread_local! {
    /// Each test has a thread of its own, with all tasks that it spawns.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

fn watch_for_panics() {
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
struct World {
    addr: SocketAddr,
    pin: Fingerprint,
    server: Server,
    /// The server's side of every session that ever was.
    sessions: Arc<Mutex<HashMap<SessionId, Session>>>,
    bystander: Session,
    /// How many times the bystander was answered.
    echoed: watch::Receiver<u64>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn impatient() -> Self {
        Self::with(|config| {
            config.handshake_timeout(IMPATIENT);
        })
        .await
    }

    async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
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
    async fn all_is_well(&self) {
        let mut echoed = self.echoed.clone();
        let so_far = *echoed.borrow();
        let answered = echoed.wait_for(|count| *count >= so_far + 2);
        soon("an echo", answered).await.expect("the bystander's pipe lives");
        assert_eq!(self.bystander.stats().resumes, 0);
        assert!(!PANICKED.get(), "something panicked");
    }

    /// What the server says to a client whose control stream begins with
    /// `bytes`.
    async fn answer_to(&self, bytes: &[u8]) -> (u64, String) {
        let client = Peer::connect(self.addr).await.unwrap();
        let mut control = client.open_control().await;
        control.say(bytes).await;
        let closed = soon("a close", client.closed()).await;
        self.all_is_well().await;
        closed
    }

    /// The server's side of a raw session.
    fn session(&self, id: [u8; 16]) -> Session {
        self.sessions.lock().unwrap()[&SessionId::from_bytes(id)].clone()
    }

    /// Says what `bytes` makes of a new connection's exporter, on that
    /// connection.
    async fn dial_and_say(&self, bytes: impl FnOnce([u8; 32]) -> Vec<u8>) -> (Peer, Control) {
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

async fn serve(session: Session) {
    while let Ok(Some(pipe)) = session.accept_pipe().await {
        if pipe.label() == "call back" {
            tokio::spawn(echo(session.open_pipe("here").unwrap()));
        }
        tokio::spawn(echo(pipe));
    }
}

/// Gives every byte back as it comes.
async fn echo(pipe: BackedPipe) {
    let (mut reader, mut writer) = pipe.into_split();
    while let Ok(Some(mut chunk)) = reader.read_chunk(64 * 1024).await {
        if writer.write_chunk(&mut chunk).await.is_err() {
            return;
        }
    }
    writer.finish();
}

async fn keep_echoing(session: Session, count: watch::Sender<u64>) {
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

async fn connect(addr: SocketAddr, pin: Fingerprint) -> Result<Session, ConnectError> {
    let mut config = ClientConfig::new(ClientTls::with_pin(pin));
    config
        .attempt_timeout(Duration::from_secs(2))
        .reconnect(ReconnectPolicy::exponential(Duration::from_millis(20), IMPATIENT));
    Client::new(config).unwrap().connect(addr).await
}

/// A session whose client is raw.
struct RawSession {
    peer: Peer,
    control: Control,
    id: [u8; 16],
    secret: [u8; 32],
}

impl RawSession {
    async fn begin(world: &World) -> Self {
        Self::begin_as(world, &Dial::default()).await
    }

    async fn begin_as(world: &World, dial: &Dial) -> Self {
        let peer = dial.connect(world.addr).await.unwrap();
        let mut control = peer.open_control().await;
        control.say(&raw::hello(&HOLDER)).await;
        let (kind, payload) = soon("a welcome", control.next()).await;
        assert_eq!(kind, frames::WELCOME);
        let (id, secret) = (payload[..16].try_into().unwrap(), payload[16..48].try_into().unwrap());
        Self { peer, control, id, secret }
    }

    /// What the holder of this session can claim on a connection.
    fn claim(&self, epoch: u64, exporter: [u8; 32]) -> Claim {
        Claim { session: self.id, epoch, holder: HOLDER, exporter }
    }

    /// `RESUME` with a right proof.
    fn resume(&self, epoch: u64, exporter: [u8; 32]) -> Vec<u8> {
        let claim = self.claim(epoch, exporter);
        claim.resume(&claim.client_proof(&self.secret))
    }

    /// Opens the client's first pipe, sends ten bytes and gets them back.
    async fn ten_bytes(&self) -> (SendStream, RecvStream) {
        let first = [&header(1, 0, 0, Some(b""))[..], b"0123456789"].concat();
        let (send, mut recv) = self.peer.stream(&first).await;
        expect(&mut recv, &[&header(1, 0, 0, None)[..], b"0123456789"].concat()).await;
        (send, recv)
    }

    /// The server has taken note of all that was said so far.
    async fn settled(&mut self) {
        self.control.say(&frame(frames::PING, &[9])).await;
        while soon("a pong", self.control.wait_for(frames::PONG)).await != [9] {}
    }
}

/// What `future` gives if it gives it at once.
async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}

async fn expect(recv: &mut RecvStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    soon("an echo", recv.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, bytes);
}

/// Sends bytes on a pipe whose header is through, and gets them back.
async fn goes_on((send, recv): &mut (SendStream, RecvStream)) {
    send.write_all(b"and on").await.unwrap();
    expect(recv, b"and on").await;
}

/// `1152921504606846976`, as a varint.
fn two_to_the_60() -> Vec<u8> {
    raw::varint(1 << 60)
}

fn first_pipe_of(opener: Side) -> PipeId {
    PipeId::new(opener, 0).unwrap()
}

// Before there is a session.

#[tokio::test]
async fn garbage_on_the_control_stream_is_named_as_such() {
    let world = World::new().await;
    // A known type with a payload that ends within a field.
    let (code, reason) = world.answer_to(&[0x01, 0x02, 0xaa, 0xaa]).await;
    assert_eq!(
        (code, &reason[..]),
        (codes::VIOLATION, "sent a malformed frame: it ends in the middle of a field")
    );
    // Random bytes: some length in them is absurd.
    let (code, _) = world.answer_to(&[0xff; 64]).await;
    assert_eq!(code, codes::VIOLATION);
}

#[tokio::test]
async fn a_frame_that_claims_2_to_the_60_bytes_is_refused_at_once() {
    let world = World::new().await;
    for kind in [frames::HELLO, frames::ACKS, 0x99] {
        let claim = [raw::varint(kind), two_to_the_60()].concat();
        let (code, reason) = world.answer_to(&claim).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains("claims 1152921504606846976 bytes"), "{reason}");
    }
}

#[tokio::test]
async fn a_wrong_first_frame_is_named() {
    let world = World::new().await;
    let welcome = [&[0; 48][..], raw::PARAMETERS].concat();
    for (kind, payload, name) in [
        (frames::WELCOME, &welcome[..], "WELCOME"),
        (frames::RESUMED, &[0; 33], "RESUMED"),
        (frames::TABLE_HEAD, &[0, 0], "TABLE_HEAD"),
        (frames::GAPS, &[], "GAPS"),
        (frames::POSITIONS, &[], "POSITIONS"),
        (frames::TABLE_END, &[0], "TABLE_END"),
        (frames::ACKS, &[], "ACKS"),
        (frames::RESET, &[0, 0, 0], "RESET"),
        (frames::STOP, &[0, 0, 0], "STOP"),
        (frames::PING, &[7], "PING"),
        (frames::PONG, &[7], "PONG"),
        (frames::CLOSE, &[1], "CLOSE"),
    ] {
        let closed = world.answer_to(&frame(kind, payload)).await;
        let complaint = format!("sent a {name} frame where it has no place");
        assert_eq!(closed, (codes::VIOLATION, complaint));
    }
}

#[tokio::test]
async fn silence_is_not_waited_for_for_ever() {
    let world = World::impatient().await;
    let hello = raw::hello(&HOLDER);
    // Kept open: nothing at all; a frame that ends early, at any point; frames
    // that mean nothing. And control streams that have ended.
    let silent = Peer::connect(world.addr).await.unwrap();
    let mut waiting = vec![(silent, None)];
    for said in [&hello[..1], &hello[..2], &hello[..20], &[0x40, 0x99, 3, 1, 2, 3]] {
        let (peer, control) = world.dial_and_say(|_| said.to_vec()).await;
        waiting.push((peer, Some(control)));
    }
    for at in [1, 20] {
        let (peer, mut control) = world.dial_and_say(|_| hello[..at].to_vec()).await;
        control.send.finish().unwrap();
        waiting.push((peer, Some(control)));
        let (peer, mut control) = world.dial_and_say(|_| hello[..at].to_vec()).await;
        control.send.reset(VarInt::from_u32(0)).unwrap();
        waiting.push((peer, Some(control)));
    }
    for (peer, _control) in &waiting {
        let closed = soon("the end of patience", peer.closed()).await;
        assert_eq!(closed, (codes::DETACH, "no HELLO or RESUME in time".into()));
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn connections_that_do_nothing_are_refused_beyond_a_limit_and_forgotten_in_time() {
    let world = World::with(|config| {
        let mut limits = Limits::default();
        limits.max_handshakes(8);
        config.handshake_timeout(2 * IMPATIENT).limits(limits);
    })
    .await;
    let endpoint = Dial::default().endpoint();
    let mut dials = JoinSet::new();
    for _ in 0..200 {
        dials.spawn(endpoint.connect(world.addr, "localhost").unwrap().into_future());
    }
    let mut idle = Vec::new();
    while let Some(dialled) = soon("an answer", dials.join_next()).await {
        match dialled.unwrap() {
            Ok(connection) => idle.push(connection),
            Err(quinn::ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
            }
            Err(other) => panic!("neither connected nor refused: {other}"),
        }
    }
    // If this machine is slow, some came after the first were forgotten.
    assert!((8..100).contains(&idle.len()), "{} were let in", idle.len());
    world.all_is_well().await;
    for connection in &idle {
        soon("the end of patience", connection.closed()).await;
    }
    soon("a session", connect(world.addr, world.pin)).await.expect("there is room again");
    world.all_is_well().await;
}

#[tokio::test]
async fn a_client_of_another_protocol_is_turned_away_by_tls() {
    let world = World::new().await;
    let dial = Dial { alpn: b"h3".to_vec(), ..Dial::default() };
    let error = dial.connect(world.addr).await.err().expect("refused");
    assert!(error.contains("no application protocol") || error.contains("120"), "{error}");
    world.all_is_well().await;
}

// Resuming.

#[tokio::test]
async fn a_resume_of_an_unknown_session_is_refused_with_the_reason() {
    let world = World::new().await;
    let claim = Claim { session: [0x11; 16], epoch: 2, holder: HOLDER, exporter: [0; 32] };
    let (code, reason) = world.answer_to(&claim.resume(&[0x33; 32])).await;
    // UNKNOWN_SESSION, no epoch, no words.
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[3, 0][..]));
}

#[tokio::test]
async fn a_captured_resume_is_worth_nothing_on_another_connection() {
    let world = World::new().await;
    let mut victim = RawSession::begin(&world).await;
    let mut pipe = victim.ten_bytes().await;
    // The victim is about to resume on a connection of its own ...
    let captured = {
        let peer = Peer::connect(world.addr).await.unwrap();
        [victim.resume(2, peer.exporter()), table(1, 0, &[(0, 10)])].concat()
    };
    // ... and others send the same bytes on theirs. Or claim to be another
    // holder; or have nothing but the public name.
    let claim = victim.claim(2, [0; 32]);
    let stranger = Claim { holder: OTHER_HOLDER, ..claim };
    let (bad_proof, superseded) = (&[4, 0][..], &[6, 0][..]);
    for (said, refusal) in [
        (captured, bad_proof),
        (claim.resume(&claim.client_proof(&victim.secret)), bad_proof),
        (claim.resume(&[0; 32]), bad_proof),
        (claim.resume(&claim.server_proof(&victim.secret)), bad_proof),
        (stranger.resume(&stranger.client_proof(&victim.secret)), superseded),
    ] {
        let (code, reason) = world.answer_to(&said).await;
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, refusal));
        goes_on(&mut pipe).await;
    }
    victim.settled().await;
    assert_eq!(world.session(victim.id).stats().epoch.get(), 1);
    // Its epoch was not used up, nor its secret.
    let (_peer, mut control) = world
        .dial_and_say(|exporter| [victim.resume(2, exporter), table(1, 0, &[(0, 40)])].concat())
        .await;
    soon("an answer", control.wait_for(frames::RESUMED)).await;
}

#[tokio::test]
async fn a_stale_epoch_is_refused_with_the_attached_one_to_who_holds_the_token() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    for epoch in [0, 1] {
        let (peer, _control) = world.dial_and_say(|exporter| session.resume(epoch, exporter)).await;
        let (code, reason) = soon("a refusal", peer.closed()).await;
        // STALE_EPOCH, 1, no words.
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[5, 1][..]));
    }
    session.settled().await;
    world.all_is_well().await;
}

#[tokio::test]
async fn a_resume_whose_table_never_ends_fences_nothing() {
    let world = World::impatient().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let whole = table(1, 0, &[(0, 10)]);
    for cut in 0..whole.len() {
        let said = |exporter| [session.resume(2, exporter), whole[..cut].to_vec()].concat();
        if cut % 4 == 0 {
            let (peer, _control) = world.dial_and_say(said).await;
            goes_on(&mut pipe).await;
            drop(peer);
        } else if cut == whole.len() - 1 {
            // This one waits.
            let (peer, _control) = world.dial_and_say(said).await;
            let closed = soon("the end of patience", peer.closed()).await;
            assert_eq!(closed, (codes::DETACH, "no HELLO or RESUME in time".into()));
        }
    }
    goes_on(&mut pipe).await;
    let stats = world.session(session.id).stats();
    assert_eq!((stats.epoch.get(), stats.resumes), (1, 0));
    world.all_is_well().await;
}

#[tokio::test]
async fn a_table_that_no_client_can_have_costs_only_its_connection() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let head = frame(frames::TABLE_HEAD, &[1, 0]);
    let after_head = |kind, payload: &[u8]| [&head[..], &frame(kind, payload)].concat();
    let crowd: Vec<_> = (0..1025).map(|index| (2 * index, 0)).collect();
    for (table, complaint) in [
        (frame(frames::POSITIONS, &[0, 0, 10]), "sent a POSITIONS frame where it has no place"),
        (frame(frames::TABLE_END, &[0]), "sent a TABLE_END frame where it has no place"),
        // It cannot have seen pipes that were never opened, nor have opened fewer
        // than were seen.
        (frame(frames::TABLE_HEAD, &[1, 1]), "sent a TABLE_HEAD frame where it has no place"),
        (frame(frames::TABLE_HEAD, &[0, 0]), "sent a TABLE_HEAD frame where it has no place"),
        (after_head(frames::TABLE_HEAD, &[1, 0]), "sent a TABLE_HEAD frame where it has no place"),
        (after_head(frames::GAPS, &[0]), "sent a GAPS frame where it has no place"),
        (after_head(frames::TABLE_END, &[1]), "sent a TABLE_END frame where it has no place"),
        (after_head(frames::POSITIONS, &[0, 3, 9]), "field \"position flags\" has a value"),
        (after_head(frames::PING, &[1]), "sent a PING frame where it has no place"),
        (table(1025, 0, &crowd), "opened more pipes than the 1024 allowed"),
        (session.resume(2, [0; 32]), "sent a RESUME frame where it has no place"),
        ([&head[..], &[0x07], &two_to_the_60()].concat(), "claims 1152921504606846976 bytes"),
    ] {
        let (peer, _control) =
            world.dial_and_say(|exporter| [session.resume(2, exporter), table].concat()).await;
        let (code, reason) = soon("a close", peer.closed()).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(complaint), "{reason} is not {complaint}");
        goes_on(&mut pipe).await;
    }
    assert_eq!(world.session(session.id).stats().epoch.get(), 1);
    world.all_is_well().await;
}

#[tokio::test]
async fn a_table_with_more_gaps_than_pipes_can_be_unseen_costs_only_its_connection() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.max_pipes(1);
        config.session(session);
    })
    .await;
    let mut session = RawSession::begin(&world).await;
    // The server opens a pipe, which comes to its end, and another.
    let mut pipes = Vec::new();
    for round in [0, 1] {
        let call = header(1, 2 * round, 0, Some(b"call back"));
        let call = session.peer.stream(&call).await;
        let called = soon("a call", session.peer.connection.accept_bi()).await;
        let (mut send, recv) = called.unwrap();
        if round == 0 {
            send.write_all(&header(1, 1, 0, None)).await.unwrap();
            send.finish().unwrap();
            let done = numbers(&[1, 1, 0]);
            while soon("an ack", session.control.wait_for(frames::ACKS)).await != done {}
            session.control.say(&frame(frames::ACKS, &done)).await;
            session.settled().await;
        }
        pipes.push((call, (send, recv)));
    }
    let head = frame(frames::TABLE_HEAD, &[2, 2]);
    let said =
        |exporter| [session.resume(2, exporter), head, frame(frames::GAPS, &[0, 1])].concat();
    let (peer, _control) = world.dial_and_say(said).await;
    let closed = soon("a close", peer.closed()).await;
    assert_eq!(closed, (codes::VIOLATION, "opened more pipes than the 1 allowed".into()));
    session.settled().await;
    assert_eq!(world.session(session.id).stats().epoch.get(), 1);
    world.all_is_well().await;
}

#[tokio::test]
async fn a_table_of_offsets_that_cannot_be_ends_only_its_session_and_names_both_numbers() {
    let world = World::new().await;
    let pipe = first_pipe_of(Side::Client);
    for (table, misbehaved, reason) in [
        (
            table(1, 0, &[(0, 11)]),
            PeerMisbehaved::OffsetFromTheFuture { pipe, asked: 11, written: 10 },
            "asked pipe c0 for offset 11, but only 10 bytes were ever written",
        ),
        (
            table(1, 0, &[(0, (1 << 62) - 1)]),
            PeerMisbehaved::OffsetFromTheFuture { pipe, asked: (1 << 62) - 1, written: 10 },
            "asked pipe c0 for offset 4611686018427387903, but only 10 bytes were ever written",
        ),
        (
            table(1, 0, &[(0, 4)]),
            PeerMisbehaved::OffsetTrimmed { pipe, asked: 4, acked: 5 },
            "asked pipe c0 for offset 4, but acknowledged 5 bytes before",
        ),
        (
            table(1, 0, &[(0, 5), (1, 0)]),
            PeerMisbehaved::NoSuchPipe { pipe: first_pipe_of(Side::Server) },
            "named pipe s0, which was never opened",
        ),
        (table(1, 0, &[]), PeerMisbehaved::PipeForgotten { pipe }, "forgot pipe c0 before its end"),
    ] {
        let mut session = RawSession::begin(&world).await;
        let _pipe = session.ten_bytes().await;
        session.control.say(&frame(frames::ACKS, &[0, 0, 5])).await;
        session.settled().await;
        let (peer, _control) =
            world.dial_and_say(|exporter| [session.resume(2, exporter), table].concat()).await;
        let closed = soon("a close", peer.closed()).await;
        assert_eq!(closed, (codes::VIOLATION, reason.into()));
        let ended = soon("the end of the session", world.session(session.id).closed()).await;
        assert_eq!(ended, SessionError::PeerMisbehaved(misbehaved));
        world.all_is_well().await;
    }
    assert_eq!(world.server.stats().sessions, 1);
}

#[tokio::test]
async fn both_sides_prove_themselves_and_the_secret_moves_on() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    let mut echoed = 10;
    let mut links: Vec<(Peer, Control, SendStream)> = Vec::new();
    for epoch in 2..6 {
        let (peer, mut control) = world
            .dial_and_say(|exporter| {
                [session.resume(epoch, exporter), table(1, 0, &[(0, echoed)])].concat()
            })
            .await;
        let claim = session.claim(epoch, peer.exporter());
        let answer = soon("an answer", control.wait_for(frames::RESUMED)).await;
        let proof = claim.server_proof(&session.secret);
        assert_eq!(answer, [&[epoch as u8][..], &proof].concat());
        // The server's table: it has opened nothing, has seen one pipe, and has
        // read as much of it as it has given back.
        assert_eq!(control.next().await, (frames::TABLE_HEAD, vec![0, 1]));
        assert_eq!(control.next().await, (frames::POSITIONS, vec![0, 0, echoed as u8]));
        assert_eq!(control.next().await, (frames::TABLE_END, vec![1]));
        // Three bytes that it has, and two that it has not.
        let again = [&header(epoch, 0, echoed - 3, None)[..], b"789", b"ab"].concat();
        let (send, mut recv) = peer.stream(&again).await;
        expect(&mut recv, &[&header(epoch, 0, echoed, None)[..], b"ab"].concat()).await;
        echoed += 2;
        session.secret = claim.next_secret(&session.secret);
        let last = links.last().map_or(&session.peer, |(peer, ..)| peer);
        assert_eq!(soon("a close", last.closed()).await, (codes::REPLACED, String::new()));
        links.push((peer, control, send));
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn a_lost_answer_locks_nobody_out_and_older_secrets_do() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let oldest = session.secret;
    let _pipe = session.ten_bytes().await;
    let whole = table(1, 0, &[(0, 10)]);
    // Twice the answer is not read.
    let mut old = None;
    for epoch in [2, 3] {
        let unread = world
            .dial_and_say(|exporter| [session.resume(epoch, exporter), whole.clone()].concat())
            .await;
        // It was accepted.
        let last = old.as_ref().map_or(&session.peer, |(peer, _)| peer);
        assert_eq!(soon("a close", last.closed()).await, (codes::REPLACED, String::new()));
        old = Some(unread);
    }
    drop(old);
    // The third time it is, and then the new secret is used.
    for epoch in [4, 5] {
        let (peer, mut control) = world
            .dial_and_say(|exporter| [session.resume(epoch, exporter), whole.clone()].concat())
            .await;
        let claim = session.claim(epoch, peer.exporter());
        let answer = soon("an answer", control.wait_for(frames::RESUMED)).await;
        assert_eq!(answer[1..], claim.server_proof(&session.secret));
        session.secret = claim.next_secret(&session.secret);
    }
    session.secret = oldest;
    let (peer, _control) = world.dial_and_say(|exporter| session.resume(6, exporter)).await;
    let (code, reason) = soon("a refusal", peer.closed()).await;
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[4, 0][..]));
    world.all_is_well().await;
}

#[tokio::test]
async fn another_holder_takes_a_session_over_for_good() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let (second, mut control) = world
        .dial_and_say(|exporter| {
            let claim = Claim { holder: OTHER_HOLDER, ..session.claim(2, exporter) };
            let proof = claim.client_proof(&session.secret);
            [claim.resume(&proof), table(0, 0, &[])].concat()
        })
        .await;
    let closed = soon("the end of the first", session.peer.closed()).await;
    assert_eq!(closed, (codes::SUPERSEDED, String::new()));
    soon("an answer", control.wait_for(frames::TABLE_END)).await;
    // The first has the secret before the last change, and it is not for him.
    let (peer, _control) = world.dial_and_say(|exporter| session.resume(3, exporter)).await;
    let (code, reason) = soon("a refusal", peer.closed()).await;
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[6, 0][..]));
    let first = [&header(2, 0, 0, Some(b""))[..], b"mine"].concat();
    let (_send, mut recv) = second.stream(&first).await;
    expect(&mut recv, &[&header(2, 0, 0, None)[..], b"mine"].concat()).await;
    world.all_is_well().await;
}

#[tokio::test]
async fn a_session_is_bound_to_the_certificate_that_began_it() {
    let world = World::new().await;
    let identity = || Some(Identity::self_signed(&[]).unwrap());
    let owner = Dial { identity: identity(), ..Dial::default() };
    let session = RawSession::begin_as(&world, &owner).await;
    let mut pipe = session.ten_bytes().await;
    let owned = owner.identity.as_ref().map(Identity::fingerprint);
    assert_eq!(world.session(session.id).peer(), owned);
    for thief in [Dial::default(), Dial { identity: identity(), ..Dial::default() }] {
        let peer = thief.connect(world.addr).await.unwrap();
        let mut control = peer.open_control().await;
        let said = [session.resume(2, peer.exporter()), table(1, 0, &[(0, 10)])].concat();
        control.say(&said).await;
        let (code, reason) = soon("a refusal", peer.closed()).await;
        // WRONG_IDENTITY, no epoch, no words.
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[7, 0][..]));
        goes_on(&mut pipe).await;
    }
    // And the other way round: one that began without stays without.
    let anonymous = RawSession::begin(&world).await;
    for (dial, whose, refused) in [(&owner, &anonymous, true), (&owner, &session, false)] {
        let peer = dial.connect(world.addr).await.unwrap();
        let mut control = peer.open_control().await;
        let positions = if refused { &[][..] } else { &[(0, 22)] };
        let table = table(positions.len() as u64, 0, positions);
        control.say(&[whose.resume(2, peer.exporter()), table].concat()).await;
        if refused {
            let (code, reason) = soon("a refusal", peer.closed()).await;
            assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[7, 0][..]));
        } else {
            soon("an answer", control.wait_for(frames::RESUMED)).await;
        }
    }
    world.all_is_well().await;
}

/// Other systems have one address for this machine.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_guesses_proofs_is_barred_and_no_other_is() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let guess = session.claim(2, [0; 32]).resume(&[0; 32]);
    for _ in 0..21 {
        let (code, reason) = world.answer_to(&guess).await;
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[4, 0][..]));
    }
    let error = Peer::connect(world.addr).await.err().expect("barred");
    assert!(error.contains("refused"), "{error}");
    // Connections that are there already go on; others come in.
    goes_on(&mut pipe).await;
    let elsewhere = Dial { from: Ipv4Addr::new(127, 0, 0, 2), ..Dial::default() };
    RawSession::begin_as(&world, &elsewhere).await.settled().await;
    world.all_is_well().await;
}

// In a session.

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_in_its_session_ends_only_that() {
    let world = World::new().await;
    let ack = |entries: &[u64]| frame(frames::ACKS, &numbers(entries));
    let reset = |fields: &[u64]| frame(frames::RESET, &numbers(fields));
    let stop = |fields: &[u64]| frame(frames::STOP, &numbers(fields));
    let early: Vec<u8> = (1..=1025).flat_map(|index| reset(&[2 * index, 0, 0])).collect();
    let welcome = frame(frames::WELCOME, &[&[0; 48][..], raw::PARAMETERS].concat());
    // On the control stream. Ten bytes went to and fro on pipe c0.
    let control: Vec<(Vec<u8>, &str)> = vec![
        (ack(&[0, 0, 11]), "asked pipe c0 for offset 11, but only 10 bytes were ever written"),
        (ack(&[0, 0, 10, 0, 0, 5]), "asked pipe c0 for offset 5, but acknowledged 10 bytes before"),
        (ack(&[0, 1, 10]), "forgot pipe c0 before its end"),
        (ack(&[0, 2, 10]), "its field \"ack flags\" has a value without meaning"),
        (ack(&[8, 0, 0]), "named pipe c4, which was never opened"),
        (ack(&[1, 0, 5]), "named pipe s0, which was never opened"),
        (reset(&[1, 0, 0]), "named pipe s0, which was never opened"),
        (stop(&[1, 0, 0]), "named pipe s0, which was never opened"),
        (reset(&[0, 7, 9]), "ended pipe c0 at offset 9, below the 10 bytes read so far"),
        (stop(&[0, 7, 11]), "asked pipe c0 for offset 11, but only 10 bytes were ever written"),
        (stop(&[0, 1 << 32, 10]), "its field \"code\" has a value without meaning"),
        (early, "opened more pipes than the 1024 allowed"),
        ([reset(&[4000, 0, 0]), stop(&[4000, 0, 0])].concat(), "more pipes than the 1024 allowed"),
        (raw::hello(&HOLDER), "sent a HELLO frame where it has no place"),
        (welcome, "sent a WELCOME frame where it has no place"),
        (frame(frames::TABLE_HEAD, &[1, 0]), "sent a TABLE_HEAD frame where it has no place"),
        (vec![0x0c, 0], "sent a malformed frame: it ends in the middle of a field"),
        ([&[0x09][..], &two_to_the_60()].concat(), "claims 1152921504606846976 bytes"),
    ];
    // On a new stream.
    let long = [b'x'; 1025];
    let streams: Vec<(Vec<u8>, &str)> = vec![
        (header(1, 1, 0, Some(b"")), "named pipe s0, which was never opened"),
        (header(1, 2, 0, None), "named pipe c1, which was never opened"),
        (header(7, 2, 0, Some(b"")), "used epoch 7 on the connection of epoch 1"),
        (header(0, 2, 0, Some(b"")), "used epoch 0 on the connection of epoch 1"),
        (header(1, 0, 10, None), "opened a second stream for pipe c0 on one connection"),
        (header(1, 0, 0, Some(b"")), "opened a second stream for pipe c0 on one connection"),
        (
            header(1, 2, 9, Some(b"")),
            "continued pipe c1 at offset 9, beyond the 0 bytes read so far",
        ),
        (header(1, 2 * 2000, 0, Some(b"")), "opened more pipes than the 1024 allowed"),
        (header(1, (1 << 62) - 2, 0, Some(b"")), "opened more pipes than the 1024 allowed"),
        (header(1, 2, 0, Some(&long)), "it claims 1025 bytes, more than the 1024 allowed"),
        ([&[0x40][..], &two_to_the_60()].concat(), "claims 1152921504606846976 bytes"),
        (vec![0x77, 3, 1, 2, 0], "its field \"stream header kind\" has a value without meaning"),
        (vec![0x40, 1, 1], "sent a malformed frame: it ends in the middle of a field"),
    ];
    for (control, stream, complaint) in control
        .into_iter()
        .map(|(bytes, complaint)| (bytes, Vec::new(), complaint))
        .chain(streams.into_iter().map(|(bytes, complaint)| (Vec::new(), bytes, complaint)))
    {
        let mut session = RawSession::begin(&world).await;
        let _pipe = session.ten_bytes().await;
        session.control.say(&control).await;
        // Dropped, it would be reset, and its header lost.
        let _stream = session.peer.stream(&stream).await;
        let (code, reason) = soon("a close", session.peer.closed()).await;
        assert_eq!(code, codes::VIOLATION, "{complaint}");
        assert!(reason.contains(complaint), "{reason} is not {complaint}");
        match soon("the end of the session", world.session(session.id).closed()).await {
            SessionError::PeerMisbehaved(misbehaved) => assert_eq!(misbehaved.to_string(), reason),
            other => panic!("ended otherwise: {other}"),
        }
        world.all_is_well().await;
    }
    assert_eq!(world.server.stats().sessions, 1);
}

#[tokio::test]
async fn a_wrong_answer_on_the_servers_own_stream_is_named() {
    let world = World::new().await;
    for (answer, complaint) in [
        (header(9, 1, 0, None), "used epoch 9 on the connection of epoch 1"),
        (header(1, 3, 0, None), "named pipe s1, which was never opened"),
        (header(1, 1, 0, Some(b"")), "named pipe s0, which was never opened"),
        (header(1, 1, 5, None), "continued pipe s0 at offset 5, beyond the 0 bytes read so far"),
        (vec![0x77], "its field \"stream header kind\" has a value without meaning"),
    ] {
        let session = RawSession::begin(&world).await;
        let _pipe = session.peer.stream(&header(1, 0, 0, Some(b"call back"))).await;
        let called = soon("a call", session.peer.connection.accept_bi()).await;
        let (mut send, mut recv) = called.unwrap();
        expect(&mut recv, &header(1, 1, 0, Some(b"here"))).await;
        send.write_all(&answer).await.unwrap();
        let closed = soon("a close", session.peer.closed()).await;
        assert_eq!(closed.0, codes::VIOLATION, "{complaint}");
        assert!(closed.1.contains(complaint), "{} is not {complaint}", closed.1);
        world.all_is_well().await;
    }
}

#[tokio::test]
async fn what_may_grow_is_skipped() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    for skipped in [
        frame(0x99, &[1, 2, 3]),
        frame((1 << 62) - 1, &[7; 16 * 1024]),
        frame(frames::PONG, &raw::varint(200)),
        // Not the shortest form, and more than we know.
        vec![0x40, 0x0c, 0x80, 0, 0, 3, 7, 0xff, 0xff],
        // The end of a pipe whose stream may yet come.
        frame(frames::RESET, &[4, 0, 0]),
    ] {
        session.control.say(&skipped).await;
        session.settled().await;
        goes_on(&mut pipe).await;
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn a_peer_that_never_acknowledges_an_end_runs_out_of_pipes() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.max_pipes(4);
        config.session(session);
    })
    .await;
    let session = RawSession::begin(&world).await;
    // Twice as many as allowed, and 64, may overlap (P-10).
    let mut opened = 0;
    while session.peer.connection.close_reason().is_none() && opened <= 100 {
        let (mut send, mut recv) = session.peer.stream(&header(1, 2 * opened, 0, Some(b""))).await;
        let _ = send.finish();
        let answered = soon("an end", recv.read_to_end(100)).await;
        opened += u64::from(answered.is_ok());
    }
    assert_eq!(opened, 2 * 4 + 64);
    let closed = soon("a close", session.peer.closed()).await;
    assert_eq!(closed, (codes::VIOLATION, "opened more pipes than the 4 allowed".into()));
    world.all_is_well().await;
}

#[tokio::test]
async fn a_peer_may_open_as_many_streams_as_pipes_and_32_to_overlap() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.max_pipes(8).initial_streams(1);
        config.session(session);
    })
    .await;
    let mut session = RawSession::begin(&world).await;
    let mut held = Vec::new();
    for pipe in 0..8 {
        held.push(session.peer.stream(&header(1, 2 * pipe, 0, Some(b""))).await);
        // The server gives leave for more streams before it answers.
        session.settled().await;
    }
    while let Some(stream) = now(session.peer.connection.open_bi()).await {
        held.push(stream.unwrap());
        session.settled().await;
    }
    assert_eq!(held.len(), 8 + 32, "besides the control stream");
    world.all_is_well().await;
}

#[tokio::test]
async fn a_control_stream_that_ends_costs_the_connection_and_not_the_session() {
    let world = World::new().await;
    let mut sessions = Vec::new();
    for end in 0..3 {
        let mut session = RawSession::begin(&world).await;
        let pipe = session.ten_bytes().await;
        match end {
            0 => session.control.send.finish().unwrap(),
            1 => session.control.send.reset(VarInt::from_u32(0)).unwrap(),
            _ => {
                // In the middle of a frame.
                session.control.say(&[0x0c]).await;
                session.control.send.finish().unwrap();
            }
        }
        sessions.push((session, pipe));
    }
    for (session, _pipe) in sessions {
        let closed = soon("a close", session.peer.closed()).await;
        assert_eq!(closed.0, codes::DETACH);
        let (_peer, mut control) = world
            .dial_and_say(|exporter| {
                [session.resume(2, exporter), table(1, 0, &[(0, 10)])].concat()
            })
            .await;
        soon("an answer", control.wait_for(frames::TABLE_END)).await;
    }
    world.all_is_well().await;
}

/// In a process of its own: what is measured belongs to all of it.
#[test]
fn floods_do_not_fill_the_servers_memory() {
    const ALONE: &str = "EVERMUX_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(flood());
    }
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["floods_do_not_fill_the_servers_memory", "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
}

async fn flood() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.stream_window(256 * 1024);
        config.session(session);
    })
    .await;
    // It takes what is in flight only.
    let deaf = Dial { window: 64 * 1024, ..Dial::default() };
    RawSession::begin_as(&world, &deaf).await.settled().await;
    let before = resident();

    // Pings, with nobody who reads the pongs: held back by flow control.
    let mut session = RawSession::begin_as(&world, &deaf).await;
    let pings = frame(frames::PING, &[7]).repeat(4096);
    let mut said = 0;
    while let Ok(written) = {
        let write = session.control.send.write_all(&pings);
        tokio::time::timeout(Duration::from_millis(500), write).await
    } {
        written.unwrap();
        said += pings.len();
        assert!(said < 8 << 20, "nothing holds the flood back");
    }
    world.all_is_well().await;

    // Pipes that are given up, in both directions, before they are heard of.
    let mut churn = RawSession::begin_as(&world, &deaf).await;
    for index in 0..5_000 {
        let ends =
            [frames::RESET, frames::STOP].map(|kind| frame(kind, &numbers(&[2 * index, 0, 0])));
        churn.control.say(&ends.concat()).await;
        if index % 500 == 0 {
            churn.settled().await;
        }
    }
    churn.settled().await;
    assert_eq!(world.session(churn.id).stats().pipes, 0);

    // Streams that are given up before their header is whole; and frames, one in
    // each of many connections, that are never whole.
    for _ in 0..5_000 {
        let (mut send, _recv) = churn.peer.stream(&[0x40]).await;
        let _ = send.reset(VarInt::from_u32(0));
    }
    churn.settled().await;
    let mut truncated = Vec::new();
    for _ in 0..50 {
        let whole = frame(0x99, &[0; 16 * 1024]);
        let connection = world.dial_and_say(|_| whole[..whole.len() - 1].to_vec()).await;
        truncated.push(connection);
    }
    world.all_is_well().await;
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 << 20, "grown by {grown} bytes");
    }
}

/// The memory of this process in bytes, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

// Servers.

#[tokio::test]
async fn a_server_of_another_protocol_is_named_as_such() {
    let server = RawServer::new(b"h3");
    let (connected, accepted) = tokio::join!(connect(server.addr, server.pin), server.accept());
    assert_eq!(connected.unwrap_err(), DialError::Tls(TlsError::WrongProtocol).into());
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_server_that_never_answers_hello_is_not_waited_for_for_ever() {
    let server = RawServer::new(raw::ALPN);
    let silent = async { server.accept().await.unwrap().closed().await };
    let (connected, closed) =
        soon("an error", async { tokio::join!(connect(server.addr, server.pin), silent) }).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::TimedOut { .. })), "{error}");
    assert_eq!(closed.0, codes::DETACH);
}

#[tokio::test]
async fn a_server_that_answers_hello_with_nonsense_is_told_so() {
    for (answer, misbehaved) in [
        (frame(frames::WELCOME, &[1, 2, 3]), DecodeError::Truncated.into()),
        (
            [&[0x02][..], &two_to_the_60()].concat(),
            DecodeError::TooLong { claimed: 1 << 60, allowed: 16 * 1024 }.into(),
        ),
        (frame(frames::PONG, &[1]), PeerMisbehaved::UnexpectedFrame { frame: "PONG" }),
        (raw::hello(&HOLDER), PeerMisbehaved::UnexpectedFrame { frame: "HELLO" }),
    ] {
        let server = RawServer::new(raw::ALPN);
        let nonsense = async {
            let peer = server.accept().await.unwrap();
            let mut control = peer.accept_control().await;
            control.say(&answer).await;
            peer.closed().await
        };
        let (connected, (code, reason)) =
            soon("an error", async { tokio::join!(connect(server.addr, server.pin), nonsense) })
                .await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(&misbehaved.to_string()), "{reason} is not {misbehaved}");
        assert_eq!(connected.unwrap_err(), misbehaved.into());
    }
}

const SECRET: [u8; 32] = [0x22; 32];

/// A client's session with a raw server: ten bytes are written on pipe c0, then
/// the server asks for another connection.
async fn detached_by(server: &RawServer) -> (Session, BackedPipe) {
    let begin = async {
        let peer = server.accept().await.unwrap();
        let mut control = peer.accept_control().await;
        control.wait_for(frames::HELLO).await;
        let welcome = [&[0x11; 16][..], &SECRET, raw::PARAMETERS].concat();
        control.say(&frame(frames::WELCOME, &welcome)).await;
        (peer, control)
    };
    let (connected, (peer, _control)) =
        soon("a session", async { tokio::join!(connect(server.addr, server.pin), begin) }).await;
    let session = connected.unwrap();
    let mut pipe = session.open_pipe("").unwrap();
    pipe.write_all(b"0123456789").await.unwrap();
    peer.close(codes::DETACH, b"");
    (session, pipe)
}

/// The client comes back: its `RESUME`, whose proof is checked, and its table.
async fn comes_back(server: &RawServer) -> (Peer, Control, Claim) {
    let peer = soon("a client", server.accept()).await.unwrap();
    let mut control = peer.accept_control().await;
    let resume = soon("a resume", control.wait_for(frames::RESUME)).await;
    let (session, mut rest) = resume.split_at(16);
    let epoch = raw::take_varint(&mut rest).unwrap();
    let (session, holder) = (session.try_into().unwrap(), rest[..16].try_into().unwrap());
    let claim = Claim { session, epoch, holder, exporter: peer.exporter() };
    assert_eq!(rest[16..], claim.client_proof(&SECRET));
    control.wait_for(frames::TABLE_END).await;
    (peer, control, claim)
}

fn resumed(epoch: u64, proof: &[u8; 32]) -> Vec<u8> {
    frame(frames::RESUMED, &[&raw::varint(epoch)[..], proof].concat())
}

#[tokio::test]
async fn a_server_that_cannot_prove_itself_or_lies_about_offsets_ends_the_session() {
    let right = |claim: &Claim| resumed(claim.epoch, &claim.server_proof(&SECRET));
    type Answer<'a> = &'a dyn Fn(&Claim) -> Vec<u8>;
    let pipe = first_pipe_of(Side::Client);
    let cases: [(Answer<'_>, &str); 7] = [
        (&|claim| resumed(claim.epoch, &[0; 32]), "did not prove that it holds this session"),
        (
            // The client's own proof, reflected.
            &|claim| resumed(claim.epoch, &claim.client_proof(&SECRET)),
            "did not prove that it holds this session",
        ),
        (
            &|claim| resumed(1, &claim.server_proof(&SECRET)),
            "used epoch 1 on the connection of epoch 2",
        ),
        (&|_| table(0, 1, &[(0, 10)]), "sent a TABLE_HEAD frame where it has no place"),
        (
            &|claim| [right(claim), table(0, 1, &[(0, 11)])].concat(),
            "asked pipe c0 for offset 11, but only 10 bytes were ever written",
        ),
        (
            &|claim| [right(claim), table(0, 2, &[(0, 10)])].concat(),
            "sent a TABLE_HEAD frame where it has no place",
        ),
        (&|claim| [right(claim), table(0, 1, &[])].concat(), "forgot pipe c0 before its end"),
    ];
    for (answer, complaint) in cases {
        let server = RawServer::new(raw::ALPN);
        let (session, _pipe) = detached_by(&server).await;
        let (peer, mut control, claim) = comes_back(&server).await;
        control.say(&answer(&claim)).await;
        let closed = soon("a close", peer.closed()).await;
        assert_eq!(closed, (codes::VIOLATION, complaint.into()));
        match soon("the end of the session", session.closed()).await {
            SessionError::PeerMisbehaved(misbehaved) => {
                assert_eq!(misbehaved.to_string(), complaint);
            }
            other => panic!("ended otherwise: {other}"),
        }
    }
    assert_eq!(pipe.to_string(), "c0");
}

#[tokio::test]
async fn a_server_that_does_not_answer_a_resume_is_asked_again_above_the_epoch() {
    let server = RawServer::new(raw::ALPN);
    let (session, mut pipe) = detached_by(&server).await;
    let (silent, _control, first) = comes_back(&server).await;
    assert_eq!(soon("the end of patience", silent.closed()).await.0, codes::DETACH);
    // A refusal that names a later epoch is heeded.
    let (busy, _control, second) = comes_back(&server).await;
    assert!(second.epoch > first.epoch);
    busy.close(codes::REFUSED, &numbers(&[5, 70]));
    let (peer, mut control, third) = comes_back(&server).await;
    assert_eq!(third.epoch, 71);
    let answer = resumed(third.epoch, &third.server_proof(&SECRET));
    control.say(&[answer, table(0, 1, &[(0, 4)])].concat()).await;
    let (mut send, mut recv) = soon("a stream", peer.connection.accept_bi()).await.unwrap();
    expect(&mut recv, &[&header(71, 0, 4, None)[..], b"456789"].concat()).await;
    send.write_all(&[&header(71, 0, 0, None)[..], b"thanks"].concat()).await.unwrap();
    let mut answer = [0; 6];
    soon("an answer", pipe.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"thanks");
    assert!(matches!(session.link(), LinkState::Attached { .. }));
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_session_says_so_once() {
    let server = RawServer::new(raw::ALPN);
    let (session, _pipe) = detached_by(&server).await;
    let (peer, _control, _) = comes_back(&server).await;
    peer.close(codes::REFUSED, &[3, 0]);
    let ended = soon("the end of the session", session.closed()).await;
    assert_eq!(ended, SessionError::UnknownSession);
}
