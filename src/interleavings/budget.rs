//! Writers that share byte budgets: none sleeps while there is room.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use shuttle::sync::mpsc;
use shuttle::thread;

use super::{block_on, exhaust, explore};
use crate::pipe::SharedBudget;

/// A budget of a session within that of a server.
#[derive(Clone)]
struct Budgets {
    session: Arc<SharedBudget>,
    server: Arc<SharedBudget>,
}

impl Budgets {
    fn new(session: u64, server: &Arc<SharedBudget>) -> Self {
        Self { session: Arc::new(SharedBudget::new(session)), server: server.clone() }
    }

    fn poll_take(&self, cx: &mut Context<'_>, wanted: u64, writer: usize) -> Poll<u64> {
        let waiter = Some((writer, cx.waker()));
        match self.session.take(Some(&self.server), wanted, waiter) {
            0 => Poll::Pending,
            granted => Poll::Ready(granted),
        }
    }

    /// Takes up to `wanted` bytes, but at least one.
    fn take(&self, wanted: u64, writer: usize) -> u64 {
        block_on(poll_fn(|cx| self.poll_take(cx, wanted, writer)))
    }

    fn give_back(&self, bytes: u64) {
        self.session.give_back(bytes);
        self.server.give_back(bytes);
    }

    fn forget(&self, writer: usize) {
        self.session.forget(writer);
        self.server.forget(writer);
    }

    fn used(&self) -> (u64, u64) {
        (self.session.used(), self.server.used())
    }
}

/// Writers of these sessions take `wanted` bytes each, again and again; as they
/// are acknowledged by another thread, all get through.
fn all_get_through(sessions: &[Budgets], writers: usize, rounds: usize, wanted: u64) {
    let (written, acked) = mpsc::channel();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let budgets = sessions[writer % sessions.len()].clone();
            let written = written.clone();
            thread::spawn(move || {
                for _ in 0..rounds {
                    let granted = budgets.take(wanted, writer);
                    assert!(granted <= wanted);
                    written.send((budgets.clone(), granted)).expect("the acker goes last");
                }
            })
        })
        .collect();
    drop(written);
    for (budgets, granted) in acked {
        budgets.give_back(granted);
    }
    threads.into_iter().for_each(|thread| thread.join().expect("a writer that got through"));
    for budgets in sessions {
        assert_eq!(budgets.used(), (0, 0), "everything was given back");
    }
}

#[test]
fn no_writer_sleeps_while_its_session_has_room() {
    explore(|| {
        let server = Arc::new(SharedBudget::new(100));
        all_get_through(&[Budgets::new(2, &server)], 3, 2, 2);
    });
}

#[test]
fn no_writer_sleeps_while_the_server_has_room() {
    explore(|| {
        let server = Arc::new(SharedBudget::new(3));
        let sessions = [Budgets::new(2, &server), Budgets::new(2, &server)];
        all_get_through(&sessions, 4, 2, 2);
    });
}

#[test]
fn in_every_order_two_writers_share_one_byte() {
    exhaust(|| {
        let budget = Arc::new(SharedBudget::new(1));
        let threads = [0, 1].map(|writer| {
            let budget = budget.clone();
            thread::spawn(move || {
                block_on(poll_fn(|cx| match budget.take(None, 1, Some((writer, cx.waker()))) {
                    0 => Poll::Pending,
                    _ => Poll::Ready(()),
                }));
                budget.give_back(1);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().expect("a writer that got through"));
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn a_writer_who_gives_up_while_waiting_leaves_nobody_behind() {
    explore(|| {
        let server = Arc::new(SharedBudget::new(1));
        let sessions = [Budgets::new(1, &server), Budgets::new(1, &server)];
        let [first, second] = &sessions;
        assert_eq!(first.take(1, 0), 1, "all there is");
        // Its turn may come before, while or after it gives up.
        let fickle = {
            let budgets = first.clone();
            thread::spawn(move || {
                let granted = block_on(poll_fn(|cx| match budgets.poll_take(cx, 1, 1) {
                    Poll::Ready(granted) => Poll::Ready(granted),
                    Poll::Pending => Poll::Ready(0),
                }));
                budgets.forget(1);
                budgets.give_back(granted);
            })
        };
        let patient: Vec<_> = [(first, 2), (second, 3)]
            .into_iter()
            .map(|(budgets, writer)| {
                let budgets = budgets.clone();
                thread::spawn(move || budgets.give_back(budgets.take(1, writer)))
            })
            .collect();
        first.give_back(1);
        fickle.join().expect("the one that gave up");
        patient.into_iter().for_each(|thread| thread.join().expect("one that waited"));
        assert_eq!((first.used(), second.used()), ((0, 0), (0, 0)));
    });
}
