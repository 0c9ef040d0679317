//! Congestion control that steps back where it would be in the way.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics};
use quinn::congestion::{CubicConfig, NewRenoConfig};
use quinn_proto::RttEstimator;
use tokio::sync::Notify;

use super::queue::Latest;
use super::shallow::Shallow;
use super::tolerant::TolerantFactory;
use crate::clock;
use crate::config::CongestionControl;

/// Any congestion control, but it does not stand in the way of a farewell, nor of a
/// sign of life.
///
/// While stream data waits, quinn holds CONNECTION_CLOSE back for the congestion
/// window, and once closed it takes no acks that would open it: in the middle of
/// an upload the peer would never hear of the end (quinn-proto 0.11.19,
/// `poll_transmit`). Of the data nothing is sent any more.
///
/// Nor does it stand in the way of a sign of life after an outage. Then the window
/// is full of packets that are lost, and quinn sends not even acks while data waits
/// behind it.
///
/// Nor in the way of small things that somebody waits for: see [`Shallow`].
struct Courteous {
    inner: Box<dyn Controller>,
    /// Shared by all paths of the connection.
    courtesy: Arc<Courtesy>,
    silence: Silence,
    /// Bytes in flight as of the last ack, and sent since.
    in_flight: u64,
    /// The size of a packet in bulk, in bytes.
    mtu: u64,
    /// When the first ack after a silence came, for one round trip.
    revived_at: Option<Instant>,
    shallow: Shallow,
    /// Of the ACK frame that is being looked at.
    latest: Option<Latest>,
}

/// What its connection asks of a controller, and learns from it.
#[derive(Debug, Default)]
pub(super) struct Courtesy {
    /// The connection is being closed.
    leaving: AtomicBool,
    /// No acks come for what was sent.
    silent: AtomicBool,
    /// ACK frames that acknowledged something for the first time.
    acks: AtomicU64,
    /// An ack has come after all.
    revived: Notify,
    /// Somebody waits for small things; taken by the next ack.
    prompt: AtomicBool,
}

impl Courtesy {
    /// Only a farewell is sent from now on.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// What was sent is not acknowledged. Until an ack comes, some packets may go out
    /// beyond the window.
    pub(super) fn expect_loss(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Waits until an ack comes for something that was sent while none came.
    pub(super) async fn revived(&self) {
        self.revived.notified().await;
    }

    /// How many ACK frames have acknowledged something for the first time.
    pub(super) fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// The queue of the path is to be short for a while.
    pub(super) fn keep_queue_short(&self) {
        self.prompt.store(true, Ordering::Relaxed);
    }
}

/// What was sent while no acks came.
#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    first: Option<Instant>,
    last: Option<Instant>,
}

/// One packet of any size that the internet carries. quinn sends nothing, however small,
/// unless a full packet fits; see [`Courteous::nudge`] for larger ones.
const NUDGE: u64 = 1500;

/// In silence one packet may go out beyond the window so often, if there is a reason
/// to send.
const NUDGE_INTERVAL: Duration = Duration::from_millis(10);

/// After a silence the window is down to two packets (RFC 9002 section 7.6). For one
/// round trip as much may go out as on a fresh connection (section 7.2), which would
/// be the alternative.
const REVIVAL: u64 = 10 * NUDGE;

/// For the paths of one connection. (quinn gives away nothing of a controller but a clone of
/// it, so the connection has its courtesy from here.)
pub(super) struct CourteousFactory {
    pub(super) control: CongestionControl,
    pub(super) courtesy: Arc<Courtesy>,
}

impl ControllerFactory for CourteousFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner: Arc<dyn ControllerFactory> = match self.control {
            CongestionControl::Tolerant => Arc::new(TolerantFactory),
            CongestionControl::Cubic => Arc::new(CubicConfig::default()),
            CongestionControl::NewReno => Arc::new(NewRenoConfig::default()),
            CongestionControl::Bbr => Arc::new(BbrConfig::default()),
        };
        Box::new(Courteous {
            inner: inner.build(now, current_mtu),
            courtesy: self.courtesy.clone(),
            silence: Silence::default(),
            in_flight: 0,
            mtu: current_mtu.into(),
            revived_at: None,
            shallow: Shallow::default(),
            latest: None,
        })
    }
}

impl Courteous {
    /// One packet on this path.
    fn nudge(&self) -> u64 {
        NUDGE.max(self.mtu + 1)
    }
}

impl Controller for Courteous {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if self.courtesy.silent.load(Ordering::Relaxed) {
            self.silence.first.get_or_insert(now);
            self.silence.last = Some(now);
        }
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        if self.courtesy.silent.load(Ordering::Relaxed) {
            // An ack from before, come late, says nothing about now.
            if self.silence.first.is_none_or(|first| sent >= first) {
                self.revived_at = self.silence.first.map(|_| now);
                self.silence = Silence::default();
                self.courtesy.silent.store(false, Ordering::Relaxed);
                self.courtesy.revived.notify_waiters();
            }
        } else if self.revived_at.is_some_and(|revived| sent >= revived) {
            self.revived_at = None;
        }
        Latest::note(&mut self.latest, sent, rtt.get());
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        // Not called for one that repeats what was known.
        self.courtesy.acks.fetch_add(1, Ordering::Relaxed);
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        if self.courtesy.prompt.load(Ordering::Relaxed) {
            self.courtesy.prompt.store(false, Ordering::Relaxed);
            self.shallow.want(now);
        }
        let latest = self.latest.take();
        if latest.is_some_and(|latest| self.shallow.on_ack(now, latest, app_limited)) {
            // As if the network had said that its queue is long (ECN).
            self.inner.on_congestion_event(now, now, false, 0);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        // Beyond 32 bits it is not paced either.
        if self.courtesy.leaving.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        let mut window = self.inner.window();
        if self.courtesy.silent.load(Ordering::Relaxed) {
            window = window.max(self.in_flight);
            let rests = |last: Instant| clock::now().into_std() < last + NUDGE_INTERVAL;
            if !self.silence.last.is_some_and(rests) {
                window = window.saturating_add(self.nudge());
            }
        }
        if self.revived_at.is_some() {
            window = window.saturating_add(REVIVAL);
        }
        window
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            courtesy: self.courtesy.clone(),
            silence: self.silence,
            in_flight: self.in_flight,
            mtu: self.mtu,
            revived_at: self.revived_at,
            shallow: self.shallow.clone(),
            latest: self.latest,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
