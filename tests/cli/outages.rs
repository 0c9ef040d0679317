//! What a user sees of a bad network: a stall, and a word about it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{Process, World, connect, echo, full, payload, run, succeed, tcp_server};

/// One byte there and back.
fn knock(stream: &mut TcpStream) {
    stream.write_all(b"?").unwrap();
    let mut back = [0];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"?");
}

#[test]
fn a_storm_costs_no_byte() {
    let world = World::new(&[]);
    let (forward, addr) = world.forward(tcp_server(echo));
    let storm = world.storm();
    let bytes = payload(if full() { 256 << 20 } else { 24 << 20 });
    let mut stream = connect(addr);
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || {
        for chunk in sent.chunks(1 << 20) {
            writer.write_all(chunk).unwrap();
            // Slow enough that the storm strikes.
            thread::park_timeout(Duration::from_millis(100));
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    drop(storm);
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
    drop(forward);
    assert!(world.relay.stats().to_server.dropped.cut > 0, "the storm has struck");
}

#[test]
fn an_outage_is_told_once_and_its_end_too() {
    let world = World::new(&[]);
    let (forward, addr) = world.forward(tcp_server(echo));
    let mut stream = connect(addr);
    knock(&mut stream);
    world.relay.freeze();
    stream.write_all(b"?").unwrap();
    let down = forward.wait_for("no contact with the agent");
    assert!(down.contains("for 2 s (attempt "), "{down}");
    // Nobody comes in meanwhile, and who tries is not turned away either.
    let mut late = connect(addr);
    late.write_all(b"?").unwrap();
    world.relay.thaw();
    let up = forward.wait_for("is back after");
    assert!(up.contains("everything goes on"), "{up}");
    for stream in [&mut stream, &mut late] {
        stream.read_exact(&mut [0]).unwrap();
        knock(stream);
    }
    let said = forward.said();
    assert_eq!(said.matches("no contact").count(), 1, "{said}");
    assert_eq!(said.matches("is back after").count(), 1, "{said}");
}

#[test]
fn a_short_stall_is_not_worth_a_word() {
    let world = World::new(&[]);
    let (forward, addr) = world.forward(tcp_server(echo));
    let mut stream = connect(addr);
    knock(&mut stream);
    world.relay.cut();
    knock(&mut stream);
    world.relay.renumber();
    knock(&mut stream);
    assert!(!forward.said().contains("no contact"), "{}", forward.said());
}

#[test]
fn a_reverse_listener_stays_while_the_link_is_down() {
    let world = World::new(&[]);
    let target = tcp_server(echo);
    let (forward, addr) = world.forward_with(&["-R", &format!("127.0.0.1:0:{target}")]);
    let mut before = connect(addr);
    knock(&mut before);
    world.relay.freeze();
    before.write_all(b"?").unwrap();
    forward.wait_for("no contact");
    // It is taken at once, and served when the link is back.
    let mut during = connect(addr);
    during.write_all(b"?").unwrap();
    world.relay.thaw();
    for stream in [&mut before, &mut during] {
        stream.read_exact(&mut [0]).unwrap();
        knock(stream);
    }
}

#[test]
fn a_client_that_was_killed_gets_its_reverse_port_back() {
    let world = World::new(&[]);
    let target = tcp_server(echo);
    let (mut forward, addr) = world.forward_with(&["-R", &format!("127.0.0.1:0:{target}")]);
    let spec = format!("{addr}:{target}");
    knock(&mut connect(addr));
    // While it lives, nobody takes its port.
    let second = crate::fixture::run(&mut world.client("forward", &["-R", &spec]), b"");
    assert_eq!(second.status.code(), Some(73));
    forward.signal("-KILL");
    forward.wait();
    let (_forward, again) = world.forward_with(&["-R", &spec]);
    assert_eq!(again, addr);
    knock(&mut connect(addr));
}

#[test]
fn the_targets_of_a_killed_client_see_a_close_when_its_linger_time_ends() {
    let world = World::new(&["--idle-timeout", "3s", "--linger", "1s"]);
    let (ended, ends) = mpsc::channel();
    let target = tcp_server(move |mut stream| {
        let mut buf = [0; 16];
        loop {
            match stream.read(&mut buf) {
                Ok(len @ 1..) => stream.write_all(&buf[..len]).unwrap(),
                end => break ended.send(end.is_err()).unwrap(),
            }
        }
    });
    let (mut forward, addr) = world.forward(target);
    let mut stream = connect(addr);
    knock(&mut stream);
    let killed = Instant::now();
    forward.signal("-KILL");
    forward.wait();
    let broken = ends.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(broken, "a reset: what has arrived is not everything");
    assert!(killed.elapsed() > Duration::from_secs(1), "not before the linger time is over");
    world.agent.wait_for("did not come back");
}

#[test]
fn an_agent_that_ends_tells_its_clients_at_once() {
    let mut world = World::new(&[]);
    let (mut forward, addr) = world.forward(tcp_server(echo));
    let mut stream = connect(addr);
    knock(&mut stream);
    world.agent.signal("-TERM");
    assert!(world.agent.wait().success());
    assert_eq!(forward.wait().code(), Some(69));
    forward.wait_for("ended the session: it shuts down");
    assert!(stream.read(&mut [0]).is_err(), "the connection breaks");
}

#[test]
fn an_agent_that_was_killed_and_started_again_tells_its_former_clients_at_once() {
    let mut world = World::new(&[]);
    let (mut forward, addr) = world.forward(tcp_server(echo));
    let mut stream = connect(addr);
    knock(&mut stream);
    world.restart_agent();
    let started = Instant::now();
    assert_eq!(forward.wait().code(), Some(69));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    forward.wait_for("does not know this session any more");
}

#[test]
fn an_agent_that_was_killed_is_told_from_a_network_that_is_away() {
    let mut world = World::new(&[]);
    let target = tcp_server(echo);
    // No relay in between, which would go on listening.
    let spec = format!("127.0.0.1:0:{target}");
    let forward = Process::start(&mut world.evermux(&["forward", "-L", &spec]));
    let line = forward.wait_for("listening on");
    forward.wait_for("ready");
    let mut stream = connect(line.split_whitespace().nth(3).unwrap().parse().unwrap());
    knock(&mut stream);
    world.kill_agent();
    stream.write_all(b"?").unwrap();
    let told = forward.wait_for("no contact with the agent");
    assert!(told.contains("nobody listens there"), "{told}");

    let started = Instant::now();
    for verb in ["ping", "doctor"] {
        let output = run(&mut world.evermux(&[verb]), b"");
        assert_eq!(output.status.code(), Some(69));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("nobody listens on"), "{said}");
    }
    assert!(started.elapsed() < Duration::from_secs(8), "told at once, not after a timeout");
    let mut waiting = Process::start(&mut world.evermux(&["ping", "--wait", "-c", "1"]));
    waiting.wait_for("waiting for the agent");
    world.start_agent_again();
    assert!(waiting.wait().success());
}

#[test]
fn giving_up_is_for_who_asks_for_it() {
    let world = World::new(&[]);
    let target = tcp_server(echo).to_string();
    let spec = format!("127.0.0.1:0:{target}");
    let (mut forward, addr) = world.forward_with(&["-L", &spec, "--give-up-after=3s"]);
    let mut stream = connect(addr);
    knock(&mut stream);
    world.relay.freeze();
    stream.write_all(b"?").unwrap();
    assert_eq!(forward.wait().code(), Some(69));
    forward.wait_for("gave up after");
}

#[test]
fn waiting_is_for_who_asks_for_it() {
    let world = World::new(&[]);
    world.relay.freeze();
    let mut ping = Process::start(&mut world.client("ping", &["--wait", "-c", "1"]));
    ping.wait_for("waiting for the agent");
    world.relay.thaw();
    assert!(ping.wait().success());
}

#[test]
fn what_proxy_has_read_arrives_although_the_link_is_down_at_its_end() {
    let world = World::new(&[]);
    let (heard, hears) = mpsc::channel();
    let sink = tcp_server(move |mut stream| {
        stream.write_all(b"go").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        heard.send(all).unwrap();
    });
    let bytes = payload(2 << 20);
    let storm = world.storm();
    succeed(&mut world.client("proxy", &[&sink.to_string()]), &bytes);
    drop(storm);
    assert!(hears.recv().unwrap() == bytes);
}
