//! Varints and a bounded reader: the ground that every frame stands on.

use bytes::{BufMut, Bytes, BytesMut};

/// The largest value of a varint (RFC 9000 section 16), and so the largest
/// offset of a pipe.
pub(crate) const MAX_VARINT: u64 = (1 << 62) - 1;

/// Why bytes from a peer could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame ends in the middle of a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// A length beyond what any frame may have. Nothing was allocated for it.
    #[error("it claims {claimed} bytes, more than the {allowed} allowed")]
    TooLong {
        /// The claimed length in bytes.
        claimed: u64,
        /// The bound in bytes.
        allowed: u64,
    },
    /// A field has a value without meaning.
    #[error("its field \"{0}\" has a value without meaning")]
    Invalid(&'static str),
}

/// How many bytes `value` takes as a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form. Values above [`MAX_VARINT`] cannot be
/// expressed; none of ours gets there (offsets are checked when written), and
/// they are clamped rather than silently wrapped.
pub(crate) fn put_varint(out: &mut BytesMut, value: u64) {
    let value = value.min(MAX_VARINT);
    match varint_len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(value as u16 | 0x4000),
        4 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// Reads fields from the front of a frame; never past its end.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(frame: Bytes) -> Self {
        Self { rest: frame }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.split_to(len))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(N)?;
        <[u8; N]>::try_from(&bytes[..]).map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let (value, len) = peek_varint(&self.rest).ok_or(DecodeError::Truncated)?;
        self.bytes(len)?;
        Ok(value)
    }

    /// A varint that must fit 32 bits.
    pub(crate) fn varint_u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Invalid(field))
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }
}

/// The varint at the front of `buf` and its length; `None` if it is not all
/// there yet.
pub(crate) fn peek_varint(buf: &[u8]) -> Option<(u64, usize)> {
    let first = *buf.first()?;
    let len = 1usize << (first >> 6);
    let tail = buf.get(1..len)?;
    let value =
        tail.iter().fold(u64::from(first & 0x3f), |value, byte| (value << 8) | u64::from(*byte));
    Some((value, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_match_the_examples_of_rfc_9000() {
        // RFC 9000 appendix A.1.
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d][..], 494_878_333),
            (&[0x7b, 0xbd][..], 15_293),
            (&[0x25][..], 37),
            // Not the shortest form, and still valid.
            (&[0x40, 0x25][..], 37),
        ] {
            assert_eq!(peek_varint(bytes), Some((value, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(peek_varint(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn every_boundary_value_round_trips_in_its_shortest_form() {
        for value in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, MAX_VARINT] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(peek_varint(&out), Some((value, out.len())));
        }
    }

    #[test]
    fn a_value_beyond_the_largest_is_clamped_and_does_not_go_round() {
        for value in [MAX_VARINT + 1, 1 << 63, u64::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(peek_varint(&out), Some((MAX_VARINT, 8)));
        }
    }

    #[test]
    fn a_reader_gives_what_is_there_and_takes_nothing_when_that_is_not_enough() {
        let mut reader = Reader::new(Bytes::from_static(&[1, 2, 0x40, 3, 0x80]));
        assert_eq!(reader.bytes(6), Err(DecodeError::Truncated));
        assert_eq!((reader.remaining(), reader.is_empty()), (5, false));
        assert_eq!(reader.array(), Ok([1, 2]));
        assert_eq!(reader.varint(), Ok(3));
        assert_eq!(reader.varint(), Err(DecodeError::Truncated));
        assert_eq!((reader.remaining(), reader.u8()), (1, Ok(0x80)));
        assert_eq!((reader.remaining(), reader.is_empty()), (0, true));
        assert_eq!(reader.bytes(0), Ok(Bytes::new()));
        assert_eq!(reader.u8(), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_field_of_32_bits_holds_no_more() {
        for (value, expected) in [
            (u64::from(u32::MAX), Ok(u32::MAX)),
            (1 << 32, Err(DecodeError::Invalid("code"))),
            (MAX_VARINT, Err(DecodeError::Invalid("code"))),
        ] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(out.freeze()).varint_u32("code"), expected);
        }
    }
}
