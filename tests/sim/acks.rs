//! What acks of the session cost, beside the packets of what they acknowledge, and what
//! is kept for the lack of them.
//!
//! ```text
//! cargo test --release --test sim cost_of_acks -- --nocapture
//! ```
//!
//! For another interval, change `ACK_EVERY_MAX` (`src/proto/recv.rs`).

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use evermux::{CloseCode, Session, SessionConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::congestion::{HOST, Path, read, write};
use crate::world::{self, World};

thread_local! {
    /// Frames of acks that were sent on this thread, by what the crate logs.
    static SENT: Cell<u64> = const { Cell::new(0) };
}

/// Counts them, on every thread. (A subscriber of one thread would hear nothing if another
/// one, without any, was the first to log such a line.)
struct AckFrames;

impl AckFrames {
    fn count() {
        static COUNTING: Once = Once::new();
        COUNTING.call_once(|| {
            tracing::subscriber::set_global_default(Self).expect("nobody else listens");
            // What was logged by others until now.
            tracing::callsite::rebuild_interest_cache();
        });
    }
}

impl tracing::Subscriber for AckFrames {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "evermux::control"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        if said.acks && said.sent {
            SENT.set(SENT.get() + 1);
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A line in the log.
#[derive(Default)]
struct Said {
    acks: bool,
    sent: bool,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.acks |= field.name() == "frame" && value == "ACKS";
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.sent |= field.name() == "message" && format!("{value:?}") == "send";
    }
}

/// What is not urgent waits for so long (protocol P-21).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// How long is looked at, once slow start is over.
const LOOK: Duration = Duration::from_secs(10);

/// What acks cost while an upload goes on.
struct Cost {
    /// Of the upload, in a second.
    mib: f64,
    /// In a second: of QUIC, in both ways, and frames of acks.
    packets: f64,
    frames: f64,
    /// For replay, on average.
    kept: u64,
    /// Once more, in a resume.
    replayed: u64,
}

impl Cost {
    /// In percent, if each frame has a packet to itself.
    fn share(&self) -> f64 {
        self.frames * 100.0 / self.packets
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mib, packets, frames, .. } = self;
        let share = self.share();
        let [kept, replayed] = [self.kept, self.replayed].map(|bytes| bytes / 1024);
        write!(f, "{mib:.2} | {packets:.0} | {frames:.1} | {share:.2} | {kept} | {replayed}")
    }
}

/// An upload in so many pipes.
async fn upload(world: World, path: Path, pipes: usize) -> Cost {
    world.network.pave(HOST, path.conditions(), path.conditions());
    let server = world.server(SessionConfig::default(), |_| {});
    let client = world.client(HOST, SessionConfig::default(), |_| {});
    let (near, far) = world.session(&client, &server).await;
    let (mut playing, count) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    let mut held = Vec::new();
    for _ in 0..pipes {
        let (near_reader, writer) = near.open_pipe("").expect("few are open").into_split();
        playing.spawn(write(writer));
        let pipe = far.accept_pipe().await.expect("a live session").expect("a pipe");
        let (reader, far_writer) = pipe.into_split();
        playing.spawn(read(reader, count.clone()));
        held.push((near_reader, far_writer));
    }
    sleep(LOOK / 2).await;
    let so_far = || [count.load(Ordering::Relaxed), world.network.counts().0, SENT.get()];
    let (before, kept) = (so_far(), mean_kept(&near).await);
    let after = so_far();
    let [bytes, packets, frames] =
        [0, 1, 2].map(|of: usize| (after[of] - before[of]) as f64 / LOOK.as_secs_f64());
    near.reconnect().await.expect("a live session");
    sleep(LOOK).await;
    let replayed = near.stats().bytes_replayed;
    for session in [&near, &far] {
        session.close(CloseCode::DONE, b"");
        session.closed().await;
    }
    playing.shutdown().await;
    Cost { mib: bytes / 1_048_576.0, packets, frames, kept, replayed }
}

/// What `session` keeps for replay, on average, for as long as is looked.
async fn mean_kept(session: &Session) -> u64 {
    /// Not in step with anything.
    const STEP: Duration = Duration::from_millis(7);
    let steps = LOOK.as_millis() / STEP.as_millis();
    let mut sum = 0;
    for _ in 0..steps {
        sum += session.stats().bytes_kept;
        sleep(STEP).await;
    }
    sum / steps as u64
}

/// Opens a pipe, writes a few bytes and the end, and reads to the end of what comes back.
async fn exchange(near: Session) {
    let (mut reader, mut writer) = near.open_pipe("").expect("room for one").into_split();
    writer.write_all(b"a question").await.expect("a live session");
    writer.finish();
    while reader.read_chunk(100).await.expect("a live session").is_some() {}
}

/// Sends back what comes on each pipe.
async fn serve(far: Session) {
    let mut serving = JoinSet::new();
    while let Ok(Some(pipe)) = far.accept_pipe().await {
        let (mut reader, mut writer) = pipe.into_split();
        serving.spawn(async move {
            while let Ok(Some(mut bytes)) = reader.read_chunk(100).await {
                writer.write_chunk(&mut bytes).await.expect("a live session");
            }
            writer.finish();
        });
    }
}

const ROUND_TRIP: Duration = Duration::from_millis(10);

/// A session with an echo at its far end.
async fn served(world: &World, max_pipes: u64) -> (Session, JoinSet<()>) {
    let path = Path { mbits: 100, round_trip: ROUND_TRIP, queue: 10, loss: 0 };
    world.network.pave(HOST, path.conditions(), path.conditions());
    let mut config = SessionConfig::default();
    config.max_pipes(max_pipes);
    let server = world.server(config.clone(), |_| {});
    let client = world.client(HOST, config, |_| {});
    let (near, far) = world.session(&client, &server).await;
    let mut serving = JoinSet::new();
    serving.spawn(serve(far));
    serving.spawn(async move {
        let _roles = (client, server);
        std::future::pending().await
    });
    (near, serving)
}

async fn leave(near: Session, mut serving: JoinSet<()>) {
    near.close(CloseCode::DONE, b"");
    near.closed().await;
    serving.join_next().await.expect("the server").expect("no panic");
    serving.shutdown().await;
}

#[test]
fn ends_of_many_pipes_are_acknowledged_together() {
    AckFrames::count();
    const PIPES: u64 = 500;
    let play = |world: World| async move {
        let (near, serving) = served(&world, 1024).await;
        let (mut exchanges, before) = (JoinSet::new(), SENT.get());
        for _ in 0..PIPES {
            exchanges.spawn(exchange(near.clone()));
            sleep(Duration::from_millis(1)).await;
        }
        exchanges.join_all().await;
        while near.stats().pipes > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let frames = SENT.get() - before;
        leave(near, serving).await;
        frames
    };
    let frames = world::run(1, false, play).result.expect("it ends well");
    println!("{frames} frames of acks for {PIPES} pipes");
    // A batch each 25 ms, on each side.
    assert!(frames <= 2 * (PIPES / 25 + 10), "{frames}");
}

#[test]
fn the_end_of_one_pipe_is_acknowledged_at_once_also_where_there_may_be_no_other() {
    for (max_pipes, pause) in [(1024, ACK_DELAY), (1, Duration::ZERO)] {
        let play = |world: World| async move {
            let (near, serving) = served(&world, max_pipes).await;
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                sleep(pause).await;
                let begun = Instant::now();
                exchange(near.clone()).await;
                while near.stats().pipes > 0 {
                    sleep(Duration::from_millis(1)).await;
                }
                slowest = slowest.max(begun.elapsed());
            }
            leave(near, serving).await;
            slowest
        };
        let slowest = world::run(1, false, play).result.expect("it ends well");
        println!("{max_pipes} pipes at most: one is done after {slowest:?}");
        assert!(slowest < ROUND_TRIP + ACK_DELAY / 2, "{slowest:?}");
    }
}

#[test]
fn who_shuts_down_has_acknowledged_what_it_has_read_to_the_end() {
    let play = |world: World| async move {
        let path = Path { mbits: 100, round_trip: ROUND_TRIP, queue: 10, loss: 0 };
        world.network.pave(HOST, path.conditions(), path.conditions());
        let server = world.server(SessionConfig::default(), |_| {});
        let client = world.client(HOST, SessionConfig::default(), |_| {});
        let (near, far) = world.session(&client, &server).await;
        let mut kept = Vec::new();
        for _ in 0..3 {
            let mut near = near.open_pipe("").expect("room for one");
            let mut far = far.accept_pipe().await.expect("a live session").expect("a pipe");
            near.writer().write_all(b"all").await.expect("a live session");
            near.writer().finish();
            while far.reader().read_chunk(100).await.expect("a live session").is_some() {}
            kept.push(near);
        }
        // The first end was told at once, the others wait for more company.
        let acked = async {
            for pipe in &mut kept {
                pipe.writer().wait_acked(3).await.expect("everything was read");
            }
        };
        let ((), shut) = tokio::join!(acked, far.shutdown());
        shut.expect("nothing was written");
        near.closed().await;
    };
    world::run(1, false, play).result.expect("it ends well");
}

#[test]
fn the_cost_of_acks_is_below_a_hundredth_of_the_packets_in_bulk() {
    AckFrames::count();
    println!(
        "| path | pipes | MiB/s | packets/s | frames of acks/s | % | kept, KiB | replayed, KiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for mbits in [1, 10, 100] {
        for pipes in [1, 100] {
            let path = Path { mbits, round_trip: Duration::from_millis(40), queue: 10, loss: 0 };
            let play = |world| upload(world, path, pipes);
            let cost = world::run(1, false, play).result.expect("it ends well");
            println!("| {path} | {pipes} | {cost} |");
            assert!(cost.frames > 0.0);
            assert!(cost.share() < 1.0 || mbits < 100, "{path}, {pipes} pipes: {cost}");
        }
    }
}
