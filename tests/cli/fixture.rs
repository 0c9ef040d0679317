//! A directory, processes, an agent, and the bad network before it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::relay::{Direction, Faults, Relay};

/// Fails a test that waits for what never comes; no test waits for its end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub const EVERMUX: &str = env!("CARGO_BIN_EXE_evermux");

/// Full sizes: `EVERMUX_CLI_FULL=1 cargo test --features cli --test cli`.
pub fn full() -> bool {
    std::env::var_os("EVERMUX_CLI_FULL").is_some()
}

/// Where a program is; `None`, with a printed reason, if it is not installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// A directory that is removed in the end.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = format!("evermux-cli-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that runs beside the test. Killed when dropped.
pub struct Process {
    child: Child,
    said: Arc<Said>,
    readers: Vec<JoinHandle<()>>,
}

/// The lines that a process has printed, on either output.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
    /// Outputs that have ended.
    ended: AtomicU32,
}

impl Said {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, |_| {})
    }

    /// As [`start`](Self::start); `take` may take its standard input.
    pub fn start_with(command: &mut Command, take: impl FnOnce(&mut Child)) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        take(&mut child);
        let said = Arc::new(Said::default());
        let stdout = child.stdout.take().map(|output| listen(output, said.clone()));
        let stderr = child.stderr.take().map(|output| listen(output, said.clone()));
        Self { child, said, readers: stdout.into_iter().chain(stderr).collect() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that has `text` in it.
    pub fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.said.lines();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = left.is_zero() || self.said.ended.load(Ordering::Relaxed) == 2;
            assert!(!over, "{text:?} was never said, only {:#?}", *lines);
            lines = self.said.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Everything that was printed so far.
    pub fn said(&self) -> String {
        self.said.lines().join("\n")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_for_exit(&mut self.child);
        // What was printed last is read too.
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("process {} said:\n{}", self.pid(), self.said());
        }
    }
}

fn listen(output: impl Read + Send + 'static, said: Arc<Said>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            said.lines().push(line);
            said.more.notify_all();
        }
        // Under the lock: who waits looks at both.
        let _lines = said.lines();
        said.ended.fetch_add(1, Ordering::Relaxed);
        said.more.notify_all();
    })
}

fn wait_for_exit(child: &mut Child) -> ExitStatus {
    // What it carries at full size takes its time.
    let deadline = Instant::now() + if full() { 10 * PATIENCE } else { PATIENCE };
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "process {} does not end", child.id());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a program to its end, with what it reads.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = thread::spawn(move || {
        // It may not want all of it.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

/// As [`run`], and what was printed to standard output; anything but success fails
/// the test.
pub fn succeed(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run(command, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    output.stdout
}

/// An agent, and a relay through which clients come to it.
pub struct World {
    pub agent: Process,
    pub agent_addr: SocketAddr,
    pub relay: Arc<Relay>,
    pub dir: Dir,
    agent_args: Vec<String>,
    // After all that runs on it.
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// An agent with these options besides its address and directory.
    pub fn new(agent_args: &[&str]) -> Self {
        let dir = Dir::new();
        let agent_args: Vec<String> = agent_args.iter().map(|&arg| arg.to_owned()).collect();
        let (agent, agent_addr) = start_agent(&dir, "127.0.0.1:0".parse().unwrap(), &agent_args);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let relay = Arc::new(runtime.block_on(Relay::start(agent_addr, 1)).unwrap());
        Self { agent, agent_addr, relay, dir, agent_args, _runtime: runtime }
    }

    /// The agent's link.
    pub fn link(&self) -> String {
        fs::read_to_string(self.dir.join("link")).unwrap().trim().to_owned()
    }

    /// The program, with the files and the link of this world, past the relay.
    pub fn evermux(&self, args: &[&str]) -> Command {
        let mut command = evermux(&self.dir, args);
        command.env("EVERMUX_LINK", format!("@{}", self.dir.join("link").display()));
        command
    }

    /// A client that comes through the relay; `args` without its link.
    pub fn client(&self, verb: &str, args: &[&str]) -> Command {
        let server = format!("--server={}", self.relay.addr());
        let mut command = self.evermux(&[verb, &server]);
        command.args(args);
        command
    }

    /// A `forward -L` to a port of this machine, ready, and where it listens.
    pub fn forward(&self, target: SocketAddr) -> (Process, SocketAddr) {
        self.forward_with(&["-L", &format!("127.0.0.1:0:{target}")])
    }

    /// A `forward` with these options, ready, and where it listens (the first, if
    /// there are more).
    pub fn forward_with(&self, args: &[&str]) -> (Process, SocketAddr) {
        let forward = Process::start(&mut self.client("forward", args));
        let line = forward.wait_for("listening on");
        forward.wait_for("ready");
        let word = line.split_whitespace().nth(3).unwrap();
        (forward, word.parse().unwrap_or_else(|_| panic!("no address in {line:?}")))
    }

    /// Kills the agent without a warning, and starts it again at the same address.
    pub fn restart_agent(&mut self) {
        self.kill_agent();
        self.start_agent_again();
    }

    /// Kills the agent without a warning.
    pub fn kill_agent(&mut self) {
        self.agent.signal("-KILL");
        self.agent.wait();
    }

    /// Starts an agent that was killed, at the same address.
    pub fn start_agent_again(&mut self) {
        let (agent, addr) = start_agent(&self.dir, self.agent_addr, &self.agent_args);
        assert_eq!(addr, self.agent_addr);
        self.agent = agent;
    }

    /// The worst day of a network, until what is returned is dropped.
    pub fn storm(&self) -> Storm {
        Storm::over(self.relay.clone())
    }
}

/// The program, with its files in `dir`.
pub fn evermux(dir: &Dir, args: &[&str]) -> Command {
    let mut command = Command::new(EVERMUX);
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("EVERMUX_LINK")
        .env_remove("SSH_CONNECTION")
        .env("EVERMUX_CONFIG_DIR", dir.join("config"))
        .env("EVERMUX_CONTROL_DIR", dir.join("control"));
    command
}

fn start_agent(dir: &Dir, listen: SocketAddr, args: &[String]) -> (Process, SocketAddr) {
    let state = dir.join("state").display().to_string();
    let listen = listen.to_string();
    let mut command = evermux(dir, &["agent", "--listen", &listen, "--state", &state]);
    let agent = Process::start(command.args(args));
    let link = agent.wait_for("evermux://");
    agent.wait_for("listening on UDP");
    let path = dir.join("link");
    fs::write(&path, &link).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, private).unwrap();
    let address = link.strip_prefix("evermux://").unwrap().split('/').next().unwrap();
    (agent, address.parse().unwrap())
}

/// Loses 2 % of all packets, cuts connections dead, freezes, renumbers.
pub struct Storm {
    relay: Arc<Relay>,
    over: Arc<AtomicBool>,
    raging: Option<JoinHandle<()>>,
}

impl Storm {
    fn over(relay: Arc<Relay>) -> Self {
        for direction in [Direction::ToServer, Direction::ToClient] {
            relay.set_faults(direction, Faults { loss: 0.02, ..Faults::default() });
        }
        let over = Arc::new(AtomicBool::new(false));
        let raging = thread::spawn({
            let (relay, over) = (relay.clone(), over.clone());
            move || rage(&relay, &over)
        });
        Self { relay, over, raging: Some(raging) }
    }
}

fn rage(relay: &Relay, over: &AtomicBool) {
    // Each fault falls into some of what is carried: often enough to strike while
    // it is, seldom enough that something is carried in between.
    let pause = || thread::park_timeout(Duration::from_millis(700));
    loop {
        for fault in [Relay::cut, Relay::renumber, Relay::freeze, Relay::cut] {
            pause();
            if over.load(Ordering::Relaxed) {
                return;
            }
            fault(relay);
            pause();
            relay.thaw();
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(raging) = self.raging.take() {
            raging.thread().unpark();
            let _ = raging.join();
        }
        self.relay.thaw();
        for direction in [Direction::ToServer, Direction::ToClient] {
            self.relay.set_faults(direction, Faults::default());
        }
    }
}

/// A TCP server that gives each connection to `serve`, in a thread of its own.
pub fn tcp_server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// A connection whose reads fail in the end.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Bytes of which each has its own place: one that is lost, doubled or moved is
/// seen.
pub fn payload(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Carries everything from one to the other, slowly enough that the storm strikes.
pub fn carry(mut from: impl Read, to: &mut impl Write) {
    let mut piece = Vec::new();
    loop {
        piece.clear();
        from.by_ref().take(1 << 20).read_to_end(&mut piece).unwrap();
        if piece.is_empty() {
            return;
        }
        to.write_all(&piece).unwrap();
        thread::park_timeout(Duration::from_millis(100));
    }
}

/// Sends everything back.
pub fn echo(mut stream: TcpStream) {
    let mut other = stream.try_clone().unwrap();
    let _ = std::io::copy(&mut stream, &mut other);
    let _ = other.shutdown(std::net::Shutdown::Write);
}
