//! Keeps the queue of a path short for those who wait for small things.

use std::time::{Duration, Instant};

use super::queue::{BASE_SPAN, Latest, Shortest};

/// How long somebody waits after the last sign of it.
const PROMPT_FOR: Duration = Duration::from_secs(10);

/// Says when to step back from a queue that is longer than bulk needs.
///
/// A sender in bulk fills the queue before the narrowest part of its path, and only
/// stops when it overflows. What is small and comes from the same sender waits in that
/// queue too, whatever its priority. So while there is such a thing, the sender also
/// steps back when the queue makes round trips longer by a third: CUBIC then gives up
/// 30 % of what is under way, and the queue is empty, but the path hardly so.
///
/// That is no use where the queue is somebody else's: it would stay, and all that is
/// gained is the other's. If steps in a row shorten nothing, there are no more for a
/// while, which doubles with each row that was in vain.
#[derive(Clone, Debug, Default)]
pub(super) struct Shallow {
    until: Option<Instant>,
    base: Shortest,
    round: Option<Round>,
    /// Steps in a row, as there was a queue after each round.
    row: Row,
    rests_until: Option<Instant>,
    /// Rows in vain, since the queue was short.
    in_vain: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    steps: u32,
    /// Those that have shortened nothing.
    futile: u32,
    /// The round trip before the last step.
    last: Duration,
}

/// What became of packets that were sent since it began.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    shortest: Option<Duration>,
    /// The application had more to send than there was room for.
    in_bulk: bool,
}

/// A queue that makes round trips longer by less than this is felt by nobody.
const QUEUE_MIN: Duration = Duration::from_millis(10);

/// Longer by a fraction of this, for a step back.
const FRACTION: u32 = 3;

/// The row ends after so many steps that have shortened nothing. It costs half of what
/// is under way.
const FUTILE_MAX: u32 = 2;

/// It ends after so many in any case. Slow start doubles what is under way until it
/// hears of the queue, so its first steps have to do with a queue that still grows.
const ROW_MAX: u32 = 8;

/// For how long there are no steps after a first row in vain, and how often that
/// doubles: up to a minute.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_DOUBLINGS: u32 = 6;

impl Shallow {
    /// Somebody waits for small things.
    pub(super) fn want(&mut self, now: Instant) {
        self.until = Some(now + PROMPT_FOR);
    }

    /// An ACK frame came, with this packet in it. Returns whether to step back.
    pub(super) fn on_ack(&mut self, now: Instant, latest: Latest, app_limited: bool) -> bool {
        let Latest { sent, smoothed } = latest;
        let took = now.saturating_duration_since(sent);
        self.base.add(now, took, BASE_SPAN);
        let wanted = self.until.is_some_and(|until| now < until);
        let rests = self.rests_until.is_some_and(|until| now < until);
        if !wanted || rests {
            self.round = None;
            return false;
        }
        let round = self.round.get_or_insert(Round::begin(now));
        if sent < round.began {
            return false;
        }
        round.shortest = Some(round.shortest.map_or(took, |shortest| shortest.min(took)));
        round.in_bulk |= !app_limited;
        if now < round.began + smoothed * 3 / 2 {
            return false;
        }
        let ended = std::mem::replace(round, Round::begin(now));
        self.judge(now, ended)
    }

    fn judge(&mut self, now: Instant, round: Round) -> bool {
        let (Some(base), Some(late)) = (self.base.get(), round.shortest) else { return false };
        if !round.in_bulk || late < base + (base / FRACTION).max(QUEUE_MIN) {
            (self.row, self.in_vain) = (Row::default(), 0);
            return false;
        }
        let Row { steps, futile, last } = &mut self.row;
        // A step of 30 % from a queue of one's own leaves less than four fifths.
        *futile += u32::from(*steps > 0 && (*last * 4 / 5..=*last).contains(&late));
        if *futile == FUTILE_MAX || *steps == ROW_MAX {
            self.row = Row::default();
            self.rests_until = Some(now + REST_MIN * 2_u32.pow(self.in_vain));
            self.in_vain = (self.in_vain + 1).min(REST_DOUBLINGS);
            return false;
        }
        *steps += 1;
        *last = late;
        true
    }
}

impl Round {
    fn begin(now: Instant) -> Self {
        Self { began: now, shortest: None, in_bulk: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BASE: Duration = Duration::from_millis(40);

    struct Path {
        now: Instant,
        shallow: Shallow,
        steps: u32,
    }

    impl Path {
        fn new() -> Self {
            let mut path = Self { now: Instant::now(), shallow: Shallow::default(), steps: 0 };
            path.carry(BASE, true);
            path
        }

        /// Packets each of which takes as long, for two of their round trips.
        fn carry(&mut self, took: Duration, in_bulk: bool) -> bool {
            let mut step = false;
            for _ in 0..20 {
                self.now += took / 10;
                let latest = Latest { sent: self.now - took, smoothed: took };
                step |= self.shallow.on_ack(self.now, latest, !in_bulk);
            }
            self.steps += u32::from(step);
            step
        }

        fn want(&mut self) {
            self.shallow.want(self.now);
        }
    }

    #[test]
    fn a_queue_is_nobody_elses_business_unless_somebody_waits() {
        let mut path = Path::new();
        for _ in 0..100 {
            path.carry(BASE * 4, true);
        }
        path.want();
        path.carry(BASE * 4, false);
        path.carry(BASE + QUEUE_MIN - MS, true);
        assert_eq!(path.steps, 0);
        path.want();
        path.carry(BASE * 4, true);
        path.carry(BASE * 4, true);
        assert!(path.steps > 0);
        path.now += PROMPT_FOR;
        let steps = path.steps;
        path.carry(BASE * 2, true);
        path.carry(BASE * 2, true);
        assert_eq!(path.steps, steps, "nobody waits any more");
    }

    /// What is under way, in BDPs, is all in the queue but the first.
    #[test]
    fn a_queue_of_ones_own_is_soon_short_and_stays_so() {
        let (mut path, mut under_way) = (Path::new(), 10.0_f64);
        for round in 0..200 {
            path.want();
            let step = path.carry(BASE.mul_f64(under_way.max(1.0)), true);
            under_way *= if step { 0.7 } else { 1.02 };
            assert!(round < 15 || under_way < 1.5, "{under_way} in round {round}");
        }
        assert!(path.steps > 10, "{}", path.steps);
    }

    #[test]
    fn a_queue_of_somebody_elses_is_left_alone_for_ever_longer() {
        let mut path = Path::new();
        let mut steps_in = |span: Duration| {
            let (until, before) = (path.now + span, path.steps);
            while path.now < until {
                path.want();
                path.carry(BASE * 4, true);
            }
            path.steps - before
        };
        let first = steps_in(Duration::from_secs(60));
        assert!((4..40).contains(&first), "{first}");
        let later = steps_in(Duration::from_secs(60));
        assert!(later <= 2, "{later} after {first}");
    }
}
