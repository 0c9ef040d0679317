//! CUBIC for paths that lose packets for reasons of their own.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::queue::{Latest, Queue};

/// CUBIC, told only of losses that mean congestion.
///
/// CUBIC takes every lost packet for a full queue. A radio that loses one of a
/// hundred by itself keeps it at a thirtieth of what the path could carry. But a
/// queue that is full can be seen: what passes it has waited in it. So a loss counts
/// if
///
/// - packets wait in a queue, which they do whenever a queue overflows: then this is
///   CUBIC, and as fair;
/// - more is lost than the [`Allowance`]: a queue too short to be seen, or a policer;
/// - nothing came through for long (persistent congestion, RFC 9002 section 7.6), or
///   the network says so itself (ECN).
struct Tolerant {
    cubic: Box<dyn Controller>,
    queue: Queue,
    /// Of the ACK frame that is being looked at.
    latest: Option<Latest>,
    allowance: Allowance,
    /// When CUBIC was last told. What was sent before belongs to the same event.
    told_at: Option<Instant>,
}

pub(super) struct TolerantFactory;

impl ControllerFactory for TolerantFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Tolerant {
            cubic: Arc::new(CubicConfig::default()).build(now, current_mtu),
            queue: Queue::default(),
            latest: None,
            allowance: Allowance(ALLOWANCE_MAX),
            told_at: None,
        })
    }
}

impl Controller for Tolerant {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        Latest::note(&mut self.latest, sent, rtt.get());
        self.allowance.earn(bytes);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        if let Some(Latest { sent, smoothed }) = self.latest.take() {
            self.queue.on_round_trip(now, now.saturating_duration_since(sent), smoothed);
        }
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let known = self.told_at.is_some_and(|told| sent <= told);
        let by_ecn = lost_bytes == 0;
        if !(known || by_ecn || is_persistent_congestion || self.queue.is_seen()) {
            if self.allowance.spend(lost_bytes) {
                return;
            }
            self.allowance = Allowance(ALLOWANCE_MAX);
        }
        if !known {
            self.told_at = Some(now);
        }
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            queue: self.queue,
            latest: self.latest,
            allowance: self.allowance,
            told_at: self.told_at,
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Bytes that may be lost for no reason that can be seen.
#[derive(Clone, Copy, Debug)]
struct Allowance(u64);

/// One byte for so many that arrived.
const ALLOWANCE_SHARE: u64 = 40;

/// Losses come in clusters. And once the allowance is used up and CUBIC was told, it
/// is given anew, so that CUBIC steps back once for so much, and not for each packet.
const ALLOWANCE_MAX: u64 = 32 * 1500;

impl Allowance {
    fn earn(&mut self, acked: u64) {
        // In 1/ALLOWANCE_SHARE.
        self.0 = (self.0 + acked / ALLOWANCE_SHARE).min(ALLOWANCE_MAX);
    }

    /// Whether there was so much.
    fn spend(&mut self, lost: u64) -> bool {
        let left = self.0.checked_sub(lost);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn tolerant(now: Instant) -> Tolerant {
        Tolerant {
            cubic: Arc::new(CubicConfig::default()).build(now, 1200),
            queue: Queue::default(),
            latest: None,
            allowance: Allowance(ALLOWANCE_MAX),
            told_at: None,
        }
    }

    #[test]
    fn losses_without_a_queue_are_forgiven_up_to_an_allowance() {
        let mut now = Instant::now();
        let mut control = tolerant(now);
        control.queue.watch(&mut now, MS * 40);
        let window = control.window();
        for _ in 0..ALLOWANCE_MAX / 1500 {
            now += MS;
            control.on_congestion_event(now, now - MS / 2, false, 1500);
        }
        assert_eq!(control.window(), window);
        now += MS;
        control.on_congestion_event(now, now - MS / 2, false, 1500);
        assert!(control.window() < window);
        // Once for so much, not for each.
        let window = control.window();
        now += MS;
        control.on_congestion_event(now, now - MS / 2, false, 1500);
        assert_eq!(control.window(), window);
    }

    #[test]
    fn what_arrives_earns_forgiveness_for_a_fortieth() {
        let mut allowance = Allowance(0);
        assert!(!allowance.spend(1));
        (0..39).for_each(|_| allowance.earn(1200));
        assert!(!allowance.clone().spend(1200));
        allowance.earn(1200);
        assert!(allowance.spend(1200));
        assert!(!allowance.spend(1));
        (0..10_000).for_each(|_| allowance.earn(1200));
        assert_eq!(allowance.0, ALLOWANCE_MAX);
    }

    #[test]
    fn a_loss_counts_if_packets_queue_or_nothing_comes_through_or_the_network_says_so() {
        let causes: [fn(&mut Tolerant, &mut Instant); 3] = [
            |control, now| {
                control.queue.watch(now, MS * 46);
                control.on_congestion_event(*now, *now - MS, false, 1500);
            },
            |control, now| control.on_congestion_event(*now, *now - MS, true, 1500),
            |control, now| control.on_congestion_event(*now, *now - MS, false, 0),
        ];
        for cause in causes {
            let mut now = Instant::now();
            let mut control = tolerant(now);
            control.queue.watch(&mut now, MS * 40);
            let window = control.window();
            cause(&mut control, &mut now);
            assert!(control.window() < window);
        }
    }
}
