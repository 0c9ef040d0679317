//! The replay buffer: bytes written and not yet acknowledged.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Writes shorter than this are copied together into one segment, so that a
/// million one-byte writes cost a megabyte and not a million allocations. Longer
/// ones are kept as they are, without a copy.
pub(crate) const COALESCE_BELOW: usize = 2048;

/// Size at which a segment of coalesced writes is sealed: the unit in which
/// their memory is given back.
const SEGMENT_LEN: usize = 16 * 1024;

/// Bytes in `start..end` of one direction, trimmed from the front as they are
/// acknowledged and read from anywhere for a replay.
///
/// Memory is taken as bytes are written. Nothing is ever evicted: whoever fills
/// the buffer keeps to a bound (see [`Budget`](super::Budget)).
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplayBuffer {
    /// Sealed segments with the offset of their first byte; none empty, back to
    /// back from `start`.
    segments: VecDeque<(u64, Bytes)>,
    /// The segment that short writes are added to; comes after `segments`.
    tail: BytesMut,
    /// Offset of the first byte kept: all before it is acknowledged.
    start: u64,
    /// Offset after the last byte written; always `start` + all lengths.
    end: u64,
}

impl ReplayBuffer {
    /// An empty buffer whose next byte has this offset.
    pub(crate) fn starting_at(offset: u64) -> Self {
        Self { start: offset, end: offset, ..Self::default() }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are kept.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, mut bytes: impl Buf) {
        let len = bytes.remaining();
        if len < COALESCE_BELOW {
            if self.tail.len() + len > SEGMENT_LEN {
                self.seal();
                // Where so much came, more will: no growing by and by.
                self.tail = BytesMut::with_capacity(SEGMENT_LEN);
            }
            self.tail.reserve(len);
            self.tail.put(bytes);
        } else {
            self.seal();
            self.segments.push_back((self.end, bytes.copy_to_bytes(len)));
        }
        self.end += len as u64;
    }

    /// Lets go of all bytes before `offset`. The caller has checked that it
    /// lies within the buffer; what lies outside is left alone.
    pub(crate) fn trim(&mut self, offset: u64) {
        let mut surplus = offset.min(self.end).saturating_sub(self.start);
        self.start += surplus;
        while surplus > 0 {
            let Some((offset, first)) = self.segments.front_mut() else { break };
            if (first.len() as u64) <= surplus {
                surplus -= first.len() as u64;
                self.segments.pop_front();
            } else {
                // A slice keeps its whole segment alive: one segment at most.
                let _ = first.split_to(surplus as usize);
                *offset += surplus;
                surplus = 0;
            }
        }
        if surplus == self.tail.len() as u64 {
            // Gives the memory back: an idle pipe keeps none.
            self.tail = BytesMut::new();
        } else {
            let _ = self.tail.split_to(surplus as usize);
        }
        if self.segments.is_empty() {
            self.segments = VecDeque::new();
        }
    }

    /// Lets go of everything; the offsets stay.
    pub(crate) fn clear(&mut self) {
        self.trim(self.end);
    }

    /// Bytes from `offset` on, at most `max`, without a copy; empty at the end.
    pub(crate) fn chunk_at(&mut self, offset: u64, max: usize) -> Bytes {
        self.seal();
        let after = self.segments.partition_point(|(start, _)| *start <= offset);
        let Some((start, segment)) = after.checked_sub(1).and_then(|i| self.segments.get(i)) else {
            return Bytes::new();
        };
        let from = segment.len().min((offset - start) as usize);
        let to = segment.len().min(from.saturating_add(max));
        segment.slice(from..to)
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let start = self.end - self.tail.len() as u64;
            self.segments.push_back((start, self.tail.split().freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Trim(u64),
        Read(u64, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            prop_oneof![0usize..10, 0usize..5000, 2040usize..2060].prop_map(Op::Push),
            (0u64..40_000).prop_map(Op::Trim),
            ((0u64..40_000), (1usize..70_000)).prop_map(|(at, max)| Op::Read(at, max)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_log_with_a_start(first in prop_oneof![Just(0), Just((1 << 62) - 200_000)], ops in prop::collection::vec(op(), 1..60)) {
            let mut buffer = ReplayBuffer::starting_at(first);
            let mut log: Vec<u8> = Vec::new();
            let mut start = 0usize;
            for op in ops {
                match op {
                    Op::Push(len) => {
                        let bytes: Vec<u8> = (log.len()..log.len() + len).map(|i| (i * 31 % 251) as u8).collect();
                        log.extend_from_slice(&bytes);
                        buffer.push(&bytes[..]);
                    }
                    Op::Trim(by) => {
                        start = (start + by as usize).min(log.len());
                        buffer.trim(first + start as u64);
                    }
                    Op::Read(at, max) => {
                        let at = (start + at as usize).min(log.len());
                        let chunk = buffer.chunk_at(first + at as u64, max);
                        prop_assert_eq!(&chunk[..], &log[at..at + chunk.len()]);
                        prop_assert!(chunk.len() <= max);
                        prop_assert_eq!(chunk.is_empty(), at == log.len());
                    }
                }
                prop_assert_eq!(buffer.start(), first + start as u64);
                prop_assert_eq!(buffer.end(), first + log.len() as u64);
                prop_assert_eq!(buffer.len() as usize, log.len() - start);
            }
        }
    }

    #[test]
    fn short_writes_share_segments() {
        let mut buffer = ReplayBuffer::default();
        for _ in 0..100_000 {
            buffer.push(Bytes::from_static(b"x"));
        }
        // Of 16 KiB each.
        assert_eq!(buffer.segments.len(), 6);
        buffer.push(Bytes::new());
        buffer.push(Bytes::from(vec![1; COALESCE_BELOW]));
        assert_eq!(buffer.segments.len(), 8, "sealed, and a segment of its own");
    }

    /// A segment of many short writes takes its memory once, all of it.
    #[test]
    fn short_writes_by_the_thousand_fill_segments_to_the_end() {
        let mut buffer = ReplayBuffer::default();
        for _ in 0..100_000 {
            buffer.push(&[1; 100][..]);
            if buffer.end() > SEGMENT_LEN as u64 {
                assert_eq!(buffer.tail.capacity(), SEGMENT_LEN);
            }
        }
        let fit = SEGMENT_LEN / 100 * 100;
        assert!(buffer.segments.iter().all(|(_, segment)| segment.len() == fit));
    }

    #[test]
    fn long_writes_are_kept_without_a_copy() {
        for len in [COALESCE_BELOW, 100_000] {
            let mut buffer = ReplayBuffer::default();
            buffer.push(Bytes::from_static(b"short"));
            let long = Bytes::from(vec![1; len]);
            buffer.push(long.clone());
            assert_eq!(buffer.chunk_at(5, len).as_ptr(), long.as_ptr());
        }
    }

    #[test]
    fn an_empty_buffer_keeps_no_memory() {
        let mut buffer = ReplayBuffer::default();
        for _ in 0..50 {
            buffer.push(Bytes::from(vec![1; 4096]));
            buffer.push(Bytes::from_static(b"short"));
        }
        buffer.clear();
        assert_eq!((buffer.segments.capacity(), buffer.tail.capacity()), (0, 0));
        assert_eq!((buffer.start(), buffer.end()), (50 * 4101, 50 * 4101));
    }
}
