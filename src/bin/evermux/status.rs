//! `evermux status` and `evermux kill`: what runs here, asked over the control
//! sockets.

use std::fmt::Write;
use std::time::Duration;

use crate::args::{KillArgs, StatusArgs};
use crate::control::{Answer, ProcessStatus, Question, Role, ask};
use crate::exit::{Code, Failure};
use crate::log::TOLD;
use crate::sessions::{Link, SessionStatus};

pub async fn status(args: StatusArgs) -> Result<(), Failure> {
    let mut processes = Vec::new();
    for answer in ask(&Question::Status, |_| false).await? {
        match answer {
            Answer::Status(process) => processes.push(process),
            Answer::Wrong(wrong) => tracing::warn!(target: TOLD, "{wrong}"),
            Answer::Killed(_) => {}
        }
    }
    if args.json {
        let json = serde_json::to_string_pretty(&processes)
            .map_err(|error| Failure::new(Code::System, error.to_string()))?;
        say!("{json}");
        return Ok(());
    }
    if processes.is_empty() {
        say!("nothing runs here (for another user's: EVERMUX_CONTROL_DIR)");
    }
    processes.iter().for_each(|process| say!("{}", describe(process).trim_end()));
    Ok(())
}

fn describe(process: &ProcessStatus) -> String {
    let mut text = String::new();
    let whose = if process.role == Role::Agent { "on UDP" } else { "to" };
    let _ = writeln!(
        text,
        "{} {} {}, process {}, running for {}, {} session(s)",
        process.role.name(),
        whose,
        process.address,
        process.pid,
        span(process.running_seconds),
        process.sessions.len(),
    );
    for session in &process.sessions {
        describe_session(&mut text, session);
    }
    text
}

fn describe_session(text: &mut String, session: &SessionStatus) {
    let link = match session.link {
        Link::Attached => "attached",
        Link::Suspect => "suspect",
        Link::Detached => "detached",
        Link::Closed => "closed",
    };
    let from = session.remote_addr.as_deref().unwrap_or("nowhere");
    let rtt = session.round_trip_ms.map_or("-".into(), |ms| format!("{ms:.1} ms"));
    let _ = writeln!(text, "  session {} {link}, {from}, round trip {rtt}", session.id);
    let _ = writeln!(
        text,
        "    last contact {} ago, {} outage(s), {} without a link",
        session.last_contact_seconds.map_or("long".into(), span),
        session.outages,
        span(session.downtime_seconds),
    );
    let _ = writeln!(
        text,
        "    {} written, {} read, {} kept for replay, {} replayed",
        bytes(session.bytes_written),
        bytes(session.bytes_read),
        bytes(session.replay_bytes),
        bytes(session.replayed_bytes),
    );
    for pipe in &session.pipes {
        let _ = writeln!(
            text,
            "    pipe {} {}: {} written, {} read, {} kept",
            pipe.id,
            pipe.label,
            bytes(pipe.bytes_written),
            bytes(pipe.bytes_read),
            bytes(pipe.replay_bytes),
        );
    }
}

fn span(seconds: f64) -> String {
    // Whole seconds from a minute on: the rest is noise.
    let span = match seconds {
        seconds if seconds >= 60.0 => Duration::from_secs(seconds as u64),
        seconds => Duration::from_millis((seconds.max(0.0) * 1e3) as u64),
    };
    humantime::format_duration(span).to_string()
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

pub async fn kill(args: KillArgs) -> Result<(), Failure> {
    let start = args.session.to_ascii_lowercase();
    if start.is_empty() || !start.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let text = format!("{:?} is no beginning of a session's id", args.session);
        return Err(Failure::new(Code::Usage, text));
    }
    let mut killed = None;
    // Once: where both ends run here, the agent's tells the other why.
    let done = |answer: &Answer| matches!(answer, Answer::Killed(Some(_)));
    for answer in ask(&Question::Kill(start), done).await? {
        match answer {
            Answer::Killed(id) => killed = killed.or(id),
            Answer::Wrong(wrong) => return Err(Failure::new(Code::Usage, wrong)),
            Answer::Status(_) => {}
        }
    }
    match killed {
        Some(id) => {
            say!("ended {id}");
            Ok(())
        }
        None => Err(Failure::new(
            Code::NoInput,
            format!("unknown session {}: `evermux status` lists them", args.session),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let sizes = [0, 1023, 1536, 300 << 20].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "300.0 MiB"]);
        assert_eq!([0.25, 61.9, 7322.0].map(span), ["250ms", "1m 1s", "2h 2m 2s"]);
    }
}
