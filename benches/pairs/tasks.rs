//! What is measured, once for any twin where both can do it. Connecting counts only
//! where the name says so.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::twins::{Evermux, Quinn, Read, Settings, Twin, Write};

/// Of writes and reads in bulk.
const CHUNK: usize = 64 << 10;

async fn write_all<W: Write>(mut writer: W, bytes: usize) -> W {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut left = bytes;
    while left > 0 {
        let part = left.min(CHUNK);
        writer.write_chunk(chunk.slice(..part)).await;
        left -= part;
    }
    writer.finish();
    writer
}

async fn read_all<R: Read>(mut reader: R) -> usize {
    let mut read = 0;
    while let Some(chunk) = reader.read_chunk(CHUNK).await {
        read += chunk.len();
    }
    read
}

/// MiB in a second: `bytes` in each direction, over so many streams.
pub async fn bulk<T: Twin>(twin: T, streams: usize, both: bool, bytes: usize) -> f64 {
    let (mut ends, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..streams {
        let [(near_writer, near_reader), (far_writer, far_reader)] = twin.open().await;
        ends.push((near_writer, far_reader));
        if both {
            ends.push((far_writer, near_reader));
        } else {
            idle.push((far_writer, near_reader));
        }
    }
    let begun = Instant::now();
    let (mut writing, mut reading) = (JoinSet::new(), JoinSet::new());
    for (writer, reader) in ends {
        writing.spawn(write_all(writer, bytes / streams));
        reading.spawn(read_all(reader));
    }
    let read: usize = reading.join_all().await.into_iter().sum();
    let took = begun.elapsed();
    drop((writing.join_all().await, idle));
    twin.close().await;
    read as f64 / took.as_secs_f64() / 1_048_576.0
}

/// Sends back what comes on each stream, 64 bytes at a time.
async fn serve<T: Twin>(twin: Arc<T>) {
    let mut echoing = JoinSet::new();
    loop {
        let (mut writer, mut reader) = twin.accept().await;
        while echoing.try_join_next().is_some() {}
        echoing.spawn(async move {
            while let Some(bytes) = reader.read_chunk(CHUNK).await {
                writer.write_chunk(bytes).await;
            }
            writer.finish();
        });
    }
}

async fn echo<T: Twin>(writer: &mut T::Writer, reader: &mut T::Reader) {
    writer.write_all(&[7; 64]).await;
    reader.read_exact(&mut [0; 64]).await;
}

/// With an echo at its far end, which is gone afterwards.
async fn with_echo<T: Twin>(twin: T, task: impl AsyncFnOnce(&Arc<T>) -> f64) -> f64 {
    let twin = Arc::new(twin);
    let serving = tokio::spawn(serve(twin.clone()));
    let result = task(&twin).await;
    serving.abort();
    let _ = serving.await;
    if let Some(twin) = Arc::into_inner(twin) {
        twin.close().await;
    }
    result
}

/// Microseconds, the median.
pub async fn round_trip<T: Twin>() -> f64 {
    with_echo(T::connect(Settings::default()).await, async |twin: &Arc<T>| {
        let (mut writer, mut reader) = twin.dial().await;
        let mut took = Vec::new();
        for _ in 0..2_000 {
            let begun = Instant::now();
            echo::<T>(&mut writer, &mut reader).await;
            took.push(begun.elapsed());
        }
        took.sort();
        took[took.len() / 2].as_secs_f64() * 1e6
    })
    .await
}

/// How many in a second.
pub async fn open_echo_close<T: Twin>(at_once: usize) -> f64 {
    const EACH: usize = 300;
    with_echo(T::connect(Settings::default()).await, async |twin: &Arc<T>| {
        let begun = Instant::now();
        let mut asking = JoinSet::new();
        for _ in 0..at_once {
            let twin = twin.clone();
            asking.spawn(async move {
                for _ in 0..EACH {
                    let (mut writer, mut reader) = twin.dial().await;
                    writer.write_all(&[7; 64]).await;
                    writer.finish();
                    reader.read_exact(&mut [0; 64]).await;
                    assert!(reader.read_chunk(1).await.is_none());
                }
            });
        }
        asking.join_all().await;
        (at_once * EACH) as f64 / begun.elapsed().as_secs_f64()
    })
    .await
}

/// What pipes do while their connection is changed for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Nothing: one of them is asked afterwards.
    Idle,
    /// All are asked at once, and the last answer counts.
    Active,
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Idle { "idle" } else { "active" })
    }
}

async fn ask<T: Twin>(pipes: Vec<(T::Writer, T::Reader)>, mix: Mix) {
    let mut asking = JoinSet::new();
    let count = if mix == Mix::Idle { 1 } else { pipes.len() };
    let mut pipes = pipes;
    for (mut writer, mut reader) in pipes.drain(..count) {
        asking.spawn(async move {
            echo::<T>(&mut writer, &mut reader).await;
            (writer, reader)
        });
    }
    drop((asking.join_all().await, pipes));
}

/// So many pipes are opened at once.
fn allowing(pipes: usize) -> Settings {
    let settings = Settings::default();
    Settings { streams: settings.streams.max(pipes as u64), ..settings }
}

/// Milliseconds from the call of `reconnect` to the answer, or answers.
pub async fn resume(pipes: usize, mix: Mix) -> f64 {
    with_echo(Evermux::connect(allowing(pipes)).await, async |twin: &Arc<Evermux>| {
        let mut open = Vec::new();
        for _ in 0..pipes {
            let (mut writer, mut reader) = twin.dial().await;
            echo::<Evermux>(&mut writer, &mut reader).await;
            open.push((writer, reader));
        }
        let begun = Instant::now();
        twin.near.reconnect().await.expect("the server is there");
        ask::<Evermux>(open, mix).await;
        begun.elapsed().as_secs_f64() * 1e3
    })
    .await
}

/// What would have to be done without evermux: connect, open as many streams, ask.
pub async fn start_over(pipes: usize, mix: Mix) -> f64 {
    let first = Quinn::connect(allowing(pipes)).await;
    let begun = Instant::now();
    with_echo(first.again().await, async |twin: &Arc<Quinn>| {
        let mut open = Vec::new();
        for _ in 0..pipes {
            open.push(twin.dial().await);
        }
        ask::<Quinn>(open, mix).await;
        begun.elapsed().as_secs_f64() * 1e3
    })
    .await
}

/// So many bytes can be written that nobody reads, on one pipe: while the link is up they
/// must find room in the window of its stream, behind the header.
fn holding(bytes: usize) -> Settings {
    let bytes = bytes as u64;
    Settings { ahead: bytes, stream: bytes + 1024, ..Settings::default() }
}

/// Milliseconds from the call of `reconnect` until all is read.
pub async fn replay(bytes: usize) -> f64 {
    let settings = holding(bytes);
    let twin = Evermux::connect(settings).await;
    let [(writer, near_reader), (far_writer, reader)] = twin.open().await;
    let writer = write_all(writer, bytes).await;
    let begun = Instant::now();
    twin.near.reconnect().await.expect("the server is there");
    assert_eq!(read_all(reader).await, bytes);
    let took = begun.elapsed();
    drop((writer, near_reader, far_writer));
    twin.close().await;
    took.as_secs_f64() * 1e3
}

/// Without evermux: connect and send everything.
pub async fn send_again(bytes: usize) -> f64 {
    let settings = holding(bytes);
    let first = Quinn::connect(settings).await;
    let begun = Instant::now();
    let twin = first.again().await;
    let [(writer, near_reader), (far_writer, reader)] = twin.open().await;
    let writing = tokio::spawn(write_all(writer, bytes));
    assert_eq!(read_all(reader).await, bytes);
    let took = begun.elapsed();
    drop((writing.await, near_reader, far_writer));
    twin.close().await;
    took.as_secs_f64() * 1e3
}
