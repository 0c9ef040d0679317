//! PostgreSQL, with a cluster of the test's own: a transaction and a COPY do not
//! notice what happens to the link.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::fixture::{Dir, PATIENCE, Process, World, carry, full, payload, program, run, succeed};

/// A server that listens on a Unix socket only: there is no port to be taken.
struct Postgres {
    programs: PathBuf,
    user: Option<User>,
    // Stopped before its directory goes.
    _daemon: Process,
    home: Dir,
}

/// Whom it runs as: it refuses to be root.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// `None`, with a printed reason, where there is no PostgreSQL.
    fn start() -> Option<Self> {
        let programs = programs()?;
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let user = if root { Some(postgres_user()?) } else { None };
        let home = Dir::new();
        if let Some(User { uid, gid }) = user {
            chown(home.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = home.join("data");
        let mut initdb = command(&programs, "initdb", user, home.path());
        initdb.args(["--auth=trust", "--username=postgres", "--no-locale", "--encoding=UTF8"]);
        succeed(initdb.arg("--no-sync").arg(&data), b"");
        let mut postgres = command(&programs, "postgres", user, home.path());
        postgres.arg("-D").arg(&data).arg("-k").arg(home.path());
        // Nothing outside of its directory, and no wait for a disk.
        for setting in ["listen_addresses=", "dynamic_shared_memory_type=mmap", "fsync=off"] {
            postgres.args(["-c", setting]);
        }
        let daemon = Process::start(&mut postgres);
        daemon.wait_for("ready to accept connections");
        Some(Self { programs, user, _daemon: daemon, home })
    }

    fn socket(&self) -> PathBuf {
        self.home.join(".s.PGSQL.5432")
    }

    /// A forward to its socket, ready, and where it listens.
    fn forward(&self, world: &World) -> (Process, SocketAddr) {
        world.forward_with(&["-L", &format!("127.0.0.1:0:{}", self.socket().display())])
    }

    /// psql as it comes, whoever runs it.
    fn psql(&self, host: &str, port: u16) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-h", host, "-p", &port.to_string(), "-U", "postgres"]);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// psql that comes over the link.
    fn psql_at(&self, addr: SocketAddr) -> Command {
        self.psql(&addr.ip().to_string(), addr.port())
    }

    /// What others see who need no link.
    fn ask(&self, query: &str) -> String {
        let mut psql = self.psql(&self.home.path().display().to_string(), 5432);
        String::from_utf8(succeed(psql.args(["-c", query]), b"")).unwrap().trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It has children of its own, which a kill would leave to themselves.
        let mut stop = command(&self.programs, "pg_ctl", self.user, self.home.path());
        stop.args(["stop", "--mode=immediate", "--silent", "-D"]).arg(self.home.join("data"));
        let _ = stop.status();
    }
}

/// Where the newest version has its programs: Debian leaves them out of the path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let dirs = versions.map(|version| version.path().join("bin"));
    let newest = dirs.filter(|dir| dir.join("initdb").is_file()).max();
    newest.or_else(|| program("initdb")?.parent().map(Path::to_path_buf))
}

/// The user that comes with its package.
fn postgres_user() -> Option<User> {
    let id = |option| {
        let output = run(Command::new("id").args([option, "postgres"]), b"");
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let user = id("-u").zip(id("-g")).map(|(uid, gid)| User { uid, gid });
    if user.is_none() {
        eprintln!("skipped: this is root, and there is no user postgres");
    }
    user
}

fn command(programs: &Path, name: &str, user: Option<User>, dir: &Path) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(dir);
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

#[test]
fn an_open_transaction_outlives_its_connections() {
    let world = World::new(&["--allow", "/*"]);
    let Some(server) = Postgres::start() else { return };
    let (forward, addr) = server.forward(&world);
    let mut keyboard = None;
    let mut psql = server.psql_at(addr);
    let session = Process::start_with(psql.stdin(Stdio::piped()), |child| {
        keyboard = child.stdin.take();
    });
    let mut keyboard = keyboard.unwrap();
    let mut type_in = |line: &str| writeln!(keyboard, "{line}").unwrap();

    type_in("create table told (number int, word text); begin;");
    type_in("insert into told values (1, 'before');");
    type_in("select 'held by ' || pg_backend_pid();");
    let holder = session.wait_for("held by ");
    let pid = holder.rsplit(' ').next().unwrap();
    let state = format!("select state from pg_stat_activity where pid = {pid}");

    // To the death of the connection.
    world.relay.cut();
    type_in("insert into told values (2, 'between');");
    type_in("select 'still ' || 'held by ' || pg_backend_pid();");
    assert_eq!(session.wait_for("still held by "), format!("still {holder}"));
    assert!(world.relay.stats().to_server.dropped.cut > 0);
    assert_eq!(server.ask(&state), "idle in transaction");
    assert_eq!(server.ask("select count(*) from told"), "0");

    // And of the next, for longer than a word is worth.
    world.relay.cut();
    world.relay.freeze();
    type_in("insert into told values (3, 'after'); commit;");
    type_in("select 'committed by ' || pg_backend_pid();");
    forward.wait_for("no contact with the agent");
    assert_eq!(server.ask(&state), "idle in transaction");
    assert_eq!(server.ask("select count(*) from told"), "0");
    world.relay.thaw();
    assert_eq!(session.wait_for("committed by "), format!("committed by {pid}"));
    let told = server.ask("select string_agg(word, ', ' order by number) from told");
    assert_eq!(told, "before, between, after");

    drop(keyboard);
    let mut session = session;
    assert!(session.wait().success());
}

#[test]
fn a_query_is_cancelled_over_a_connection_of_its_own() {
    let world = World::new(&["--allow", "/*"]);
    let Some(server) = Postgres::start() else { return };
    let (_forward, addr) = server.forward(&world);
    let mut psql = Process::start(server.psql_at(addr).args(["-c", "select pg_sleep(3600)"]));
    let active = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    let deadline = Instant::now() + PATIENCE;
    while server.ask(active) != "1" {
        assert!(Instant::now() < deadline, "the query does not begin");
    }
    world.relay.cut();
    // psql answers a Ctrl-C with a request on a second connection, and waits for
    // its end.
    psql.signal("-INT");
    assert_eq!(psql.wait().code(), Some(1));
    psql.wait_for("canceling statement due to user request");
    assert_eq!(server.ask(active), "0");
}

#[test]
fn a_copy_in_and_out_is_the_same_after_a_storm() {
    let world = World::new(&["--allow", "/*"]);
    let Some(server) = Postgres::start() else { return };
    let (_forward, addr) = server.forward(&world);
    let rows = rows(if full() { 200 << 20 } else { 24 << 20 });
    server.ask("create table word (number int primary key, text text)");
    let all = "copy (select * from word order by number) to stdout";

    let begun = Instant::now();
    let storm = world.storm();
    copy_in(&mut server.psql_at(addr), "copy word from stdin", rows.clone());
    let copied_in = begun.elapsed();
    // Byte by byte, past the link: only one direction is looked at.
    assert!(server.ask(all) == rows.trim_end());
    let begun = Instant::now();
    let out = copy_out(&mut server.psql_at(addr), all);
    let copied_out = begun.elapsed();
    drop(storm);
    assert!(out == rows.as_bytes(), "{} bytes of {}", out.len(), rows.len());
    let stats = world.relay.stats();
    assert!(stats.to_server.dropped.cut > 0, "the storm has struck");
    println!(
        "{} MiB in after {copied_in:.1?}, out after {copied_out:.1?}; cut off on the way: {} and {}",
        rows.len() >> 20,
        stats.to_server.dropped.cut,
        stats.to_client.dropped.cut,
    );
}

/// About so many bytes, as COPY reads and writes them: each row differs.
fn rows(len: usize) -> String {
    let mut rows = String::with_capacity(len + 100);
    let words = payload(len / 2);
    for (number, word) in words.chunks_exact(32).enumerate() {
        write!(rows, "{number}\t").unwrap();
        for part in word.chunks_exact(8) {
            let part = u64::from_le_bytes(part.try_into().unwrap());
            write!(rows, "{part:016x}").unwrap();
        }
        rows.push('\n');
    }
    rows
}

fn copy_in(psql: &mut Command, query: &str, rows: String) {
    let mut stdin = None;
    psql.args(["-c", query]).stdin(Stdio::piped());
    let mut copying = Process::start_with(psql, |child| stdin = child.stdin.take());
    let mut stdin = stdin.unwrap();
    in_time(move || carry(rows.as_bytes(), &mut stdin));
    assert!(copying.wait().success(), "{}", copying.said());
}

fn copy_out(psql: &mut Command, query: &str) -> Vec<u8> {
    let mut stdout = None;
    let mut copying = Process::start_with(psql.args(["-c", query]), |child| {
        stdout = child.stdout.take();
    });
    let stdout = stdout.unwrap();
    let out = in_time(move || {
        let mut out = Vec::new();
        carry(stdout, &mut out);
        out
    });
    assert!(copying.wait().success(), "{}", copying.said());
    out
}

/// Fails the test if `work` takes for ever; what it waits for is killed then.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(work());
    });
    is_done.recv_timeout(10 * PATIENCE).expect("the copy ends")
}
