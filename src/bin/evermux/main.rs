//! The program `evermux`: ssh, databases, any TCP service over a link that
//! survives.
//!
//! It uses the library as anybody would: only what `evermux` exports. A client
//! opens a pipe for each connection; the pipe's label asks the agent for a target
//! (`request.rs`), and from then on bytes go both ways (`splice.rs`).

#[cfg(not(unix))]
compile_error!("the program evermux needs a Unix system; the library does not");

#[macro_use]
mod output;

mod agent;
mod args;
mod background;
mod closed_port;
mod connect;
mod control;
mod doctor;
mod endpoint;
mod exit;
mod forward;
mod keys;
mod known_links;
mod link;
mod link_command;
mod log;
mod outage;
mod ping;
mod places;
mod policy;
mod private_file;
mod request;
mod reverse;
mod serve;
mod sessions;
mod shell;
mod signals;
mod socket;
mod socks;
mod splice;
mod ssh;
mod ssh_config;
mod status;
mod stdio;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use exit::{Code, Failure};
use log::TOLD;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(answer) => return answer,
    };
    log::start(cli.quiet, cli.verbose, cli.log_format);
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            let code = failure.code as u8;
            tracing::error!(target: TOLD, code, "{failure}");
            ExitCode::from(code)
        }
    }
}

fn parse() -> Result<Cli, ExitCode> {
    let matches = command().try_get_matches();
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // Help and version are answers, on standard output.
        let code = if error.use_stderr() { Code::Usage as u8 } else { 0 };
        let _ = error.print();
        ExitCode::from(code)
    })
}

/// The command line, with the version of both program and protocol.
fn command() -> clap::Command {
    let (program, protocol) = (env!("CARGO_PKG_VERSION"), evermux::PROTOCOL_VERSION);
    Cli::command().version(format!("{program} (protocol {protocol})"))
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let done = ExitCode::SUCCESS;
    let message_options = cli.message_options();
    match cli.command {
        Command::Link(command) => link_command::run(command).map(|()| done),
        Command::SshConfig(args) => ssh_config::run(&args).map(|()| done),
        Command::Key => {
            say!("{}", keys::own_identity()?.fingerprint());
            Ok(done)
        }
        Command::Agent(args) if args.background => background::run().map(|()| done),
        Command::Completions { shell } => shell::completions(shell).map(|()| done),
        Command::Man => shell::man().map(|()| done),
        command => {
            // What has to wait for the network, signals or other processes.
            let runtime = runtime(&command)
                .map_err(|error| Failure::new(Code::System, format!("no runtime: {error}")))?;
            let outcome = runtime.block_on(run_async(command, &message_options));
            // A thread may still wait for standard input.
            runtime.shutdown_background();
            outcome
        }
    }
}

/// All of a client's tasks on one thread. With more of them a round trip goes from
/// thread to thread, as it passes the tasks of QUIC's endpoint, of its connection, and
/// the copying one: two futex calls each (`strace -c`), and each time a thread has to
/// wake up. An agent may have many clients.
fn runtime(command: &Command) -> std::io::Result<Runtime> {
    let mut builder = match command {
        Command::Agent(_) => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

async fn run_async(command: Command, message_options: &[&str]) -> Result<ExitCode, Failure> {
    match command {
        Command::Agent(args) => agent::run(args).await?,
        Command::Forward(args) => forward::run(args).await?,
        Command::Proxy(args) => return stdio::run(args).await,
        Command::Status(args) => status::status(args).await?,
        Command::Kill(args) => status::kill(args).await?,
        Command::Ping(args) => ping::run(args).await?,
        Command::Doctor(args) => doctor::run(args).await?,
        Command::Ssh(args) => return ssh::run(args, message_options).await,
        // Not for a runtime: done in `run`.
        Command::Link(_)
        | Command::SshConfig(_)
        | Command::Key
        | Command::Completions { .. }
        | Command::Man => {}
    }
    Ok(ExitCode::SUCCESS)
}
