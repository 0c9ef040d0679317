//! When which lab has the machine. An outage ends when it is due: nobody waits for
//! others then, so a lab begins only when nobody else needs the machine now, nor when
//! its own outage ends.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::traffic::Traffic;

/// What the machine has for all labs, and what one with a transfer at full speed takes of
/// it.
const SHARES: u32 = 8;
const BULK: u32 = 3;

/// How long a lab needs the machine until something happens to it, and from the end of
/// that on.
const BEGIN: Duration = Duration::from_millis(2_000);
const END: Duration = Duration::from_millis(1_500);

/// How finely a time is looked for.
const STEP: Duration = Duration::from_millis(250);

#[derive(Clone, Default)]
pub struct Timetable(Arc<Mutex<Vec<Booking>>>);

#[derive(Clone, Copy, Debug)]
struct Booking {
    from: Instant,
    to: Instant,
    shares: u32,
}

impl Timetable {
    /// Waits until a lab may begin to which something happens that lasts for so long. Once
    /// it lets go of what it has booked, the machine is free for others.
    pub async fn begin(&self, traffic: Traffic, lasts: Option<Duration>) -> Booked {
        let shares = if traffic.is_bulk() { BULK } else { 1 };
        let (begin, booked) = {
            let mut bookings = self.lock();
            let now = Instant::now();
            bookings.retain(|booking| booking.to > now);
            let needs = |begin: Instant| {
                let end = begin + BEGIN + lasts.unwrap_or_default();
                // When exactly it begins is not known: the end has some room before it.
                let returns = if lasts.is_some() { end - BEGIN / 2 } else { end };
                [(begin, begin + BEGIN), (returns, end + END)].map(|(from, to)| Booking {
                    from,
                    to,
                    shares,
                })
            };
            let mut begin = now;
            while needs(begin).iter().any(|need| !need.fits(&bookings)) {
                begin += STEP;
            }
            let booked = needs(begin);
            bookings.extend(booked);
            (begin, booked)
        };
        let booked = Booked { timetable: self.clone(), bookings: booked };
        sleep_until(begin).await;
        booked
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Booking>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Booking {
    /// Whether there is enough left all the time.
    fn fits(&self, bookings: &[Booking]) -> bool {
        let meanwhile =
            || bookings.iter().filter(|other| other.from < self.to && self.from < other.to);
        // What is taken grows only where one begins.
        let moments = meanwhile().map(|other| other.from.max(self.from));
        moments.into_iter().all(|at| {
            let taken = meanwhile().filter(|other| other.from <= at && at < other.to);
            taken.map(|other| other.shares).sum::<u32>() + self.shares <= SHARES
        })
    }
}

/// What a lab has booked.
#[must_use]
pub struct Booked {
    timetable: Timetable,
    bookings: [Booking; 2],
}

impl Drop for Booked {
    fn drop(&mut self) {
        let is_ours = |booking: &Booking| {
            let same = |ours: &Booking| (ours.from, ours.to) == (booking.from, booking.to);
            self.bookings.iter().any(same)
        };
        // Of two that are the same it does not matter which goes, but only one does.
        let mut bookings = self.timetable.lock();
        for _ in 0..self.bookings.len() {
            if let Some(ours) = bookings.iter().position(is_ours) {
                bookings.swap_remove(ours);
            }
        }
    }
}
