//! The queue of a path, as round trips show it.

use std::time::{Duration, Instant};

/// The packet sent last of those that an ACK frame acknowledges for the first time: its
/// round trip is the shortest of theirs. Looking at this one alone, once they are all
/// known, is cheaper than looking at each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub(super) sent: Instant,
    pub(super) smoothed: Duration,
}

impl Latest {
    #[inline]
    pub(super) fn note(latest: &mut Option<Self>, sent: Instant, smoothed: Duration) {
        if latest.is_none_or(|latest| latest.sent < sent) {
            *latest = Some(Self { sent, smoothed });
        }
    }
}

/// The queue of the path, as its round trips show it: the shortest of late against
/// the shortest of the last minute or two. The shortest, because jitter and delayed
/// acks make single ones longer, but a queue all of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    base: Shortest,
    late: Shortest,
}

/// A queue is seen when it makes round trips longer by the eighth part. The shortest
/// queues that routers have hold half of what is under way.
const SEEN: u32 = 8;

/// Longer than CUBIC takes from one full queue to the next, so that an emptier one is
/// within. After a move to a longer path it takes one or two of these until that is
/// not taken for a queue.
pub(super) const BASE_SPAN: Duration = Duration::from_secs(60);

impl Queue {
    pub(super) fn on_round_trip(&mut self, now: Instant, took: Duration, smoothed: Duration) {
        self.base.add(now, took, BASE_SPAN);
        self.late.add(now, took, smoothed / 2);
    }

    pub(super) fn is_seen(&self) -> bool {
        let (Some(base), Some(late)) = (self.base.get(), self.late.get()) else {
            return false;
        };
        late > base + base / SEEN
    }
}

/// The shortest of the last one or two spans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortest {
    began: Option<Instant>,
    this: Option<Duration>,
    last: Option<Duration>,
}

impl Shortest {
    pub(super) fn add(&mut self, now: Instant, took: Duration, span: Duration) {
        let began = *self.began.get_or_insert(now);
        if now >= began + span {
            // What is older than two of them is not the last one.
            self.last = self.this.take().filter(|_| now < began + 2 * span);
            self.began = Some(now);
        }
        self.this = Some(self.this.map_or(took, |this| this.min(took)));
    }

    pub(super) fn get(&self) -> Option<Duration> {
        self.this.into_iter().chain(self.last).min()
    }
}

#[cfg(test)]
impl Queue {
    /// Sees a hundred round trips, in the time of ten.
    pub(super) fn watch(&mut self, now: &mut Instant, took: Duration) {
        for _ in 0..100 {
            *now += took / 10;
            self.on_round_trip(*now, took, took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn jitter_is_no_queue_and_a_longer_path_is_none_after_a_while() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        assert!(!queue.is_seen());
        queue.watch(&mut now, MS * 40);
        for took in [80, 60, 41, 90, 70] {
            now += MS * 4;
            queue.on_round_trip(now, MS * took, MS * 40);
        }
        assert!(!queue.is_seen(), "one of them was short");
        queue.watch(&mut now, MS * 80);
        assert!(queue.is_seen());
        let moved = now;
        while now < moved + 2 * BASE_SPAN {
            queue.watch(&mut now, MS * 80);
        }
        assert!(!queue.is_seen());
    }
}
