//! One attempt to reach a server: resolve its name, race its addresses.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::Target;
use crate::clock::{self, Instant};
use crate::config::ClientConfig;
use crate::driver::EarlyFlight;
use crate::environment::Environment;
use crate::error::DialError;
use crate::event::LinkState;
use crate::quic::{ClientQuic, Connection, DialFailed, Dialler, EarlyData, Handshake, Lost};
use crate::session::SessionShared;

/// A connection attempt that has not been answered for so long gets company by
/// the next address (RFC 8305 section 8, Connection Attempt Delay).
const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses tried in one attempt: what a name resolves to is not ours to
/// trust.
const ADDRESSES_MAX: usize = 8;

/// Most dials at a time in one attempt: a renewal beyond takes the place of the oldest.
const DIALS_MAX: usize = 16;

/// The same for a session that comes back, beyond one for each address. How long a round
/// trip takes is known then, and renewals are further apart: what was not answered before
/// three of them will not be.
const RENEWALS_MAX: usize = 3;

/// A session that comes back, and whether its first dials may take early data along.
pub(super) type Comeback<'a> = (&'a Arc<SessionShared>, EarlyData);

/// What a dial comes to.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) dialler: Dialler,
    /// What was said for the session before the handshake was complete, if the
    /// server has taken it.
    pub(super) early: Option<EarlyFlight>,
}

/// Connects to whichever address of `target` answers first: for a new session, or
/// for `session`, which has lost its connection or is about to. What was sent so far
/// may have been in vain when `again` is notified: another dial begins at once.
///
/// Early data goes along only where the first packet is likely to arrive. QUIC repeats
/// a packet that is lost, but not the early data with it: when that is known to be lost
/// the handshake has been complete for a round trip, in which the resume could have been
/// answered. So dials that are repeated because nobody has answered go without.
///
/// Once all addresses are being tried, one is tried again each `renewal`, from a fresh
/// socket: QUIC's own repetitions of a lost first packet become rare quickly (RFC 9002
/// section 6.2), and a server that has just come back would wait for the next.
///
/// # Cancel safety
///
/// All attempts end when the future is dropped.
pub(super) async fn dial(
    config: &ClientConfig,
    quic: &ClientQuic,
    target: &Target,
    deadline: Instant,
    session: Option<Comeback<'_>>,
    renewal: Duration,
    again: &Notify,
) -> Result<Connected, DialError> {
    let (session, early_data) = session.unzip();
    let mut early_data = early_data.unwrap_or(EarlyData::Withheld);
    let begun = clock::now();
    let timed_out =
        || DialError::TimedOut { target: target.to_string(), waited: crate::event::elapsed(begun) };
    let addrs = clock::until(deadline, addresses(config, target, begun, deadline))
        .await
        .unwrap_or_else(|| Err(timed_out()))?;
    let first_round = addrs.len();
    let most = if session.is_some() { first_round + RENEWALS_MAX } else { DIALS_MAX };
    let mut waiting = addrs.into_iter().cycle().enumerate();
    let mut attempts: JoinSet<Result<Connected, DialError>> = JoinSet::new();
    // The tasks of the latest, oldest first. Some may have ended.
    let mut latest: VecDeque<AbortHandle> = VecDeque::new();
    let mut worst = None;
    let mut failed = 0;
    let mut next_start = Some(begun);
    loop {
        let step = tokio::select! {
            biased;
            () = clock::sleep_until(Some(deadline)) => Step::TimedOut,
            Some(ended) = attempts.join_next(), if !attempts.is_empty() => match ended {
                Ok(Ok(connected)) => {
                    // Before it is used: no other takes the pipes with it any more.
                    attempts.shutdown().await;
                    return Ok(connected);
                }
                Ok(Err(error)) => Step::Failed(error),
                Err(ended) if ended.is_cancelled() => continue,
                Err(_) => Step::Failed(timed_out()),
            },
            () = again.notified() => {
                // Somebody is there.
                early_data = EarlyData::Allowed;
                Step::Start
            }
            () = clock::sleep_until(next_start) => Step::Start,
        };
        match step {
            Step::TimedOut => return Err(worst.unwrap_or_else(timed_out)),
            // What somebody said is worth more than silence.
            Step::Failed(error) => {
                worst = Some(error);
                failed += 1;
            }
            Step::Start => {}
        }
        if failed == first_round {
            // Every address has said no: asking again is for the next attempt.
            return Err(worst.unwrap_or_else(timed_out));
        }
        match waiting.next() {
            Some((number, addr)) => {
                if latest.len() >= most
                    && let Some(oldest) = latest.pop_front()
                {
                    oldest.abort();
                }
                let session = session.cloned();
                let dialling = attempt(config, quic, target, addr, early_data, session);
                latest.push_back(attempts.spawn(dialling));
                let gap = if number + 1 < first_round { STAGGER } else { renewal };
                if number + 1 >= first_round {
                    early_data = EarlyData::Withheld;
                }
                next_start = Some(clock::now() + gap);
            }
            None => next_start = None,
        }
    }
}

enum Step {
    TimedOut,
    Failed(DialError),
    Start,
}

/// A dial of one address, with all that it needs.
fn attempt(
    config: &ClientConfig,
    quic: &ClientQuic,
    target: &Target,
    addr: SocketAddr,
    early_data: EarlyData,
    session: Option<Arc<SessionShared>>,
) -> impl Future<Output = Result<Connected, DialError>> + Send + 'static {
    let transport = config.session.transport();
    let largest = config.max_udp_payload_to(addr.ip());
    let dialler = Dialler::bind(config.local_ip, addr, largest, &transport, &config.environment)
        .map_err(|error| DialError::Socket { target: addr, reason: error.to_string() });
    let (quic, server_name) = (Arc::new(quic.clone()), target.server_name.clone());
    let (environment, most) = (config.environment.clone(), config.session.optimistic_replay);
    async move {
        let dialler = dialler?;
        tracing::debug!(%addr, ?early_data, "dialling");
        // Of the connection that is suspect, or else of the one that was given up.
        let rtt = |session: &Arc<SessionShared>| session.rtt().or_else(|| session.last_rtt());
        let last_rtt = session.as_ref().and_then(rtt);
        let explain = |failed| explain(failed, addr);
        let handshake =
            dialler.connect(addr, &server_name, &quic, early_data, last_rtt).map_err(explain)?;
        let complete = match session {
            Some(session) => complete_early(handshake, &session, &environment, most).await,
            None => handshake.complete().await.map(|connection| (connection, None)),
        };
        let (connection, early) = complete.map_err(|lost| explain(DialFailed::Lost(lost)))?;
        Ok(Connected { connection, dialler, early })
    }
}

/// Completes a handshake; what little is owed goes ahead, if there is a ticket that
/// allows it. Whatever happens to that: the connection is as good.
async fn complete_early(
    handshake: Handshake,
    session: &Arc<SessionShared>,
    environment: &Environment,
    most: u64,
) -> Result<(Connection, Option<EarlyFlight>), Lost> {
    let (connection, mut completion) = match handshake.early() {
        Ok(early) => early,
        Err(handshake) => return Ok((handshake.complete().await?, None)),
    };
    // A connection that works brings all that is owed itself.
    let works = matches!(session.link_state(), LinkState::Attached { .. });
    let nonce = environment.random().ok().filter(|_| !works);
    let flight = nonce.and_then(|nonce| EarlyFlight::launch(session, &connection, nonce, most));
    let taken = completion.wait(&connection).await?;
    tracing::debug!(taken, "early data");
    Ok((connection, flight.filter(|_| taken)))
}

fn explain(failed: DialFailed, addr: SocketAddr) -> DialError {
    match failed {
        DialFailed::ServerName(name) => DialError::ServerName { name },
        DialFailed::Address => {
            DialError::Socket { target: addr, reason: "not an address to connect to".into() }
        }
        DialFailed::Lost(Lost::Tls(error)) => DialError::Tls(error),
        DialFailed::Lost(lost) => DialError::Lost { reason: lost.to_string() },
    }
}

/// The addresses to try, best first.
async fn addresses(
    config: &ClientConfig,
    target: &Target,
    begun: Instant,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, DialError> {
    let mut addrs = Vec::new();
    if let Some(hook) = &config.addresses {
        let half = begun + deadline.saturating_duration_since(begun) / 2;
        addrs.extend(clock::until(half, hook()).await.unwrap_or_default());
    }
    addrs.extend(&target.addrs);
    if let Some(host) = &target.host {
        let resolve_error = |reason: String| DialError::Resolve { host: host.clone(), reason };
        match tokio::net::lookup_host((host.as_str(), target.port)).await {
            Ok(resolved) => addrs.extend(interleave(resolved.collect())),
            Err(error) if addrs.is_empty() => return Err(resolve_error(error.to_string())),
            Err(_) => {}
        }
        if addrs.is_empty() {
            return Err(resolve_error("it has no address".into()));
        }
    }
    let mut unique = Vec::new();
    for addr in addrs {
        if !unique.contains(&addr) && unique.len() < ADDRESSES_MAX {
            unique.push(addr);
        }
    }
    Ok(unique)
}

/// IPv6 and IPv4 in turn, IPv6 first (RFC 8305 section 4).
fn interleave(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addrs.into_iter().partition(SocketAddr::is_ipv6);
    let longest = v6.len().max(v4.len());
    (0..longest).flat_map(|i| [v6.get(i).copied(), v4.get(i).copied()]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let sorted = interleave(vec![
            addr("1.1.1.1:1"),
            addr("2.2.2.2:1"),
            addr("[::1]:1"),
            addr("3.3.3.3:1"),
        ]);
        let expected = ["[::1]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"].map(addr);
        assert_eq!(sorted, expected);
    }
}
