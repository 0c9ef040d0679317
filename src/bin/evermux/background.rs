//! An agent that goes on when the ssh session that has started it is over.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::agent::SshConnection;
use crate::exit::{Code, Failure};
use crate::ssh::MARKER;

/// Starts the same program again, without `--background`, in a process group of its
/// own, and ends once it has printed its link: behind a marker, and with the address
/// of the ssh server that the client has come through.
pub fn run() -> Result<(), Failure> {
    let failed = |error| Failure::new(Code::System, format!("cannot start the agent: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut agent = Command::new(program)
        .args(std::env::args_os().skip(1).filter(|word| word != "--background"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Ours only until the link is there: sshd waits for everybody who holds its
        // own.
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut line = Zeroizing::new(String::with_capacity(1024));
    if let Some(output) = agent.stdout.take() {
        BufReader::new(output.take(1024)).read_line(&mut line).map_err(failed)?;
    }
    if line.is_empty() {
        // It has said why, and is as good as gone.
        let mut why = Vec::new();
        if let Some(mut errors) = agent.stderr.take() {
            errors.read_to_end(&mut why).map_err(failed)?;
        }
        let _ = std::io::stderr().write_all(&why);
        let status = agent.wait().map_err(failed)?;
        return Err(Failure::new(Code::Unavailable, format!("the agent did not start ({status})")));
    }
    let target = SshConnection::from_environment()
        .map_or_else(|| "localhost:22".to_owned(), |ssh| ssh.server.to_string());
    say!("{MARKER} {} {target}", line.trim_end());
    Ok(())
}
