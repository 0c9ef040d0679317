//! Whether the server can be reached (client): quick to suspect, slow to give up.
//!
//! - *Probes* ask: just after traffic as soon as nothing was heard for a while,
//!   then every second, then as slowly as NATs allow.
//! - A link whose probe is not answered, with nothing else heard either, is
//!   *suspect*. Its connection is the canary: kicked at a quick cadence, so that it
//!   notices the moment that the network is back, however long QUIC's own loss
//!   timers have backed off (RFC 9002 section 6.2: they double). Meanwhile a new
//!   connection is dialled; what is answered first goes on.
//! - Only after the probe timeout it is given up.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::Instant;
use crate::config::SessionConfig;
use crate::pipe::Host;
use crate::quic::Connection;

/// How often the link is probed just after traffic: somebody is there who would
/// notice.
const BUSY_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How many such probes follow the last traffic.
const BUSY_PROBES: u32 = 10;

/// What QUIC's peer may add to a round trip by delaying an ack (RFC 9000 section
/// 18.2, max_ack_delay).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// No silence is longer for want of a probe timeout: a packet that was held somewhere,
/// or a sleep, can make QUIC believe in a round trip of a minute.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// The younger an outage, the likelier is its end: kicks come at the interval that
/// is set for so long, then half as often, then every second.
const YOUNG: Duration = Duration::from_secs(10);
const OLD: Duration = Duration::from_secs(120);
const OLD_KICK_INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer from a new path may take: two round trips, within bounds.
const ANSWERED_MIN: Duration = Duration::from_millis(50);
const ANSWERED_MAX: Duration = Duration::from_millis(250);

/// What is to be done about a link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// Ask with this number.
    Probe(u64),
    /// It has become suspect.
    Suspect,
    /// It is suspect still: have QUIC send something.
    Kick,
    /// It is not suspect any more.
    Recovered,
    /// Give it up.
    Dead,
}

/// Watches over a link.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Of the last probe.
    number: u64,
    /// When it was sent, while it is not answered.
    asked: Option<Instant>,
    /// When to ask next, if nothing else happens before. The first probe goes out at
    /// once: it confirms the connection to the server.
    next: Option<Instant>,
    /// Quick probes left since the last traffic.
    busy: u32,
    /// There was traffic since the last probe.
    fresh: bool,
    /// Bytes written and read at the last look.
    traffic: u64,
    /// ACK frames received at the last look: only they show that both ways work.
    heard: u64,
    /// When that number was seen to grow.
    heard_at: Instant,
    /// How long silence is nothing to worry about.
    quiet: Duration,
    suspicion: Option<Suspicion>,
}

#[derive(Debug)]
struct Suspicion {
    since: Instant,
    next_kick: Instant,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            number: 0,
            asked: None,
            next: Some(now),
            busy: 0,
            fresh: false,
            traffic: 0,
            heard: 0,
            heard_at: now,
            quiet: Duration::ZERO,
            suspicion: None,
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Brings the next probe forward if there was traffic since the last look, or if
    /// there are pipes by now.
    pub(super) fn notice_traffic(
        &mut self,
        now: Instant,
        config: &SessionConfig,
        host: &Host,
        pipes: bool,
    ) {
        // While it is known that there was some, nobody need tell.
        let written = if self.fresh { host.totals.written.load(Relaxed) } else { host.rest() };
        let traffic = written.wrapping_add(host.totals.read.load(Relaxed));
        if traffic != self.traffic {
            self.traffic = traffic;
            self.fresh = true;
            self.busy = BUSY_PROBES;
            self.ask_by(now + self.quiet);
        }
        if let Some(interval) = config.probe_interval.filter(|_| pipes) {
            self.ask_by(now + interval);
        }
    }

    fn ask_by(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// The connection has moved to another socket, and QUIC has sent something from
    /// there: the link is suspect until that is answered. Kicks begin when the answer
    /// is late: the first would end the hearing of the old socket. Returns the number to
    /// ask with.
    pub(super) fn moved(&mut self, now: Instant, connection: &Connection) -> u64 {
        self.heard = connection.acks_received();
        let answered = (2 * connection.rtt()).clamp(ANSWERED_MIN, ANSWERED_MAX);
        self.suspicion = Some(Suspicion { since: now, next_kick: now + answered });
        self.ask(now)
    }

    fn ask(&mut self, now: Instant) -> u64 {
        self.number += 1;
        self.asked = Some(now);
        self.number
    }

    pub(super) fn on_pong(&mut self, number: u64) {
        if number == self.number {
            self.asked = None;
        }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.suspicion, self.asked) {
            (Some(suspicion), _) => Some(suspicion.next_kick),
            (None, Some(asked)) => Some(asked.max(self.heard_at) + self.quiet),
            (None, None) => self.next,
        }
    }

    /// Looks whether something was heard, and says what to do. `pipes`: whether
    /// there are any.
    pub(super) fn look(
        &mut self,
        now: Instant,
        config: &SessionConfig,
        connection: &Connection,
        pipes: bool,
    ) -> Verdict {
        self.quiet = quiet(config, connection.rtt());
        let heard = connection.acks_received();
        if heard != self.heard {
            (self.heard, self.heard_at) = (heard, now);
            if self.suspicion.take().is_some() {
                return Verdict::Recovered;
            }
        }
        if let Some(suspicion) = &mut self.suspicion {
            if now >= suspicion.since + config.probe_timeout {
                return Verdict::Dead;
            }
            if now < suspicion.next_kick {
                return Verdict::Wait;
            }
            suspicion.next_kick = now + kick_interval(config, now - suspicion.since);
            return Verdict::Kick;
        }
        if let Some(asked) = self.asked {
            if now < asked.max(self.heard_at) + self.quiet {
                return Verdict::Wait;
            }
            self.suspicion = Some(Suspicion { since: now, next_kick: now });
            return Verdict::Suspect;
        }
        if self.next.is_none_or(|next| now < next) {
            return Verdict::Wait;
        }
        if self.fresh && self.number > 0 && now < self.heard_at + self.quiet {
            // While bytes flow nobody need ask.
            self.next = Some(self.heard_at + self.quiet);
            return Verdict::Wait;
        }
        self.fresh = false;
        self.busy = self.busy.saturating_sub(1);
        self.next = self.interval(config, pipes).map(|interval| now + interval);
        Verdict::Probe(self.ask(now))
    }

    /// `None`: nothing is asked until something happens.
    fn interval(&self, config: &SessionConfig, pipes: bool) -> Option<Duration> {
        let interval = config.probe_interval?;
        Some(if !pipes {
            config.idle_probe_interval(interval)
        } else if self.busy > 0 {
            interval.min(BUSY_PROBE_INTERVAL)
        } else {
            interval
        })
    }
}

/// Three probe timeouts of QUIC's (RFC 9002 section 6.2.1, with the variation taken
/// for a quarter of the round trip), but not less than what is set: a network may
/// well be silent for some hundred milliseconds and come back by itself.
fn quiet(config: &SessionConfig, rtt: Duration) -> Duration {
    (3 * (2 * rtt + ACK_DELAY)).min(QUIET_MAX).max(config.suspect_after)
}

fn kick_interval(config: &SessionConfig, age: Duration) -> Duration {
    if age < YOUNG {
        config.kick_interval
    } else if age < OLD {
        2 * config.kick_interval
    } else {
        config.kick_interval.max(OLD_KICK_INTERVAL)
    }
}
