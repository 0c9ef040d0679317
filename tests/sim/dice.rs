//! Random numbers that a seed repeats.

use std::ops::Range;
use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Sixty-four bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Dice of somebody else: what they roll changes nothing here.
    pub fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    /// A number from `range`.
    pub fn pick(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start)
    }

    /// A number from `range`, small ones as often as large ones: each power of
    /// two has the same chance.
    pub fn pick_log(&mut self, range: Range<u64>) -> u64 {
        let (low, high) =
            (u64::BITS - range.start.leading_zeros(), u64::BITS - range.end.leading_zeros());
        let bits = self.pick(low.into()..u64::from(high) + 1);
        let number = self.pick((1 << bits) / 2..1 << bits);
        number.clamp(range.start, range.end - 1)
    }

    pub fn pick_millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.pick_log(range))
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.pick(0..1000) < per_mille
    }

    pub fn choose<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.pick(0..among.len() as u64) as usize]
    }
}
