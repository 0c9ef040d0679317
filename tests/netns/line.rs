//! A long line: a process that holds every packet back for a while.
//!
//! Kernels have netem for this, but not all of them. Here packets are routed into a
//! TUN device, and come out of the same device later, with their addresses as they
//! were.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::DeviceBuilder;

use crate::lab::LINE;
use crate::roles::say;

/// The largest packet that the kernel gives to a TUN device without offloads.
const PACKET_MAX: usize = 2048;

/// Most packets under way: far more than fit in the time that the line takes. What
/// comes on top is dropped, as a router would.
const PACKETS_MAX: usize = 16_384;

/// Lays the line, each way of which takes `delay`; ends with its standard input.
pub fn run(delay: Duration) {
    let device = DeviceBuilder::new().name(LINE).build_sync().expect("a TUN device");
    let device = Arc::new(device);
    let (enter, leave) = mpsc::sync_channel::<(Instant, Vec<u8>)>(PACKETS_MAX);
    let far_end = device.clone();
    thread::spawn(move || {
        for (due, packet) in leave {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // While an interface is down a packet may have no way to go on.
            let _ = far_end.send(&packet);
        }
    });
    thread::spawn(move || {
        let mut packet = [0; PACKET_MAX];
        while let Ok(len) = device.recv(&mut packet) {
            let _ = enter.try_send((Instant::now() + delay, packet[..len].to_vec()));
        }
    });
    say("ready");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}
