//! An echo server in a terminal of its own; `echo_client` is the other end.
//!
//! ```text
//! cargo run --release --example echo_server -- --listen 127.0.0.1:4433
//! ```
//!
//! You should see a line when it listens, and one for each session that begins,
//! loses its link, comes back, or ends. It makes development certificates in
//! `certs/` on first use.

#[path = "dev_certs/mod.rs"]
mod dev_certs;

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use evermux::{BackedPipe, Identity, Server, ServerConfig, ServerTls, Session, SessionEvent};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let listen: SocketAddr = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "127.0.0.1:4433".parse()?,
        ["--listen", addr] => addr.parse().map_err(|_| format!("{addr:?} is not ADDRESS:PORT"))?,
        _ => return Err("usage: echo_server [--listen ADDRESS:PORT]".into()),
    };
    let certs = dev_certs::ensure(Path::new(env!("CARGO_MANIFEST_DIR")).join("certs").as_path())?;
    let identity = Identity::from_pem(&certs.server_pem, &certs.server_key)?;
    let server = Server::bind(listen, ServerConfig::new(ServerTls::new(identity)))?;
    println!("listening on {}", server.local_addr()?);
    while let Some(incoming) = server.accept().await {
        println!("a client from {}", incoming.remote_addr());
        tokio::spawn(serve(incoming.accept()));
    }
    Ok(())
}

/// Sends everything back, pipe by pipe, until the session ends.
async fn serve(session: Session) {
    tokio::spawn(tell(session.events(), session.id().to_string()));
    while let Ok(Some(pipe)) = session.accept_pipe().await {
        tokio::spawn(async move {
            if let Err(error) = echo(pipe).await {
                eprintln!("a pipe ended early: {error}");
            }
        });
    }
}

async fn echo(pipe: BackedPipe) -> std::io::Result<()> {
    let (mut reader, mut writer) = pipe.into_split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.finish();
    Ok(())
}

async fn tell(mut events: evermux::Events, id: String) {
    while let Some(event) = events.next().await {
        match event {
            SessionEvent::Detached { cause, .. } => println!("{id}: link down: {cause}"),
            SessionEvent::Resumed { epoch, downtime, .. } => {
                println!("{id}: resumed, epoch {epoch}, after {:.1} s", downtime.as_secs_f64());
            }
            SessionEvent::Migrated { remote_addr, .. } => println!("{id}: now at {remote_addr}"),
            SessionEvent::Closed { error, .. } => println!("{id}: {error}"),
            _ => {}
        }
    }
}
