//! What a user is told when something is wrong, and the code for scripts.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use evermux::{Identity, Server, ServerConfig, ServerTls};

use crate::fixture::{Dir, World, connect, echo, evermux, run, tcp_server};

/// Fails with this code, and says these words.
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let output = run(command, b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

#[test]
fn a_wrong_command_line_is_a_matter_of_usage() {
    let dir = Dir::new();
    fails(&mut evermux(&dir, &["forward", "--frobnicate"]), 64, &["--frobnicate"]);
    fails(&mut evermux(&dir, &["forward", "x"]), 64, &["-L, -R or -D"]);
    fails(&mut evermux(&dir, &["forward", "x", "-L", "1:2"]), 64, &["PORT:HOST:HOSTPORT"]);
    fails(&mut evermux(&dir, &["ping"]), 64, &["EVERMUX_LINK"]);
    fails(&mut evermux(&dir, &["ping", "nobody"]), 66, &["no link is called", "link add nobody"]);
    fails(&mut evermux(&dir, &["ping", "../x"]), 64, &["letters, digits"]);
    fails(&mut evermux(&dir, &["ping", "evermux://h:1/x"]), 65, &["not a link"]);
    fails(&mut evermux(&dir, &["kill", "zz"]), 64, &["session's id"]);
}

#[test]
fn a_link_file_that_others_can_read_is_not_used() {
    let world = World::new(&[]);
    let link = world.dir.join("link");
    fs::set_permissions(&link, fs::Permissions::from_mode(0o644)).unwrap();
    fails(&mut world.client("ping", &[]), 78, &["can be read by others", "chmod 600"]);
    let key = world.dir.join("state/agent.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    let state = world.dir.join("state").display().to_string();
    let args = ["agent", "--listen", "127.0.0.1:0", "--state", &state];
    fails(&mut world.evermux(&args), 78, &["agent.pem", "chmod 600"]);
}

#[test]
fn a_wrong_pin_and_a_wrong_secret_are_told_apart() {
    let world = World::new(&[]);
    let link = world.link();
    let parts: Vec<&str> = link.split('/').collect();
    let [scheme, empty, address, pin, secret] = parts[..] else { panic!("{}", parts.len()) };
    let other = "5a".repeat(32);
    let wrong_pin = [scheme, empty, address, &other, secret].join("/");
    let wrong_secret = [scheme, empty, address, pin, &other].join("/");
    fails(&mut world.evermux(&["ping", &wrong_pin]), 77, &["wrong pin"]);
    fails(&mut world.evermux(&["ping", &wrong_secret]), 77, &["does not let this client in"]);

    let doctor = |link: &str| {
        let output = run(&mut world.evermux(&["doctor", link]), b"");
        assert_eq!(output.status.code(), Some(77));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = doctor(&wrong_pin);
    assert!(said.contains("ok    UDP") && said.contains("FAIL  pin"), "{said}");
    let said = doctor(&wrong_secret);
    assert!(said.contains("ok    pin") && said.contains("FAIL  authorisation"), "{said}");
}

#[test]
fn a_target_that_is_not_allowed_is_refused_with_the_rule() {
    let world = World::new(&[]);
    let said = ["does not allow 192.0.2.1:80", "allows loopback", "--allow"];
    fails(&mut world.client("proxy", &["192.0.2.1:80"]), 77, &said);
    fails(&mut world.client("proxy", &["/run/x.sock"]), 77, &["does not allow /run/x.sock"]);
    let spec = ["-R", "*:0:localhost:1"];
    fails(&mut world.client("forward", &spec), 77, &["does not allow listening", "--allow-listen"]);

    // A list replaces the default.
    let target = tcp_server(echo).to_string();
    let world = World::new(&["--allow", "192.0.2.1:80"]);
    fails(&mut world.client("proxy", &[&target]), 77, &["allows 192.0.2.1:80"]);
}

#[test]
fn a_target_that_does_not_answer_is_named() {
    let world = World::new(&[]);
    // Bound and not listening for long: nobody has the port now.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = ["cannot connect to", "refused"];
    fails(&mut world.client("proxy", &[&nobody.to_string()]), 69, &said);
    fails(&mut world.client("proxy", &["no-such-host.invalid:1"]), 69, &["cannot connect"]);

    // The same of a forwarded port: the connection breaks, and `forward` says why.
    let (forward, addr) = world.forward(nobody);
    let mut stream = connect(addr);
    let ended = std::io::Read::read(&mut stream, &mut [0; 1]);
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    forward.wait_for("cannot connect to");
}

#[test]
fn a_port_in_use_is_told_on_either_side() {
    let world = World::new(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = format!("{}:localhost:1", taken.local_addr().unwrap());
    fails(&mut world.client("forward", &["-L", &spec]), 73, &["cannot listen on", "in use"]);
    fails(&mut world.client("forward", &["-R", &spec]), 73, &["the agent cannot listen on"]);
    let listen = world.agent_addr.to_string();
    let state = world.dir.join("state").display().to_string();
    let args = ["agent", "--listen", &listen, "--state", &state];
    fails(&mut world.evermux(&args), 73, &["in use", "--listen"]);
}

#[test]
fn nobody_there_and_no_such_name_are_told_apart() {
    let world = World::new(&[]);
    world.relay.freeze();
    fails(&mut world.client("ping", &[]), 69, &["no answer", "doctor", "--wait"]);
    let args = ["ping", "--server", "no-such-host.invalid:1"];
    fails(&mut world.evermux(&args), 68, &["cannot resolve"]);
}

/// An agent of another time: it answers every request so.
fn agent_that_answers(answer: &'static [u8]) -> (tokio::runtime::Runtime, String) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let identity = Identity::self_signed(&[]).unwrap();
    let pin = identity.fingerprint();
    let server = {
        let _context = runtime.enter();
        let config = ServerConfig::new(ServerTls::new(identity).ask_clients());
        Server::bind("127.0.0.1:0".parse().unwrap(), config).unwrap()
    };
    let link = format!("evermux://{}/{pin}", server.local_addr().unwrap());
    runtime.spawn(async move {
        while let Some(incoming) = server.accept().await {
            let session = incoming.accept();
            tokio::spawn(async move {
                while let Ok(Some(mut pipe)) = session.accept_pipe().await {
                    pipe.writer().write_all(answer).await.unwrap();
                    pipe.writer().finish();
                    // Not dropped before its end is read.
                    let _ = pipe.writer().wait_acked(answer.len() as u64).await;
                }
            });
        }
    });
    (runtime, link)
}

#[test]
fn an_agent_of_another_version_is_named_as_such() {
    let dir = Dir::new();
    let (_runtime, link) = agent_that_answers(b"\x04\0\x15it knows nothing of it");
    let mut command = evermux(&dir, &["proxy", &link, "localhost:1"]);
    fails(&mut command, 76, &["it knows nothing of i", "too old: upgrade evermux there"]);
    let output = run(&mut evermux(&dir, &["doctor", &link]), b"");
    assert_eq!(output.status.code(), Some(76));

    // A reason of a later version is told in the agent's words, which forge nothing.
    let (_runtime, link) = agent_that_answers(b"\x63\0\x05no\nno");
    let mut command = evermux(&dir, &["proxy", &link, "localhost:1"]);
    fails(&mut command, 76, &["error: no\\nno"]);
}

#[test]
fn messages_are_json_if_that_is_asked_for_and_few_if_it_is_quiet() {
    let world = World::new(&[]);
    let args = ["--log-format=json", "192.0.2.1:80"];
    let output = run(&mut world.client("proxy", &args), b"");
    let said = String::from_utf8(output.stderr).unwrap();
    let line: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["code"], 77);
    assert!(line["message"].as_str().unwrap().contains("does not allow"));

    let mut link = world.evermux(&["link", "add", "a", &world.link(), "-q"]);
    assert!(run(&mut link, b"").stderr.is_empty());
}
