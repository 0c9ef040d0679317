//! How fast it is, on a straight way.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::BoxError;
use crate::contender::{Contender, Link, Stream};
use crate::road::Way;

/// What one round gave.
pub struct Speed {
    pub mib_per_second: f64,
    /// Of both ends together; `None` where the system does not tell.
    pub cpu_seconds_per_gib: Option<f64>,
    /// Half of the round trips take no longer.
    pub p50: Duration,
    /// One of a hundred takes longer.
    pub p99: Duration,
}

/// Bytes in bulk, written and read by the chunk.
const BULK: usize = 256 << 20;
const CHUNK: usize = 64 * 1024;

/// Round trips, and those before that do not count.
const TRIPS: usize = 1000;
const WARM_UP: usize = 200;

const MESSAGE: usize = 64;

pub async fn speed(contender: Contender) -> Result<Speed, BoxError> {
    let Link { mut near, far, road: _road, keep: _keep } = contender.connect(Way::Straight).await?;
    // A task of its own: the two ends are to run at the same time.
    let serving = tokio::spawn(serve(far));
    let trips = round_trips(&mut near).await?;
    let percentile = |part: usize| trips[(trips.len() - 1) * part / 100];
    let (begun, cpu) = (Instant::now(), processor_time());
    let chunk = vec![7; CHUNK];
    for _ in 0..BULK / CHUNK {
        near.write_all(&chunk).await?;
    }
    near.flush().await?;
    serving.await??;
    let took = begun.elapsed();
    let spent = processor_time().zip(cpu).map(|(after, before)| after.saturating_sub(before));
    Ok(Speed {
        mib_per_second: BULK as f64 / f64::from(1 << 20) / took.as_secs_f64(),
        cpu_seconds_per_gib: spent.map(|cpu| cpu.as_secs_f64() * f64::from(1 << 30) / BULK as f64),
        p50: percentile(50),
        p99: percentile(99),
    })
}

/// Sorted.
async fn round_trips(near: &mut Stream) -> io::Result<Vec<Duration>> {
    let (mut message, mut trips) = ([7; MESSAGE], Vec::with_capacity(TRIPS));
    for trip in 0..WARM_UP + TRIPS {
        let asked = Instant::now();
        near.write_all(&message).await?;
        near.flush().await?;
        near.read_exact(&mut message).await?;
        if trip >= WARM_UP {
            trips.push(asked.elapsed());
        }
    }
    trips.sort();
    Ok(trips)
}

/// The far end: answers each message, and then reads all that comes in bulk.
async fn serve(mut far: Stream) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    for _ in 0..WARM_UP + TRIPS {
        far.read_exact(&mut message).await?;
        far.write_all(&message).await?;
        far.flush().await?;
    }
    let (mut buf, mut left) = (vec![0; CHUNK], BULK);
    while left > 0 {
        match far.read(&mut buf).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            len => left -= len,
        }
    }
    Ok(())
}

/// What this process has had of the processors.
#[cfg(target_os = "linux")]
fn processor_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(not(target_os = "linux"))]
fn processor_time() -> Option<Duration> {
    None
}
