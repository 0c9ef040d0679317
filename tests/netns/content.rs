//! What is sent: bytes that say themselves where they belong.

use bytes::Bytes;

/// A prime, and no multiple of it is near the size of anything that could be lost or
/// doubled in one piece: a byte in the wrong place is seen.
const PERIOD: usize = 1_000_003;

/// Most bytes of a chunk.
pub const CHUNK: usize = 64 * 1024;

/// The endless stream of one direction.
pub struct Content {
    /// One period, and so much of the next that each chunk is one slice.
    bytes: Bytes,
}

impl Content {
    pub fn new(seed: u64) -> Self {
        let mut bits = seed;
        let period: Vec<u8> = std::iter::repeat_with(|| {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (bits >> 56) as u8
        })
        .take(PERIOD)
        .collect();
        Self { bytes: [&period[..], &period[..CHUNK]].concat().into() }
    }

    /// The `len` bytes at `offset`, at most [`CHUNK`].
    pub fn at(&self, offset: u64, len: usize) -> Bytes {
        let start = (offset % PERIOD as u64) as usize;
        self.bytes.slice(start..start + len.min(CHUNK))
    }

    /// Whether `read` is what belongs at `offset`.
    pub fn is_at(&self, offset: u64, read: &[u8]) -> bool {
        let offsets = (offset..).step_by(CHUNK);
        read.chunks(CHUNK).zip(offsets).all(|(part, at)| self.at(at, part.len()) == part)
    }
}
