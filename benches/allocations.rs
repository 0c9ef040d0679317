//! How often memory is asked for while a pipe carries bytes: evermux beside the QUIC
//! below it.
//!
//! ```text
//! cargo bench --bench allocations
//! ```
//!
//! Both ends are on one thread. A call's own allocations are those while it is polled;
//! the others are those of the tasks that drive the two ends, quinn's and evermux's.
//! Whatever grows counts as asked for once more.

use std::alloc::System;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Builder;

#[path = "twins/mod.rs"]
mod twins;
#[path = "instructions/work.rs"]
#[allow(dead_code, reason = "the rest is for instructions")]
mod work;

use twins::{Evermux, Quinn, Read, Twin, Write};
use work::{CASES, Case, SETTINGS};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations() -> usize {
    let stats = HEAP.stats();
    stats.allocations + stats.reallocations
}

/// Calls of one kind, and the allocations while they were polled.
#[derive(Default)]
struct Tally {
    calls: AtomicUsize,
    allocations: AtomicUsize,
}

impl Tally {
    async fn count<T>(&self, call: impl Future<Output = T>) -> T {
        self.calls.fetch_add(1, Relaxed);
        let mut call = pin!(call);
        std::future::poll_fn(|cx| {
            let before = allocations();
            let poll = call.as_mut().poll(cx);
            self.allocations.fetch_add(allocations() - before, Relaxed);
            poll
        })
        .await
    }

    fn allocations(&self) -> usize {
        self.allocations.load(Relaxed)
    }

    fn each(&self) -> f64 {
        self.allocations() as f64 / self.calls.load(Relaxed) as f64
    }
}

/// A writer or a reader whose calls are counted.
struct Counted<T>(T, Arc<Tally>);

impl<W: Write> Write for Counted<W> {
    async fn write_all(&mut self, bytes: &[u8]) {
        self.1.count(self.0.write_all(bytes)).await;
    }

    async fn write_chunk(&mut self, bytes: Bytes) {
        self.1.count(self.0.write_chunk(bytes)).await;
    }

    fn finish(&mut self) {
        self.0.finish();
    }
}

impl<R: Read + Send> Read for Counted<R> {
    async fn read_chunk(&mut self, max: usize) -> Option<Bytes> {
        self.1.count(self.0.read_chunk(max)).await
    }

    async fn read_exact(&mut self, bytes: &mut [u8]) {
        self.1.count(self.0.read_exact(bytes)).await;
    }
}

/// Allocations of each write, of each read, and of the tasks for each write.
struct Counts {
    write: f64,
    read: f64,
    tasks: f64,
}

impl Counts {
    /// Of what `task` does with these tallies, of writes and of reads.
    async fn of(task: impl AsyncFnOnce(&Arc<Tally>, &Arc<Tally>)) -> Self {
        let (writes, reads) = (Arc::default(), Arc::default());
        let before = allocations();
        task(&writes, &reads).await;
        let others = allocations() - before - writes.allocations() - reads.allocations();
        let tasks = others as f64 / writes.calls.load(Relaxed) as f64;
        Self { write: writes.each(), read: reads.each(), tasks }
    }
}

async fn bulk<T: Twin>(case: &'static Case) -> Counts {
    let twin = T::connect(SETTINGS).await;
    let carry = async |writes: &Arc<Tally>, reads: &Arc<Tally>| {
        let [(writer, near_reader), (far_writer, reader)] = twin.open().await;
        let (writer, reader) = (Counted(writer, writes.clone()), Counted(reader, reads.clone()));
        work::transfer(writer, reader, case).await;
        drop((near_reader, far_writer));
    };
    // Slow start asks for more.
    carry(&Arc::default(), &Arc::default()).await;
    Counts::of(carry).await
}

const TRIPS: usize = 4_000;

async fn there_and_back<T: Twin>() -> Counts {
    let twin = T::connect(SETTINGS).await;
    let [(mut near_writer, mut near_reader), (mut far_writer, mut far_reader)] = twin.open().await;
    let mut carry = async |writes: &Arc<Tally>, reads: &Arc<Tally>| {
        for _ in 0..TRIPS {
            for (writer, reader) in
                [(&mut near_writer, &mut far_reader), (&mut far_writer, &mut near_reader)]
            {
                writes.count(writer.write_all(&[7; 64])).await;
                reads.count(reader.read_exact(&mut [0; 64])).await;
            }
        }
    };
    carry(&Arc::default(), &Arc::default()).await;
    Counts::of(carry).await
}

fn print(name: &str, evermux: Counts, quinn: Counts) {
    let pairs =
        [(evermux.write, quinn.write), (evermux.read, quinn.read), (evermux.tasks, quinn.tasks)];
    let cells = pairs.map(|(evermux, quinn)| format!("{evermux:.3} | {quinn:.3}"));
    println!("| {name} | {} |", cells.join(" | "));
}

/// On a runtime of its own, on this thread.
fn alone(task: impl Future<Output = Counts>) -> Counts {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(task)
}

fn main() {
    println!(
        "| writes of | of each write | quinn | of each read | quinn \
         | of the tasks behind, for each write | quinn |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in CASES {
        print(case.name, alone(bulk::<Evermux>(case)), alone(bulk::<Quinn>(case)));
    }
    let (evermux, quinn) = (there_and_back::<Evermux>(), there_and_back::<Quinn>());
    print("64 B, there and back", alone(evermux), alone(quinn));
}
