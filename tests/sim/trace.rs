//! What happened, in order: always as a hash, and as text if somebody reads it.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// Two runs took the same course if their hashes are the same.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<Lines>>);

struct Lines {
    began: Instant,
    hash: DefaultHasher,
    /// `None` if nobody reads it.
    text: Option<String>,
}

impl Trace {
    /// Begins now.
    pub fn new(readable: bool) -> Self {
        let hash = DefaultHasher::new();
        let text = readable.then(String::new);
        Self(Arc::new(Mutex::new(Lines { began: Instant::now(), hash, text })))
    }

    /// Adds a line.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let mut lines = self.0.lock().unwrap();
        let at = lines.began.elapsed();
        let _ = writeln!(lines, "{:>11.6} {what}", at.as_secs_f64());
    }

    pub fn hash(&self) -> u64 {
        self.0.lock().unwrap().hash.finish()
    }

    /// How long the run lasted, by its own clock.
    pub fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().began.elapsed()
    }

    /// All lines, if they were kept.
    pub fn text(&self) -> Option<String> {
        self.0.lock().unwrap().text.clone()
    }
}

impl Write for Lines {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.hash.write(part.as_bytes());
        if let Some(text) = &mut self.text {
            text.push_str(part);
        }
        Ok(())
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}
