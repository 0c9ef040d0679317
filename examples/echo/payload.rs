//! What the pipes carry: made up from a seed, or a file.

use std::fs::File;
use std::io;

use crate::args::Args;

pub enum Payload {
    /// Bytes that depend on seed, pipe and offset, so that every misplaced one
    /// is seen.
    MadeUp {
        seed: u64,
        len: u64,
    },
    File {
        file: File,
        len: u64,
    },
}

impl Payload {
    pub fn new(args: &Args, pipe: usize) -> io::Result<Self> {
        let Some(path) = &args.file else {
            let seed = args.seed.wrapping_mul(1_000_003).wrapping_add(pipe as u64);
            return Ok(Self::MadeUp { seed, len: args.mib << 20 });
        };
        let named = |error| io::Error::other(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(named)?;
        let len = file.metadata().map_err(named)?.len();
        Ok(Self::File { file, len })
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::MadeUp { len, .. } | Self::File { len, .. } => *len,
        }
    }

    /// Fills the front of `buf` with the bytes from `offset` on; 0 at the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::MadeUp { seed, len } => {
                let wanted = (len.saturating_sub(offset)).min(buf.len() as u64) as usize;
                for (i, byte) in buf[..wanted].iter_mut().enumerate() {
                    let at = offset + i as u64;
                    let word = mix(seed.wrapping_add((at / 8).wrapping_mul(0x9e37_79b9)));
                    *byte = (word >> (8 * (at % 8))) as u8;
                }
                Ok(wanted)
            }
            Self::File { file, .. } => read_file_at(file, buf, offset),
        }
    }
}

#[cfg(unix)]
fn read_file_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(windows)]
fn read_file_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

/// The finalizer of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
