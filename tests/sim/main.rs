//! A deterministic simulation: real quinn endpoints on a network in memory, in
//! virtual time, on one thread, with faults from a seed.

mod dice;
mod ledger;
mod network;
mod pipes;
mod random;
// What speaks the protocol by hand there does so here, on sockets in memory.
#[allow(dead_code, reason = "a part of it is for the tests there")]
#[path = "../hostile/raw.rs"]
mod raw;
mod seeds;
mod situations;
mod trace;
mod watch;
mod weather;
mod world;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 100;

#[test]
fn any_run_ends_well() {
    let first = seeds::from_env("EVERMUX_SIM_FIRST_SEED").unwrap_or(0);
    let count = seeds::from_env("EVERMUX_SIM_SEEDS").unwrap_or(SEEDS);
    if seeds::from_env("EVERMUX_SIM_TRACE").is_some() {
        for seed in first..first + count {
            let outcome = seeds::run(seed, true);
            println!("{}", outcome.trace.unwrap_or_default());
            println!("seed {seed}: course {:016x}, {:?}", outcome.hash, outcome.result);
            assert!(outcome.result.is_ok());
        }
        return;
    }
    let summary = seeds::run_all(first, count);
    println!("{:?}", summary.by_fault());
    println!("{summary}");
}

#[test]
fn the_same_seed_takes_the_same_course() {
    for seed in 0..10 {
        let hashes = [(); 2].map(|()| seeds::run(seed, false).hash);
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
    }
}
