//! Whole sessions, whose link is lost at any point: the applications see a
//! stall.

use bytes::Bytes;
use shuttle::thread::{self, JoinHandle};

use super::link::{Network, Pair};
use super::{block_on, exhaust, explore};
use crate::error::{ReadError, SessionError, WriteError};
use crate::id::Epoch;
use crate::pipe::{BackedReader, BackedWriter};
use crate::quic::Connection;
use crate::session::Session;

/// Less than what is written: writers wait for acks.
const CAPACITY: u64 = 6;

const BYTES: Bytes = Bytes::from_static(b"0123456789");

/// Runs the applications of both sides while `trouble` comes over the link.
fn run(
    client: impl FnOnce(Session) + Send + 'static,
    server: impl FnOnce(Session) + Send + 'static,
    trouble: impl FnOnce(&Network) + Send + 'static,
) {
    let pair = Pair::new(CAPACITY);
    let network = pair.network();
    let [for_client, for_server] = pair.sessions();
    let drivers = thread::spawn(move || block_on(pair.run()));
    let client = thread::spawn(move || client(for_client));
    let server = thread::spawn(move || server(for_server));
    let trouble = {
        let network = network.clone();
        thread::spawn(move || trouble(&network))
    };
    [client, server, trouble].into_iter().for_each(join);
    network.over();
    join(drivers);
}

fn join(thread: JoinHandle<()>) {
    thread.join().expect("it came to its end");
}

fn write_all(writer: &mut BackedWriter) {
    let mut bytes = BYTES;
    block_on(writer.write_chunk(&mut bytes)).expect("a write");
    writer.finish();
    block_on(writer.wait_acked(BYTES.len() as u64)).expect("an ack");
}

fn read_all(reader: &mut BackedReader) {
    let mut read = Vec::new();
    while let Some(chunk) = block_on(reader.read_chunk(4)).expect("a read") {
        read.extend_from_slice(&chunk);
    }
    assert_eq!(read, BYTES);
}

#[test]
fn every_byte_comes_once_whenever_the_link_is_lost() {
    explore(|| {
        run(
            |client| {
                let (mut reader, mut writer) = client.open_pipe("").expect("a pipe").into_split();
                writer.finish();
                read_all(&mut reader);
            },
            |server| {
                let pipe = block_on(server.accept_pipe()).expect("a session").expect("a pipe");
                let (mut reader, mut writer) = pipe.into_split();
                write_all(&mut writer);
                assert_eq!(block_on(reader.read_chunk(1)), Ok(None));
            },
            |network| network.cut(2),
        );
    });
}

#[test]
fn both_directions_go_on_whenever_the_link_is_lost() {
    explore(|| {
        let both = |(mut reader, mut writer): (BackedReader, BackedWriter)| {
            let writing = thread::spawn(move || write_all(&mut writer));
            read_all(&mut reader);
            join(writing);
        };
        run(
            move |client| both(client.open_pipe("").expect("a pipe").into_split()),
            move |server| {
                let pipe = block_on(server.accept_pipe()).expect("a session").expect("a pipe");
                both(pipe.into_split());
            },
            |network| network.cut(2),
        );
    });
}

#[test]
fn each_pipe_is_accepted_once_whenever_it_is_opened() {
    explore(|| {
        run(
            |client| {
                let open = |label: &'static str| {
                    let client = client.clone();
                    thread::spawn(move || {
                        let mut pipe = client.open_pipe(label).expect("a pipe");
                        pipe.writer().finish();
                        assert_eq!(block_on(pipe.reader().read_chunk(1)), Ok(None));
                    })
                };
                ["a", "b"].map(open).into_iter().for_each(join);
            },
            |server| {
                let accept = || {
                    let server = server.clone();
                    thread::spawn(move || {
                        let pipe = block_on(server.accept_pipe()).expect("a session");
                        let mut pipe = pipe.expect("a pipe");
                        pipe.writer().finish();
                        assert_eq!(block_on(pipe.reader().read_chunk(1)), Ok(None));
                        pipe.label()
                    })
                };
                let accepting = [accept(), accept()];
                let mut labels = accepting.map(|thread| thread.join().expect("a pipe"));
                labels.sort();
                assert_eq!(labels, ["a", "b"]);
            },
            |network| network.cut(2),
        );
    });
}

#[test]
fn a_pipe_that_is_opened_while_the_link_changes_gets_a_stream() {
    explore(|| {
        run(
            |client| {
                let mut pipe = client.open_pipe("").expect("a pipe");
                pipe.writer().finish();
                assert_eq!(block_on(pipe.reader().read_chunk(1)), Ok(None));
            },
            |server| {
                let pipe = block_on(server.accept_pipe()).expect("a session");
                let mut pipe = pipe.expect("a pipe");
                pipe.writer().finish();
                assert_eq!(block_on(pipe.reader().read_chunk(1)), Ok(None));
            },
            Network::cut_now,
        );
    });
}

#[test]
fn in_every_order_a_pipe_opened_during_a_fence_has_no_stream_behind_it() {
    exhaust(|| {
        let pair = Pair::new(CAPACITY);
        let [client, _server] = pair.sessions();
        let opening = thread::spawn(move || client.open_pipe("").expect("a pipe"));
        let shared = pair.client();
        shared.fence();
        let _held = opening.join().expect("a pipe");
        assert!(shared.pipes().iter().all(|pipe| pipe.look().stream), "it wants one");
    });
}

#[test]
fn in_every_order_a_pipe_opened_as_a_connection_comes_is_attached_or_due() {
    exhaust(|| {
        let pair = Pair::new(CAPACITY);
        let [client, _server] = pair.sessions();
        let shared = pair.client();
        shared.fence();
        let opening = thread::spawn(move || client.open_pipe("").expect("a pipe"));
        let [connection, _] = Connection::pair(8);
        shared.set_attached(&connection, Epoch::FIRST.next());
        let _held = opening.join().expect("a pipe");
        let due = !shared.host.take_due(false).now.is_empty();
        assert!(due || !shared.pipes().iter().any(|pipe| pipe.look().stream));
    });
}

#[test]
fn a_pipe_opened_as_the_session_ends_ends_too() {
    explore(|| {
        let pair = Pair::new(CAPACITY);
        let [client, _server] = pair.sessions();
        let opening = thread::spawn(move || client.open_pipe(""));
        pair.client().end(SessionError::UnknownSession);
        if let Ok(mut pipe) = opening.join().expect("an answer") {
            let ended = SessionError::UnknownSession;
            assert_eq!(block_on(pipe.reader().read_chunk(1)), Err(ended.into()));
        }
    });
}

#[test]
fn a_reset_and_a_stop_arrive_whenever_the_link_is_lost() {
    explore(|| {
        run(
            |client| {
                let (mut reader, mut writer) = client.open_pipe("").expect("a pipe").into_split();
                let mut bytes = BYTES.slice(..2);
                block_on(writer.write_chunk(&mut bytes)).expect("a write");
                reader.stop(9);
                writer.reset(7);
            },
            |server| {
                // Given up before it was seen, it may never arrive.
                let mut arrived = std::pin::pin!(server.accept_pipe());
                let polled = block_on(std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(arrived.as_mut().poll(cx))
                }));
                let std::task::Poll::Ready(pipe) = polled else { return };
                let (mut reader, mut writer) =
                    pipe.expect("a session").expect("a pipe").into_split();
                let writing = thread::spawn(move || {
                    let mut bytes = BYTES;
                    let refused = block_on(writer.write_chunk(&mut bytes));
                    let refused = refused.err().or_else(|| block_on(writer.wait_acked(10)).err());
                    assert_eq!(refused, Some(WriteError::Stopped { code: 9 }));
                });
                let end = loop {
                    match block_on(reader.read_chunk(4)) {
                        Ok(chunk) => assert!(chunk.is_some(), "a reset is no end of the stream"),
                        Err(error) => break error,
                    }
                };
                assert_eq!(end, ReadError::Reset { code: 7 });
                join(writing);
            },
            |network| network.cut(2),
        );
    });
}

#[test]
fn everybody_who_waits_hears_that_the_session_has_ended() {
    explore(|| {
        let ended = SessionError::UnknownSession;
        let (by_client, by_server) = (ended.clone(), ended);
        run(
            move |client| {
                let Ok(pipe) = client.open_pipe("") else { return };
                let (mut reader, mut writer) = pipe.into_split();
                let ended = by_client.clone();
                let writing = thread::spawn(move || {
                    // Nobody reads: it waits at the capacity.
                    let mut bytes = BYTES;
                    let error = block_on(writer.write_chunk(&mut bytes)).err();
                    assert_eq!(error, Some(ended.clone().into()));
                    assert_eq!(block_on(writer.wait_acked(1)), Err(ended.into()));
                });
                assert_eq!(block_on(reader.read_chunk(1)), Err(by_client.clone().into()));
                assert_eq!(block_on(client.closed()), by_client);
                join(writing);
            },
            move |server| {
                let mut pipes = Vec::new();
                let error = loop {
                    match block_on(server.accept_pipe()) {
                        Ok(pipe) => pipes.push(pipe),
                        Err(error) => break error,
                    }
                };
                assert_eq!(error, by_server);
            },
            |network| {
                network.cut(1);
                network.end();
            },
        );
    });
}
