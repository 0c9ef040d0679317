//! Says when the agent cannot be reached, once, and when it is back.

use std::time::Duration;

use evermux::{Events, LinkState, SessionEvent};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::closed_port;
use crate::log::TOLD;

/// Silences shorter than this are not worth a word.
const WORTH_A_WORD: Duration = Duration::from_secs(2);

/// Why there is no contact, where the agent's host says so. The session of an agent
/// that has ended is gone: that is known for sure when it runs again.
const NOBODY: &str = "nobody listens there: is the agent running?";

/// A time without an agent.
struct Outage {
    since: Instant,
    attempt: u32,
    reason: String,
    next: Next,
}

/// What has not been done about it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Find out whether the agent has ended.
    Ask,
    Tell,
    Wait,
}

/// Watches a session until it ends.
pub async fn report(mut events: Events, link: watch::Receiver<LinkState>, address: String) {
    let mut outage: Option<Outage> = None;
    loop {
        let due = outage.as_ref().and_then(Outage::due);
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(outage) = &mut outage {
                    outage.go_on(&address).await;
                }
                continue;
            }
        };
        match event {
            Some(SessionEvent::Suspect { .. }) => {
                outage.get_or_insert_with(|| Outage::since(last_contact(&link)));
            }
            Some(SessionEvent::Detached { cause, .. }) => {
                let outage = outage.get_or_insert_with(|| Outage::since(last_contact(&link)));
                outage.reason = cause.to_string();
            }
            Some(SessionEvent::Resuming { attempt, last, .. }) => {
                let outage = outage.get_or_insert_with(|| Outage::since(last_contact(&link)));
                outage.attempt = attempt;
                if let Some(last) = last {
                    outage.reason = last.to_string();
                }
                tracing::debug!(target: TOLD, attempt, "attempt {attempt} to reach {address}");
            }
            Some(SessionEvent::Recovered { .. } | SessionEvent::Resumed { .. }) => {
                if let Some(outage) = outage.take() {
                    outage.end(&address);
                }
            }
            Some(_) => {}
            None => return,
        }
    }
}

fn last_contact(link: &watch::Receiver<LinkState>) -> Instant {
    match &*link.borrow() {
        LinkState::Suspect { last_contact, .. } | LinkState::Detached { last_contact, .. } => {
            (*last_contact).into()
        }
        _ => Instant::now(),
    }
}

impl Outage {
    fn since(since: Instant) -> Self {
        Self { since, attempt: 0, reason: "nothing was heard".into(), next: Next::Ask }
    }

    /// When there is something to do.
    fn due(&self) -> Option<Instant> {
        match self.next {
            Next::Ask => Some(self.since + WORTH_A_WORD - closed_port::TAKES),
            Next::Tell => Some(self.since + WORTH_A_WORD),
            Next::Wait => None,
        }
    }

    async fn go_on(&mut self, address: &str) {
        if self.next == Next::Ask {
            self.next = Next::Tell;
            if closed_port::is_closed(address).await {
                self.reason = NOBODY.into();
            }
        } else {
            self.next = Next::Wait;
            self.tell(address);
        }
    }

    fn tell(&self, address: &str) {
        let (seconds, attempt) = (self.since.elapsed().as_secs_f64(), self.attempt);
        tracing::warn!(
            target: TOLD,
            event = "link_down",
            seconds,
            attempt,
            "no contact with the agent at {address} for {seconds:.0} s (attempt {attempt}: {}); \
             everything waits until it is back",
            self.reason
        );
    }

    fn end(self, address: &str) {
        let seconds = self.since.elapsed().as_secs_f64();
        if self.next == Next::Wait {
            tracing::warn!(
                target: TOLD,
                event = "link_up",
                seconds,
                attempts = self.attempt,
                "the agent at {address} is back after {seconds:.1} s; everything goes on"
            );
        } else {
            tracing::debug!(target: TOLD, "{address} was silent for {seconds:.1} s");
        }
    }
}
