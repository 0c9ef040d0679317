//! What a pipe is used for, as its writes show: bulk, or small things that somebody
//! waits for.

/// A pipe with more on its way to the peer's application than this carries bulk.
const BULK_ABOVE: u64 = 16 * 1024;

/// It does so until no more than this is left.
const CALM_BELOW: u64 = 1024;

/// Acks without bulk in between that make a pipe an interactive one. The first bytes
/// of bulk are small, too.
const INTERACTIVE_FROM: u8 = 3;

/// How a pipe is written to. Fresh, it carries no bulk and is not interactive.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    bulk: bool,
    /// Acks since it last carried bulk, as far as they are counted.
    calm_acks: u8,
}

impl Manner {
    /// So much is kept after a write. Returns whether the pipe has [changed its
    /// rank](Self::rank).
    #[inline]
    pub(super) fn on_write(&mut self, kept: u64) -> bool {
        let turns = kept > BULK_ABOVE && !self.bulk;
        if turns {
            *self = Self { bulk: true, calm_acks: 0 };
        }
        turns
    }

    /// So much is kept after an ack. Returns as [`on_write`](Self::on_write).
    pub(super) fn on_ack(&mut self, kept: u64) -> bool {
        let turns = self.bulk && kept <= CALM_BELOW;
        self.bulk &= !turns;
        if !self.bulk {
            self.calm_acks = (self.calm_acks + 1).min(INTERACTIVE_FROM);
        }
        turns
    }

    /// Somebody writes little by little, and each time it is read.
    pub(super) fn is_interactive(&self) -> bool {
        self.calm_acks >= INTERACTIVE_FROM
    }

    /// The priority of the pipe's streams: of pipes to which the application has given
    /// the same one, those that carry bulk come behind the others. What is small does
    /// not keep bulk waiting for long: more than [`BULK_ABOVE`] in a round trip is bulk.
    pub(super) fn rank(&self, priority: i32) -> i32 {
        priority.clamp(-PRIORITY_MOST, PRIORITY_MOST) * 2 + i32::from(!self.bulk)
    }
}

/// Higher ones count as this: twice as much must stay below the control stream's.
const PRIORITY_MOST: i32 = i32::MAX / 2 - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_that_are_read_are_interactive_and_bulk_is_not() {
        let mut manner = Manner::default();
        for _ in 0..INTERACTIVE_FROM {
            assert!(!manner.is_interactive());
            assert!(!manner.on_write(64));
            assert!(!manner.on_ack(0));
        }
        assert!(manner.is_interactive());
        assert!(manner.on_write(BULK_ABOVE + 1), "it turns to bulk");
        assert!(!manner.is_interactive());
        assert!(!manner.on_write(2 * BULK_ABOVE), "it is bulk already");
        assert!(!manner.on_ack(CALM_BELOW + 1), "bulk goes on");
        assert!(manner.on_ack(0));
        assert!(!manner.is_interactive(), "that was bulk a moment ago");
    }

    #[test]
    fn bulk_comes_behind_its_like_and_before_what_has_a_lower_priority() {
        let (mut bulk, small) = (Manner::default(), Manner::default());
        bulk.on_write(u64::MAX);
        for priority in [0, 7, -7, i32::MIN, i32::MAX] {
            assert!(bulk.rank(priority) < small.rank(priority));
        }
        assert!(small.rank(-1) < bulk.rank(0));
        assert!(small.rank(i32::MAX) < i32::MAX, "the control stream comes first");
    }
}
