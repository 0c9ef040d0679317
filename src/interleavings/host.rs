//! What pipes and handles tell the driver through the host: it gets to know
//! everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use shuttle::thread;

use super::{block_on, exhaust, explore};
use crate::id::{PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::pipe::{Handle, Host, PipeShared};
use crate::proto::{Outgoing, Pipe};

fn pipe(host: &Arc<Host>, index: u64) -> Arc<PipeShared> {
    let id = PipeId::new(Side::Server, index).expect("a small index");
    PipeShared::new(Pipe::new(id, Bytes::new(), 8, 8), Side::Client, host.clone())
}

/// Looks at what is due, as the driver does, until `wanted` resets and stops
/// have been taken. Each comes once.
fn drive_until(host: &Host, wanted: usize) {
    let mut taken = BTreeSet::new();
    while taken.len() < wanted {
        block_on(host.wake.notified());
        for pipe in host.take_due(false).now {
            let mut outgoing = Vec::new();
            pipe.visit(false, &mut outgoing);
            for frame in outgoing {
                let name = match frame {
                    Outgoing::Reset(reset) => (reset.pipe, "reset"),
                    Outgoing::Stop(stop) => (stop.pipe, "stop"),
                    Outgoing::Ack(ack) => panic!("nothing was read: {ack:?}"),
                };
                assert!(taken.insert(name), "{name:?} comes once");
            }
        }
    }
}

fn marks_are_looked_at(pipes: u64) {
    let host = Arc::new(Host::new(0, None, 1024));
    let threads: Vec<_> = (0..pipes)
        .map(|index| pipe(&host, index))
        .flat_map(|pipe| {
            let reset = pipe.clone();
            [thread::spawn(move || reset.reset(1)), thread::spawn(move || pipe.stop(2))]
        })
        .collect();
    drive_until(&host, threads.len());
    threads.into_iter().for_each(|thread| thread.join().expect("a mark"));
}

#[test]
fn whatever_is_marked_is_looked_at() {
    explore(|| marks_are_looked_at(2));
}

#[test]
fn both_marks_of_a_pipe_are_looked_at() {
    explore(|| marks_are_looked_at(1));
}

#[test]
fn a_report_reaches_the_driver() {
    exhaust(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let reader = {
            let host = host.clone();
            let id = PipeId::new(Side::Server, 0).expect("a small index");
            thread::spawn(move || host.report(PeerMisbehaved::NoSuchPipe { pipe: id }))
        };
        while host.take_due(false).misbehaved.is_none() {
            block_on(host.wake.notified());
        }
        reader.join().expect("a report");
    });
}

#[test]
fn the_batch_of_acks_is_announced_to_the_driver() {
    explore(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let (host, pipe) = (host.clone(), pipe(&host, index));
                thread::spawn(move || match index {
                    0 => host.due_later(pipe),
                    _ => host.due_at_end(Some(pipe)),
                })
            })
            .collect();
        let mut taken = 0;
        while taken < threads.len() {
            block_on(host.wake.notified());
            // Its timer, which it sets only now, comes at any time later.
            if host.has_later() {
                thread::yield_now();
                taken += host.take_due(true).later.len();
            }
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a mark"));
    });
}

#[test]
fn the_last_handle_wakes_the_driver() {
    exhaust(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let handle = Handle::new(&host);
        let threads =
            [handle.clone(), handle].map(|handle| thread::spawn(move || drop(handle.clone())));
        while !host.is_abandoned() {
            block_on(host.wake.notified());
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a handle"));
    });
}
