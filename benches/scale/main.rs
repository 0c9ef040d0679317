//! How the cost of idle pipes and idle sessions grows with their number: to open them, to
//! keep them, to resume them.
//!
//! ```text
//! cargo bench --bench scale
//! ```
//!
//! prints a Markdown table within some three minutes. Each row is measured in a process
//! of its own, which holds both ends, over UDP on loopback; memory and CPU are those of
//! both. Two thousand clients need as many file descriptors (`ulimit -n 8192`).

use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use evermux::{BackedPipe, Session, SessionConfig};
use tokio::task::JoinSet;

mod stage;

use stage::{Stage, greet, resident, settled};

/// Says which row a process is to measure.
const ROW: &str = "EVERMUX_SCALE_ROW";

/// Pipes of one session, and sessions of one server.
const PIPES: [usize; 4] = [1, 100, 1_000, 10_000];
const SESSIONS: [usize; 4] = [1, 100, 500, 2_000];

/// Connections that are begun at the same time.
const AT_ONCE: usize = 50;

/// Probes follow the last traffic for ten seconds.
const QUIET: Duration = Duration::from_secs(12);

/// How long the CPU is looked at.
const LOOK: Duration = Duration::from_secs(10);

fn main() {
    if let Ok(row) = env::var(ROW) {
        let (what, count) = row.split_once(' ').expect("what and how many");
        let count = count.parse().expect("a number");
        let measured = if what == "pipes" { pipes(count) } else { sessions(count) };
        println!("| {count} {what} {measured}");
        return;
    }
    println!(
        "| both ends of | made in, ms | heap of each, B | RSS, MiB | CPU idle, ms/s \
         | resumed in, ms | wire bytes of each session's resume | heap of each then, B |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let rows = PIPES.map(|count| format!("pipes {count}"));
    for row in rows.into_iter().chain(SESSIONS.map(|count| format!("sessions {count}"))) {
        let exe = env::current_exe().expect("our own path");
        let status = Command::new(exe).env(ROW, &row).status().expect("it runs");
        assert!(status.success(), "{row}: {status}");
    }
}

/// What a row says.
struct Measured {
    made: Duration,
    heap: f64,
    resident: f64,
    idle: Duration,
    resumed: Duration,
    bytes: u64,
    heap_then: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(
            f,
            "| {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {} | {:.0} |",
            millis(self.made),
            self.heap,
            self.resident / 1024.0,
            millis(self.idle) / LOOK.as_secs_f64(),
            millis(self.resumed),
            self.bytes,
            self.heap_then,
        )
    }
}

fn pipes(count: usize) -> Measured {
    let mut settings = SessionConfig::default();
    settings.max_pipes(count as u64);
    let stage = Stage::new(settings);
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (ours, theirs) = stage.connect(&client, &server, addr);
    let (before, began) = (settled(), Instant::now());
    let (near, far): (Vec<BackedPipe>, Vec<BackedPipe>) = stage.servers.block_on(async {
        let mut pipes = Vec::with_capacity(count);
        for _ in 0..count {
            let mut ours = ours.open_pipe("").expect("few enough");
            let mut theirs = theirs.accept_pipe().await.expect("live").expect("a pipe");
            greet(&mut ours, &mut theirs).await;
            pipes.push((ours, theirs));
        }
        pipes.into_iter().unzip()
    });
    let made = began.elapsed();
    let measured = measure(&stage, &[(ours, theirs)], made, [before, count as f64]);
    drop((near, far));
    measured
}

fn sessions(count: usize) -> Measured {
    let stage = Stage::new(SessionConfig::default());
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (before, began) = (settled(), Instant::now());
    let accepting = async {
        let mut theirs = Vec::with_capacity(count);
        for _ in 0..count {
            theirs.push(server.accept().await.expect("it listens").accept());
        }
        theirs
    };
    let connecting = stage.clients.spawn(async move {
        let (mut under_way, mut ours) = (JoinSet::new(), Vec::with_capacity(count));
        for _ in 0..count {
            if under_way.len() == AT_ONCE {
                ours.extend(under_way.join_next().await);
            }
            let client = client.clone();
            under_way.spawn(async move { client.connect(addr).await.expect("connected") });
        }
        ours.extend(under_way.join_all().await.into_iter().map(Ok));
        ours.into_iter().map(|session| session.expect("no panic")).collect::<Vec<Session>>()
    });
    let (ours, theirs) = stage.servers.block_on(async {
        let theirs = accepting.await;
        (connecting.await.expect("no panic"), theirs)
    });
    let made = began.elapsed();
    let of = |session: &Session| session.id();
    let mut theirs: Vec<Session> = theirs;
    theirs.sort_by_key(of);
    let mut ours = ours;
    ours.sort_by_key(of);
    let pairs: Vec<(Session, Session)> = ours.into_iter().zip(theirs).collect();
    measure(&stage, &pairs, made, [before, count as f64])
}

/// What these sessions, which have been made, cost further on. `before` they were made
/// the heap held so much; it is counted for each of so many.
fn measure(
    stage: &Stage,
    pairs: &[(Session, Session)],
    made: Duration,
    [before, count]: [f64; 2],
) -> Measured {
    std::thread::sleep(QUIET);
    let heap = (settled() - before) / count;
    let used = cpu();
    std::thread::sleep(LOOK);
    let idle = cpu() - used;
    let resident = resident();

    let began = Instant::now();
    let resumed = stage.clients.block_on(async {
        let mut resuming = JoinSet::new();
        for (ours, theirs) in pairs {
            let (ours, theirs) = (ours.clone(), theirs.clone());
            resuming.spawn(async move {
                let epoch = ours.reconnect().await.expect("the server is there");
                while theirs.stats().epoch < epoch || !theirs.link().is_attached() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        resuming.join_all().await;
        began.elapsed()
    });
    // What follows at once is a part of it; probes of ten seconds are not.
    std::thread::sleep(Duration::from_millis(500));
    let bytes: u64 = pairs
        .iter()
        .filter_map(|(ours, _)| {
            let stats = ours.stats();
            Some(stats.udp_sent? + stats.udp_received?)
        })
        .sum();
    let bytes = bytes / pairs.len() as u64;
    let heap_then = (settled() - before) / count;
    Measured { made, heap, resident, idle, resumed, bytes, heap_then }
}

/// CPU time that this process has used so far.
fn cpu() -> Duration {
    /// Of the kernel's clock in this file, on every Linux.
    const TICKS: u64 = 100;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}
