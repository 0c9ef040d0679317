//! The public API over real UDP on loopback, through a relay that misbehaves.

mod cancel;
mod fixture;
mod limits;
mod pipes;
#[path = "../../examples/relay/mod.rs"]
mod relay;
mod situations;
mod soak;
