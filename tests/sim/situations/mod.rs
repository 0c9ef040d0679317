//! The situations of the design that must end well, by number. Each is played at
//! many moments: a fault strikes after the first, the second, the third datagram
//! that arrives, and so on, until it comes too late.

mod actors;
mod asleep;
mod crowds;
mod ends;
mod intruders;
mod late;
mod moves;
mod opens;
mod pressure;
mod servers;
mod sockets;
mod stage;
