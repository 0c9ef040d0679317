//! What is counted: one stream, as fast as it goes, both ends on one thread.

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::twins::{Ends, Evermux, INTERNET, Quinn, Read, Settings, Twin, Write};

/// A way to write.
#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    /// Of each write.
    len: usize,
    /// Hands over what it has, instead of a slice to be copied.
    chunk: bool,
    /// In all.
    pub bytes: usize,
}

pub const CASES: &[Case] = &[
    Case { name: "64k-chunk", len: 64 << 10, chunk: true, bytes: 16 << 20 },
    Case { name: "64k", len: 64 << 10, chunk: false, bytes: 16 << 20 },
    Case { name: "4k", len: 4 << 10, chunk: false, bytes: 8 << 20 },
    Case { name: "1k", len: 1 << 10, chunk: false, bytes: 8 << 20 },
    Case { name: "128", len: 128, chunk: false, bytes: 4 << 20 },
];

/// What is sent is some times these, so that windows are full most of the time.
pub const SETTINGS: Settings = Settings {
    ahead: 1 << 20,
    stream: 1 << 20,
    connection: 64 << 20,
    datagram: INTERNET,
    streams: 1024,
};

const READ_MAX: usize = 64 << 10;

pub fn run(twin: &str, case: &str) -> Result<(), String> {
    let case = CASES.iter().find(|known| known.name == case).ok_or("no such case")?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    match twin {
        Evermux::NAME => connect_and_transfer::<Evermux>(&runtime, case),
        Quinn::NAME => connect_and_transfer::<Quinn>(&runtime, case),
        _ => return Err("no such twin".into()),
    }
    Ok(())
}

fn connect_and_transfer<T: Twin>(runtime: &Runtime, case: &'static Case) {
    let twin = runtime.block_on(T::connect(SETTINGS));
    let ends = runtime.block_on(twin.open());
    transfer_counted::<T>(runtime, ends, case);
}

/// Part of the name of the function that is counted.
pub const COUNTED: &str = "transfer_counted";

/// By this name callgrind knows when to count.
#[inline(never)]
fn transfer_counted<T: Twin>(runtime: &Runtime, ends: [Ends<T>; 2], case: &'static Case) {
    let [(writer, near_reader), (far_writer, reader)] = ends;
    runtime.block_on(transfer(writer, reader, case));
    drop((near_reader, far_writer));
}

/// Writes and reads as much as the case says, and the end.
pub async fn transfer(mut writer: impl Write, mut reader: impl Read, case: &'static Case) {
    let writing = tokio::spawn(async move {
        let chunk = Bytes::from(vec![7; case.len]);
        for _ in 0..case.bytes / case.len {
            if case.chunk {
                writer.write_chunk(chunk.clone()).await;
            } else {
                writer.write_all(&chunk).await;
            }
        }
        writer.finish();
        writer
    });
    let mut read = 0;
    while let Some(chunk) = reader.read_chunk(READ_MAX).await {
        read += chunk.len();
    }
    assert_eq!(read, case.bytes);
    drop(writing.await);
}
