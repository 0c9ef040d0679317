//! What the applications do with their pipes: a [`Plan`] for each, drawn from its
//! number alone, which travels in the label. So both ends know what the other is
//! up to without a word.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use evermux::{BackedPipe, BackedReader, BackedWriter, ReadError, SessionError, WriteError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::dice::Dice;
use crate::ledger::{CONTENT_MAX, Entry, Ledger, Process, content};

/// What becomes of a pipe.
#[derive(Clone, Debug)]
pub struct Plan {
    number: u64,
    /// What the opener writes and the acceptor reads.
    there: DirectionPlan,
    /// The other way.
    back: DirectionPlan,
    /// When the task of the opener, of the acceptor is cancelled, if it still
    /// runs.
    cancelled: [Option<Duration>; 2],
}

#[derive(Clone, Debug)]
struct DirectionPlan {
    key: u64,
    bytes: u64,
    /// Most bytes in one write, in one read.
    pieces: [u64; 2],
    /// Longest rest between two writes, two reads, in milliseconds.
    rests: [u64; 2],
    ending: Ending,
    /// At this offset the reader does nothing for so long.
    stall: Option<(u64, Duration)>,
    /// At this offset the writer does: a pipe that sleeps.
    nap: Option<(u64, Duration)>,
    /// At this offset the reader wants no more.
    stop: Option<(u64, Ending)>,
    dice: Dice,
}

/// How somebody ends his part.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Properly.
    Clean,
    /// Properly, and waits until the other side has read all of it.
    Awaited,
    /// By a reset or stop with this code.
    Code(u32),
    /// Finished, and reset at once.
    Torn(u32),
    Dropped,
}

impl Plan {
    /// The plan of this number. `most`: bytes in one direction.
    pub fn new(number: u64, most: u64) -> Self {
        let mut dice = Dice(number);
        let mut direction = |key| DirectionPlan::draw(key, most, &mut dice);
        let (there, back) = (direction(number ^ 0x7000), direction(number ^ 0xbac0));
        let mut cancelled = || dice.chance(60).then(|| dice.pick_millis(1..20_000));
        let cancelled = [cancelled(), cancelled()];
        Self { number, there, back, cancelled }
    }

    /// The keys of both directions: there and back.
    pub fn keys(&self) -> [u64; 2] {
        [self.there.key, self.back.key]
    }

    /// The number of the plan, and how much it may be about, as the label has
    /// them.
    pub fn label(&self, most: u64) -> Bytes {
        // Some are long.
        let filler = "x".repeat((self.number % 7 * 40) as usize);
        format!("{:x} {most:x} {filler}", self.number).into()
    }

    pub fn from_label(label: &[u8]) -> Self {
        let text = std::str::from_utf8(label).expect("a label of ours");
        let mut parts = text.split(' ').map(|part| u64::from_str_radix(part, 16));
        match (parts.next(), parts.next()) {
            (Some(Ok(number)), Some(Ok(most))) => Self::new(number, most),
            _ => panic!("not a label of ours: {text}"),
        }
    }

    /// Plays one end of the pipe. How the session ended, if that came between.
    pub async fn play(
        self,
        pipe: BackedPipe,
        opener: bool,
        ledger: Arc<Ledger>,
        process: Process,
    ) -> Option<SessionError> {
        let (ours, theirs) = if opener { (self.there, self.back) } else { (self.back, self.there) };
        let cancelled = self.cancelled[usize::from(!opener)];
        let (reader, writer) = pipe.into_split();
        let write = write(writer, ours.clone(), ledger.entry(ours.key), &process);
        let read = read(reader, theirs.clone(), ledger.entry(theirs.key), &process);
        let both = async {
            let (wrote, read) = tokio::join!(write, read);
            wrote.or(read)
        };
        match cancelled {
            Some(at) => tokio::time::timeout(at, both).await.ok().flatten(),
            None => both.await,
        }
    }
}

impl DirectionPlan {
    fn draw(key: u64, most: u64, dice: &mut Dice) -> Self {
        let bytes = if dice.chance(100) { 0 } else { dice.pick_log(1..most + 1) };
        let code = dice.pick(1..1 << 32) as u32;
        let ending = match dice.pick(0..20) {
            0 => Ending::Code(code),
            1 => Ending::Torn(code),
            2 => Ending::Dropped,
            3..8 => Ending::Awaited,
            _ => Ending::Clean,
        };
        let stop = dice.chance(100).then(|| {
            let ending = if dice.chance(700) { Ending::Code(code) } else { Ending::Dropped };
            (dice.pick(0..bytes + 1), ending)
        });
        let mut rests = [(); 2].map(|()| if dice.chance(500) { 0 } else { dice.pick_log(1..500) });
        let stall =
            dice.chance(100).then(|| (dice.pick(0..bytes + 1), dice.pick_millis(100..20_000)));
        let nap =
            dice.chance(250).then(|| (dice.pick(0..bytes + 1), dice.pick_millis(1000..60_000)));
        // Long rests make short pipes.
        let mut pieces = [(); 2].map(|()| dice.pick_log((bytes / 100).max(1)..CONTENT_MAX as u64));
        if dice.chance(250) {
            // The reader is always behind: whenever the link is lost, there are
            // bytes that have arrived and nobody has read.
            (pieces[1], rests) = (bytes / 300 + 1, [0, 400]);
        }
        Self { key, bytes, pieces, rests, ending, stall, nap, stop, dice: dice.fork() }
    }
}

/// Tells the ledger that a half is dropped, also if its task is cancelled.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

async fn rest(most: u64, dice: &mut Dice) {
    if most > 0 && dice.chance(300) {
        sleep(Duration::from_millis(dice.pick(0..most))).await;
    }
}

/// What `future` gives, unless it is dropped before: now and then, at one of its
/// first awaits.
async fn maybe<T>(dice: &mut Dice, future: impl Future<Output = T>) -> Option<T> {
    let mut polls = if dice.chance(150) { Some(dice.pick(0..3)) } else { None };
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => match &mut polls {
            Some(0) => Poll::Ready(None),
            Some(left) => {
                *left -= 1;
                Poll::Pending
            }
            None => Poll::Pending,
        },
    })
    .await
}

async fn write(
    mut writer: BackedWriter,
    plan: DirectionPlan,
    entry: Entry,
    process: &Process,
) -> Option<SessionError> {
    entry.take_up(process);
    // Dropped before the writer, so that nobody learns of it earlier.
    let _guard = OnDrop(|| match process.has_ended() {
        true => entry.writer_lost(),
        false => entry.writer_dropped(),
    });
    match write_all(&mut writer, plan, &entry).await {
        Ok(()) => None,
        Err(error) => entry.write_failed(&error),
    }
}

async fn write_all(
    writer: &mut BackedWriter,
    plan: DirectionPlan,
    entry: &Entry,
) -> Result<(), WriteError> {
    let DirectionPlan {
        key,
        bytes,
        pieces: [piece, _],
        rests: [most, _],
        ending,
        mut nap,
        mut dice,
        ..
    } = plan;
    let mut offset = 0;
    loop {
        if let Some((_, lasting)) = nap.take_if(|(at, _)| offset >= *at) {
            sleep(lasting).await;
        }
        if offset == bytes {
            break;
        }
        let len = dice.pick_log(1..piece + 1).min(bytes - offset) as usize;
        let chunk = content(key, offset, len);
        entry.offers(len as u64);
        let written = write_some(writer, chunk, &mut dice).await?;
        entry.wrote(written as u64);
        offset += written as u64;
        assert_eq!(writer.offset(), offset, "a dropped write has written: {entry:?}");
        if dice.chance(30) {
            // As somebody does who waits for the answer to what he has sent.
            wait_acked(writer, offset, &mut dice).await?;
        }
        entry.acked(writer.acked());
        rest(most, &mut dice).await;
    }
    match ending {
        Ending::Dropped => return Ok(()),
        Ending::Code(code) => {
            entry.reset(code);
            writer.reset(code);
            return Ok(());
        }
        Ending::Torn(code) => {
            entry.finished();
            writer.finish();
            entry.reset(code);
            writer.reset(code);
            return Ok(());
        }
        Ending::Clean | Ending::Awaited => {}
    }
    entry.finished();
    writer.finish();
    if let Ending::Awaited = ending {
        wait_acked(writer, offset, &mut dice).await?;
    }
    entry.acked(writer.acked());
    Ok(())
}

async fn wait_acked(
    writer: &mut BackedWriter,
    offset: u64,
    dice: &mut Dice,
) -> Result<(), WriteError> {
    while maybe(dice, writer.wait_acked(offset)).await.transpose()?.is_none() {}
    Ok(())
}

/// Writes `chunk` or some of it, in one of the ways there are; says how much.
async fn write_some(
    writer: &mut BackedWriter,
    mut chunk: Bytes,
    dice: &mut Dice,
) -> Result<usize, WriteError> {
    let len = chunk.len();
    match dice.pick(0..4) {
        0 => maybe(dice, writer.write(&chunk)).await.unwrap_or(Ok(0)),
        1 => {
            let middle = dice.pick(0..len as u64 + 1) as usize;
            let (front, back) = chunk.split_at(middle);
            let slices = [IoSlice::new(front), IoSlice::new(&[]), IoSlice::new(back)];
            let write = writer.write_vectored(&slices);
            maybe(dice, write).await.unwrap_or(Ok(0)).map_err(from_io)
        }
        2 => {
            assert_eq!(writer.write(&[]).await?, 0);
            AsyncWriteExt::write(writer, &chunk).await.map_err(from_io)
        }
        _ => {
            maybe(dice, writer.write_chunk(&mut chunk)).await.unwrap_or(Ok(()))?;
            Ok(len - chunk.len())
        }
    }
}

async fn read(
    mut reader: BackedReader,
    plan: DirectionPlan,
    entry: Entry,
    process: &Process,
) -> Option<SessionError> {
    entry.take_up(process);
    let _guard = OnDrop(|| match process.has_ended() {
        true => entry.reader_lost(),
        false => entry.reader_dropped(),
    });
    match read_all(&mut reader, plan, &entry).await {
        Ok(()) => None,
        Err(error) => entry.read_failed(&error),
    }
}

async fn read_all(
    reader: &mut BackedReader,
    plan: DirectionPlan,
    entry: &Entry,
) -> Result<(), ReadError> {
    let DirectionPlan { pieces: [_, piece], rests: [_, most], mut stall, stop, mut dice, .. } =
        plan;
    let mut buf = vec![0; piece.min(64 * 1024) as usize];
    loop {
        let offset = reader.offset();
        if let Some((_, ending)) = stop.filter(|(at, _)| offset >= *at) {
            if let Ending::Code(code) = ending {
                entry.stopped(code);
                reader.stop(code);
                // A reset that was there before stays what it is.
                return match reader.read(&mut buf).await {
                    Err(ReadError::Stopped) => Ok(()),
                    Err(error) => Err(error),
                    Ok(read) => panic!("{read:?} was read after a stop: {entry:?}"),
                };
            }
            return Ok(());
        }
        if let Some((_, lasting)) = stall.take_if(|(at, _)| offset >= *at) {
            sleep(lasting).await;
        }
        entry.wants(true);
        let some = read_some(reader, &mut buf, &mut dice, entry).await;
        let some = match some {
            Some(some) => some?,
            None => continue,
        };
        entry.wants(false);
        if !some {
            entry.eof();
            // Once and for all.
            assert_eq!(reader.read(&mut buf).await, Ok(None));
            return Ok(());
        }
        rest(most, &mut dice).await;
    }
}

/// Reads some bytes in one of the ways there are; `false` at the end of the
/// stream, `None` if the read was cancelled.
async fn read_some(
    reader: &mut BackedReader,
    buf: &mut [u8],
    dice: &mut Dice,
    entry: &Entry,
) -> Option<Result<bool, ReadError>> {
    match dice.pick(0..3) {
        0 => {
            let read = maybe(dice, reader.read(buf)).await?;
            Some(read.map(|len| len.map(|len| entry.read(&buf[..len])).is_some()))
        }
        1 => {
            let max = buf.len();
            let chunk = maybe(dice, reader.read_chunk(max)).await?;
            Some(chunk.map(|chunk| chunk.map(|chunk| entry.read(&chunk)).is_some()))
        }
        _ => {
            let read = maybe(dice, AsyncReadExt::read(reader, buf)).await?;
            let read = read.inspect(|len| entry.read(&buf[..*len])).map_err(from_io);
            Some(read.map(|len| len > 0))
        }
    }
}

/// The error that a trait of tokio has put into an `io::Error`.
fn from_io<E: Error + From<SessionError> + 'static>(error: io::Error) -> E {
    let inner = error.into_inner().expect("an error of ours");
    match inner.downcast::<E>() {
        Ok(error) => *error,
        Err(inner) => (*inner.downcast::<SessionError>().expect("an error of ours")).into(),
    }
}
