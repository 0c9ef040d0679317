//! What the pipes of a session cost that nobody uses, when it is resumed.

use std::time::Duration;

use evermux::{BackedPipe, CloseCode, Session, Side};
use tokio::time::{Instant, sleep};

use crate::network::Conditions;
use crate::seeds;
use crate::world::{self, World};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// Headers of IP and UDP of each datagram.
const HEADERS: u64 = 28;

/// Timers fire on whole milliseconds.
const GRACE: Duration = Duration::from_millis(4);

/// By then everything is said that a resume gives rise to, and no probe is due.
const SAID: Duration = Duration::from_millis(600);

/// Pipes whose resume must cost little more than that of one pipe.
const PIPES: u64 = 1000;

/// What each of them has carried in each direction: more than fits a varint of two
/// bytes.
const CARRIED: usize = 20_000;

/// What a resume costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// From the dial on, until the session is attached on both sides.
    attached: Duration,
    /// Until a byte that was written then has come back on the last pipe.
    echoed: Duration,
    /// In both ways, on the wire.
    bytes: u64,
}

impl Cost {
    /// Of a session with so many pipes, half of them opened by each side, each of
    /// which has carried so many bytes in each direction.
    fn of(pipes: u64, carried: usize) -> Self {
        let play = |world: World| async move { Self::measure(&world, pipes, carried).await };
        world::run(0, false, play).result.expect("it ends well")
    }

    async fn measure(world: &World, pipes: u64, carried: usize) -> Self {
        let road = Conditions { latency: ROUND_TRIP / 2, ..Conditions::default() };
        world.network.pave(1, road, road);
        let mut config = world::quick();
        config.max_pipes(pipes.max(1)).probe_interval(Duration::from_secs(60));
        // Not for want of streams are they left asleep.
        config.initial_streams(pipes.max(64));
        let server = world.server(config.clone(), |_| {});
        let client = world.client(1, config, |_| {});
        let (ours, theirs) = world.session(&client, &server).await;
        let mut ends = Vec::new();
        for index in 0..pipes {
            let opener = if index % 2 == 0 { Side::Client } else { Side::Server };
            ends.push(used_pipe(opener, &ours, &theirs, carried).await);
        }
        // The probes that follow traffic are over.
        sleep(Duration::from_secs(60)).await;

        let (began, before) = (Instant::now(), (world.network.bytes(), world.network.counts().0));
        ours.reconnect().await.expect("a live session");
        while !theirs.link().is_attached() {
            sleep(Duration::from_millis(1)).await;
        }
        let attached = began.elapsed();
        sleep_until_said(began).await;
        let bytes = world.network.bytes() - before.0;
        let datagrams = world.network.counts().0 - before.1;
        let used = Instant::now();
        let (near, far) = ends.last_mut().expect("one pipe at least");
        carry(near, far, 1).await;
        carry(far, near, 1).await;
        let echoed = used.elapsed();
        drop(ends);
        ours.close(CloseCode::DONE, b"");
        tokio::join!(ours.closed(), theirs.closed());
        Self { attached, echoed, bytes: bytes + HEADERS * datagrams }
    }
}

async fn sleep_until_said(began: Instant) {
    tokio::time::sleep_until(began + SAID).await;
}

/// The client's end first.
async fn used_pipe(
    opener: Side,
    ours: &Session,
    theirs: &Session,
    carried: usize,
) -> (BackedPipe, BackedPipe) {
    let (from, to) = if opener == Side::Client { (ours, theirs) } else { (theirs, ours) };
    let mut one = from.open_pipe("").expect("room for a pipe");
    let mut two = to.accept_pipe().await.expect("a live session").expect("a pipe");
    carry(&mut one, &mut two, carried).await;
    carry(&mut two, &mut one, carried).await;
    if opener == Side::Client { (one, two) } else { (two, one) }
}

async fn carry(from: &mut BackedPipe, to: &mut BackedPipe, bytes: usize) {
    let content = vec![7; bytes];
    let write = async { from.writer().write_all(&content).await.expect("a live session") };
    let read = async {
        let (mut left, mut buf) = (bytes, vec![0; 64 * 1024]);
        while left > 0 {
            left -= to.reader().read(&mut buf).await.expect("a live session").expect("bytes");
        }
    };
    tokio::join!(write, read);
}

/// With `EVERMUX_SIM_PIPES` it is measured for more of them.
#[test]
fn a_resume_with_a_thousand_idle_pipes_costs_little_more_than_with_one() {
    let more = seeds::from_env("EVERMUX_SIM_PIPES");
    let [one, _, many, ..] = [1, 100, PIPES]
        .into_iter()
        .chain(more)
        .map(|pipes| {
            let cost = Cost::of(pipes, CARRIED);
            println!("{pipes} pipes: {cost:?}");
            cost
        })
        .collect::<Vec<_>>()[..]
    else {
        unreachable!("three at least")
    };
    assert!(many.attached <= one.attached + ROUND_TRIP);
    assert!(many.bytes <= one.bytes + 16 * 1024);
    for cost in [one, many] {
        // The first use opens a stream, which takes no round trip of its own.
        assert!(cost.echoed <= ROUND_TRIP + GRACE, "{:?}", cost.echoed);
    }
}
