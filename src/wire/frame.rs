//! Frames of the control stream: `type (varint), length (varint), payload`.
//!
//! Each frame is a struct with `encode` and `decode` side by side. A decoder
//! ignores bytes after the fields that it knows, and a receiver skips frames of
//! unknown type, so that either can grow (P-4).

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use super::codec::{DecodeError, Reader, peek_varint, put_varint};
use super::early::{Early, EarlyAnswer};
use super::table::{Gaps, Positions, TableEnd, TableHead};
use crate::code::{CloseCode, RefuseCode};
use crate::id::{Epoch, HolderId, PipeId, SessionId};

/// The longest payload of a frame. What is longer comes in several frames;
/// a length above this is an error whatever the type (P-3).
pub(crate) const FRAME_MAX: usize = 16 * 1024;

/// Length of a session secret and of each proof: one SHA-256 output.
pub(crate) const SECRET_LEN: usize = 32;

/// Longest reason text in `Close` and `Refused`; longer ones are cut.
pub(crate) const REASON_MAX: usize = 1024;

/// How many entries of a list surely fit one frame, each as long as it can be.
pub(crate) const ACK_ENTRIES_MAX: usize = FRAME_MAX / (8 + 1 + 8);

/// What each side tells the other about its limits, once per session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// How many live pipes the *receiver* of this may have opened.
    pub(crate) max_pipes: u64,
    /// Replay capacity of each of the sender's pipes, in bytes: the receiver
    /// acknowledges often enough for it.
    pub(crate) replay_capacity: u64,
    /// How many bytes the sender of this is willing to hold unread in all; the
    /// receiver keeps its replay budget within it, so that connection-level
    /// flow control never lets one stopped pipe stop another.
    pub(crate) receive_budget: u64,
}

impl Parameters {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.max_pipes);
        put_varint(out, self.replay_capacity);
        put_varint(out, self.receive_budget);
    }

    fn decode(payload: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            max_pipes: payload.varint()?,
            replay_capacity: payload.varint()?,
            receive_budget: payload.varint()?,
        })
    }
}

/// Client: begin a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) holder: HolderId,
    pub(crate) parameters: Parameters,
}

impl Hello {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.holder.0);
        self.parameters.encode(out);
    }

    fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            holder: HolderId(payload.array()?),
            parameters: Parameters::decode(&mut payload)?,
        })
    }
}

/// Server: the session is begun; its connection has epoch 1.
///
/// The only frame that carries a secret, hence no derived `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) session: SessionId,
    pub(crate) secret: Zeroizing<[u8; SECRET_LEN]>,
    pub(crate) parameters: Parameters,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Welcome")
            .field("session", &self.session)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

impl Welcome {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.session.as_bytes());
        out.put_slice(&self.secret[..]);
        self.parameters.encode(out);
    }

    fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            session: SessionId::from_bytes(payload.array()?),
            secret: Zeroizing::new(payload.array()?),
            parameters: Parameters::decode(&mut payload)?,
        })
    }
}

/// Client: resume a session on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) holder: HolderId,
    pub(crate) proof: [u8; SECRET_LEN],
}

impl Resume {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.session.as_bytes());
        put_varint(out, self.epoch.get());
        out.put_slice(&self.holder.0);
        out.put_slice(&self.proof);
    }

    fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            session: SessionId::from_bytes(payload.array()?),
            epoch: Epoch::from_wire(payload.varint()?),
            holder: HolderId(payload.array()?),
            proof: payload.array()?,
        })
    }
}

/// Server: the resume is accepted; its own table follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resumed {
    pub(crate) epoch: Epoch,
    pub(crate) proof: [u8; SECRET_LEN],
}

impl Resumed {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.epoch.get());
        out.put_slice(&self.proof);
    }

    fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self { epoch: Epoch::from_wire(payload.varint()?), proof: payload.array()? })
    }
}

/// Server: no session, no resume, and why. Not a frame: it travels as the reason
/// of the CONNECTION_CLOSE that comes with it (P-17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: RefuseCode,
    /// The epoch that is attached, where the code is `STALE_EPOCH`; else 0.
    pub(crate) attached: u64,
    /// For people; UTF-8 is not guaranteed.
    pub(crate) reason: Bytes,
}

impl Refused {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.code.to_wire());
        put_varint(out, self.attached);
        out.put_slice(self.reason.get(..REASON_MAX).unwrap_or(&self.reason));
    }

    fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            code: RefuseCode::from_wire(payload.varint()?),
            attached: payload.varint()?,
            reason: payload.rest(),
        })
    }

    pub(crate) fn to_reason(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.to_vec()
    }

    pub(crate) fn from_reason(reason: Bytes) -> Result<Self, DecodeError> {
        Self::decode(Reader::new(reason))
    }
}

/// "The application has read this pipe up to here", for one or more pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) pipe: PipeId,
    pub(crate) offset: u64,
    /// The end of the direction (FIN or reset) was taken note of too.
    pub(crate) done: bool,
}

impl Ack {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.pipe.to_wire());
        out.put_u8(u8::from(self.done));
        put_varint(out, self.offset);
    }

    fn decode(payload: &mut Reader) -> Result<Self, DecodeError> {
        let pipe = PipeId::from_wire(payload.varint()?);
        let done = match payload.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid("ack flags")),
        };
        Ok(Self { pipe, done, offset: payload.varint()? })
    }

    fn encode_all(acks: &[Self], out: &mut BytesMut) {
        acks.iter().for_each(|ack| ack.encode(out));
    }

    fn decode_all(mut payload: Reader) -> Result<Vec<Self>, DecodeError> {
        let mut acks = Vec::new();
        while !payload.is_empty() {
            acks.push(Self::decode(&mut payload)?);
        }
        Ok(acks)
    }
}

/// The writer of a direction gives up after `offset` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reset {
    pub(crate) pipe: PipeId,
    pub(crate) code: u32,
    pub(crate) offset: u64,
}

/// The reader of a direction wants no more after `offset` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) pipe: PipeId,
    pub(crate) code: u32,
    pub(crate) offset: u64,
}

fn encode_end(pipe: PipeId, code: u32, offset: u64, out: &mut BytesMut) {
    put_varint(out, pipe.to_wire());
    put_varint(out, u64::from(code));
    put_varint(out, offset);
}

fn decode_end(mut payload: Reader) -> Result<(PipeId, u32, u64), DecodeError> {
    let pipe = PipeId::from_wire(payload.varint()?);
    Ok((pipe, payload.varint_u32("code")?, payload.varint()?))
}

/// The session is over, by decision of the sender's application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: CloseCode,
    pub(crate) reason: Bytes,
}

impl Close {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.code.to_wire());
        out.put_slice(self.reason.get(..REASON_MAX).unwrap_or(&self.reason));
    }

    fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self { code: CloseCode::from_wire(payload.varint()?), reason: payload.rest() })
    }

    /// As the reason of a CONNECTION_CLOSE, which may be all that arrives.
    pub(crate) fn to_reason(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.to_vec()
    }

    /// The opposite; a reason that was lost or cut off leaves the code.
    pub(crate) fn from_reason(reason: Bytes) -> Self {
        Self::decode(Reader::new(reason))
            .unwrap_or(Self { code: CloseCode::DONE, reason: Bytes::new() })
    }
}

/// Any frame of the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Resume(Resume),
    Resumed(Resumed),
    TableHead(TableHead),
    Gaps(Gaps),
    Positions(Positions),
    TableEnd(TableEnd),
    Acks(Vec<Ack>),
    Reset(Reset),
    Stop(Stop),
    /// A probe; answered by `Pong` with the same number.
    Ping(u64),
    Pong(u64),
    Close(Close),
    Early(Early),
    EarlyAnswer(EarlyAnswer),
    /// A type that this version does not know; its payload was skipped.
    Unknown(u64),
}

impl Frame {
    const HELLO: u64 = 0x01;
    const WELCOME: u64 = 0x02;
    const RESUME: u64 = 0x03;
    const RESUMED: u64 = 0x04;
    const TABLE_HEAD: u64 = 0x05;
    const GAPS: u64 = 0x06;
    const POSITIONS: u64 = 0x07;
    const TABLE_END: u64 = 0x08;
    const ACKS: u64 = 0x09;
    const RESET: u64 = 0x0a;
    const STOP: u64 = 0x0b;
    const PING: u64 = 0x0c;
    const PONG: u64 = 0x0d;
    const CLOSE: u64 = 0x0e;
    const EARLY: u64 = 0x0f;
    const EARLY_ANSWER: u64 = 0x10;

    /// The name of the frame, for errors and logs.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Welcome(_) => "WELCOME",
            Self::Resume(_) => "RESUME",
            Self::Resumed(_) => "RESUMED",
            Self::TableHead(_) => "TABLE_HEAD",
            Self::Gaps(_) => "GAPS",
            Self::Positions(_) => "POSITIONS",
            Self::TableEnd(_) => "TABLE_END",
            Self::Acks(_) => "ACKS",
            Self::Reset(_) => "RESET",
            Self::Stop(_) => "STOP",
            Self::Ping(_) => "PING",
            Self::Pong(_) => "PONG",
            Self::Close(_) => "CLOSE",
            Self::Early(_) => "EARLY",
            Self::EarlyAnswer(_) => "EARLY_ANSWER",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Appends the frame to `out`.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut payload = BytesMut::new();
        self.encode_payload(&mut payload);
        debug_assert!(payload.len() <= FRAME_MAX, "{} is chunked by its maker", self.name());
        put_varint(out, self.kind());
        put_varint(out, payload.len() as u64);
        out.put_slice(&payload);
    }

    const fn kind(&self) -> u64 {
        match self {
            Self::Hello(_) => Self::HELLO,
            Self::Welcome(_) => Self::WELCOME,
            Self::Resume(_) => Self::RESUME,
            Self::Resumed(_) => Self::RESUMED,
            Self::TableHead(_) => Self::TABLE_HEAD,
            Self::Gaps(_) => Self::GAPS,
            Self::Positions(_) => Self::POSITIONS,
            Self::TableEnd(_) => Self::TABLE_END,
            Self::Acks(_) => Self::ACKS,
            Self::Reset(_) => Self::RESET,
            Self::Stop(_) => Self::STOP,
            Self::Ping(_) => Self::PING,
            Self::Pong(_) => Self::PONG,
            Self::Close(_) => Self::CLOSE,
            Self::Early(_) => Self::EARLY,
            Self::EarlyAnswer(_) => Self::EARLY_ANSWER,
            Self::Unknown(kind) => *kind,
        }
    }

    fn encode_payload(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(frame) => frame.encode(out),
            Self::Welcome(frame) => frame.encode(out),
            Self::Resume(frame) => frame.encode(out),
            Self::Resumed(frame) => frame.encode(out),
            Self::TableHead(frame) => frame.encode(out),
            Self::Gaps(frame) => frame.encode(out),
            Self::Positions(frame) => frame.encode(out),
            Self::TableEnd(frame) => frame.encode(out),
            Self::Acks(acks) => Ack::encode_all(acks, out),
            Self::Reset(end) => encode_end(end.pipe, end.code, end.offset, out),
            Self::Stop(end) => encode_end(end.pipe, end.code, end.offset, out),
            Self::Ping(number) | Self::Pong(number) => put_varint(out, *number),
            Self::Close(frame) => frame.encode(out),
            Self::Early(frame) => frame.encode(out),
            Self::EarlyAnswer(frame) => frame.encode(out),
            Self::Unknown(_) => {}
        }
    }

    fn decode(kind: u64, payload: Bytes) -> Result<Self, DecodeError> {
        let mut payload = Reader::new(payload);
        Ok(match kind {
            Self::HELLO => Self::Hello(Hello::decode(payload)?),
            Self::WELCOME => Self::Welcome(Welcome::decode(payload)?),
            Self::RESUME => Self::Resume(Resume::decode(payload)?),
            Self::RESUMED => Self::Resumed(Resumed::decode(payload)?),
            Self::TABLE_HEAD => Self::TableHead(TableHead::decode(payload)?),
            Self::GAPS => Self::Gaps(Gaps::decode(payload)?),
            Self::POSITIONS => Self::Positions(Positions::decode(payload)?),
            Self::TABLE_END => Self::TableEnd(TableEnd::decode(payload)?),
            Self::ACKS => Self::Acks(Ack::decode_all(payload)?),
            Self::RESET => {
                let (pipe, code, offset) = decode_end(payload)?;
                Self::Reset(Reset { pipe, code, offset })
            }
            Self::STOP => {
                let (pipe, code, offset) = decode_end(payload)?;
                Self::Stop(Stop { pipe, code, offset })
            }
            Self::PING => Self::Ping(payload.varint()?),
            Self::PONG => Self::Pong(payload.varint()?),
            Self::CLOSE => Self::Close(Close::decode(payload)?),
            Self::EARLY => Self::Early(Early::decode(payload)?),
            Self::EARLY_ANSWER => Self::EarlyAnswer(EarlyAnswer::decode(payload)?),
            unknown => Self::Unknown(unknown),
        })
    }
}

/// Cuts the byte stream of a control stream into frames.
///
/// Holds at most one incomplete frame: a type, a length and [`FRAME_MAX`]
/// bytes, plus what the last [`push`](Self::push) brought.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffered: BytesMut,
}

impl Decoder {
    /// Adds bytes as they came from the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their frame.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.len()
    }

    /// The next whole frame; `None` until more bytes come.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Some((kind, kind_len)) = peek_varint(&self.buffered) else {
            return Ok(None);
        };
        let Some((len, len_len)) = self.buffered.get(kind_len..).and_then(peek_varint) else {
            return Ok(None);
        };
        if len > FRAME_MAX as u64 {
            return Err(DecodeError::TooLong { claimed: len, allowed: FRAME_MAX as u64 });
        }
        let head = kind_len + len_len;
        if self.buffered.len() < head + len as usize {
            return Ok(None);
        }
        let mut frame = self.buffered.split_to(head + len as usize);
        let payload = frame.split_off(head).freeze();
        Frame::decode(kind, payload).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::table::{
        GAP_ENTRIES_MAX, POSITION_ENTRIES_MAX, Position, RecvReport, SendReport,
    };
    use super::*;
    use crate::id::Side;

    fn id(opener: Side, index: u64) -> PipeId {
        PipeId::new(opener, index).unwrap()
    }

    fn decode_one(bytes: &[u8]) -> Result<Option<Frame>, DecodeError> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.next_frame()
    }

    /// The test vectors of the manual, byte for byte.
    fn vectors() -> Vec<(Frame, Vec<u8>)> {
        let holder = HolderId([0xaa; 16]);
        let session = SessionId::from_bytes([0x11; 16]);
        let parameters =
            Parameters { max_pipes: 1024, replay_capacity: 16 << 20, receive_budget: 128 << 20 };
        let parameter_bytes = [0x44, 0, 0x81, 0, 0, 0, 0x88, 0, 0, 0];
        let with = |head: &[u8], parts: &[&[u8]]| [head, &parts.concat()].concat();
        vec![
            (
                Frame::Hello(Hello { holder, parameters }),
                with(&[0x01, 26], &[&[0xaa; 16], &parameter_bytes]),
            ),
            (
                Frame::Welcome(Welcome { session, secret: Zeroizing::new([0x22; 32]), parameters }),
                with(&[0x02, 58], &[&[0x11; 16], &[0x22; 32], &parameter_bytes]),
            ),
            (
                Frame::Resume(Resume {
                    session,
                    epoch: Epoch::from_wire(2),
                    holder,
                    proof: [0x33; 32],
                }),
                with(&[0x03, 0x40, 65], &[&[0x11; 16], &[2], &[0xaa; 16], &[0x33; 32]]),
            ),
            (
                Frame::Resumed(Resumed { epoch: Epoch::from_wire(2), proof: [0x44; 32] }),
                with(&[0x04, 33], &[&[2], &[0x44; 32]]),
            ),
            (Frame::TableHead(TableHead { opened: 3, seen: 64 }), vec![0x05, 3, 3, 0x40, 64]),
            (Frame::Gaps(Gaps(vec![1, 63])), vec![0x06, 2, 1, 63]),
            (
                Frame::Positions(Positions(vec![
                    Position {
                        pipe: id(Side::Client, 0),
                        read: 100,
                        recv: RecvReport::Open,
                        send: SendReport::Open,
                    },
                    Position {
                        pipe: id(Side::Server, 1),
                        read: 5,
                        recv: RecvReport::Stopped { code: 9 },
                        send: SendReport::Reset { code: 8, offset: 7 },
                    },
                ])),
                vec![0x07, 12, 0, 0, 1, 0x40, 100, 3, 0b110, 1, 5, 9, 8, 7],
            ),
            (
                Frame::Positions(Positions(
                    [(2, 9), (3, 100), (4, 0), (6, 1)]
                        .map(|(index, read)| Position {
                            pipe: id(Side::Client, index),
                            read,
                            recv: RecvReport::Open,
                            send: SendReport::Open,
                        })
                        .to_vec(),
                )),
                vec![0x07, 11, 4, 0, 3, 9, 0x40, 100, 0, 12, 0, 1, 1],
            ),
            (Frame::TableEnd(TableEnd { pipes: 2 }), vec![0x08, 1, 2]),
            (
                Frame::Acks(vec![
                    Ack { pipe: id(Side::Client, 0), offset: 5, done: false },
                    Ack { pipe: id(Side::Server, 0), offset: 6, done: true },
                ]),
                vec![0x09, 6, 0, 0, 5, 1, 1, 6],
            ),
            (
                Frame::Reset(Reset { pipe: id(Side::Client, 1), code: 3, offset: 9 }),
                vec![0x0a, 3, 2, 3, 9],
            ),
            (
                Frame::Stop(Stop { pipe: id(Side::Client, 1), code: 4, offset: 9 }),
                vec![0x0b, 3, 2, 4, 9],
            ),
            (Frame::Ping(1), vec![0x0c, 1, 1]),
            (Frame::Pong(1), vec![0x0d, 1, 1]),
            (
                Frame::Close(Close { code: CloseCode::DONE, reason: Bytes::from_static(b"bye") }),
                b"\x0e\x04\x01bye".to_vec(),
            ),
            (
                Frame::Early(Early {
                    session,
                    epoch: Epoch::from_wire(2),
                    holder,
                    nonce: [0x66; 32],
                    proof: [0x33; 32],
                    reads: vec![(id(Side::Client, 0), 100), (id(Side::Client, 1), 0)],
                }),
                with(
                    &[0x0f, 0x40, 102],
                    &[
                        &[0x11; 16],
                        &[2],
                        &[0xaa; 16],
                        &[0x66; 32],
                        &[0x33; 32],
                        &[0, 0x40, 100, 2, 0],
                    ],
                ),
            ),
            (
                Frame::EarlyAnswer(EarlyAnswer { epoch: Epoch::from_wire(2), proof: [0x44; 32] }),
                with(&[0x10, 33], &[&[2], &[0x44; 32]]),
            ),
        ]
    }

    #[test]
    fn every_frame_matches_its_test_vector() {
        for (frame, bytes) in vectors() {
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            // RESUME has a two-byte length in its vector, since 65 > 63.
            assert_eq!(out, bytes, "{}", frame.name());
            assert_eq!(decode_one(&bytes).unwrap().unwrap(), frame);
            for cut in 0..bytes.len() {
                assert_eq!(decode_one(&bytes[..cut]), Ok(None), "{} cut at {cut}", frame.name());
            }
        }
    }

    #[test]
    fn a_refusal_matches_its_test_vector() {
        let refused = Refused {
            code: RefuseCode::STALE_EPOCH,
            attached: 7,
            reason: Bytes::from_static(b"newer"),
        };
        assert_eq!(refused.to_reason(), b"\x05\x07newer");
        assert_eq!(Refused::from_reason(Bytes::from_static(b"\x05\x07newer")), Ok(refused));
        assert_eq!(Refused::from_reason(Bytes::new()), Err(DecodeError::Truncated));
    }

    #[test]
    fn unknown_frames_are_skipped_and_the_next_one_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&[0x40, 0x99, 3, 1, 2, 3, 0x0c, 1, 7]);
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Unknown(0x99))));
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Ping(7))));
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn bytes_after_the_known_fields_of_a_frame_are_ignored() {
        assert_eq!(decode_one(&[0x0c, 3, 7, 0xff, 0xff]), Ok(Some(Frame::Ping(7))));
    }

    #[test]
    fn a_frame_that_claims_2_to_the_60_bytes_is_refused_without_waiting_for_them() {
        let mut bytes = BytesMut::new();
        put_varint(&mut bytes, 0x09);
        put_varint(&mut bytes, 1 << 60);
        assert_eq!(
            decode_one(&bytes),
            Err(DecodeError::TooLong { claimed: 1 << 60, allowed: FRAME_MAX as u64 })
        );
    }

    /// P-3: the manual's number.
    #[test]
    fn a_payload_has_at_most_16_384_bytes_whatever_its_type() {
        let frame = |len: u64| {
            let mut bytes = BytesMut::from(&[0x40, 0x99][..]);
            put_varint(&mut bytes, len);
            bytes.resize(bytes.len() + len as usize, 0);
            decode_one(&bytes)
        };
        assert_eq!(frame(16_384), Ok(Some(Frame::Unknown(0x99))));
        assert_eq!(frame(16_385), Err(DecodeError::TooLong { claimed: 16_385, allowed: 16_384 }));
    }

    #[test]
    fn reasons_are_cut_after_1_024_bytes_and_shorter_ones_are_whole() {
        for (len, cut) in [(0, 0), (1023, 1023), (1024, 1024), (1025, 1024), (5000, 1024)] {
            let reason = Bytes::from(vec![b'x'; len]);
            let close = Close { code: CloseCode::DONE, reason: reason.clone() };
            assert_eq!(close.to_reason(), [b"\x01", &reason[..cut]].concat());
            let refused = Refused { code: RefuseCode::DECLINED, attached: 0, reason };
            assert_eq!(refused.to_reason(), [b"\x01\x00", &refused.reason[..cut]].concat());
        }
    }

    /// P-30.
    #[test]
    fn the_reason_of_a_closed_session_is_its_close_frame_or_else_means_done() {
        let close = Close { code: CloseCode::application(7), reason: Bytes::from_static(b"why") };
        assert_eq!(Close::from_reason(close.to_reason().into()), close);
        let lost = Close { code: CloseCode::DONE, reason: Bytes::new() };
        for reason in [&b""[..], b"\x80\x01"] {
            assert_eq!(Close::from_reason(Bytes::from_static(reason)), lost);
        }
    }

    #[test]
    fn flags_without_meaning_are_refused() {
        let position = |flags| decode_one(&[0x07, 8, 0, flags, 1, 5, 9, 8, 7, 6]);
        let ack = |flags| decode_one(&[0x09, 3, 0, flags, 5]);
        // Done and stopped at once, and bits that are not given out.
        for flags in [0b011, 0b111, 0b1000, 0b1001, 0b1100, 0x80] {
            assert_eq!(position(flags), Err(DecodeError::Invalid("position flags")), "{flags:#b}");
        }
        for flags in [2, 3, 0x80] {
            assert_eq!(ack(flags), Err(DecodeError::Invalid("ack flags")));
        }
    }

    #[test]
    fn a_run_of_positions_has_one_at_least_and_a_frame_1024_at_most() {
        let refused = Err(DecodeError::Invalid("position count"));
        assert_eq!(decode_one(&[0x07, 3, 0, 0, 0]), refused);
        let runs = |counts: &[u64]| {
            let mut payload = BytesMut::new();
            for count in counts {
                payload.put_slice(&[0, 0]);
                put_varint(&mut payload, *count);
                // The application has read nothing.
                payload.extend((0..*count).map(|_| 0));
            }
            let mut frame = BytesMut::from(&[0x07][..]);
            put_varint(&mut frame, payload.len() as u64);
            frame.extend_from_slice(&payload);
            decode_one(&frame)
        };
        assert!(
            matches!(runs(&[24, 1000]), Ok(Some(Frame::Positions(all))) if all.0.len() == 1024)
        );
        assert_eq!(runs(&[25, 1000]), refused);
        assert_eq!(runs(&[1025]), refused);
        // It says so before the positions that it claims are looked for.
        let mut claim = vec![0x07, 10, 0, 0];
        claim.extend_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(decode_one(&claim), refused);
        // Fewer than it says, and more than there are indices.
        assert_eq!(decode_one(&[0x07, 4, 0, 0, 2, 9]), Err(DecodeError::Truncated));
        let mut last = vec![0x07, 12];
        last.extend_from_slice(&u64::MAX.to_be_bytes());
        last.extend_from_slice(&[0, 2, 9, 9]);
        assert_eq!(decode_one(&last), refused);
    }

    #[test]
    fn a_secret_is_not_printed_with_its_frame() {
        let welcome = vectors().swap_remove(1).0;
        let printed = format!("{welcome:?}");
        assert!(printed.contains("session: SessionId(1111") && printed.contains("max_pipes: 1024"));
        assert!(!printed.contains("22, 22") && !printed.contains("34, 34"), "{printed}");
    }

    #[test]
    fn the_largest_lists_fit_one_frame() {
        let pipe = PipeId::from_wire(u64::MAX);
        let offset = super::super::MAX_VARINT;
        let acks = vec![Ack { pipe, offset, done: true }; ACK_ENTRIES_MAX];
        let position = Position {
            pipe,
            read: offset,
            recv: RecvReport::Stopped { code: u32::MAX },
            send: SendReport::Reset { code: u32::MAX, offset },
        };
        let positions = vec![position; POSITION_ENTRIES_MAX];
        let gaps = vec![offset; GAP_ENTRIES_MAX];
        for (frame, entry) in [
            (Frame::Acks(acks), 17),
            (Frame::Positions(Positions(positions)), 42),
            (Frame::Gaps(Gaps(gaps)), 8),
        ] {
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            // A type of one byte, a length of four.
            let payload = out.len() - (1 + 4);
            assert!(payload <= FRAME_MAX && payload + entry > FRAME_MAX, "one more does not fit");
            assert_eq!(decode_one(&out).unwrap(), Some(frame));
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_the_decoder(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8)) {
            let mut decoder = Decoder::default();
            for chunk in chunks {
                decoder.push(&chunk);
                while let Ok(Some(_)) = decoder.next_frame() {}
            }
        }
    }
}
