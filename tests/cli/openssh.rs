//! OpenSSH, with keys and configuration of the test's own: everything that it does
//! goes on through a storm.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{
    Dir, EVERMUX, PATIENCE, Process, World, connect, echo, full, payload, program, run, succeed,
    tcp_server,
};

/// An ssh server on loopback that lets in one key.
pub struct Sshd {
    _daemon: Process,
    pub port: u16,
    dir: PathBuf,
}

impl Sshd {
    /// `None`, with a printed reason, where there is no OpenSSH.
    pub fn start(dir: &Dir) -> Option<Self> {
        let sshd = program("sshd")?;
        let keygen = program("ssh-keygen")?;
        program("ssh")?;
        // It wants this directory, whoever it runs as.
        let _ = fs::create_dir_all("/run/sshd");
        let home = dir.join("ssh");
        fs::create_dir_all(&home).unwrap();
        for key in ["host", "user"] {
            let path = home.join(key);
            let mut command = Command::new(&keygen);
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
            succeed(&mut command, b"");
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = home.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nPidFile none\n\
             AuthorizedKeysFile {shown}/user.pub\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nAllowAgentForwarding yes\nMaxStartups 100\n\
             Subsystem sftp internal-sftp\nSetEnv HOME={shown}/home\n"
        );
        // Whatever is done there leaves the home of the tester alone.
        fs::create_dir_all(home.join("home")).unwrap();
        fs::write(home.join("sshd_config"), config).unwrap();
        let host = fs::read_to_string(home.join("host.pub")).unwrap();
        fs::write(home.join("known_hosts"), format!("evermux-test {host}")).unwrap();
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f"]).arg(home.join("sshd_config"));
        let daemon = Process::start(&mut command);
        daemon.wait_for("listening on");
        Some(Self { _daemon: daemon, port, dir: home })
    }

    /// ssh's options to get there without `evermux`.
    pub fn identity(&self) -> Vec<String> {
        let shown = self.dir.display();
        let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
        let options = [
            format!("IdentityFile={shown}/user"),
            format!("UserKnownHostsFile={shown}/known_hosts"),
            "HostKeyAlias=evermux-test".into(),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
            "StrictHostKeyChecking=yes".into(),
            format!("User={user}"),
        ];
        // Nothing of the machine's own configuration.
        let mut words = vec!["-F".into(), "/dev/null".into()];
        words.extend(options.into_iter().flat_map(|option| ["-o".into(), option]));
        words
    }

    /// The same through `evermux proxy` and the relay.
    pub fn options(&self, world: &World) -> Vec<String> {
        let (server, port) = (world.relay.addr(), self.port);
        let mut words = self.identity();
        let proxy = format!("ProxyCommand={EVERMUX} proxy --server={server} 127.0.0.1:{port}");
        words.extend(["-o".into(), proxy, "-o".into(), "ServerAliveInterval=0".into()]);
        words
    }

    /// `ssh` as one word for a shell, for programs that start it.
    pub fn shell_command(&self, world: &World) -> String {
        let words = self.options(world).into_iter().map(|word| format!("'{word}'"));
        format!("ssh {}", words.collect::<Vec<_>>().join(" "))
    }
}

/// A program of OpenSSH's, with the world's link in its environment.
pub fn ssh_program(world: &World, sshd: &Sshd, name: &str) -> Command {
    let mut command = Command::new(name);
    command.args(sshd.options(world));
    link_env(world, &mut command);
    command
}

/// Where `evermux proxy` finds its link.
pub fn link_env(world: &World, command: &mut Command) {
    for (name, value) in world.evermux(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

#[test]
fn a_command_and_what_it_reads_and_writes_survive_a_storm() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let bytes = payload(if full() { 128 << 20 } else { 8 << 20 });
    let _storm = world.storm();
    let mut ssh = ssh_program(&world, &sshd, "ssh");
    let output = run(ssh.args(["there", "cat; echo done >&2; exit 7"]), &bytes);
    assert_eq!(output.status.code(), Some(7));
    assert!(output.stdout == bytes);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "done\n");
}

#[test]
fn an_interactive_session_goes_on_where_it_was() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let mut command = ssh_program(&world, &sshd, "ssh");
    command.args(["-tt", "there", "stty -echo; PS1=; exec sh -i"]).stdin(Stdio::piped());
    let mut keyboard = None;
    let session = Process::start_with(&mut command, |child| keyboard = child.stdin.take());
    let mut keyboard = keyboard.unwrap();
    let mut type_in = |line: &str| writeln!(keyboard, "{line}").unwrap();
    type_in("test -t 0 && tty=yes; n=41; echo ready=$tty");
    session.wait_for("ready=yes");
    // To the death of the connection, and longer than a word is worth.
    world.relay.cut();
    world.relay.freeze();
    type_in("echo answer=$((n + 1))");
    session.wait_for("no contact with the agent");
    world.relay.thaw();
    session.wait_for("answer=42");
    session.wait_for("is back after");
    world.relay.renumber();
    type_in("echo again=$((n + 2)); exit 3");
    session.wait_for("again=43");
    let mut session = session;
    assert_eq!(session.wait().code(), Some(3));
}

#[test]
fn scp_and_sftp_copy_through_a_storm() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let bytes = payload(if full() { 64 << 20 } else { 4 << 20 });
    let (here, there, back) =
        (world.dir.join("here"), world.dir.join("there"), world.dir.join("back"));
    fs::write(&here, &bytes).unwrap();
    let _storm = world.storm();
    let mut scp = ssh_program(&world, &sshd, "scp");
    succeed(scp.arg("-q").arg(&here).arg(format!("there:{}", there.display())), b"");
    assert!(fs::read(&there).unwrap() == bytes);
    let mut sftp = ssh_program(&world, &sshd, "sftp");
    let get = format!("get {} {}\n", there.display(), back.display());
    succeed(sftp.args(["-q", "-b", "-", "there"]), get.as_bytes());
    assert!(fs::read(&back).unwrap() == bytes);
}

#[test]
fn a_forward_of_sshs_own_runs_inside() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let target = tcp_server(echo);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = ssh_program(&world, &sshd, "ssh");
    command.args(["-L", &format!("127.0.0.1:{port}:{target}"), "there", "echo up; cat"]);
    command.stdin(Stdio::piped());
    let mut keep = None;
    let session = Process::start_with(&mut command, |child| keep = child.stdin.take());
    session.wait_for("up");
    let mut stream = connect(([127, 0, 0, 1], port).into());
    let mut knock = || {
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    knock();
    world.relay.cut();
    knock();
    world.relay.renumber();
    knock();
}

#[test]
fn the_ssh_agent_is_forwarded() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let (Some(ssh_agent), Some(ssh_add)) = (program("ssh-agent"), program("ssh-add")) else {
        return;
    };
    let socket = world.dir.join("agent.sock");
    let mut command = Command::new(ssh_agent);
    let _agent = Process::start(command.arg("-D").arg("-a").arg(&socket));
    until_there(&socket);
    let mut add = Command::new(ssh_add);
    succeed(add.arg("-q").arg(sshd.dir.join("user")).env("SSH_AUTH_SOCK", &socket), b"");
    let mut ssh = ssh_program(&world, &sshd, "ssh");
    ssh.args(["-A", "there", "ssh-add -l"]).env("SSH_AUTH_SOCK", &socket);
    let keys = String::from_utf8(succeed(&mut ssh, b"")).unwrap();
    assert!(keys.contains("ED25519"), "{keys}");
}

fn until_there(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while std::os::unix::net::UnixStream::connect(path).is_err() {
        assert!(Instant::now() < deadline, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `evermux ssh` to this sshd, past the relay: the agent there is a new one.
fn evermux_ssh(world: &World, sshd: &Sshd, own: &[&str], remote: &str) -> Command {
    let mut command = world.evermux(&["ssh"]);
    command.args(own).args(["--agent-listen", "127.0.0.1:0", "--remote-program", remote]);
    command.args(sshd.identity()).args(["-p", &sshd.port.to_string(), "127.0.0.1"]);
    command.env_remove("EVERMUX_LINK");
    command
}

#[test]
fn evermux_ssh_starts_its_own_agent_and_leaves_none_behind() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let mut ssh = evermux_ssh(&world, &sshd, &[], EVERMUX);
    // The shell there is a child of sshd's, which came through an agent of its own.
    ssh.args(["cat; echo $PPID; exit 5"]);
    let output = run(&mut ssh, b"hello\n");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{errors}");
    assert!(output.stdout.starts_with(b"hello\n"), "{errors}");
    until_no_agent_runs_once(&sshd);
}

/// The agents that this sshd's clients have started end with their sessions.
fn until_no_agent_runs_once(sshd: &Sshd) {
    let deadline = Instant::now() + PATIENCE;
    let home = format!("HOME={}/home", sshd.dir.display());
    let has = |entry: &fs::DirEntry, file: &str, word: &str| {
        let text = fs::read(entry.path().join(file)).unwrap_or_default();
        text.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    let runs_once =
        |entry: fs::DirEntry| has(&entry, "cmdline", "--once") && has(&entry, "environ", &home);
    while fs::read_dir("/proc").unwrap().flatten().any(runs_once) {
        assert!(Instant::now() < deadline, "an agent is left behind");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn evermux_ssh_says_how_to_install_what_is_not_there() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let mut ssh = evermux_ssh(&world, &sshd, &[], "no-such-evermux");
    let output = run(ssh.arg("true"), b"");
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cargo install evermux --features cli"), "{said}");
    assert!(said.contains("--upload"), "{said}");
}

#[test]
fn evermux_ssh_brings_itself_along_if_it_may() {
    let world = World::new(&[]);
    let Some(sshd) = Sshd::start(&world.dir) else { return };
    let mut ssh = evermux_ssh(&world, &sshd, &["--upload"], "evermux");
    let output = succeed(ssh.arg("echo arrived"), b"");
    assert_eq!(output, b"arrived\n");
    assert!(sshd.dir.join("home/.local/bin/evermux").is_file());
    // Now it is there.
    let mut ssh = evermux_ssh(&world, &sshd, &[], "evermux");
    assert_eq!(succeed(ssh.arg("echo again"), b""), b"again\n");
    until_no_agent_runs_once(&sshd);
}

#[test]
fn evermux_ssh_tells_an_unreachable_host_by_sshs_own_words() {
    let world = World::new(&[]);
    if program("ssh").is_none() {
        return;
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut ssh = world.evermux(&["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-p"]);
    let output = run(ssh.args([&closed.to_string(), "127.0.0.1", "true"]), b"");
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("refused") && said.contains("could not reach"), "{said}");
}
