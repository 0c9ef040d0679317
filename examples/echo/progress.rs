//! What one sees while the example runs.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use evermux::{LinkState, Session, SessionEvent};
use tokio::sync::Notify;

pub struct Progress {
    total: u64,
    returned: AtomicU64,
    moved: Notify,
    begun: Instant,
    terminal: bool,
}

impl Progress {
    pub fn new(total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            total,
            returned: AtomicU64::new(0),
            moved: Notify::new(),
            begun: Instant::now(),
            terminal,
        }
    }

    /// So many bytes more have returned.
    pub fn add(&self, bytes: usize) {
        self.returned.fetch_add(bytes as u64, Relaxed);
        self.moved.notify_one();
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until this share of all bytes has returned.
    pub async fn reach(&self, share: f64) {
        while (self.returned.load(Relaxed) as f64) < share * self.total as f64 {
            self.moved.notified().await;
        }
    }

    /// A line that stays.
    pub fn say(&self, what: &str) {
        self.clear();
        eprintln!("{:6.1} s  {what}", self.elapsed().as_secs_f64());
    }

    /// Wipes the line that does not stay.
    pub fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
    }

    /// Reports what happens to the link, and how far the bytes are.
    pub async fn watch(self: Arc<Self>, session: Session) {
        let mut events = session.events();
        let every = if self.terminal { 200 } else { 2000 };
        let mut tick = tokio::time::interval(Duration::from_millis(every));
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.report(&event),
                    None => return,
                },
                _ = tick.tick() => self.show(&session),
            }
        }
    }

    fn report(&self, event: &SessionEvent) {
        match event {
            SessionEvent::Suspect { epoch, .. } => self.say(&format!("link {epoch} is silent")),
            SessionEvent::Recovered { epoch, silence, .. } => self.say(&format!(
                "link {epoch} is back after {:.0} ms, with nothing to send again",
                silence.as_secs_f64() * 1e3
            )),
            SessionEvent::Detached { epoch, cause, .. } => {
                self.say(&format!("link {epoch} is down: {cause}"));
            }
            SessionEvent::Resuming { attempt, .. } if *attempt > 1 => {
                self.say(&format!("attempt {attempt} to resume"));
            }
            SessionEvent::Resumed { epoch, downtime, replayed, .. } => self.say(&format!(
                "link {epoch} is up after {:.0} ms, {} KiB to send again",
                downtime.as_secs_f64() * 1e3,
                replayed >> 10
            )),
            _ => {}
        }
    }

    fn show(&self, session: &Session) {
        let stats = session.stats();
        let link = match session.link() {
            LinkState::Attached { epoch, .. } => format!("attached (epoch {epoch})"),
            LinkState::Suspect { last_contact, .. } => {
                format!("silent for {:.1} s", last_contact.elapsed().as_secs_f64())
            }
            LinkState::Detached { since, .. } => {
                format!("detached for {:.1} s", since.elapsed().as_secs_f64())
            }
            _ => "closed".to_owned(),
        };
        let line = format!(
            "{:6.1} s  {} of {} MiB back, {link}, {} MiB replayed",
            self.elapsed().as_secs_f64(),
            self.returned.load(Relaxed) >> 20,
            self.total >> 20,
            stats.bytes_replayed >> 20
        );
        if self.terminal {
            eprint!("\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}
