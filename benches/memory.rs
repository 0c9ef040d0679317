//! What idle pipes and idle sessions cost, in bytes of the heap and of resident
//! memory.
//!
//! ```text
//! cargo bench --bench memory
//! ```
//!
//! Both ends live in this process. The server's part is what is left when the runtime
//! of all clients is dropped, which says no goodbye: first its sessions are attached
//! still, and once QUIC has given up, detached.

use std::time::{Duration, Instant};

use evermux::{LinkState, Session, SessionConfig};

#[path = "scale/stage.rs"]
mod stage;

use stage::{Stage, greet, resident, settled};

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
        std::thread::sleep(Duration::from_millis(100));
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

fn main() {
    println!(
        "| bytes of each of | both ends, half | server, attached | detached | RSS in all, KiB |"
    );
    println!("|---|---|---|---|---|");
    print("pipes", [1_000, 10_000], pipes);
    print("sessions", [100, 400], sessions);
}
