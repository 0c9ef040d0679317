//! What bulk does to a small exchange in the same session.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evermux::{BackedPipe, CloseCode, CongestionControl, Session, SessionConfig};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::congestion::{HOST, Path, echo, read, write};
use crate::network::{BOTH_WAYS, Way};
use crate::world::{self, World};

/// Pipes in bulk, in each way.
const BULK: usize = 8;

/// Round trips of a small exchange, sorted.
struct Trips(Vec<Duration>);

impl Trips {
    fn percentile(&self, part: usize) -> Duration {
        self.0[(self.0.len() - 1) * part / 100]
    }
}

impl fmt::Display for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [50, 99].map(|part| self.percentile(part).as_millis());
        write!(f, "{p50} / {p99} ms")
    }
}

/// Exchanges 64 bytes every 50 ms for as long as `lasting`.
async fn exchange(pipe: &mut BackedPipe, lasting: Duration) -> Trips {
    let (begun, mut trips) = (Instant::now(), Vec::new());
    while begun.elapsed() < lasting {
        let asked = Instant::now();
        pipe.writer().write_all(&[7; 64]).await.expect("a live session");
        pipe.reader().read_exact(&mut [0; 64]).await.expect("a live session");
        trips.push(asked.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    trips.sort();
    Trips(trips)
}

/// A pipe from `from` to `to`, as both have it.
async fn pipe(from: &Session, to: &Session) -> [BackedPipe; 2] {
    let ours = from.open_pipe("").expect("few are open");
    [ours, to.accept_pipe().await.expect("a live session").expect("a pipe")]
}

/// What came of it.
struct Outcome {
    idle: Trips,
    beside: Trips,
    /// MiB in a second, of all bulk together.
    bulk: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {} | {:.2}", self.idle, self.beside, self.bulk)
    }
}

/// The exchange alone, and then beside bulk in these ways.
async fn share(world: World, path: Path, ways: &'static [Way], lasting: Duration) -> Outcome {
    world.network.pave(HOST, path.conditions(), path.conditions());
    let server = world.server(SessionConfig::default(), |_| {});
    let client = world.client(HOST, SessionConfig::default(), |_| {});
    let (near, far) = world.session(&client, &server).await;
    let mut playing = JoinSet::new();
    let [mut asking, answering] = pipe(&near, &far).await;
    let (reader, writer) = answering.into_split();
    playing.spawn(echo(reader, writer));
    let idle = exchange(&mut asking, Duration::from_secs(2)).await;
    let count = Arc::default();
    for way in ways {
        let (from, to) = match way {
            Way::Up => (&near, &far),
            Way::Down => (&far, &near),
        };
        for _ in 0..BULK {
            let [sender, receiver] = pipe(from, to).await;
            playing.spawn(write(sender.into_split().1));
            playing.spawn(read(receiver.into_split().0, Arc::clone(&count)));
        }
    }
    // Slow start is over by then.
    sleep(Duration::from_secs(3)).await;
    let before = count.load(Ordering::Relaxed);
    let beside = exchange(&mut asking, lasting).await;
    let bytes = count.load(Ordering::Relaxed) - before;
    for session in [&near, &far] {
        session.close(CloseCode::DONE, b"");
        session.closed().await;
    }
    playing.shutdown().await;
    let bulk = bytes as f64 / lasting.as_secs_f64() / 1_048_576.0;
    Outcome { idle, beside, bulk }
}

fn run(path: Path, ways: &'static [Way], lasting: Duration) -> Outcome {
    world::run(1, false, |world| share(world, path, ways, lasting)).result.expect("it ends well")
}

/// With a queue of so many tenths of a round trip.
fn link(queue: u64) -> Path {
    Path { mbits: 20, round_trip: Duration::from_millis(40), queue, loss: 0 }
}

/// MiB in a second that a link carries at most.
const FULL: f64 = 20e6 / 8.0 / 1_048_576.0;

#[test]
fn a_small_exchange_beside_bulk_takes_less_than_three_times_as_long() {
    println!("| path | bulk | alone, p50 / p99 | beside it | bulk, MiB/s |");
    println!("|---|---|---|---|---|");
    for queue in [5, 10, 20, 50] {
        for ways in [&[Way::Up][..], &[Way::Down], &BOTH_WAYS] {
            let (path, name) = (link(queue), ways.iter().map(|way| format!("{way:?}")));
            let outcome = run(path, ways, Duration::from_secs(20));
            println!("| {path} | {} | {outcome} |", name.collect::<Vec<_>>().join(", "));
            let idle = outcome.idle.percentile(50);
            assert!(outcome.beside.percentile(50) < idle * 2, "{path} {ways:?}: {outcome}");
            assert!(outcome.beside.percentile(99) < idle * 3, "{path} {ways:?}: {outcome}");
            // It is not by sending much less.
            let full = FULL * ways.len() as f64;
            assert!(outcome.bulk > full * 0.7, "{path} {ways:?}: {outcome}");
        }
    }
}

/// The shortest round trip is looked for in the last minute or two, so the queue must be
/// empty now and then, or what is left of it would be taken for none.
#[test]
#[ignore = "takes a minute"]
fn the_queue_stays_short_for_half_an_hour() {
    let outcome = run(link(50), &[Way::Up], Duration::from_secs(1800));
    println!("{outcome}");
    assert!(outcome.beside.percentile(99) < outcome.idle.percentile(50) * 2, "{outcome}");
}

/// The queue may be another's: then there is nothing to be gained by stepping back.
#[test]
fn bulk_with_a_small_exchange_keeps_a_share_beside_a_cubic_flow() {
    for queue in [10, 50] {
        let play = |world| beside_another(world, link(queue), Duration::from_secs(120));
        let share = world::run(1, false, play).result.expect("it ends well");
        println!("{}: {:.0} %", link(queue), share * 100.0);
        assert!(share > 0.25, "{}: {share}", link(queue));
    }
}

/// What part of the path bulk in a session with a small exchange has, beside one upload
/// with CUBIC in another session, in the second half of `lasting`.
async fn beside_another(world: World, path: Path, lasting: Duration) -> f64 {
    world.network.pave(HOST, path.conditions(), path.conditions());
    let server = world.server(SessionConfig::default(), |_| {});
    let (mut playing, mut sessions, mut counts) = (JoinSet::new(), Vec::new(), Vec::new());
    let mut cubic = SessionConfig::default();
    cubic.congestion(CongestionControl::Cubic);
    for settings in [SessionConfig::default(), cubic] {
        let client = world.client(HOST, settings, |_| {});
        let (near, far) = world.session(&client, &server).await;
        if sessions.is_empty() {
            let [mut asking, answering] = pipe(&near, &far).await;
            let (reader, writer) = answering.into_split();
            playing.spawn(echo(reader, writer));
            playing.spawn(async move { drop(exchange(&mut asking, lasting * 2).await) });
        }
        let [sender, receiver] = pipe(&near, &far).await;
        let count = Arc::new(AtomicU64::new(0));
        playing.spawn(write(sender.into_split().1));
        playing.spawn(read(receiver.into_split().0, Arc::clone(&count)));
        counts.push(count);
        sessions.extend([near, far]);
    }
    sleep(lasting / 2).await;
    let so_far = || [0, 1].map(|flow: usize| counts[flow].load(Ordering::Relaxed));
    let before = so_far();
    sleep(lasting / 2).await;
    let after = so_far();
    playing.shutdown().await;
    for session in sessions {
        session.close(CloseCode::DONE, b"");
        session.closed().await;
    }
    let [ours, other] = [0, 1].map(|flow: usize| (after[flow] - before[flow]) as f64);
    ours / (ours + other)
}
