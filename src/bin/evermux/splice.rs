//! A socket and a pipe, joined: what comes out of one goes into the other, ends
//! included.

use std::fmt;

use evermux::{BackedReader, BackedWriter, ReadError, WriteError};

use crate::request::{NoAnswer, read_answer};
use crate::socket::{Socket, SocketReader, SocketWriter};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// The code of resets and stops: a connection on the other side broke.
const BROKEN: u32 = 1;

/// Why a join ended early.
#[derive(Debug)]
pub enum Broken {
    /// The connection here, with what the system said.
    Socket(std::io::Error),
    /// The peer's writer gave up, or the session has ended.
    Reader(ReadError),
    /// There was no answer, or a bad one.
    Request(NoAnswer),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => write!(f, "the connection here broke: {error}"),
            Self::Reader(ReadError::Reset { .. }) => f.write_str("the connection there broke"),
            Self::Reader(error) | Self::Request(NoAnswer::Ended(Some(error))) => error.fmt(f),
            Self::Request(NoAnswer::Refused(refusal)) => refusal.fmt(f),
            Self::Request(NoAnswer::Ended(None)) => f.write_str("no answer"),
        }
    }
}

/// Who sends an answer before the bytes of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The peer: it was asked for something.
    Expected,
    /// It is out already.
    Done,
}

/// Carries bytes both ways until both have ended. An end of one way is passed
/// on, and the other goes on.
///
/// # Errors
///
/// What broke; then both connections are broken off, so that nobody takes what
/// has arrived for everything.
pub async fn splice(
    socket: Socket,
    mut reader: BackedReader,
    mut writer: BackedWriter,
    answer: Answer,
) -> Result<(), Broken> {
    let (mut from, mut to) = socket.into_split();
    let joined = {
        let up = upload(&mut from, &mut writer);
        let down = download(&mut reader, &mut to, answer);
        tokio::try_join!(up, down).map(|_| ())
    };
    if joined.is_err() {
        writer.reset(BROKEN);
        reader.stop(BROKEN);
        drop(from);
        to.abort();
    }
    joined
}

/// From the socket into the pipe.
async fn upload(from: &mut SocketReader, writer: &mut BackedWriter) -> Result<(), Broken> {
    let mut buf = vec![0; CHUNK];
    loop {
        let len = tokio::select! {
            biased;
            len = from.read(&mut buf) => len.map_err(Broken::Socket)?,
            // Nobody reads any more there: what comes in here is for nobody.
            Err(error) = writer.wait_acked(u64::MAX) => return unwanted(error),
        };
        if len == 0 {
            writer.finish();
            return Ok(());
        }
        if let Err(error) = writer.write_all(&buf[..len]).await {
            return unwanted(error);
        }
    }
}

/// The pipe takes no more.
fn unwanted(error: WriteError) -> Result<(), Broken> {
    match error {
        WriteError::Session(error) => Err(Broken::Reader(ReadError::Session(error))),
        // The other way may go on.
        _ => Ok(()),
    }
}

/// From the pipe into the socket.
async fn download(
    reader: &mut BackedReader,
    to: &mut SocketWriter,
    answer: Answer,
) -> Result<(), Broken> {
    if answer == Answer::Expected {
        read_answer(reader).await.map_err(Broken::Request)?;
    }
    while let Some(chunk) = reader.read_chunk(CHUNK).await.map_err(Broken::Reader)? {
        if to.write_all(&chunk).await.is_err() {
            // The program here reads no more. What it has sent goes on.
            reader.stop(BROKEN);
            return Ok(());
        }
    }
    to.finish().await;
    Ok(())
}
