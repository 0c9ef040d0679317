//! The header that begins each direction of each pipe stream.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{DecodeError, Reader, peek_varint, put_varint, varint_len};
use crate::id::{Epoch, PipeId};

/// Longest label of a pipe, in bytes: room for a target address or a service
/// name, small enough to come in the pipe's first packet.
pub const LABEL_MAX: usize = 1024;

/// What a stream is to its pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderKind {
    /// From the opener, to a peer that has not seen the pipe: here it is.
    Open {
        /// What the application calls it; opaque to us.
        label: Bytes,
    },
    /// Goes on with a pipe that both sides know, or answers `Open`.
    Continue,
}

/// `kind (1 byte), length (varint), epoch, pipe, start, label` (P-9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: HeaderKind,
    pub(crate) epoch: Epoch,
    pub(crate) pipe: PipeId,
    /// The offset, in this direction, of the first byte after the header.
    pub(crate) start: u64,
}

impl Header {
    const OPEN: u8 = 0x40;
    const CONTINUE: u8 = 0x41;

    /// Longest header after its kind and length.
    const PAYLOAD_MAX: usize = 3 * 8 + LABEL_MAX;

    pub(crate) fn encode(&self) -> Bytes {
        let (kind, label) = match &self.kind {
            HeaderKind::Open { label } => (Self::OPEN, &label[..]),
            HeaderKind::Continue => (Self::CONTINUE, &[][..]),
        };
        let fields = [self.epoch.get(), self.pipe.to_wire(), self.start];
        let len = fields.iter().map(|field| varint_len(*field)).sum::<usize>() + label.len();
        let mut out = BytesMut::with_capacity(1 + 2 + len);
        out.put_u8(kind);
        put_varint(&mut out, len as u64);
        fields.iter().for_each(|field| put_varint(&mut out, *field));
        out.put_slice(label);
        out.freeze()
    }

    /// The header at the front of `bytes`, which is advanced past it; `None`
    /// until all of it is there.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Option<Self>, DecodeError> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if kind != Self::OPEN && kind != Self::CONTINUE {
            return Err(DecodeError::Invalid("stream header kind"));
        }
        let Some((len, len_len)) = bytes.get(1..).and_then(peek_varint) else {
            return Ok(None);
        };
        if len > Self::PAYLOAD_MAX as u64 {
            return Err(DecodeError::TooLong { claimed: len, allowed: Self::PAYLOAD_MAX as u64 });
        }
        let head = 1 + len_len;
        if bytes.len() < head + len as usize {
            return Ok(None);
        }
        let mut payload = Reader::new(bytes.split_to(head + len as usize).slice(head..));
        let epoch = Epoch::from_wire(payload.varint()?);
        let pipe = PipeId::from_wire(payload.varint()?);
        let start = payload.varint()?;
        let kind = match kind {
            Self::OPEN if payload.remaining() > LABEL_MAX => {
                return Err(DecodeError::TooLong {
                    claimed: payload.remaining() as u64,
                    allowed: LABEL_MAX as u64,
                });
            }
            Self::OPEN => HeaderKind::Open { label: payload.rest() },
            _ => HeaderKind::Continue,
        };
        Ok(Some(Self { kind, epoch, pipe, start }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Side;
    use crate::wire::MAX_VARINT;

    #[test]
    fn headers_match_their_test_vectors_and_leave_what_follows() {
        let open = Header {
            kind: HeaderKind::Open { label: Bytes::from_static(b"ssh") },
            epoch: Epoch::FIRST,
            pipe: PipeId::new(Side::Client, 2).unwrap(),
            start: 0,
        };
        let go_on = Header {
            kind: HeaderKind::Continue,
            epoch: Epoch::from_wire(5),
            pipe: PipeId::new(Side::Server, 0).unwrap(),
            start: 16_384,
        };
        for (header, vector) in [
            (open, &b"\x40\x06\x01\x04\x00ssh"[..]),
            (go_on, &b"\x41\x06\x05\x01\x80\x00\x40\x00"[..]),
        ] {
            assert_eq!(header.encode(), vector);
            for cut in 0..vector.len() {
                assert_eq!(Header::decode(&mut Bytes::copy_from_slice(&vector[..cut])), Ok(None));
            }
            let mut stream = Bytes::from([vector, b"data"].concat());
            assert_eq!(Header::decode(&mut stream), Ok(Some(header)));
            assert_eq!(stream, &b"data"[..]);
        }
    }

    /// P-9: the manual's numbers.
    #[test]
    fn a_header_has_at_most_1_048_bytes_after_its_length_and_a_label_1_024() {
        let with_label = |start, len| Header {
            kind: HeaderKind::Open { label: Bytes::from(vec![7; len]) },
            epoch: Epoch::from_wire(MAX_VARINT),
            pipe: PipeId::from_wire(MAX_VARINT),
            start,
        };
        let longest = with_label(MAX_VARINT, 1024);
        let mut bytes = longest.encode();
        assert_eq!(bytes.len(), 1 + 2 + 1048);
        assert_eq!(Header::decode(&mut bytes), Ok(Some(longest)));
        let too_long = |claimed, allowed| Err(DecodeError::TooLong { claimed, allowed });
        assert_eq!(
            Header::decode(&mut with_label(0, 1025).encode()),
            too_long(1025, 1024),
            "the label alone"
        );
        // At once, whatever follows.
        let mut claim = Bytes::from_static(&[0x41, 0x44, 0x18]);
        assert_eq!(Header::decode(&mut claim), Ok(None));
        let mut claim = Bytes::from_static(&[0x41, 0x44, 0x19]);
        assert_eq!(Header::decode(&mut claim), too_long(1049, 1048));
        let mut claim = Bytes::from_static(&[0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(Header::decode(&mut claim), too_long(MAX_VARINT, 1048));
    }

    #[test]
    fn a_header_of_another_kind_is_malformed_at_its_first_byte() {
        for kind in [0x00, 0x3f, 0x42, 0xc0, 0xff] {
            let refused = Header::decode(&mut Bytes::from(vec![kind]));
            assert_eq!(refused, Err(DecodeError::Invalid("stream header kind")));
        }
    }

    #[test]
    fn bytes_after_the_fields_of_a_continue_header_are_ignored() {
        let mut stream = Bytes::from_static(b"\x41\x05\x05\x01\x03\xaa\xbbdata");
        let header = Header::decode(&mut stream).unwrap().unwrap();
        assert_eq!((header.kind, header.start), (HeaderKind::Continue, 3));
        assert_eq!(stream, &b"data"[..]);
    }

    #[test]
    fn a_header_whose_length_ends_within_its_fields_is_malformed() {
        for len in 0..3 {
            let mut stream = Bytes::from(vec![0x40, len, 1, 2, 3, 4, 5]);
            assert_eq!(Header::decode(&mut stream), Err(DecodeError::Truncated));
        }
    }
}
