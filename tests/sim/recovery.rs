//! How long it takes until bytes flow again, once the network is back: for each
//! fault and each kind of traffic, at several moments.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use evermux::{
    BackedPipe, BackedReader, BackedWriter, Client, LinkState, Server, Session, SessionConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{BOTH_WAYS, Conditions, Gate, Network, Way};
use crate::world::{self, World};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// The bar: what is allowed on top of two round trips.
const GRACE: Duration = Duration::from_millis(50);

/// How long it takes to notice that nobody answers.
const NOTICE: Duration = Duration::from_millis(1_200);

/// What goes on when the network goes away.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    /// Nothing; a byte is written the moment that the network is back.
    Idle,
    /// A few bytes every 5 ms, from the client.
    Keys,
    /// The client writes as fast as it can.
    Upload,
    /// The server does.
    Download,
}

/// How it goes away.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing gets through, for so many seconds.
    Outage(u64),
    /// Nothing gets through in one way.
    OneWay(Way, u64),
    /// The NAT forgets everything: other addresses, at once.
    Nat,
    /// The NAT forgets everything and is away for so many seconds.
    Reboot(u64),
    /// Nothing gets through for so many seconds, and then only what comes from new
    /// sockets.
    Block(u64),
    /// Nothing gets through for so many seconds, and then only new connections.
    Cut(u64),
}

impl Fault {
    async fn strike(self, network: &Network) {
        let (ways, seconds): (&[Way], u64) = match &self {
            Self::Outage(seconds)
            | Self::Reboot(seconds)
            | Self::Block(seconds)
            | Self::Cut(seconds) => (&BOTH_WAYS, *seconds),
            Self::OneWay(Way::Up, seconds) => (&[Way::Up], *seconds),
            Self::OneWay(Way::Down, seconds) => (&[Way::Down], *seconds),
            Self::Nat => (&[], 0),
        };
        ways.iter().for_each(|way| network.set_gate(1, *way, Gate::Closed));
        match self {
            Self::Block(_) => network.set_gate_of_sockets(1, Gate::Closed),
            Self::Cut(_) => network.set_gate_of_connections(1, Gate::Closed),
            _ => {}
        }
        if matches!(self, Self::Nat | Self::Reboot(_)) {
            network.renumber(1, false);
        }
        if seconds > 0 {
            sleep(Duration::from_secs(seconds)).await;
        }
        ways.iter().for_each(|way| network.set_gate(1, *way, Gate::Open));
    }
}

/// When bytes were read.
#[derive(Clone, Default)]
struct Reads(Arc<Mutex<Vec<Instant>>>);

async fn write(mut writer: BackedWriter, traffic: Traffic) {
    let (len, rest) = match traffic {
        Traffic::Idle => return std::future::pending().await,
        Traffic::Keys => (8, Duration::from_millis(5)),
        Traffic::Upload | Traffic::Download => (64 * 1024, Duration::ZERO),
    };
    let chunk = vec![7; len];
    while writer.write_all(&chunk).await.is_ok() {
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
}

async fn read(mut reader: BackedReader, reads: Reads) {
    while let Ok(Some(_)) = reader.read_chunk(1 << 20).await {
        reads.0.lock().unwrap().push(Instant::now());
    }
}

/// Both sides of a session on a road with [`ROUND_TRIP`].
struct Pair {
    ours: Session,
    theirs: Session,
    playing: JoinSet<()>,
    /// The client's or the server's, if nobody writes yet.
    writer: Option<BackedWriter>,
    _roles: (Client, Server),
}

impl Pair {
    async fn with(world: &World, config: SessionConfig) -> Self {
        let road = Conditions { latency: ROUND_TRIP / 2, ..Conditions::default() };
        world.network.pave(1, road, road);
        let server = world.server(config.clone(), |_| {});
        let client = world.client(1, config, |_| {});
        let (ours, theirs) = world.session(&client, &server).await;
        let playing = JoinSet::new();
        Self { ours, theirs, playing, writer: None, _roles: (client, server) }
    }

    async fn pipe(&self) -> (BackedPipe, BackedPipe) {
        let ours = self.ours.open_pipe("").expect("the first");
        let theirs = self.theirs.accept_pipe().await.expect("it comes").expect("a pipe");
        (ours, theirs)
    }

    /// A pair between which there is `traffic`.
    async fn playing(world: &World, traffic: Traffic) -> (Self, Reads) {
        let mut pair = Self::with(world, SessionConfig::default()).await;
        let (pipe, accepted) = pair.pipe().await;
        let ((up_reader, up_writer), (down_reader, down_writer)) =
            (accepted.into_split(), pipe.into_split());
        let reads = Reads::default();
        let (reader, writer, other) = match traffic {
            Traffic::Download => (down_reader, up_writer, (up_reader, down_writer)),
            _ => (up_reader, down_writer, (down_reader, up_writer)),
        };
        pair.playing.spawn(read(reader, reads.clone()));
        if matches!(traffic, Traffic::Idle) {
            pair.writer = Some(writer);
        } else {
            pair.playing.spawn(write(writer, traffic));
        }
        pair.playing.spawn(async move {
            // Held, so that nothing is reset.
            let _other = other;
            std::future::pending().await
        });
        (pair, reads)
    }

    async fn end(self) {
        drop(self.playing);
        // Bytes may have come early. Without a connection only the linger time would
        // tell the server that this is the end.
        self.ours.attached().await.expect("it is back");
        self.ours.close(evermux::CloseCode::DONE, b"");
        tokio::join!(self.ours.closed(), self.theirs.closed());
    }
}

/// How long after the end of the fault the first byte was read.
async fn recover(world: World, traffic: Traffic, fault: Fault, phase: u64) -> Duration {
    let (mut pair, reads) = Pair::playing(&world, traffic).await;
    sleep(Duration::from_millis(3_000 + phase * 37)).await;
    fault.strike(&world.network).await;
    let back = Instant::now();
    if let Some(writer) = &mut pair.writer {
        writer.write_all(b"now").await.expect("room for it");
    }
    let first = async {
        loop {
            let last = reads.0.lock().unwrap().last().copied();
            if let Some(last) = last.filter(|last| *last > back) {
                return last - back;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let first = timeout(Duration::from_secs(200), first).await.unwrap_or(Duration::MAX);
    pair.end().await;
    first
}

struct Row(Traffic, Fault, Vec<Duration>);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(traffic, fault, took) = self;
        let [least, median, most] =
            [0, took.len() / 2, took.len() - 1].map(|i| took[i].as_millis());
        write!(f, "{traffic:?} {fault:?}: {median} ms ({least}..{most})")
    }
}

#[test]
fn bytes_flow_again_soon_after_the_network_is_back() {
    let mut slow = Vec::new();
    for fault in [
        Fault::Outage(3),
        Fault::Outage(20),
        Fault::Outage(75),
        Fault::OneWay(Way::Up, 20),
        Fault::OneWay(Way::Down, 20),
        Fault::Nat,
        Fault::Reboot(40),
        Fault::Block(3),
        Fault::Block(20),
        Fault::Block(75),
    ] {
        for traffic in [Traffic::Idle, Traffic::Keys, Traffic::Upload, Traffic::Download] {
            let mut took: Vec<Duration> = (0..3)
                .map(|phase| {
                    let play = |world| recover(world, traffic, fault, phase);
                    world::run(phase, false, play).result.expect("it ends well")
                })
                .collect();
            took.sort();
            let row = Row(traffic, fault, took);
            println!("{row}");
            // The path is dead, and nobody has asked while the network was away: that
            // nobody answers must be noticed first.
            let unasked = matches!((traffic, fault), (Traffic::Idle, Fault::Block(3)));
            let notice = if unasked { NOTICE } else { Duration::ZERO };
            if row.2.last() > Some(&(notice + GRACE + 2 * ROUND_TRIP)) {
                slow.push(row.to_string());
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

/// The longest time without a byte for the reader, from now on, while the sessions'
/// links are handed over.
async fn longest_gap(reads: &Reads, during: impl Future<Output = ()>) -> Duration {
    let before = reads.0.lock().unwrap().len() - 1;
    during.await;
    sleep(Duration::from_secs(1)).await;
    let reads = reads.0.lock().unwrap();
    reads[before..].windows(2).map(|pair| pair[1] - pair[0]).max().expect("several reads")
}

#[test]
fn a_handover_stalls_keys_for_less_than_a_round_trip_and_bulk_for_little_more() {
    for traffic in [Traffic::Keys, Traffic::Upload, Traffic::Download] {
        let play = |world: World| async move {
            let (pair, reads) = Pair::playing(&world, traffic).await;
            sleep(Duration::from_secs(3)).await;
            // Bulk fills the queue: a round trip takes longer than an empty road.
            let rtt = pair
                .ours
                .stats()
                .rtt
                .expect("attached")
                .max(pair.theirs.stats().rtt.expect("attached"));
            let hand_over = async {
                pair.ours.handover().await.expect("the server is there");
            };
            let gap = longest_gap(&reads, hand_over).await;
            pair.end().await;
            (gap, rtt)
        };
        let (gap, rtt) = world::run(0, false, play).result.expect("it ends well");
        println!("{traffic:?}, handed over: {gap:?} without a byte, round trip {rtt:?}");
        let bar = if matches!(traffic, Traffic::Keys) { ROUND_TRIP / 2 } else { 2 * rtt };
        assert!(gap < bar, "{traffic:?}: {gap:?}, {bar:?} allowed");
    }
}

/// What little is owed goes along with the claim, and with the answer.
#[test]
fn the_first_bytes_after_a_resume_come_up_after_one_and_a_half_round_trips_and_down_after_two() {
    let resume = |most: u64| {
        let play = |world: World| async move {
            let mut config = SessionConfig::default();
            config.optimistic_replay(most);
            let pair = Pair::with(&world, config).await;
            let (mut up, mut down) = pair.pipe().await;
            sleep(Duration::from_secs(3)).await;
            BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Closed));
            up.write_all(b"owed up").await.expect("room for it");
            down.write_all(b"owed down").await.expect("room for it");
            sleep(Duration::from_millis(100)).await;
            BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Open));
            let begun = Instant::now();
            let reconnect = async {
                pair.ours.reconnect().await.expect("the server is there");
            };
            let read = |mut pipe: BackedPipe, len: usize| async move {
                let mut buf = vec![0; len];
                pipe.read_exact(&mut buf).await.expect("it comes");
                (begun.elapsed(), pipe)
            };
            let ((), (to_client, up), (to_server, down)) =
                tokio::join!(reconnect, read(up, 9), read(down, 7));
            drop((up, down));
            pair.end().await;
            [to_server, to_client]
        };
        world::run(0, false, play).result.expect("it ends well")
    };
    let in_trips = |took: Duration| took.as_secs_f64() / ROUND_TRIP.as_secs_f64();
    let [along, waiting] = [64 << 10, 0].map(|most| resume(most).map(in_trips));
    println!("round trips to the first byte up and down: {along:.2?}, without: {waiting:.2?}");
    assert!(along[0] < 1.6 && along[1] < 2.1, "{along:?}");
    // What the server owes waits for nothing of the client's.
    assert!(waiting[0] > 2.4 && waiting[1] < 2.1, "{waiting:?}: it would make no difference");
}

/// A new connection is dialled again and again while nobody answers: by QUIC, which
/// doubles its intervals, and from a fresh socket, at first four times a second, then
/// once.
#[test]
fn where_only_a_new_connection_gets_through_the_next_dial_is_not_far() {
    for (seconds, dials) in [(3, 250), (20, 1_000), (75, 1_000)] {
        let fault = Fault::Cut(seconds);
        let bar = Duration::from_millis(dials) + GRACE + 3 * ROUND_TRIP;
        for traffic in [Traffic::Keys, Traffic::Upload, Traffic::Download] {
            let mut took: Vec<Duration> = (0..12)
                .map(|phase| {
                    let play = |world| recover(world, traffic, fault, phase * 3);
                    world::run(phase, false, play).result.expect("it ends well")
                })
                .collect();
            took.sort();
            let row = Row(traffic, fault, took);
            println!("{row}");
            assert!(row.2.last() <= Some(&bar), "{row}: {bar:?} allowed");
        }
    }
}

/// The acks that the server repeats with its own packets are no sign of life.
#[test]
fn that_nothing_goes_up_is_noticed_as_soon_as_that_nothing_comes_down() {
    for traffic in [Traffic::Keys, Traffic::Upload, Traffic::Download] {
        let noticed = BOTH_WAYS.map(|way| {
            let play = |world: World| async move {
                let (pair, _reads) = Pair::playing(&world, traffic).await;
                sleep(Duration::from_secs(3)).await;
                world.network.set_gate(1, way, Gate::Closed);
                let away = Instant::now();
                let suspect = async {
                    while matches!(pair.ours.link(), LinkState::Attached { .. }) {
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                timeout(Duration::from_secs(10), suspect).await.expect("it is noticed");
                let noticed = away.elapsed();
                world.network.set_gate(1, way, Gate::Open);
                pair.end().await;
                noticed
            };
            world::run(0, false, play).result.expect("it ends well")
        });
        println!("{traffic:?}: noticed after {noticed:?} (up, down)");
        assert!(noticed[0] < noticed[1] + 2 * ROUND_TRIP, "{traffic:?}: {noticed:?}");
    }
}
