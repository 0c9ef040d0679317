//! How fast `forward` is beside `ssh -L`, on loopback, in one run.
//!
//! ```text
//! EVERMUX_CLI_FULL=1 cargo test --release --features cli --test cli pace -- --nocapture
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{Process, World, connect, echo, full, payload, tcp_server};
use crate::openssh::Sshd;

/// Round trips of 64 bytes, half of which take no longer.
fn median_round_trip(addr: SocketAddr, count: usize) -> Duration {
    let mut stream = connect(addr);
    stream.set_nodelay(true).unwrap();
    let mut buf = [7; 64];
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let sent = Instant::now();
            stream.write_all(&buf).unwrap();
            stream.read_exact(&mut buf).unwrap();
            sent.elapsed()
        })
        .collect();
    times.sort();
    times[count / 2]
}

/// MiB a second from here to there, until there says that all has come.
fn upload(addr: SocketAddr, bytes: &[u8]) -> f64 {
    let mut stream = connect(addr);
    let begun = Instant::now();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut counted = [0; 8];
    stream.read_exact(&mut counted).unwrap();
    assert_eq!(u64::from_be_bytes(counted), bytes.len() as u64);
    bytes.len() as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
}

/// Counts what comes.
fn counting_server() -> SocketAddr {
    tcp_server(|mut stream| {
        let mut count = 0_u64;
        let mut buf = vec![0; 256 * 1024];
        while let Ok(len @ 1..) = stream.read(&mut buf) {
            count += len as u64;
        }
        let _ = stream.write_all(&count.to_be_bytes());
    })
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn forward_beside_ssh() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let (echo, sink) = (tcp_server(echo), counting_server());

    // Without the relay: it is slower than either.
    let mut forward = world.evermux(&["forward"]);
    let ours = [free_port(), free_port()];
    for (at, target) in ours.iter().zip([echo, sink]) {
        forward.args(["-L", &format!("{at}:{target}")]);
    }
    let forward = Process::start(&mut forward);
    forward.wait_for("ready");

    let theirs = [free_port(), free_port()];
    let mut ssh = Command::new("ssh");
    ssh.args(sshd.identity()).args(["-p", &sshd.port.to_string()]);
    for (at, target) in theirs.iter().zip([echo, sink]) {
        ssh.args(["-L", &format!("{at}:{target}")]);
    }
    ssh.args(["127.0.0.1", "echo up; cat"]).stdin(Stdio::piped());
    let mut keep = None;
    let ssh = Process::start_with(&mut ssh, |child| keep = child.stdin.take());
    ssh.wait_for("up");

    let (count, bytes, rounds) =
        if full() { (5000, payload(512 << 20), 7) } else { (50, payload(8 << 20), 1) };
    let mut table = [const { (Vec::new(), Vec::new()) }; 3];
    for _ in 0..rounds {
        // In turn, so that what else the machine does is shared.
        let ways = [[echo, sink], theirs, ours];
        for ((rates, times), [echo, sink]) in table.iter_mut().zip(ways) {
            rates.push(upload(sink, &bytes));
            times.push(median_round_trip(echo, count).as_secs_f64() * 1e6);
        }
    }
    println!("| medians of {rounds} (least to most) | upload, MiB/s | 64 B round trip, us |");
    println!("|---|---|---|");
    for ((rates, times), name) in
        table.iter_mut().zip(["TCP itself", "ssh -L", "evermux forward -L"])
    {
        println!("| {name} | {} | {} |", spread(rates), spread(times));
    }
}

/// Median, least and most.
fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let [median, least, most] = [values.len() / 2, 0, values.len() - 1].map(|at| values[at]);
    format!("{median:.0} ({least:.0} to {most:.0})")
}
