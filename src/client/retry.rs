//! Dialling again after a connection is lost, for as long as the session lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::dial::Connected;
use super::{ClientShared, Target};
use crate::clock::{self, Instant, Moment, sleep, sleep_until};
use crate::config::ClientConfig;
use crate::driver::{Attach, AttachSender, Dialled};
use crate::error::{DialError, SessionError};
use crate::event::{DetachCause, LinkState, SessionEvent};
use crate::proto::Backoff;
use crate::quic::EarlyData;
use crate::session::SessionShared;

/// A suspect link has two round trips, within these bounds, until a new connection is
/// dialled beside it: if it works it is answered after one.
const HEAD_START_MIN: Duration = Duration::from_millis(50);
const HEAD_START_MAX: Duration = Duration::from_millis(250);

/// So long an attempt may go on in whatever network there is.
const GRACE: Duration = Duration::from_secs(1);

/// The older an outage, the less likely is its end within the next second: dials become
/// rarer, as kicks do.
const YOUNG: Duration = Duration::from_secs(10);
const OLD: Duration = Duration::from_secs(120);

/// Brings the driver a new connection whenever the link is down or might be. Ends
/// with the session.
pub(super) async fn keep_attached(
    client: Arc<ClientShared>,
    target: Target,
    session: Arc<SessionShared>,
    attaches: AttachSender,
) {
    let never = client.config.reconnect.is_never();
    let needy = |session: &SessionShared| match session.link_state() {
        LinkState::Attached { .. } if session.is_moving() => {
            Some(Some((DetachCause::Requested, Duration::ZERO)))
        }
        LinkState::Attached { .. } => None,
        // Nobody dials, and it may come back by itself.
        LinkState::Suspect { .. } if never => None,
        LinkState::Suspect { .. } => {
            let answered = 2 * session.rtt().unwrap_or_default();
            let head_start = answered.clamp(HEAD_START_MIN, HEAD_START_MAX);
            Some(Some((DetachCause::TimedOut, head_start)))
        }
        LinkState::Detached { cause, .. } => Some(Some((cause, Duration::ZERO))),
        LinkState::Closed { .. } => Some(None),
    };
    while let Some((cause, head_start)) = session.until(needy).await {
        let outage = Outage {
            client: &client,
            target: &target,
            session: &session,
            began: session.moment(),
            head_start,
            early_data: if cause == DetachCause::TimedOut {
                EarlyData::Withheld
            } else {
                EarlyData::Allowed
            },
            last: DialError::Lost { reason: cause.to_string() },
        };
        if let Err(error) = outage.end(&attaches).await {
            // The session may have ended by itself in the meantime.
            let _ = attaches.send(Box::new(Attach::GiveUp(error)));
            return;
        }
    }
}

/// How long until one more dial, in an outage of this age. Not before the last can have
/// been answered, which takes two round trips, but for one that is very long.
fn dial_interval(config: &ClientConfig, age: Duration, rtt: Duration) -> Duration {
    let interval = config.dial_interval;
    let answered = (2 * rtt).min(interval.saturating_mul(4));
    if age < YOUNG {
        interval.max(answered)
    } else if age < OLD {
        interval.saturating_mul(4).max(answered)
    } else {
        interval.saturating_mul(20)
    }
}

/// Waits until the session needs no other connection, or has ended.
async fn until_not_in_need(session: &SessionShared) {
    session.until(|session| (!session.is_in_need()).then_some(())).await;
}

/// A time without a connection, or with one that may be dead.
struct Outage<'a> {
    client: &'a ClientShared,
    target: &'a Target,
    session: &'a Arc<SessionShared>,
    began: Moment,
    /// How long the first attempt waits.
    head_start: Duration,
    /// Of the next attempt: whether what is sent first is likely to arrive. Not after a
    /// silence, or an attempt that has come to nothing.
    early_data: EarlyData,
    /// Why the link is down still.
    last: DialError,
}

impl Outage<'_> {
    /// Tries until the session is attached again, or has ended.
    async fn end(mut self, attaches: &AttachSender) -> Result<(), SessionError> {
        let policy = &self.client.config.reconnect;
        let mut backoff = Backoff::new(policy.first, policy.max);
        let mut attempt = 0;
        // How long it goes on at least, whatever the limit.
        let mut grace = Duration::ZERO;
        while self.session.is_in_need() {
            // A handover from a connection that works is no outage.
            let works = matches!(self.session.link_state(), LinkState::Attached { .. });
            let limit = policy.give_up_after.filter(|_| !works);
            // Looked at anew each time: the machine may have slept meanwhile.
            let left = limit.map(|limit| limit.saturating_sub(self.lasted()));
            let is_over = left.is_some_and(|left| left.is_zero());
            let left = left.map(|left| left.max(grace));
            let give_up = left.and_then(|left| clock::now().checked_add(left));
            let delay = backoff.next(self.client.config.environment.jitter(), self.pause_max());
            let delay = if attempt == 0 { delay.max(self.head_start) } else { delay };
            tokio::select! {
                biased;
                () = sleep_until(give_up) => return Err(self.gave_up()),
                () = until_not_in_need(self.session) => continue,
                () = self.session.redial.notified() => self.hope(&mut backoff),
                () = self.session.anew.notified() => self.hope(&mut backoff),
                () = sleep(delay) => {}
            }
            attempt += 1;
            let last = (attempt > 1).then(|| self.last.clone());
            self.session.emit(SessionEvent::Resuming { attempt, last });
            let deadline = clock::now() + self.client.config.attempt_timeout;
            let deadline = give_up.map_or(deadline, |give_up| deadline.min(give_up));
            let failed = tokio::select! {
                biased;
                ended = self.attempt(attaches, deadline) => ended.err(),
                () = self.outdated() => {
                    self.hope(&mut backoff);
                    // Who has slept until it was over tries once more all the same.
                    grace = if is_over { Duration::ZERO } else { self.client.config.attempt_timeout };
                    continue;
                }
            };
            (self.early_data, grace) = (EarlyData::Withheld, Duration::ZERO);
            if let Some(error) = failed {
                tracing::debug!(session = %self.session.id, attempt, %error, "attempt failed");
                self.session.moving_failed(&error);
                self.last = error;
            }
        }
        Ok(())
    }

    /// Things have changed: now is the time.
    fn hope(&mut self, backoff: &mut Backoff) {
        backoff.reset();
        self.early_data = EarlyData::Allowed;
    }

    /// Waits until the network is another one than that in which the attempt began: the
    /// name servers are others as well, and a dial from a fresh socket may be long in
    /// coming. But a network that goes on changing must not keep every attempt from its
    /// end.
    async fn outdated(&self) {
        let began = clock::now();
        self.session.anew.notified().await;
        sleep_until(Some(began + GRACE)).await;
    }

    async fn attempt(&self, attaches: &AttachSender, deadline: Instant) -> Result<(), DialError> {
        let rtt = self.session.rtt().or_else(|| self.session.last_rtt()).unwrap_or_default();
        let renewal = dial_interval(&self.client.config, self.lasted(), rtt);
        let again = &self.session.redial;
        let session = Some((self.session, self.early_data));
        let Connected { connection, dialler, early } = tokio::select! {
            biased;
            () = until_not_in_need(self.session) => return Ok(()),
            dialled = self.client.dial(self.target, deadline, session, renewal, again) => dialled?,
        };
        let (outcome, told) = oneshot::channel();
        let dialled = Dialled { connection, dialler, early, deadline, outcome };
        if attaches.send(Box::new(Attach::Dialled(dialled))).is_err() {
            return Ok(());
        }
        // Dropped unsaid if the session has ended.
        told.await.unwrap_or(Ok(()))
    }

    /// How long the pause before the next attempt is at most. If nobody has said no, a
    /// long one would be to miss the network's return; a short one draws those apart who
    /// have lost it together.
    fn pause_max(&self) -> Duration {
        let policy = &self.client.config.reconnect;
        let silent = matches!(self.last, DialError::TimedOut { .. });
        if silent && self.lasted() < OLD { policy.first.saturating_mul(4) } else { policy.max }
    }

    /// How long so far, time asleep included.
    fn lasted(&self) -> Duration {
        self.session.moment().since(self.began)
    }

    fn gave_up(&self) -> SessionError {
        SessionError::GaveUp { outage: self.lasted(), last: self.last.clone() }
    }
}
