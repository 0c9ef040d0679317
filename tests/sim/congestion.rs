//! What each congestion control makes of a path, alone and beside a CUBIC flow, and
//! what it does to a small exchange that shares the path with it.
//!
//! ```text
//! cargo test --release --test sim matrix_of_congestion -- --ignored --nocapture
//! ```
//!
//! prints the whole matrix, in a quarter of an hour; with
//! `EVERMUX_MATRIX="10 Mbit/s, 40 ms"` the rows that begin so. All flows are uploads from one host,
//! so that they share one queue; losses by chance come on top, in both ways.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evermux::{BackedReader, BackedWriter, CloseCode, CongestionControl, Session, SessionConfig};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::network::Conditions;
use crate::world::{self, World};

pub const HOST: u8 = 1;

/// A path with one bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub mbits: u64,
    pub round_trip: Duration,
    /// What its queue holds, in tenths of the bandwidth-delay product.
    pub queue: u64,
    /// Of a thousand packets, how many it loses by itself, in each way.
    pub loss: u64,
}

impl Path {
    fn bytes_per_second(&self) -> u64 {
        self.mbits * 1_000_000 / 8
    }

    pub fn conditions(&self) -> Conditions {
        let bdp = self.bytes_per_second() * self.round_trip.as_millis() as u64 / 1000;
        Conditions {
            latency: self.round_trip / 2,
            loss: self.loss,
            rate: self.bytes_per_second(),
            queue: bdp * self.queue / 10,
            ..Conditions::default()
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mbits, round_trip, queue, loss } = self;
        let (queue, loss) = (*queue as f64 / 10.0, *loss as f64 / 10.0);
        write!(f, "{mbits} Mbit/s, {} ms, {queue} BDP, {loss} %", round_trip.as_millis())
    }
}

/// What came of it.
#[derive(Clone, Debug)]
struct Outcome {
    /// MiB in a second, of each flow.
    flows: Vec<f64>,
    /// The round trip of a small exchange beside them, the median.
    ping: Duration,
}

impl Outcome {
    /// Of what all flows have, the first one's part.
    fn share(&self) -> f64 {
        self.flows[0] / self.flows.iter().sum::<f64>()
    }
}

/// Windows that hold nobody back: congestion control does.
fn settings(control: CongestionControl) -> SessionConfig {
    let mut config = SessionConfig::default();
    config.congestion(control).stream_window(64 << 20).replay_capacity(64 << 20);
    config
}

pub async fn write(mut writer: BackedWriter) {
    let chunk = vec![7; 64 * 1024];
    while writer.write_all(&chunk).await.is_ok() {}
}

pub async fn read(mut reader: BackedReader, count: Arc<AtomicU64>) {
    while let Ok(Some(bytes)) = reader.read_chunk(1 << 20).await {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

pub async fn echo(mut reader: BackedReader, mut writer: BackedWriter) {
    while let Ok(Some(bytes)) = reader.read_chunk(1 << 20).await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// A small exchange, each 20 ms at most; how long each took, once `begun`.
async fn ping(session: Session, begun: Instant, took: Arc<std::sync::Mutex<Vec<Duration>>>) {
    let (mut reader, mut writer) = session.open_pipe("").expect("the first").into_split();
    loop {
        let asked = Instant::now();
        let answered = async {
            writer.write_all(&[7; 64]).await.ok()?;
            reader.read_exact(&mut [0; 64]).await.ok()
        };
        if answered.await.is_none() {
            return;
        }
        if asked >= begun {
            took.lock().unwrap().push(asked.elapsed());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Has flows with these controls share `path`, and looks at them in the last
/// two thirds of `lasting`.
async fn share(
    world: World,
    path: Path,
    controls: Vec<CongestionControl>,
    lasting: Duration,
) -> Outcome {
    world.network.pave(HOST, path.conditions(), path.conditions());
    let server = world.server(settings(CongestionControl::Cubic), |_| {});
    let (mut playing, mut sessions, mut counts) = (JoinSet::new(), Vec::new(), Vec::new());
    let begun = Instant::now() + lasting / 3;
    let pings = Arc::default();
    for control in controls.iter().copied().map(Some).chain([None]) {
        let client = world.client(HOST, settings(control.unwrap_or_default()), |_| {});
        let (ours, theirs) = world.session(&client, &server).await;
        if control.is_some() {
            let count = Arc::new(AtomicU64::new(0));
            let (_, writer) = ours.open_pipe("").expect("the first").into_split();
            playing.spawn(write(writer));
            let (reader, _) = theirs.accept_pipe().await.unwrap().expect("a pipe").into_split();
            playing.spawn(read(reader, count.clone()));
            counts.push(count);
        } else {
            playing.spawn(ping(ours.clone(), begun, Arc::clone(&pings)));
            let (reader, writer) = theirs.accept_pipe().await.unwrap().expect("one").into_split();
            playing.spawn(echo(reader, writer));
        }
        sessions.extend([ours, theirs]);
    }
    tokio::time::sleep_until(begun).await;
    let so_far = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let before = so_far();
    sleep(lasting * 2 / 3).await;
    let seconds = (lasting * 2 / 3).as_secs_f64();
    let rate = |(after, before): (u64, &u64)| (after - before) as f64 / seconds / 1_048_576.0;
    let flows = so_far().into_iter().zip(&before).map(rate).collect();
    for session in sessions {
        session.close(CloseCode::DONE, b"");
        session.closed().await;
    }
    playing.shutdown().await;
    let mut pings = std::mem::take(&mut *pings.lock().unwrap());
    pings.sort();
    let ping = pings.get(pings.len() / 2).copied().unwrap_or(Duration::MAX);
    Outcome { flows, ping }
}

fn run(path: Path, controls: &[CongestionControl], lasting: Duration) -> Outcome {
    let play = |world| share(world, path, controls.to_vec(), lasting);
    world::run(1, false, play).result.expect("it ends well")
}

/// With a queue of one round trip.
fn usual(mbits: u64, loss: u64) -> Path {
    Path { mbits, round_trip: Duration::from_millis(40), queue: 10, loss }
}

#[test]
fn one_percent_of_loss_leaves_most_of_the_path_and_a_cubic_flow_its_share() {
    let control = CongestionControl::default();
    let alone = run(usual(100, 10), &[control], Duration::from_secs(6));
    println!("alone: {alone:?}");
    assert!(alone.flows[0] >= 8.0, "{alone:?}");
    // Slower, so that CUBIC finds its balance sooner.
    let beside = run(usual(20, 0), &[control, CongestionControl::Cubic], Duration::from_secs(45));
    println!("beside: {beside:?}");
    assert!(beside.share() <= 0.75, "{beside:?}");
}

const CONTROLS: [CongestionControl; 4] = [
    CongestionControl::Tolerant,
    CongestionControl::Cubic,
    CongestionControl::NewReno,
    CongestionControl::Bbr,
];

#[test]
#[ignore = "prints a matrix, for a quarter of an hour"]
fn the_matrix_of_congestion_controls() {
    let wanted = std::env::var("EVERMUX_MATRIX").unwrap_or_default();
    println!("MiB/s alone (ping ms); share beside CUBIC in % (ping ms)");
    println!("| path | {} |", CONTROLS.map(|control| format!("{control:?}")).join(" | "));
    println!("|---|---|---|---|---|");
    for mbits in [10, 100] {
        for round_trip in [5, 40, 200].map(Duration::from_millis) {
            for queue in [1, 5, 50] {
                for loss in [0, 1, 10, 50] {
                    let path = Path { mbits, round_trip, queue, loss };
                    if !path.to_string().starts_with(&wanted) {
                        continue;
                    }
                    // Some times from one full queue to the next.
                    let lasting = Duration::from_secs(10) + round_trip * 250;
                    let cells = CONTROLS.map(|control| {
                        let alone = run(path, &[control], lasting);
                        let beside = run(path, &[control, CongestionControl::Cubic], lasting);
                        format!(
                            "{:.2} ({}); {:.0} ({})",
                            alone.flows[0],
                            alone.ping.as_millis(),
                            beside.share() * 100.0,
                            beside.ping.as_millis(),
                        )
                    });
                    println!("| {path} | {} |", cells.join(" | "));
                }
            }
        }
    }
}
