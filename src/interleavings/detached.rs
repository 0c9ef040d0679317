//! Pipes that have no streams, or lose them: every waiter ends, budgets come
//! back, and nothing counts behind a fence.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf, Bytes};
use shuttle::thread;

use super::{block_on, exhaust, explore};
use crate::error::{ReadError, SessionError, WriteError};
use crate::id::{Epoch, PipeId, Side};
use crate::pipe::{Host, PipeShared, SharedBudget};
use crate::proto::{PIPE_SHARE, Pipe};
use crate::quic::Connection;

/// What the pipes here take from the shared budgets when they are full.
const SHARED: usize = 4;

/// Bytes that a stream holds: little more than a header.
const WINDOW: usize = 8;

/// A pipe that is full.
const FULL: usize = PIPE_SHARE as usize + SHARED;

static ZEROS: [u8; 2 * FULL] = [0; 2 * FULL];

fn pipe(host: &Arc<Host>, capacity: usize) -> Arc<PipeShared> {
    let id = PipeId::new(Side::Client, 0).expect("a small index");
    let core = Pipe::new(id, Bytes::new(), capacity as u64, capacity as u64);
    PipeShared::new(core, Side::Client, host.clone())
}

/// Writes so many bytes, as [`BackedWriter`](crate::BackedWriter) does.
fn write(pipe: &Arc<PipeShared>, len: usize) -> Result<(), WriteError> {
    let mut left = Bytes::from_static(&ZEROS[..len]);
    while !left.is_empty() {
        let taken = block_on(poll_fn(|cx| pipe.poll_write(cx, left.clone())))?;
        left.advance(taken);
    }
    Ok(())
}

/// Acknowledges whatever is written until that is `len` bytes.
fn acknowledge(pipe: &PipeShared, len: usize) {
    let mut acked = 0;
    while acked < len as u64 {
        let written = pipe.stats().written;
        if written > acked {
            pipe.on_ack(written, false).expect("it was written");
            acked = written;
        }
        thread::yield_now();
    }
}

fn assert_nothing_kept(host: &Host) {
    assert_eq!(host.totals.kept.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(host.session_budget.used(), 0);
    assert_eq!(host.server_budget.as_ref().map_or(0, |budget| budget.used()), 0);
}

#[test]
fn a_full_pipe_goes_on_with_each_ack() {
    explore(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let pipe = pipe(&host, 4);
        let writer = {
            let pipe = pipe.clone();
            thread::spawn(move || {
                write(&pipe, 10).expect("a write");
                block_on(poll_fn(|cx| pipe.poll_acked(cx, 10))).expect("an ack");
            })
        };
        acknowledge(&pipe, 10);
        writer.join().expect("a writer that got through");
        assert_nothing_kept(&host);
    });
}

#[test]
fn pipes_of_two_sessions_share_the_budget_of_their_server() {
    const WRITTEN: usize = FULL + SHARED;
    explore(|| {
        let server = Arc::new(SharedBudget::new(SHARED as u64));
        let hosts = [0, 1].map(|_| Arc::new(Host::new(SHARED as u64, Some(server.clone()), 1024)));
        let threads: Vec<_> = [&hosts[0], &hosts[0], &hosts[1]]
            .into_iter()
            .flat_map(|host| {
                let pipe = pipe(host, FULL);
                let acked = pipe.clone();
                [
                    thread::spawn(move || write(&pipe, WRITTEN).expect("a write")),
                    thread::spawn(move || acknowledge(&acked, WRITTEN)),
                ]
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it got through"));
        hosts.iter().for_each(|host| assert_nothing_kept(host));
    });
}

/// A pipe has taken the whole budget, and others wait for it: whatever `how`
/// lets go of it, they go on.
fn the_others_go_on(how: impl Fn(&Arc<PipeShared>) + Clone + Send + Sync + 'static) {
    explore(move || {
        let server = Arc::new(SharedBudget::new(SHARED as u64));
        let hosts = [0, 1].map(|_| Arc::new(Host::new(SHARED as u64, Some(server.clone()), 1024)));
        let greedy = pipe(&hosts[0], FULL);
        write(&greedy, FULL).expect("all there is");
        let others: Vec<_> = hosts
            .iter()
            .map(|host| {
                let pipe = pipe(host, FULL);
                thread::spawn(move || {
                    write(&pipe, FULL).expect("a write");
                    pipe.abandon_writer();
                })
            })
            .collect();
        how(&greedy);
        others.into_iter().for_each(|thread| thread.join().expect("it got through"));
        hosts.iter().for_each(|host| assert_nothing_kept(host));
    });
}

#[test]
fn a_writer_that_is_dropped_lets_the_others_go_on() {
    the_others_go_on(|greedy| greedy.abandon_writer());
}

#[test]
fn a_writer_that_is_stopped_lets_the_others_go_on() {
    the_others_go_on(|greedy| greedy.on_stop(1, 0).expect("a stop"));
}

#[test]
fn a_pipe_whose_session_ends_lets_the_others_go_on() {
    the_others_go_on(|greedy| greedy.end(&Arc::new(SessionError::UnknownSession)));
}

/// The outcomes of a writer that waits for room and then for an ack, and of a
/// reader, when `what` happens to their pipe.
fn outcomes(what: impl FnOnce(&Arc<PipeShared>)) -> (WriteError, WriteError, ReadError) {
    let host = Arc::new(Host::new(0, None, 1024));
    let pipe = pipe(&host, 4);
    write(&pipe, 4).expect("there is room");
    let writer = {
        let pipe = pipe.clone();
        thread::spawn(move || {
            let unwritten = write(&pipe, 1).expect_err("it is full");
            let unread = block_on(poll_fn(|cx| pipe.poll_acked(cx, 4)));
            (unwritten, unread.expect_err("nobody reads"))
        })
    };
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || block_on(poll_fn(|cx| pipe.poll_read_chunk(cx, 1))))
    };
    what(&pipe);
    let (unwritten, unread) = writer.join().expect("a writer");
    let read = reader.join().expect("a reader");
    assert_nothing_kept(&host);
    (unwritten, unread, read.expect_err("nothing was sent"))
}

#[test]
fn both_halves_hear_that_the_session_has_ended() {
    explore(|| {
        let error = SessionError::UnknownSession;
        let (unwritten, unread, read) = outcomes(|pipe| {
            pipe.detach();
            pipe.end(&Arc::new(error.clone()));
        });
        assert_eq!((unwritten, unread), (error.clone().into(), error.clone().into()));
        assert_eq!(read, error.into());
    });
}

#[test]
fn both_halves_hear_that_the_peer_gave_up() {
    explore(|| {
        let outcomes = outcomes(|pipe| {
            pipe.on_stop(5, 0).expect("a stop");
            pipe.on_reset(6, 0).expect("a reset");
        });
        let stopped = WriteError::Stopped { code: 5 };
        assert_eq!(outcomes, (stopped.clone(), stopped, ReadError::Reset { code: 6 }));
    });
}

#[test]
fn a_writer_that_waits_for_its_stream_goes_on_when_that_is_lost() {
    const WRITTEN: usize = 20;
    explore(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let pipe = pipe(&host, WRITTEN);
        // Nobody reads, so the stream takes a part only.
        let [connection, _peer] = Connection::pair(WINDOW);
        host.set_attached(Some(Epoch::FIRST));
        let stream = connection.try_open_bi().expect("a stream");
        pipe.attach(Epoch::FIRST, stream, None).expect("nobody is to blame");
        let writer = {
            let pipe = pipe.clone();
            thread::spawn(move || write(&pipe, WRITTEN))
        };
        host.set_attached(None);
        pipe.detach();
        assert_eq!(writer.join().expect("a writer"), Ok(()));
        pipe.abandon_writer();
        assert_nothing_kept(&host);
    });
}

/// A pipe that is attached, with two bytes to read. The peer's side of its
/// connection reads nothing.
fn attached() -> (Arc<PipeShared>, Connection) {
    let host = Arc::new(Host::new(0, None, 1024));
    let pipe = pipe(&host, 8);
    let [connection, peer] = Connection::pair(WINDOW);
    host.set_attached(Some(Epoch::FIRST));
    let stream = connection.try_open_bi().expect("a stream");
    let begun = Some((0, Bytes::from_static(b"xy")));
    pipe.attach(Epoch::FIRST, stream, begun).expect("nobody is to blame");
    (pipe, peer)
}

#[test]
fn in_every_order_a_read_counts_before_the_fence_or_never() {
    exhaust(|| {
        let (pipe, _peer) = attached();
        let reader = {
            let pipe = pipe.clone();
            thread::spawn(move || {
                let read = block_on(poll_fn(|cx| Poll::Ready(pipe.poll_read_chunk(cx, 1))));
                if read.is_ready() { 1 } else { 0 }
            })
        };
        pipe.detach();
        let told = pipe.measure().read;
        let read = reader.join().expect("a reader");
        assert_eq!((read, pipe.stats().read), (told, told));
    });
}

#[test]
fn in_every_order_what_was_sent_before_the_fence_is_sent_again() {
    exhaust(|| {
        let (pipe, _peer) = attached();
        let writer = {
            let pipe = pipe.clone();
            thread::spawn(move || write(&pipe, 1).expect("there is room"))
        };
        pipe.detach();
        writer.join().expect("a writer");
        let stats = pipe.stats();
        assert_eq!((stats.written, stats.sent), (1, 0));
    });
}

#[test]
fn in_every_order_a_reader_hears_that_the_session_has_ended() {
    exhaust(|| {
        let pipe = pipe(&Arc::new(Host::new(0, None, 1024)), 4);
        let reader = {
            let pipe = pipe.clone();
            thread::spawn(move || block_on(poll_fn(|cx| pipe.poll_read_chunk(cx, 1))))
        };
        pipe.detach();
        pipe.end(&Arc::new(SessionError::UnknownSession));
        let read = reader.join().expect("a reader");
        assert_eq!(read, Err(SessionError::UnknownSession.into()));
    });
}

#[test]
fn in_every_order_a_writer_hears_that_it_was_stopped() {
    exhaust(|| {
        let pipe = pipe(&Arc::new(Host::new(0, None, 1024)), 4);
        write(&pipe, 4).expect("there is room");
        let writer = {
            let pipe = pipe.clone();
            thread::spawn(move || write(&pipe, 1))
        };
        pipe.on_stop(5, 0).expect("a stop");
        let unwritten = writer.join().expect("a writer");
        assert_eq!(unwritten, Err(WriteError::Stopped { code: 5 }));
    });
}

#[test]
fn a_stream_that_comes_too_late_does_not_take_the_turn_of_the_next() {
    exhaust(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let pipe = pipe(&host, 4);
        // Opened on a connection that is no more, while the driver waits for a
        // stream on its successor.
        let [late, _] = Connection::pair(WINDOW);
        let stream = late.try_open_bi().expect("a stream");
        host.set_attached(Some(Epoch::FIRST.next()));
        assert!(pipe.look().stream);
        pipe.attach(Epoch::FIRST, stream, None).expect("nobody is to blame");
        assert!(pipe.is_opening(), "the stream it waits for still counts");
    });
}
