//! The control socket of a running agent or client: who may open it may ask for
//! its state and end its sessions. That is its owner only (0600, in a directory
//! of 0700).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

use crate::agent;
use crate::exit::{Code, Failure};
use crate::sessions::{SessionStatus, Sessions};
use crate::{places, private_file};

/// Longest question, in bytes.
const QUESTION_MAX: u64 = 4096;

/// How long a process may take to answer: it may be stopped.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Agent,
    Forward,
    Proxy,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Forward => "forward",
            Self::Proxy => "proxy",
        }
    }
}

/// A line of JSON each way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    Status,
    /// End the session whose id begins so.
    Kill(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Status(ProcessStatus),
    /// The id of the session that was ended; `None` if there is none.
    Killed(Option<String>),
    Wrong(String),
}

/// A process at one moment. The names are those of `status --json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    pub role: Role,
    pub pid: u32,
    pub version: String,
    pub protocol: u32,
    /// Where an agent listens, and which agent a client uses.
    pub address: String,
    pub running_seconds: f64,
    pub sessions: Vec<SessionStatus>,
}

/// Answers until dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: AbortHandle,
}

impl Control {
    pub fn open(role: Role, address: String, sessions: Arc<Sessions>) -> Result<Self, Failure> {
        let dir = places::control()?;
        private_file::make_dir(&dir)?;
        let path = dir.join(format!("{}-{}.sock", role.name(), std::process::id()));
        let failed = |error: io::Error| {
            Failure::new(Code::CannotCreate, format!("{}: {error}", path.display()))
        };
        // Somebody had this process id before.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, owner_only).map_err(failed)?;
        let process = Process { role, address, begun: Instant::now(), sessions };
        let task = tokio::spawn(process.answer_all(listener)).abort_handle();
        Ok(Self { path, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Process {
    role: Role,
    address: String,
    begun: Instant,
    sessions: Arc<Sessions>,
}

impl Process {
    /// One at a time: each is a line, and has little time.
    async fn answer_all(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = tokio::time::timeout(ANSWER_WITHIN, self.answer(stream)).await;
                }
                // Out of descriptors, most likely.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        BufReader::new(reader.take(QUESTION_MAX)).read_line(&mut line).await?;
        let answer = match serde_json::from_str(&line) {
            Ok(Question::Status) => Answer::Status(self.status()),
            Ok(Question::Kill(start)) => match self.sessions.find(&start) {
                Ok(found) => Answer::Killed(found.map(|session| {
                    agent::kill(&session);
                    session.id().to_string()
                })),
                Err(wrong) => Answer::Wrong(wrong),
            },
            Err(error) => Answer::Wrong(error.to_string()),
        };
        let json = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        writer.write_all(&json).await?;
        writer.shutdown().await
    }

    fn status(&self) -> ProcessStatus {
        ProcessStatus {
            role: self.role,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: evermux::PROTOCOL_VERSION,
            address: self.address.clone(),
            running_seconds: self.begun.elapsed().as_secs_f64(),
            sessions: self.sessions.statuses(),
        }
    }
}

/// Asks the processes of this user that have a control socket, agents first, until
/// an answer is `enough`.
pub async fn ask(
    question: &Question,
    enough: impl Fn(&Answer) -> bool,
) -> Result<Vec<Answer>, Failure> {
    let dir = places::control()?;
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::file(&dir, &error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    paths.sort();
    let mut answers = Vec::new();
    for path in paths {
        if answers.last().is_some_and(&enough) {
            break;
        }
        match tokio::time::timeout(ANSWER_WITHIN, ask_one(&path, question)).await {
            Ok(Ok(answer)) => answers.push(answer),
            // Left over by a process that was killed.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&path);
            }
            Ok(Err(error)) => answers.push(Answer::Wrong(format!("{}: {error}", path.display()))),
            Err(_) => answers.push(Answer::Wrong(format!("{}: no answer", path.display()))),
        }
    }
    Ok(answers)
}

async fn ask_one(path: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path).await?;
    let mut line = serde_json::to_vec(question).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut json = Vec::new();
    stream.read_to_end(&mut json).await?;
    serde_json::from_slice(&json).map_err(io::Error::other)
}
