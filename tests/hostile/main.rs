//! Peers that break the protocol.
fn main() {}
