//! The public API over real UDP on loopback, through a relay that misbehaves.

mod fixture;
mod pipes;
#[path = "../../examples/relay/mod.rs"]
mod relay;
