//! netcat: streams that go one way only, and end with whoever sends.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{
    PATIENCE, Process, World, carry, full, payload, program, succeed, tcp_server,
};

/// As it is called where there are several: the others have no `-N`.
const NETCAT: &str = "nc.openbsd";

fn netcat(option: &str, addr: SocketAddr) -> Command {
    let mut command = Command::new(NETCAT);
    command.args([option, &addr.ip().to_string(), &addr.port().to_string()]);
    command
}

fn bytes() -> Vec<u8> {
    payload(if full() { 1216 << 20 } else { 16 << 20 })
}

/// Neither side has kept anything of the streams that are over.
fn until_no_pipe_is_left(world: &World) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let json = succeed(&mut world.evermux(&["status", "--json"]), b"");
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let processes = json.as_array().unwrap();
        assert_eq!(processes.len(), 2, "{json:#}");
        if processes.iter().all(|process| process["sessions"][0]["pipes"] == serde_json::json!([]))
        {
            return;
        }
        assert!(Instant::now() < deadline, "{json:#}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_sent_ends_where_it_arrives() {
    if program(NETCAT).is_none() {
        return;
    }
    let (heard, hears) = mpsc::channel();
    let target = tcp_server(move |mut stream| {
        let mut all = Vec::new();
        // Says nothing, and goes when it has heard everything.
        stream.read_to_end(&mut all).unwrap();
        heard.send(all).unwrap();
    });
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(target);
    let bytes = bytes();
    let storm = world.storm();
    let mut stdin = None;
    let mut netcat = netcat("-N", addr);
    let mut netcat = Process::start_with(netcat.stdin(Stdio::piped()), |child| {
        stdin = child.stdin.take();
    });
    let (mut stdin, sent) = (stdin.unwrap(), bytes.clone());
    // Ends its input with the last byte.
    let sending = thread::spawn(move || carry(&sent[..], &mut stdin));
    let got = hears.recv_timeout(10 * PATIENCE).unwrap();
    sending.join().unwrap();
    assert!(netcat.wait().success() && netcat.said().is_empty(), "{}", netcat.said());
    drop(storm);
    assert!(world.relay.stats().to_server.dropped.cut > 0, "the storm has struck");
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
    until_no_pipe_is_left(&world);
}

#[test]
fn what_arrives_ends_where_it_was_sent() {
    if program(NETCAT).is_none() {
        return;
    }
    let bytes = bytes();
    let sent = bytes.clone();
    // Hears nothing: it is told nothing, not even an end.
    let target = tcp_server(move |mut stream| carry(&sent[..], &mut stream));
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(target);
    let storm = world.storm();
    let got = succeed(&mut netcat("-d", addr), b"");
    drop(storm);
    assert!(world.relay.stats().to_client.dropped.cut > 0, "the storm has struck");
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
    until_no_pipe_is_left(&world);
}
