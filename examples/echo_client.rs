//! Sends standard input or a file to `echo_server` and back, and verifies it.
//!
//! ```text
//! cargo run --release --example echo_client -- --connect 127.0.0.1:4433 --file PATH
//! ```
//!
//! Without `--file` it sends standard input, and writes what comes back to
//! standard output. You may stop the network in between for as long as you like
//! (the server's linger time is a day): you should see the link go down and come
//! back, and at the end that every byte returned.

#[path = "dev_certs/mod.rs"]
mod dev_certs;

use std::error::Error;
use std::path::{Path, PathBuf};

use evermux::{BackedReader, Client, ClientConfig, ClientTls, Session, SessionEvent, Target};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: echo_client [--connect HOST:PORT] [--file PATH]";

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("echo_client: {error}");
        // Not by returning: that would wait for a read of standard input.
        std::process::exit(1);
    }
}

async fn run() -> Result<(), BoxError> {
    let (mut target, mut file) = ("127.0.0.1:4433".to_owned(), None::<PathBuf>);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--connect" => target = value,
            "--file" => file = Some(value.into()),
            _ => return Err(USAGE.into()),
        }
    }
    let certs = dev_certs::ensure(Path::new(env!("CARGO_MANIFEST_DIR")).join("certs").as_path())?;
    let client = Client::new(ClientConfig::new(ClientTls::with_ca_pem(&certs.ca_pem)?))?;
    let session = client.connect(target.parse::<Target>()?).await?;
    tokio::spawn(tell(session.clone()));
    // The end of the session is seen at once, also while standard input waits.
    let same = tokio::select! {
        same = there_and_back(&session, file) => same?,
        ended = session.closed() => return Err(ended.into()),
    };
    session.shutdown().await?;
    if same { Ok(()) } else { Err("what came back is not what was sent".into()) }
}

/// Sends everything, and says whether the same came back.
async fn there_and_back(session: &Session, file: Option<PathBuf>) -> Result<bool, BoxError> {
    let mut source: Box<dyn AsyncRead + Send + Unpin> = match &file {
        Some(path) => Box::new(tokio::fs::File::open(path).await?),
        None => Box::new(tokio::io::stdin()),
    };
    let (reader, mut writer) = session.open_pipe("echo")?.into_split();
    let returning = tokio::spawn(receive(reader, file.is_none()));
    let mut hash = Sha256::new();
    let (mut sent, mut buf) = (0u64, vec![0; 64 * 1024]);
    loop {
        let len = source.read(&mut buf).await?;
        if len == 0 {
            break;
        }
        hash.update(&buf[..len]);
        writer.write_all(&buf[..len]).await?;
        sent += len as u64;
    }
    writer.finish();
    let (returned, returned_hash) = returning.await??;
    let same = returned == sent && returned_hash == hash.finalize()[..];
    let stats = session.stats();
    eprintln!(
        "{sent} bytes sent, {returned} came back, {} resumes, {} bytes replayed: {}",
        stats.resumes,
        stats.bytes_replayed,
        if same { "sha256 equal" } else { "DIFFERENT" }
    );
    Ok(same)
}

async fn receive(mut reader: BackedReader, show: bool) -> Result<(u64, Vec<u8>), BoxError> {
    let mut hash = Sha256::new();
    let mut stdout = tokio::io::stdout();
    let mut returned = 0;
    while let Some(chunk) = reader.read_chunk(64 * 1024).await? {
        hash.update(&chunk);
        returned += chunk.len() as u64;
        if show {
            stdout.write_all(&chunk).await?;
            stdout.flush().await?;
        }
    }
    Ok((returned, hash.finalize().to_vec()))
}

async fn tell(session: Session) {
    let mut events = session.events();
    drop(session);
    while let Some(event) = events.next().await {
        match event {
            SessionEvent::Suspect { .. } => eprintln!("nothing is heard from the server"),
            SessionEvent::Recovered { silence, .. } => {
                eprintln!("heard again after {:.1} s", silence.as_secs_f64());
            }
            SessionEvent::Detached { cause, .. } => eprintln!("link down: {cause}"),
            SessionEvent::Resuming { attempt, last, .. } => match last {
                Some(last) => eprintln!("attempt {attempt} (the one before: {last})"),
                None => eprintln!("attempt {attempt}"),
            },
            SessionEvent::Resumed { epoch, downtime, .. } => {
                eprintln!("resumed, epoch {epoch}, after {:.1} s", downtime.as_secs_f64());
            }
            _ => {}
        }
    }
}
