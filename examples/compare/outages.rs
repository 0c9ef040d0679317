//! What outages do to a steady flow of bytes from the near end to the far one.

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::BoxError;
use crate::contender::{Contender, Link, Stream};
use crate::road::{Road, Way};

/// Bytes a second that the near end wants to send: few, so that all contenders can
/// have their outages at the same time.
pub const RATE: u64 = 1 << 20;

const CHUNK: usize = 4096;

/// A flow, and what has come of it.
struct Flow {
    road: Road,
    seen: watch::Receiver<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// Bytes that the far end has read.
    bytes: u64,
    /// What the first of the ends was told, if the flow is over.
    ended: Option<String>,
}

impl Flow {
    async fn begin(contender: Contender) -> Result<Self, BoxError> {
        let Link { near, far, road, keep } = contender.connect(Way::Relayed).await?;
        let (told, seen) = watch::channel(Seen::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(write(near, told.clone()));
        tasks.spawn(async move {
            read(far, told).await;
            // The other end may still wait.
            drop(keep);
        });
        Ok(Self { road, seen, _tasks: tasks })
    }

    fn bytes(&self) -> u64 {
        self.seen.borrow().bytes
    }
}

/// Keeps to the rate on the whole: after an outage, all that is due.
async fn write(mut near: Stream, told: watch::Sender<Seen>) {
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begun, mut written) = (Instant::now(), 0);
    let error = loop {
        tick.tick().await;
        let due = begun.elapsed().as_micros() as u64 * RATE / 1_000_000;
        let writing = async {
            while written < due {
                near.write_all(&[7; CHUNK]).await?;
                written += CHUNK as u64;
            }
            near.flush().await
        };
        if let Err(error) = writing.await {
            break error;
        }
    };
    told.send_modify(|seen| _ = seen.ended.get_or_insert_with(|| in_full(&error)));
}

async fn read(mut far: Stream, told: watch::Sender<Seen>) {
    let mut buf = vec![0; 64 * 1024];
    let end = loop {
        match far.read(&mut buf).await {
            Ok(len @ 1..) => told.send_modify(|seen| seen.bytes += len as u64),
            Ok(_) => break "the end of the stream".into(),
            Err(error) => break in_full(&error),
        }
    };
    told.send_modify(|seen| _ = seen.ended.get_or_insert(end));
}

/// With the causes, down to the last.
fn in_full(error: &io::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// What comes of a flow whose connection is cut.
pub enum AfterCut {
    /// It goes on, after so long; each time that it was cut.
    GoesOn(Vec<Duration>),
    /// The program is told after so long.
    Fails(Duration, String),
    /// Nothing in all of [`PATIENCE`].
    Silent,
}

/// How long is waited for a sign of life.
pub const PATIENCE: Duration = Duration::from_secs(35);

/// How often a flow is cut that goes on.
const CUTS: usize = 7;

/// What arrives so soon after a cut was under way before it.
const UNDER_WAY: Duration = Duration::from_millis(5);

/// Cuts a flow of each of [`Contender::IN_OUTAGES`], all at the same time.
pub async fn cut_all() -> Result<Vec<AfterCut>, BoxError> {
    together(cut).await
}

async fn cut(contender: Contender) -> Result<AfterCut, BoxError> {
    let mut flow = Flow::begin(contender).await?;
    let mut gaps = Vec::new();
    for _ in 0..CUTS {
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        flow.road.cut();
        sleep(UNDER_WAY).await;
        let before = flow.bytes();
        let sign = flow.seen.wait_for(|seen| seen.bytes > before || seen.ended.is_some());
        let Ok(seen) = timeout(PATIENCE, sign).await else { return Ok(AfterCut::Silent) };
        if let Some(error) = seen?.ended.clone() {
            return Ok(AfterCut::Fails(begun.elapsed(), error));
        }
        gaps.push(begun.elapsed());
    }
    Ok(AfterCut::GoesOn(gaps))
}

/// Seconds, and bytes that had arrived by then.
pub type Curve = Vec<(f64, u64)>;

/// In the picture: nothing passes from here to there.
pub const FROZEN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];
/// The client gets another address.
pub const RENUMBERED: Duration = Duration::from_secs(6);
/// The connection is cut.
pub const CUT: Duration = Duration::from_secs(9);
pub const LASTS: Duration = Duration::from_secs(13);

/// Watches a flow of each of [`Contender::IN_OUTAGES`] through the three outages, all at the same time.
pub async fn watch_all() -> Result<Vec<Curve>, BoxError> {
    together(watch).await
}

async fn watch(contender: Contender) -> Result<Curve, BoxError> {
    let flow = Flow::begin(contender).await?;
    let begun = Instant::now();
    let outages = async {
        sleep_until(begun + FROZEN[0]).await;
        flow.road.freeze();
        sleep_until(begun + FROZEN[1]).await;
        flow.road.thaw();
        sleep_until(begun + RENUMBERED).await;
        flow.road.renumber();
        sleep_until(begun + CUT).await;
        flow.road.cut();
    };
    let sampling = async {
        let (mut curve, mut tick) = (Vec::new(), interval(Duration::from_millis(40)));
        while begun.elapsed() < LASTS {
            tick.tick().await;
            curve.push((begun.elapsed().as_secs_f64(), flow.bytes()));
        }
        curve
    };
    let (curve, ()) = tokio::join!(sampling, outages);
    Ok(curve)
}

/// The same for all of [`Contender::IN_OUTAGES`] at the same time, in their order.
async fn together<T, F>(play: impl Fn(Contender) -> F) -> Result<Vec<T>, BoxError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BoxError>> + Send + 'static,
{
    let playing = Contender::IN_OUTAGES.map(|contender| tokio::spawn(play(contender)));
    let mut outcomes = Vec::new();
    for played in playing {
        outcomes.push(played.await??);
    }
    Ok(outcomes)
}
