//! Who is turned away before the handshake: guessers, and the rest of what was
//! turned away just now.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::quic::AttemptName;

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

/// How long an attempt that was turned away is remembered: until its client has given
/// it up, by default (`ClientConfig::attempt_timeout`), even if it did not hear of it.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Attempts remembered; beyond that the oldest is forgotten. Some 700 KiB; the packets
/// that begin an attempt come within milliseconds of each other.
const ATTEMPTS_MAX: usize = 8192;

/// Attempts that were turned away.
///
/// With a post-quantum key share a ClientHello takes two datagrams, and each of them
/// looks like the begin of an attempt. If the second was let in because a place has
/// come free since, it would hold the place until the handshake timeout: nobody
/// repeats the first.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    names: HashSet<AttemptName>,
    /// The same names, the oldest first.
    since: VecDeque<(Instant, AttemptName)>,
}

impl TurnedAway {
    /// Takes note of an attempt that is turned away now.
    pub(super) fn add(&mut self, attempt: AttemptName) {
        if self.names.insert(attempt) {
            self.since.push_back((clock::now(), attempt));
        }
        self.forget();
    }

    /// Whether an attempt has begun before, and was turned away.
    pub(super) fn contains(&mut self, attempt: AttemptName) -> bool {
        self.forget();
        self.names.contains(&attempt)
    }

    fn forget(&mut self) {
        let now = clock::now();
        while let Some((since, attempt)) = self.since.front().copied()
            && (self.since.len() > ATTEMPTS_MAX
                || now.saturating_duration_since(since) >= REMEMBERED)
        {
            self.since.pop_front();
            self.names.remove(&attempt);
        }
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

    fn attempt(number: u64) -> AttemptName {
        AttemptName::new(&number.to_be_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_an_attempt_that_was_turned_away_is_known_for_a_while() {
        let mut turned_away = TurnedAway::default();
        turned_away.add(attempt(1));
        clock::sleep(REMEMBERED / 2).await;
        turned_away.add(attempt(2));
        // It came again: that makes it no younger.
        turned_away.add(attempt(1));
        assert!([1, 2].iter().all(|number| turned_away.contains(attempt(*number))));
        assert!(!turned_away.contains(attempt(3)));
        clock::sleep(REMEMBERED / 2).await;
        assert!(!turned_away.contains(attempt(1)));
        assert!(turned_away.contains(attempt(2)));
        clock::sleep(REMEMBERED / 2).await;
        assert!(!turned_away.contains(attempt(2)));
        assert!(turned_away.names.is_empty() && turned_away.since.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_attempts_the_last_are_remembered() {
        let (mut turned_away, most) = (TurnedAway::default(), ATTEMPTS_MAX as u64);
        (0..2 * most).for_each(|number| turned_away.add(attempt(number)));
        assert!(turned_away.contains(attempt(most)) && !turned_away.contains(attempt(most - 1)));
        assert_eq!((turned_away.names.len(), turned_away.since.len()), (8192, 8192));
    }
}
