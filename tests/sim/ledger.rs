//! What was written and read, and what follows from it: the oracle.
//!
//! Who writes or reads says so here, at once; each entry is checked against what
//! is known of the other end. Whatever does not fit is a panic, with the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use bytes::Bytes;
use evermux::{ReadError, SessionError, WriteError};

use crate::dice::Dice;

/// Most bytes that [`content`] gives at once.
pub const CONTENT_MAX: usize = 1 << 20;

/// Length of the pattern that all content is cut from: a prime, so that it fits
/// on no power of two when it comes round.
const PATTERN: u64 = (1 << 20) + 7;

static CONTENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut dice = Dice(7);
    let pattern: Vec<u8> = (0..PATTERN).map(|_| dice.roll() as u8).collect();
    let mut content = pattern.clone();
    content.extend_from_slice(&pattern[..CONTENT_MAX]);
    content.into()
});

/// The bytes of stream `key` from `offset` on.
pub fn content(key: u64, offset: u64, len: usize) -> Bytes {
    let from = ((key % PATTERN + offset) % PATTERN) as usize;
    CONTENT.slice(from..from + len)
}

/// How a direction ended, or will, by what its writer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    Finished,
    Reset {
        code: u32,
    },
    /// The session, or the writer's process, ended before the writer did.
    Lost,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nobody reads yet, or not for the moment.
    Paused,
    /// Somebody waits for more.
    Wants,
    Eof,
    Reset {
        code: u32,
    },
    Stopped {
        code: u32,
    },
    /// The session, or the reader's process, ended before the reader did.
    Lost,
}

/// The process that somebody runs in, as far as it concerns a session.
#[derive(Clone, Debug, Default)]
pub struct Process(Arc<AtomicBool>);

impl Process {
    /// It was killed, or has ended the session: its tasks will not be heard of
    /// any more.
    pub fn end(&self) {
        self.0.store(true, Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// One direction of a pipe, as both of its ends have it.
#[derive(Debug)]
pub struct Direction {
    /// What its content is made of.
    pub key: u64,
    /// What a write under way may have written by now.
    pub offered: u64,
    pub written: u64,
    pub fate: Fate,
    /// Finished once: a reset that came after may have been too late.
    finished: bool,
    pub read: u64,
    pub reading: Reading,
    writer_is_through: bool,
    /// Those of its writer and its reader.
    processes: Vec<Process>,
}

/// A direction, in the hands of its writer or reader.
#[derive(Clone)]
pub struct Entry(Arc<Mutex<Direction>>, Arc<Mutex<Totals>>);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.lock(), f)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub delivered: u64,
    pub directions: u64,
    pub ends: u64,
    /// Bytes missing, and bytes too many, in streams whose end was seen.
    pub lost: u64,
    pub doubled: u64,
}

/// All directions of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<u64, Entry>>,
    totals: Arc<Mutex<Totals>>,
}

impl Ledger {
    /// The direction of this key: the same for its writer and its reader.
    pub fn entry(&self, key: u64) -> Entry {
        let make = || {
            self.totals.lock().unwrap().directions += 1;
            let direction = Direction {
                key,
                offered: 0,
                written: 0,
                fate: Fate::Open,
                finished: false,
                read: 0,
                reading: Reading::Paused,
                writer_is_through: false,
                processes: Vec::new(),
            };
            Entry(Arc::new(Mutex::new(direction)), self.totals.clone())
        };
        self.entries.lock().unwrap().entry(key).or_insert_with(make).clone()
    }

    /// The totals so far. What is lost and doubled is counted here once more, over
    /// the streams whose end was seen, apart from what was checked on the way.
    pub fn totals(&self) -> Totals {
        let mut totals = *self.totals.lock().unwrap();
        for entry in self.entries.lock().unwrap().values() {
            let direction = entry.lock();
            if direction.reading == Reading::Eof {
                totals.lost += direction.written.saturating_sub(direction.read);
                totals.doubled += direction.read.saturating_sub(direction.written);
            }
        }
        totals
    }

    /// What readers wait for although it was written: how far they have come.
    pub fn owed(&self) -> BTreeMap<u64, u64> {
        let entries = self.entries.lock().unwrap();
        let owed = entries.iter().filter_map(|(key, entry)| {
            let direction = entry.lock();
            let waits = direction.reading == Reading::Wants && direction.fate != Fate::Lost;
            let more = direction.read < direction.written || direction.fate != Fate::Open;
            let lives = !direction.processes.iter().any(Process::has_ended);
            (waits && more && lives).then_some((*key, direction.read))
        });
        owed.collect()
    }

    /// What is not through, for a person to read.
    pub fn unfinished(&self) -> String {
        let entries = self.entries.lock().unwrap();
        let open = entries.values().filter(|entry| {
            let direction = entry.lock();
            matches!(direction.reading, Reading::Paused | Reading::Wants)
                || !direction.writer_is_through
        });
        open.map(|entry| format!("  {entry:?}\n")).collect()
    }
}

impl Entry {
    pub fn lock(&self) -> MutexGuard<'_, Direction> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Somebody writes or reads, for as long as his process lives.
    pub fn take_up(&self, process: &Process) {
        self.lock().processes.push(process.clone());
    }

    // The writer.

    /// Up to so many bytes are about to be written.
    pub fn offers(&self, bytes: u64) {
        let mut direction = self.lock();
        direction.offered = direction.written + bytes;
    }

    pub fn wrote(&self, bytes: u64) {
        self.lock().written += bytes;
    }

    pub fn finished(&self) {
        let mut direction = self.lock();
        direction.fate = Fate::Finished;
        direction.finished = true;
    }

    pub fn reset(&self, code: u32) {
        self.lock().fate = Fate::Reset { code };
    }

    /// The writer is dropped: unless there is an end, that is one.
    pub fn writer_dropped(&self) {
        let mut direction = self.lock();
        direction.writer_is_through = true;
        if direction.fate == Fate::Open {
            direction.fate = Fate::Reset { code: 0 };
        }
    }

    /// A write, or a wait for acks, came to nothing.
    pub fn write_failed(&self, error: &WriteError) -> Option<SessionError> {
        let mut direction = self.lock();
        match error {
            WriteError::Stopped { code } => {
                let stopped = Reading::Stopped { code: *code };
                assert_eq!(
                    direction.reading, stopped,
                    "the writer was told otherwise: {direction:?}"
                );
                // Whatever it was about to do, nobody will see it.
                direction.writer_is_through = true;
                None
            }
            WriteError::Session(error) => {
                direction.fate = Fate::Lost;
                Some(error.clone())
            }
            other => panic!("{other} from a writer without an end: {direction:?}"),
        }
    }

    /// The peer is known to have read so far.
    pub fn acked(&self, offset: u64) {
        let direction = self.lock();
        assert!(offset <= direction.read, "acked {offset}, never read so far: {direction:?}");
    }

    /// The writer is dropped with its process: nobody says anything any more.
    pub fn writer_lost(&self) {
        let mut direction = self.lock();
        direction.writer_is_through = true;
        direction.fate = Fate::Lost;
    }

    // The reader.

    pub fn wants(&self, wants: bool) {
        let mut direction = self.lock();
        assert!(matches!(direction.reading, Reading::Paused | Reading::Wants), "{direction:?}");
        direction.reading = if wants { Reading::Wants } else { Reading::Paused };
    }

    /// The reader was given these bytes.
    pub fn read(&self, bytes: &[u8]) {
        let mut direction = self.lock();
        let offset = direction.read;
        for (at, part) in (offset..).step_by(CONTENT_MAX).zip(bytes.chunks(CONTENT_MAX)) {
            let expected = content(direction.key, at, part.len());
            assert!(expected == part, "{}", astray(&direction, part, &expected));
        }
        direction.read += bytes.len() as u64;
        assert!(direction.read <= direction.offered, "more was read than written: {direction:?}");
        self.1.lock().unwrap().delivered += bytes.len() as u64;
    }

    pub fn eof(&self) {
        let mut direction = self.lock();
        assert!(direction.finished, "the end of a stream that was not finished: {direction:?}");
        assert_eq!(direction.read, direction.written, "lost at the end: {direction:?}");
        direction.reading = Reading::Eof;
        self.1.lock().unwrap().ends += 1;
    }

    pub fn stopped(&self, code: u32) {
        self.lock().reading = Reading::Stopped { code };
    }

    /// The reader is dropped: unless it has seen an end, that is a stop.
    pub fn reader_dropped(&self) {
        let mut direction = self.lock();
        if matches!(direction.reading, Reading::Paused | Reading::Wants) {
            direction.reading = Reading::Stopped { code: 0 };
        }
    }

    pub fn reader_lost(&self) {
        self.lock().reading = Reading::Lost;
    }

    pub fn read_failed(&self, error: &ReadError) -> Option<SessionError> {
        let mut direction = self.lock();
        match error {
            ReadError::Reset { code } => {
                let reset = Fate::Reset { code: *code };
                assert_eq!(direction.fate, reset, "the reader was told otherwise: {direction:?}");
                direction.reading = Reading::Reset { code: *code };
                None
            }
            ReadError::Session(error) => {
                direction.reading = Reading::Lost;
                Some(error.clone())
            }
            other => panic!("{other} from a reader that did not stop: {direction:?}"),
        }
    }
}

/// Says what `part`, which is not what was `expected`, looks like.
fn astray(direction: &Direction, part: &[u8], expected: &[u8]) -> String {
    let wrong = part.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let from = &part[wrong..part.len().min(wrong + 16)];
    let at = direction.read + wrong as u64;
    let is_from = |offset: &u64| content(direction.key, *offset, from.len()) == from;
    match (0..direction.offered).find(is_from) {
        Some(offset) if offset < at => {
            format!("doubled: at offset {at} came the bytes of {offset} again: {direction:?}")
        }
        Some(offset) => format!("lost: at offset {at} came the bytes of {offset}: {direction:?}"),
        None => format!("at offset {at} came bytes of no offset of this pipe: {direction:?}"),
    }
}
