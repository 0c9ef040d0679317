//! The program as a user runs it.
//!
//! Every client comes through the UDP relay of `examples/relay`. The tests with
//! programs that are not installed are skipped, with a word why. Plain
//! `cargo test --features cli` runs small sizes; the full ones are
//! `EVERMUX_CLI_FULL=1 cargo test --release --features cli --test cli -- --nocapture`.

mod crowd;
mod curl;
mod errors;
mod everyday;
mod fixture;
mod git;
mod links;
mod netcat;
mod openssh;
mod outages;
mod pace;
mod postgresql;
#[path = "../../examples/relay/mod.rs"]
mod relay;
mod rsync;
