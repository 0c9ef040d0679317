//! What pipes and handles tell the driver through the host: it gets to know
//! everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use shuttle::sync::atomic::AtomicBool;
use shuttle::sync::atomic::Ordering::SeqCst;
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

/// A pipe whose reader comes to its end, as far as the host is concerned.
struct Ending {
    pipe: Arc<PipeShared>,
    /// In the host's list, as the pipe believes.
    listed: AtomicBool,
    owes_ack: AtomicBool,
}

impl Ending {
    fn new(host: &Arc<Host>, index: u64) -> Self {
        let (listed, owes_ack) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { pipe: pipe(host, index), listed, owes_ack }
    }

    fn end(&self, host: &Host) {
        self.owes_ack.store(true, SeqCst);
        let listed = self.listed.swap(true, SeqCst);
        host.due_at_end((!listed).then(|| self.pipe.clone()));
    }
}

/// Also if the ack of one goes with a batch that was taken just before it came to its end.
#[test]
fn no_end_waits_for_ever_to_be_acknowledged() {
    explore(|| {
        let host = Arc::new(Host::new(0, None, 1024));
        let endings = Arc::new([0, 1].map(|index| Ending::new(&host, index)));
        // It has been read from, and is in the list already.
        endings[0].listed.store(true, SeqCst);
        host.due_later(endings[0].pipe.clone());
        let reader = {
            let (host, endings) = (host.clone(), endings.clone());
            thread::spawn(move || endings.iter().for_each(|ending| ending.end(&host)))
        };
        let mut told = 0;
        while told < endings.len() {
            block_on(host.wake.notified());
            // The driver's timer, which it sets only now, comes at any time later.
            if !host.has_later() {
                continue;
            }
            thread::yield_now();
            for pipe in host.take_due(true).later {
                let ending = endings.iter().find(|ending| Arc::ptr_eq(&ending.pipe, &pipe));
                let ending = ending.expect("one of them");
                ending.listed.store(false, SeqCst);
                told += usize::from(ending.owes_ack.swap(false, SeqCst));
            }
        }
        reader.join().expect("both ends");
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
