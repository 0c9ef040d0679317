//! New connections on their way to a driver.
//!
//! A queue, and the wake-up that the driver waits for anyway. The way is open as long as
//! the session lives and nearly always empty: a channel of tokio's, with room for 32 at
//! once, would be a fifth of what a detached session takes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::error::TryRecvError;

use super::Attach;
use crate::pipe::Host;

/// So many wait at most. They are few, and a newer one makes the older ones moot.
const BACKLOG: usize = 4;

/// The way from a role to the driver, whom `host` wakes.
pub(super) fn channel(host: Arc<Host>) -> (AttachSender, AttachReceiver) {
    let queue = Arc::new(Queue { host, state: Mutex::default() });
    (AttachSender(queue.clone()), AttachReceiver(queue))
}

struct Queue {
    host: Arc<Host>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Box<Attach>>,
    /// One end is gone: nothing more comes, or nothing more is taken.
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The role's end. When it is dropped, the driver gets no more connections.
pub(crate) struct AttachSender(Arc<Queue>);

impl AttachSender {
    /// Brings the driver a new connection. If too many wait, the oldest is let go of:
    /// its client has most likely given it up.
    ///
    /// # Errors
    ///
    /// The session has ended; the connection comes back.
    pub(crate) fn send(&self, attach: Box<Attach>) -> Result<(), Box<Attach>> {
        let moot = {
            let mut state = self.0.lock();
            if state.closed {
                return Err(attach);
            }
            state.waiting.push_back(attach);
            if state.waiting.len() > BACKLOG { state.waiting.pop_front() } else { None }
        };
        // Not under the lock: its connection takes others.
        drop(moot);
        self.0.host.wake.notify_one();
        Ok(())
    }
}

impl Drop for AttachSender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.host.wake.notify_one();
    }
}

impl fmt::Debug for AttachSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttachSender(..)")
    }
}

/// The driver's end.
pub(super) struct AttachReceiver(Arc<Queue>);

impl AttachReceiver {
    /// The next connection, if one waits. The driver is woken when one comes, and when
    /// none will come any more.
    pub(super) fn try_recv(&self) -> Result<Box<Attach>, TryRecvError> {
        let mut state = self.0.lock();
        match state.waiting.pop_front() {
            Some(attach) => Ok(attach),
            None if state.closed => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }
}

impl Drop for AttachReceiver {
    fn drop(&mut self) {
        let unseen = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(unseen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::CloseCode;
    use crate::error::SessionError;

    fn way() -> (AttachSender, AttachReceiver, Arc<Host>) {
        let host = Arc::new(Host::new(0, None, 1024));
        let (sender, receiver) = channel(host.clone());
        (sender, receiver, host)
    }

    fn attach(number: u16) -> Box<Attach> {
        let code = CloseCode::application(number);
        Box::new(Attach::GiveUp(SessionError::LocallyClosed { code }))
    }

    fn number(attach: &Attach) -> Option<u16> {
        match attach {
            Attach::GiveUp(SessionError::LocallyClosed { code }) => code.as_application(),
            _ => None,
        }
    }

    #[tokio::test]
    async fn what_waits_comes_in_its_order_and_the_oldest_gives_way() {
        let (sender, receiver, host) = way();
        for sent in 0..=BACKLOG as u16 {
            sender.send(attach(sent)).expect("the driver is there");
        }
        host.wake.notified().await;
        for expected in 1..=BACKLOG as u16 {
            assert_eq!(number(&receiver.try_recv().expect("one waits")), Some(expected));
        }
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    }

    #[tokio::test]
    async fn what_was_sent_last_comes_before_the_end() {
        let (sender, receiver, host) = way();
        sender.send(attach(7)).expect("the driver is there");
        host.wake.notified().await;
        drop(sender);
        host.wake.notified().await;
        assert_eq!(number(&receiver.try_recv().expect("it waits")), Some(7));
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Disconnected));
    }

    #[test]
    fn a_driver_that_is_through_lets_go_of_what_waits_and_takes_nothing() {
        let (sender, receiver, _) = way();
        sender.send(attach(1)).expect("the driver is there");
        drop(receiver);
        let refused = sender.send(attach(2)).expect_err("nobody is there");
        assert_eq!(number(&refused), Some(2));
        assert!(sender.0.lock().waiting.is_empty());
    }
}
