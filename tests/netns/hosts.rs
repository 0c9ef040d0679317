//! The processes that run in a lab's namespaces, as the test sees them.

use std::process::Stdio;
use std::time::Duration;

use evermux::Identity;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

use crate::lab::{DELAY, Lab, Place, SERVER_ADDR};
use crate::moment::Moment;
use crate::traffic::Traffic;

/// Tells this program which role to play, when it is started by itself.
pub const ROLE: &str = "EVERMUX_NETNS_ROLE";

/// How long something may take that must happen: also for a download that has to get
/// through a window that an outage has shrunk, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process in a namespace. Ends when dropped.
pub struct Host {
    role: &'static str,
    child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// All that it has said, apart from what was waited for.
    heard: Vec<Said>,
}

/// What a process has said, and when.
#[derive(Clone, Debug)]
pub struct Said {
    pub at: Moment,
    pub what: String,
}

impl Said {
    /// What follows the first word, as numbers.
    pub fn numbers<const N: usize>(&self) -> [u64; N] {
        let mut numbers = self.what.split(' ').skip(1).map(|word| word.parse());
        std::array::from_fn(|_| match numbers.next() {
            Some(Ok(number)) => number,
            _ => panic!("{:?} has not {N} numbers", self.what),
        })
    }
}

impl Host {
    /// The long line in the middle of the network.
    pub async fn line(lab: &Lab) -> Self {
        let mut line = Self::spawn(lab, Place::Net, "line", &[&DELAY.as_millis().to_string()]);
        line.hear("ready").await;
        line
    }

    pub async fn server(lab: &Lab, identity: &Identity) -> (Self, Moment) {
        let mut server = Self::spawn(lab, Place::Server, "server", &[SERVER_ADDR]);
        let pem = [&*identity.certificate_pem(), &**identity.private_key_pem()].concat();
        server.tell(&format!("{}\n", pem.trim())).await;
        let listening = server.hear("listening").await.at;
        (server, listening)
    }

    pub async fn phone(lab: &Lab, identity: &Identity, traffic: Traffic) -> Self {
        let (pin, traffic) = (identity.fingerprint().to_string(), traffic.to_string());
        let mut phone = Self::spawn(lab, Place::Phone, "phone", &[SERVER_ADDR, &pin, &traffic]);
        phone.hear("attached").await;
        phone
    }

    fn spawn(lab: &Lab, place: Place, role: &'static str, args: &[&str]) -> Self {
        let program = std::env::current_exe().expect("the test has a file");
        let mut child = Command::new("ip")
            .args(["netns", "exec", &lab.namespace(place)])
            .arg(program)
            .args(args)
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("ip is there");
        let orders = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { role, child, orders, lines, heard: Vec::new() }
    }

    pub async fn tell(&mut self, order: &str) {
        // It may have ended: whoever waits for its answer finds out.
        let _ = self.orders.write_all(format!("{order}\n").as_bytes()).await;
    }

    /// Waits until it says `word`.
    ///
    /// # Panics
    ///
    /// If it does not, or complains.
    pub async fn hear(&mut self, word: &str) -> Said {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let position = self.heard.iter().position(|said| said.what.starts_with(word));
            if let Some(position) = position {
                return self.heard.remove(position);
            }
            let Ok(line) = timeout_at(deadline, self.lines.next_line()).await else {
                panic!("no {word:?} from the {} in {PATIENCE:?}: {:#?}", self.role, self.heard);
            };
            let Ok(Some(line)) = line else {
                panic!("the {} is gone before its {word:?}: {:#?}", self.role, self.heard);
            };
            let (at, what) = line.split_once(' ').expect("a moment and a word");
            let at = at.parse().expect("a moment");
            self.heard.push(Said { at, what: what.to_owned() });
            assert!(!what.starts_with("wrong"), "the {} has read {what}", self.role);
        }
    }

    /// The events of its session so far, as far as they were read.
    pub fn events(&self) -> impl Iterator<Item = &Said> {
        self.heard.iter().filter(|said| said.what.starts_with("event"))
    }

    /// Ends it on the spot, as a crash does.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }
}
