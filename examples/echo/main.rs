//! The first thing to run: links that outlive their connections, in one process.
//!
//! An echo server, a client with many pipes, and between them a UDP relay that
//! cuts the connection dead, freezes, renumbers the client's port, loses and
//! reorders. Every byte is sent there and back and compared.
//!
//! ```text
//! cargo run --release --example echo
//! cargo run --release --example echo -- --pipes 32 --mib 8 --cuts 12 --renumbers 4 --loss 2
//! ```
//!
//! You should see outages come and go while the bytes go on, and at the end one
//! line that says that every byte returned. Any difference ends with exit code
//! 1 and says which pipe and offset.

mod args;
mod payload;
mod progress;
#[path = "../relay/mod.rs"]
mod relay;
mod weather;

use std::error::Error;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, Identity, ReconnectPolicy, Server, ServerConfig,
    ServerTls,
};
use sha2::{Digest, Sha256};

use args::Args;
use payload::Payload;
use progress::Progress;
use relay::Relay;

type BoxError = Box<dyn Error + Send + Sync>;

/// Bytes written or read at a time.
const CHUNK: usize = 64 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("{wrong}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    match run(args).await {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<String, BoxError> {
    let payloads = (0..args.pipes)
        .map(|pipe| Payload::new(&args, pipe).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    let total: u64 = payloads.iter().map(|payload| payload.len()).sum();

    let identity = Identity::self_signed(&["localhost"])?;
    let trust = ClientTls::with_pin(identity.fingerprint());
    let server =
        Server::bind((Ipv4Addr::LOCALHOST, 0).into(), ServerConfig::new(ServerTls::new(identity)))?;
    let relay = Arc::new(Relay::start(server.local_addr()?, args.seed).await?);
    let echo = tokio::spawn(serve(server));

    let mut config = ClientConfig::new(trust);
    config
        .attempt_timeout(Duration::from_secs(3))
        .reconnect(ReconnectPolicy::exponential(Duration::from_millis(50), Duration::from_secs(1)));
    let session = Client::new(config)?.connect(relay.addr()).await?;

    let progress = Arc::new(Progress::new(total));
    let watching = tokio::spawn(progress.clone().watch(session.clone()));
    let weather = tokio::spawn(weather::rage(relay.clone(), progress.clone(), args.clone()));
    let mut pipes = tokio::task::JoinSet::new();
    for (number, payload) in payloads.into_iter().enumerate() {
        let pipe = session.open_pipe(format!("echo {number}"))?;
        pipes.spawn(there_and_back(number, pipe, payload, progress.clone()));
    }
    while let Some(done) = pipes.join_next().await {
        done??;
    }
    let weather = weather.await?;
    session.shutdown().await?;
    let stats = session.stats();
    watching.abort();
    echo.abort();
    progress.clear();

    let dropped = relay.stats().to_server.dropped.total() + relay.stats().to_client.dropped.total();
    Ok(format!(
        "{} pipes, {} MiB there and back in {:.1} s, {weather}, {} resumes, {:.1} s without a \
         link, {:.1} MiB replayed from here, {dropped} packets dropped: every byte returned, none \
         twice (sha256 equal)",
        args.pipes,
        total >> 20,
        progress.elapsed().as_secs_f64(),
        stats.resumes,
        stats.downtime.as_secs_f64(),
        stats.bytes_replayed as f64 / f64::from(1 << 20),
    ))
}

/// Sends everything back, pipe by pipe.
async fn serve(server: Server) {
    while let Some(incoming) = server.accept().await {
        let session = incoming.accept();
        tokio::spawn(async move {
            while let Ok(Some(pipe)) = session.accept_pipe().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = pipe.into_split();
                    if let Err(error) = tokio::io::copy(&mut reader, &mut writer).await {
                        eprintln!("server: pipe {}: {error}", writer.id());
                    }
                    writer.finish();
                });
            }
        });
    }
}

/// Writes the payload to the pipe, and compares what comes back.
async fn there_and_back(
    number: usize,
    pipe: BackedPipe,
    payload: Arc<Payload>,
    progress: Arc<Progress>,
) -> Result<(), BoxError> {
    let (mut reader, mut writer) = pipe.into_split();
    let source = payload.clone();
    let writing = tokio::spawn(async move {
        let mut buf = vec![0; CHUNK];
        let mut hash = Sha256::new();
        let mut offset = 0;
        while offset < source.len() {
            let len = source.read_at(offset, &mut buf)?;
            hash.update(&buf[..len]);
            writer.write_all(&buf[..len]).await?;
            offset += len as u64;
        }
        writer.finish();
        Ok::<_, BoxError>((hash.finalize(), writer))
    });
    let mut expected = vec![0; CHUNK];
    let mut hash = Sha256::new();
    let mut offset = 0;
    while let Some(chunk) = reader.read_chunk(CHUNK).await? {
        hash.update(&chunk);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let len = payload.read_at(offset, &mut expected[..rest.len()])?;
            if len == 0 {
                return Err(format!("pipe {number}: bytes after the end, at {offset}").into());
            }
            if rest[..len] != expected[..len] {
                let at = (0..len).find(|i| rest[*i] != expected[*i]).unwrap_or(0);
                return Err(
                    format!("pipe {number} differs at offset {}", offset + at as u64).into()
                );
            }
            rest = &rest[len..];
            offset += len as u64;
        }
        progress.add(chunk.len());
    }
    if offset != payload.len() {
        return Err(format!("pipe {number} ended at offset {offset}, not {}", payload.len()).into());
    }
    let (sent, _writer) = writing.await??;
    if sent != hash.finalize() {
        return Err(format!("pipe {number}: the hashes differ").into());
    }
    Ok(())
}
