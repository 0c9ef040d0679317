//! Who uses a pipe: ends whose every write goes into the ledger, and whose every
//! read is checked against it.

use evermux::{
    BackedPipe, BackedReader, BackedWriter, PipeId, ReadError, SessionId, Side, WriteError,
};

use tokio::join;

use crate::ledger::{Entry, Fate, Ledger, Reading, content};

/// Most bytes in one write.
const PIECE: u64 = 10_000;

/// One side's end of a pipe.
#[derive(Debug)]
pub struct End {
    pub reader: Reader,
    pub writer: Writer,
}

impl End {
    pub fn new(pipe: BackedPipe, session: SessionId, side: Side, ledger: &Ledger) -> Self {
        let entry = |writer| ledger.entry(key(session, pipe.id(), writer));
        let (theirs, ours) = (entry(side.peer()), entry(side));
        let (reader, writer) = pipe.into_split();
        Self {
            reader: Reader { half: reader, entry: theirs },
            writer: Writer { half: writer, entry: ours },
        }
    }

    /// Writes so many more bytes and no more, and reads all that the other end
    /// writes; both ends do the same, and nothing goes wrong.
    pub async fn exchange(&mut self, bytes: u64) {
        let Self { reader, writer } = self;
        let write = async {
            writer.write(bytes).await.unwrap();
            writer.finish();
            writer.all_read().await.unwrap();
        };
        join!(write, async { reader.read_to_end().await.unwrap() });
    }
}

/// The name of a direction, the same for both of its ends.
fn key(session: SessionId, pipe: PipeId, writer: Side) -> u64 {
    let session = u64::from_be_bytes(session.as_bytes()[..8].try_into().expect("16 bytes"));
    let number = pipe.index() << 2 | (pipe.opener() as u64) << 1 | writer as u64;
    // Contents of neighbours have nothing in common.
    session.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[derive(Debug)]
pub struct Writer {
    pub half: BackedWriter,
    pub entry: Entry,
}

impl Writer {
    /// Writes so many more bytes.
    pub async fn write(&mut self, bytes: u64) -> Result<(), WriteError> {
        let end = self.half.offset() + bytes;
        while self.half.offset() < end {
            let (key, offset) = (self.entry.lock().key, self.half.offset());
            let len = PIECE.min(end - offset);
            self.entry.offers(len);
            let written = self.half.write(&content(key, offset, len as usize)).await;
            let written = written.inspect_err(|error| drop(self.entry.write_failed(error)))?;
            self.entry.wrote(written as u64);
        }
        Ok(())
    }

    pub async fn write_nothing(&mut self) {
        assert_eq!(self.half.write(&[]).await, Ok(0));
    }

    pub fn finish(&mut self) {
        self.entry.finished();
        self.half.finish();
    }

    pub fn reset(&mut self, code: u32) {
        self.entry.reset(code);
        self.half.reset(code);
    }

    /// Waits until the peer has read everything.
    pub async fn all_read(&mut self) -> Result<(), WriteError> {
        let waited = self.half.wait_acked(self.half.offset()).await;
        self.entry.acked(self.half.acked());
        waited
    }

    /// Waits until no byte more can be read there, and says why.
    pub async fn error(&mut self) -> WriteError {
        let error = self.half.wait_acked(u64::MAX).await.expect_err("nobody reads so far");
        // That it has given up is no news to the writer.
        if error != WriteError::Finished {
            self.entry.write_failed(&error);
        }
        error
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.entry.writer_dropped();
    }
}

#[derive(Debug)]
pub struct Reader {
    pub half: BackedReader,
    pub entry: Entry,
}

impl Reader {
    /// Reads up to this offset, and not beyond.
    pub async fn read_to(&mut self, offset: u64) -> Result<(), ReadError> {
        while self.half.offset() < offset {
            let most = (offset - self.half.offset()) as usize;
            if !self.read(most).await? {
                panic!("the end, before {offset}: {:?}", self.entry);
            }
        }
        Ok(())
    }

    /// Reads until the end of the stream, which stays the end.
    pub async fn read_to_end(&mut self) -> Result<(), ReadError> {
        while self.read(usize::MAX).await? {}
        assert_eq!(self.half.read_chunk(usize::MAX).await, Ok(None), "there is one end");
        Ok(())
    }

    /// Reads something; `false` at the end of the stream.
    async fn read(&mut self, most: usize) -> Result<bool, ReadError> {
        match self.half.read_chunk(most).await {
            Ok(Some(chunk)) => {
                self.entry.read(&chunk);
                Ok(true)
            }
            Ok(None) => {
                self.entry.eof();
                Ok(false)
            }
            Err(ReadError::Stopped) => Err(ReadError::Stopped),
            Err(error) => {
                self.entry.read_failed(&error);
                Err(error)
            }
        }
    }

    pub fn stop(&mut self, code: u32) {
        self.entry.stopped(code);
        self.half.stop(code);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.entry.reader_dropped();
    }
}

/// A direction, as both of its ends have it: for those who look on.
pub fn has_seen_the_end(entry: &Entry) -> bool {
    let direction = entry.lock();
    direction.reading == Reading::Eof && direction.fate == Fate::Finished
}
