//! `evermux ssh`: ssh over a link that it sets up by itself.
//!
//! As mosh does: ssh starts an agent there that serves one session
//! (`agent --once --background`), whose link comes back on its standard output.
//! Then the user's own ssh runs through `evermux proxy`. The secret travels inside of
//! ssh, and from then on in environment variables; it is on no command line.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};

use tokio::process::Command;
use tokio::signal::unix::SignalKind;

use crate::args::{ReachArgs, SshArgs};
use crate::exit::{Code, Failure};
use crate::known_links;
use crate::link::Link;
use crate::log::TOLD;

/// Before the link on the agent's standard output. Whatever else is said there
/// (greetings of login scripts) is ignored.
pub const MARKER: &str = "EVERMUX-LINK";

/// What a shell returns for a program that it does not find.
const NOT_FOUND: i32 = 127;

/// ssh's options that take a value.
const WITH_VALUE: &str = "BbcDEeFIiJLlmOoPpQRSWw";

/// Of the options without a value, those that are not for the way to the host but
/// for what is done there.
const FOR_THE_SESSION: &str = "fNnsTtG";

/// Where programs of users are, for ssh servers that do not know.
const PATH: &str = "PATH=\"$HOME/.local/bin:$HOME/.cargo/bin:$PATH\"";

/// Runs ssh, and ends as it does.
pub async fn run(args: SshArgs, message_options: &[&str]) -> Result<ExitCode, Failure> {
    let line = Line::parse(&args.words)?;
    let mut bootstrapped = bootstrap(&args, &line).await?;
    if bootstrapped.is_none() && args.upload {
        upload(&args, &line).await?;
        bootstrapped = bootstrap(&args, &line).await?;
    }
    let Some(Bootstrapped { mut link, target }) = bootstrapped else {
        let host = line.destination.display();
        return Err(Failure::new(
            Code::Unavailable,
            format!(
                "evermux is not installed on {host}. Install it there:\n\
                 ssh {host} cargo install evermux --features cli\n\
                 or run this again with `evermux ssh --upload`, which copies this program there"
            ),
        ));
    };
    if let (None, Some(host)) = (&args.reach.server, resolved_host(&args.ssh, &line).await) {
        let port = link.address.rsplit(':').next().unwrap_or_default();
        link.address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
    }
    // Ctrl-C is for ssh, and so is what it makes of it.
    let _interrupts = tokio::signal::unix::signal(SignalKind::interrupt());
    let status = Command::new(&args.ssh)
        .arg("-o")
        .arg(proxy_command(message_options, &args.reach, &target)?)
        // The keep-alive of ssh runs inside of the stream: it would end a session
        // whose network is merely away. A master of earlier has no part in this.
        .args(["-o", "ServerAliveInterval=0", "-o", "ControlPath=none"])
        .args(&args.words)
        .env(known_links::VARIABLE, link.to_text().as_str())
        .status()
        .await
        .map_err(|error| no_ssh(&args.ssh, &error))?;
    Ok(code_of(status))
}

/// The option that has ssh come through us.
fn proxy_command(
    message_options: &[&str],
    reach: &ReachArgs,
    target: &str,
) -> Result<OsString, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Code::System, format!("the path of evermux: {error}")))?;
    let mut command = OsString::from("ProxyCommand=");
    // ssh passes it to a shell, after it has replaced what a % stands for.
    command.push(quoted(program.as_os_str()).replace('%', "%%"));
    command.push(" proxy");
    message_options.iter().for_each(|option| command.push(format!(" {option}")));
    if let Some(server) = &reach.server {
        command.push(format!(" --server={}", quoted(OsStr::new(server))));
    }
    if let Some(outage) = &reach.give_up_after {
        command.push(format!(" --give-up-after={}", quoted(OsStr::new(&outage.to_string()))));
    }
    command.push(format!(" {}", quoted(OsStr::new(target)).replace('%', "%%")));
    Ok(command)
}

/// A word for a POSIX shell.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

/// An agent there that waits for us.
struct Bootstrapped {
    link: Link,
    /// The ssh server, seen from the agent.
    target: String,
}

/// Starts an agent there; `None` if there is no evermux.
async fn bootstrap(args: &SshArgs, line: &Line) -> Result<Option<Bootstrapped>, Failure> {
    let listen = args.agent_listen.map(|at| format!(" --listen {at}")).unwrap_or_default();
    let program = quoted(OsStr::new(&args.remote_program));
    let script = format!("{PATH} exec {program} agent --once --background{listen}");
    tracing::debug!(target: TOLD, "starting an agent on {}", line.destination.display());
    let output = line
        .ssh(&args.ssh, &script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its questions and complaints are for the user.
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| no_ssh(&args.ssh, &error))?
        .wait_with_output()
        .await
        .map_err(|error| no_ssh(&args.ssh, &error))?;
    if output.status.code() == Some(NOT_FOUND) {
        return Ok(None);
    }
    let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&output.stdout).into_owned());
    if let Some(found) = find_link(&text)? {
        return Ok(Some(found));
    }
    let host = line.destination.display();
    let why = match output.status.code() {
        // Its own words are on standard error already.
        Some(255) => format!("ssh could not reach {host}"),
        _ => format!("{host} did not start an agent ({})", output.status),
    };
    Err(Failure::new(Code::Unavailable, why))
}

/// The line that begins with the marker: link, then target.
fn find_link(output: &str) -> Result<Option<Bootstrapped>, Failure> {
    for line in output.lines() {
        // A greeting without a new line at its end may stand before it.
        let Some((_, said)) = line.split_once(MARKER) else { continue };
        let words: Vec<&str> = said.split_whitespace().collect();
        let [link, target] = words[..] else {
            return Err(Failure::new(Code::Protocol, "the agent there is of another version"));
        };
        return Ok(Some(Bootstrapped { link: Link::parse(link)?, target: target.to_owned() }));
    }
    Ok(None)
}

/// Copies this program to `~/.local/bin` there.
async fn upload(args: &SshArgs, line: &Line) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .and_then(std::fs::File::open)
        .map_err(|error| Failure::new(Code::Io, format!("this program: {error}")))?;
    tracing::info!(target: TOLD, "copying evermux to {}", line.destination.display());
    // Whole or not at all.
    let script = "dir=\"$HOME/.local/bin\"; mkdir -p \"$dir\" && cat > \"$dir/evermux.new\" && \
                  chmod 755 \"$dir/evermux.new\" && mv \"$dir/evermux.new\" \"$dir/evermux\"";
    let status = line
        .ssh(&args.ssh, script)
        .stdin(program)
        .status()
        .await
        .map_err(|error| no_ssh(&args.ssh, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Code::CannotCreate, format!("evermux could not be copied there ({status})")))
}

/// The host that ssh would connect to, if it connects to it directly: the agent's
/// own idea of its address may be that behind a NAT.
async fn resolved_host(ssh: &Path, line: &Line) -> Option<String> {
    let output = Command::new(ssh)
        .arg("-G")
        .args(&line.way)
        .arg(&line.destination)
        .stderr(Stdio::null())
        .output()
        .await
        .ok()?;
    let config = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| {
        config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::to_owned)
    };
    let direct = ["proxyjump", "proxycommand"]
        .into_iter()
        .all(|key| value(key).is_none_or(|value| value == "none"));
    value("hostname").filter(|_| direct)
}

fn no_ssh(ssh: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::System, format!("cannot run {}: {error}", ssh.display()))
}

fn code_of(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(code as u8),
        // As shells do.
        (None, Some(signal)) => ExitCode::from(128 + signal as u8),
        (None, None) => ExitCode::FAILURE,
    }
}

/// ssh's command line, as far as it has to be understood.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// The options that say how to get there.
    way: Vec<OsString>,
    destination: OsString,
}

impl Line {
    fn parse(words: &[OsString]) -> Result<Self, Failure> {
        let usage = |text: String| Failure::new(Code::Usage, text);
        let mut way = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            if text == "--" {
                continue;
            }
            let Some(letters) = text.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                return Ok(Self { way, destination: word.clone() });
            };
            if letters.starts_with('-') {
                return Err(usage(format!("{text} is no option of ssh's; evermux's come first")));
            }
            // Letters can be put together; the first that takes a value ends that.
            let taking = letters.char_indices().find(|(_, c)| WITH_VALUE.contains(*c));
            let plain = &letters[..taking.map_or(letters.len(), |(at, _)| at)];
            let kept: String = plain.chars().filter(|c| !FOR_THE_SESSION.contains(*c)).collect();
            if !kept.is_empty() {
                way.push(format!("-{kept}").into());
            }
            if let Some((at, letter)) = taking {
                let value = match &letters[at + letter.len_utf8()..] {
                    "" => words
                        .next()
                        .cloned()
                        .ok_or_else(|| usage(format!("ssh's option -{letter} needs a value")))?,
                    value => value.into(),
                };
                // Forwards and the like are for the session; they would be in its
                // way twice.
                if !"DLRWOQS".contains(letter) {
                    way.extend([format!("-{letter}").into(), value]);
                }
            }
        }
        Err(usage("no destination: evermux ssh [ssh options] DESTINATION [command]".into()))
    }

    /// An ssh that runs a script there and nothing else.
    fn ssh(&self, ssh: &Path, script: &str) -> Command {
        let mut command = Command::new(ssh);
        command
            .args(["-T", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none"])
            .args(["-o", "PermitLocalCommand=no"])
            .args(&self.way)
            .arg(&self.destination)
            // Whatever shell the user has there.
            .arg(format!("exec sh -c {}", quoted(OsStr::new(script))));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(String, String), Code> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let line = Line::parse(&words).map_err(|failure| failure.code)?;
        let way: Vec<_> = line.way.iter().map(|word| word.to_string_lossy()).collect();
        Ok((way.join(" "), line.destination.to_string_lossy().into_owned()))
    }

    #[test]
    fn the_way_to_the_host_is_told_from_what_is_done_there() {
        for (line, way, destination) in [
            ("host", "", "host"),
            ("user@host ls -l -p", "", "user@host"),
            ("-p 2222 -i key host", "-p 2222 -i key", "host"),
            ("-p2222 -tt host", "-p 2222", "host"),
            ("-4CN -L 80:a:80 -oBatchMode=yes host", "-4C -o BatchMode=yes", "host"),
            ("-vNfD 1080 -J jump host", "-v -J jump", "host"),
            ("-A -- host cmd", "-A", "host"),
        ] {
            assert_eq!(parse(line), Ok((way.into(), destination.into())), "{line}");
        }
        for wrong in ["", "-p", "-p 22", "--upload host", "-t"] {
            assert_eq!(parse(wrong), Err(Code::Usage), "{wrong}");
        }
    }

    #[test]
    fn the_link_is_found_among_greetings() {
        let link = format!("evermux://10.0.0.1:4000/{}/{}", "ab".repeat(32), "cd".repeat(32));
        let output = format!("Welcome!\nno newline: {MARKER} {link} 10.0.0.1:22\nbye\n");
        let found = find_link(&output).unwrap().unwrap();
        assert_eq!(
            (found.link.address.as_str(), found.target.as_str()),
            ("10.0.0.1:4000", "10.0.0.1:22")
        );
        assert!(find_link("Welcome!\n").unwrap().is_none());
        assert!(find_link(&format!("{MARKER} {link}\n")).is_err());
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted(OsStr::new("a'b c")), r"'a'\''b c'");
    }
}
