//! Others who want the session: 9 and 10.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, net::SocketAddr};

use evermux::simulation::{Socket, World as Outside};
use evermux::{CloseCode, Epoch, LinkState, ReadError, SessionError, Side, WriteError};
use tokio::time::{Instant, sleep, timeout};
use tokio::{join, try_join};

use super::actors::End;
use super::stage::{HOST, INSTANT, Stage, at_every_moment};
use crate::network::{Conditions, Gate, Plug, SERVER, host_addr};
use crate::raw::{Claim, Control, Peer, codes, frame, frames, table};
use crate::world::{self, World};

/// Where the intruder is: at the server's door, so that what he says is there at
/// the moment when he says it.
const NEXT_DOOR: u8 = 2;

/// There and back from there: each delivery waits for the clock's next millisecond.
const AT_ONCE: Duration = Duration::from_millis(5);

const HOLDER: [u8; 16] = [0xbb; 16];

/// What the server's `REFUSED` says to who is not to be told any epoch.
const BAD_PROOF: &[u8] = &[4, 0];
const SUPERSEDED: &[u8] = &[6, 0];

/// Above all that the client comes to: nothing but his secret tells whether he is late.
const HIS_EPOCH: u64 = 9;

/// Who says nothing for so long has stopped: a client that would come back tries
/// several times.
const LONG: Duration = Duration::from_secs(20);

fn pave_next_door(world: &World) {
    let near = Conditions { latency: Duration::ZERO, ..Conditions::default() };
    world.network.pave(NEXT_DOOR, near, near);
}

/// Somebody with a connection of his own, on which nothing was said yet.
struct Intruder {
    peer: Peer,
    control: Control,
}

impl Intruder {
    async fn new(world: &World) -> Self {
        pave_next_door(world);
        let peer = world.raw_client(NEXT_DOOR).await;
        let control = peer.open_control().await;
        // QUIC's own first words are over.
        sleep(Duration::from_secs(1)).await;
        Self { peer, control }
    }

    /// Says these bytes; `Err` is what he is refused with.
    async fn resume(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.control.say(bytes).await;
        tokio::select! {
            biased;
            (code, reason) = self.peer.closed() => {
                assert_eq!(code, codes::REFUSED);
                Err(reason)
            }
            _ = self.control.wait_for(frames::RESUMED) => Ok(()),
        }
    }

    /// The server takes him for the client.
    async fn is_attached(&mut self) {
        self.control.say(&frame(frames::PING, &[9])).await;
        while self.control.wait_for(frames::PONG).await != [9] {}
    }
}

/// A world whose random bytes somebody overhears: the secrets of servers in it.
#[derive(Debug)]
struct Overheard {
    plug: Plug,
    secret: Arc<Mutex<[u8; 32]>>,
}

impl Outside for Overheard {
    fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Socket>> {
        self.plug.bind(local)
    }

    fn random(&self, bytes: &mut [u8]) {
        self.plug.random(bytes);
        if let Ok(secret) = <[u8; 32]>::try_from(&*bytes) {
            *self.secret.lock().unwrap() = secret;
        }
    }
}

/// Bytes in both directions, between two who do not know how the session ends.
async fn talk(end: &mut End, bytes: u64) -> Result<(), SessionError> {
    let up_to = end.reader.half.offset() + bytes;
    let write = async {
        end.writer.write(bytes).await.map_err(|error| match error {
            WriteError::Session(error) => error,
            other => panic!("{other}"),
        })
    };
    let read = async {
        end.reader.read_to(up_to).await.map_err(|error| match error {
            ReadError::Session(error) => error,
            other => panic!("{other}"),
        })
    };
    try_join!(write, read).map(drop)
}

/// The client's connection is cut off, and its first claim is good: nobody else has
/// used up its secret or an epoch.
async fn comes_back_at_once(stage: &Stage) {
    let [ours, theirs] = [&stage.ours, &stage.theirs].map(|session| session.stats());
    assert_eq!(ours.epoch, theirs.epoch);
    stage.cut().await;
    stage.resumed_again().await;
    stage.one_connection(ours.epoch).await;
    let stats = stage.theirs.stats();
    let expected = (theirs.epoch.get() + 1, theirs.resumes + 1);
    assert_eq!((stats.epoch.get(), stats.resumes), expected);
}

#[test]
fn situation_09_of_two_holders_of_a_token_one_wins_and_the_other_stops() {
    let kinds = ["he takes a live connection over", "he is back first", "his token is outdated"];
    at_every_moment("a token that leaked", 0.., &kinds, |world, moment| async move {
        let secret = Arc::default();
        let overheard =
            Overheard { plug: Plug(world.network.clone()), secret: Arc::clone(&secret) };
        let stage = Stage::with(&world, world::quick(), |config| {
            config.simulate(Arc::new(overheard));
        });
        let mut stage = stage.await;
        let secret = *secret.lock().unwrap();
        let (mut one, mut two) = stage.pipe(Side::Client).await;
        let mut intruder = Intruder::new(&world).await;

        let acts = async {
            let before = join!(talk(&mut one, 5_000), talk(&mut two, 5_000));
            stage.cut().await;
            let after = join!(talk(&mut one, 5_000), talk(&mut two, 5_000));
            // Early data may have brought all that before the client is back.
            let is_over = || matches!(stage.ours.link(), LinkState::Closed { .. });
            stage.until(|| stage.resumes() > 0 || is_over()).await;
            [before.0.and(after.0), before.1.and(after.1)]
        };
        let strike = async {
            let was = [stage.ours.link().is_attached(), stage.theirs.stats().resumes == 0];
            // Nobody can tell him from the client but by his holder id.
            let resume = |intruder: &Intruder| {
                let claim = Claim {
                    session: *stage.ours.id().as_bytes(),
                    epoch: HIS_EPOCH,
                    holder: HOLDER,
                    exporter: intruder.peer.exporter(),
                };
                let read = stage.ours.pipes().first().map_or(0, |pipe| pipe.stats.read);
                [claim.resume(&claim.client_proof(&secret)), table(1, 0, &[(0, read)])].concat()
            };
            let winner = || (stage.theirs.link().is_attached(), stage.theirs.stats().epoch);
            let before = winner();
            let said = resume(&intruder);
            match (intruder.resume(&said).await, was) {
                (Ok(()), [attached, true]) => {
                    let told = stage.ours.closed().await;
                    assert!(matches!(told, SessionError::Superseded { .. }), "{told}");
                    let home = host_addr(HOST);
                    let sockets = || world.network.open_sockets();
                    stage.until(|| sockets().iter().all(|socket| socket.ip() != home)).await;
                    let more = world.network.delivered(HOST, 1);
                    assert!(timeout(LONG, more).await.is_err(), "it does not stop");
                    intruder.is_attached().await;
                    let stats = stage.theirs.stats();
                    assert_eq!((stats.epoch.get(), stats.resumes), (HIS_EPOCH, 1));
                    stage.theirs.close(CloseCode::DONE, b"");
                    kinds[usize::from(!attached)]
                }
                (Err(refusal), [_, false]) => {
                    assert_eq!(refusal.as_bytes(), SUPERSEDED);
                    // To say it again makes it no better.
                    let mut again = Intruder::new(&world).await;
                    let said = resume(&again);
                    let refusal = again.resume(&said).await.expect_err("it is outdated");
                    assert_eq!(refusal.as_bytes(), SUPERSEDED);
                    assert_eq!(winner(), before, "the winner is disturbed");
                    kinds[2]
                }
                (outcome, was) => panic!("{outcome:?}, {was:?} before"),
            }
        };
        let (ends, kind) = stage.during(moment, acts, strike).await;
        drop(intruder);
        if kind.is_none_or(|kind| kind == kinds[2]) {
            assert_eq!(ends, [Ok(()), Ok(())]);
            stage.one_connection(Epoch::FIRST).await;
            assert_eq!(stage.resumes(), 1);
            comes_back_at_once(&stage).await;
            join!(one.exchange(0), two.exchange(0));
            stage.end().await;
        } else {
            // Unless he was there first, early data may have brought what was owed.
            let early = moment > 0;
            let [ours, theirs] = ends;
            let superseded = matches!(ours, Err(SessionError::Superseded { .. }));
            assert!(superseded || early && ours == Ok(()), "{ours:?}");
            let closed = matches!(theirs, Err(SessionError::LocallyClosed { .. }));
            assert!(closed || early && theirs == Ok(()), "{theirs:?}");
            stage.nothing_left().await;
        }
        kind
    });
}

/// The control stream of a resume, frame by frame: the client meets somebody whom it
/// takes for its server. He answers nothing.
async fn capture_a_resume(stage: &Stage) -> Vec<Vec<u8>> {
    let network = &stage.world.network;
    let away = network.unplug(SERVER.ip());
    let thief = stage.world.thief();
    let _ = timeout(Duration::ZERO, stage.ours.reconnect()).await;
    let peer = thief.accept().await.expect("the client");
    let mut control = peer.accept_control().await;
    let mut captured = Vec::new();
    loop {
        let (kind, payload) = control.next().await;
        captured.push(frame(kind, &payload));
        if kind == frames::TABLE_END {
            break;
        }
    }
    drop(network.unplug(SERVER.ip()));
    network.plug_in(away);
    captured
}

#[test]
fn situation_10_a_captured_resume_is_refused_and_disturbs_nothing() {
    for knows in [false, true] {
        let first = if knows { "detached" } else { "attached, so far as the server knows" };
        let kinds = [first, "the real resume is under way", "attached again"];
        let case = format!("the server knows that the client is away: {knows}");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let (mut one, mut two) = stage.pipe(Side::Client).await;
            one.writer.write(5_000).await.unwrap();
            two.writer.write(5_000).await.unwrap();
            one.reader.read_to(1_000).await.unwrap();
            let mut intruder = Intruder::new(&world).await;
            let captured = capture_a_resume(&stage).await;
            // Nobody waits for the table of who has proved nothing.
            let captured = if moment % 2 == 0 { captured.concat() } else { captured[0].clone() };
            if knows {
                let _ = timeout(INSTANT, stage.theirs.reconnect()).await;
            }

            let acts = async {
                join!(one.exchange(5_000), two.exchange(5_000));
            };
            let replay = async {
                let attached = stage.theirs.link().is_attached();
                let kind = match (moment, stage.ours.link().is_attached()) {
                    (0, _) => kinds[0],
                    (_, false) => kinds[1],
                    (_, true) => kinds[2],
                };
                assert!(attached != knows || moment > 0, "{:?}", stage.theirs);
                let before = (stage.server.stats(), intruder.peer.connection.stats());
                let epoch = stage.theirs.stats().epoch;
                let said_at = Instant::now();
                let refused = intruder.resume(&captured).await.expect_err("it is not his");
                assert!(said_at.elapsed() <= AT_ONCE, "after {:?}", said_at.elapsed());
                let after = (stage.server.stats(), intruder.peer.connection.stats());
                assert_eq!(refused.as_bytes(), BAD_PROOF);
                assert!(stage.theirs.link().is_attached() || !attached, "fenced");
                assert_eq!(after.0.refused, before.0.refused + 1);
                if moment == 0 {
                    // And nobody else does anything.
                    assert_eq!(stage.theirs.stats().epoch, epoch);
                    assert_eq!(after.0.detached, before.0.detached);
                }
                let [asked, answered] = [
                    after.1.udp_tx.bytes - before.1.udp_tx.bytes,
                    after.1.udp_rx.bytes - before.1.udp_rx.bytes,
                ];
                assert!(answered < asked, "{asked} bytes were answered with {answered}");
                kind
            };
            let ((), kind) = stage.during(moment, acts, replay).await;
            drop(intruder);
            stage.one_connection(Epoch::FIRST).await;
            assert_eq!((stage.resumes(), stage.theirs.stats().resumes), (1, 1));
            comes_back_at_once(&stage).await;
            stage.end().await;
            kind
        });
    }
}

/// So many wrong proofs are forgiven to one address within a while.
const FORGIVEN: u64 = 20;

#[test]
fn situation_10_who_goes_on_replaying_is_not_even_greeted_any_more() {
    at_every_moment("again and again", 0..1, &["shut out"], |world, _| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(Side::Client).await;
        one.writer.write(5_000).await.unwrap();
        let captured = capture_a_resume(&stage).await.concat();
        // The client stays away until he is done.
        stage.part().await;
        let before = stage.server.stats().refused;
        pave_next_door(&world);
        let mut shut_out = 0;
        for _ in 0..2 * FORGIVEN {
            match world.try_raw_client(NEXT_DOOR).await {
                Ok(peer) => {
                    let control = peer.open_control().await;
                    let mut intruder = Intruder { peer, control };
                    let refused = intruder.resume(&captured).await.expect_err("it is not his");
                    assert_eq!((refused.as_bytes(), shut_out), (BAD_PROOF, 0));
                }
                Err(_) => shut_out += 1,
            }
        }
        let greeted = stage.server.stats().refused - before;
        assert_eq!((greeted, shut_out), (FORGIVEN + 1, FORGIVEN - 1));
        stage.set_gates(Gate::Open);
        stage.resumed_again().await;
        join!(one.exchange(5_000), two.exchange(5_000));
        stage.end().await;
        Some("shut out")
    });
}
