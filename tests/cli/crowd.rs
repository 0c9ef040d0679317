//! Many short connections: none fails, nothing is left behind.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{Process, World, connect, echo, full, tcp_server};

/// Connections a second.
const RATE: u64 = 500;

#[test]
fn five_hundred_short_connections_a_second_leave_nothing_behind() {
    let seconds = if full() { 20 } else { 2 };
    let world = World::new(&[]);
    let (forward, addr) = world.forward(tcp_server(echo));
    let visit = move |number: u64| {
        let mut stream = connect(addr);
        let word = format!("visitor {number}");
        stream.write_all(word.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        assert_eq!(back, word);
    };
    // What a process needs for its first guests stays with it.
    (0..50).for_each(visit);
    let processes = [&world.agent, &forward];
    let before = processes.map(descriptors);
    // What the first half has needed at once does for the second.
    let [(_, half), (rate, memory)] = [0, 1].map(|half| {
        let rate = crowd(RATE * seconds / 2, move |number| visit(number + half * 1_000_000));
        (rate, processes.map(memory_kib))
    });
    println!(
        "{} connections, {rate:.0} a second in the second half; memory of the agent {} KiB, then \
         {} KiB, of forward {} KiB, then {} KiB",
        RATE * seconds,
        half[0],
        memory[0],
        half[1],
        memory[1],
    );

    // The last ones may still be on their way out.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut after = processes.map(descriptors);
    while after.iter().zip(before).any(|(after, before)| *after > before) {
        assert!(Instant::now() < deadline, "{before:?}, then {after:?}");
        thread::sleep(Duration::from_millis(50));
        after = processes.map(descriptors);
    }
    for (half, memory) in half.into_iter().zip(memory) {
        assert!(memory < 64 * 1024, "{memory} KiB");
        let grown = memory.saturating_sub(half);
        assert!(grown < 4 * 1024, "{grown} KiB more after as many connections as before");
    }
}

/// So many visits, of which each begins when it is due; returns how many there
/// were a second.
fn crowd(count: u64, visit: impl Fn(u64) + Copy + Send + 'static) -> f64 {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let visitors: Vec<_> = (0..16)
        .map(|_| {
            let next = next.clone();
            thread::spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let due = begun + Duration::from_micros(1_000_000 / RATE) * number as u32;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    visit(number);
                }
            })
        })
        .collect();
    visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
    count as f64 / begun.elapsed().as_secs_f64()
}

fn descriptors(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid())).map_or(0, |dir| dir.count())
}

/// Resident memory.
fn memory_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
