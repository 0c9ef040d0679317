//! `evermux proxy`: standard input and output, joined to a pipe.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use evermux::{BackedReader, BackedWriter, ReadError, WriteError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::args::ProxyArgs;
use crate::connect::{Agent, connect};
use crate::control::{Control, Role};
use crate::endpoint::Endpoint;
use crate::exit::{Code, Failure};
use crate::request::{NoAnswer, Request, read_answer};
use crate::sessions::Sessions;
use crate::{known_links, signals};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// What shells return for a program that a signal has ended.
const INTERRUPTED: u8 = 130;

/// Carries bytes both ways until both have ended, or a signal comes: then not
/// everything has arrived, but nothing is wrong (ssh sends one when it is done).
pub async fn run(args: ProxyArgs) -> Result<ExitCode, Failure> {
    let (link, target) = match &args.words[..] {
        [link, target] => (Some(link.as_str()), target),
        [target] => (None, target),
        _ => return Err(Failure::new(Code::Usage, "a link and a target are needed")),
    };
    let target: Endpoint = target.parse().map_err(|wrong| Failure::new(Code::Usage, wrong))?;
    if link == Some("-") {
        return Err(Failure::new(Code::Usage, "standard input is for the target's bytes"));
    }
    let link = known_links::find(link)?;
    let output = Output::take()?;

    let mut end = std::pin::pin!(signals::asked_to_end());
    let agent = tokio::select! {
        asked = &mut end => return asked.map(|()| ExitCode::from(INTERRUPTED)),
        agent = connect(&link, &args.reach) => agent?,
    };
    let sessions = Arc::new(Sessions::default());
    let _listed = sessions.list(agent.session.clone());
    let _control = Control::open(Role::Proxy, agent.address.clone(), sessions)?;
    let outcome = tokio::select! {
        asked = &mut end => asked.map(|()| ExitCode::from(INTERRUPTED)),
        outcome = join(&agent, &target, output) => outcome.map(|()| ExitCode::SUCCESS),
    };
    agent.leave().await;
    outcome
}

async fn join(agent: &Agent, target: &Endpoint, output: Output) -> Result<(), Failure> {
    let pipe = agent.open(&Request::Connect(target.clone())).await?;
    let (mut reader, mut writer) = pipe.into_split();
    let up = upload(agent, &mut writer);
    let down = download(agent, &mut reader, output);
    tokio::try_join!(up, down)?;
    // What was written is read there before this process ends.
    match agent.session.shutdown().await {
        Ok(()) => Ok(()),
        Err(error) if error.is_graceful() => Ok(()),
        Err(error) => Err(agent.failure(&error)),
    }
}

/// From standard input into the pipe.
async fn upload(agent: &Agent, writer: &mut BackedWriter) -> Result<(), Failure> {
    let mut input = input();
    let mut buf = vec![0; CHUNK];
    loop {
        let len = tokio::select! {
            len = input.read(&mut buf) => len.map_err(|error| broken("standard input", &error))?,
            Err(error) = writer.wait_acked(u64::MAX) => return unwanted(agent, error),
        };
        if len == 0 {
            writer.finish();
            return Ok(());
        }
        if let Err(error) = writer.write_all(&buf[..len]).await {
            return unwanted(agent, error);
        }
    }
}

/// The pipe takes no more.
fn unwanted(agent: &Agent, error: WriteError) -> Result<(), Failure> {
    match error {
        WriteError::Session(error) => Err(agent.failure(&error)),
        // The other way may go on.
        _ => Ok(()),
    }
}

/// From the pipe to standard output.
async fn download(agent: &Agent, reader: &mut BackedReader, output: Output) -> Result<(), Failure> {
    match read_answer(reader).await {
        Ok(_) => {}
        Err(NoAnswer::Refused(refusal)) => return Err(refusal.into()),
        Err(NoAnswer::Ended(_)) => return Err(agent.lost().await),
    }
    let Output(mut output) = output;
    loop {
        match reader.read_chunk(CHUNK).await {
            Ok(Some(chunk)) => match output.write_all(&chunk).await {
                Ok(()) => {
                    output.flush().await.map_err(|error| broken("standard output", &error))?
                }
                // Nobody reads any more. What comes in goes on.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    reader.stop(0);
                    return Ok(());
                }
                Err(error) => return Err(broken("standard output", &error)),
            },
            // Closes it: whoever reads sees the end, and may go on writing.
            Ok(None) => return Ok(()),
            Err(ReadError::Session(error)) => return Err(agent.failure(&error)),
            Err(_) => {
                return Err(Failure::new(Code::Io, "the target broke the connection off"));
            }
        }
    }
}

fn broken(what: &str, error: &io::Error) -> Failure {
    Failure::new(Code::Io, format!("{what}: {error}"))
}

/// Standard input: polled if it is a pipe, as from ssh, else read by a thread.
fn input() -> Box<dyn AsyncRead + Unpin + Send> {
    let polled = io::stdin().as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd);
    match polled {
        Ok(receiver) => Box::new(receiver),
        Err(_) => Box::new(tokio::io::stdin()),
    }
}

/// Standard output, and the only holder of it: dropping it closes it.
struct Output(Box<dyn AsyncWrite + Unpin + Send>);

impl Output {
    fn take() -> Result<Self, Failure> {
        let failed = |error: io::Error| broken("standard output", &error);
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        let nowhere = OpenOptions::new().write(true).open("/dev/null").map_err(failed)?;
        rustix::stdio::dup2_stdout(&nowhere).map_err(|error| failed(error.into()))?;
        let output = File::from(output);
        let polled =
            output.try_clone().and_then(|output| pipe::Sender::from_owned_fd(output.into()));
        match polled {
            Ok(sender) => Ok(Self(Box::new(sender))),
            Err(_) => Ok(Self(Box::new(tokio::fs::File::from_std(output)))),
        }
    }
}
