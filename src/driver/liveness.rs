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

/// A fresh socket that was tried while the network was away may be dead as well: a NAT
/// keeps what it has made of its first packet. So there is another now and then; each
/// may cost the NAT an entry.
const FRESH_INTERVAL: Duration = Duration::from_secs(1);
const OLDER_FRESH_INTERVAL: Duration = Duration::from_secs(5);

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
    /// The same, from a fresh socket as well.
    KickBeside,
    /// It is not suspect any more.
    Recovered,
    /// Give it up.
    Dead,
}

/// What a connection shows of the link under it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    /// How often something new was acknowledged so far: only that shows that both ways
    /// work.
    acks: u64,
    rtt: Duration,
}

impl Signs {
    pub(super) fn of(connection: &Connection) -> Self {
        Self { acks: connection.acks_received(), rtt: connection.rtt() }
    }
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
    /// Acknowledgements at the last look.
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
    /// When it is worth another fresh socket.
    next_fresh: Instant,
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

    /// Something was said that must not be said to nobody: asks at once.
    pub(super) fn insist(&mut self, now: Instant) {
        (self.next, self.fresh) = (Some(now), false);
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
    /// is late. Returns the number to ask with.
    pub(super) fn moved(&mut self, now: Instant, signs: Signs) -> u64 {
        self.heard = signs.acks;
        let answered = (2 * signs.rtt).clamp(ANSWERED_MIN, ANSWERED_MAX);
        self.suspicion = Some(Suspicion {
            since: now,
            next_kick: now + answered,
            next_fresh: now + FRESH_INTERVAL,
        });
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
        signs: Signs,
        pipes: bool,
    ) -> Verdict {
        self.quiet = quiet(config, signs.rtt);
        if signs.acks != self.heard {
            (self.heard, self.heard_at) = (signs.acks, now);
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
            let age = now - suspicion.since;
            suspicion.next_kick = now + kick_interval(config, age);
            if now < suspicion.next_fresh {
                return Verdict::Kick;
            }
            suspicion.next_fresh = now + fresh_interval(age);
            return Verdict::KickBeside;
        }
        if let Some(asked) = self.asked {
            if now < asked.max(self.heard_at) + self.quiet {
                return Verdict::Wait;
            }
            self.suspicion = Some(Suspicion { since: now, next_kick: now, next_fresh: now });
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

fn fresh_interval(age: Duration) -> Duration {
    if age < YOUNG { FRESH_INTERVAL } else { OLDER_FRESH_INTERVAL }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Dead, Kick, KickBeside, Probe, Recovered, Suspect, Wait};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);
    /// As short as it is by default, on the road below.
    const QUIET: Duration = Duration::from_millis(300);

    /// A link with default settings and a round trip of 20 ms, and the time.
    struct Watched {
        liveness: Liveness,
        config: SessionConfig,
        host: Host,
        signs: Signs,
        pipes: bool,
        begun: Instant,
        now: Instant,
        /// When kicks came from a fresh socket as well, after the begin.
        besides: Vec<Duration>,
    }

    impl Watched {
        fn new() -> Self {
            let now = crate::clock::now();
            Self {
                liveness: Liveness::new(now),
                config: SessionConfig::default(),
                host: Host::new(0, None, 1024),
                signs: Signs { acks: 0, rtt: 20 * MS },
                pipes: true,
                begun: now,
                now,
                besides: Vec::new(),
            }
        }

        /// Just after the answer to the first probe, which came at once.
        fn begun() -> Self {
            let mut watched = Self::new();
            assert_eq!(watched.look(), Probe(1));
            watched.answered(1);
            watched
        }

        /// Suspect for the first time, just now, after `QUIET`.
        fn suspect() -> Self {
            let mut watched = Self::new();
            assert_eq!(watched.look(), Probe(1));
            watched.at_deadline(QUIET, Suspect);
            watched
        }

        fn look(&mut self) -> Verdict {
            self.liveness.notice_traffic(self.now, &self.config, &self.host, self.pipes);
            match self.liveness.look(self.now, &self.config, self.signs, self.pipes) {
                KickBeside => {
                    self.besides.push(self.now - self.begun);
                    Kick
                }
                verdict => verdict,
            }
        }

        /// An ack comes, and is looked at.
        fn heard(&mut self, verdict: Verdict) {
            self.signs.acks += 1;
            assert_eq!(self.look(), verdict, "{:?} after the begin", self.now - self.begun);
        }

        fn answered(&mut self, number: u64) {
            self.heard(Wait);
            self.liveness.on_pong(number);
        }

        fn written(&mut self) {
            self.host.totals.written.fetch_add(1, Relaxed);
            self.liveness.notice_traffic(self.now, &self.config, &self.host, self.pipes);
        }

        /// The next thing happens after exactly so long, and is this.
        fn at_deadline(&mut self, after: Duration, verdict: Verdict) {
            let since = self.now - self.begun;
            let deadline = self.liveness.deadline().expect("it is to be asked again");
            assert_eq!(deadline - self.now, after, "{since:?} after the begin");
            if after > MS {
                self.now += after - MS;
                assert_eq!(self.look(), Wait, "{since:?} after the begin, too early");
                self.now += MS;
            } else {
                self.now += after;
            }
            assert_eq!(self.look(), verdict, "{since:?} after the begin");
        }
    }

    #[test]
    fn the_first_probe_goes_out_at_once_whatever_was_written() {
        for written in [false, true] {
            let mut watched = Watched::new();
            assert_eq!(watched.liveness.deadline(), Some(watched.now));
            if written {
                watched.written();
            }
            assert_eq!(watched.look(), Probe(1));
            assert!(!watched.liveness.is_suspect());
        }
    }

    #[test]
    fn an_idle_link_is_probed_at_the_interval_and_without_pipes_at_a_longer_one() {
        for (pipes, interval) in [(true, 15 * SECOND), (false, 30 * SECOND)] {
            let mut watched = Watched { pipes, ..Watched::new() };
            assert_eq!(watched.look(), Probe(1));
            watched.answered(1);
            for number in 2..5 {
                watched.at_deadline(interval, Probe(number));
                watched.answered(number);
            }
        }
    }

    #[test]
    fn without_an_interval_nobody_asks_until_something_is_written() {
        for pipes in [true, false] {
            let mut watched = Watched { pipes, ..Watched::new() };
            watched.config.probe_interval(None);
            assert_eq!(watched.look(), Probe(1));
            watched.answered(1);
            watched.now += 1_000 * SECOND;
            assert_eq!((watched.look(), watched.liveness.deadline()), (Wait, None));
            watched.written();
            watched.at_deadline(QUIET, Probe(2));
            watched.answered(2);
            assert_eq!(watched.liveness.deadline(), None);
        }
    }

    #[test]
    fn the_first_pipe_brings_the_next_probe_forward_and_no_pipe_does_not() {
        let mut watched = Watched { pipes: false, ..Watched::new() };
        assert_eq!(watched.look(), Probe(1));
        watched.answered(1);
        watched.now += SECOND;
        assert_eq!(watched.look(), Wait);
        assert_eq!(watched.liveness.deadline(), Some(watched.begun + 30 * SECOND));
        watched.pipes = true;
        assert_eq!(watched.look(), Wait);
        watched.at_deadline(15 * SECOND, Probe(2));
    }

    #[test]
    fn ten_quick_probes_follow_traffic_in_either_direction() {
        for up in [true, false] {
            let mut watched = Watched::begun();
            let totals = &watched.host.totals;
            if up { &totals.written } else { &totals.read }.fetch_add(7, Relaxed);
            watched.now += 2 * SECOND;
            assert_eq!(watched.look(), Wait);
            watched.at_deadline(QUIET, Probe(2));
            watched.answered(2);
            for number in 3..=11 {
                watched.at_deadline(SECOND, Probe(number));
                watched.answered(number);
            }
            watched.at_deadline(15 * SECOND, Probe(12));
        }
    }

    #[test]
    fn what_must_be_heard_is_followed_by_a_probe_even_if_there_are_no_pipes() {
        let mut watched = Watched { pipes: false, ..Watched::begun() };
        watched.now += SECOND;
        watched.liveness.insist(watched.now);
        watched.at_deadline(Duration::ZERO, Probe(2));
        watched.at_deadline(QUIET, Suspect);
    }

    #[test]
    fn quick_probes_are_not_slower_than_what_is_set() {
        let mut watched = Watched::new();
        watched.config.probe_interval(SECOND / 2);
        assert_eq!(watched.look(), Probe(1));
        watched.answered(1);
        watched.written();
        watched.at_deadline(QUIET, Probe(2));
        watched.answered(2);
        watched.at_deadline(SECOND / 2, Probe(3));
    }

    #[test]
    fn while_bytes_flow_nobody_asks() {
        let mut watched = Watched::begun();
        for _ in 0..20 {
            watched.now += QUIET - MS;
            watched.written();
            watched.heard(Wait);
            watched.now += MS;
            assert_eq!(watched.look(), Wait);
        }
        // Asked as soon as nothing was heard for a while, not after that again.
        watched.at_deadline(QUIET - MS, Probe(2));
    }

    #[test]
    fn a_probe_without_an_answer_makes_the_link_suspect_unless_something_else_is_heard() {
        let mut watched = Watched::new();
        watched.now += SECOND;
        assert_eq!(watched.look(), Probe(1));
        watched.now += QUIET - MS;
        watched.heard(Wait);
        assert_eq!(watched.liveness.heard_at, watched.now);
        let last_contact = watched.now;
        watched.at_deadline(QUIET, Suspect);
        assert!(watched.liveness.is_suspect());
        assert_eq!(watched.liveness.heard_at, last_contact);
    }

    #[test]
    fn only_the_answer_to_the_last_probe_is_one() {
        let mut watched = Watched::begun();
        watched.at_deadline(15 * SECOND, Probe(2));
        [0, 1, 3].into_iter().for_each(|number| watched.liveness.on_pong(number));
        watched.at_deadline(QUIET, Suspect);
        let mut watched = Watched::begun();
        watched.at_deadline(15 * SECOND, Probe(2));
        watched.liveness.on_pong(2);
        watched.at_deadline(15 * SECOND, Probe(3));
    }

    #[test]
    fn a_suspect_link_is_kicked_less_and_less_often_until_it_is_given_up() {
        let mut watched = Watched::suspect();
        watched.config.probe_timeout(130 * SECOND);
        watched.at_deadline(Duration::ZERO, Kick);
        for (until, interval) in [(10, 20), (120, 40), (130, 1_000)] {
            let until = watched.begun + QUIET + until * SECOND;
            while watched.now + interval * MS < until {
                watched.at_deadline(interval * MS, Kick);
            }
            // The kick at the turn comes after the old interval.
            if until < watched.begun + QUIET + 130 * SECOND {
                watched.at_deadline(interval * MS, Kick);
            }
        }
        watched.at_deadline(SECOND, Dead);
        assert_eq!(watched.now, watched.begun + QUIET + 130 * SECOND);
    }

    #[test]
    fn a_fresh_socket_is_tried_at_once_then_each_second_and_later_each_five() {
        let mut watched = Watched::suspect();
        while watched.now < watched.begun + 30 * SECOND {
            watched.now = watched.liveness.deadline().expect("it is kicked");
            assert_eq!(watched.look(), Kick);
        }
        let expected = (0..=10).chain([15, 20, 25]).map(|age| QUIET + age * SECOND);
        assert_eq!(watched.besides, expected.collect::<Vec<_>>());
        // One that has moved is on a fresh socket.
        let mut watched = Watched::begun();
        watched.liveness.moved(watched.now, watched.signs);
        while watched.besides.is_empty() {
            watched.now = watched.liveness.deadline().expect("it is kicked");
            assert_eq!(watched.look(), Kick);
        }
        assert!(watched.now >= watched.begun + FRESH_INTERVAL);
        assert!(watched.now < watched.begun + FRESH_INTERVAL + 20 * MS);
    }

    #[test]
    fn a_link_that_is_heard_again_has_recovered_and_its_probe_must_be_answered_still() {
        for answered in [true, false] {
            let mut watched = Watched::suspect();
            watched.now += 5 * SECOND;
            assert_eq!(watched.look(), Kick);
            watched.heard(Recovered);
            assert!(!watched.liveness.is_suspect());
            assert_eq!(watched.liveness.heard_at, watched.now);
            if answered {
                watched.liveness.on_pong(1);
                watched.at_deadline(10 * SECOND - QUIET, Probe(2));
            } else {
                watched.at_deadline(QUIET, Suspect);
            }
        }
    }

    #[test]
    fn a_link_that_has_moved_is_suspect_until_something_is_heard_from_there() {
        for (rtt, patience) in [(10, 50), (25, 50), (100, 200), (125, 250), (5_000, 250)] {
            let mut watched = Watched::begun();
            watched.now += SECOND;
            // What came before it moved, and was not looked at yet, shows nothing.
            watched.signs = Signs { acks: watched.signs.acks + 3, rtt: rtt * MS };
            watched.liveness.moved(watched.now, watched.signs);
            assert!(watched.liveness.is_suspect());
            watched.at_deadline(patience * MS, Kick);
            watched.at_deadline(20 * MS, Kick);
            watched.heard(Recovered);
        }
    }

    #[test]
    fn a_move_does_not_answer_for_the_past() {
        let mut watched = Watched::begun();
        let last_contact = watched.now;
        watched.now += SECOND;
        watched.liveness.moved(watched.now, watched.signs);
        assert_eq!(watched.liveness.heard_at, last_contact);
        watched.now += 100 * SECOND - MS;
        assert_eq!(watched.look(), Kick);
        watched.now += MS;
        assert_eq!(watched.look(), Dead);
    }

    #[test]
    fn silence_is_nothing_to_worry_about_for_six_round_trips_within_bounds() {
        for (suspect_after, rtt, silence) in [
            (300, 0, 300),
            (300, 37, 300),
            (300, 38, 303),
            (300, 100, 675),
            (300, 808, 4_923),
            (300, 60_000, 5_000),
            (100, 0, 100),
            (100, 10, 135),
            (8_000, 10, 8_000),
            (8_000, 60_000, 8_000),
        ] {
            let mut config = SessionConfig::default();
            config.suspect_after(suspect_after * MS);
            assert_eq!(quiet(&config, rtt * MS), silence * MS, "{rtt} ms");
        }
    }

    #[test]
    fn kicks_become_rare_at_ten_seconds_and_at_two_minutes() {
        for (set, age, interval) in [
            (20, 0, 20),
            (20, 9_999, 20),
            (20, 10_000, 40),
            (20, 119_999, 40),
            (20, 120_000, 1_000),
            (3_000, 9_999, 3_000),
            (3_000, 10_000, 6_000),
            (3_000, 120_000, 3_000),
        ] {
            let mut config = SessionConfig::default();
            config.kick_interval(set * MS);
            assert_eq!(kick_interval(&config, age * MS), interval * MS, "{set} ms at {age} ms");
        }
    }
}
