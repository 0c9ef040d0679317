//! Keeping guessers at bay.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Instant};

/// So many wrong proofs are forgiven to one address in a [`WINDOW`]: several
/// clients behind one NAT may all hold outdated tokens after a restore.
const FORGIVEN: u32 = 20;

/// How long wrong proofs are remembered.
const WINDOW: Duration = Duration::from_secs(10);

/// Addresses remembered; beyond that the oldest is forgotten.
const ADDRESSES_MAX: usize = 4096;

/// Wrong proofs by address. A proof cannot be guessed; this bounds what trying
/// costs us, by turning the address away before its TLS handshake for a while.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_address: Mutex<HashMap<IpAddr, Record>>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    since: Instant,
    count: u32,
}

impl Failures {
    /// Takes note of a wrong proof.
    pub(super) fn add(&self, from: IpAddr) {
        let now = clock::now();
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if by_address.len() >= ADDRESSES_MAX && !by_address.contains_key(&from) {
            by_address.retain(|_, record| record.is_current(now));
            let oldest = by_address.iter().min_by_key(|(_, record)| record.since);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip)
                && by_address.len() >= ADDRESSES_MAX
            {
                by_address.remove(&oldest);
            }
        }
        let record = by_address.entry(from).or_insert(Record { since: now, count: 0 });
        if !record.is_current(now) {
            *record = Record { since: now, count: 0 };
        }
        record.count += 1;
    }

    /// Whether connections from there are not worth a handshake now.
    pub(super) fn is_barred(&self, from: IpAddr) -> bool {
        let by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        by_address
            .get(&from)
            .is_some_and(|record| record.count > FORGIVEN && record.is_current(clock::now()))
    }
}

impl Record {
    fn is_current(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < WINDOW
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guesser_is_barred_for_a_while_and_nobody_else_is() {
        let failures = Failures::default();
        let guesser = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..=FORGIVEN {
            assert!(!failures.is_barred(guesser));
            failures.add(guesser);
        }
        assert!(failures.is_barred(guesser));
        assert!(!failures.is_barred(IpAddr::from([10, 0, 0, 2])));
        clock::sleep(WINDOW).await;
        assert!(!failures.is_barred(guesser));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let failures = Failures::default();
        for ip in 0..2 * ADDRESSES_MAX as u32 {
            failures.add(Ipv4Addr::from(ip).into());
        }
        assert!(failures.by_address.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
