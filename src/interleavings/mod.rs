//! Pipes and sessions under a model checker, [shuttle](https://docs.rs/shuttle):
//! it runs each scenario many times over and decides at every lock and every
//! atomic which thread goes on. A lost wake-up or a deadlock leaves nobody who
//! can go on: that fails, with the schedule that led there.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --lib interleavings
//! ```
//!
//! What is checked is the code itself, up to `session`, with streams in memory
//! under it (`quic.rs` beside this file) and, in [`link`], a driver that keeps
//! to the steps of the real one. `Notify` and the channels are tokio's own:
//! nothing switches inside them.
//!
//! `SHUTTLE_ITERATIONS` says how often each scenario runs in each way, and
//! `SHUTTLE_RANDOM_SEED` repeats a run.

mod attached;
mod budget;
mod detached;
mod host;
mod link;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, Runner};

/// Times that a scenario runs in each way, unless the environment says
/// otherwise.
const ITERATIONS: usize = 2_000;

/// Switches that PCT places: most defects need one or two.
const DEPTH: usize = 3;

/// Orders of a scenario that is small enough to run in all of them.
const ORDERS_MAX: usize = 200_000;

/// Runs `scenario` with threads switched at random, and with few switches at
/// unlikely places.
fn explore(scenario: impl Fn() + Clone + Send + Sync + 'static) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS");
    let iterations = iterations.map_or(ITERATIONS, |number| number.parse().expect("a number"));
    Runner::new(RandomScheduler::new(iterations), config()).run(scenario.clone());
    Runner::new(PctScheduler::new(DEPTH, iterations), config()).run(scenario);
}

/// Runs `scenario` in every order there is; for the smallest ones.
fn exhaust(scenario: impl Fn() + Send + Sync + 'static) {
    let orders = Runner::new(DfsScheduler::new(Some(ORDERS_MAX), false), config()).run(scenario);
    assert!(orders < ORDERS_MAX, "too large to be run in every order");
}

/// Waits for `future`, which is polled again only when it was woken. The model
/// checker's own function polls once more after any wait for a lock, which hides
/// the wake-ups that are lost.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let sleeper = Arc::<Sleeper>::default();
    let waker = Waker::from(sleeper.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let woken = sleeper.woken.lock().expect("nobody panics here");
        let wait = sleeper.condvar.wait_while(woken, |woken| !std::mem::take(woken));
        drop(wait.expect("nobody panics here"));
    }
}

#[derive(Default)]
struct Sleeper {
    woken: Mutex<bool>,
    condvar: Condvar,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().expect("nobody panics here") = true;
        self.condvar.notify_one();
    }
}

fn config() -> Config {
    let mut config = Config::new();
    // Unoptimised code takes more than the default.
    config.stack_size = 256 * 1024;
    config
}
