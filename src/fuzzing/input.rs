//! The fuzzer's bytes, read as choices.

use crate::id::Side;
use crate::wire::MAX_VARINT;

/// Choices, from the front of the input. Each takes few bytes and means
/// something whatever they are, so that a small change of the input is a small
/// change of what happens. At the end every byte is 0.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn side(&mut self) -> Side {
        if self.flag() { Side::Server } else { Side::Client }
    }

    /// How many bytes to move: mostly few.
    pub(crate) fn len(&mut self) -> usize {
        match usize::from(self.byte()) {
            few @ 0..0xc0 => few,
            many => (many - 0xc0) * 100,
        }
    }

    /// Any number that a varint can hold. Most are small or nearly the largest,
    /// since that is where the bounds are.
    pub(crate) fn number(&mut self) -> u64 {
        let first = self.byte();
        let low = u64::from(first & 0x3f);
        match first >> 6 {
            0 => low,
            1 => low << 8 | u64::from(self.byte()),
            2 => MAX_VARINT - low,
            _ => (0..7).fold(low, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    /// Up to `max` bytes as they are.
    pub(crate) fn bytes(&mut self, max: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(max.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}
