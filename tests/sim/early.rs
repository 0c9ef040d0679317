//! What is said before a handshake is complete (0-RTT).

use std::time::Duration;

use evermux::{
    BackedReader, BackedWriter, Client, CloseCode, Epoch, Server, Session, SessionConfig,
    SessionError,
};
use tokio::time::{Instant, sleep, timeout};

use crate::network::{BOTH_WAYS, Conditions, Gate, SERVER, Way};
use crate::raw::{Claim, frames, hello};
use crate::world::{self, World};

const HOST: u8 = 1;

const HOLDER: [u8; 16] = [0xaa; 16];

/// Shorter than the time that a server waits for a handshake.
const A_WHILE: Duration = Duration::from_secs(5);

fn play<F: Future<Output = ()>>(play: impl FnOnce(World) -> F) {
    world::run(0, false, play).result.expect("it ends well");
}

/// P-37. A repetition comes as far as this: the server hears it, and whoever has
/// repeated it cannot answer what the server says.
#[test]
fn hello_and_resume_are_not_acted_on_before_the_handshake_is_complete() {
    play(|world| async move {
        world.network.pave(HOST, Conditions::default(), Conditions::default());
        let server = world.server(SessionConfig::default(), |_| {});
        let first = world.raw_client(HOST).await;
        let mut control = first.open_control().await;
        control.say(&hello(&HOLDER)).await;
        let session = server.accept().await.expect("it listens").accept();
        control.wait_for(frames::WELCOME).await;
        let claim = Claim {
            session: *session.id().as_bytes(),
            epoch: 2,
            holder: HOLDER,
            exporter: [0; 32],
        };
        for said in [hello(&HOLDER), claim.resume(&[0; 32])] {
            sleep(A_WHILE).await;
            world.network.set_gate(HOST, Way::Down, Gate::Closed);
            let (peer, accepted) = first.dial_again(SERVER);
            let mut control = peer.open_control().await;
            control.say(&said).await;
            let refused = server.stats().refused;
            assert!(timeout(A_WHILE, server.accept()).await.is_err(), "a session is begun");
            assert_eq!(server.stats().refused, refused, "a proof is looked at");
            world.network.set_gate(HOST, Way::Down, Gate::Open);
            assert!(accepted.await, "it was heard all the time");
            // Now it is.
            let begun = timeout(A_WHILE, server.accept()).await;
            let begun = begun.map(|incoming| incoming.expect("it listens").refuse("enough"));
            assert!(begun.is_ok() || server.stats().refused == refused + 1);
            peer.closed().await;
        }
        session.close(CloseCode::DONE, b"");
        session.closed().await;
        server.shutdown(A_WHILE).await;
    });
}

/// What goes ahead of the answer to a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    Nothing,
    /// What little the client owes, along with its claim.
    Replay,
    /// The same, along with the first packet of the handshake.
    EarlyData,
}

impl Ahead {
    /// How many round trips after the dial the first byte may come, in halves.
    fn bar(self, way: Way) -> u32 {
        match (self, way) {
            (Self::Nothing, Way::Up) => 5,
            (Self::Nothing, Way::Down) => 6,
            (Self::Replay, Way::Up) => 3,
            (Self::Replay, Way::Down) => 4,
            (Self::EarlyData, Way::Up) => 1,
            (Self::EarlyData, Way::Down) => 2,
        }
    }
}

/// Both ends of a session and of one pipe.
struct Ends {
    ours: Session,
    theirs: Session,
    up: (BackedWriter, BackedReader),
    down: (BackedWriter, BackedReader),
    _roles: (Client, Server),
}

impl Ends {
    /// A byte has gone each way and was acknowledged.
    async fn new(world: &World, round_trip: Duration, ahead: Ahead) -> Self {
        let road = Conditions { latency: round_trip / 2, ..Conditions::default() };
        world.network.pave(HOST, road, road);
        let mut config = SessionConfig::default();
        if ahead == Ahead::Nothing {
            config.optimistic_replay(0);
        }
        let server = world.server(config.clone(), |config| {
            config.early_data(ahead != Ahead::Replay);
        });
        // Either side can switch it off.
        let client = world.client(HOST, config, |config| {
            config.early_data(ahead != Ahead::Nothing);
        });
        let (ours, theirs) = world.session(&client, &server).await;
        let pipe = ours.open_pipe("").expect("the first");
        let accepted = theirs.accept_pipe().await.expect("it comes").expect("a pipe");
        let ((our_reader, our_writer), (their_reader, their_writer)) =
            (pipe.into_split(), accepted.into_split());
        let (up, down) = ((our_writer, their_reader), (their_writer, our_reader));
        let mut ends = Self { ours, theirs, up, down, _roles: (client, server) };
        for way in BOTH_WAYS {
            ends.write(way, b"x").await;
            assert_eq!(ends.read(way).await, b"x");
            ends.lane(way).0.wait_acked(1).await.expect("attached");
        }
        // The connection of today is of no use any more.
        world.network.set_gate_of_connections(HOST, Gate::Closed);
        ends
    }

    fn lane(&mut self, way: Way) -> &mut (BackedWriter, BackedReader) {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    async fn write(&mut self, way: Way, bytes: &[u8]) {
        self.lane(way).0.write_all(bytes).await.expect("room for it");
    }

    async fn read(&mut self, way: Way) -> Vec<u8> {
        let chunk = self.lane(way).1.read_chunk(1 << 16).await;
        chunk.expect("it comes").expect("no end").to_vec()
    }

    /// The client makes itself another connection, which it has by the time that
    /// the session's link tells.
    async fn dial(&self) {
        let _ = timeout(Duration::ZERO, self.ours.reconnect()).await;
    }

    /// It is back, for the first time, and both ways work.
    async fn end(mut self) {
        self.ours.attached().await.expect("it is back");
        for way in BOTH_WAYS {
            self.write(way, b"more").await;
            assert_eq!(self.read(way).await, b"more");
            let (writer, _) = self.lane(way);
            writer.wait_acked(writer.offset()).await.expect("attached");
        }
        assert_eq!((self.ours.stats().resumes, self.theirs.stats().resumes), (1, 1));
        assert_eq!(self.ours.stats().epoch, self.theirs.stats().epoch);
        self.ours.close(CloseCode::DONE, b"");
        tokio::join!(self.ours.closed(), self.theirs.closed());
    }
}

/// How long after the dial the application on the other side reads what was owed to
/// it when the last connection was lost.
async fn resume(world: World, round_trip: Duration, ahead: Ahead, way: Way) -> Duration {
    let mut ends = Ends::new(&world, round_trip, ahead).await;
    ends.write(way, b"owed").await;
    let dialled = Instant::now();
    ends.dial().await;
    assert_eq!(ends.read(way).await, b"owed");
    let took = dialled.elapsed();
    ends.end().await;
    took
}

/// The server hears the client, who hears nothing: this may be a repetition by
/// whoever has recorded it.
#[test]
fn an_early_flight_alone_brings_its_bytes_and_changes_nothing_else() {
    play(|world| async move {
        let mut ends = Ends::new(&world, Duration::from_millis(20), Ahead::EarlyData).await;
        world.network.set_gate(HOST, Way::Down, Gate::Closed);
        ends.write(Way::Up, b"owed").await;
        ends.dial().await;
        assert_eq!(ends.read(Way::Up).await, b"owed");
        sleep(Duration::from_millis(900)).await;
        let stats = ends.theirs.stats();
        assert_eq!((stats.epoch, stats.resumes), (Epoch::FIRST, 0));
        assert!(ends.theirs.link().is_attached(), "fenced");
        world.network.set_gate(HOST, Way::Down, Gate::Open);
        ends.end().await;
    });
}

/// Each time that the client is told to, it dials with an early flight, with all that is
/// owed. What is heard first when answers come through again is not always the last.
#[test]
fn of_early_flights_that_race_one_goes_on_and_no_byte_comes_twice() {
    // All within an attempt: at its end a resume may be answered that is given up already.
    for moment in 0..20 {
        let dialling = Duration::from_millis(200 + moment * 211);
        play(|world| async move {
            let mut ends = Ends::new(&world, Duration::from_millis(60), Ahead::EarlyData).await;
            world.network.set_gate(HOST, Way::Down, Gate::Closed);
            ends.write(Way::Up, b"owed").await;
            ends.write(Way::Down, b"to the client").await;
            ends.dial().await;
            assert_eq!(ends.read(Way::Up).await, b"owed");
            for more in [" and", " more"] {
                sleep(dialling / 3).await;
                ends.write(Way::Up, more.as_bytes()).await;
                ends.dial().await;
                assert_eq!(ends.read(Way::Up).await, more.as_bytes());
            }
            sleep(dialling / 3).await;
            world.network.set_gate(HOST, Way::Down, Gate::Open);
            assert_eq!(ends.read(Way::Down).await, b"to the client");
            ends.end().await;
        });
    }
}

/// A round trip before the answer to the resume.
#[test]
fn who_closes_as_soon_as_early_bytes_are_there_is_heard() {
    for delay in [0, 10, 30, 59] {
        play(|world| async move {
            let mut ends = Ends::new(&world, Duration::from_millis(60), Ahead::EarlyData).await;
            ends.write(Way::Down, b"that is all").await;
            ends.dial().await;
            assert_eq!(ends.read(Way::Down).await, b"that is all");
            assert!(!ends.ours.link().is_attached(), "it came with the answer to the resume");
            sleep(Duration::from_millis(delay)).await;
            ends.ours.close(CloseCode::DONE, b"thanks");
            let heard = timeout(A_WHILE, ends.theirs.closed()).await.expect("soon");
            let SessionError::PeerClosed { reason, .. } = heard else { panic!("{heard}") };
            assert_eq!(reason[..], b"thanks"[..]);
            ends.ours.closed().await;
        });
    }
}

/// Each ticket is good once, and during a long silence one dial after another goes
/// unheard: those take none of the last tickets.
#[test]
fn tickets_outlast_a_long_silence() {
    play(|world| async move {
        let round_trip = Duration::from_millis(60);
        let mut ends = Ends::new(&world, round_trip, Ahead::EarlyData).await;
        BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(HOST, way, Gate::Closed));
        while ends.ours.link().is_attached() || ends.theirs.link().is_attached() {
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(600)).await;
        for way in BOTH_WAYS {
            ends.write(way, b"owed").await;
        }
        BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(HOST, way, Gate::Open));
        // The dials of before are let go of.
        world.network.set_gate_of_sockets(HOST, Gate::Closed);
        ends.ours.network_changed();
        assert_eq!(ends.read(Way::Up).await, b"owed");
        assert_eq!(ends.theirs.stats().resumes, 0, "it came along with the resume");
        assert_eq!(ends.read(Way::Down).await, b"owed");
        ends.end().await;
    });
}

#[test]
fn what_little_is_owed_is_there_half_a_round_trip_after_the_dial_with_early_data() {
    for ahead in [Ahead::Nothing, Ahead::Replay, Ahead::EarlyData] {
        for way in BOTH_WAYS {
            for round_trip in [20, 100, 300].map(Duration::from_millis) {
                let play = |world| resume(world, round_trip, ahead, way);
                let took = world::run(0, false, play).result.expect("it ends well");
                let trips = took.as_secs_f64() / round_trip.as_secs_f64();
                println!("{ahead:?} {way:?}, {round_trip:?}: {took:?}, {trips:.2} round trips");
                // Timers fire on whole milliseconds, on the way there as on the way back.
                let tick = Duration::from_millis(1);
                let bar = (round_trip / 2 + tick) * ahead.bar(way) + 2 * tick;
                assert!(took <= bar, "{ahead:?} {way:?}: {took:?}");
            }
        }
    }
}
