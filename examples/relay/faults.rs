//! Random faults, and the seeded dice that decide whom they hit.

use std::time::Duration;

/// What happens at random to the datagrams of one direction.
///
/// Shares are probabilities from 0 to 1, drawn for each datagram on its own.
/// The default is a perfect network. Times are kept to tokio's resolution of
/// one millisecond, rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Share that is lost.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share that is held back for [`reorder_by`](Self::reorder_by), so that
    /// those behind overtake it.
    pub reorder: f64,
    /// How much later than its neighbours a held back datagram arrives.
    pub reorder_by: Duration,
    /// How long every datagram is under way.
    pub delay: Duration,
    /// Up to this much is added to the delay, drawn evenly for each datagram.
    /// It never reorders, for a queue does not: who would overtake waits for
    /// the one in front.
    pub jitter: Duration,
}

impl Faults {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What the dice decided for one datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    /// It is lost.
    Lost,
    /// It arrives.
    Arrives {
        /// Once more than it was sent?
        twice: bool,
        /// How long it is under way, before any holding back.
        delay: Duration,
        /// How long it steps aside for those behind it.
        aside: Option<Duration>,
    },
}

impl Fate {
    /// The fate of every datagram on a perfect network.
    pub(super) const PASS: Self =
        Self::Arrives { twice: false, delay: Duration::ZERO, aside: None };
}

/// A SplitMix64 generator: eight bytes of state are enough for a network.
pub(super) struct Dice {
    state: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Decides about the next datagram.
    ///
    /// Draws four numbers whatever the faults are, so that the fate of the
    /// n-th datagram does not depend on which faults the ones before met.
    pub(super) fn throw(&mut self, faults: &Faults) -> Fate {
        let [loss, duplicate, reorder, jitter] = [(); 4].map(|()| self.draw());
        if loss < faults.loss {
            return Fate::Lost;
        }
        Fate::Arrives {
            twice: duplicate < faults.duplicate,
            delay: faults.delay + faults.jitter.mul_f64(jitter),
            aside: (reorder < faults.reorder).then_some(faults.reorder_by),
        }
    }

    /// A number from 0 up to, not including, 1.
    fn draw(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The upper 53 bits: as many as an f64 holds exactly.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}
