//! `evermux doctor`: why an agent cannot be used, step by step, and what to do.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use evermux::{ConnectError, DialError, Session, TlsError};
use tokio::process::Command;
use tokio::time::Instant;

use crate::args::DoctorArgs;
use crate::connect::{Agent, address, client};
use crate::exit::{Code, Failure};
use crate::link::Link;
use crate::ping::round_trip;
use crate::request::{About, Request};
use crate::{closed_port, known_links, signals};

/// Less than this and QUIC does not work at all (RFC 9000 section 14).
const MTU_MIN: u16 = 1200;

/// How long packets of growing size are tried.
const MTU_WITHIN: Duration = Duration::from_secs(3);

/// Clocks that differ by more are worth a word: logs of both sides are compared.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

pub async fn run(args: DoctorArgs) -> Result<(), Failure> {
    let link = known_links::find(args.link.as_deref())?;
    tokio::select! {
        asked = signals::asked_to_end() => asked,
        outcome = examine(&args, &link) => outcome,
    }
}

/// All steps; those after the first that fails make no sense.
async fn examine(args: &DoctorArgs, link: &Link) -> Result<(), Failure> {
    let address = address(link, &args.reach);
    good("link", &link.to_public_text());
    ssh_keep_alive(args.link.as_deref(), &address).await;
    resolve(&address).await?;
    let session = reach(args, link, &address).await?;
    let agent = Agent { session, address };
    let outcome = question(&agent).await;
    agent.leave().await;
    outcome
}

fn good(what: &str, found: &str) {
    say!("ok    {what}: {found}");
}

fn warn(what: &str, found: &str, advice: &str) {
    say!("note  {what}: {found}\n      -> {advice}");
}

/// Says what is wrong and what to do; ends the examination.
fn bad(code: Code, what: &str, found: &str, advice: &str) -> Failure {
    say!("FAIL  {what}: {found}\n      -> {advice}");
    Failure::new(code, format!("{what}: {found}"))
}

async fn resolve(address: &str) -> Result<(), Failure> {
    match tokio::net::lookup_host(address).await {
        Ok(found) => {
            let found: Vec<String> = found.map(|addr| addr.to_string()).collect();
            good("address", &found.join(", "));
            Ok(())
        }
        Err(error) => Err(bad(
            Code::NoHost,
            "address",
            &format!("{address} has none: {error}"),
            "check the name, or give another address with --server",
        )),
    }
}

/// A handshake: UDP, the pin, the authorisation, the protocol.
async fn reach(args: &DoctorArgs, link: &Link, address: &str) -> Result<Session, Failure> {
    let (client, target) = client(link, &args.reach)?;
    let begun = Instant::now();
    let connected = tokio::select! {
        connected = client.connect(target) => connected,
        () = closed_port::found(address) => return Err(bad(
            Code::Unavailable,
            "UDP",
            &format!("nobody listens on {address}"),
            "start the agent there (`evermux agent`), or look at the port in its link; a firewall \
             that rejects UDP says the same",
        )),
    };
    let error = match connected {
        Ok(session) => {
            let millis = begun.elapsed().as_secs_f64() * 1e3;
            good("UDP", &format!("an answer from {address} after {millis:.0} ms"));
            good("pin", "the agent holds the key that the link names");
            good("authorisation", "the agent lets this client in");
            return Ok(session);
        }
        Err(error) => error,
    };
    let failure = Failure::connect(address, &error);
    let found = error.to_string();
    let heard = || good("UDP", &format!("somebody answers at {address}"));
    Err(match &error {
        ConnectError::Dial(DialError::TimedOut { .. }) => bad(
            failure.code,
            "UDP",
            &format!("no answer from {address}"),
            "is the agent running (`evermux status` there)? Does a firewall let UDP in on this \
             port, and out of this network? Some networks let no UDP through at all: try another",
        ),
        ConnectError::Dial(DialError::Tls(TlsError::UntrustedPeer)) => {
            heard();
            bad(
                failure.code,
                "pin",
                "another key than the link names",
                "if the agent's state directory was lost, get its new link; else somebody is in \
                 between",
            )
        }
        ConnectError::Dial(DialError::Tls(
            TlsError::CertificateRejected { .. } | TlsError::ClientCertificateRequired,
        )) => {
            heard();
            good("pin", "the agent holds the key that the link names");
            bad(
                failure.code,
                "authorisation",
                "the agent does not let this client in",
                "get its new link, or have `evermux key` of this machine added to its \
                 --authorized file and the agent restarted",
            )
        }
        ConnectError::Dial(DialError::Tls(TlsError::WrongProtocol)) => {
            heard();
            let ours = evermux::PROTOCOL_VERSION;
            bad(
                failure.code,
                "version",
                &format!("it does not speak version {ours} of the protocol"),
                "upgrade the older of both (`evermux --version`)",
            )
        }
        _ => bad(failure.code, "connection", &found, "see the message"),
    })
}

/// What only an agent that lets us in can tell.
async fn question(agent: &Agent) -> Result<(), Failure> {
    mtu(agent).await?;
    let asked = SystemTime::now();
    let mut pipe = agent.open(&Request::About).await?;
    let mut json = Vec::new();
    while let Ok(Some(chunk)) = pipe.reader().read_chunk(4096).await {
        json.extend_from_slice(&chunk);
        if json.len() > 65_536 {
            break;
        }
    }
    let Ok(about) = serde_json::from_slice::<About>(&json) else {
        return Err(bad(
            Code::Protocol,
            "version",
            "the agent does not know how to say it",
            "upgrade evermux there",
        ));
    };
    let own = env!("CARGO_PKG_VERSION");
    good("version", &format!("{} there, {own} here, protocol {}", about.version, about.protocol));
    clock(&about, asked);
    good("targets", &format!("pipes may connect to: {}", about.allowed.escape_debug()));
    Ok(())
}

/// Sends until QUIC has found how large a packet may be.
async fn mtu(agent: &Agent) -> Result<(), Failure> {
    let mut pipe = agent.open(&Request::Echo).await?;
    let begun = Instant::now();
    let mut mtu = MTU_MIN;
    while begun.elapsed() < MTU_WITHIN {
        round_trip(agent, &mut pipe, 16 * 1024).await?;
        mtu = agent.session.stats().mtu.unwrap_or(mtu);
        if mtu > MTU_MIN + 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if mtu > MTU_MIN {
        good("MTU", &format!("packets of {mtu} bytes get through"));
    } else {
        warn(
            "MTU",
            &format!("only packets of {MTU_MIN} bytes get through"),
            "it works, with more packets; a VPN or tunnel on the way is the usual cause",
        );
    }
    Ok(())
}

fn clock(about: &About, asked: SystemTime) {
    let theirs = SystemTime::UNIX_EPOCH + Duration::from_millis(about.time_ms);
    let ahead = theirs.duration_since(asked);
    let (skew, which) = match ahead {
        Ok(skew) => (skew, "ahead"),
        Err(error) => (error.duration(), "behind"),
    };
    if skew > CLOCK_SKEW {
        warn(
            "clock",
            &format!("the agent's is {} s {which}", skew.as_secs()),
            "pinned keys do not care, but logs of both sides will not match: set it",
        );
    } else {
        good("clock", "both agree");
    }
}

/// ssh's own keep-alive would end a session whose network is merely away.
async fn ssh_keep_alive(word: Option<&str>, address: &str) {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    // As `ssh-config` calls it.
    let host = word.filter(|word| known_links::is_name(word)).unwrap_or(host);
    let output = Command::new("ssh")
        .args(["-G", host.trim_matches(['[', ']'])])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .await;
    // Without ssh there is nothing to say.
    let Ok(output) = output else { return };
    let config = String::from_utf8_lossy(&output.stdout).into_owned();
    let interval = config.lines().find_map(|line| line.strip_prefix("serveraliveinterval "));
    match interval {
        Some("0") => good("ssh", "its keep-alive is off"),
        Some(interval) => warn(
            "ssh",
            &format!("ServerAliveInterval {interval} ends sessions while the network is away"),
            "set it to 0 for hosts behind evermux, as `evermux ssh-config` does",
        ),
        None => {}
    }
}
