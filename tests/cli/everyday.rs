//! What a user does on a day when nothing breaks.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use crate::fixture::{Process, World, connect, echo, payload, run, succeed, tcp_server};

/// Sends all, ends, and expects `answer` to the end.
fn exchange(addr: SocketAddr, bytes: &[u8], answer: &[u8]) {
    let mut stream = connect(addr);
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.to_vec();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == answer, "{} bytes of {}", got.len(), answer.len());
}

#[test]
fn a_forwarded_port_carries_both_ways_and_both_ends() {
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(tcp_server(echo));
    let bytes = payload(1 << 20);
    exchange(addr, &bytes, &bytes);
    exchange(addr, b"", b"");
}

#[test]
fn a_server_that_ends_first_still_hears_what_comes() {
    let (heard, hears) = std::sync::mpsc::channel();
    let target = tcp_server(move |mut stream| {
        stream.write_all(b"all I have to say").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        heard.send(rest).unwrap();
    });
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(target);
    let mut stream = connect(addr);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "all I have to say");
    stream.write_all(b"and now I").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hears.recv().unwrap(), "and now I");
}

#[test]
fn a_connection_that_breaks_is_not_taken_for_one_that_ended() {
    let target = tcp_server(|mut stream| {
        stream.write_all(b"half a mess").unwrap();
        // Unread input makes the close a reset.
        stream.peek(&mut [0; 1]).unwrap();
    });
    let world = World::new(&[]);
    let (_forward, addr) = world.forward(target);
    let mut stream = connect(addr);
    stream.write_all(b"x").unwrap();
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reverse_forward_listens_there_and_connects_here() {
    let world = World::new(&[]);
    let target = tcp_server(echo);
    let (_forward, addr) = world.forward_with(&["-R", &format!("127.0.0.1:0:{target}")]);
    let bytes = payload(100_000);
    exchange(addr, &bytes, &bytes);
}

#[test]
fn a_socks_client_chooses_its_target() {
    let world = World::new(&[]);
    let target = tcp_server(echo);
    let (_forward, addr) = world.forward_with(&["-D", "127.0.0.1:0"]);
    let ask = |request: &[u8]| {
        let mut stream = connect(addr);
        stream.write_all(&[5, 1, 0]).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..3], [5, 0, 5]);
        (stream, answer[3])
    };
    let mut request = vec![5, 1, 0, 3, 9];
    request.extend(b"localhost");
    request.extend(target.port().to_be_bytes());
    let (mut stream, reply) = ask(&request);
    assert_eq!(reply, 0);
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    // 192.0.2.1:80 is not loopback: not allowed.
    assert_eq!(ask(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]).1, 2);
}

#[test]
fn unix_sockets_do_on_either_end() {
    let world = World::new(&["--allow", "/*"]);
    let (there, here) = (world.dir.join("there.sock"), world.dir.join("here.sock"));
    let listener = UnixListener::bind(&there).unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        write!(stream, "{heard} yourself").unwrap();
    });
    let spec = format!("{}:{}", here.display(), there.display());
    let forward = Process::start(&mut world.client("forward", &["-L", &spec]));
    forward.wait_for("ready");
    let mut stream = UnixStream::connect(&here).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "hello yourself");
    serving.join().unwrap();
    forward.signal("-INT");
    let mut forward = forward;
    assert!(forward.wait().success());
    assert!(!here.exists(), "the socket's file is removed");
}

#[test]
fn proxy_is_a_pipe_between_standard_input_and_output() {
    let world = World::new(&[]);
    let bytes = payload(3 << 20);
    let target = tcp_server(echo).to_string();
    assert!(succeed(&mut world.client("proxy", &[&target]), &bytes) == bytes);
    // One way, as netcat is used.
    let (heard, hears) = std::sync::mpsc::channel();
    let sink = tcp_server(move |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        heard.send(all).unwrap();
    });
    succeed(&mut world.client("proxy", &[&sink.to_string()]), &bytes);
    assert!(hears.recv().unwrap() == bytes);
    let source = tcp_server(|mut stream| stream.write_all(b"only mine").unwrap());
    assert_eq!(succeed(&mut world.client("proxy", &[&source.to_string()]), b""), b"only mine");
}

#[test]
fn status_shows_both_sides_of_a_session_and_kill_ends_it() {
    let world = World::new(&[]);
    let (mut forward, addr) = world.forward(tcp_server(echo));
    let mut stream = connect(addr);
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();

    let json = succeed(&mut world.evermux(&["status", "--json"]), b"");
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let processes = json.as_array().unwrap();
    assert_eq!(processes.len(), 2, "{json:#}");
    let mut ids = Vec::new();
    let roles = [("agent", "bytes_read"), ("forward", "bytes_written")];
    for (process, (role, bytes)) in processes.iter().zip(roles) {
        assert_eq!(process["role"], role);
        let session = &process["sessions"][0];
        assert_eq!(session["link"], "attached");
        assert_eq!(session["outages"], 0);
        assert!(session["last_contact_seconds"].as_f64().unwrap() < 60.0);
        assert_eq!(session["pipes"][0][bytes], 5);
        ids.push(session["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids[0], ids[1]);
    let text = String::from_utf8(succeed(&mut world.evermux(&["status"]), b"")).unwrap();
    assert!(text.contains(&ids[0]) && text.contains("last contact"), "{text}");

    succeed(&mut world.evermux(&["kill", &ids[0][..8]]), b"");
    assert_eq!(forward.wait().code(), Some(69));
    forward.wait_for("it was killed");
    assert_eq!(run(&mut world.evermux(&["kill", &ids[0]]), b"").status.code(), Some(66));
}

#[test]
fn control_sockets_are_for_their_owner_and_gone_in_the_end() {
    use std::os::unix::fs::PermissionsExt;

    let mut world = World::new(&[]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = world.dir.join("control");
    assert_eq!(mode(&dir), 0o700);
    let socket = dir.join(format!("agent-{}.sock", world.agent.pid()));
    assert_eq!(mode(&socket), 0o600);
    for name in ["agent.pem", "link-secret", "link"] {
        assert_eq!(mode(&world.dir.join("state").join(name)), 0o600);
    }
    world.agent.signal("-TERM");
    assert!(world.agent.wait().success());
    assert!(!socket.exists());
}

#[test]
fn systemd_is_told_when_an_agent_listens() {
    let dir = crate::fixture::Dir::new();
    let path = dir.join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(crate::fixture::PATIENCE)).unwrap();
    let state = dir.join("state");
    let mut command = crate::fixture::evermux(&dir, &["agent", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env("STATE_DIRECTORY", &state);
    let agent = Process::start(&mut command);
    let mut buf = [0; 100];
    let len = systemd.recv(&mut buf).unwrap();
    assert_eq!(&buf[..len], b"READY=1\n");
    // Its standard output would be a journal: the link is here as well.
    let link = fs::read_to_string(state.join("link")).unwrap();
    assert_eq!(link.trim(), agent.wait_for("evermux://"));
}

#[test]
fn ping_and_doctor_find_an_agent_that_is_well() {
    let world = World::new(&[]);
    let ping = succeed(&mut world.client("ping", &["-c", "3", "-i", "10ms"]), b"");
    let ping = String::from_utf8(ping).unwrap();
    assert!(ping.contains("3 round trips"), "{ping}");
    let doctor = String::from_utf8(succeed(&mut world.client("doctor", &[]), b"")).unwrap();
    for what in ["address", "UDP", "pin", "authorisation", "MTU", "version", "clock", "targets"] {
        assert!(doctor.contains(&format!("ok    {what}: ")), "{what}: {doctor}");
    }
}

#[test]
fn the_program_explains_itself() {
    let world = World::new(&[]);
    let text = |args: &[&str]| String::from_utf8(succeed(&mut world.evermux(args), b"")).unwrap();
    let version = text(&["--version"]);
    assert_eq!(version, format!("evermux {} (protocol 1)\n", env!("CARGO_PKG_VERSION")));
    assert!(text(&["--help"]).contains("Exit codes"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&["completions", shell]).contains("evermux"));
    }
    let man = text(&["man"]);
    assert!(man.contains(".TH") && man.contains("EVERMUX FORWARD"), "{man}");
}
