//! The decoders: control frames, stream headers, reasons of a close.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};

use super::Input;
use crate::wire::{Close, DecodeError, Decoder, FRAME_MAX, Frame, Header, LABEL_MAX, Refused};

/// The longest head of a frame: its type and its length.
const FRAME_HEAD_MAX: usize = 8 + 8;

/// The longest stream header: its kind, its length, three numbers, a label.
const HEADER_MAX: usize = 1 + 8 + 3 * 8 + LABEL_MAX;

/// Takes a count, so many lengths of pieces, and the bytes that come in them.
pub fn frame(data: &[u8]) {
    let mut input = Input::new(data);
    let count = usize::from(input.byte() % 16);
    // Again and again in this order; one by one if there are none.
    let pieces: Vec<usize> = match input.bytes(count) {
        [] => vec![1],
        lengths => lengths.iter().map(|len| 1 + usize::from(*len)).collect(),
    };
    let stream = input.rest();
    control_stream(stream, &pieces);
    pipe_stream(stream, &pieces);
    close_reason(stream);
}

/// Frames, and how the decoding ended.
type Decoded = (Vec<Frame>, Result<(), DecodeError>);

fn control_stream(stream: &[u8], pieces: &[usize]) {
    let at_once = decode([stream].into_iter());
    let in_pieces = decode(cut(stream, pieces));
    assert_eq!(in_pieces, at_once, "however it was cut");
    for frame in at_once.0 {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        let again = decode([&bytes[..]].into_iter());
        assert_eq!(again, (vec![in_bounds(frame)], Ok(())));
    }
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(malformed) => return (frames, Err(malformed)),
            }
        }
        assert!(decoder.buffered() < FRAME_HEAD_MAX + FRAME_MAX, "{}", decoder.buffered());
    }
    (frames, Ok(()))
}

/// `frame` as it is when it has been encoded: texts for people are cut.
fn in_bounds(frame: Frame) -> Frame {
    match frame {
        Frame::Close(close) => Frame::Close(Close::from_reason(close.to_reason().into())),
        frame => frame,
    }
}

fn pipe_stream(stream: &[u8], pieces: &[usize]) {
    let stream = Bytes::copy_from_slice(stream);
    let mut rest = stream.clone();
    let at_once = Header::decode(&mut rest);
    let mut arrived = 0;
    let in_pieces = cut(&stream, pieces).find_map(|piece| {
        arrived += piece.len();
        let mut bytes = stream.slice(..arrived);
        let header = Header::decode(&mut bytes).transpose();
        if header.is_none() {
            assert!(arrived < HEADER_MAX, "nothing is decoded of {arrived} bytes");
            assert_eq!(bytes.len(), arrived, "and nothing is taken");
        }
        header
    });
    assert_eq!(in_pieces.transpose(), at_once, "however it was cut");
    if let Ok(Some(header)) = at_once {
        // What follows the header is left.
        assert!(stream.ends_with(&rest));
        let mut again = BytesMut::from(&header.encode()[..]);
        again.extend_from_slice(&rest);
        let mut again = again.freeze();
        assert_eq!(Header::decode(&mut again), Ok(Some(header)));
        assert_eq!(again, rest);
    }
}

fn close_reason(reason: &[u8]) {
    let reason = Bytes::copy_from_slice(reason);
    if let Ok(refused) = Refused::from_reason(reason.clone()) {
        settles(refused, |refused| Refused::from_reason(refused.to_reason().into()).unwrap());
    }
    let close = Close::from_reason(reason);
    settles(close, |close| Close::from_reason(close.to_reason().into()));
}

/// Encoding cuts what is too long and maps unknown codes, once and for all.
fn settles<T: Debug + PartialEq>(value: T, again: impl Fn(&T) -> T) {
    let settled = again(&value);
    assert_eq!(again(&settled), settled);
}

/// `stream` in pieces of these lengths, over and over.
fn cut<'a>(mut stream: &'a [u8], pieces: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let lengths = pieces.iter().cycle();
    lengths.map_while(move |len| {
        let (piece, rest) = stream.split_at(stream.len().min(*len));
        stream = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
