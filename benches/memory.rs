//! What idle pipes and idle sessions cost, in bytes of the heap and of resident
//! memory, beside idle streams and connections of the QUIC below; and what a replay
//! takes.
//!
//! ```text
//! cargo bench --bench memory
//! ```
//!
//! Both ends live in this process. The server's part is what is left when the runtime
//! of all clients is dropped, which says no goodbye: first its sessions are attached
//! still, and once QUIC has given up, detached.
//!
//! Of raw quinn half of both ends is shown, in the place of a server's attached one: its
//! connections share a socket at both, and a connection that is given up is gone.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use evermux::{LinkState, Session, SessionConfig};

#[path = "scale/stage.rs"]
mod stage;
#[path = "twins/mod.rs"]
mod twins;

use stage::{Stage, greet, heap, resident, settled};
use twins::{Quinn, Settings, Twin};

/// QUIC gives up soon, so that sessions are detached soon.
fn settings() -> SessionConfig {
    let mut config = SessionConfig::default();
    config
        .max_pipes(10_000)
        .probe_interval(Duration::from_secs(1))
        .probe_timeout(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(5));
    config
}

fn wait_detached(sessions: &[Session]) {
    let begun = Instant::now();
    while !sessions.iter().all(|session| matches!(session.link(), LinkState::Detached { .. })) {
        assert!(begun.elapsed() < Duration::from_secs(60), "QUIC gives up");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Bytes with both ends, with the server alone, and once its sessions are detached,
/// beyond what there was before.
type Usage = [f64; 3];

fn pipes(count: usize) -> Usage {
    let before = settled();
    let stage = Stage::new(settings());
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (ours, theirs) = stage.connect(&client, &server, addr);
    let (mut near, mut far) = (Vec::with_capacity(count), Vec::with_capacity(count));
    stage.servers.block_on(async {
        for _ in 0..count {
            let mut ours = ours.open_pipe("").expect("few enough");
            let mut theirs = theirs.accept_pipe().await.expect("live").expect("a pipe");
            greet(&mut ours, &mut theirs).await;
            near.push(ours);
            far.push(theirs);
        }
    });
    let both = settled();
    drop((stage.clients, ours, client, near));
    let attached = settled();
    wait_detached(std::slice::from_ref(&theirs));
    let detached = settled();
    drop(far);
    theirs.close(evermux::CloseCode::DONE, b"");
    [both, attached, detached].map(|bytes| bytes - before)
}

fn sessions(count: usize) -> Usage {
    let before = settled();
    let stage = Stage::new(settings());
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (mut near, mut far) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (ours, theirs) = stage.connect(&client, &server, addr);
        near.push(ours);
        far.push(theirs);
    }
    let both = settled();
    drop((stage.clients, client, near));
    let attached = settled();
    wait_detached(&far);
    let detached = settled();
    for session in far {
        session.close(evermux::CloseCode::DONE, b"");
    }
    [both, attached, detached].map(|bytes| bytes - before)
}

/// The settings of a session by default, with so many streams.
fn twin(streams: usize) -> impl Future<Output = Quinn> {
    /// What a session allows before there are pipes.
    const INITIAL: usize = 64;
    let streams = streams.max(INITIAL) as u64;
    Quinn::connect(Settings { streams, ..Settings::default() })
}

/// Bytes with both ends beyond what there was before.
fn quinn_streams(count: usize) -> f64 {
    let before = settled();
    let runtime = stage::runtime();
    let (twin, ends) = runtime.block_on(async {
        let twin = twin(count).await;
        let mut ends = Vec::with_capacity(count);
        for _ in 0..count {
            ends.push(twin.open().await);
        }
        (twin, ends)
    });
    let both = settled();
    drop(ends);
    runtime.block_on(twin.close());
    both - before
}

fn quinn_connections(count: usize) -> f64 {
    let before = settled();
    let runtime = stage::runtime();
    let twins = runtime.block_on(async {
        let mut twins = vec![twin(0).await];
        for _ in 0..count {
            twins.push(twins[0].again().await);
        }
        twins
    });
    let both = settled();
    drop(twins);
    both - before
}

/// Prints what each of so many costs beyond what there is without any.
fn print(what: &str, counts: [usize; 2], measure: fn(usize) -> Usage) {
    let without = measure(0);
    for count in counts {
        let with = measure(count);
        let each = |at: usize| (with[at] - without[at]) / count as f64;
        let (both, attached, detached) = (each(0) / 2.0, each(1), each(2));
        println!(
            "| {count} idle {what} | {both:.0} | {attached:.0} | {detached:.0} | {:.0} |",
            resident()
        );
    }
}

fn print_quinn(what: &str, counts: [usize; 2], measure: fn(usize) -> f64) {
    let without = measure(0);
    for count in counts {
        let half = (measure(count) - without) / count as f64 / 2.0;
        println!("| {count} idle {what} of raw quinn | - | {half:.0} | - | {:.0} |", resident());
    }
}

/// Bytes with both ends, beyond what there was before, while so many wait at the server
/// to be replayed, and at most until the client has read them.
fn replay(bytes: usize) -> [f64; 2] {
    let mut settings = SessionConfig::default();
    // QUIC takes them all, with a header: what follows the resume is the second time.
    let room = bytes as u64 + 1024;
    settings.replay_capacity(room).stream_window(room);
    let stage = Stage::new(settings);
    let (server, addr, pin) = stage.server();
    let client = stage.client(pin);
    let (ours, theirs) = stage.connect(&client, &server, addr);
    let (mut near, mut far) = stage.servers.block_on(async {
        let mut near = ours.open_pipe("").expect("the first");
        let mut far = theirs.accept_pipe().await.expect("live").expect("a pipe");
        greet(&mut near, &mut far).await;
        let greeted = far.writer().offset();
        far.writer().wait_acked(greeted).await.expect("a live pipe");
        (near, far)
    });
    let before = settled();

    // The only thread of the clients stands still: they hear of nothing for now.
    let (go_on, wait) = mpsc::channel::<()>();
    stage.clients.spawn(async move { wait.recv() });
    stage.servers.block_on(async {
        let chunk = vec![7; 64 * 1024];
        for _ in 0..bytes / chunk.len() {
            far.writer().write_all(&chunk).await.expect("there is room");
        }
    });
    let given_up = theirs.clone();
    let resumed = stage.servers.spawn(async move { given_up.reconnect().await });
    wait_detached(std::slice::from_ref(&theirs));
    let waiting = settled();
    let most = most_during(|| {
        drop(go_on);
        stage.servers.block_on(resumed).expect("no panic").expect("the client comes back");
        stage.clients.block_on(async {
            let mut left = bytes;
            while left > 0 {
                let chunk = near.reader().read_chunk(left).await.expect("a live pipe");
                left -= chunk.expect("not the end").len();
            }
        });
    });
    assert_eq!(theirs.stats().bytes_replayed, bytes as u64);
    [waiting, most].map(|bytes| bytes - before)
}

/// Bytes of the heap at most while `course` runs, looked at ten thousand times a second.
fn most_during(course: impl FnOnce()) -> f64 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = heap();
            while !over.load(Relaxed) {
                thread::sleep(Duration::from_micros(100));
                most = most.max(heap());
            }
            most
        });
        course();
        over.store(true, Relaxed);
        looking.join().expect("no panic")
    })
}

/// Prints what so many MiB cost beyond what a resume without any takes.
fn print_replay(mib: [usize; 3]) {
    let without = replay(0);
    for mib in mib {
        let with = replay(mib << 20);
        let beyond = |at: usize| (with[at] - without[at]) / f64::from(1 << 20);
        println!("| {mib} | {:.2} | {:.2} |", beyond(0), beyond(1));
    }
}

fn main() {
    println!(
        "| bytes of each of | both ends, half | server, attached | detached | RSS in all, KiB |"
    );
    println!("|---|---|---|---|---|");
    print("pipes", [1_000, 10_000], pipes);
    print_quinn("streams", [1_000, 10_000], quinn_streams);
    print("sessions", [100, 400], sessions);
    print_quinn("connections", [100, 400], quinn_connections);
    println!();
    println!("| MiB to be replayed | heap of both ends while they wait | at most in the replay |");
    println!("|---|---|---|");
    print_replay([1, 16, 64]);
}
