//! How long it takes until bytes flow again, once the network is back: for each
//! fault and each kind of traffic, at several moments.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use evermux::{BackedReader, BackedWriter, SessionConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{BOTH_WAYS, Conditions, Gate, Network, Way};
use crate::world::{self, World};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// The bar: what is allowed on top of two round trips.
const GRACE: Duration = Duration::from_millis(50);

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
}

impl Fault {
    async fn strike(self, network: &Network) {
        let (ways, seconds): (&[Way], u64) = match &self {
            Self::Outage(seconds) | Self::Reboot(seconds) => (&BOTH_WAYS, *seconds),
            Self::OneWay(Way::Up, seconds) => (&[Way::Up], *seconds),
            Self::OneWay(Way::Down, seconds) => (&[Way::Down], *seconds),
            Self::Nat => (&[], 0),
        };
        ways.iter().for_each(|way| network.set_gate(1, *way, Gate::Closed));
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

/// How long after the end of the fault the first byte was read.
async fn recover(world: World, traffic: Traffic, fault: Fault, phase: u64) -> Duration {
    let road = Conditions { latency: ROUND_TRIP / 2, ..Conditions::default() };
    world.network.pave(1, road, road);
    let server = world.server(SessionConfig::default(), |_| {});
    let client = world.client(1, SessionConfig::default(), |_| {});
    let (ours, theirs) = world.session(&client, &server).await;
    let pipe = ours.open_pipe("").expect("the first");
    let accepted = theirs.accept_pipe().await.expect("it comes").expect("a pipe");
    let ((up_reader, up_writer), (down_reader, down_writer)) =
        (accepted.into_split(), pipe.into_split());
    let (reads, mut playing) = (Reads::default(), JoinSet::new());
    let (reader, mut writer) = match traffic {
        Traffic::Download => (down_reader, Some(up_writer)),
        _ => (up_reader, Some(down_writer)),
    };
    playing.spawn(read(reader, reads.clone()));
    if !matches!(traffic, Traffic::Idle) {
        playing.spawn(write(writer.take().expect("one"), traffic));
    }
    sleep(Duration::from_millis(3_000 + phase * 37)).await;
    fault.strike(&world.network).await;
    let back = Instant::now();
    if let Some(writer) = &mut writer {
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
    drop(playing);
    ours.close(evermux::CloseCode::DONE, b"");
    let _ = tokio::join!(ours.closed(), theirs.closed());
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
            if row.2.last() > Some(&(GRACE + 2 * ROUND_TRIP)) {
                slow.push(row.to_string());
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}
